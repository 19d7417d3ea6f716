"""Asking the teacher: attempts, retries, votes, and what the journal keeps of each row."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from time import perf_counter

from distill.guard import is_guarded
from distill.labels.journal import Journal
from distill.outputs import TOKEN_COUNTS
from distill.prices import TokenPrices
from distill.progress import bar
from distill.same_text import comparable
from distill.task import NoAnswer, Task
from distill.teacher.base import Completion, Loop, Prompt, Request, Sampling, Teacher

# What Qwen3's thinking model card recommends; a row that failed is asked again with it.
RETRY_TEMPERATURE = 0.6
RETRY_TOP_P = 0.95
RETRY_TOP_K = 20
# Tokens that come again and again in a loop; every shorter period has a multiple in this range.
LOOP_FROM = 32
LOOP_TO = 63
NO_PRICES = TokenPrices()
TOGETHER = 64  # rows that are tokenised at a time


@dataclass(frozen=True)
class Settings:
    """How rows are asked.

    The journal records all of it, and a run with other settings does not continue it.
    """

    reasoning_parser: str  # none: the teacher does not think
    temperature: float  # of the first attempt
    max_tokens: int  # of an attempt, thinking and answer together
    max_retries: int
    max_repeats: int  # a first attempt that loops so many times is ended; 0: never
    structured_outputs: str  # retry, always or never: which attempts are guarded
    thinking_token_budget: int  # of guarded attempts
    num_samples: int  # votes for each row
    min_agreement: float  # share of the votes that the majority needs

    @property
    def thinks(self) -> bool:
        """Whether the teacher thinks before it answers."""
        return self.reasoning_parser != "none"

    @property
    def guards(self) -> str:
        """Which attempts are guarded; never where there is none that would be."""
        # the last attempt is, if any is
        if is_guarded(self.structured_outputs, self.max_retries):
            return self.structured_outputs
        return "never"


@dataclass
class Attempt:
    """One completion for a row and what was read from it.

    Its token ids, which may be many, are left out.
    """

    response: str
    finish_reason: str
    answer: str | None
    reason: str | None  # why there is no answer
    sampling: Sampling
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    thinking_tokens: int | None  # None: the teacher does not think, or nobody counts it
    served_by: str | None = None  # as a server calls the model that has answered
    charged: float | None = None  # what it has cost, where a server counts no tokens

    def recorded(self, settings: Settings) -> dict:
        """What the journal keeps of it."""
        found = {
            "response": self.response,
            "finish_reason": self.finish_reason,
            "answer": self.answer,
            "reason": self.reason,
            "sampling": recorded_sampling(self.sampling),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
        }
        if self.thinking_tokens is not None:
            # a label after such a thought was forced;
            # vLLM counts the newline after <think> in the prompt too
            budget = self.sampling.thinking_budget
            if budget is None:
                budget = settings.max_tokens
            found["thinking_tokens"] = self.thinking_tokens
            found["thinking_cut"] = self.thinking_tokens >= budget - 1
        if self.served_by is not None:
            found["served_by"] = self.served_by
        if self.charged:
            found["charged"] = self.charged
        return found


def recorded_sampling(sampling: Sampling) -> dict:
    """A sampling as the journal has it.

    Names and order are those that it has had from the beginning: vLLM's.
    """
    found = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
    if sampling.loop:
        found["repetition_detection"] = asdict(sampling.loop)
    further = {
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "thinking_token_budget": sampling.thinking_budget,
        "structured_outputs": sampling.json_schema or sampling.guard,
    }
    for name, value in further.items():
        if value is not None:
            found[name] = value
    return found


@dataclass
class Row:
    """One input on its way to a label."""

    index: int
    prompt: Prompt
    open: int  # samples that are not decided yet
    attempts: list[Attempt] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    reason: str | None = None  # why the sample that was decided last has no answer


@dataclass(frozen=True)
class Sample:
    """The job of a request: whose it is, after how many failures, and how it is sampled."""

    row: Row
    failures: int
    sampling: Sampling


class Labelling:
    """Asks a teacher for a label for each row.

    Again where an answer cannot be read, and several times for a vote.
    """

    def __init__(self, teacher: Teacher, task: Task, settings: Settings):
        self.teacher = teacher
        self.task = task
        self.settings = settings
        self.guard = task.constraint()
        self.decided: deque[Row] = deque()

    def label(self, rows: Iterable[tuple[int, list[dict]] | None]) -> Iterator[tuple[int, dict]]:
        """Ask for each (index, messages) of `rows`.

        Yield (index, what the journal keeps of it) as each is decided. A None among the rows says
        that there are no more at the moment; what runs goes on meanwhile. Raises TeacherEnded.
        """
        for sample, completion in self.teacher.ask(self._requests(rows)):
            self._take(sample, completion)
            yield from self._decided()
        yield from self._decided()

    def _requests(self, rows) -> Iterator[Request | None]:
        """The first attempts."""
        for batch in batches(rows):
            if not batch:
                yield None
                continue
            # side by side this takes half as long as between two requests,
            # where the processor's caches are cold
            prompts = self.teacher.prepare([self.task.messages(messages) for _, messages in batch])
            for (index, _), prompt in zip(batch, prompts, strict=True):
                row = Row(index, prompt, self.settings.num_samples)
                if prompt.problem:
                    row.reason = prompt.problem
                    self.decided.append(row)
                    continue
                for _ in range(self.settings.num_samples):
                    yield self._request(row, failures=0)

    def _request(self, row: Row, failures: int) -> Request:
        """The next attempt.

        It is warmer after a failure, and guarded so that a thought ends and a label, or
        JSON of the task's schema, follows.
        """
        settings = self.settings
        guarded = is_guarded(settings.structured_outputs, failures)
        loop = None
        # an input that repeats itself may be quoted in the next attempt
        if settings.max_repeats and not failures:
            loop = Loop(LOOP_FROM, LOOP_TO, settings.max_repeats)
        sampling = Sampling(
            temperature=(
                max(settings.temperature, RETRY_TEMPERATURE) if failures else settings.temperature
            ),
            max_tokens=row.prompt.within_room(settings.max_tokens),
            loop=loop,
            top_p=RETRY_TOP_P if failures else None,
            top_k=RETRY_TOP_K if failures else None,
            thinking_budget=settings.thinking_token_budget if guarded and settings.thinks else None,
            guard=self.guard if guarded and self.guard else None,
            json_schema=self.task.schema if guarded and self.task.schema else None,
        )
        sampling = self.teacher.able(sampling)
        return Request(Sample(row, failures, sampling), row.prompt, sampling)

    def _take(self, sample: Sample, completion: Completion) -> None:
        """Read a completion.

        An answer is the sample's vote, a failure is asked again as long as there are retries, but
        for one that no further attempt would change.
        """
        row = sample.row
        answer = None
        reason = completion.problem
        if not completion.problem:
            try:
                answer = self.task.read_answer(
                    completion.text, completion.finish_reason, self.settings.thinks
                )
            except NoAnswer as error:
                reason = error.reason
        prompt_tokens = completion.prompt_tokens
        if prompt_tokens is None:
            prompt_tokens = row.prompt.tokens
        row.attempts.append(
            Attempt(
                response=completion.text,
                finish_reason=completion.finish_reason,
                answer=answer,
                reason=reason,
                sampling=sample.sampling,
                prompt_tokens=prompt_tokens,
                cached_tokens=completion.cached_tokens,
                output_tokens=completion.output_tokens,
                thinking_tokens=completion.thinking_tokens,
                served_by=completion.served_by,
                charged=completion.charged,
            )
        )
        may_go_well = not completion.problem and sample.failures < self.settings.max_retries
        if answer is None and may_go_well:
            self.teacher.gather(self._request(row, sample.failures + 1))
            return
        if answer is not None:
            row.answers.append(answer)
        row.reason = reason
        row.open -= 1
        if not row.open:
            self.decided.append(row)

    def _decided(self) -> Iterator[tuple[int, dict]]:
        while self.decided:
            row = self.decided.popleft()
            yield row.index, self._record(row)

    def _record(self, row: Row) -> dict:
        """What the journal keeps of a decided row."""
        answer, reason, agreement = vote(
            row.answers, self.settings.num_samples, self.settings.min_agreement
        )
        if not row.answers:
            reason = row.reason
        attempts = [attempt.recorded(self.settings) for attempt in row.attempts]
        return {
            "answer": answer,
            "reason": reason,
            "agreement": round(agreement, 4),
            "attempts": attempts,
        }


def batches(rows: Iterable) -> Iterator[list]:
    """Lists of up to TOGETHER rows.

    A None among the rows ends a list at once, which may then be empty.
    """
    batch = []
    for row in rows:
        if row is not None:
            batch.append(row)
        if row is None or len(batch) == TOGETHER:
            yield batch
            batch = []
    yield batch


def vote(
    answers: list[str], num_samples: int, min_agreement: float
) -> tuple[str | None, str | None, float]:
    """The majority of the samples' answers as (answer, reason, agreement).

    A tie or too small a share has no answer.
    """
    ranked = Counter(map(comparable, answers)).most_common(2)
    if not ranked:
        return None, None, 0.0
    agreement = ranked[0][1] / num_samples
    tie = len(ranked) == 2 and ranked[0][1] == ranked[1][1]
    if tie or agreement < min_agreement:
        return None, "low_agreement", agreement
    winner = next(answer for answer in answers if comparable(answer) == ranked[0][0])
    return winner, None, agreement


def record_rows(
    decided: Iterable[tuple[int, dict]],
    journal: Journal,
    left: int,
    done: int,
    prices: TokenPrices = NO_PRICES,
) -> None:
    """Journal each decided row as it comes, and show how far it is.

    `left` rows are to come, and `done` ones are there. With `prices` of a million tokens what all
    rows so far have cost is shown too.
    """
    start = perf_counter()
    rejected = 0
    tokens = Counter()
    progress = bar(total=done + left, initial=done, desc="labelling", unit="row")
    for index, record in decided:
        journal.record(index, seconds=round(perf_counter() - start, 2), **record)
        if record["answer"] is None:
            rejected += 1
        journal.count(record["attempts"])
        for attempt in record["attempts"]:
            for key in TOKEN_COUNTS:
                tokens[key] += attempt[key]
        progress.update()
        rate = tokens["output_tokens"] / max(progress.format_dict["elapsed"], 1e-9)
        cached = tokens["cached_tokens"] / max(tokens["prompt_tokens"], 1)
        shown = (
            f"rejected {rejected}, {journal.forced.shown()}, {rate:.0f} tok/s, cached {cached:.1%}"
        )
        if prices != NO_PRICES:
            shown += f", spent {journal.spent(prices):.4g}"
        progress.set_postfix_str(shown, refresh=False)
    progress.close()
