"""Which student is asked, by what its adapter's directory records. No model."""

import json

import pytest

import predict
from distill.next_step import task_of_rows
from distill.prediction.student import find_student
from distill.task import load_task

TASK = '{"prompt": "?", "labels": ["a", "b"], "answer": "A: (.+)"}'


@pytest.fixture
def folder(tmp_path):
    """An adapter of the model base, both as far as files say so, and a task."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "adapter").mkdir()
    recorded = {"base_model_name_or_path": str(tmp_path / "base"), "revision": None}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(recorded))
    (tmp_path / "task.yaml").write_text(TASK)
    return tmp_path


def find(folder, *flags, adapter=None):
    common = ["--input_file", "in.csv", "--output_file", "out.csv"]
    common += ["--adapter", str(folder / "adapter") if adapter is None else adapter]
    return find_student(predict.parse_args([*common, *map(str, flags)]))


def record_task(folder, name="results.json"):
    """Write what step 2 records, through step 1's manifest."""
    labels = folder / "labels.jsonl"
    task = load_task(folder / "task.yaml")
    manifest = {"task": task.hash, "task_file": str(folder / "task.yaml")}
    (folder / "labels.jsonl.manifest.json").write_text(json.dumps(manifest))
    path = folder / "adapter" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(task_of_rows(str(labels))))


@pytest.mark.parametrize("name", ["results.json", "report/metrics.json"])
def test_base_and_task_are_those_of_the_adapter(folder, name, caplog):
    record_task(folder, name)
    found = find(folder)
    assert (found.model, found.revision) == (str(folder / "base"), None)
    assert found.task.labels == ("a", "b") and found.task_file == str(folder / "task.yaml")
    assert caplog.text == ""
    (folder / "task.yaml").write_text(TASK.replace("?", "!"))
    find(folder)
    assert "has changed since" in caplog.text


def test_the_commit_on_the_hub_is_the_one_it_was_trained_on(folder):
    config = {"base_model_name_or_path": "org/base", "revision": "abc"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    found = find(folder, "--task", folder / "task.yaml")
    assert (found.model, found.revision) == ("org/base", "abc")
    assert find(folder, "--task", folder / "task.yaml", "--revision", "v2").revision == "v2"


def test_a_base_that_has_moved_is_named_by_a_flag(folder):
    (folder / "base").rename(folder / "other")
    with pytest.raises(ValueError, match="--model_name says where the adapter's base is"):
        find(folder, "--task", folder / "task.yaml")
    (folder / "new").mkdir()
    (folder / "other").rename(folder / "new" / "base")
    found = find(folder, "--task", folder / "task.yaml", "--model_name", folder / "new" / "base")
    assert found.model == str(folder / "new" / "base")


def test_an_adapter_is_not_put_on_what_it_was_merged_into(folder):
    merged = folder / "merged"
    (folder / "base").rename(merged)
    with pytest.raises(ValueError, match='not of --model_name .*merged; --adapter "" asks that'):
        find(folder, "--task", folder / "task.yaml", "--model_name", merged)
    found = find(folder, "--task", folder / "task.yaml", "--model_name", merged, adapter="")
    assert (found.model, found.adapter) == (str(merged), "")


def test_a_student_that_was_trained_again_is_another_one(folder):
    merged = ["--task", folder / "task.yaml", "--model_name", folder / "base"]
    for flags, adapter, changed in (
        (merged[:2], None, folder / "adapter" / "adapter_model.safetensors"),
        (merged, "", folder / "base" / "model.safetensors"),
    ):
        before = find(folder, *flags, adapter=adapter).identity()
        assert find(folder, *flags, adapter=adapter).identity() == before
        changed.write_bytes(b"new weights")
        assert find(folder, *flags, adapter=adapter).identity() != before


def test_a_base_that_was_replaced_in_its_place_is_another_one(folder):
    flags = ["--task", folder / "task.yaml"]
    found = find(folder, *flags)
    before = found.base_identity()
    student = found.identity()
    assert before and find(folder, *flags).base_identity() == before
    (folder / "base" / "model.safetensors").write_bytes(b"new weights")
    assert find(folder, *flags).base_identity() != before
    assert find(folder, *flags).identity() == student
    config = {"base_model_name_or_path": "org/base", "revision": None}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    # a branch may move meanwhile: the commit with which the run goes on is in its journal
    assert find(folder, *flags).base_identity() is None


def test_what_is_not_known_is_asked_for(folder):
    with pytest.raises(ValueError, match="does not say for which task it was made; .* --task"):
        find(folder)
    with pytest.raises(ValueError, match="no adapter here"):
        find(folder, adapter=str(folder / "nowhere"))
    with pytest.raises(ValueError, match="name a merged model with --model_name"):
        find(folder, adapter="")
    with pytest.raises(ValueError, match="which task"):
        find(folder, "--model_name", folder / "base", adapter="")
    record_task(folder)
    (folder / "task.yaml").unlink()
    with pytest.raises(ValueError, match="task.yaml: is not there, as .*results.json says"):
        find(folder)


def test_labels_of_another_origin_name_no_task(tmp_path):
    assert task_of_rows(str(tmp_path / "rows.jsonl")) == {}
