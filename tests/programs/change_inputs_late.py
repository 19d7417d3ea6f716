"""Runs a script whose inputs change when it is about to write its outputs: change_inputs_late.py
SCRIPT FLAGS...
"""

import runpy
import sys
from pathlib import Path

from distill.labels.journal import Journal

write_outputs = Journal.write_outputs


def write_later(self, *args, **kwargs):
    Path(self.inputs.path).write_text("a\n三\n", encoding="utf-8")
    return write_outputs(self, *args, **kwargs)


Journal.write_outputs = write_later
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
