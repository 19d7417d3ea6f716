"""Step 1 on several GPUs of one machine: instances of create_data.py, each on GPUs of its own.

`create_data_h100x8.sh` starts it.

    python create_data_instances.py [any flag of create_data.py]

The environment variables INSTANCES and GPUS_PER_INSTANCE say how many, LOG_DIR where their logs
go, and PYTHON which Python they run in (else in that of this script). Each instance labels a part
of the inputs; one more call of create_data.py then writes the output. A signal ends all of them,
with exit code 130.
"""

if __name__ == "__main__":
    from distill import early_stop  # noqa: F401

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from distill.cli import HELP_ALL
from distill.stopping import exit_code

PYTHON = os.environ.get("PYTHON") or sys.executable
STEP_1 = [PYTHON, str(Path(__file__).resolve().parent / "create_data.py")]
VISIBLE = "CUDA_VISIBLE_DEVICES"
END_WITHIN = 15.0  # seconds; an engine has 10 for its own end
LOOK_EVERY = 0.1  # seconds
SHOWN_LINES = 5  # of the log of an instance that failed


@dataclass(frozen=True)
class Instance:
    """One create_data.py that labels a part of the inputs."""

    number: int
    process: subprocess.Popen
    log: Path


def refuse(problem: str) -> None:
    """End with exit code 2 and one line."""
    print(problem, file=sys.stderr)
    sys.exit(2)


def count_in(variable: str, default: int) -> int:
    """The whole number above 0 that an environment variable holds."""
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or int(text) == 0:
        refuse(f"{variable}={text}: must be a whole number above 0")
    return int(text)


def listed_gpus() -> list[str]:
    """The GPUs that nvidia-smi lists."""
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if listed.returncode:
        refuse(f"nvidia-smi fails: {listed.stdout.strip()}")
    return listed.stdout.split()


def what_fits(gpus: int, visible: int) -> str:
    """The variables under which `visible` GPUs suffice, with at most `gpus` for an instance."""
    while gpus > visible:
        gpus //= 2  # a model is split over 1, 2, 4, ... GPUs
    if gpus == 0:
        return "none fits"
    return f"INSTANCES={visible // gpus} GPUS_PER_INSTANCE={gpus} fit"


def choose_devices(listed: list[str], instances: int, gpus: int) -> list[str]:
    """The GPUs to share out: those that are named as visible, or else `listed`.

    Ends with exit code 2 where they are too few. Where nobody lists them they are taken to be
    there, and a CPU does not care.
    """
    needed = instances * gpus
    named = os.environ.get(VISIBLE)
    if named is not None:
        devices = [device for device in named.split(",") if device]
    elif listed:
        devices = listed
    else:
        devices = [str(number) for number in range(needed)]
    if len(devices) < needed and (named or listed):
        refuse(
            f"INSTANCES={instances}, GPUS_PER_INSTANCE={gpus}: need {needed} GPUs, "
            f"{len(devices)} are visible; {what_fits(gpus, len(devices))}"
        )
    return devices


def start(number: int, mine: str, command: list[str], log_dir: Path) -> Instance:
    """Start one instance on the GPUs `mine`, such as 0,1,2,3."""
    log = log_dir / f"instance-{number}.log"
    with open(log, "wb") as file:
        environment = {**os.environ, VISIBLE: mine}
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    print(f"instance {number}, {VISIBLE}={mine}, log {log}", file=sys.stderr)
    return Instance(number, process, log)


def running(instances: list[Instance]) -> list[Instance]:
    return [instance for instance in instances if instance.process.poll() is None]


def stop(instances: list[Instance]) -> None:
    """End the instances, and with them the engines that they started."""
    for instance in instances:
        instance.process.terminate()
    end = time.monotonic() + END_WITHIN
    while running(instances) and time.monotonic() < end:
        time.sleep(LOOK_EVERY)
    for instance in running(instances):
        instance.process.kill()


def say_failed(instance: Instance) -> int:
    """Say that an instance failed, if it did; its exit code as a shell has it."""
    code = exit_code(instance.process.returncode)
    if code:
        print(
            f"instance {instance.number} failed with exit code {code}; the end of its log:",
            file=sys.stderr,
        )
        lines = instance.log.read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(lines[-SHOWN_LINES:]), file=sys.stderr)
    return code


def main() -> None:
    flags = sys.argv[1:]
    for flag in flags:  # help needs no GPU
        if flag in ("-h", "--help", *HELP_ALL):
            os.execvp(STEP_1[0], [*STEP_1, flag])
    count = count_in("INSTANCES", 2)
    gpus = count_in("GPUS_PER_INSTANCE", 4)
    label = list(STEP_1)
    listed = []
    if shutil.which("nvidia-smi"):
        label += ["--tensor_parallel_size", str(gpus)]
        listed = listed_gpus()
    devices = choose_devices(listed, count, gpus)
    if count == 1:  # the only one writes the output itself
        os.environ[VISIBLE] = ",".join(devices[:gpus])
        os.execvp(label[0], [*label, *flags])

    signals = []  # that have come
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    log_dir = Path(os.environ.get("LOG_DIR") or tempfile.mkdtemp())
    log_dir.mkdir(parents=True, exist_ok=True)
    instances = []
    for number in range(count):
        mine = ",".join(devices[number * gpus : (number + 1) * gpus])
        command = [*label, "--shard", f"{number}/{count}", *flags]
        instances.append(start(number, mine, command, log_dir))
    failed = 0
    waiting = instances
    while waiting and not signals:
        time.sleep(LOOK_EVERY)
        if signals:  # which ends the instances too, and is no failure of theirs
            break
        still_running = running(waiting)
        for instance in waiting:
            if instance not in still_running:
                failed = say_failed(instance) or failed
        waiting = still_running
    if signals:
        stop(instances)
        print("stopped; what is finished is kept, the same command continues", file=sys.stderr)
        sys.exit(130)
    if failed:
        sys.exit(failed)
    os.execvp(label[0], [*label, *flags])


if __name__ == "__main__":
    main()
