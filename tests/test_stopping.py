"""A signal ends a run even where what its handler raises gets lost."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil

from distill import stopping
from helpers import assert_gone


def goes_on_after_a_signal(ready):
    """A process whose library catches what the handler raises, with a process below it."""
    stopping.END_WITHIN = 0.2
    signal.signal(signal.SIGTERM, raises)
    below = subprocess.Popen(["sleep", "600"])
    while True:
        try:
            ready.put(below.pid)  # in here, for the signal may come before it returns
            time.sleep(600)
        except SystemExit:
            continue


def raises(*_):
    stopping.end_anyway(130)
    sys.exit(130)


def test_a_run_that_has_lost_the_signal_ends_all_the_same():
    context = multiprocessing.get_context("fork")
    ready = context.SimpleQueue()
    process = context.Process(target=goes_on_after_a_signal, args=[ready])
    process.start()
    below = psutil.Process(ready.get())
    os.kill(process.pid, signal.SIGTERM)
    process.join(20)
    assert process.exitcode == 130
    assert_gone([below])
