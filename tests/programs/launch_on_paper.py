"""launch.py, whose processes are not started: it says with which flags they would be."""

import sys

from accelerate.commands import launch as accelerate_launch

import launch
from forks import SUBPROCESS

launch.subprocess = SUBPROCESS
accelerate_launch.launch_command = lambda args: print(
    "launched", args.num_processes, "times", args.training_script, *args.training_script_args
)
sys.exit(launch.main())
