"""vLLM's own server of the OpenAI protocol, on loopback."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import openai

from helpers import ENDS, HANGS, assert_gone, descendants


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def server(log, model, *flags, port=None, killed=False):
    """vLLM's OpenAI server for a model; gives the client.

    No process is left when it has been stopped: by SIGTERM, at which it answers what it has begun,
    or `killed` with all its processes.
    """
    port = port or free_port()
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        model,
        "--port",
        port,
        *flags,
    ]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}
    with open(log, "w") as file:
        process = subprocess.Popen(
            [str(c) for c in [*command, "--enforce-eager"]], stdout=file, stderr=file, env=env
        )
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    try:
        end = time.monotonic() + HANGS
        while True:
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            with contextlib.suppress(openai.OpenAIError):
                client.models.list()
                break
            time.sleep(0.5)
        yield client
    finally:
        processes = descendants(process)
        if killed:
            for each in [process, *processes]:
                each.kill()
        process.terminate()
        process.wait(ENDS)
        assert_gone(processes, 30)
