"""Processes of forks.py that stop themselves at a point, so that a signal finds them there.

However late the test is told that they have come so far: one has been kept waiting for six seconds
by others on its cores, in which what it was to kill had finished.
"""

import contextlib
import os
import re
import signal
import threading
import time
from pathlib import Path

import psutil

REST_AT = "REST_AT"  # in the environment of a process: the file at which it stops
REST_AT_LINES = "REST_AT_LINES"  # and how many lines that file has then, each time that it stops
LONG = 900  # seconds; what has not come so far by then hangs


def rests_at(file: Path, *lines: int) -> dict[str, str]:
    """What a process has in its environment that stops once a file has so many lines, or is there.

    With several numbers it stops again, when it has gone on.

    So do the scripts that it starts, but none of its engines, which go on to what they wait for.
    """
    return {REST_AT: str(file), REST_AT_LINES: " ".join(map(str, lines or (0,)))}


def rests_after(journal: Path, rows: int) -> dict[str, str]:
    """The same for a run that has recorded so many rows, after its header, in a journal that may
    have lines of earlier runs.
    """
    return rests_at(journal, max(count_lines(journal), 0) + 1 + rows)


def count_lines(file: Path) -> int:
    """How many lines a file has; -1 where there is none."""
    try:
        return file.read_bytes().count(b"\n")
    except FileNotFoundError:
        return -1


def begin_to_watch(environment: dict[str, str]) -> None:
    """Stop this process when it is time, if its environment says so."""
    if environment.get(REST_AT):
        lines = [int(word) for word in environment[REST_AT_LINES].split()]
        where = (Path(environment[REST_AT]), lines)
        threading.Thread(target=rest, args=where, daemon=True).start()


def without_rest(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a process that does not stop."""
    others = environment.keys() - {REST_AT, REST_AT_LINES}
    return {name: environment[name] for name in others}


def rest(file: Path, lines: list[int]) -> None:
    for wanted in lines:
        while count_lines(file) < wanted:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGSTOP)


def wait_for_rest(process, among=lambda: ()) -> psutil.Process:
    """Wait until a process, or one of those that `among` finds, has stopped; returns that one."""
    end = time.monotonic() + LONG
    while process.is_alive():
        assert time.monotonic() < end
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in (psutil.Process(process.pid), *among()):
                if each.status() == psutil.STATUS_STOPPED:
                    return each
        time.sleep(0.02)
    raise AssertionError(f"ended with {process.exitcode} instead of stopping")


def wait_until_told(process: psutil.Process, number: int) -> None:
    """Wait until a process that rests will be told of a signal as soon as it goes on."""
    pending = 0
    while not pending >> number - 1 & 1:
        status = Path(f"/proc/{process.pid}/status").read_text()
        pending = int(re.search(r"ShdPnd:\s*(\w+)", status)[1], 16)
        time.sleep(0.005)


def go_on(process) -> None:
    """Let a process with a group of its own go on, and all that rest in it."""
    os.killpg(process.pid, signal.SIGCONT)
