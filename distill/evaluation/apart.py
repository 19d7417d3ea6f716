"""Functions that run in a process of their own.

What they hold, GPU memory too, is given back when they end. Where a script is the main program, its
`__mp_main__` runs first in such a process.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker

from distill.cli import ROOT, one_line
from distill.quiet import is_cpu_build, leave_out_noise
from distill.teacher.engine import EngineFailed
from distill.teacher.http import ServerEnded

log = logging.getLogger("evaluate")
ENDS = 10  # seconds in which a killed process is gone


def end_at_signals() -> None:
    """End at Ctrl-C and SIGTERM, and with us the processes of the systems, from now on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def stop(number, _):
    """End all; what was scored is kept."""
    processes = multiprocessing.active_children()
    for process in processes:
        process.kill()  # its engine ends with it
    for process in processes:
        process.join(ENDS)  # what it was writing is removed at our end
    log.error("evaluate.py: stopped; what was scored is kept, the same command goes on from there")
    sys.exit(128 + number)


def fork_quickly():
    """The way to start processes that have the libraries of step 3 at once.

    They are forks of a server, which imports the libraries: most of the time in which an engine
    starts without a GPU. With a GPU they are none: what is forked cannot use CUDA if anything there
    has touched it.
    """
    if not is_cpu_build():
        return multiprocessing.get_context("spawn")
    forkserver.set_forkserver_preload(["distill.evaluation.libraries"])
    known = os.environ.get("PYTHONPATH")
    path = f"{ROOT}{os.pathsep}{known}" if known else str(ROOT)
    resource_tracker.ensure_running()  # the server would start it, and let Ctrl-C through again
    # Ctrl-C is for the script alone, also while the server imports
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        # the server looks for modules in this repository, and not in the working directory first
        with in_environment(PYTHONPATH=path, PYTHONSAFEPATH="1"):
            forkserver.ensure_running()
    except OSError:  # the path of its socket is too long, as below a long TMPDIR
        return multiprocessing.get_context("spawn")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def in_environment(**variables: str):
    """Environment variables for what is started meanwhile; afterwards they are as before."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Apart:
    """A process of its own, as a context manager.

    What a function holds is given back when it ends. `quickly`: as fork_quickly() starts it.
    """

    def __init__(self, quickly: bool = False):
        self.quickly = quickly
        self.pool = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def call(self, function, *arguments):
        """Call a function there, in the process that is there or a new one.

        Raises what it raises.
        """
        if self.pool is None:
            # before Python's tracker starts, which is ours, for all processes below us
            leave_out_noise()
            how = fork_quickly() if self.quickly else multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(1, mp_context=how)
        try:
            return self.pool.submit(function, *arguments).result()
        except EOFError:
            raise BrokenProcessPool("what imports the libraries has ended") from None

    def run(self, function, *arguments):
        """The same for what may raise anything; RuntimeError if it fails."""
        return self.call(in_child, function, *arguments)

    def end(self):
        """End the process, if there is one."""
        if self.pool:
            self.pool.shutdown()
        self.pool = None


class Here:
    """The same in this process, where no engine is started and so nothing large is loaded.

    A process of its own would first import the libraries of the engines, which takes longest.
    """

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def call(self, function, *arguments):
        """Call a function; raises what it raises."""
        return function(*arguments)

    def run(self, function, *arguments):
        """The same for what may raise anything; RuntimeError if it fails."""
        return in_child(function, *arguments)

    def end(self):
        """There is nothing to be ended."""


def apart(function, *arguments):
    """Run one function in a process of its own, so that it gives all its memory back.

    Raises EngineFailed if an engine in it cannot start, ServerEnded if a server in it does not go
    on, and RuntimeError if it fails otherwise.
    """
    with Apart() as process:
        return process.run(function, *arguments)


def in_child(function, *arguments):
    try:
        return function(*arguments)
    except (EngineFailed, ServerEnded):
        raise
    except Exception as error:  # some of vLLM's cannot be sent to the parent
        traceback.print_exc()
        raise RuntimeError(f"{type(error).__name__}: {one_line(error)}") from None
