"""benchmarks/gpu.py on a CPU: what it would show of a GPU, on a small configuration where it must
be exact.
"""

import gc
import json

import pytest
import torch

from distill.training.loading import empty_model
from helpers import ROOT, in_fork, last_json, python


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    gc.collect()
    gc.freeze()  # what the imports left need not be searched at each failure
    yield gpu
    gc.unfreeze()


@pytest.fixture(scope="module")
def measured():
    """A run on the small configuration: (what it found, what it printed)."""
    result = in_fork(ROOT / "benchmarks/gpu.py", "--device", "cpu", "--steps", 2)
    return last_json(result)["gpu"], result.stdout


def test_memory_is_as_planned(gpu, measured):
    found, printed = measured
    plan = gpu.SMALL
    assert found["small"] and found["first_step"]["loss"] > 0
    lora = plan.lora(32, 16)  # the rank on attention, and half of it on each of two active experts
    memory = {line["what"]: (line["planned"], line["tensors"]) for line in found["memory"]}
    assert memory["base weights"] == (4 * plan.parameters, 4 * plan.parameters)
    assert memory["LoRA"] == (4 * lora, 4 * lora)
    assert memory["LoRA, gradients, Adam"] == (16 * lora, 16 * lora)
    assert printed.count("\n### ") == 3 and "gate_up_proj (rank 16)" in printed


def test_each_way_computes_the_same_on_the_whole_grid(gpu, measured):
    found, _ = measured
    runs = {(run["length"], run["rows"], run["way"]): run for run in found["runs"]}
    grid = {(n, b, way) for n in (16, 32, 64) for b in (1, 4, 16) for way in ("default", "padded")}
    assert len(runs) == len(found["runs"]) and grid < set(runs)
    assert {way for n, b, way in runs if (n, b) == (32, 4)} == set(gpu.WAYS)
    assert all(run["tokens_per_second"]["low"] > 0 and run["steps"] == 2 for run in runs.values())
    for (length, rows, way), run in runs.items():
        padded = runs[length, rows, "padded"]
        assert run["tokens"] == padded["tokens"]
        assert run["fed_tokens"] == (length * rows if way == "padded" else run["tokens"])
        assert run["loss"] == pytest.approx(padded["loss"], abs=1e-4)
    # each of its rows
    assert len({round(run["loss"], 4) for run in runs.values() if run["way"] == "padded"}) == 9


def test_profiles_spend_no_more_than_the_device_has(gpu, measured):
    found, _ = measured
    for profile in found["profiles"]:
        assert (
            0 < sum(profile["spent"].values()) <= profile["device"]
            and len(profile["spent"]) == gpu.PROFILED
        )


def test_adapter_gives_the_same_in_every_form(measured):
    found, _ = measured
    for adapter in (found["adapter"], found["adapter_in_fp32"]):  # on a CPU both are in fp32
        assert adapter["adapter"] > 1e-3 and adapter["adapter_same_token"] < 0.9
        assert adapter["reloaded"] == adapter["taken_off"] == adapter["repeated"] == 0
        assert (
            adapter["in_weights"] < 1e-4
            and adapter["merged"] < 1e-4
            and adapter["merged_to_adapter"] < 1e-3
        )
        assert adapter["merged_same_token"] == 1


def test_without_time_all_is_listed_as_not_reached(gpu, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--budget_s", "0"])
    assert gpu.main() == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["gpu"]
    assert len(found["runs"]) == 31 and found["memory"]
    assert all(
        run["error"] == "not reached"
        for run in [*found["runs"], *found["profiles"], found["adapter"], found["adapter_in_fp32"]]
    )


def test_a_failure_is_a_line_and_memory_is_its_own_kind(gpu, monkeypatch, capsys):
    """Of the adapter's check nothing fits, of the steps those on four rows.

    The rest is measured.
    """

    def failing(model, optimizer, length, rows, *further):
        return real(model, optimizer, length, rows, *further) if rows == 1 else full()

    def full(*arguments):
        raise torch.OutOfMemoryError("too much")

    real = gpu.timed
    monkeypatch.setattr(gpu, "timed", failing)
    monkeypatch.setattr(gpu, "check_adapter", full)
    monkeypatch.setattr(gpu, "check_in_fp32", full)
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--steps", "1"])
    assert gpu.main() == 0
    # of the runs six have one row; the adapter has a line for each comparison, in both precisions
    assert capsys.readouterr().out.count(" out of memory |") == 31 - 6 + 2 * len(gpu.COMPARED)
    monkeypatch.setattr(gpu, "timed", full)
    monkeypatch.setattr(gpu, "check_adapter", lambda *arguments: {}["nothing"])
    assert gpu.main() == 1
    assert "| KeyError: 'nothing' |" in capsys.readouterr().out
    monkeypatch.setattr(gpu, "build", full)
    assert gpu.main() == 0
    assert "No model: out of memory." in capsys.readouterr().out


def test_configuration_of_a_real_gpu_is_the_30b_student(gpu):
    from random_student import configuration

    config = configuration(gpu.Model())
    assert gpu.Model.of(config) == gpu.Model()
    assert config.rope_parameters["rope_theta"] == 1e7 and config.norm_topk_prob
    assert (
        sum(p.numel() for p in empty_model(config).parameters())
        == gpu.Model().parameters
        == 30_532_122_624
    )


@pytest.fixture
def outcome(gpu, tmp_path, monkeypatch):
    """What is found of a command that needs no GPU, in place of the list's.

    Engines of other tests come and go in /dev/shm meanwhile.
    """
    import gpu_paths
    from gpu_paths import GpuPath, walk

    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(gpu_paths, "SHARED_MEMORY", str(tmp_path / "shm"))

    def found(command, seconds=60, gpus_here=1, **settings):
        return walk(GpuPath("it", command, **settings), str(tmp_path), seconds, gpus_here).found

    return found


def test_outcomes_of_paths(outcome, tmp_path):
    assert outcome("python --version", says="Python 3") == "as it must"
    assert outcome("python -c exit(3)", exit_code=3) == "as it must"
    assert outcome("timeout --preserve-status 0.1 sleep 9", exit_code=143) == "as it must"
    assert outcome("python -c exit(3)") == "exit code 3 instead of 0"
    assert outcome("python --version", says="Python 2") == "does not say 'Python 2'"
    assert outcome("env", says="FAKE_GPUS=8", environment={"FAKE_GPUS": "8"}) == "as it must"
    assert outcome("touch OUT/shm/left") == f"leaves 1 files in {tmp_path}/shm"
    assert outcome("touch OUT/here") == "as it must" and (tmp_path / "here").exists()


def test_paths_for_which_something_is_missing(outcome):
    assert outcome("sleep 5", seconds=0.1) == "not finished after 0 s"
    assert outcome("sleep 5", seconds=0) == "not reached"
    assert (
        outcome("python --version", libraries=("json", "no_such_library"))
        == "not there: no_such_library"
    )
    assert outcome("python --version", gpus_here=1) == "as it must"
    assert outcome("python --version", seconds=9, gpus=2) == "not there: 2 GPUs"
    assert outcome("python --version", files=("README.md", "nowhere")) == "not there: nowhere"
    assert outcome("python --version", models=("no/such",)) == "not there: no/such"


def test_one_failed_path_is_a_failure(gpu):
    import gpu_paths

    outcomes = [
        gpu_paths.Outcome("it", text, 1.0, "")
        for text in ("as it must", "not there: vllm", "not reached")
    ]
    assert not gpu_paths.failed(outcomes)
    assert gpu_paths.failed(
        [*outcomes, gpu_paths.Outcome("it", "exit code 1 instead of 0", 1.0, "")]
    )


def test_listed_paths_are_there_and_need_a_gpu(gpu):
    """On a machine without one, none of them is run."""
    import gpu_paths

    for path in gpu_paths.PATHS:
        named = [word for word in path.command.split() if word.endswith((".py", ".sh", ".txt"))]
        assert named and all((ROOT / word).is_file() for word in named), path.command
    if gpu_paths.count_gpus() == 0:
        result = python("benchmarks/gpu_paths.py")
        assert {one["found"][:9] for one in last_json(result)["gpu_paths"]} == {"not there"}
