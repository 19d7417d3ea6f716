"""A signal ends a run even where what its handler raises gets lost."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil

from distill import stopping
from distill.labels.labelling import record_rows
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


def records_rows(ready, path):
    """A run whose library has caught what the handler raised; it records rows for ever."""
    stop = stopping.UnwindAtSignals("stopped")
    stop.listen()
    try:
        ready.put(0)
        time.sleep(600)
    except SystemExit:
        pass
    record = {"answer": "en", "reason": None, "attempts": []}
    record_rows(((index, record) for index in itertools.count()), Rows(path), 0, 0)


class Rows:
    """In place of a journal."""

    def __init__(self, path):
        self.path = path

    def record(self, index, **record):
        with open(self.path, "a") as file:
            file.write(f"{index}\n")

    def count(self, attempts):
        pass


def test_a_run_that_has_lost_the_signal_records_one_row_more(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.SimpleQueue()
    process = context.Process(target=records_rows, args=[ready, tmp_path / "rows"])
    process.start()
    ready.get()
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    process.join(20)
    assert process.exitcode == 143
    assert (tmp_path / "rows").read_text() == "0\n"
