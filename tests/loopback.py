"""What servers on loopback share: they listen in a thread, and come back at the same address."""

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Remembers its connections, so that they can be broken."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args):
        super().__init__(*args)
        self.connections = []

    def get_request(self):
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address


class Loopback:
    """`stop` makes the server unreachable and `start` brings it back at the same address.

    `kill` breaks its connections too, in the middle of whatever is answered.

    `handler` answers its requests; it has the server as `owner`.
    """

    handler: type[BaseHTTPRequestHandler]
    port = 0

    def start(self):
        # headers and body go out apart, and the second would wait 40 ms for the first's receipt
        settings = {"owner": self, "disable_nagle_algorithm": True}
        handler = type("Handler", (self.handler,), settings)
        self.server = Server(("127.0.0.1", self.port), handler)
        self.port = self.server.server_port
        # seconds to `stop`
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def kill(self):
        self.stop()
        for connection in self.server.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
