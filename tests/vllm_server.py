"""vLLM's own server of the OpenAI protocol, on loopback."""

import contextlib
import os
import runpy
import socket
import sys
import time

import openai

from forks import begin_as_process, start
from helpers import ENDS, HANGS, assert_gone, descendants

MODULE = "vllm.entrypoints.openai.api_server"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(flags, environment, log):
    """What `python -m MODULE flags` does, with its output in a file."""
    begin_as_process(environment)
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = [MODULE, *flags]
    runpy.run_module(MODULE, run_name="__main__")


@contextlib.contextmanager
def server(log, model, *flags, port=None, killed=False):
    """vLLM's OpenAI server for a model; gives the client.

    It is a fork of a process that has the libraries, as the scripts are. No process is left when it
    has been stopped: by SIGTERM, at which it answers what it has begun, or `killed` with all its
    processes.
    """
    port = port or free_port()
    given = ["--model", model, "--port", port, *flags, "--enforce-eager"]
    given += ["--block-size", 32]  # as an engine of ours: fewer tokens miss the prefix cache
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process less, which would import all again
    log.touch()
    process = start(serve, [str(flag) for flag in given], env, str(log))
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    try:
        end = time.monotonic() + HANGS
        while True:
            assert process.is_alive() and time.monotonic() < end, log.read_text()[-3000:]
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
        process.join(ENDS)
        assert_gone(processes, 30)
