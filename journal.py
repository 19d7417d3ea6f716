"""Inputs, journal and outputs of step 1, about 40 bytes of memory an input. No torch, no vLLM.

The journal OUTPUT.trace.jsonl holds a header line {"run": ...} for each start and one line for each input that is
decided, appended and flushed as it finishes. It says all that a restart needs, and the outputs are written from it.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distill.chats import digest, input_hash, read_inputs
from distill.files import Replacing
from distill.locks import journals_of, own_journal
from distill.old_values import OLD_HEADER, first_difference
from distill.outputs import beside, parse
from distill.unfit_rows import roles_of
from forced import Forced

log = logging.getLogger("create_data")
FILE_BITS = 48  # a place is the number of a journal file above this bit, and the offset of a line in it below


class InputsChanged(Exception):
    """The input file is no longer what the first pass has read, so that a label could end up on another text."""

    def __init__(self, path: str, what: str):
        super().__init__(f"{path}: {what} since this run has begun; bring the file back, or start another output")


@dataclass
class Inputs:
    """What a first pass over the input file finds out; the texts themselves are read again when they are needed."""

    path: str
    first: np.ndarray  # for each input the index of its first occurrence
    digests: np.ndarray  # 16 bytes of each input's sha256, as two numbers
    sha256: str  # of all inputs
    blank_lines: int
    limited: bool = False  # to the first ones of the file
    roles: Counter = field(default_factory=Counter)  # how many inputs have which roles, by roles_of()

    def __len__(self):
        return len(self.first)

    def read(self, wanted: np.ndarray | None = None):
        """Yield (index, messages), of all inputs or of those that are `wanted`.

        Raises InputsChanged if one of them is another than in the first pass, or if there are fewer.
        """
        rows = read_inputs(self.path)
        try:
            for index in range(len(self)):
                number, messages = next(rows, (0, None))
                if messages is None:
                    raise InputsChanged(self.path, f"holds {index} inputs, no longer {len(self)},")
                if wanted is None or wanted[index]:
                    if input_hash(messages) != self.hash(index):
                        raise InputsChanged(f"{self.path}:{number}", "has changed")
                    yield index, messages
            if wanted is None and not self.limited and next(rows, None):
                log.warning("%s: holds more inputs than when this run began; they are left out", self.path)
        except ValueError as error:  # the first pass has read it, so it is another file now
            raise InputsChanged(self.path, f"has changed ({error})") from error

    def hash(self, index: int) -> str:
        """Eight bytes of an input's digest, by which a journal line is checked."""
        return f"{self.digests[index, 0]:016x}"


def scan_inputs(path: str, limit: int = 0) -> Inputs:
    """Read and check all inputs, or the first `limit`; raises ValueError that names file and line."""
    digests, total, lines = bytearray(), hashlib.sha256(), 0
    roles = Counter()
    for lines, messages in read_inputs(path):  # noqa: B007, its last value is used below
        sha256 = digest(messages)
        total.update(sha256)
        roles[roles_of(messages)] += 1
        digests += sha256[:16]
        if len(digests) == 16 * limit:
            break
    else:
        with open(path, "rb") as file:  # blank lines after the last input
            lines = sum(1 for _ in file)
    if not digests:
        raise ValueError(f"{path}: no inputs; the file is empty or holds only blank lines")
    digests = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    # equal inputs side by side, in their order, so that each run of equals starts with the first occurrence
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    new = np.ones(len(order), bool)
    new[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = np.repeat(order[new], np.diff(np.append(np.flatnonzero(new), len(order))))
    limited = len(first) == limit
    return Inputs(str(path), first, digests, total.hexdigest(), lines - len(first), limited, roles)


class Journal:
    """The journal of one output; with shards, one file each, of which all are read and one is written."""

    def __init__(self, output: Path, run: dict, inputs: Inputs, shard: int = 0, num_shards: int = 1):
        self.output, self.run, self.inputs, self.shard, self.num_shards = output, run, inputs, shard, num_shards
        self.own = own_journal(output, shard, num_shards)
        self.file = None

    def paths(self) -> list[Path]:
        """All journals of this output, the single one and those of shards."""
        return journals_of(self.output)

    def open(self, overwrite: bool = False) -> None:
        """Read what is there, under an OutputLock; raises ValueError if the journal is another run's."""
        self.places = np.full(len(self.inputs), -1, np.int64)
        self.forced = Forced()
        self.commit = None
        if not overwrite:
            self.replay(repair=True)

    def clear(self) -> None:
        """Delete the output and its journals; our own stays as an empty file, since our lock is on it."""
        self.output.unlink(missing_ok=True)
        for path in self.paths():
            if path == self.own:
                os.truncate(path, 0)
            else:
                path.unlink(missing_ok=True)

    def replay(self, repair: bool = False) -> None:
        """Find each decided input's line. A half-written last line is cut off, but only from our own journal."""
        self.places = np.full(len(self.inputs), -1, np.int64)
        self.forced = Forced()  # of the answers in our own journal
        self.files, self.seconds = self.paths(), 0.0
        self.commit = None  # of the teacher on the hub, as the last header names one
        for number, path in enumerate(self.files):
            offset, spent, last, known = 0, 0.0, 0.0, False
            with open(path, "rb") as file:
                for line in file:
                    record = parse(line)
                    if record and "run" in record:
                        self._compare(path, record["run"])
                        self.commit = record.get("commit") or self.commit
                        known, spent, last = True, spent + last, 0.0
                    elif record and known and self.inputs.hash(record["index"]) == record["hash"]:
                        if path == self.own and self.places[record["index"]] < 0:
                            self.forced.count(record["attempts"], self.run.get("structured_outputs"))
                        self.places[record["index"]] = number << FILE_BITS | offset
                        last = record["seconds"]
                    offset += len(line)
            if repair and path == self.own and offset and not line.endswith(b"\n"):
                os.truncate(path, offset - len(line))  # the run was killed while it wrote this line
            self.seconds = max(self.seconds, spent + last)

    def _compare(self, path: Path, run: dict) -> None:
        found = first_difference(run, self.run, OLD_HEADER)
        if found:
            before = json.dumps(found.before, ensure_ascii=False)
            now = json.dumps(found.now, ensure_ascii=False)
            raise ValueError(f"{path}: made with {found.key} {before}, now {now}; --overwrite starts afresh")

    def missing(self) -> np.ndarray:
        """Which inputs of our share must be asked: of equal inputs the first one."""
        index = np.arange(len(self.inputs))
        low, high = (len(self.inputs) * (self.shard + k) // self.num_shards for k in (0, 1))
        return (index >= low) & (index < high) & (self.inputs.first == index) & (self.places < 0)

    def start(self, **details) -> None:
        """Begin to write: a header line, with what is not compared in `details`."""
        # what cannot be written as UTF-8, such as half of a file's name, becomes an escape of JSON
        self.file = open(self.own, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self._write({"run": self.run, **details})

    def record(self, index: int, **record) -> None:
        """Append one decided input."""
        self.forced.count(record["attempts"], self.run.get("structured_outputs"))
        self._write({"index": index, "hash": self.inputs.hash(index), **record})

    def _write(self, line: dict) -> None:
        self.file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.file.flush()

    def write_outputs(self, count_labels: bool, **details) -> dict:
        """The final files, each written beside its place and renamed; returns the manifest, with `details` in it.

        Raises InputsChanged if the input file is no longer what was labelled, and then writes nothing.
        """
        files = [open(path, "rb") for path in self.files]  # noqa: SIM115
        labels, totals, attempts, reasons = Counter(), Counter(), Counter(), Counter()
        forced = Forced()
        with Replacing(self.output) as good, Replacing(beside(self.output, "rejected.jsonl")) as bad:
            for index, messages in self.inputs.read():
                first = self.inputs.first[index]
                place = int(self.places[first])
                file = files[place >> FILE_BITS]
                file.seek(place & (1 << FILE_BITS) - 1)
                record = json.loads(file.readline())
                if first == index:
                    forced.count(record["attempts"], self.run.get("structured_outputs"))
                    attempts[len(record["attempts"])] += 1
                    for attempt in record["attempts"]:
                        for key in ("prompt_tokens", "cached_tokens", "output_tokens"):
                            totals[key] += attempt[key]
                if record["answer"] is None:
                    reasons[record["reason"]] += 1
                    row = {"index": index, "messages": messages, "reason": record["reason"]}
                    row["responses"] = [attempt["response"] for attempt in record["attempts"]]
                    bad.write(json.dumps(row, ensure_ascii=False) + "\n")
                else:
                    if count_labels:
                        labels[record["answer"]] += 1
                    answer = {"role": "assistant", "content": record["answer"]}
                    good.write(json.dumps({"messages": [*messages, answer]}, ensure_ascii=False) + "\n")
        for file in files:
            file.close()
        rows, unique, rejected = len(self.inputs), sum(attempts.values()), sum(reasons.values())
        manifest = {
            **self.run,
            **details,
            "rows": rows,
            "unique_rows": unique,
            "blank_lines": self.inputs.blank_lines,
            "accepted": rows - rejected,
            "rejected": rejected,
            "success_rate": (rows - rejected) / rows,
            "reasons": dict(reasons),
            "label_counts": dict(labels.most_common()),
            "attempts": {str(k): v for k, v in sorted(attempts.items())},
            **forced.counts(),
            **forced.shares(),
            **totals,
            "seconds": round(self.seconds, 1),
            "rows_per_second": round(unique / self.seconds, 2) if self.seconds else None,
            "output_tokens_per_second": round(totals["output_tokens"] / self.seconds, 1) if self.seconds else None,
        }
        with Replacing(beside(self.output, "manifest.json")) as file:
            file.write(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        return manifest
