"""What servers on loopback share: they listen in a thread, and come back at the same address."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Loopback:
    """`stop` makes the server unreachable and `start` brings it back at the same address.

    `handler` answers its requests; it has the server as `owner`.
    """

    handler: type[BaseHTTPRequestHandler]
    port = 0

    def start(self):
        handler = type("Handler", (self.handler,), {"owner": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        # seconds to `stop`
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
