"""create_data_instances.py, whose instances are forks of it, with the libraries at once."""

import runpy
import sys
from types import SimpleNamespace

from distill.labels import instances
from forks import Process
from helpers import ROOT

instances.subprocess = SimpleNamespace(Popen=Process)
sys.path.insert(0, str(ROOT))
runpy.run_path(str(ROOT / "create_data_instances.py"), run_name="__main__")
