"""How processes end that launch.py starts: real ones of accelerate, which run a script of a few lines."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from distill.stopping import SAID
from helpers import ROOT, assert_gone, descendants

FLAGS = ["--config_file", str(ROOT / "accelerate_configs" / "ddp.yaml"), "--num_processes", "2"]
ONE = ["--config_file", str(ROOT / "accelerate_configs" / "single_gpu.yaml")]


def launch(tmp_path, flags, script):
    """launch.py with processes that run `script` in tmp_path; it leads a process group, as it does at a terminal."""
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, ROOT / "launch.py", *flags, tmp_path / "script.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes)


WAITS = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a process that is deep in a library
open("begun-" + os.environ.get("RANK", "0"), "w").close()
time.sleep(600)
"""

CHECKS = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from distill.stopping import end_at_signals
end_at_signals()
open("begun", "w").close()
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("flags", "processes", "number"),
    [(FLAGS, 2, signal.SIGINT), (FLAGS, 2, signal.SIGTERM), (ONE, 1, signal.SIGTERM)],
)
def test_a_signal_ends_all_in_one_line(flags, processes, number, tmp_path):
    process = launch(tmp_path, flags, WAITS)
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("begun-*"))) < processes:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)
    below = descendants(process)
    assert len(below) >= processes
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal sends it
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert (stdout, stderr.splitlines()) == ("", [SAID])
    assert_gone(below)


def test_a_signal_ends_a_launcher_that_waits_for_another_machine(tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    machines = ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "127.0.0.1"]
    process = launch(tmp_path, [*FLAGS, *machines, "--main_process_port", str(port)], WAITS)
    time.sleep(4)  # it is importing first, and nothing tells that it waits
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == 143
    lines = stderr.splitlines()  # PyTorch may say first that it was interrupted while it was connecting
    assert stdout == "" and lines[-1] == SAID and lines.count(SAID) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_launch_ends_the_check(number, tmp_path):
    """The script says what is to be said then."""
    (tmp_path / "script.py").write_text(CHECKS)
    environment = {**os.environ, "NUM_PROCESSES": "2", "TRAIN_SCRIPT": str(tmp_path / "script.py")}
    command = ["bash", ROOT / "train_trl.sh"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes)
    while not list(tmp_path.glob("begun")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    below = descendants(process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert (stdout, stderr.splitlines()) == ("", [SAID])
    assert_gone(below)


FAILS = """
import os, signal, sys, time
if os.environ.get("RANK", "0") != "{rank}":
    time.sleep(600)
{how}
"""


@pytest.mark.parametrize(
    ("flags", "rank", "how", "code", "said"),
    [
        (FLAGS, 1, "sys.exit('why')", 1, ["why", "launch.py: the process of rank 1 ended with exit code 1"]),
        (FLAGS, 0, "os._exit(2)", 2, ["launch.py: the process of rank 0 ended with exit code 2"]),
        (FLAGS, 1, "os.kill(0, signal.SIGKILL)", 137, ["launch.py: the process of rank 1 was ended by SIGKILL"]),
        (FLAGS, 0, "os._exit(143)", 143, [SAID]),  # somebody has ended it and not the launcher
        (ONE, 0, "os._exit(2)", 2, ["launch.py: the process of rank 0 ended with exit code 2"]),
    ],
)
def test_a_failed_process_ends_all_with_its_exit_code(flags, rank, how, code, said, tmp_path):
    process = launch(tmp_path, flags, FAILS.format(rank=rank, how=how))
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code
    assert (stdout, stderr.splitlines()) == ("", said)
