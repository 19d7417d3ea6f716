"""Asking the teacher: attempts, retries, votes, and what the journal keeps of each row."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter

from distill.labels.journal import Journal
from distill.outputs import TOKEN_COUNTS
from distill.prices import TokenPrices
from distill.progress import bar
from distill.same_text import comparable
from distill.stopping import unwind_if_told
from distill.task import Task
from distill.teacher.attempts import Attempt, AttemptSettings, read_attempt, sampling_of
from distill.teacher.base import Completion, Prompt, Request, Sampling, Teacher

NO_PRICES = TokenPrices()
TOGETHER = 64  # rows that are tokenised at a time


@dataclass(frozen=True)
class Settings(AttemptSettings):
    """How rows are asked.

    The journal records all of it, and a run with other settings does not continue it.
    """

    num_samples: int  # votes for each row
    min_agreement: float  # share of the votes that the majority needs


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
        """The next attempt."""
        sampling = sampling_of(self.settings, self.task, self.guard, row.prompt, failures)
        sampling = self.teacher.able(sampling)
        return Request(Sample(row, failures, sampling), row.prompt, sampling)

    def _take(self, sample: Sample, completion: Completion) -> None:
        """Read a completion.

        An answer is the sample's vote, a failure is asked again as long as there are retries, but
        for one that no further attempt would change.
        """
        row = sample.row
        attempt = read_attempt(
            completion, row.prompt, sample.sampling, self.task, self.settings.thinks
        )
        row.attempts.append(attempt)
        may_go_well = not completion.problem and sample.failures < self.settings.max_retries
        if attempt.answer is None and may_go_well:
            self.teacher.gather(self._request(row, sample.failures + 1))
            return
        if attempt.answer is not None:
            row.answers.append(attempt.answer)
        row.reason = attempt.reason
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
        unwind_if_told()
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
