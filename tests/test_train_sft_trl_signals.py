"""How step 2 ends at signals, alone and under a wrapper."""

import os
import signal
import subprocess
import sys
import time

import pytest

from distill.stopping import SAID
from helpers import ENDS, HANGS, ROOT, assert_gone, descendants

# How long the start takes differs, so the second phase is waited for.
PHASES = {"imports": signal.SIGINT, "training": signal.SIGINT, "training, SIGTERM": signal.SIGTERM}


@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_ends_training_in_one_line(phase, endless, tmp_path):
    out = tmp_path / "out"
    command = [*endless, "--output_dir", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if phase == "imports":
        time.sleep(1)
    end = time.monotonic() + HANGS
    while phase != "imports" and not list(out.glob("checkpoint-*/complete.json")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1][-3000:]
        time.sleep(0.05)
    process.send_signal(PHASES[phase])
    _, stderr = process.communicate(timeout=ENDS)
    assert process.returncode == 128 + PHASES[phase]
    assert "Traceback" not in stderr
    if phase != "imports":
        last = stderr.splitlines()[-1]
        assert last == (
            "train_sft_trl.py: stopped; the same command goes on from the last complete checkpoint"
        )


def test_ctrl_c_ends_all_processes_of_a_wrapper_in_one_line(endless, tmp_path):
    """SIGINT goes to the process group, as a terminal sends it.

    Test_launch.py has the other signals and failures.
    """
    out = tmp_path / "out"
    command = ["bash", ROOT / "train_trl_multi_gpu.sh", *endless[2:], "--output_dir", out]
    environment = {**os.environ, "NUM_PROCESSES": "2", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    end = time.monotonic() + HANGS
    while not list(out.glob("checkpoint-*/complete.json")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1][-3000:]
        time.sleep(0.05)
    below = descendants(process)
    assert len(below) >= 2
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=ENDS)
    assert process.returncode == 130
    assert stderr.count(SAID) == 1 and stderr.splitlines()[-1].endswith(SAID)
    assert "Traceback" not in stderr and "torch.distributed" not in stderr
    assert_gone(below)


@pytest.fixture
def endless(small):
    """The command that trains a small random student for very long."""
    flags = [
        "--model_name",
        small / "base",
        "--train_file",
        small / "train.jsonl",
        "--use_cpu",
        "true",
    ]
    flags += [
        "--bf16",
        "false",
        "--max_steps",
        1000000,
        "--save_strategy",
        "steps",
        "--save_steps",
        20,
    ]
    flags += ["--disable_tqdm", "true"]
    return [sys.executable, str(ROOT / "train_sft_trl.py"), *map(str, flags)]
