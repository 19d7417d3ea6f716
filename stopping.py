"""How step 2 ends at Ctrl-C and at SIGTERM: at once, in one line, in whatever phase it is."""

import contextlib
import os
import signal
import sys

SAID = "train_sft_trl.py: stopped; the same command goes on from the last complete checkpoint"


def end_at_signals() -> None:
    """End this process with exit code 130 at SIGINT and 143 at SIGTERM, from now on."""
    here = os.getpid()

    def stop(number: int, _) -> None:
        end(number, says=os.getpid() == here and os.environ.get("RANK", "0") == "0")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def end(number: int, says: bool) -> None:
    """Say it, where that is this process's part, and end without unwinding.

    Some libraries catch what a handler raises, or wait at their end for other processes that are gone. What is half
    written then is not taken for complete: it is as after SIGKILL.
    """
    if says:
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), f"{SAID}\n".encode())  # print() may be at work already
    os._exit(128 + number)
