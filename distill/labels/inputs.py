"""The inputs of step 1.

A first pass finds out what each later one must be like, in 40 bytes an input, and about 100 more
where inputs have ids.
"""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from distill.chats import NO_COLUMNS, digest, input_hash, read_input_rows
from distill.columns import Columns
from distill.input_tables import is_table_file
from distill.progress import bar
from distill.text_lines import text_lines
from distill.unfit_rows import roles_of

log = logging.getLogger("create_data")


class InputsChanged(Exception):
    """The input file is no longer what the first pass has read.

    A label could end up on another text.
    """

    def __init__(self, path: str, what: str):
        super().__init__(
            f"{path}: {what} since this run has begun; bring the file back, or start another output"
        )


@dataclass
class Inputs:
    """What a first pass over the input file finds out.

    The texts themselves are read again when they are needed.
    """

    path: str
    first: np.ndarray  # for each input the index of its first occurrence
    digests: np.ndarray  # 16 bytes of each input's sha256, as two numbers
    sha256: str  # of all inputs
    blank_lines: int
    limited: bool = False  # to the first ones of the file
    # how many inputs have which roles, by roles_of()
    roles: Counter = field(default_factory=Counter)
    columns: Columns = NO_COLUMNS
    ids: list[str] | None = None  # of all inputs, equal ones too; None: they have none

    def __len__(self):
        return len(self.first)

    def unique(self) -> int:
        """How many inputs are not equal to an earlier one."""
        return int((self.first == np.arange(len(self))).sum())

    def read(self, wanted: np.ndarray | None = None):
        """Yield (index, messages), of all inputs or of those that are `wanted`, as read_rows()."""
        for index, row in self.read_rows(wanted):
            yield index, row.messages

    def read_rows(self, wanted: np.ndarray | None = None):
        """Yield (index, InputRow), of all inputs or of those that are `wanted`.

        Raises InputsChanged if one of them is another than in the first pass, or if there are
        fewer.
        """
        rows = read_input_rows(self.path, self.columns)
        try:
            for index in range(len(self)):
                row = next(rows, None)
                if row is None:
                    raise InputsChanged(self.path, f"holds {index} inputs, no longer {len(self)},")
                if wanted is None or wanted[index]:
                    same = input_hash(row.messages) == self.hash(index)
                    if not same or row.id != self.id(index):
                        raise InputsChanged(f"{self.path}:{row.number}", "has changed")
                    yield index, row
            if wanted is None and not self.limited and next(rows, None):
                log.warning(
                    "%s: holds more inputs than when this run began; they are left out", self.path
                )
        except ValueError as error:  # the first pass has read it, so it is another file now
            raise InputsChanged(self.path, f"has changed ({error})") from error

    def ids_sha256(self) -> str | None:
        """A digest of all ids in their order; None where rows have none."""
        if self.ids is None:
            return None
        return hashlib.sha256("\0".join(self.ids).encode()).hexdigest()

    def hash(self, index: int) -> str:
        """Eight bytes of an input's digest, by which a journal line is checked."""
        return f"{self.digests[index, 0]:016x}"

    def id(self, index: int) -> str | None:
        """The id of an input, None where inputs have none."""
        return None if self.ids is None else self.ids[index]

    def named(self, index: int) -> dict[str, str]:
        """The id of an input as files have it: {"id": ...}, or nothing where inputs have none."""
        return {} if self.ids is None else {"id": self.ids[index]}


class ByDigest:
    """Finds an input by its hash, wherever it stands; 16 bytes an input."""

    def __init__(self, inputs: Inputs):
        unique = np.flatnonzero(inputs.first == np.arange(len(inputs)))
        hashes = inputs.digests[unique, 0]
        order = np.argsort(hashes)
        self.hashes = hashes[order]
        self.indices = unique[order]

    def find(self, hash: str) -> int | None:
        """The first input that has this hash, as Inputs.hash() writes it; None if there is none."""
        wanted = np.uint64(int(hash, 16))
        place = int(np.searchsorted(self.hashes, wanted))
        if place == len(self.hashes) or self.hashes[place] != wanted:
            return None
        return int(self.indices[place])


def scan_inputs(path: str, limit: int = 0, columns: Columns = NO_COLUMNS) -> Inputs:
    """Read and check all inputs, or the first `limit`.

    Raises ValueError that names file and line.
    """
    digests = bytearray()
    of_all = hashlib.sha256()
    lines = 0
    roles = Counter()
    ids = []
    rows = read_input_rows(path, columns)
    for row in bar(rows, later=True, desc="reading the inputs", unit="input"):
        sha256 = digest(row.messages)
        of_all.update(sha256)
        roles[roles_of(row.messages)] += 1
        digests += sha256[:16]
        lines = row.number
        if row.id is not None:
            ids.append(row.id)
        if len(digests) == 16 * limit:
            break
    else:
        if not is_table_file(path):
            # blank lines after the last input
            lines = sum(1 for _ in text_lines(path, encoding=columns.encoding))
    if not digests:
        raise ValueError(
            f"{path}: no inputs; the file is empty, or holds only blank lines or a header"
        )
    pairs = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    return Inputs(
        path=str(path),
        first=first_occurrences(pairs),
        digests=pairs,
        sha256=of_all.hexdigest(),
        blank_lines=0 if is_table_file(path) else lines - len(pairs),
        limited=len(pairs) == limit,
        roles=roles,
        columns=columns,
        ids=ids or None,
    )


def first_occurrences(pairs: np.ndarray) -> np.ndarray:
    """For each row of `pairs`, of shape (rows, 2), the index of the first row that is equal to it.

    np.unique would do it in one call, with 78 bytes a row instead of 43.
    """
    # equal rows side by side, in their order,
    # so that each run of equals starts with the first occurrence
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    starts_run = np.ones(len(order), bool)
    starts_run[1:] = (pairs[order[1:]] != pairs[order[:-1]]).any(axis=1)
    run_starts = np.flatnonzero(starts_run)
    run_lengths = np.diff(np.append(run_starts, len(order)))
    first = np.empty(len(order), np.int64)
    first[order] = np.repeat(order[run_starts], run_lengths)
    return first
