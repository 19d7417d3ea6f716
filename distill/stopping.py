"""How scripts end at Ctrl-C and at SIGTERM: in one line, in whatever phase they are."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

import psutil

log = logging.getLogger("create_data")
END_WITHIN = 30.0  # seconds; an engine split over several GPUs is given 10 for its own end
SAID = "train_sft_trl.py: stopped; the same command goes on from the last complete checkpoint"
# environment variable: launch.py says it, for all its processes
LAUNCHER_SAYS = "LAUNCHER_SAYS_STOPPED"


def end_at_signals(said: str = SAID, clean_up: Callable[[], None] | None = None) -> None:
    """End this process with exit code 130 at SIGINT and 143 at SIGTERM, from now on.

    `clean_up` is called first, in this process alone. The line `said` comes from rank 0.
    """
    here = os.getpid()
    is_main = os.environ.get("RANK", "0") == "0" and LAUNCHER_SAYS not in os.environ

    def stop(number: int, _) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C would say it twice
        if clean_up is not None and os.getpid() == here:
            clean_up()
        end(number, said if is_main and os.getpid() == here else "")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def end(number: int, said: str) -> None:
    """Say it, unless it is empty, and end without unwinding.

    Some libraries catch what a handler raises, or wait at their end for other processes that are
    gone. What is half written then is not taken for complete: it is as after SIGKILL.
    """
    if said:
        say_stopped(said)
    os._exit(128 + number)


def say_stopped(said: str = SAID) -> None:
    """Write the one line `said`; print() may be at work already, and the terminal may be gone."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"{said}\n".encode())


def end_anyway(code: int) -> None:
    """End this process with `code` after END_WITHIN seconds, if it has not ended by then.

    What a signal's handler raises can be lost: Python drops it where it runs inside a destructor,
    and some libraries catch it.
    """
    last_resort = threading.Timer(END_WITHIN, end_with_children, [code])
    last_resort.daemon = True
    last_resort.start()


def end_with_children(code: int) -> None:
    """End all processes below this one, and then this one, without unwinding."""
    end_children()
    os._exit(code)


def end_children(but: Sequence[psutil.Process] = ()) -> None:
    """Kill all processes below this one, `but` some, and wait until they are gone.

    The next run then finds all they held free.
    """
    children = [c for c in psutil.Process().children(recursive=True) if c not in but]
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=10)


class UnwindAtSignals:
    """The handler of a run that says so at SIGINT and SIGTERM and unwinds.

    Its engine ends too. Whoever sends a signal twice does not want to wait for that. `code` is
    the exit code of the first signal, 0 so far.
    """

    def __init__(self, message: str):
        self.message = message
        self.code = 0
        self.seen: set[int] = set()

    def listen(self) -> None:
        """Be the handler of both signals from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self)

    def __call__(self, number: int, _) -> None:
        if number in self.seen:
            os._exit(128 + number)
        self.seen.add(number)
        if self.code:
            return
        self.code = 128 + number
        log.error(self.message)
        end_anyway(self.code)
        sys.exit(self.code)


def unwind_if_told() -> None:
    """Raise the SystemExit of a signal that has come, in case a library has caught its first one.

    UnwindAtSignals ends the process anyway, but later, and until then it would go on.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, UnwindAtSignals) and handler.code:
        sys.exit(handler.code)


def exit_code(returncode: int) -> int:
    """What a shell makes of a process's `returncode`, which is negative after a signal."""
    return 128 - returncode if returncode < 0 else returncode
