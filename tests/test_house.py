"""The rooms of distill/ and the arrows between them: scripts -> steps -> what is shared, and no
circle.
"""

import ast
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from helpers import ROOT

STEPS = (
    "distill.labels",
    "distill.training",
    "distill.evaluation",
    "distill.prediction",
    "distill.cascade",
)
# The one arrow between them: predict.py is step 1's machinery with the student as its teacher.
ALLOWED = {("distill.prediction", "distill.labels")}
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
MODULES = {}
for path in sorted((ROOT / "distill").rglob("*.py")):
    MODULES[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path


def imports_of(path) -> set[str]:
    """The modules of this repository that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            # "from distill.teacher import child" names a module, "from distill.cli import ROOT" a
            # thing in one
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        found.update(name for name in names if name in MODULES or name in SCRIPTS)
    return found


def room_of(module: str) -> str:
    """The step that a module belongs to; empty for what is shared."""
    return next((step for step in STEPS if module.startswith(f"{step}.")), "")


@pytest.mark.parametrize("module", MODULES)
def test_a_room_knows_neither_scripts_nor_the_next_room(module):
    for imported in imports_of(MODULES[module]):
        assert imported not in SCRIPTS, f"{module} imports the script {imported}"
        arrow = (room_of(module), room_of(imported))
        if arrow[1] and arrow not in ALLOWED:
            assert arrow[0] == arrow[1], f"{module} imports {imported}"


def test_only_predict_imports_its_room():
    """Step 1's room may be imported by it alone, so that no circle and no second user comes in."""
    for script in SCRIPTS:
        rooms = {room_of(imported) for imported in imports_of(ROOT / f"{script}.py")}
        assert ("distill.prediction" in rooms) == (script == "predict"), script


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_do_not_import_each_other(script):
    assert not imports_of(ROOT / f"{script}.py") & set(SCRIPTS)


def test_there_is_no_circle():
    try:
        TopologicalSorter({module: imports_of(path) for module, path in MODULES.items()}).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_hold_flags_and_main(script):
    assert len((ROOT / f"{script}.py").read_text("utf-8").splitlines()) <= 200


def test_only_who_starts_an_engine_knows_which_teacher_it_is():
    """Retries, votes, the journal and ties work with any teacher."""
    allowed = {"distill.teacher.base", "distill.teacher.attempts"}
    names = ("labels.inputs", "labels.labelling", "labels.journal", "labels.forced")
    others = ("evaluation.ties", "evaluation.scores", "evaluation.report", "prediction.asking")
    for name in (*names, *others):
        module = f"distill.{name}"
        teachers = {
            imported
            for imported in imports_of(MODULES[module])
            if imported.startswith("distill.teacher")
        }
        assert teachers <= allowed, module


def test_what_tests_share_is_in_no_test_file():
    """A program that imported one would run pytest's setup.

    A test that did would depend on the other's.
    """
    tests = ROOT / "tests"
    for path in tests.rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            if isinstance(node, ast.ImportFrom):
                names.add(node.module)
        wrong = [name for name in names if name == "conftest" or name.startswith("test_")]
        assert not wrong, f"{path.name} imports {wrong}"


def test_the_package_is_found_from_any_directory(tmp_path):
    """Where a script is called by its path, from elsewhere and without PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "report.py"), "--metrics", "nowhere.json"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "nowhere.json" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all tests")
def test_tests_of_a_file_stay_in_one_process(request):
    """Not so with a pytest that pytest-xdist does not know: fixtures would be made twice."""
    assert request.node.nodeid.endswith("@test_house.py")
