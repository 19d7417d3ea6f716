"""What was handed over, as rows for the next training: chats with the teacher's answer.

Appended in step 1's format, with a journal beside it, both readable by their owner alone: these are
users' texts. Each input is written once, the first time. A line is whole or not there.
"""

import json
import logging
import os
import time
from pathlib import Path

from distill.cascade.cascade import Outcome
from distill.chats import input_hash, read_chat
from distill.locks import lock, make_parents, own_journal
from distill.outputs import beside, first_header
from distill.teacher.attempts import AttemptSettings

log = logging.getLogger("serve")
OWNER_ALONE = 0o600


class HandedOver:
    """The file and its journal, open for appending until close().

    Raises ValueError or OSError if they are not what this has written, or cannot be written.
    """

    def __init__(self, path: Path, run: dict, settings: AttemptSettings):
        refuse_others(path)
        self.path = path
        self.settings = settings
        make_parents(path)
        self.rows = Lines(path)
        self.journal = Lines(own_journal(path))
        self.known = set()
        for _, (*asked, _) in read_chat(path, "assistant"):
            self.known.add(input_hash(asked))
        self.failed = False
        self.journal.append({"run": run})

    def add(self, messages: list[dict], outcome: Outcome) -> None:
        """Append one input with the teacher's answer, unless it is there.

        A disk that is full ends this, and not the server.
        """
        name = input_hash(messages)
        if self.failed or name in self.known:
            return
        answer = outcome.attempts[-1].answer
        record = {
            "index": len(self.known),
            "hash": name,
            "answer": answer,
            "reason": None,
            "agreement": 1.0,
            "attempts": [attempt.recorded(self.settings) for attempt in outcome.attempts],
            "confidence": outcome.confidence,
            "why": outcome.why,
            "time": round(time.time(), 3),
        }
        try:
            self.journal.append(record)
            self.rows.append({"messages": [*messages, {"role": "assistant", "content": answer}]})
        except OSError as error:
            self.failed = True
            log.error("serve.py: %s; nothing more is written to %s", error, self.path)
            return
        self.known.add(name)

    def close(self) -> None:
        """Close both files, and give their locks back."""
        self.rows.close()
        self.journal.close()


def refuse_others(path: Path) -> None:
    """Raise ValueError for a file that serve.py has not begun, such as the labels of step 1."""
    journal = own_journal(path)
    run = first_header(journal) if journal.exists() else None
    of_step_1 = run is not None and "inputs" in run
    if run is None and path.exists():  # its journal may have been removed: it has users' texts
        of_step_1 = beside(path, "manifest.json").exists()
        for _ in read_chat(path, "assistant"):
            pass  # raises for what is no chat
        with open(path, "rb") as file:
            if whole_lines(file) < path.stat().st_size:
                raise ValueError(f"{path}: the end of its last line is missing; add a line break")
    if of_step_1:
        raise ValueError(f"{path}: is labels of step 1; choose another --handed_over_file")


class Lines:
    """A file of JSON lines that is appended to by one process alone."""

    def __init__(self, path: Path):
        # made before it is locked, so that it never was readable by others
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, OWNER_ALONE))
        self.path = path
        self.file = lock(path)
        os.fchmod(self.file.fileno(), OWNER_ALONE)
        self.end = whole_lines(self.file)
        self.file.truncate(self.end)  # a run that was killed may have left half a line

    def append(self, line: dict) -> None:
        """Append one line; raises OSError, and then nothing of it is there."""
        text = json.dumps(line, ensure_ascii=False) + "\n"
        content = memoryview(text.encode("utf-8", errors="backslashreplace"))
        try:
            while content:
                content = content[os.write(self.file.fileno(), content) :]
        except OSError:
            self.file.truncate(self.end)
            raise
        self.end += len(text.encode("utf-8", errors="backslashreplace"))

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def whole_lines(file) -> int:
    """Up to where a file, open for reading bytes, consists of whole lines."""
    file.seek(0)
    end = 0
    for line in file:
        if line.endswith(b"\n"):
            end += len(line)
    return end
