"""Journal and outputs of step 1. No torch, no vLLM.

The journal OUTPUT.trace.jsonl holds a header line {"run": ...} for each start and one line for each input that is
decided, appended and flushed as it finishes. It says all that a restart needs, and the outputs are written from it.
"""

import json
import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np

from distill.files import Replacing
from distill.labels.forced import Forced
from distill.labels.inputs import Inputs
from distill.locks import journals_of, own_journal
from distill.old_values import OLD_HEADER, first_difference
from distill.outputs import beside, parse

log = logging.getLogger("create_data")
FILE_BITS = 48  # a place is the number of a journal file above this bit, and the offset of a line in it below


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
