"""serve.py as a process of its own, in front of whatever servers a test has."""

import contextlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

import openai

from helpers import ENDS, HANGS, ROOT

READY = re.compile(r"serve\.py: (http://\S+?)/v1, student ")


class Cascade:
    """A running serve.py: `url` without /v1, `client`, `process`, and what it has said so far."""

    def __init__(self, process, log):
        self.process = process
        self.log = log
        self.url = ""
        self.client = None

    def said(self) -> str:
        return self.log.read_text()

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
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=ENDS)
        return out


@contextlib.contextmanager
def cascade(log, *flags, env=None, key="none"):
    """serve.py under some flags, on a free port; it is ended when the test is over."""
    command = [sys.executable, ROOT / "serve.py", "--port", 0, *flags]
    with open(log, "w") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=env,
            cwd="/",
        )
    found = Cascade(process, log)
    try:
        end = time.monotonic() + HANGS
        while not READY.search(found.said()):
            assert process.poll() is None and time.monotonic() < end, found.said()
            time.sleep(0.05)
        found.url = READY.search(found.said())[1]
        settings = {"base_url": f"{found.url}/v1", "api_key": key, "max_retries": 0}
        with openai.OpenAI(**settings) as found.client:
            yield found
    finally:
        process.kill()
        process.communicate(timeout=ENDS)
