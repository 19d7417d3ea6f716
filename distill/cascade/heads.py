"""The head of a request, from its first line to its last header: of at most so many bytes.

It is read before anybody knows who asks, so one without an end would fill the memory of a server
that nobody has given a key for.
"""

import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from distill.cascade.errors import error_of
from distill.cascade.refused import Refused

MOST = 65536  # bytes
TOO_LONG = Refused(431, f"the request's head is longer than {MOST} bytes", code="request_too_large")


class BoundedHead(HttpToolsProtocol):
    """uvicorn's way of reading requests, which ends a connection whose head grows beyond MOST.

    Headers may also follow a body that comes in chunks.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.beside_body = 0  # bytes since the end of a head, or the last of a body

    def data_received(self, data: bytes) -> None:
        self.beside_body += len(data)
        super().data_received(data)
        if self.beside_body > MOST and not self.transport.is_closing():
            self.refuse()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.beside_body = 0

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self.beside_body = 0

    def refuse(self) -> None:
        """Say so and close the connection."""
        content = json.dumps(error_of(TOO_LONG)).encode()
        head = (
            "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()
