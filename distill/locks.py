"""Locks that keep two runs out of one output, from before anything is loaded to the end.

No torch, no vLLM.

The kernel gives a lock back when its process ends, however it ends, so that a file which is left
behind is no obstacle.
"""

import contextlib
import fcntl
import io
import os
import re
from pathlib import Path
from typing import BinaryIO

from distill.input_files import check_regular


class Held(ValueError):
    """Another run is at work on a file."""


def lock(path: Path, shared: bool = False) -> BinaryIO:
    """Open a file, which is created if it is missing, and lock it.

    The open file holds the lock until it is closed. Several runs may hold a `shared` lock at once.
    Raises Held if another run holds the file, ValueError if its file system has no locks, each in
    one line, and OSError if it cannot be opened.
    """
    while True:
        check_regular(path)
        file = open(path, "a+b")  # noqa: SIM115
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise Held(f"{path}: another run is writing it; wait for its end or stop it") from None
        except OSError as error:
            file.close()
            raise ValueError(
                f"{path}: cannot be locked ({error.strerror}), "
                "and without a lock two runs could write it at once; "
                "choose a place on another file system, or mount this one with locks"
            ) from error
        if is_at(path, file):
            return file
        file.close()  # the run that held it has just removed it


def is_at(path: Path, file: BinaryIO) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def unlock(path: Path, file: BinaryIO) -> None:
    """Give a lock back.

    A file that is still empty is removed first, so that a refused run leaves nothing.
    """
    with contextlib.suppress(OSError):
        if os.fstat(file.fileno()).st_size == 0 and is_at(path, file):
            os.unlink(path)
    file.close()


def make_parents(path: Path) -> list[Path]:
    """Create the directories above a file; returns those that were missing, the innermost first."""
    made = [parent for parent in path.absolute().parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    return made


def remove_empty(folders: list[Path]) -> None:
    """Remove directories, the innermost first, up to the first one that holds something."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


class OutputLock:
    """The journals of an output while one run is at work on it, as a context manager.

    A run holds its own journal, which is created for that, and all others that there are. Shards
    hold their own, and with each other the journal of runs without shards, so that no such run is
    at work beside them. Raises Held if another run is at work, and ValueError if the file system
    has no locks.
    """

    def __init__(self, output: Path, shard: int = 0, num_shards: int = 1):
        self.output = output
        self.num_shards = num_shards
        self.own = own_journal(output, shard, num_shards)
        self.held = {}
        self.made = []

    def __enter__(self):
        self.made = make_parents(self.output)
        try:
            self.held[self.own] = lock(self.own)
            for path in journals_of(self.output):
                if path == self.own:
                    continue
                if self.num_shards == 1:
                    self.held[path] = lock(path)
                elif path == own_journal(self.output):
                    self.held[path] = lock(path, shared=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def paths(self) -> list[Path]:
        """The journals that are held, in order."""
        return sorted(self.held)

    def replace_own(self, complete: Path) -> None:
        """Put a complete file in the place of our own journal.

        There is no moment in which another run could lock it.
        """
        file = lock(complete)
        os.replace(complete, self.own)
        self.held[self.own].close()
        self.held[self.own] = file

    def __exit__(self, *_):
        for path, file in self.held.items():
            if path == self.own or self.num_shards == 1:
                unlock(path, file)
            else:
                file.close()
        remove_empty(self.made)


def own_journal(output: Path, shard: int = 0, num_shards: int = 1) -> Path:
    """The journal that a run, or one shard of it, writes."""
    share = "" if num_shards == 1 else f"-{shard}of{num_shards}"
    return output.with_name(f"{output.name}.trace{share}.jsonl")


def journals_of(output: Path) -> list[Path]:
    """All journals beside an output that exist, the single one and those of shards."""
    name = re.compile(re.escape(output.name) + r"\.trace(-\d+of\d+)?\.jsonl")
    found = []
    with contextlib.suppress(FileNotFoundError):
        found = [path for path in output.parent.iterdir() if name.fullmatch(path.name)]
    for path in found:
        check_regular(path)
    return sorted(found)


def open_journal(path: Path) -> BinaryIO:
    """Open one of journals_of() for reading; one that is gone meanwhile reads as empty.

    A run that is refused has made its journal to lock it, and removes it again. What others read
    in that moment is empty either way.
    """
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return io.BytesIO()
