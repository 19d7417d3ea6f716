"""vLLM's engine as the scripts start and end it: its settings, why it cannot start, and what is
left of it.
"""

import contextlib
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from distill.teacher import engine
from distill.teacher.engine import CACHE_VARIABLE, EngineFailed, engine_arguments, find_nvcc
from helpers import (
    AS_A_USER,
    ENDS,
    HANGS,
    ROOT,
    SENTENCES,
    STUDENT,
    TEACHER,
    assert_gone,
    descendants,
    in_fork,
    labelling_flags,
    python,
    trace,
)

# On a CPU the engine runs in the script's own process unless this says otherwise; on a GPU it has
# one of its own.
APART = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", **AS_A_USER}
# GiB that only the engine's processes compare with the machine's memory
TOO_LARGE = {**APART, "VLLM_CPU_KVCACHE_SPACE": "4000"}


def put_nvcc(folder: Path) -> Path:
    """A stand-in for CUDA's compiler in a folder's bin."""
    path = folder / "bin" / "nvcc"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def no_nvcc(tmp_path, monkeypatch):
    """A machine on which no CUDA compiler can be found, and on which nobody has chosen a
    sampler.
    """
    for name in ("CUDA_HOME", "CUDA_PATH", "VLLM_USE_FLASHINFER_SAMPLER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(engine, "CUDA_DIRECTORY", str(tmp_path / "cuda"))


def test_nvcc_is_looked_for_where_flashinfer_does(no_nvcc, tmp_path, monkeypatch):
    assert find_nvcc() is None
    on_path = put_nvcc(tmp_path / "path")
    in_directory = put_nvcc(tmp_path / "cuda")
    assert find_nvcc() == str(in_directory)
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_nvcc() == str(on_path)
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "toolkit"))
    assert find_nvcc() is None  # what is named is not there, and nothing else is looked at
    named = put_nvcc(tmp_path / "toolkit")
    assert find_nvcc() == str(named)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "other"))
    assert find_nvcc() is None


def sampler(monkeypatch, caplog) -> tuple[str | None, str]:
    """What VLLM_USE_FLASHINFER_SAMPLER is when a GPU's engine is about to start, and what was said
    of it.
    """
    from vllm.platforms import current_platform

    monkeypatch.setattr(type(current_platform), "is_cuda", lambda self: True)
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)
    caplog.clear()
    engine_arguments("a-model")
    said = "\n".join(record.getMessage() for record in caplog.records if record.name == "engine")
    return os.environ.get("VLLM_USE_FLASHINFER_SAMPLER"), said


def test_a_gpu_without_nvcc_samples_with_pytorch_and_says_so_once(no_nvcc, monkeypatch, caplog):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    chosen, said = sampler(monkeypatch, caplog)
    assert chosen == "0" and said.startswith("no nvcc in ") and "\n" not in said
    assert sampler(monkeypatch, caplog) == ("0", "")


def test_flashinfer_samples_where_it_can_or_is_asked_for(no_nvcc, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")
    assert sampler(monkeypatch, caplog) == ("1", "")
    monkeypatch.delenv("VLLM_USE_FLASHINFER_SAMPLER")
    monkeypatch.setenv("PATH", str(put_nvcc(tmp_path / "path").parent))
    assert sampler(monkeypatch, caplog) == (None, "")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(engine, "find_spec", lambda name: name == "flashinfer_jit_cache" or None)
    assert sampler(monkeypatch, caplog) == (None, "")


def test_a_cpu_needs_no_nvcc_and_counts_nothing_unless_it_is_asked_to(no_nvcc, caplog):
    assert engine_arguments("a-model").disable_log_stats
    assert not engine_arguments("a-model", ["--log_stats"]).disable_log_stats
    assert engine_arguments("a-model", ["--disable_log_stats"]).disable_log_stats
    assert "VLLM_USE_FLASHINFER_SAMPLER" not in os.environ
    assert not [record for record in caplog.records if record.name == "engine"]


@pytest.mark.parametrize(
    ("said", "given", "expected"),
    [
        (None, [], (2 << 30, None)),
        ("", [], (2 << 30, "")),
        ("1", [], (None, "1")),  # which vLLM reads
        (None, ["--kv_cache_memory_bytes", "3G"], (3 << 30, None)),
        ("1", ["--kv-cache-memory-bytes=3221225472"], (3 << 30, None)),
    ],
    ids=["neither", "empty", "variable", "flag", "both"],
)
def test_on_a_cpu_the_flag_of_the_cache_counts_and_else_the_variable(
    said, given, expected, monkeypatch
):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    if said is not None:
        monkeypatch.setenv(CACHE_VARIABLE, said)
    found = engine_arguments("a-model", given).kv_cache_memory_bytes
    assert (found, os.environ.get(CACHE_VARIABLE)) == expected


def test_a_failed_start_reaches_another_process_as_it_is():
    sent = pickle.loads(pickle.dumps(EngineFailed("no room", "/tmp/x.log")))
    assert (sent.reason, sent.log_file) == ("no room", "/tmp/x.log")
    assert str(sent) == "the engine cannot start: no room (its log: /tmp/x.log)"
    assert str(EngineFailed("no room")) == "the engine cannot start: no room"


@pytest.fixture
def near():
    """A directory with a short path: that of an engine's socket has at most 107 characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["create_data.py", "evaluate.py"])
def test_an_engine_that_cannot_start(pair, near, script):
    """Step 1 in a test's fork, step 3 in processes as a user starts them."""
    flags = [
        "--model_name",
        TEACHER,
        "--input_file",
        SENTENCES,
        "--output_file",
        near / "out.jsonl",
    ]
    if script == "evaluate.py":
        heldout = ROOT / "example-data" / "heldout.jsonl"
        flags = ["--systems", "base", "--student_model", STUDENT, "--test_file", heldout]
        flags += ["--report_dir", near / "report"]
    environment = {**os.environ, **TOO_LARGE, "TMPDIR": str(near)}
    if script == "create_data.py":
        result = in_fork(ROOT / script, *flags, code=2, environment=environment)
    else:
        result = python(script, *flags, code=2, env=environment)
    said = result.stderr.splitlines()
    reasons = [line for line in said if "the engine cannot start: " in line]
    assert len(reasons) == 1 and reasons[0].startswith(f"{script}: "), result.stderr
    assert "is less than requested memory for kv (4000.0 GiB)" in reasons[0]
    assert (
        "Traceback" not in result.stderr and " ERROR " not in result.stderr and result.stdout == ""
    )
    assert "leaked" not in result.stderr
    assert "libtcmalloc" not in result.stderr  # which a worker would warn of before
    log_file = Path(re.search(r"\(its log: (.+)\)$", reasons[0])[1])
    log = log_file.read_text()
    assert log.count("Traceback (most recent call last)") >= 5
    assert [path for path in near.iterdir() if path.suffix in (".log", ".jsonl")] == [log_file]


@pytest.mark.slow
def test_an_engine_that_vllm_refuses_ends_in_one_line(pair, tmp_path):
    flags = [*labelling_flags(tmp_path / "out.jsonl"), "--max_model_len", 999999]
    result = python("create_data.py", *flags, code=2, env={**os.environ, **AS_A_USER})
    start, reason = result.stderr.splitlines()
    assert start.startswith("create_data.py: 2,101 inputs, 2,101 to ask, teacher ")
    refused = "create_data.py: the engine cannot start: User-specified max_model_len (999999)"
    assert reason.startswith(refused)
    assert result.stdout == ""


def shared_memory_of(processes) -> set[Path]:
    """The files in /dev/shm that some processes have mapped; others may use it at the same time."""
    used = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            used.update(
                Path(entry.path)
                for entry in process.memory_maps()
                if entry.path.startswith("/dev/shm/")
            )
    return {path for path in used if path.exists()}


@pytest.mark.slow
def test_ctrl_c_with_several_workers_leaves_nothing(pair, tmp_path):
    """In processes as a user starts them: on a CPU with AVX-512 the workers share memory that they
    give back as they exit, which a test's fork does not do.
    """
    output = tmp_path / "out.jsonl"
    flags = [*labelling_flags(output), "--tensor_parallel_size", 2, "--max_num_seqs", 4]
    command = [str(word) for word in [sys.executable, ROOT / "create_data.py", *flags]]
    threads = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    settings = {"env": {**os.environ, **APART, **threads}, "cwd": "/", "start_new_session": True}
    with open(tmp_path / "stderr", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, **settings)
    end = time.monotonic() + HANGS
    while not trace(output) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    family = descendants(process)
    used = shared_memory_of(family)
    sharing = [each for each in family if shared_memory_of([each])]
    os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(ENDS)
    said = (tmp_path / "stderr").read_text()
    if process.poll() is None:  # which fails the test below
        for each in [process, *family]:
            each.kill()
    assert process.returncode == 130, said[-3000:]
    assert len(sharing) >= 3, said[-3000:]
    assert_gone(family)
    assert not [path for path in used if path.exists()]
    assert "Traceback" not in said and "force killing" not in said and "leaked" not in said
