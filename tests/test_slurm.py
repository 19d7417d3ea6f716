"""The Slurm files, of which only the commands are looked at."""

import os
import re

import pytest

from create_data import parse_args
from distill.labels.choices import Cluster
from helpers import ROOT, run


@pytest.fixture
def slurm(tmp_path):
    """An environment in which scontrol names two nodes and srun prints what it would run on one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "ray": "true",
        "scontrol": "printf 'node-a\\nnode-b\\n'",
        "srun": 'printf "%s\\n" "$@"',
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    variables = {
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_GPUS_ON_NODE": "8",
    }
    variables["SLURM_CPUS_ON_NODE"] = "96"
    return {**os.environ, **variables, "PATH": f"{folder}:{os.environ['PATH']}"}


def test_slurm_files(slurm):
    flags = ["--input_file", "my inputs.txt"]
    words = run(
        "bash", ROOT / "slurm" / "create_data.sbatch", *flags, env=slurm
    ).stdout.splitlines()
    whole_nodes = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=96", "--mem=0"]
    assert words[:4] == whole_nodes and "node-a:6379" in words
    asked = words[words.index("create_data.py") + 1 :]
    choices = parse_args(asked)
    assert choices.cluster == Cluster(8, tensor_parallel_size=2, cpus_per_replica=0)
    assert choices.input_file == "my inputs.txt"
    assert not choices.teacher.engine_flags
    python = slurm["PATH"].split(":")[0] + "/python"  # with ray beside it
    named = {**slurm, "PYTHON": python}
    words = run("bash", ROOT / "slurm" / "create_data.sbatch", env=named).stdout.splitlines()
    assert words[words.index("create_data.py") - 1] == python
    words = run(
        "bash", ROOT / "slurm" / "train_fsdp.sbatch", "a model", "out", env=slurm
    ).stdout.splitlines()
    assert (
        words[-3:] == ["train_trl_fsdp.sh", "a model", "out"]
        and "MACHINE_RANK=$SLURM_NODEID" in words[-4]
    )
    assert words[:4] == whole_nodes
    for name in ("create_data", "train_fsdp"):  # sbatch reads the lines before the first command
        asked = re.findall(
            "^#SBATCH (.*)$", (ROOT / "slurm" / f"{name}.sbatch").read_text(), re.MULTILINE
        )
        assert {"--exclusive", "--mem=0", "--gpus-per-node=8"} <= set(" ".join(asked).split())
