"""The URL: its paths, and what becomes of a request there."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from distill.cascade.asked import Limits, not_served
from distill.cascade.cascade import Cascade, Outcome
from distill.cascade.errors import error_response
from distill.cascade.metrics import Metrics
from distill.cascade.page import PAGE, PAGE_HEADERS, students_part, teachers_part
from distill.cascade.reading import Places, read_request, unless_gone
from distill.cascade.refused import Refused
from distill.cascade.replies import models_of, reply_to

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
    # a redirect to a path without its last slash would name http:// where a proxy has TLS
    settings = {"docs_url": None, "redoc_url": None, "openapi_url": None}
    app = FastAPI(redirect_slashes=False, **settings)
    metrics = served.metrics
    places = Places(served.concurrency, metrics)

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

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health():
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def figures():
        return Response(metrics.text(), media_type=PROMETHEUS)

    @app.get("/v1/models")
    async def models():
        return JSONResponse(models_of(served.served_name, served.cascade.threshold.threshold))

    @app.get("/v1/models/{name:path}")
    async def model(name: str):
        if name != served.served_name:
            raise not_served(name, served.served_name)
        [found] = models_of(served.served_name, served.cascade.threshold.threshold)["data"]
        return JSONResponse(found)

    @app.post("/v1/chat/completions")
    async def complete(request: Request):
        begun = time.perf_counter()
        with places.place():
            asked = await read_request(request, served.served_name, served.limits)
            outcome = await unless_gone(request, served.cascade.answer(asked))
        metrics.count(outcome, time.perf_counter() - begun)
        if outcome.handed_over and not outcome.unsure:
            served.keep(asked.messages, outcome)
        return reply_to(asked, outcome, served.names)

    @app.get("/")
    async def page():
        return Response(PAGE.read_bytes(), headers=PAGE_HEADERS, media_type="text/html")

    async def answer_page(request: Request, part: Callable) -> Response:
        with places.place():
            asked = await read_request(request, served.served_name, served.limits)
            found = await unless_gone(request, part(served.cascade, asked))
        return JSONResponse(found)

    @app.post("/page/student")
    async def ask_student(request: Request):
        return await answer_page(request, students_part)

    @app.post("/page/teacher")
    async def ask_teacher(request: Request):
        return await answer_page(request, teachers_part)

    return app
