"""Asking the student: one answer for each row, greedily, with the probability that it gave to it.

A smaller sibling of step 1's Labelling. It neither asks again nor votes: a student that answers
greedily would say the same again. No torch, no vLLM.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter

from distill.confidence import CHOSEN_TOKEN, log_confidence
from distill.labels.journal import Journal
from distill.labels.labelling import batches
from distill.outputs import TOKEN_COUNTS
from distill.progress import bar
from distill.stopping import unwind_if_told
from distill.task import NoAnswer, Task
from distill.teacher.base import Completion, Prompt, Request, Sampling, Teacher

CUT = "cut"  # the reason of an answer that --max_tokens, or the context, has ended


@dataclass(frozen=True)
class Row:
    """One input that is being answered."""

    index: int
    prompt: Prompt


class Predicting:
    """Asks a student for the answer of each row."""

    def __init__(self, student: Teacher, task: Task, max_tokens: int):
        self.student = student
        # the student's answer is all of its text, without the line that a teacher ends with
        self.reader = replace(task, answer="")
        self.max_tokens = max_tokens
        self.unfit: deque[Row] = deque()  # that cannot be asked

    def label(self, rows: Iterable[tuple[int, list[dict]] | None]) -> Iterator[tuple[int, dict]]:
        """Ask for each (index, messages) of `rows`, as Labelling.label() does.

        Yield (index, what the journal keeps of it) as each is answered. Raises TeacherEnded.
        """
        for row, completion in self.student.ask(self._requests(rows)):
            yield row.index, self._record(row, completion)
            yield from self._unfit_rows()
        yield from self._unfit_rows()

    def _requests(self, rows) -> Iterator[Request | None]:
        for batch in batches(rows):
            if not batch:
                yield None
                continue
            prompts = self.student.prepare([messages for _, messages in batch])
            for (index, _), prompt in zip(batch, prompts, strict=True):
                row = Row(index, prompt)
                if prompt.problem:
                    self.unfit.append(row)
                else:
                    yield Request(row, prompt, self._sampling(prompt))

    def _sampling(self, prompt: Prompt) -> Sampling:
        max_tokens = prompt.within_room(self.max_tokens)
        return Sampling(temperature=0.0, max_tokens=max_tokens, logprobs=CHOSEN_TOKEN)

    def _record(self, row: Row, completion: Completion) -> dict:
        """What the journal keeps of an answered row."""
        answer = None
        reason = completion.problem  # a server may refuse a row
        if not completion.problem:
            try:
                answer = self.reader.read_answer(
                    completion.text, completion.finish_reason, thinks=False
                )
            except NoAnswer as error:
                reason = error.reason
            if completion.finish_reason != "stop":
                reason = CUT
        prompt_tokens = completion.prompt_tokens
        if prompt_tokens is None:
            prompt_tokens = row.prompt.tokens
        attempt = {
            "response": completion.text,
            "finish_reason": completion.finish_reason,
            "answer": answer,
            "reason": reason,
            "prompt_tokens": prompt_tokens,
            "cached_tokens": completion.cached_tokens,
            "output_tokens": completion.output_tokens,
        }
        if completion.served_by is not None:
            attempt["served_by"] = completion.served_by
        return {
            "answer": answer,
            "reason": reason,
            "log_confidence": log_confidence(completion),
            "attempts": [attempt],
        }

    def _unfit_rows(self) -> Iterator[tuple[int, dict]]:
        while self.unfit:
            row = self.unfit.popleft()
            reason = row.prompt.problem
            record = {"answer": None, "reason": reason, "log_confidence": None, "attempts": []}
            yield row.index, record


def record_predictions(
    decided: Iterable[tuple[int, dict]], journal: Journal, left: int, done: int
) -> None:
    """Journal each answered row as it comes, and show how far it is.

    `left` rows are to come, and `done` ones are there.
    """
    start = perf_counter()
    unanswered = 0
    tokens = Counter()
    progress = bar(total=done + left, initial=done, desc="predicting", unit="row")
    for index, record in decided:
        journal.record(index, seconds=round(perf_counter() - start, 2), **record)
        unwind_if_told()
        if record["answer"] is None:
            unanswered += 1
        for attempt in record["attempts"]:
            for key in TOKEN_COUNTS:
                tokens[key] += attempt[key]
        progress.update()
        rate = tokens["output_tokens"] / max(progress.format_dict["elapsed"], 1e-9)
        progress.set_postfix_str(f"without answer {unanswered}, {rate:.0f} tok/s", refresh=False)
    progress.close()
