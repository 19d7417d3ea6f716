"""serve.py as a process of its own, in front of whatever servers a test has."""

import contextlib
import os
import re
import signal
import tempfile
import time
import urllib.request
from pathlib import Path

import openai

from forks import start_in_fork
from helpers import ENDS, HANGS, ROOT

READY = re.compile(r"serve\.py: (http://\S+?)/v1, student ")


class Cascade:
    """A running serve.py: `url` without /v1, `client`, `process`, and what it has said so far."""

    def __init__(self, process, folder):
        self.process = process
        self.folder = folder
        self.url = ""
        self.client = None

    def said(self) -> str:
        log = self.folder / "stderr"
        return log.read_text() if log.exists() else ""

    def ask(self, text, **settings):
        """The raw reply to one input."""
        chat = [{"role": "user", "content": text}]
        create = self.client.chat.completions.with_raw_response.create
        return create(model="cascade", messages=chat, **settings)

    def figures(self) -> dict[str, float]:
        """What /metrics says, by its names."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=ENDS) as reply:
            lines = reply.read().decode().splitlines()
        found = {}
        for line in lines:
            name, _, value = line.rpartition(" ")
            if not line.startswith("#"):
                found[name] = float(value)
        return found

    def end(self, number=signal.SIGINT) -> str:
        """End it by a signal; what it has written to stdout."""
        os.kill(self.process.pid, number)
        self.process.join(ENDS)
        return (self.folder / "stdout").read_text()


@contextlib.contextmanager
def cascade(within, *flags, key="none"):
    """serve.py under some flags, on a free port; it is ended when the test is over.

    What it says is in files of a new folder `within` another.
    """
    folder = Path(tempfile.mkdtemp(dir=within))
    process = start_in_fork(ROOT / "serve.py", "--port", 0, *flags, folder=folder)
    found = Cascade(process, folder)
    try:
        end = time.monotonic() + HANGS
        while not READY.search(found.said()):
            assert process.is_alive() and time.monotonic() < end, found.said()
            time.sleep(0.05)
        found.url = READY.search(found.said())[1]
        settings = {"base_url": f"{found.url}/v1", "api_key": key, "max_retries": 0}
        with openai.OpenAI(**settings) as found.client:
            yield found
    finally:
        process.kill()
        process.join(ENDS)
