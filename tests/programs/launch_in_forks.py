"""launch.py, whose processes are forks of it, with the libraries at once."""

import sys
from subprocess import CalledProcessError
from types import SimpleNamespace

from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

import launch
from forks import Process, run_python

launch.subprocess = SimpleNamespace(run=run_python, CalledProcessError=CalledProcessError)
subprocess_handler.Popen = Process
sys.exit(launch.main())
