"""From the flags to a running server: what is checked first, in which order, and how it ends."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Coroutine
from pathlib import Path

import uvicorn

from distill.calibration import CALIBRATION, Threshold, read_calibration
from distill.cascade.app import Served, make_app
from distill.cascade.budget import Budget
from distill.cascade.cascade import STUDENT, TEACHER, Cascade, Outcome
from distill.cascade.choices import Choices
from distill.cascade.gate import ANY_HOST, Gate, hosts_allowed
from distill.cascade.handed_over import HandedOver
from distill.cascade.heads import BoundedHead
from distill.cascade.metrics import Metrics
from distill.cascade.student import Student
from distill.cascade.teacher import Teacher
from distill.cli import check_writable
from distill.model_tokenizer import check_prompt, load_tokenizer
from distill.outputs import check_chat_file
from distill.task import Task, guard_problem, load_task
from distill.teacher.exchange import Exchange
from distill.teacher.server import About, Server, Unreachable, ask_about

log = logging.getLogger("serve")
EVERYWHERE = ("0.0.0.0", "::", "")  # of --host
ENDS_WITHIN = 10  # seconds that requests on their way are given at the end
LOOK_EVERY = 0.5  # seconds, for a server that is not there yet
WAITING = 2048  # connections that wait to be accepted


def check_choices(choices: Choices) -> tuple[Task, Threshold]:
    """Task and threshold, and a refusal of what cannot work. Raises ValueError or OSError."""
    task = load_task(choices.task_file)
    problem = guard_problem(choices.task_file, task)
    if problem and choices.settings.guards != "never":
        raise ValueError(problem)
    if choices.host in EVERYWHERE and not choices.allowed_hosts:
        raise ValueError(
            f"--host {choices.host}: under which names do clients ask? Name them with "
            f"--allowed_hosts, such as api.example.org; {ANY_HOST} allows all"
        )
    if choices.handed_over_file:
        check_chat_file(Path(choices.handed_over_file), "--handed_over_file")
        check_writable(Path(choices.handed_over_file))
    return task, threshold_of(choices, task)


def threshold_of(choices: Choices, task: Task) -> Threshold:
    """The threshold that the flags give, or else the adapter's. Raises ValueError."""
    temperature = choices.temperature
    threshold = choices.threshold
    if temperature is None or threshold is None:
        try:
            calibration = read_calibration(choices.adapter, task)
        except FileNotFoundError:
            raise ValueError(
                f"{choices.adapter}: has no {CALIBRATION}; evaluate.py makes it from calibration "
                "rows, or give --temperature and --threshold"
            ) from None
        if temperature is None:
            temperature = calibration.temperature
        if threshold is None:
            threshold = calibration.threshold
    return Threshold(temperature, threshold)


def ask_when_there(server: Server, until: float) -> About:
    """What a server says of itself, for which it has time `until` then, of the monotonic clock.

    Raises ServerRefused.
    """
    while True:
        try:
            return ask_about(server)
        except Unreachable:
            if time.monotonic() >= until:
                raise
            time.sleep(LOOK_EVERY)


def tokenizer_of(server: Server, task: Task | None):
    """The tokenizer of a server's model; None where none is named.

    With a `task`, its prompt is tried on it. Raises ValueError.
    """
    if not server.tokenizer:
        return None
    tokenizer = load_tokenizer(server.tokenizer)
    if task:
        check_prompt(server.tokenizer, tokenizer, task)
    return tokenizer


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that a port that is taken is said before. Raises ValueError."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ValueError(f"--host {host} --port {port}: {error.strerror}; choose another") from None
    return bound


def keep_nothing(messages: list[dict], outcome: Outcome) -> None:
    """Without --handed_over_file."""


def run_to_the_end(work: Coroutine) -> None:
    """Run `work` in the fastest loop that is there."""
    loop_factory = uvicorn.Config(app=None).get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(work)


async def serve(choices: Choices, task: Task, threshold: Threshold, metrics: Metrics) -> None:
    """Serve until a signal ends it. Raises ValueError or OSError, before it listens."""
    async with contextlib.AsyncExitStack() as at_end:
        bound = at_end.enter_context(listen(choices.host, choices.port))
        keep = keep_nothing
        if choices.handed_over_file:
            keep = open_file(choices, task, at_end).add
        # before the servers are waited for, which may take long
        students = tokenizer_of(choices.student, None)
        teachers = tokenizer_of(choices.teacher, task)
        until = time.monotonic() + choices.wait_for_servers
        about = ask_when_there(choices.student, until)
        student_exchange = Exchange(choices.student, about, False, students)
        at_end.push_async_callback(student_exchange.close)
        about = ask_when_there(choices.teacher, until)
        teacher_exchange = Exchange(choices.teacher, about, choices.settings.thinks, teachers)
        at_end.push_async_callback(teacher_exchange.close)
        student = Student(
            student_exchange, task, choices.student_max_tokens, choices.student_timeout
        )
        await student.try_it()
        cascade = Cascade(
            student,
            Teacher(teacher_exchange, task, choices.settings, choices.teacher_timeout),
            threshold,
            Budget(choices.max_handed_over),
            choices.when_teacher_fails,
            choices.limits.max_input_tokens,
        )
        served = Served(
            cascade=cascade,
            limits=choices.limits,
            metrics=metrics,
            served_name=choices.served_name,
            names={STUDENT: choices.student.model, TEACHER: choices.teacher.model},
            concurrency=choices.concurrency,
            keep=keep,
        )
        bound.listen(WAITING)  # so that whoever has read the next line is not refused
        say_start(choices, threshold, bound)
        await run_server(choices, served, bound)


def open_file(choices: Choices, task: Task, at_end: contextlib.AsyncExitStack) -> HandedOver:
    """The file of what is handed over, which is held until `at_end`. Raises ValueError, OSError."""
    run = {"model": choices.teacher.model, "server": choices.teacher.host, **task.named()}
    found = HandedOver(Path(choices.handed_over_file), run, choices.settings)
    at_end.callback(found.close)
    return found


def say_start(choices: Choices, threshold: Threshold, bound: socket.socket) -> None:
    """One line: who is behind the URL, and from where on the teacher is asked."""
    address, port = bound.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    log.info(
        "serve.py: http://%s:%d/v1, student %s at %s, below a confidence of %.4g teacher %s at %s",
        shown,
        port,
        choices.student.model,
        choices.student.url,
        threshold.threshold,
        choices.teacher.model,
        choices.teacher.url,
    )
    if choices.host not in ("127.0.0.1", "localhost", "::1") and not choices.api_key_env:
        log.warning("serve.py: whoever reaches this port may ask; --api_key_env asks for a key")


async def run_server(choices: Choices, served: Served, bound: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM."""
    key = os.environ[choices.api_key_env].strip() if choices.api_key_env else None
    hosts = hosts_allowed(choices.host, choices.allowed_hosts)
    config = uvicorn.Config(
        Gate(make_app(served), hosts, key),
        http=BoundedHead,
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        backlog=WAITING,
        timeout_graceful_shutdown=ENDS_WITHIN,
    )
    await uvicorn.Server(config).serve(sockets=[bound])
