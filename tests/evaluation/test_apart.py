"""The processes in which step 3 asks its systems."""

import os
import sys

import pytest

from distill.quiet import is_cpu_build
from helpers import PROGRAMS, last_json, run


@pytest.mark.skipif(not is_cpu_build(), reason="with a GPU each process imports them by itself")
def test_a_process_has_the_libraries_at_once(tmp_path):
    """Wherever the script is called from; nothing else would tell, but that it takes longer."""
    (tmp_path / "distill.py").write_text("raise SystemExit('of the working directory')")
    found = last_json(run(sys.executable, PROGRAMS / "start_quickly.py", cwd=tmp_path))
    assert found == ["peft.peft_model", "vllm.v1.engine.core"]


@pytest.mark.skipif(not is_cpu_build(), reason="with a GPU each process imports them by itself")
def test_without_room_for_a_socket_a_process_imports_them_by_itself(tmp_path):
    """That of the server of forks lies under TMPDIR, and its path has at most 107 characters."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder)}
    assert last_json(run(sys.executable, PROGRAMS / "start_quickly.py", env=environment)) == []
