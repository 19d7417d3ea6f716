"""Going round again: create_data.py --reuse same|changed makes the journal of another run ours.

Before anything is asked, all journals of an output become one, with the header of today's run and
with what still holds: where the inputs differ, records are found by their input's hash; where the
reading differs, stored responses are read again (reread.py); where the asking differs, nothing
holds. From there on it is a run like any other that goes on: it asks what is missing, and when it
is killed, the same command goes on.

Nothing is lost. The new journal appears complete or not at all. Records of inputs that are not
among today's are kept in it without an index, for a run that has them again. Where answers may
change, the old journals stay as OUTPUT.previous-N.jsonl, which no run takes for a journal. The old
output stays until the new one replaces it.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from distill.files import Replacing
from distill.labels.changes import (
    ASKING,
    READING,
    Change,
    changes_between,
    changes_of_task,
    has,
    in_words,
)
from distill.labels.earlier import look_back, stays_finished
from distill.labels.inputs import ByDigest
from distill.labels.journal import Journal, Spent
from distill.labels.labelling import Settings
from distill.labels.reread import read_again
from distill.locks import Held, OutputLock, journals_of, open_journal, own_journal
from distill.outputs import beside, first_header, parse
from distill.progress import bar
from distill.task import Task

log = logging.getLogger("create_data")
# seconds that a shard waits for a run that does not make the journals theirs; for one that does it
# waits to the end, which takes minutes where they have millions of lines
TURN_WITHIN = 300.0
LOOK_EVERY = 0.2


class Beginning:
    """Opens the journal of a run, which --reuse first makes out of what earlier runs have left."""

    def __init__(
        self, journal: Journal, task: Task, settings: Settings, reuse: str, skip_finished: bool
    ):
        self.journal = journal
        self.task = task
        self.settings = settings
        self.reuse = reuse
        self.skip_finished = skip_finished
        self.changes: list[Change] = []  # since the run before
        self.pending: OutputLock | None = None  # under which the journals are still to become ours

    def is_finished(self) -> bool:
        """Whether the output stays as it is; raises ValueError as stays_finished()."""
        ids = self.journal.inputs.ids_sha256()
        earlier = look_back(self.journal.output, self.journal.run, ids)
        self.changes = earlier.begun
        return stays_finished(earlier, self.reuse, self.skip_finished)

    def is_needed(self) -> bool:
        """Whether the journals are another run's and are to become ours."""
        return not self.is_finished() and bool(self.changes)

    def open(self, held: OutputLock | None) -> bool:
        """Open the journal under its lock; returns whether the output stays as it is.

        Where --reuse changes journals, that is left to take_over(), when the teacher has passed
        all checks and has started. Without a lock, in a dry run, nothing is changed at all.
        """
        finished = self.is_finished()
        if self.changes and not finished:
            self.journal.open(overwrite=True)
            self.rebuilding().mark(self.journal)
            self.pending = held
        else:
            self.journal.open(overwrite=finished, repair=held is not None)
        return finished

    def take_over(self) -> None:
        """Make the journals ours, if that is still to be done."""
        if self.pending is not None:
            self.rebuilding().run(self.pending, self.changes)
            self.journal.open()
            self.pending = None

    def open_in_turn(self, lock: Callable[[], object]) -> bool:
        """The same for one of several shards, of which one makes the journals theirs.

        All shards start at once. The first one that gets the lock of a run without shards works
        for all, while the others wait. It cannot do so later, when each of them holds its own
        lock, which `lock` takes. Raises Held if another run is at work that does something else.
        """
        end = time.monotonic() + TURN_WITHIN
        written = 0  # bytes of the new journal
        said = False
        while True:
            try:
                if self.is_needed():
                    with OutputLock(self.journal.output) as held:
                        if self.is_needed():
                            self.rebuilding().run(held, self.changes)
                lock()
                break
            except Held:
                grown = size_of(being_written(self.journal.output))
                if grown != written:  # one that was left by a killed run does not grow
                    written = grown
                    end = time.monotonic() + TURN_WITHIN
                elif time.monotonic() > end:
                    raise
            if not said:
                log.info("create_data.py: waits for another run on %s", self.journal.output)
                said = True
            time.sleep(LOOK_EVERY)
        finished = self.is_finished()
        self.journal.open(overwrite=finished)
        return finished

    def rebuilding(self) -> "Rebuilding":
        """What makes the journals ours."""
        return Rebuilding(self.journal, self.task, self.settings)


class Rebuilding:
    """The journals of an output, made those of another run."""

    def __init__(self, journal: Journal, task: Task, settings: Settings):
        self.output = journal.output
        self.header = journal.run
        self.inputs = journal.inputs
        self.task = task
        self.settings = settings
        self.by_digest = ByDigest(journal.inputs)
        self.seconds = 0.0  # that the journals took
        self.commit = None  # of the teacher on the hub
        self.compared_with = None  # name of the journal that the last run was compared with
        self.charged = 0.0  # what cost money beside the tokens of attempts

    def lines(self, paths: list[Path]) -> Iterator[dict]:
        """Yield the records that still hold, as journal lines of today's run."""
        self.charged = 0.0
        for path in paths:
            changes = None  # since the last header; None: there was none yet
            same_guard = False
            spent = Spent()
            with open_journal(path) as file:
                for line in bar(file, later=True, desc=f"reading {path.name}", unit="line"):
                    record = parse(line)
                    if record and "run" in record:
                        changes = changes_between(record["run"], self.header)
                        same_guard = not changes_of_task(record["run"], self.header)
                        spent.header(record)
                        self.charged += record.get("charged", 0.0)
                        self.compared_with = record.get("compared_with") or self.compared_with
                        if not has(changes, ASKING):
                            self.commit = record.get("commit") or self.commit
                    elif record and changes is not None and "hash" in record:
                        spent.row(record)
                        moved = self.moved(record, changes, same_guard)
                        if moved:
                            yield moved
            if changes is not None and not has(changes, ASKING):
                self.seconds = max(self.seconds, spent.total())

    def moved(self, record: dict, changes: list[Change], same_guard: bool) -> dict | None:
        """A record as a line of today's run; None if it does not hold.

        `same_guard`: what a guarded answer may be has not changed.
        """
        if has(changes, ASKING):
            return None
        if has(changes, READING):
            record = read_again(record, self.task, self.settings, same_guard)
            if record is None:
                return None
        index = self.by_digest.find(record["hash"])
        place = {"index": index, "hash": record["hash"]}
        rest = {key: value for key, value in record.items() if key not in place}
        if index is not None:
            rest.pop("id", None)
            place.update(self.inputs.named(index))
        return {**place, **rest}

    def mark(self, journal: Journal) -> None:
        """Let the journal know, as far as it is asked before take_over(), what it will hold."""
        for line in self.lines(journals_of(self.output)):
            if line["index"] is not None:
                journal.places[line["index"]] = 0
                journal.count(line["attempts"])
        journal.commit = self.commit
        journal.charged += self.charged

    def run(self, held: OutputLock, changes: list[Change]) -> None:
        """Make the journals one of today's run, under the lock of a run without shards."""
        paths = held.paths()
        own = own_journal(self.output)
        if not self.is_done(own):
            self.replace(held, paths, changes)
        for path in paths:
            if path != own:
                path.unlink()

    def is_done(self, own: Path) -> bool:
        """Whether a run that was killed has come as far as to leave only old journals behind."""
        if not own.exists():
            return False
        first = first_line(own)
        return first.get("copied", False) and not changes_between(first["run"], self.header)

    def replace(self, held: OutputLock, paths: list[Path], changes: list[Change]) -> None:
        """Put the new journal in the place of our own one, and keep the old ones where needed."""
        previous = None
        if has(changes, ASKING) or has(changes, READING):
            previous = free_name(self.output)
        temporary = being_written(self.output)
        try:
            reused = self.write(temporary, paths, previous)
            if previous:
                keep(paths, previous)
            held.replace_own(temporary)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        kept = f", and its journal is kept as {previous.name}" if previous else ""
        log.info(
            "create_data.py: since the last run %s; %s of its answers hold%s",
            in_words(changes),
            f"{reused:,}",
            kept,
        )

    def write(self, target: Path, paths: list[Path], previous: Path | None) -> int:
        """Write the new journal; returns how many records of today's inputs it holds."""
        reused = 0
        with open(target, "w", encoding="utf-8", errors="backslashreplace") as file:
            write_line(file, {"run": self.header, "copied": True})
            for line in self.lines(paths):
                if line["index"] is not None:
                    reused += 1
                write_line(file, line)
            # what only the end of the last journal tells
            told = {
                "seconds_before": round(self.seconds, 2),
                "commit": self.commit,
                "compared_with": self.comparison(previous, paths),
            }
            if self.charged:
                told["charged"] = self.charged
            write_line(file, {"run": self.header, **told})
            file.flush()
            os.fsync(file.fileno())
        return reused

    def comparison(self, previous: Path | None, paths: list[Path]) -> str | None:
        """Name of the journal whose answers the new ones are compared with.

        It is that of the output which is there. Where the last run has not come so far as to
        replace it, that is what the last run would have been compared with.
        """
        if previous is None:
            return self.compared_with
        for path in paths:
            if self.is_left_behind(path, paths):
                continue
            before = first_header(path)
            if before and look_back(self.output, before, None).is_ours:
                return previous.name
        return self.compared_with or previous.name

    def is_left_behind(self, path: Path, paths: list[Path]) -> bool:
        """Whether a journal of a share stands in what a killed round has made one already."""
        own = own_journal(self.output)
        if path == own or own not in paths:
            return False
        return first_line(own).get("copied", False)


def being_written(output: Path) -> Path:
    """The new journal of an output, from its first line until it takes the old one's place."""
    return own_journal(output).with_suffix(".jsonl.tmp")


def size_of(path: Path) -> int:
    """Of a file in bytes; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def first_line(path: Path) -> dict:
    """The first line of a journal; empty if there is none, or half of one."""
    with open_journal(path) as file:
        return parse(file.readline()) or {}


def free_name(output: Path) -> Path:
    """The first OUTPUT.previous-N.jsonl that is not there yet."""
    number = 1
    while beside(output, f"previous-{number}.jsonl").exists():
        number += 1
    return beside(output, f"previous-{number}.jsonl")


def keep(paths: list[Path], target: Path) -> None:
    """Copy journals into one file, one behind the other."""
    with Replacing(target, binary=True) as file:
        for path in paths:
            with open(path, "rb") as journal:
                shutil.copyfileobj(journal, file)
            file.write(b"\n")  # the last line of a journal may be torn


def write_line(file, line: dict) -> None:
    """Write one journal line."""
    file.write(json.dumps(line, ensure_ascii=False) + "\n")
