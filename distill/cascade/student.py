"""Asking the student: one greedy answer without a prompt, and how sure the student is of it."""

import asyncio
from dataclasses import dataclass, replace

from distill.cascade.upstream import TIMEOUT, UNREADABLE, UpstreamFailed, ask_upstream
from distill.confidence import CHOSEN_TOKEN, NOT_ALL, log_confidence
from distill.model_tokenizer import PROBE
from distill.task import NoAnswer, Task
from distill.teacher.base import Completion, Prompt, Sampling
from distill.teacher.exchange import Exchange
from distill.teacher.server import ServerRefused


@dataclass(frozen=True)
class StudentAnswer:
    """What the student wrote."""

    completion: Completion
    log_confidence: float | None  # None: it was cut
    problem: str | None  # why it is no answer under the task, as predict.py has it

    @property
    def is_cut(self) -> bool:
        """Whether it has come to no end of its own."""
        return self.completion.finish_reason != "stop"


class Student:
    """The student's server. `timeout` is in seconds, `max_tokens` of an answer."""

    def __init__(self, exchange: Exchange, task: Task, max_tokens: int, timeout: float):
        self.exchange = exchange
        # the student's answer is all of its text, without the line that a teacher ends with
        self.reader = replace(task, answer="")
        self.max_tokens = max_tokens
        self.timeout = timeout

    def limit(self, wanted: int | None) -> int:
        """Tokens of an answer, of which a client may want fewer."""
        return self.max_tokens if wanted is None else min(wanted, self.max_tokens)

    async def answer(self, prompt: Prompt, max_tokens: int) -> StudentAnswer:
        """The student's answer of at most so many tokens. Raises UpstreamFailed."""
        completion = await self._ask(prompt, max_tokens)
        try:
            sure = log_confidence(completion)
        except ValueError as error:
            raise UpstreamFailed(UNREADABLE, str(error)) from None
        if sure is None and completion.finish_reason == "stop":
            raise UpstreamFailed(UNREADABLE, NOT_ALL)
        problem = None
        try:
            self.reader.read_answer(completion.text, completion.finish_reason, thinks=False)
        except NoAnswer as error:
            problem = error.reason
        return StudentAnswer(completion, sure, problem)

    async def try_it(self) -> None:
        """Ask once, as a client would. Raises ServerRefused, in one line, if it cannot be used."""
        server = self.exchange.server
        prompt = self.exchange.prompt_of([{"role": "user", "content": PROBE}])
        if prompt.problem:
            raise ServerRefused(
                f"{server.model}: its chat template cannot be used: {prompt.problem}"
            )
        try:
            completion = await self._ask(prompt, self.max_tokens)
        except UpstreamFailed as error:
            said = f"{server.url}: does not answer as {server.model} ({error})"
            raise ServerRefused(said) from None
        problem = problem_with(completion)
        if problem:
            raise ServerRefused(
                f"{server.url}: {problem}, so nobody can say how sure the student is; vLLM's "
                "server gives them"
            )

    async def _ask(self, prompt: Prompt, max_tokens: int) -> Completion:
        """One completion, greedily. Raises UpstreamFailed."""
        sampling = Sampling(
            temperature=0.0,
            max_tokens=prompt.within_room(max_tokens),
            logprobs=CHOSEN_TOKEN,
            without_penalties=True,
        )
        try:
            async with asyncio.timeout(self.timeout):
                return await ask_upstream(self.exchange, prompt, sampling)
        except TimeoutError:
            raise UpstreamFailed(TIMEOUT, f"no answer within {self.timeout:g} s") from None


def problem_with(completion: Completion) -> str:
    """What a server's reply lacks for a confidence; empty if it is all there."""
    if completion.chosen_logprobs is None:
        return "does not give log-probabilities of all tokens of an answer and its end of turn"
    if completion.counted_tokens is None:
        return "does not count the tokens of its answers"
    given = len(completion.chosen_logprobs)
    if given != completion.counted_tokens:
        return (
            f"gives {given} log-probabilities for an answer of {completion.counted_tokens} tokens, "
            "the end of turn included"
        )
    return ""
