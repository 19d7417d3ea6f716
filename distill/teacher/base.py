"""The teacher's door: what is asked and what comes back, wherever the answers are made.

Labelling and evaluation know nothing else, so another teacher implements `Teacher` and nothing has
to change beside it. `vllm_engine.py` implements it with an engine on this machine.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace


class TeacherEnded(Exception):
    """The teacher cannot go on, and why, in one line; what it has answered so far counts."""

    exit_code = 1  # the script's


@dataclass(frozen=True)
class Loop:
    """What counts as a loop.

    That is a pattern of so many tokens that came `min_count` times in a row, up to the last
    token.
    """

    min_pattern_size: int
    max_pattern_size: int
    min_count: int


@dataclass(frozen=True)
class Sampling:
    """How a completion is sampled; what is None is left out."""

    temperature: float  # 0: greedily
    max_tokens: int  # thinking and answer together
    # a completion that falls into one is ended, with the finish reason "repetition"
    loop: Loop | None = None
    top_p: float | None = None
    top_k: int | None = None
    thinking_budget: int | None = None  # tokens after which a thought is closed
    guard: str | None = None  # regular expression of all that may follow the thinking
    json_schema: str | None = None  # or the JSON Schema of it, as JSON text
    # how many of the likeliest tokens are reported for each place, beside the chosen one;
    # 0: the chosen one alone
    logprobs: int | None = None
    # no penalty for what was written before, whatever a server's own settings are
    without_penalties: bool = False

    def without(self, *names: str) -> "Sampling":
        """The same without some of its optional settings."""
        return replace(self, **dict.fromkeys(names))


@dataclass(frozen=True)
class Prompt:
    """A chat as its teacher takes it."""

    content: object  # token ids for an engine; a server may take the chat itself
    tokens: int  # its length; 0 where only the server knows
    # tokens that the context leaves for a completion; None where only the server knows
    room: int | None = None
    problem: str | None = None  # why it cannot be asked, as a row's reason in the journal

    def within_room(self, max_tokens: int) -> int:
        """As many tokens of a completion as are wanted and as there is room for."""
        return max_tokens if self.room is None else min(max_tokens, self.room)


@dataclass(frozen=True)
class Request:
    """One completion that is wanted; `job` comes back with it."""

    job: object
    prompt: Prompt
    sampling: Sampling


@dataclass
class Completion:
    """What a teacher has written."""

    text: str  # with its thinking, as Task.read_answer() takes it
    finish_reason: str  # stop, length or repetition
    token_ids: list[int]  # of the text and the end of turn
    cached_tokens: int = 0  # of the prompt, which an earlier request has paid for
    # up to </think>, or all if it is missing; None: this teacher does not think
    thinking_tokens: int | None = None
    # for each place, where asked for: tokens and their log-probabilities (nats),
    # or logits if the engine gives those
    logprobs: list[dict[int, float]] | None = None
    # what a server says of the request; None: it is known without it
    prompt_tokens: int | None = None
    counted_tokens: int | None = None  # that it has written, where it gives no ids
    served_by: str | None = None  # as the server calls the model that has answered
    charged: float | None = None  # what it has cost, where its tokens do not say it
    # why this row cannot be answered by whatever attempt, as its reason in the journal
    problem: str | None = None
    from_server: bool = False  # which may not give its tokens' log-probabilities
    # of each token that was written, in order, as a server gives them; None: it was not asked, or
    # does not give all of them, the end of turn included
    chosen_logprobs: list[float] | None = None

    @property
    def output_tokens(self) -> int:
        """How many tokens were written, thought and end of turn included."""
        if self.counted_tokens is None:
            return len(self.token_ids)
        return self.counted_tokens


class Teacher(ABC):
    """Answers requests while others run."""

    @abstractmethod
    def prepare(self, chats: list[list[dict]]) -> list[Prompt]:
        """Each chat as a prompt; one that cannot be asked has a `problem`."""

    def able(self, sampling: Sampling) -> Sampling:
        """What of a sampling this teacher can do, so that no more is recorded; here all of it."""
        return sampling

    @abstractmethod
    def ask(self, requests: Iterable[Request | None]) -> Iterator[tuple[object, Completion]]:
        """Take requests as there is room for them.

        Yield (job, completion) as they finish, in any order. A None among the requests says that
        there are no more at the moment. Raises TeacherEnded.
        """

    @abstractmethod
    def gather(self, request: Request) -> None:
        """Queue one request beside those that ask() takes.

        It may wait until there are enough like it.
        """

    @abstractmethod
    def forget(self) -> None:
        """Drop what is cached of earlier prompts, where the teacher can.

        A measurement then starts afresh.
        """

    def spell(self, token_ids: list[int]) -> str:
        """The text of tokens; asked only of a teacher that gives log-probabilities of them."""
        raise NotImplementedError
