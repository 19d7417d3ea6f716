"""A script of ours where vLLM is its build for GPUs: gpu_build.py SCRIPT [flags of SCRIPT]

With CONTAINER in the environment the driver's file and the devices are those in that folder.
"""

import functools
import os
import runpy
import sys
from pathlib import Path

sys.argv = sys.argv[1:]
sys.path[0] = str(Path(sys.argv[0]).parent)

from distill import system  # noqa: E402

system.is_cpu_build = lambda: False
if "CONTAINER" in os.environ:
    system.DEVICES = Path(os.environ["CONTAINER"])
    system.nvidia_driver = functools.partial(system.nvidia_driver, system.DEVICES / "version")
runpy.run_path(sys.argv[0], run_name="__main__")
