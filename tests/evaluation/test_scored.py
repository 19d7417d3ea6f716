"""What evaluate.py keeps of a run that did not finish.

No model is loaded.
"""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from distill.adapter_files import adapter_identity, model_identity
from distill.evaluation.scored import Scored, Unfinished, common_key, key_of
from distill.evaluation.scores import Prices, measure
from scored_results import RESULT, STUDENT, TEACHER


def test_what_is_kept_is_what_was_scored(tmp_path):
    scored = Scored(tmp_path, {"teacher": {"temperature": 0.15}})
    assert scored.take_over() == {} and scored.what_is_kept() == ""
    scored.write("teacher", RESULT)
    assert scored.take_over() == {"teacher": RESULT}  # texts, None and the last digit of each float
    prices = Prices(input=1.0, cached=0.1, output=4.0)
    figures = [
        measure({"teacher": of}, ["es", "de"], [None] * 2, True, prices)
        for of in (RESULT, *take(scored))
    ]
    assert figures[0] == figures[1]
    assert "kept (teacher, prompt and thinking), the same command goes on" in scored.what_is_kept()
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.json"]


def take(scored):
    return scored.take_over().values()


def test_a_damaged_file_is_scored_again(tmp_path, caplog):
    scored = Scored(tmp_path, {"teacher": {}})
    scored.write("teacher", RESULT)
    (tmp_path / "teacher.json").write_text((tmp_path / "teacher.json").read_text()[:-20])
    assert scored.take_over() == {} and scored.what_is_kept() == ""
    assert "teacher.json: damaged; scored again" in caplog.text


def keys(folder, system, task="t", rows=("hola",), flags=(), machine="m", serve_adapter="auto"):
    common = common_key(
        SimpleNamespace(hash=task), [[{"content": row}] for row in rows], list(flags), 1, machine
    )
    return key_of(
        replace(system, model=str(folder / "base")), common, str(folder / "adapter"), serve_adapter
    )


def touch_adapter(folder):
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"other")


def touch_base(folder):
    path = folder / "base" / "model.safetensors"
    seconds = path.stat().st_mtime_ns
    path.write_bytes(b"1235")  # of the same size
    os.utime(path, ns=(seconds, seconds + 1))


CHANGES = {
    "task": (TEACHER, {"task": "u"}, "task"),
    "rows": (TEACHER, {"rows": ("hola", "hi")}, "rows"),
    "engine flags": (TEACHER, {"flags": ("--dtype", "float32")}, "engine_flags"),
    "machine": (TEACHER, {"machine": "n"}, "machine"),
    "temperature": (replace(TEACHER, temperature=0.3), {}, "temperature"),
    "max_tokens": (replace(TEACHER, max_tokens=5), {}, "max_tokens"),
    "latency rows": (replace(TEACHER, latency_rows=5), {}, "latency_rows"),
    "way of serving": (STUDENT, {"serve_adapter": "merged"}, "serve_adapter"),
    "adapter": (STUDENT, touch_adapter, "adapter"),
    "weights": (STUDENT, touch_base, "weights"),
}


@pytest.fixture
def folder(tmp_path):
    for name, file in (("base", "model.safetensors"), ("adapter", "adapter_model.safetensors")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(b"1234")
    return tmp_path


@pytest.mark.parametrize(("system", "change", "named"), CHANGES.values(), ids=CHANGES)
def test_anything_that_decides_a_result_is_noticed(system, change, named, folder, caplog):
    before = TEACHER if system.name == "teacher" else STUDENT
    kept = folder / "kept"
    kept.mkdir()
    Scored(kept, {system.name: keys(folder, before)}).write(system.name, RESULT)
    assert Scored(kept, {system.name: keys(folder, before)}).take_over()
    caplog.clear()
    if callable(change):
        change(folder)
        change = {}
    assert Scored(kept, {system.name: keys(folder, system, **change)}).take_over() == {}
    assert f"scored before with another {named}; scored again" in caplog.text


def test_what_does_not_concern_a_system_does_not_count(folder):
    before = keys(folder, TEACHER)
    (folder / "adapter" / "report").mkdir()
    touch_adapter(folder)
    assert keys(folder, TEACHER, serve_adapter="merged") == before
    adapter = adapter_identity(str(folder / "adapter"))
    (folder / "adapter" / "README.md").write_text("x")
    (folder / "adapter" / "run.json").write_text("x")
    assert adapter_identity(str(folder / "adapter")) == adapter
    assert model_identity(str(folder / "base")) == model_identity(str(folder / "base"))


def test_nothing_stays_of_a_run_that_scored_nothing(tmp_path):
    report = tmp_path / "report"
    with Unfinished(report) as unfinished:
        assert unfinished.mark.read_text().startswith("evaluate.py keeps here")
        unfinished.merged.mkdir()
        (unfinished.merged / "model.safetensors").write_bytes(b"1234")
    assert not report.exists()
    report.mkdir()  # but a directory of the user's stays
    with Unfinished(report):
        pass
    assert report.exists() and not any(report.iterdir())


def test_results_outlive_a_failed_run_and_go_when_the_report_is_complete(tmp_path):
    with Unfinished(tmp_path) as unfinished:
        Scored(unfinished.folder, {"base": {}}).write("base", RESULT)
    assert sorted(path.name for path in unfinished.folder.iterdir()) == [
        "base.json",
        "made-by-evaluate.txt",
    ]
    (unfinished.folder / "teacher.json.tmp").write_text("half")  # as a killed run leaves it
    with Unfinished(tmp_path) as unfinished:
        assert Scored(unfinished.folder, {"base": {}}).take_over()
        unfinished.remove_scored()
    assert not any(tmp_path.iterdir())


def test_the_copy_of_a_killed_run_is_removed_at_the_next_start(tmp_path, caplog):
    run = Unfinished(tmp_path).__enter__()
    run.merged.mkdir()
    (run.merged / "model.safetensors").write_bytes(b"1234")
    run.lock.close()  # what the kernel does for a killed run
    with Unfinished(tmp_path) as unfinished:
        assert not unfinished.merged.exists()
    assert "removing the merged copy that a stopped run left" in caplog.text


def test_a_directory_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "unfinished" / "merged").mkdir(parents=True)
    with pytest.raises(
        ValueError, match="unfinished: is not evaluate.py's; move it away or choose another"
    ):
        Unfinished(tmp_path).__enter__()
    assert (tmp_path / "unfinished" / "merged").exists()


def test_two_runs_do_not_share_a_report(tmp_path):
    with Unfinished(tmp_path) as first:
        first.merged.mkdir()
        with pytest.raises(ValueError, match="another run is writing it"):
            Unfinished(tmp_path).__enter__()
        assert first.merged.exists()
