"""Instances of create_data.py on one machine, each on GPUs of its own: started, watched, ended."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from distill.cli import spellings
from distill.stopping import exit_code
from distill.system import VISIBLE

END_WITHIN = 15.0  # seconds; an engine has 10 for its own end
LOOK_EVERY = 0.1  # seconds
SHOWN_LINES = 5  # of the log of an instance that failed
# Flags of create_data.py that instances cannot share, and what to do instead.
NOT_SHARED = {
    "shard": "the instances share the inputs out themselves; leave it out, or run create_data.py",
    "num_replicas": "a cluster shares the inputs out itself; run create_data.py with it",
    "teacher_url": "a server needs no GPU of this machine; run create_data.py with it",
    "budget": "each instance would spend it; run create_data.py with it",
    "show": "prints the rows of a whole run; run create_data.py with it, and with --limit 5",
    "overwrite": "an instance cannot delete what others label; remove the output and its "
    "OUTPUT.trace*.jsonl, or name another --output_file",
}


@dataclass(frozen=True)
class Instance:
    """One create_data.py that labels a part of the inputs."""

    number: int
    process: subprocess.Popen
    log: Path


def is_given(flags: list[str], name: str) -> bool:
    """Whether a flag is among those that a user has given, in either spelling."""
    return any(word.partition("=")[0] in spellings(name) for word in flags)


def not_shared(flags: list[str]) -> str:
    """Which of the flags instances cannot share, and what to do instead, in one line; else empty.

    Inside an instance they would be refused for a --shard that the user has not given, or win over
    the one that it was given.
    """
    for name, why in NOT_SHARED.items():
        if is_given(flags, name):
            return f"--{name}: {why}"
    return ""


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


def start_all(command: list[str], flags: list[str], of_each: list[str]) -> list[Instance]:
    """Start an instance for each shard, on its GPUs in `of_each`; their logs go to LOG_DIR.

    Raises OSError, after which none runs, where one cannot be started or its log not be written.
    """
    log_dir = Path(os.environ.get("LOG_DIR") or tempfile.mkdtemp())
    log_dir.mkdir(parents=True, exist_ok=True)
    instances = []
    for number, mine in enumerate(of_each):
        shard = [*command, "--shard", f"{number}/{len(of_each)}", *flags]
        try:
            instances.append(start(number, mine, shard, log_dir))
        except OSError:
            stop(instances)
            raise
    return instances


def wait_for(instances: list[Instance], signals: list[int]) -> int:
    """Wait until all have ended or a signal has come; the last failure's exit code, or 0."""
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
    return failed
