"""launch.py, whose processes are not started: it says with which flags they would be."""

import sys
from subprocess import CalledProcessError
from types import SimpleNamespace

from accelerate.commands import launch as accelerate_launch

import launch
from forks import run_python

launch.subprocess = SimpleNamespace(run=run_python, CalledProcessError=CalledProcessError)
accelerate_launch.launch_command = lambda args: print(
    "launched", args.num_processes, "times", args.training_script, *args.training_script_args
)
sys.exit(launch.main())
