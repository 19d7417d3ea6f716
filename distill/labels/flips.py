"""Which labels have changed since an earlier run: OUTPUT.flips.jsonl, and what is said of them."""

import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distill.files import Replacing
from distill.intervals import wilson
from distill.json_answers import parse_json, written
from distill.labels.inputs import ByDigest, Inputs
from distill.labels.journal import Journal
from distill.outputs import FLIPS, beside, parse
from distill.progress import bar
from distill.same_text import comparable
from distill.task import Task
from distill.wording import percent

log = logging.getLogger("create_data")
SHOWN = 20  # kinds of changes in the table
REJECTED = "(rejected)"


@dataclass
class Flips:
    """Rows whose answer has changed, among those that both runs have decided."""

    name: str  # of the file that lists them
    compared: int = 0
    changed: int = 0
    # of labels, rows by (before, now); free texts would be as many kinds
    kinds: Counter = field(default_factory=Counter)

    def counts(self) -> dict:
        """The counts under their names in the last line and in the manifest."""
        share = None
        interval = None
        if self.compared:
            share = self.changed / self.compared
            interval = wilson(self.changed, self.compared)
        return {
            "compared": self.compared,
            "changed": self.changed,
            "changed_share": share,
            "changed_interval": interval,  # 95 %, Wilson
        }


class EarlierAnswers:
    """The answers of an earlier journal by the inputs of today, read when they are wanted."""

    def __init__(self, path: Path, inputs: Inputs):
        # of each input's last line in the file; -1: it has none
        self.places = np.full(len(inputs), -1, np.int64)
        by_digest = ByDigest(inputs)
        self.file = open(path, "rb")  # noqa: SIM115, closed by __exit__
        offset = 0
        lines = bar(self.file, later=True, desc=f"reading {path.name}", unit="line")
        for line in lines:
            record = parse(line)
            if record and "hash" in record:
                index = by_digest.find(record["hash"])
                if index is not None:
                    self.places[index] = offset
            offset += len(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def has(self, index: int) -> bool:
        """Whether the earlier run has decided an input."""
        return self.places[index] >= 0

    def answer(self, index: int) -> str | None:
        """The earlier answer to an input; None: it was rejected."""
        self.file.seek(int(self.places[index]))
        return json.loads(self.file.readline())["answer"]


def write_flips(journal: Journal, previous: Path, task: Task) -> Flips:
    """Compare all rows, which must be decided, with an earlier journal, and list what differs.

    Equal inputs are a row each, since each has its place and its id. Raises InputsChanged.
    """
    inputs = journal.inputs
    path = beside(journal.output, FLIPS)
    flips = Flips(path.name)
    with EarlierAnswers(previous, inputs) as earlier, Replacing(path) as file:
        rows = bar(journal.decided(), later=True, total=len(inputs), desc="comparing", unit="row")
        for index, messages, record in rows:
            first = int(inputs.first[index])
            if not earlier.has(first):
                continue
            flips.compared += 1
            before = earlier.answer(first)
            now = record["answer"]
            if same_answer(before, now, task):
                continue
            flips.changed += 1
            if task.labels:
                flips.kinds[(before or REJECTED, now or REJECTED)] += 1
            row = {"index": index, **inputs.named(index)}
            row.update(messages=messages, before=before, now=now)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return flips


def same_answer(before: str | None, now: str | None, task: Task) -> bool:
    """Whether two answers are the same; None is no answer."""
    if before is None or now is None:
        return before is now
    if task.schema:
        return in_one_form(before, task.schema) == in_one_form(now, task.schema)
    return comparable(before) == comparable(now)


def in_one_form(answer: str, schema: str) -> str:
    """An answer in JSON as a schema would have it kept; any other text as it is."""
    try:
        return written(parse_json(answer), schema)
    except (ValueError, RecursionError):
        return answer


def say_flips(flips: Flips) -> None:
    """Say how many labels have changed, and which ones became which."""
    log.info("\n".join(lines_of(flips)))


def lines_of(flips: Flips) -> list[str]:
    """What say_flips() says."""
    counts = flips.counts()
    text = f"create_data.py: {flips.changed:,} of {flips.compared:,} labels have changed"
    if flips.compared:
        low, high = counts["changed_interval"]
        share = percent(counts["changed_share"])
        text += f" ({share}, 95 % interval {percent(low)} to {percent(high)})"
    if not flips.changed:
        return [text]
    lines = [f"{text}, see {flips.name}"]
    kinds = flips.kinds.most_common(SHOWN)
    longest = max((len(before) for (before, _), _ in kinds), default=0)
    for (before, now), rows in kinds:
        lines.append(f"{rows:>7,}  {before:<{longest}} -> {now}")
    if len(flips.kinds) > SHOWN:
        lines.append(f"         and {len(flips.kinds) - SHOWN} other kinds of changes")
    return lines
