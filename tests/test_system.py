"""What is said of the machine: stand-ins for the driver's file and for nvidia-smi; and the pins of
all machines.
"""

import os
import re

import pytest
import torch

from distill import system
from distill.system import (
    cpu_name,
    driver_problem,
    engines_on_gpus,
    machine,
    nvidia_driver,
    visible_gpus,
)
from distill.teacher.engine import engine_arguments
from distill.training.arguments import TrainArguments
from helpers import ROOT

PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n"
    "GCC version: 12.3.0\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  "
    "Release Build  (dvs-builder@U22)\n"
)


def test_a_machine_with_another_gpu_is_another_one(tmp_path):
    """Seconds that an earlier run has kept are not set against those of another GPU."""
    assert machine(tmp_path) == cpu_name()
    for number in range(2):
        folder = tmp_path / f"0000:0{number}:00.0"
        folder.mkdir()
        text = f"Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t {number}\n"
        (folder / "information").write_text(text)
    assert machine(tmp_path) == f"{cpu_name()}, NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(("text", "version"), [(PROPRIETARY, "535.129.03"), (OPEN, "580.65.06")])
def test_driver_from_its_file(text, version, tmp_path):
    (tmp_path / "version").write_text(text)
    assert nvidia_driver(tmp_path / "version") == version


def test_driver_from_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_driver(tmp_path / "nowhere") == ""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 550.54.15\necho 550.54.15\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert nvidia_driver(tmp_path / "nowhere") == "550.54.15"
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert nvidia_driver(tmp_path / "nowhere") == ""


@pytest.mark.parametrize("cpu_build", [True, False])
@pytest.mark.parametrize("driver", ["", "580.65.06"])
def test_engines_run_on_gpus_with_a_driver_and_the_build_for_them(driver, cpu_build, monkeypatch):
    monkeypatch.setattr(system, "is_cpu_build", lambda: cpu_build)
    monkeypatch.setattr(system, "nvidia_driver", lambda: driver)
    assert engines_on_gpus() == (driver != "" and not cpu_build)


def test_gpus_are_those_that_are_named_or_listed_or_have_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "is_cpu_build", lambda: False)
    monkeypatch.setattr(system, "nvidia_driver", lambda: "580.65.06")
    monkeypatch.setattr(system, "DEVICES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia2", "nvidia5", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus() == ["0", "1"]  # as CUDA counts those that a container was given
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\necho 1\necho 2\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert visible_gpus() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert visible_gpus() == ["4", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", " 4 ,-1,5")
    assert visible_gpus() == ["4"]  # nothing after it
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []
    monkeypatch.setattr(system, "is_cpu_build", lambda: True)
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("cuda", "driver", "named"),
    [
        (
            "13.0",
            "535.129.03",
            "driver 535.129.03: this PyTorch is built for CUDA 13.0, which needs driver 580 or",
        ),
        ("12.9", "470.82.01", "CUDA 12.9, which needs driver 525"),
        ("13.0", "580.65.06", ""),
        ("12.9", "535.129.03", ""),
        ("13.0", "", ""),
        (None, "535.129.03", ""),  # the CPU build
        ("14.1", "535.129.03", ""),  # whose needs we do not know
    ],
)
def test_an_old_driver_is_named_with_the_one_needed(cuda, driver, named, monkeypatch):
    monkeypatch.setattr(system, "cuda_starts", lambda: False)
    found = driver_problem(cuda, driver)
    assert named in found and bool(found) == bool(named)


def test_an_old_driver_on_which_cuda_starts_is_no_problem(monkeypatch):
    monkeypatch.setattr(system, "cuda_starts", lambda: True)
    assert driver_problem("13.0", "535.129.03") == ""


def test_scripts_name_the_driver_where_cuda_does_not_start(monkeypatch, tmp_path, caplog):
    """On a box with an old driver, as far as nvidia-smi and PyTorch's build say.

    On it CUDA does not start here.
    """
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 535.129.03\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    named = (
        "NVIDIA driver 535.129.03: this PyTorch is built for CUDA 13.0, "
        "which needs driver 580 or newer"
    )
    with pytest.raises(ValueError, match=named):
        TrainArguments(output_dir=str(tmp_path))
    # which needs no driver
    assert TrainArguments(output_dir=str(tmp_path), use_cpu=True, bf16=False).use_cpu
    engine_arguments("some/model")
    assert [
        record.getMessage().partition(";")[0]
        for record in caplog.records
        if record.name == "engine"
    ] == [named]


def test_cuda_does_not_start_on_a_cpu():
    assert not system.cuda_starts()


def test_all_machines_have_the_same_versions():
    """But for the build after the plus sign, and the name of vLLM's CPU build."""
    pins = {}
    for name in ("requirements.txt", "requirements/cpu.txt", "requirements/cuda12.txt"):
        found = re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / name).read_text(), re.MULTILINE)
        pins[name] = {package.removesuffix("-cpu"): version for package, version in found}
    first, *others = pins.values()
    assert len(first) == 12 and all(other == first for other in others)
    assert (
        f"wheels.vllm.ai/{first['vllm']}/cu129"
        in (ROOT / "requirements" / "cuda12.txt").read_text()
    )
