"""launch.py, whose processes are forks of it, with the libraries at once."""

import sys

from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

import launch
from forks import SUBPROCESS, Process

launch.subprocess = SUBPROCESS
subprocess_handler.Popen = Process
sys.exit(launch.main())
