"""What several test files share: running a script as a user does, and the stages of the tiny pair, each made once."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
TEACHER, STUDENT = ROOT / "models" / "tiny-thinking", ROOT / "models" / "tiny-instruct"
SENTENCES = ROOT / "example-data" / "multilingual.txt"


def run(*command, code=0, **kwargs):
    """Run a command from another directory than the repository's; returns the finished process."""
    kwargs = {"cwd": "/", "env": os.environ, **kwargs}
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, **kwargs)
    assert result.returncode == code, result.stdout[-2000:] + result.stderr[-4000:]
    return result


def python(script, *flags, **kwargs):
    """Run one of the scripts."""
    return run(sys.executable, ROOT / script, *flags, **kwargs)


def fails(script, *flags):
    """Run a script that must refuse: exit code 2 and one line on stderr, which is returned."""
    result = python(script, *flags, code=2)
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stdout == ""
    return result.stderr


def last_json(result):
    return json.loads(result.stdout.strip().splitlines()[-1])


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def descendants(process):
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes, seconds=10):
    """None of them runs any more; a zombie that nobody has collected yet does not."""
    end = time.monotonic() + seconds
    alive = processes
    while alive and time.monotonic() < end:
        alive = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        time.sleep(0.02)
    assert not alive


@pytest.fixture(scope="session")
def pair():
    python("tests/tiny_pair.py")


@pytest.fixture(scope="session")
def labelled(pair, tmp_path_factory):
    """Step 1 over all sentences: (output file, JSON line)."""
    output = tmp_path_factory.mktemp("data") / "labels.jsonl"
    flags = ["--model_name", TEACHER, "--input_file", SENTENCES, "--output_file", output, "--max_tokens", 256]
    return output, last_json(python("create_data.py", *flags))


@pytest.fixture(scope="session")
def distilled(labelled, tmp_path_factory):
    """Step 2 on what step 1 wrote: (adapter directory, JSON line)."""
    adapter = tmp_path_factory.mktemp("adapter") / "out"
    config = ["--config", ROOT / "configs" / "tiny.yaml"]
    return adapter, last_json(run("bash", ROOT / "train_trl.sh", STUDENT, adapter, labelled[0], *config))


@pytest.fixture(scope="session")
def evaluated(distilled, tmp_path_factory):
    """Step 3 on what step 2 trained; of 21 inputs without gold one is far too long: (report directory, process)."""
    further = tmp_path_factory.mktemp("further") / "inputs.txt"
    lines = [*SENTENCES.read_text(encoding="utf-8").splitlines()[:20], "hola " * 20000]
    further.write_text("\n".join(lines), encoding="utf-8")
    flags = ["--teacher_model", TEACHER, "--student_model", STUDENT, "--adapter", distilled[0], "--max_tokens", 256]
    flags += [
        "--test_file",
        ROOT / "example-data" / "heldout.jsonl",
        "--inputs_without_gold",
        further,
        "--latency_rows",
        20,
    ]
    prices = ["--price_input", 0.1, "--price_cached", 0.01, "--price_output", 0.4]
    return distilled[0] / "report", python("evaluate.py", *flags, *prices)
