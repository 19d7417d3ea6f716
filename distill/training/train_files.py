"""The files of --train_file: which they are, and what in them contradicts each other.

Their rows count in the order in which the files are named. Rows contradict each other where the
same input has another answer; --on_conflict says which of them are left. No torch, no TRL.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distill.chats import input_hash, read_chat
from distill.locks import journals_of, open_journal
from distill.next_step import manifest_of
from distill.outputs import parse
from distill.same_text import comparable
from distill.task import same_task

BETWEEN = ","  # the names of files
# --on_conflict: the rows of an input that stay
LAST = "last"
FIRST = "first"
DROP = "drop"
ON_CONFLICT = (LAST, FIRST, DROP)
NAMED = 3  # contradictions that the log names
SHOWN = 40  # characters of an answer in a message


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A row of a train file, without its tokens."""

    path: str  # its file
    number: int  # its line there
    asked: str  # input_hash() of the messages before the answer
    answer: str  # comparable(), without regard to case

    def said(self) -> str:
        """Where it stands and what it answers, for a message."""
        answer = self.answer
        if len(answer) > SHOWN:
            answer = f"{answer[:SHOWN]}..."
        return f"{self.path}:{self.number} answers {answer!r}"


@dataclass(frozen=True)
class FileRows:
    """How many rows a file has, or of how many it is the source."""

    path: str
    rows: int


@dataclass(frozen=True)
class Conflict:
    """The rows of one input, not all of which have the same answer."""

    rows: list[LabelledRow]  # in their order

    def is_between_files(self) -> bool:
        """Whether rows of different files contradict each other.

        They do as soon as there are two files: where all rows of the one agree with all of the
        other there is only one answer.
        """
        return len({row.path for row in self.rows}) > 1

    def pair(self) -> tuple[LabelledRow, LabelledRow]:
        """Two rows that contradict each other, of different files where there are any."""
        between = self.is_between_files()
        distinct = {}  # an input may have thousands of rows
        for row in self.rows:
            distinct.setdefault((row.path, row.answer), row)
        for one in distinct.values():
            for other in distinct.values():
                if one.answer != other.answer and between == (one.path != other.path):
                    return one, other
        raise AssertionError("all rows have the same answer")

    def kept(self, on_conflict: str) -> list[LabelledRow]:
        """The rows that stay."""
        if on_conflict == DROP:
            return []
        chosen = self.rows[-1] if on_conflict == LAST else self.rows[0]
        return [row for row in self.rows if row.answer == chosen.answer]

    def said(self) -> str:
        """Both sides with their sources."""
        one, other = self.pair()
        return f"{one.said()}, {other.said()}"


@dataclass(frozen=True)
class Settled:
    """The rows that are left, and what there is to say of the others."""

    rows: list[LabelledRow]
    conflicts: list[Conflict] = field(default_factory=list)  # that --on_conflict has decided
    left_out: int = 0  # rows
    repeated: int = 0  # rows with the input and the answer of one in an earlier file; they stay


def named_files(train_file: str) -> list[str]:
    """The files that --train_file names, in their order; their names stand between commas.

    A name with a comma that exists is that one file. Raises ValueError for a file that is not
    there, or that is named twice.
    """
    files = [train_file]
    # os.path's: a list of many names is too long for one, which Path.exists() raises
    if BETWEEN in train_file and not os.path.exists(train_file):
        files = [name.strip() for name in train_file.split(BETWEEN)]
    for place, name in enumerate(files):
        if not name:
            raise ValueError(f"--train_file {train_file}: a name is missing beside a comma")
        if not os.path.exists(name):
            raise ValueError(f"{name}: no such file; run create_data.py first or pass --train_file")
        for earlier in files[:place]:
            if Path(name).samefile(earlier):
                raise ValueError(f"--train_file {train_file}: names {name} twice; name it once")
    return files


def with_commas(names: list) -> str:
    """The names of several files, as a list in YAML has them, as --train_file names them.

    Raises ValueError for one that would be taken for two.
    """
    texts = [str(name) for name in names]
    for text in texts:
        if BETWEEN in text and len(texts) > 1:
            raise ValueError(f"--train_file: {text!r} has a comma, and can only stand alone")
    return BETWEEN.join(texts)


def read_rows(path: str | Path) -> Iterator[tuple[int, list[dict]]]:
    """Yield (line number, messages) of a file of rows.

    Raises ValueError that names file and line, also where an answer has no question, or where
    there is no row.
    """
    number = 0
    for number, messages in read_chat(path, last_role="assistant"):
        if len(messages) < 2:
            raise ValueError(
                f"{path}:{number}: an answer without a question; "
                "expected a user and an assistant message"
            )
        yield number, messages
    if not number:
        raise ValueError(f"{path}: no rows; run create_data.py first")


def labelled_rows(files: list[str]) -> list[LabelledRow]:
    """The rows of all files, in order; raises ValueError as read_rows()."""
    rows = []
    for path in files:
        for number, messages in read_rows(path):
            *asked, answer = messages
            content = comparable(answer["content"]).casefold()  # as labels are compared
            rows.append(LabelledRow(path, number, input_hash(asked), content))
    return rows


def conflicts_of(rows: list[LabelledRow]) -> list[Conflict]:
    """The inputs whose rows contradict each other, in the order in which they come first."""
    rows_of = {}
    for row in rows:
        rows_of.setdefault(row.asked, []).append(row)
    conflicts = []
    for same_input in rows_of.values():
        first = same_input[0].answer
        if any(row.answer != first for row in same_input):
            conflicts.append(Conflict(same_input))
    return conflicts


def settle(rows: list[LabelledRow], on_conflict: str | None) -> Settled:
    """Leave out what --on_conflict says.

    Without it rows of one file may contradict each other, which is a warning later on, and rows of
    several may not. Raises ValueError.
    """
    conflicts = conflicts_of(rows)
    if on_conflict is None:
        refuse_between_files(conflicts)
        return Settled(rows, repeated=repeated_rows(rows))
    kept = []
    contradictory = set()
    for conflict in conflicts:
        contradictory.add(conflict.rows[0].asked)
        kept += conflict.kept(on_conflict)
    kept = set(kept)
    left = [row for row in rows if row.asked not in contradictory or row in kept]
    if not left:
        raise ValueError(
            f"--on_conflict {on_conflict}: leaves none of {len(rows)} rows, the first two that "
            f"contradict each other: {conflicts[0].said()}"
        )
    return Settled(left, conflicts, len(rows) - len(left), repeated_rows(left))


def refuse_between_files(conflicts: list[Conflict]) -> None:
    """Raise ValueError if rows of different files contradict each other."""
    between = [conflict for conflict in conflicts if conflict.is_between_files()]
    if not between:
        return
    one, other = between[0].pair()
    raise ValueError(
        f"{one.said()} and {other.said()} to the same input; {len(between)} of the inputs have "
        "another answer in another file: --on_conflict last, first or drop says which rows stay"
    )


def repeated_rows(rows: list[LabelledRow]) -> int:
    """How many rows have the input and the answer of a row in an earlier file."""
    first_in = {}
    repeated = 0
    for row in rows:
        path = first_in.setdefault((row.asked, row.answer), row.path)
        repeated += path != row.path
    return repeated


def counted(files: list[str], rows: list[LabelledRow]) -> list[FileRows]:
    """How many of the rows are of each file."""
    count = dict.fromkeys(files, 0)
    for row in rows:
        count[row.path] += 1
    return [FileRows(path, count[path]) for path in files]


def by_file(counts: list[FileRows], what: str) -> str:
    """What there is of each file in words: "1,234 rows of a.jsonl and 56 of b.jsonl"."""
    first, *others = counts
    parts = [f"{first.rows:,} {what} of {first.path}"]
    for each in others:
        parts.append(f"{each.rows:,} of {each.path}")
    if not others:
        return parts[0]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def conflicts_said(settled: Settled, on_conflict: str | None) -> list[str]:
    """What --on_conflict has left out, and which rows are there twice, as lines of the log."""
    lines = []
    if settled.conflicts:
        lines.append(
            f"--on_conflict {on_conflict}: {settled.left_out:,} rows of {len(settled.conflicts):,} "
            "inputs with more than one answer are left out"
        )
        lines += [f"    {conflict.said()}" for conflict in settled.conflicts[:NAMED]]
        further = len(settled.conflicts) - NAMED
        if further > 0:
            lines.append(f"    and {further:,} more")
    if settled.repeated:
        lines.append(
            f"{settled.repeated:,} rows have input and answer of a row in an earlier file; all "
            "of them stay"
        )
    return lines


def file_with_task(files: list[str]) -> str:
    """The file that says by which task its rows were labelled, and by which teacher.

    It is the first with a manifest; the first of all where none has one.
    """
    for path in files:
        if manifest_of(path):
            return path
    return files[0]


def recorded_tasks(path: str) -> list[dict]:
    """What a file's manifest says of its task, for same_task(), or the starts in its journal.

    serve.py writes no manifest, and may have been started for another task each time.
    """
    manifest = manifest_of(path)
    if "task" in manifest:
        return [manifest]
    found = []
    for journal in journals_of(Path(path)):
        try:
            with open_journal(journal) as file:
                starts = [line for line in file if line.startswith(b'{"run"')]
        except OSError:  # it says nothing then, which is no reason not to train
            continue
        for line in starts:
            record = parse(line)
            if record and "task" in record["run"]:
                found.append(record["run"])
    return found


def other_task(files: list[str]) -> str:
    """A warning where rows were labelled under different tasks; empty if that is not known."""
    first = None
    for path in files:
        for recorded in recorded_tasks(path):
            if first is None:
                first = (path, recorded)
            elif same_task(first[1], recorded):
                continue
            elif path == first[0]:
                return (
                    f"{path} has rows that were labelled under different tasks; the student "
                    "learns all as one"
                )
            else:
                return (
                    f"{path} was labelled under another task than {first[0]}; the student learns "
                    "both as one"
                )
    return ""
