"""The machine: whether its NVIDIA driver is new enough for this PyTorch."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

DRIVER_FILE = Path("/proc/driver/nvidia/version")
# The oldest driver that runs each major version of CUDA, from NVIDIA's table of minor version compatibility.
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
    answer = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return answer.splitlines()[0] if answer else ""


def cuda_starts() -> bool:
    """Whether PyTorch can use a GPU; asked in another process, for one that has used CUDA cannot be forked."""
    command = [sys.executable, "-c", "import torch; torch.cuda.init()"]
    return subprocess.run(command, capture_output=True).returncode == 0


def driver_problem(cuda: str | None, driver: str) -> str:
    """One line if this driver cannot run a PyTorch built for this version of CUDA, such as 13.0; else empty.

    An older driver is no problem where CUDA starts all the same, as it does with NVIDIA's compatibility package.
    """
    if not cuda or not driver:
        return ""
    needed = OLDEST_DRIVER.get(int(cuda.partition(".")[0]))
    if not needed or int(driver.partition(".")[0]) >= needed or cuda_starts():
        return ""
    return (
        f"NVIDIA driver {driver}: this PyTorch is built for CUDA {cuda}, which needs driver {needed} or newer; "
        "see 'Older drivers' in README.md"
    )
