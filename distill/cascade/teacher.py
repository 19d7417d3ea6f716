"""Asking the teacher for what the student is not sure of, as step 1 asks for labels."""

import asyncio
from dataclasses import dataclass, field

from distill.cascade.upstream import BUSY, TIMEOUT, UpstreamFailed, ask_upstream
from distill.task import Task
from distill.teacher.attempts import Attempt, AttemptSettings, read_attempt, sampling_of
from distill.teacher.exchange import Exchange
from distill.teacher.pace import Pace

NO_ANSWER = "no_answer"  # none that is valid, in all attempts


@dataclass
class TeacherAnswer:
    """What the teacher was asked and has answered; `answer` is None where it has not."""

    answer: str | None = None
    problem: str | None = None  # why there is no answer, for the client
    said: str = ""  # the same, as the log has it
    attempts: list[Attempt] = field(default_factory=list)


class Teacher:
    """The teacher's server. `timeout` is in seconds, for all attempts at an answer together."""

    def __init__(self, exchange: Exchange, task: Task, settings: AttemptSettings, timeout: float):
        self.exchange = exchange
        self.task = task
        self.settings = settings
        self.timeout = timeout
        self.guard = task.constraint()
        self.pace = Pace(most=1)  # of which the waits alone count

    async def answer(self, messages: list[dict]) -> TeacherAnswer:
        """Ask under the task's prompt until an answer can be read, or time or retries are over."""
        found = TeacherAnswer()
        try:
            async with asyncio.timeout(self.timeout):
                await self._ask(messages, found)
        except TimeoutError:
            found.problem = TIMEOUT
            found.said = f"no answer within {self.timeout:g} s"
        except UpstreamFailed as error:
            found.problem = error.reason
            found.said = str(error)
        return found

    async def _ask(self, messages: list[dict], found: TeacherAnswer) -> None:
        """Put the attempts into `found`, the last one's answer too. Raises UpstreamFailed."""
        prompt = self.exchange.prompt_of(self.task.messages(messages))
        if prompt.problem:
            raise UpstreamFailed(prompt.problem, prompt.problem)
        for failures in range(self.settings.max_retries + 1):
            sampling = sampling_of(self.settings, self.task, self.guard, prompt, failures)
            sampling = self.exchange.able(sampling)
            completion = await self._ask_when_free(prompt, sampling)
            attempt = read_attempt(completion, prompt, sampling, self.task, self.settings.thinks)
            found.attempts.append(attempt)
            if attempt.answer is not None:
                found.answer = attempt.answer
                return
            if completion.problem:  # which no further attempt would change
                break
        found.problem = NO_ANSWER
        found.said = f"no valid answer ({attempt.reason})"

    async def _ask_when_free(self, prompt, sampling):
        """One completion; a server that is busy is asked again, until the time is over."""
        failures = 0
        while True:
            try:
                return await ask_upstream(self.exchange, prompt, sampling)
            except UpstreamFailed as error:
                if error.reason != BUSY:
                    raise
                failures += 1
                await asyncio.sleep(self.pace.wait_after(failures, error.asked_for))
