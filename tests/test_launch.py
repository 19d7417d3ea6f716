"""How processes end that launch.py starts: real ones of accelerate, which run a script of a few
lines.
"""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from distill.stopping import SAID
from helpers import (
    ENDS,
    HANGS,
    PROGRAM_PATH,
    PROGRAMS,
    ROOT,
    assert_gone,
    descendants,
    launched,
    run,
)

FLAGS = ["--config_file", str(ROOT / "accelerate_configs" / "ddp.yaml"), "--num_processes", "2"]
ONE = ["--config_file", str(ROOT / "accelerate_configs" / "single_gpu.yaml")]


def launch(tmp_path, flags, script, *arguments):
    """launch.py with processes that run one of the tests' programs in tmp_path.

    It leads a process group, as it does at a terminal.
    """
    command = [sys.executable, ROOT / "launch.py", *flags, PROGRAMS / script, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes)


@pytest.mark.parametrize(
    ("flags", "processes", "number"),
    [(FLAGS, 2, signal.SIGINT), (FLAGS, 2, signal.SIGTERM), (ONE, 1, signal.SIGTERM)],
)
def test_a_signal_ends_all_in_one_line(flags, processes, number, tmp_path):
    process = launch(tmp_path, flags, "wait_in_library.py")
    end = time.monotonic() + HANGS
    while len(list(tmp_path.glob("begun-*"))) < processes:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)
    below = descendants(process)
    assert len(below) >= processes
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal sends it
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=ENDS)
    assert process.returncode == 128 + number
    assert (stdout, stderr.splitlines()) == ("", [SAID])
    assert_gone(below)


def test_a_signal_ends_a_launcher_that_waits_for_another_machine(tmp_path):
    """The other one is there and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        port = server.getsockname()[1]
        machines = ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "127.0.0.1"]
        process = launch(
            tmp_path, [*FLAGS, *machines, "--main_process_port", str(port)], "wait_in_library.py"
        )
        connection, _ = server.accept()
        with connection:
            process.send_signal(signal.SIGTERM)
            stdout, stderr = process.communicate(timeout=ENDS)
    assert process.returncode == 143
    assert stdout == ""
    assert stderr.splitlines().count(SAID) == 1  # PyTorch may say beside it that it was interrupted
    assert "Traceback (most recent call last)" not in stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_launch_ends_the_check(number, tmp_path):
    """The script says what is to be said then."""
    script = {"NUM_PROCESSES": "2", "TRAIN_SCRIPT": str(PROGRAMS / "wait_for_signal.py")}
    environment = {**os.environ, **PROGRAM_PATH, **script}
    command = ["bash", ROOT / "train_trl.sh"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, start_new_session=True, **pipes
    )
    while not list(tmp_path.glob("begun")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    below = descendants(process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=ENDS)
    assert process.returncode == 128 + number
    assert (stdout, stderr.splitlines()) == ("", [SAID])
    assert_gone(below)


def test_several_processes_of_train_trl_train_together_and_share_the_batch(tmp_path):
    environment = {
        **without_numbers(),
        "TRAIN_SCRIPT": str(PROGRAMS / "say_rank.py"),
        "NUM_PROCESSES": "2",
        "BATCH_PER_GPU": "4",
        "OMP_NUM_THREADS": "1",
    }
    result = run("bash", ROOT / "train_trl.sh", "a/model", "--seed", 1, env=environment)
    flags = "--model_name a/model --per_device_train_batch_size 4 --max_length 512 "
    flags += "--gradient_accumulation_steps 2 --seed 1"
    assert sorted(result.stdout.splitlines()) == [
        f"0 of 2, shared: {flags}",
        f"1 of 2, shared: {flags}",
    ]


NUMBERS = {
    "two": {"NUM_PROCESSES": "2"},
    "over two machines": {"NUM_PROCESSES": "4", "NUM_MACHINES": "2", "MACHINE_RANK": "1"},
    "with a length": {"NUM_PROCESSES": "2", "MAX_LENGTH": "64", "BATCH_PER_GPU": "1"},
}


@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)
def test_several_processes_of_train_trl_are_those_of_the_wrapper_for_several_gpus(numbers):
    own = {**without_numbers(), **numbers}
    words, said = launched(["bash", ROOT / "train_trl.sh", "a/model", "--seed", "1"], own)
    line = ["bash", ROOT / "train_trl_multi_gpu.sh", "a/model", "--seed", "1"]
    assert (words, said["SHARE_BATCH"]) == (launched(line, own)[0], "1")
    assert str(ROOT / "accelerate_configs" / "ddp.yaml") in words


def test_over_machines_train_trl_takes_all_gpus_unless_it_is_told_how_many(tmp_path):
    python = tmp_path / "python"  # which finds two GPUs on each machine
    python.write_text('#!/bin/sh\ncase "$*" in *--for_all_gpus*) echo 4 ;; *) echo "$*" ;; esac\n')
    python.chmod(0o755)
    own = {**without_numbers(), "PYTHON": str(python), "NUM_MACHINES": "2"}
    said = run("bash", ROOT / "train_trl.sh", env=own).stdout
    assert "--num_processes 4 --num_machines 2" in said and "ddp.yaml" in said


def test_one_process_of_train_trl_heeds_its_batch():
    own = {**without_numbers(), "BATCH_PER_GPU": "4"}
    [file, *flags], _ = launched(["bash", ROOT / "train_trl.sh"], own)
    assert file == str(ROOT / "train_sft_trl.py")
    batch = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "4"]
    assert flags == batch
    assert launched(["bash", ROOT / "train_trl.sh"], without_numbers())[0] == [file]


def test_a_configuration_for_one_process_is_refused_for_several(tmp_path):
    own = {**without_numbers(), "ACCELERATE_CONFIG": ONE[1], "NUM_PROCESSES": "2"}
    said = run("bash", ROOT / "train_trl.sh", env=own, code=2).stderr
    assert said == (
        f"launch.py: {ONE[1]}: its distributed_type NO is for one process, not for 2; "
        f"name another file, such as accelerate_configs/ddp.yaml\n"
    )
    for number, text in enumerate(("- a list\n", "no_key_of_accelerate: 1\n", "a: [\n")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        own["ACCELERATE_CONFIG"] = str(path)
        said = run("bash", ROOT / "train_trl.sh", env=own, code=2).stderr
        assert said == (
            f"launch.py: {path}: not a configuration of accelerate; see "
            "accelerate_configs/ddp.yaml\n"
        )
    own["ACCELERATE_CONFIG"] = "nowhere.yaml"
    said = run("bash", ROOT / "train_trl.sh", env=own, code=2).stderr
    assert said == (
        "launch.py: nowhere.yaml: no such file; ACCELERATE_CONFIG names a configuration\n"
    )


def without_numbers():
    """The environment, in which nothing says what the wrappers launch."""
    names = ("NUM_PROCESSES", "NUM_MACHINES", "MACHINE_RANK", "ACCELERATE_CONFIG")
    names += ("MAX_LENGTH", "BATCH_PER_GPU", "SHARE_BATCH")
    return {key: value for key, value in os.environ.items() if key not in names}


@pytest.mark.parametrize("wrapper", ["train_trl.sh", "train_trl_fsdp.sh"])
def test_help_is_the_scripts_without_check_or_launch(wrapper, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(sys.argv[1:])\n")
    environment = {**os.environ, "TRAIN_SCRIPT": str(script), "NUM_PROCESSES": "all"}
    result = run("bash", ROOT / wrapper, "a/model", "--help", env=environment)
    assert (result.stdout, result.stderr) == ("['--help']\n", "")


def test_a_check_that_fails_is_all_that_happens(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os, sys\nsys.exit(os.environ['LAUNCH_PROCESSES'] + ' is refused')\n")
    environment = {**os.environ, "TRAIN_SCRIPT": str(script), "NUM_PROCESSES": "4"}
    result = run("bash", ROOT / "train_trl.sh", env=environment, code=1)
    assert (result.stdout, result.stderr) == ("", "4 is refused\n")


def test_a_check_that_is_killed_is_said(tmp_path):
    """As where a machine's memory is too small."""
    script = tmp_path / "script.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    environment = {**os.environ, "TRAIN_SCRIPT": str(script), "NUM_PROCESSES": "4"}
    result = run("bash", ROOT / "train_trl.sh", env=environment, code=137)
    said = "launch.py: the check before the launch was ended by SIGKILL\n"
    assert (result.stdout, result.stderr) == ("", said)


@pytest.mark.parametrize(
    ("flags", "rank", "how", "code", "said"),
    [
        (FLAGS, 1, "why", 1, ["why", "launch.py: the process of rank 1 ended with exit code 1"]),
        (FLAGS, 0, "2", 2, ["launch.py: the process of rank 0 ended with exit code 2"]),
        (FLAGS, 1, "SIGKILL", 137, ["launch.py: the process of rank 1 was ended by SIGKILL"]),
        (FLAGS, 0, "143", 143, [SAID]),  # somebody has ended it and not the launcher
        (ONE, 0, "2", 2, ["launch.py: the process of rank 0 ended with exit code 2"]),
    ],
)
def test_a_failed_process_ends_all_with_its_exit_code(flags, rank, how, code, said, tmp_path):
    process = launch(tmp_path, flags, "fail_on_rank.py", str(rank), how)
    stdout, stderr = process.communicate(timeout=HANGS)
    assert process.returncode == code
    assert (stdout, stderr.splitlines()) == ("", said)
