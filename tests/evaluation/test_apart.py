"""The processes in which step 3 asks its systems."""

import sys

import pytest

from distill.quiet import is_cpu_build
from helpers import PROGRAMS, last_json, run


@pytest.mark.skipif(not is_cpu_build(), reason="with a GPU each process imports them by itself")
def test_a_process_has_the_libraries_at_once():
    """Wherever the script is called from; nothing else would tell, but that it takes longer."""
    found = last_json(run(sys.executable, PROGRAMS / "start_quickly.py"))
    assert found == ["peft.peft_model", "vllm.v1.engine.core"]
