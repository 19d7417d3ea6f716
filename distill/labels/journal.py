"""Journal and outputs of step 1. No torch, no vLLM.

The journal OUTPUT.trace.jsonl holds a header line {"run": ...} for each start and one line for each
input that is decided, appended and flushed as it finishes. It says all that a restart needs, and
the outputs are written from it.
"""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distill.chats import InputRow
from distill.files import Replacing
from distill.labels.changes import changes_between, in_words
from distill.labels.forced import Forced
from distill.labels.inputs import Inputs
from distill.locks import journals_of, open_journal, own_journal
from distill.outputs import FLIPS, TOKEN_COUNTS, beside, parse
from distill.prices import TokenPrices
from distill.progress import bar

# a place is the number of a journal file above this bit, and the offset of a line in it below
FILE_BITS = 48


@dataclass
class Totals:
    """What the manifest counts.

    Attempts and tokens are those of inputs that differ; labels and reasons of all rows.
    """

    attempts: Counter = field(default_factory=Counter)  # inputs by how many attempts they took
    tokens: Counter = field(default_factory=Counter)
    labels: Counter = field(default_factory=Counter)
    reasons: Counter = field(default_factory=Counter)
    forced: Forced = field(default_factory=Forced)

    def count_attempts(self, attempts: list[dict], mode: str) -> None:
        """Take in the attempts at one input, under --structured_outputs `mode`."""
        self.forced.count(attempts, mode)
        self.attempts[len(attempts)] += 1
        for attempt in attempts:
            for key in TOKEN_COUNTS:
                self.tokens[key] += attempt[key]

    def count_answer(self, record: dict, is_label: bool) -> None:
        """Take in a row's label, or why it has none; free texts are too many to be counted."""
        if record["answer"] is None:
            self.reasons[record["reason"]] += 1
        elif is_label:
            self.labels[record["answer"]] += 1


class Spent:
    """Seconds of all starts in one journal, from its lines."""

    def __init__(self):
        self.before = 0.0  # of the starts before the last one
        self.last = 0.0  # of the last one, as far as a row has recorded them
        self.copied = False  # the rows are another journal's, whose seconds a header names

    def header(self, line: dict) -> None:
        """Take in a header line, which begins a start."""
        self.before += self.last + line.get("seconds_before", 0.0)
        self.last = 0.0
        self.copied = line.get("copied", False)

    def row(self, record: dict) -> None:
        """Take in a decided input's line."""
        if not self.copied:
            self.last = record["seconds"]

    def total(self) -> float:
        """Seconds up to here."""
        return self.before + self.last


class Journal:
    """The journal of one output.

    With shards, one file each, of which all are read and one is written. `run` is the header: what
    decides how rows are asked. A journal with another header is not continued.
    """

    def __init__(
        self, output: Path, run: dict, inputs: Inputs, shard: int = 0, num_shards: int = 1
    ):
        self.output = output
        self.run = run
        self.inputs = inputs
        self.shard = shard
        self.num_shards = num_shards
        self.own = own_journal(output, shard, num_shards)
        self.file = None

    def paths(self) -> list[Path]:
        """All journals of this output, the single one and those of shards."""
        return journals_of(self.output)

    def open(self, overwrite: bool = False, repair: bool = True) -> None:
        """Read what is there, under an OutputLock; without one it must not `repair` anything.

        Raises ValueError if the journal is another run's.
        """
        self._forget()
        if not overwrite:
            self.replay(repair)

    def begun(self) -> bool:
        """Whether an input is decided."""
        return bool((self.places >= 0).any())

    def clear(self) -> None:
        """Delete the output and its journals.

        Our own stays as an empty file, since our lock is on it.
        """
        self.output.unlink(missing_ok=True)
        beside(self.output, "manifest.json").unlink(missing_ok=True)
        beside(self.output, FLIPS).unlink(missing_ok=True)
        for path in self.paths():
            if path == self.own:
                os.truncate(path, 0)
            else:
                path.unlink(missing_ok=True)

    def replay(self, repair: bool = False) -> None:
        """Find each decided input's line.

        With `repair`, a half-written last line is cut off our own journal.
        """
        self._forget()
        self.files = self.paths()
        for number, path in enumerate(self.files):
            self._replay_file(number, path, repair)

    def _forget(self) -> None:
        # of each input's line; -1: not decided
        self.places = np.full(len(self.inputs), -1, np.int64)
        self.forced = Forced()  # of the answers in our own journal
        self.commit = None  # of the teacher on the hub, as the last header names one
        # name of an earlier journal, whose answers these are compared with
        self.compared_with = None
        self.served_by = None  # as a server called the model that has answered
        self.tokens = Counter()  # of all attempts
        self.charged = 0.0  # what cost money beside these tokens
        self.seconds = 0.0  # of all starts together, in the journal that took longest

    def _replay_file(self, number: int, path: Path, repair: bool) -> None:
        offset = 0
        spent = Spent()
        # whether there was a header, which says that the rows after it are this run's
        known = False
        line = b"\n"
        with open_journal(path) as file:
            lines = bar(file, later=True, desc=f"reading {path.name}", unit="line")
            for line in lines:  # noqa: B007, the last one is looked at below
                record = parse(line)
                if record and "run" in record:
                    self.compare(path, record["run"])
                    self.commit = record.get("commit") or self.commit
                    self.compared_with = record.get("compared_with") or self.compared_with
                    self.charged += record.get("charged", 0.0)
                    known = True
                    spent.header(record)
                elif record and known and self._is_ours(record):
                    if path == self.own and self.places[record["index"]] < 0:
                        self.forced.count(record["attempts"], self.run.get("structured_outputs"))
                    self.places[record["index"]] = number << FILE_BITS | offset
                    spent.row(record)
                    self.count(record["attempts"])
                offset += len(line)
        if repair and path == self.own and not line.endswith(b"\n"):
            os.truncate(path, offset - len(line))  # the run was killed while it wrote this line
        self.seconds = max(self.seconds, spent.total())

    def count(self, attempts: list[dict]) -> None:
        """Take in what the attempts at one input took, and who has answered."""
        for attempt in attempts:
            self.served_by = attempt.get("served_by") or self.served_by
            self.charged += attempt.get("charged", 0.0)
            for key in TOKEN_COUNTS:
                self.tokens[key] += attempt[key]

    def spent(self, prices: TokenPrices) -> float:
        """What all that is recorded has cost, with prices of a million tokens."""
        return prices.of_tokens(self.tokens) + self.charged

    def charge(self, cost: float) -> None:
        """Record what was spent on inputs that are not decided, in a header line."""
        self.charged += cost
        self._write({"run": self.run, "charged": round(cost, 9)})

    def _is_ours(self, record: dict) -> bool:
        """Whether a line is of one of the inputs; what is kept for others has no index."""
        index = record["index"]
        return index is not None and self.inputs.hash(index) == record["hash"]

    def compare(self, path: Path, run: dict) -> None:
        """Raise ValueError if what `path` holds is of another `run`, by its header."""
        changes = changes_between(run, self.run)
        if changes:
            raise ValueError(f"{path}: {in_words(changes)}; --overwrite starts afresh")

    def missing(self) -> np.ndarray:
        """Which inputs of our share must be asked: of equal inputs the first one."""
        count = len(self.inputs)
        index = np.arange(count)
        low = count * self.shard // self.num_shards
        high = count * (self.shard + 1) // self.num_shards
        ours = (index >= low) & (index < high)
        return ours & (self.inputs.first == index) & (self.places < 0)

    def start(self, **details) -> None:
        """Begin to write: a header line, with what is not compared in `details`."""
        # what cannot be written as UTF-8, such as half of a file's name, becomes an escape of JSON
        self.file = open(self.own, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self._write({"run": self.run, **details})

    def record(self, index: int, **record) -> None:
        """Append one decided input."""
        self.forced.count(record["attempts"], self.run.get("structured_outputs"))
        known = {"index": index, "hash": self.inputs.hash(index), **self.inputs.named(index)}
        self._write({**known, **record})

    def _write(self, line: dict) -> None:
        self.file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.file.flush()

    def write_outputs(self, count_labels: bool, **details) -> dict:
        """The final files, each written beside its place and renamed.

        Returns the manifest, with `details` in it. Raises InputsChanged if the input file is no
        longer what was labelled, and then writes nothing.
        """
        totals = Totals()
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(open_journal(path)) for path in self.files]
            good = opened.enter_context(Replacing(self.output))
            bad = opened.enter_context(Replacing(beside(self.output, "rejected.jsonl")))
            rows = self.inputs.read()
            for index, messages in bar(
                rows, later=True, total=len(self.inputs), desc="writing the rows", unit="row"
            ):
                first = int(self.inputs.first[index])
                record = self._recorded(files, first)
                if first == index:
                    totals.count_attempts(record["attempts"], self.run.get("structured_outputs"))
                totals.count_answer(record, count_labels)
                if record["answer"] is None:
                    responses = [attempt["response"] for attempt in record["attempts"]]
                    row = {
                        "index": index,
                        **self.inputs.named(index),
                        "messages": messages,
                        "reason": record["reason"],
                        "responses": responses,
                    }
                    bad.write(json.dumps(row, ensure_ascii=False) + "\n")
                else:
                    answer = {"role": "assistant", "content": record["answer"]}
                    row = {**self.inputs.named(index), "messages": [*messages, answer]}
                    good.write(json.dumps(row, ensure_ascii=False) + "\n")
            # an earlier run's must not stand beside what is put in its output's place now
            beside(self.output, "manifest.json").unlink(missing_ok=True)
        manifest = self._manifest(totals, details)
        with Replacing(beside(self.output, "manifest.json")) as file:
            file.write(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        return manifest

    def decided(self) -> Iterator[tuple[int, list[dict], dict]]:
        """Yield (index, messages, its journal line) of each input, as decided_rows()."""
        for index, row, record in self.decided_rows():
            yield index, row.messages, record

    def decided_rows(self) -> Iterator[tuple[int, InputRow, dict]]:
        """Yield (index, its row, its journal line) of each input, when all are decided.

        Equal inputs have the line of the first. Raises InputsChanged.
        """
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(open_journal(path)) for path in self.files]
            for index, row in self.inputs.read_rows():
                yield index, row, self._recorded(files, int(self.inputs.first[index]))

    def _recorded(self, files: list, index: int) -> dict:
        """A decided input's line."""
        place = int(self.places[index])
        file = files[place >> FILE_BITS]
        file.seek(place & (1 << FILE_BITS) - 1)
        return json.loads(file.readline())

    def _manifest(self, totals: Totals, details: dict) -> dict:
        rows = len(self.inputs)
        unique = sum(totals.attempts.values())
        rejected = sum(totals.reasons.values())
        rows_per_second = None
        tokens_per_second = None
        if self.seconds:
            rows_per_second = round(unique / self.seconds, 2)
            tokens_per_second = round(totals.tokens["output_tokens"] / self.seconds, 1)
        return {
            **self.run,
            **details,
            "rows": rows,
            "unique_rows": unique,
            "blank_lines": self.inputs.blank_lines,
            "accepted": rows - rejected,
            "rejected": rejected,
            "success_rate": (rows - rejected) / rows,
            "reasons": dict(totals.reasons),
            "label_counts": dict(totals.labels.most_common()),
            "attempts": {str(count): inputs for count, inputs in sorted(totals.attempts.items())},
            **totals.forced.counts(),
            **totals.forced.shares(),
            **totals.tokens,
            "seconds": round(self.seconds, 1),
            "rows_per_second": rows_per_second,
            "output_tokens_per_second": tokens_per_second,
        }
