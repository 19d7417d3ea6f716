"""How step 2 ends at Ctrl-C and at SIGTERM: at once, in one line, in whatever phase it is."""

import os
import signal
import sys

SAID = "train_sft_trl.py: stopped; the same command goes on from the last complete checkpoint"


def end_at_signals() -> None:
    """End this process with exit code 130 at SIGINT and 143 at SIGTERM, from now on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def end(number: int, _) -> None:
    """Say it once, on rank 0, and end without unwinding.

    Some libraries catch what a handler raises, or wait at their end for other processes that are gone. What is half
    written then is not taken for complete: it is as after SIGKILL.
    """
    if os.environ.get("RANK", "0") == "0":
        print(SAID, file=sys.stderr)
    sys.stdout.flush()
    os._exit(128 + number)
