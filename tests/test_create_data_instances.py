"""create_data_h100x8.sh on GPUs that a stand-in for nvidia-smi lists, with vLLM's build for them as
far as the script can see: what it would start on which of them, what it refuses, and what it says.
test_create_data.py has it at work.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from distill.labels import instances
from helpers import ENDS, PROGRAMS, ROOT, run

VISIBLE_GPUS = {
    "four": ({}, 4, "need 8 GPUs, 4 are visible; INSTANCES=1 GPUS_PER_INSTANCE=4 fit"),
    "three": ({}, 3, "need 8 GPUs, 3 are visible; INSTANCES=1 GPUS_PER_INSTANCE=2 fit"),
    "some hidden": ({"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, 8, "need 8 GPUs, 4 are visible"),
    "all hidden": ({"CUDA_VISIBLE_DEVICES": ""}, 8, "need 8 GPUs, 0 are visible; none fits"),
    "more instances": (
        {"INSTANCES": "8", "GPUS_PER_INSTANCE": "2"},
        8,
        "INSTANCES=4 GPUS_PER_INSTANCE=2 fit",
    ),
}


@pytest.mark.parametrize(("variables", "gpus", "named"), VISIBLE_GPUS.values(), ids=VISIBLE_GPUS)
def test_wrapper_refuses_more_gpus_than_there_are(variables, gpus, named, tmp_path):
    """With a stand-in for nvidia-smi; nothing starts, and one line names the two variables."""
    environment = {**gpu_machine(tmp_path, gpus), **variables}
    said = run("bash", ROOT / "create_data_h100x8.sh", env=environment, code=2).stderr
    assert named in said and len(said.splitlines()) == 1
    assert "INSTANCES=" in said and "GPUS_PER_INSTANCE=" in said


def test_wrapper_shares_the_gpus_out(tmp_path):
    """Stand-ins for nvidia-smi and step 1 show what would be started: half of the GPUs for each
    instance.
    """
    environment = {**gpu_machine(tmp_path, 8), "LOG_DIR": str(tmp_path / "logs")}
    say_instead_of_step_1(tmp_path)
    last = run("bash", ROOT / "create_data_h100x8.sh", "--limit", 9, env=environment).stdout
    logs = [(tmp_path / "logs" / f"instance-{i}.log").read_text().split() for i in range(2)]
    assert [words[0] for words in logs] == ["0,1,2,3", "4,5,6,7"]
    flags = ["--tensor_parallel_size", "4", "--shard"]
    assert [words[2:] for words in logs] == [[*flags, f"{i}/2", "--limit", "9"] for i in range(2)]
    assert last.split()[2:] == ["--tensor_parallel_size", "4", "--limit", "9"]


def test_one_instance_writes_the_output_itself(tmp_path):
    """As four GPUs are told to do it; a second call would find a finished output."""
    variables = {"INSTANCES": "1", "GPUS_PER_INSTANCE": "4", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    environment = {**gpu_machine(tmp_path, 8), **variables, "LOG_DIR": str(tmp_path / "logs")}
    say_instead_of_step_1(tmp_path)
    [called] = run(
        "bash", ROOT / "create_data_h100x8.sh", "--limit", 9, env=environment
    ).stdout.splitlines()
    assert called.split()[0] == "4,5,6,7" and "--shard" not in called
    assert called.endswith("--tensor_parallel_size 4 --limit 9")


def test_with_the_build_for_cpus_no_gpu_is_counted(tmp_path):
    """On a machine with some: a model that is split over four would have to find four."""
    environment = {**gpu_machine(tmp_path, 4), "CUDA_VISIBLE_DEVICES": "0", "BUILD": "cpu"}
    say_instead_of_step_1(tmp_path)
    said = run("bash", ROOT / "create_data_h100x8.sh", "--limit", 9, env=environment).stdout
    assert said.split()[1:] == [str(ROOT / "create_data.py"), "--limit", "9"]


def test_in_a_container_without_nvidia_smi_the_gpus_are_its_devices(tmp_path):
    environment = {**gpu_machine(tmp_path, 8), "CONTAINER": str(tmp_path)}
    environment["LOG_DIR"] = str(tmp_path / "logs")
    environment["PATH"] = str(tmp_path)  # where this machine's own is not found
    (tmp_path / "nvidia-smi").unlink()
    for program in ("bash", "dirname"):
        (tmp_path / program).symlink_to(shutil.which(program))
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06\n")
    for number in range(7):
        (tmp_path / f"nvidia{number}").touch()
    say_instead_of_step_1(tmp_path)
    script = ROOT / "create_data_h100x8.sh"
    said = run("bash", script, env=environment, code=2).stderr
    assert "need 8 GPUs, 7 are visible" in said
    (tmp_path / "nvidia7").touch()
    assert "--tensor_parallel_size 4" in run("bash", script, env=environment).stdout
    log = (tmp_path / "logs" / "instance-1.log").read_text()
    assert log.startswith("4,5,6,7 ") and "--tensor_parallel_size 4" in log


NOT_SHARED = {
    "--shard": ["--shard", "0/1"],
    "--num_replicas": ["--num-replicas", "2"],
    "--teacher_url": ["--teacher_url=http://127.0.0.1:1/v1"],
    "--budget": ["--budget", "5"],
    "--show": ["--limit", "5", "--show"],
    "--overwrite": ["--overwrite"],
}


@pytest.mark.parametrize(("flag", "given"), NOT_SHARED.items(), ids=NOT_SHARED)
def test_flags_that_instances_cannot_share_are_refused_by_name(flag, given, tmp_path):
    """Before one starts, with what to do instead; the only instance may have them."""
    environment = {**gpu_machine(tmp_path, 8), "LOG_DIR": str(tmp_path / "logs")}
    say_instead_of_step_1(tmp_path)
    script = ROOT / "create_data_h100x8.sh"
    result = run("bash", script, *given, env=environment, code=2)
    assert result.stdout == "" and not (tmp_path / "logs").exists()
    [said] = result.stderr.splitlines()
    assert said.startswith(f"{flag}: ")
    assert "run create_data.py" in said or "name another --output_file" in said
    called = run("bash", script, *given, env={**environment, "INSTANCES": "1"}).stdout
    assert called.split()[-len(given) :] == given


def test_a_flag_of_instances_is_one_of_step_1():
    page = run(sys.executable, ROOT / "create_data.py", "--help").stdout
    assert all(f"--{name} " in page or f"--{name}," in page for name in instances.NOT_SHARED)


def test_a_dry_run_is_one_of_all_inputs(tmp_path):
    environment = {**gpu_machine(tmp_path, 4), "LOG_DIR": str(tmp_path / "logs")}
    say_instead_of_step_1(tmp_path)
    [called] = run(
        "bash", ROOT / "create_data_h100x8.sh", "--limit", 9, "--dry-run", env=environment
    ).stdout.splitlines()
    assert called == f"all {ROOT / 'create_data.py'} --limit 9 --dry-run"
    assert not (tmp_path / "logs").exists()


def test_help_of_the_wrapper_needs_no_gpu(tmp_path):
    environment = gpu_machine(tmp_path, 4)
    say_instead_of_step_1(tmp_path)
    [called] = run(
        "bash", ROOT / "create_data_h100x8.sh", "--help", env=environment
    ).stdout.splitlines()
    assert called == f"all {ROOT / 'create_data.py'} --help"


def test_wrapper_says_how_an_instance_failed(tmp_path):
    """As soon as it has, while the other one is at work, which then ends by itself."""
    say_instead_of_step_1(tmp_path, 'case "$*" in *0/2*) exit 3 ;; *1/2*) sleep 0.5 ;; esac')
    environment = {**gpu_machine(tmp_path, 8), "LOG_DIR": str(tmp_path)}
    said = run("bash", ROOT / "create_data_h100x8.sh", env=environment, code=3).stderr.splitlines()
    assert said[2] == "instance 0 failed with exit code 3; the end of its log:"
    assert said[3].endswith("--shard 0/2")
    assert len(said) == 4


def test_what_cannot_be_started_ends_all_in_one_line(tmp_path):
    """The second one's log cannot be written; nor, further down, the directory of all be made."""
    # the file is there as a whole or not at all, whenever its process is ended
    pid = f"echo $$ > {tmp_path}/half && mv {tmp_path}/half {tmp_path}/pid"
    say_instead_of_step_1(tmp_path, f"{pid}\nexec sleep 60")
    (tmp_path / "instance-1.log").mkdir()
    environment = {**gpu_machine(tmp_path, 8), "LOG_DIR": str(tmp_path)}
    script = ROOT / "create_data_h100x8.sh"
    said = run("bash", script, env=environment, code=2).stderr.splitlines()
    assert said[1:] == [
        f"an instance cannot be started: [Errno 21] Is a directory: '{tmp_path}/instance-1.log'"
    ]
    begun = tmp_path / "pid"
    assert not begun.exists() or not psutil.pid_exists(int(begun.read_text()))
    environment["LOG_DIR"] = "/dev/null/logs"
    [said] = run("bash", script, env=environment, code=2).stderr.splitlines()
    assert "Not a directory: '/dev/null/logs'" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_is_no_failure_of_an_instance(number, tmp_path):
    """A terminal's Ctrl-C reaches the instances too."""
    say_instead_of_step_1(tmp_path, f"touch {tmp_path}/begun-$$\nexec sleep 60")
    process = subprocess.Popen(
        ["bash", ROOT / "create_data_h100x8.sh"],
        env={**gpu_machine(tmp_path, 8), "LOG_DIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(list(tmp_path.glob("begun-*"))) < 2:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=ENDS)[1].splitlines()
    assert process.returncode == 130
    assert said[2:] == ["stopped; what is finished is kept, the same command continues"]


def test_wrapper_refuses_what_is_no_number(tmp_path):
    environment = {**gpu_machine(tmp_path, 8), "INSTANCES": "two"}
    said = run("bash", ROOT / "create_data_h100x8.sh", env=environment, code=2).stderr
    assert said == "INSTANCES=two: must be a whole number above 0\n"


def test_wrapper_says_that_nvidia_smi_fails(tmp_path):
    environment = gpu_machine(tmp_path, 8)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    said = run("bash", ROOT / "create_data_h100x8.sh", env=environment, code=2).stderr
    assert said == "nvidia-smi fails: No devices were found\n"


def say_instead_of_step_1(folder, then=""):
    """A stand-in for create_data.py, which shows GPUs and flags."""
    (folder / "step_1").write_text(f'#!/bin/sh\necho "${{CUDA_VISIBLE_DEVICES-all}} $*"\n{then}\n')
    (folder / "step_1").chmod(0o755)


def gpu_machine(folder, gpus):
    """An environment in which nvidia-smi lists so many GPUs.

    Its Python tells create_data_instances.py that vLLM is the build for them, unless BUILD is cpu,
    and runs the folder's step_1 in the place of create_data.py.
    """
    numbers = "\\n".join(map(str, range(gpus)))
    (folder / "nvidia-smi").write_text(f'#!/bin/sh\nprintf "{numbers}\\n"\n')
    (folder / "nvidia-smi").chmod(0o755)
    python = folder / "python"
    python.write_text(
        "#!/bin/sh\ncase $1${BUILD-} in\n"
        f'*/create_data_instances.py) exec {sys.executable} {PROGRAMS}/gpu_build.py "$@" ;;\n'
        f'*/create_data.py*) [ ! -e {folder}/step_1 ] || exec {folder}/step_1 "$@" ;;\n'
        f'esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    visible = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    return {**visible, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": str(python)}
