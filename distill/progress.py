"""Progress bars of all steps: one line on a terminal, and in a log file one every 30 s.

Ours are made by bar(). Those of the libraries (weights that are loaded, a model that is saved) are
tqdm's too, and follow the same rules through its variables of the environment. That a bar's states
are lines in a log file is up to distill/streams.py.
"""

import os
import sys

ON_TERMINAL = 1  # seconds between two states of a bar
IN_LOG = 30
WIDTH = 80  # columns of a terminal that does not say it
LATER = 5  # seconds after which work that is mostly short gets a bar


def is_terminal() -> bool:
    """Whether this process's stderr is one."""
    return sys.stderr is not None and sys.stderr.isatty()


def seconds_between() -> int:
    """Seconds between two states of a bar there."""
    return ON_TERMINAL if is_terminal() else IN_LOG


def bars_of_libraries() -> None:
    """Let the bars of libraries come late and seldom, here and in the processes below this one.

    To be called before tqdm is imported, which reads the environment once.
    """
    os.environ.setdefault("TQDM_DELAY", str(LATER))
    os.environ.setdefault("TQDM_MININTERVAL", str(seconds_between()))
    os.environ.setdefault("TQDM_MAXINTERVAL", str(seconds_between()))


def bar(iterable=None, later: bool = False, of_first: bool = False, **settings):
    """Make a bar of tqdm with its `settings`, around an iterable if one is given.

    `later`: it appears only after some seconds, for what mostly takes no longer. `of_first`: of
    the processes of a launch only the first one shows it. The user's own TQDM_DISABLE holds here
    too.
    """
    # here, or it would be imported before bars_of_libraries() was called
    from tqdm import tqdm

    if is_terminal():
        # one that does not say how wide it is would get a bar of no width
        known = os.get_terminal_size(sys.stderr.fileno()).columns
        settings["dynamic_ncols"] = bool(known)  # it may be resized
        settings["ncols"] = None if known else WIDTH
    if of_first and os.environ.get("RANK", "0") != "0":
        settings["disable"] = True
    return tqdm(
        iterable,
        delay=LATER if later else 0,
        mininterval=seconds_between(),
        maxinterval=seconds_between(),
        miniters=1,  # else tqdm guesses after how many it is time to look at the clock
        **settings,
    )
