"""serve.sh: what it refuses before a model is loaded, what it shows of a server that fails, and
that nothing is left of it. vLLM's part is played by a Python that is given in PYTHON, and with
GPU_BUILD that of its build for GPUs.
"""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

import serve_servers
from distill.cascade.servers import Model, on_gpus_of_its_own, start_server
from distill.teacher.engine import CACHE_VARIABLE
from helpers import ENDS, PROGRAMS, ROOT, assert_gone, run
from small_tokenizers import byte_tokenizer
from vllm_server import free_port

# `-m vllm...` fails or sleeps, as the test says, and may not heed TERM, as vLLM's server while it
# loads a model; anything else is Python
STAND_IN = """#!/usr/bin/env bash
if [ "$1" = -m ]; then
  if [[ "$*" == *"$DEAF"* ]]; then trap "" TERM; fi
  echo "$CUDA_VISIBLE_DEVICES $*"
  if [[ "$*" == *"$FAILS"* ]]; then # when the other one has begun
    while [ ! -s "$LOG_DIR/student.log" ]; do sleep 0.02; done
    echo "no such model" && exit 3
  fi
  sleep 100 & wait
fi
if [[ $1 == */serve_servers.py && -n ${GPU_BUILD:-} ]]; then set -- {gpu_build} "$@"; fi
exec {python} "$@"
"""


@pytest.fixture
def env(tmp_path):
    for name in ("a", "b"):
        byte_tokenizer().save_pretrained(tmp_path / name)
    python = tmp_path / "python"
    gpu_build = str(PROGRAMS / "gpu_build.py")
    python.write_text(
        STAND_IN.replace("{python}", sys.executable).replace("{gpu_build}", gpu_build)
    )
    python.chmod(0o755)
    further = {
        "PYTHON": str(python),
        "LOG_DIR": str(tmp_path),
        "STUDENT": str(tmp_path / "a"),
        "TEACHER": str(tmp_path / "b"),
        "STUDENT_GPUS": "0",
        "TEACHER_GPUS": "1,2",
        "STUDENT_PORT": str(free_port()),
        "TEACHER_PORT": str(free_port()),
        "FAILS": "nothing",
        "DEAF": "nobody",
        "ENDS_WITHIN": "1",
    }
    return {**os.environ, **further}


def test_wrong_flags_end_all_before_a_model_is_loaded(env):
    result = run("bash", ROOT / "serve.sh", "--threshold", 7, env=env, code=2, timeout=ENDS)
    assert "serve.py: --threshold 7.0: must be between 0 and 1" in result.stderr


def test_a_model_that_is_not_there_ends_all_before_the_other_is_loaded(env, tmp_path):
    env["STUDENT"] = str(tmp_path / "none")
    flags = ["--temperature", 1, "--threshold", 0.5]
    result = run("bash", ROOT / "serve.sh", *flags, env=env, code=2, timeout=ENDS)
    assert f"serve.py: {tmp_path}/none: no tokenizer that transformers can load" in result.stderr


def test_flags_with_a_quote_that_does_not_end_are_refused(env):
    env["TEACHER_FLAGS"] = "--max-model-len '8192"
    result = run("bash", ROOT / "serve.sh", env=env, code=2, timeout=ENDS)
    assert result.stderr == (
        "serve.sh: TEACHER_FLAGS=--max-model-len '8192: No closing quotation\n"
    )


PARSER = ["--reasoning-parser", "qwen3"]
FLAGS_OF_TEACHERS = {
    "a thinking one": ("", [], PARSER),
    "with a flag of vLLM's": ("--max-model-len 9000", [], [*PARSER, "--max-model-len", "9000"]),
    "with another parser": ("--reasoning_parser=r1", [], ["--reasoning_parser=r1"]),
    "as serve.py reads it": ("", ["--reasoning_parser", "r1"], ["--reasoning-parser", "r1"]),
    "one that does not think": ("", ["--reasoning_parser", "none"], []),
}


@pytest.mark.parametrize(
    ("given", "flags", "wanted"), FLAGS_OF_TEACHERS.values(), ids=FLAGS_OF_TEACHERS
)
def test_the_teachers_server_reads_thoughts_as_serve_py_does(given, flags, wanted, monkeypatch):
    monkeypatch.setenv("TEACHER_FLAGS", given)
    _, teacher = serve_servers.models(flags)
    assert teacher.flags == wanted


SPLITS = {
    "one GPU": ("0", [], []),
    "all that are visible": ("", [], []),
    "two": ("1,2", [], ["--tensor-parallel-size", "2"]),
    "two, otherwise": ("1,2", ["--data-parallel-size", "2"], []),
    "two, in short": ("1,2", ["-pp", "2"], []),
}


@pytest.mark.parametrize(("gpus", "flags", "wanted"), SPLITS.values(), ids=SPLITS)
def test_a_model_is_split_over_the_gpus_that_it_is_given(gpus, flags, wanted):
    assert Model("teacher", "model", "8002", gpus, flags).split() == wanted


def on_gpus(student, teacher, visible, *flags):
    """The GPUs of both models, where those are named or empty; both have the flags."""
    models = [
        Model("student", "a", "8001", student, list(flags)),
        Model("teacher", "b", "8002", teacher, list(flags)),
    ]
    return [model.gpus for model in on_gpus_of_its_own(models, visible.split())]


def test_each_model_gets_gpus_of_its_own():
    assert on_gpus("", "", "0 1") == ["0", "1"]
    assert on_gpus("", "", "6 7") == ["6", "7"]
    assert on_gpus("", "", "0 1 2 3", "-tp", "2") == ["0,1", "2,3"]
    assert on_gpus("", "0,1", "0 1 2") == ["2", "0,1"]
    assert on_gpus("0", "0", "0") == ["0", "0"]  # somebody has said so
    assert on_gpus("", "", "") == ["", ""]  # on a CPU, or where nothing lists them


def test_gpus_are_the_same_by_one_name_alone():
    assert on_gpus(" 0, 1", "", "0 1 2") == [" 0, 1", "2"]
    with pytest.raises(ValueError, match=r"^GPU 0 is not among .* \(GPU-a, GPU-b\); name the"):
        on_gpus("0", "", "GPU-a GPU-b")


def test_what_vllm_places_by_itself_is_left_to_it():
    for flags in (["-tp", "8", "--distributed-executor-backend=ray"], ["--config", "vllm.yaml"]):
        assert on_gpus("", "2", "0 1 2 3", *flags) == ["", "2"]


def test_models_that_share_gpus_must_share_their_memory():
    for student, visible, wanted in (("", "0", 2), ("0", "0", 1), ("", "0 1 2", 4)):
        flags = ["-tp", "2"] if wanted == 4 else []
        with pytest.raises(ValueError, match=f"still need: {wanted}, GPUs that are free: "):
            on_gpus(student, "", visible, *flags)
    assert on_gpus("", "", "0", "--gpu-memory-utilization", "0.45") == ["", ""]


def test_on_a_machine_with_gpus_the_servers_get_them_in_turn(env, tmp_path):
    """Or nothing starts, and a line says how."""
    env = {**env, "GPU_BUILD": "1", "STUDENT_GPUS": "", "TEACHER_GPUS": ""}
    env = {**env, "PATH": f"{tmp_path}:{env['PATH']}", "FAILS": f"--model {env['TEACHER']}"}
    env.pop("CUDA_VISIBLE_DEVICES", None)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 0\n")
    program.chmod(0o755)
    flags = ["--temperature", 1, "--threshold", 0.5]
    result = run("bash", ROOT / "serve.sh", *flags, env=env, code=2, timeout=ENDS)
    assert result.stderr == (
        "serve.sh: GPUs that student and teacher still need: 2, GPUs that are free: 1; with "
        "--gpu-memory-utilization 0.45 in STUDENT_FLAGS and TEACHER_FLAGS they share one, "
        "if the weights of each take less than that share of its memory\n"
    )
    program.write_text("#!/bin/sh\necho 0\necho 1\n")
    run("bash", ROOT / "serve.sh", *flags, env=env, code=1, timeout=ENDS)
    for name, gpu in (("student", "0"), ("teacher", "1")):
        log = (tmp_path / f"{name}.log").read_text()
        assert log.startswith(f"{gpu} -m vllm") and "--enforce-eager" not in log
        assert "--max-model-len auto" in log


@pytest.mark.parametrize(
    ("variable", "flags", "wanted"),
    [("", [], "2"), ("1", [], "1"), ("1", ["--kv-cache-memory-bytes", "3G"], "unset")],
    ids=["neither", "variable", "both"],
)
def test_on_a_cpu_the_flag_of_the_cache_counts_and_else_the_variable(
    variable, flags, wanted, tmp_path, monkeypatch
):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "${{{CACHE_VARIABLE}-unset}} $*"\n')
    python.chmod(0o755)
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    if variable:
        monkeypatch.setenv(CACHE_VARIABLE, variable)
    model = Model("teacher", "path", "1", "", flags)
    started = start_server(str(python), model, on_gpu=False, log_dir=tmp_path)
    started.process.wait(ENDS)
    assert started.log.read_text().split()[0] == wanted


def test_the_log_of_a_server_that_fails_is_shown(env, tmp_path):
    env["FAILS"] = f"--model {env['TEACHER']}"
    flags = ["--temperature", 1, "--threshold", 0.5]
    result = run("bash", ROOT / "serve.sh", *flags, env=env, code=1, timeout=ENDS)
    assert "no such model" in result.stderr
    assert f"the teacher's server has ended; its log is {tmp_path}/teacher.log" in result.stderr
    started = (tmp_path / "teacher.log").read_text()
    assert started.startswith(f"1,2 -m vllm.entrypoints.openai.api_server --model {tmp_path}/b ")
    assert "--reasoning-parser qwen3" in started
    assert (tmp_path / "student.log").read_text().startswith("0 -m vllm")


def test_nothing_is_left_where_one_cannot_start(env, tmp_path):
    (tmp_path / "teacher.log").mkdir()
    flags = ["--temperature", 1, "--threshold", 0.5]
    result = run("bash", ROOT / "serve.sh", *flags, env=env, code=2, timeout=ENDS)
    assert "serve.sh: [Errno 21] Is a directory" in result.stderr
    mine = str(tmp_path)
    left = [process for process in psutil.process_iter(["cmdline"]) if mine in str(process.info)]
    assert not left
    env["ENDS_WITHIN"] = "15s"
    said = run("bash", ROOT / "serve.sh", *flags, env=env, code=2, timeout=ENDS).stderr
    assert said == "serve.sh: ENDS_WITHIN=15s: must be a number of seconds above 0\n"


@pytest.mark.parametrize(
    ("deaf", "number"),
    [("nobody", signal.SIGINT), ("--port", signal.SIGINT), ("nobody", signal.SIGHUP)],
    ids=["Ctrl-C", "servers that heed no SIGTERM", "terminal closed"],
)
def test_a_signal_ends_all(env, tmp_path, deaf, number):
    env["DEAF"] = deaf
    command = ["bash", str(ROOT / "serve.sh"), "--temperature", "1", "--threshold", "0.5"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + ENDS
    started = [tmp_path / "student.log", tmp_path / "teacher.log"]
    while not all(log.exists() and "-m vllm" in log.read_text() for log in started):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.1)
    processes = psutil.Process(process.pid).children(recursive=True)
    assert len(processes) >= 3
    process.send_signal(number)
    process.communicate(timeout=ENDS)
    assert process.returncode == 128 + number
    assert_gone(processes, 30)
