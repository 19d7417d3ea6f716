"""The shell wrappers as cron and make call them: by absolute path, from another directory, without
the environment's Python in PATH.
"""

import os
import stat
import sys

import pytest

from helpers import ROOT, run

BARE = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
WRAPPERS = {
    "train_trl.sh": "train_sft_trl.py",
    "train_trl_multi_gpu.sh": "train_sft_trl.py",
    "train_trl_fsdp.sh": "train_sft_trl.py",
    "create_data_h100x8.sh": "create_data.py",
}
LONGEST = 40  # lines


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_work_with_a_python_that_is_not_in_path(wrapper):
    environment = {**BARE, "PYTHON": sys.executable}
    asked = run("bash", ROOT / wrapper, "--help", env=environment, cwd="/")
    script = run(sys.executable, ROOT / WRAPPERS[wrapper], "--help")
    assert (asked.stdout, asked.stderr) == (script.stdout, "")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_python_that_is_not_there_is_named(wrapper):
    environment = {**BARE, "PYTHON": "/nowhere/bin/python"}
    said = run("bash", ROOT / wrapper, "--help", env=environment, code=2).stderr
    assert "no /nowhere/bin/python here; PYTHON names" in said and len(said.splitlines()) == 1


def test_instances_run_in_the_python_that_was_named(tmp_path):
    """A stand-in that is not in PATH, and says how it was called instead of labelling."""
    python = tmp_path / "some environment" / "python"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/sh\ncase $1 in */create_data.py) echo "instead $*" ;; '
        f'*) exec {sys.executable} "$@" ;; esac\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    environment = {**BARE, "PYTHON": str(python), "LOG_DIR": str(tmp_path / "logs")}
    environment["CUDA_VISIBLE_DEVICES"] = "0,1,2,3,4,5,6,7"  # so many, whatever the machine has
    last = run("bash", ROOT / "create_data_h100x8.sh", "--limit", 9, env=environment, cwd="/")
    assert last.stdout.startswith("instead ") and last.stdout.endswith(" --limit 9\n")
    for number in range(2):
        log = (tmp_path / "logs" / f"instance-{number}.log").read_text()
        assert log.startswith("instead ") and f"--shard {number}/2" in log


def test_programs_of_the_environment_are_found_where_nobody_has_activated_it(tmp_path):
    """Such as ninja, with which vLLM compiles; what PATH has comes first."""
    code = "from distill.system import find_own_programs; import os; find_own_programs(); "
    code += "find_own_programs(); print(os.environ['PATH'])"
    environment = {**BARE, "PYTHONPATH": str(ROOT)}
    own = os.path.dirname(sys.executable)
    found = run(sys.executable, "-c", code, env=environment).stdout.strip()
    assert found == f"{BARE['PATH']}:{own}"
    environment["PATH"] = f"{own}:/bin"
    assert run(sys.executable, "-c", code, env=environment).stdout.strip() == f"{own}:/bin"


@pytest.mark.parametrize("path", [*ROOT.glob("*.sh"), *ROOT.glob("slurm/*.sbatch")], ids=str)
def test_wrappers_are_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST
