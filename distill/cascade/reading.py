"""A request from its first byte to its last, and a client that may leave meanwhile."""

import asyncio
import contextlib
from collections.abc import Coroutine

from fastapi import Request
from starlette.requests import ClientDisconnect

from distill.cascade.asked import Asked, Limits, read_asked
from distill.cascade.metrics import Metrics
from distill.cascade.refused import Refused

BODY_WITHIN = 30.0  # seconds, a request's body


class Places:
    """The requests that are answered at once, of which there are `most`."""

    def __init__(self, most: int, metrics: Metrics):
        self.most = most
        self.metrics = metrics
        self.taken = 0

    @contextlib.contextmanager
    def place(self):
        """A place for one request. Raises Refused where there is none."""
        if self.taken >= self.most:
            raise Refused(429, "too many requests at once; try again", code="too_many_requests")
        self.taken += 1
        self.metrics.running.set(self.taken)
        try:
            yield
        finally:
            self.taken -= 1
            self.metrics.running.set(self.taken)


async def read_request(request: Request, served_name: str, limits: Limits) -> Asked:
    """What a client asks. Raises Refused."""
    check_content_type(request.headers.get("content-type", ""))
    try:
        async with asyncio.timeout(BODY_WITHIN):
            body = await read_body(request, limits.max_body_bytes)
    except TimeoutError:
        raise Refused(408, f"the body was not there within {BODY_WITHIN:g} s") from None
    return read_asked(body, served_name, limits)


def check_content_type(header: str) -> None:
    """Refuse what is not sent as JSON, as a form on a foreign page would be. Raises Refused."""
    if header.partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the content type must be application/json")


async def read_body(request: Request, most: int) -> bytes:
    """A request's body, of at most so many bytes. Raises Refused."""
    said = f"the body is longer than {most} bytes"
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise Refused(413, said, code="request_too_large")
    parts = []
    total = 0
    async for part in request.stream():
        total += len(part)
        if total > most:
            raise Refused(413, said, code="request_too_large")
        parts.append(part)
    return b"".join(parts)


async def unless_gone(request: Request, work: Coroutine):
    """What comes of `work`, which is cancelled when the client leaves. Raises ClientDisconnect."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(left(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, watching):
            if not task.done():
                task.cancel()


async def left(request: Request) -> None:
    """Return when the client has closed its connection; its body must have been read."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
