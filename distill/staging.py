"""A directory in which one run at a time makes something large that is not complete yet.

No torch, no vLLM.

It lies on the disk where the result is to be, and holds a file that marks it as ours, on which the
run that is at work has a lock, and a merged copy of the student. What a killed run has left is
removed by the next one.
"""

import logging
import os
import shutil
from pathlib import Path

from distill.locks import lock, make_parents, remove_empty

log = logging.getLogger("evaluate")


class Staging:
    """Such a directory while one run is at work in it, as a context manager.

    Raises ValueError if the directory is not ours or another run is at work. At the end nothing
    stays but what others than this class have put there.
    """

    def __init__(self, folder: Path, script: str, flag: str, text: str):
        """`script` makes it and `flag` says where it lies.

        `text` tells people who find it what it is.
        """
        self.folder = folder
        self.script = script
        self.flag = flag
        self.text = text
        self.mark = folder / f"made-by-{Path(script).stem}.txt"
        self.merged = folder / "merged"
        self.made = []
        self.lock = None

    def __enter__(self):
        self.made = make_parents(self.mark)
        try:
            if not self.mark.exists() and any(self.folder.iterdir()):
                raise ValueError(
                    f"{self.folder}: is not {self.script}'s; "
                    f"move it away or choose another {self.flag}"
                )
            self.lock = lock(self.mark)
            if not self.mark.stat().st_size:
                self.mark.write_text(self.text, encoding="utf-8")
        except BaseException:
            self.end()
            remove_empty(self.made)
            raise
        if self.merged.exists():
            log.info("%s: removing the merged copy that a stopped run left", self.merged)
            self.remove_merged()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self) -> None:
        """Remove what is not complete, and the directory if nothing else is in it.

        Without a lock, do nothing. A signal's handler may call it at any moment, also while it is
        at work already.
        """
        if self.lock is None:
            return
        self.remove_merged()
        if self.folder.exists() and list(self.folder.iterdir()) == [self.mark]:
            self.mark.unlink(missing_ok=True)  # the last of all: what is left is never without it
            # what was made for it begins with the directory itself
            remove_empty(self.made or [self.folder])
        held = self.lock
        self.lock = None  # from here on another run may be at work
        held.close()

    def remove_merged(self) -> None:
        """Remove the merged copy, if there is one."""
        shutil.rmtree(self.merged, ignore_errors=True)

    def move_merged(self, target: Path) -> None:
        """Give the complete copy its own name, at once and as a whole.

        Raises ValueError if something is there.
        """
        try:
            os.rename(self.merged, target)
        except OSError as error:
            reason = f"the merged model cannot be put there ({error.strerror.lower()})"
            raise ValueError(f"{target}: {reason}; choose another {self.flag}") from error
