"""The teacher behind a URL: a server that speaks the OpenAI protocol, asked by its own client.

`server.py` says which server it is, `pace.py` how fast it is asked, and `exchange.py` how a request
is put. Here requests go out and completions come back. What fails on the way is asked again and is
no attempt: an attempt is what the server has answered.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator

from distill.teacher.base import Completion, Prompt, Request, Sampling, Teacher, TeacherEnded
from distill.teacher.exchange import Exchange
from distill.teacher.pace import Pace
from distill.teacher.purse import Purse
from distill.teacher.refusals import (
    SENT,
    is_out_of_quota,
    is_too_long,
    message_of,
    parameter_of,
    seconds_asked_for,
)
from distill.teacher.server import About, Server, reason_of, wrong_key

log = logging.getLogger("create_data")
GIVE_UP = 600.0  # seconds in which requests fail and none goes well
LOOK_EVERY = 0.2  # seconds
MOST_SLEEPING = 1000  # requests
SAY_EVERY = 60.0  # seconds between two lines about a server that fails
# reasons in the journal
TOO_LONG = "input_too_long"
REFUSED = "refused"
SERVER_ERROR = "server_error"
# A row that failed so often, while so many others were answered, is at fault itself.
FAILURES_OF_A_ROW = 8
# What is said while a server is busy, is started again, or stands behind a gateway without it.
AWAY = (408, 409, 429, 502, 503, 504)
OTHERS_ANSWERED = 20
# Silence is an outage where it lasts as long as so many of the slowest answers.
MISSED_ANSWERS = 3
# So many refusals in a row are not the rows' fault.
REFUSALS_IN_A_ROW = 32


class ServerEnded(TeacherEnded):
    """The server does not answer any more, or another one does.

    The script's `exit_code` is 2 where key, model or flags are at fault, and else 1.
    """

    def __init__(self, reason: str, exit_code: int = 1):
        super().__init__(reason)
        self.exit_code = exit_code


class HTTPTeacher(Teacher):
    """Many requests at once to one server.

    `about` is what the server has said of itself. `thinks`: its answers follow a thought.
    `tokenizer` is the teacher's own, None where it is not named: with it vLLM's server is given
    token ids, so that what an input spells stays text. `served_by` is how the server called its
    model in an earlier run, None where there was none. `give_up` is in seconds. `purse` holds the
    prices and the budget; None: no prices. `pace` is how fast it is asked; None: as the server's
    flags say.
    """

    def __init__(
        self,
        server: Server,
        about: About,
        thinks: bool,
        tokenizer=None,
        served_by: str | None = None,
        give_up: float = GIVE_UP,
        purse: Purse | None = None,
        pace: Pace | None = None,
    ):
        self.server = server
        self.exchange = Exchange(server, about, thinks, tokenizer)
        self.served_by = served_by
        self.give_up = give_up
        self.pace = pace or Pace(server.concurrency)
        self.purse = purse or Purse()
        self.waiting: list[Request] = []
        self.running: dict[asyncio.Task, Request] = {}
        self.answered = 0  # requests
        self.refused = 0  # in a row, since the last answer
        self.sleeping = 0  # requests that wait after a failure which is not a matter of pace
        self.rested: deque[asyncio.Future] = deque()  # of these: they have, and want a place
        self.failing_since: float | None = None
        self.silent_since: float | None = None  # no answer and no 429
        self.slowest = 0.0  # seconds that an answer has taken
        self.said_at = float("-inf")
        self.not_before = 0.0  # when the server may be asked again, as it has said
        self.is_back = asyncio.Event()  # for those that wait since it was away
        self.loop = asyncio.new_event_loop()

    def close(self) -> None:
        """Close the connections."""
        self.loop.run_until_complete(self.exchange.close())
        self.loop.close()

    def prepare(self, chats: list[list[dict]]) -> list[Prompt]:
        """Each chat as the server takes it, or with a problem; see Exchange.prompt_of()."""
        return [self.exchange.prompt_of(chat) for chat in chats]

    def able(self, sampling: Sampling) -> Sampling:
        """What of a sampling the server can do; vLLM's all, others what the protocol has."""
        return self.exchange.able(sampling)

    def gather(self, request: Request) -> None:
        """Queue one request; it goes out with the next ones."""
        self.waiting.append(request)

    def forget(self) -> None:
        """What a server has cached is its own matter."""

    def ask(self, requests: Iterable[Request | None] = ()) -> Iterator[tuple[object, Completion]]:
        """Ask for completions, so many at once as the pace allows, and yield them as they come.

        Raises ServerEnded, after all that has been answered was given.
        """
        requests = iter(requests)
        try:
            while True:
                unpaid = self._fill(requests)
                if unpaid and not self.running:
                    raise ServerEnded(self.purse.used_up(unpaid))
                if not self.running:
                    return
                ended = None
                for task in self._wait():
                    request = self.running.pop(task)
                    answered = task.exception() is None
                    self.purse.back(request, task.result() if answered else None)
                    if answered:
                        yield request.job, task.result()
                    else:
                        ended = ended or task.exception()
                if ended:
                    raise ended
        finally:
            self._cancel()

    def _has_place(self) -> bool:
        """Whether one more request may go out."""
        return len(self.running) - self.sleeping < self.pace.at_once

    def _fill(self, requests: Iterator[Request | None]) -> Request | None:
        """Send requests until there are as many as the pace allows.

        Those that have waited after a failure come first, then those whose answer was none.
        One that the budget does not allow at the moment is returned, and stays the next one.
        """
        self._send_rested()
        while self._has_place():
            request = self.waiting.pop(0) if self.waiting else next(requests, None)
            if request is None:
                return None
            if not self.purse.may_send(request):
                self.waiting.insert(0, request)
                return request
            self.purse.send(request)
            self.running[self.loop.create_task(self._answer(request))] = request
        return None

    def _send_rested(self) -> None:
        """Let those go on that have waited after a failure, as far as there are places."""
        while self.rested and self._has_place():
            self.sleeping -= 1
            self.rested.popleft().set_result(None)

    def _wait(self) -> set[asyncio.Task]:
        """The requests that have ended, after a short wait for the next one."""
        # none may have ended, but some may sleep, and others go out in their place
        done, _ = self.loop.run_until_complete(
            asyncio.wait(self.running, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
        )
        return done

    def _cancel(self) -> None:
        """End what is still on its way."""
        for task in self.running:
            task.cancel()
        if self.running:
            self.loop.run_until_complete(asyncio.gather(*self.running, return_exceptions=True))
        self.running.clear()
        self.rested.clear()
        self.sleeping = 0

    async def _answer(self, request: Request) -> Completion:
        """One completion, asked for as often as it takes. Raises ServerEnded."""
        import openai

        failures = 0
        own_failures = 0  # in which the server was there
        answered_before = self.answered
        is_back = self.is_back
        while True:
            if is_back is not self.is_back:  # what failed meanwhile was the server's fault
                is_back = self.is_back
                failures = 0
                own_failures = 0
            await asyncio.sleep(max(0.0, self.not_before - time.monotonic()))
            started = time.monotonic()
            sent_as = self.exchange.settings_sent()
            is_there = True
            too_many = False
            asked_for = None
            try:
                async with asyncio.timeout(self.server.request_timeout):
                    found = await self.exchange.ask(request.prompt, request.sampling)
                self._went_well(found, time.monotonic() - started)
                return found
            except openai.APIStatusError as error:
                if self.exchange.learned_from(error, sent_as):
                    continue
                problem = self._final(error)
                if problem:
                    return Completion("", "refused", [], problem=problem)
                reason = f"{error.status_code} {error.response.reason_phrase}".strip()
                asked_for = seconds_asked_for(error.response.headers)
                is_there = error.status_code not in AWAY
                too_many = error.status_code == 429
                if too_many:
                    self.pace.was_too_much(started, time.monotonic())
            except TimeoutError:
                reason = f"no answer within {self.server.request_timeout:g} s"
            except openai.APIConnectionError as error:
                reason = reason_of(error)
                is_there = False
            except ValueError as error:  # half a reply, or none of the protocol
                reason = f"a reply that cannot be read: {error}"
            if too_many:
                self.silent_since = None
            elif self.silent_since is None:
                self.silent_since = time.monotonic()
            failures += 1
            own_failures += is_there
            others = self.answered - answered_before
            if own_failures >= FAILURES_OF_A_ROW and others >= OTHERS_ANSWERED:
                return Completion("", "refused", [], problem=SERVER_ERROR)
            self._went_wrong(reason, asked_for)
            seconds = self.pace.wait_after(failures, asked_for)
            await self._sleep(seconds, gives_way=is_there, until_back=not too_many)

    async def _sleep(self, seconds: float, gives_way: bool, until_back: bool) -> None:
        """Wait after a failure.

        Where the server is away or busy, the request keeps its place among those that run, since
        others would fail too; otherwise another one may go out meanwhile, and this one again when
        there is a place. `until_back`: no longer than until a server that was away answers again,
        whichever request that was.
        """
        gives_way = gives_way and self.sleeping < MOST_SLEEPING
        self.sleeping += gives_way
        self._send_rested()
        if until_back:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.is_back.wait()
        else:
            await asyncio.sleep(seconds)
        if gives_way:
            place = self.loop.create_future()
            self.rested.append(place)
            self._send_rested()
            await place

    def was_away(self) -> bool:
        """Whether nothing has been answered for so long that the server cannot have been there.

        That is longer than its answers take: beside slow ones a few rows that always fail are no
        outage.
        """
        if self.silent_since is None:
            return False
        longest = max(self.pace.outage, MISSED_ANSWERS * self.slowest)
        return time.monotonic() - self.silent_since > longest

    def _went_well(self, found: Completion, seconds: float) -> None:
        """Take in that the server has answered, in so many seconds.

        Raises ServerEnded if it is another model now.
        """
        self.answered += 1
        self.refused = 0
        if self.was_away():
            self.is_back.set()
            self.is_back = asyncio.Event()  # for the next time
        self.failing_since = None
        self.silent_since = None
        self.slowest = max(self.slowest, seconds)
        self.pace.went_well()
        self.served_by = self.served_by or found.served_by
        if found.served_by not in (None, self.served_by):
            raise ServerEnded(
                f"{self.server.url}: answers as {found.served_by} now, and the answers so far are "
                f"those of {self.served_by}; answers of two models do not go into one output"
            )

    def _went_wrong(self, reason: str, asked_for: float | None) -> None:
        """Take in that a request has failed. Raises ServerEnded if nothing goes well for long.

        `asked_for` is for how many seconds the server wants to be left alone, if it has said so.
        """
        now = time.monotonic()
        said = self.exchange.without_key(reason)
        if asked_for is not None:
            if asked_for > self.give_up:
                raise ServerEnded(
                    f"{self.server.url}: wants to be left alone for {asked_for:g} s ({said})"
                )
            self.not_before = max(self.not_before, now + asked_for)
        if self.failing_since is None:
            self.failing_since = now
        if now - self.failing_since > self.give_up:
            raise ServerEnded(
                f"{self.server.url}: nothing was answered for {self.give_up / 60:g} minutes "
                f"({said})"
            )
        if now - self.said_at > SAY_EVERY:
            self.said_at = now
            script = self.server.flags.script
            log.warning("%s: the server fails (%s); what failed is asked again", script, said)

    def _final(self, error) -> str | None:
        """Why a row is refused for good; None where the same request may go well later.

        Raises ServerEnded where no request can.
        """
        status = error.status_code
        said = self.exchange.without_key(message_of(error))[:300]
        url = self.server.url
        if status == 401 or status == 403 and not self.answered:
            raise ServerEnded(f"{wrong_key(self.server, status)} ({said})", exit_code=2)
        if status == 404:
            raise ServerEnded(
                f"{url}: has no model {self.server.model} or no such path ({said})", exit_code=2
            )
        if status == 402 or is_out_of_quota(error):
            raise ServerEnded(f"{url}: the quota is used up ({said})", exit_code=2)
        if status not in (400, 403, 413, 422):
            return None
        if status == 413 or is_too_long(error):
            return TOO_LONG
        parameter = parameter_of(error)
        if parameter in SENT or not self.answered:
            raise ServerEnded(f"{url}: refuses what it is asked ({said})", exit_code=2)
        self.refused += 1
        if self.refused >= REFUSALS_IN_A_ROW:
            raise ServerEnded(f"{url}: refuses one row after the other ({said})", exit_code=2)
        return REFUSED
