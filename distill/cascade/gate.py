"""Who may ask at all: the Host header and the key of each request, before anything else is read.

A page that a browser shows could otherwise ask a server on the same machine, by a name of its own
that leads to 127.0.0.1; such a request has that name as its host.
"""

import hmac

from distill.cascade.errors import error_response
from distill.cascade.refused import Refused

LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY_HOST = "*"
OPEN = ("/health", "/")  # paths that ask for no key; the page asks for it


class Gate:
    """An ASGI application in front of `app`. `key` is the clients'; None: they need none."""

    def __init__(self, app, hosts: frozenset[str], key: str | None):
        self.app = app
        self.hosts = hosts
        self.key = key

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = self._refused(scope["path"], scope["headers"])
        if refused:
            await error_response(refused)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refused(self, path: str, headers: list[tuple[bytes, bytes]]) -> Refused | None:
        """Why a request is refused; None: it is not."""
        hosts = [value for name, value in headers if name == b"host"]
        known = len(hosts) == 1 and host_of(hosts[0].decode("latin-1")) in self.hosts
        if not known and ANY_HOST not in self.hosts:
            return Refused(421, "this host is not served here; --allowed_hosts names others")
        if self.key is None or path in OPEN:
            return None
        given = [value for name, value in headers if name == b"authorization"]
        wanted = f"Bearer {self.key}".encode()
        if len(given) != 1 or not hmac.compare_digest(given[0], wanted):
            return Refused(401, "the API key is missing or wrong", code="invalid_api_key")
        return None


def host_of(header: str) -> str:
    """The name in a Host header, without its port, in lower case."""
    text = header.strip().lower()
    if text.startswith("["):  # an address of IPv6
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0] if ":" in text else text


def hosts_allowed(bound_to: str, named: list[str]) -> frozenset[str]:
    """The hosts under which clients may ask: this machine's own, and those that are named."""
    return frozenset([*LOOPBACK, bound_to.lower(), *(host.lower() for host in named)])
