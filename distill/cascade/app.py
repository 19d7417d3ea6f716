"""The URL: its paths, and what a request goes through from its body to its reply."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from distill.cascade.asked import Limits, read_asked
from distill.cascade.cascade import Cascade, Outcome
from distill.cascade.errors import error_response
from distill.cascade.metrics import Metrics
from distill.cascade.refused import Refused
from distill.cascade.replies import models_of, reply_to

BODY_WITHIN = 30.0  # seconds, a request's body
CLIENT_GONE = 499  # as web servers log it; nobody reads this reply
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Served:
    """What the paths need."""

    cascade: Cascade
    limits: Limits
    metrics: Metrics
    served_name: str  # of the model that clients ask for
    names: dict[str, str]  # of student and teacher, by STUDENT and TEACHER
    concurrency: int  # requests that are answered at once
    # takes in messages and outcome of what the teacher has answered
    keep: Callable[[list[dict], Outcome], None]


def make_app(served: Served) -> FastAPI:
    """The application; who may ask it is gate.py's."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    metrics = served.metrics
    running = 0

    @app.exception_handler(Refused)
    async def refuse(_, error: Refused):
        metrics.refuse(error.status)
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def refuse_path(_, error: HTTPException):
        metrics.refuse(error.status_code)
        return error_response(Refused(error.status_code, str(error.detail)))

    @app.exception_handler(ClientDisconnect)
    async def let_go(*_):
        metrics.gone.inc()
        return Response(status_code=CLIENT_GONE)

    @app.exception_handler(Exception)
    async def fail(_, error: Exception):
        metrics.refuse(500)
        return error_response(Refused(500, "the server has failed; its log says more"))

    @app.get("/health")
    async def health():
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def figures():
        return Response(metrics.text(), media_type=PROMETHEUS)

    @app.get("/v1/models")
    async def models():
        return JSONResponse(models_of(served.served_name))

    @app.post("/v1/chat/completions")
    async def complete(request: Request):
        nonlocal running
        begun = time.perf_counter()
        check_content_type(request.headers.get("content-type", ""))
        if running >= served.concurrency:
            raise Refused(429, "too many requests at once; try again", code="too_many_requests")
        running += 1
        metrics.running.set(running)
        try:
            body = await read_body_in_time(request, served.limits.max_body_bytes)
            asked = read_asked(body, served.served_name, served.limits)
            outcome = await unless_gone(request, served.cascade.answer(asked))
        finally:
            running -= 1
            metrics.running.set(running)
        if outcome is None:
            raise ClientDisconnect
        metrics.count(outcome, time.perf_counter() - begun)
        if outcome.handed_over and not outcome.unsure:
            served.keep(asked.messages, outcome)
        return reply_to(asked, outcome, served.names)

    return app


def check_content_type(header: str) -> None:
    """Refuse what is not sent as JSON, as a form on a foreign page would be. Raises Refused."""
    if header.partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the content type must be application/json")


async def read_body_in_time(request: Request, most: int) -> bytes:
    """As read_body(), from a client that does not send it for ever. Raises Refused."""
    try:
        async with asyncio.timeout(BODY_WITHIN):
            return await read_body(request, most)
    except TimeoutError:
        raise Refused(408, f"the body was not there within {BODY_WITHIN:g} s") from None


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


async def unless_gone(request: Request, work: Coroutine) -> Outcome | None:
    """What comes of `work`, which is cancelled when the client leaves; None: it has left."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(left(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return None
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
