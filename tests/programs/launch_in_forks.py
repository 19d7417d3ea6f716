"""launch.py, whose processes are forks of it, with the libraries at once."""

import runpy
import subprocess
import sys

from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

from forks import Process
from helpers import ROOT

run = subprocess.run


def run_in_fork(command, **settings):
    """As launch.py lets one process check what it will launch."""
    if command[0] != sys.executable:
        return run(command, **settings)
    return subprocess.CompletedProcess(command, Process(command, **settings).wait())


subprocess_handler.Popen = Process
subprocess.run = run_in_fork
sys.path.insert(0, str(ROOT))
runpy.run_path(str(ROOT / "launch.py"), run_name="__main__")
