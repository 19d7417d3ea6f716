"""create_data_instances.py, whose instances are forks of it, with the libraries at once.

OF_INSTANCE_0 holds, as JSON, what the first has in its environment beside the others.
"""

import json
import runpy
import sys
from types import SimpleNamespace

from distill.labels import instances
from forks import Process
from helpers import ROOT


def start(command, env, **settings):
    number, _, _ = command[command.index("--shard") + 1].partition("/")
    own = json.loads(env.get(f"OF_INSTANCE_{number}", "{}"))
    return Process(command, env={**env, **own}, **settings)


instances.subprocess = SimpleNamespace(Popen=start)
sys.path.insert(0, str(ROOT))
runpy.run_path(str(ROOT / "create_data_instances.py"), run_name="__main__")
