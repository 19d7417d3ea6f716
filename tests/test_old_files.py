"""What commit 51c9118 wrote is resumed, loaded and read by the code of today.

old_files/README.md says how it was made. The tiny pair of that time is not the one of today, so no
test compares what models answer.
"""

import csv
import json
import shutil
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoTokenizer

from distill.adapter_files import adapter_identity
from distill.chats import read_input_rows
from distill.evaluation.card import add_to_card
from distill.evaluation.report import write_report
from distill.labels.inputs import scan_inputs
from distill.labels.journal import Journal
from distill.locks import journals_of
from distill.old_values import NOT_RECORDED, OLD_HEADER, OLD_RUN, first_difference
from distill.outputs import beside, parse
from distill.training.checkpoints import last_checkpoint
from distill.training.hub import Repository, commit_files
from distill.training.run_directory import Takeover, prepare_output
from distill.training.same_run import refuse_another_run
from distill.wording import percent
from helpers import ROOT, in_fork, last_json, python, read_jsonl, run

OLD = ROOT / "tests" / "old_files"
# as the old files name them
TEACHER = "models/tiny-thinking"
STUDENT = "models/tiny-instruct"
TRAINING = ["--config", ROOT / "configs" / "tiny.yaml", "--lora_rank", 1, "--lora_alpha", 1]
TRAINING += ["--per_device_train_batch_size", 4, "--logging_steps", 1]


def copy_of(name, tmp_path):
    """The files of one directory of old_files, with write permission, where they may change."""
    return shutil.copytree(OLD / name, tmp_path / name)


def labelling(output, *flags):
    """The command of step 1 that the old files were made with."""
    fixed = ["--model_name", TEACHER, "--input_file", OLD / "inputs.txt", "--max_model_len", 2800]
    return [sys.executable, ROOT / "create_data.py", *fixed, "--output_file", output, *flags]


@pytest.fixture
def without_weights(tmp_path):
    """A working directory in which the models have names and no weights: whatever would load one
    fails.
    """
    folder = tmp_path / "work"
    for name in (TEACHER, STUDENT):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    return folder


def decided(path):
    """The lines of a journal that decide an input, torn ones left out."""
    records = [parse(line) for line in path.read_bytes().splitlines(keepends=True)]
    return [record for record in records if record and "index" in record]


def header(path):
    return json.loads(path.read_text(encoding="utf-8").partition("\n")[0])["run"]


def same_outputs(output, old):
    """Output and rejected rows byte by byte, and the manifest in all that it said then."""
    assert output.read_bytes() == old.read_bytes()
    assert (
        beside(output, "rejected.jsonl").read_bytes() == beside(old, "rejected.jsonl").read_bytes()
    )
    found = json.loads(beside(output, "manifest.json").read_text())
    expected = json.loads(beside(old, "manifest.json").read_text())
    for key in ("versions", "task_file", "input_file"):  # of the machine and the command
        del expected[key]
    for key, value in expected.items():
        assert found[key] == value, key


def test_a_finished_journal_gives_its_outputs_again(without_weights, tmp_path):
    output = copy_of("finished", tmp_path) / "labels.jsonl"
    for path in (output, beside(output, "rejected.jsonl"), beside(output, "manifest.json")):
        path.unlink()
    summary = last_json(run(*labelling(output), cwd=without_weights))
    assert (summary["asked"], summary["rejected"]) == (0, 1)
    same_outputs(output, OLD / "finished" / "labels.jsonl")


def test_the_journals_of_shards_are_merged(without_weights, tmp_path):
    output = copy_of("sharded", tmp_path) / "labels.jsonl"
    journals = {path: path.read_bytes() for path in journals_of(output)}
    assert len(journals) == 2
    summary = last_json(run(*labelling(output), cwd=without_weights))
    assert (summary["asked"], summary["rows"]) == (0, 46)
    answers = {record["index"]: record["answer"] for path in journals for record in decided(path)}
    first = scan_inputs(OLD / "inputs.txt").first
    written = [row["messages"][-1]["content"] for row in read_jsonl(output)]
    assert written == [answers[index] for index in first if answers[index]]
    assert all(path.read_bytes() == content for path, content in journals.items())


def test_a_finished_output_is_refused(without_weights, tmp_path):
    output = copy_of("finished", tmp_path) / "labels.jsonl"
    error = run(*labelling(output), code=2, cwd=without_weights).stderr
    assert "exists and is finished; --overwrite" in error
    same_outputs(output, OLD / "finished" / "labels.jsonl")


def test_a_finished_output_is_nothing_to_do(without_weights, tmp_path):
    """With --skip_finished, for make and cron; only where it is the same run."""
    output = copy_of("finished", tmp_path) / "labels.jsonl"
    skip = labelling(output, "--skip_finished")
    result = run(*skip, cwd=without_weights)
    summary = last_json(result)
    assert summary["skipped"] and (summary["asked"], summary["rejected"]) == (0, 1)
    assert result.stderr == f"create_data.py: {output} is finished, nothing to do\n"
    assert last_json(run(*skip, "--shard", "1/2", cwd=without_weights))["skipped"]
    # as the run that wrote it has ended
    too_few = run(*skip, "--min_success_rate", 1, code=1, cwd=without_weights)
    assert "of the rows got a label" in too_few.stderr and last_json(too_few) == summary
    error = run(*skip, "--temperature", 0.3, code=2, cwd=without_weights).stderr
    assert "exists and is finished, but --temperature was 0.15, is 0.3; --reuse changed" in error
    for journal in journals_of(output):
        journal.unlink()  # the manifest knows it too
    error = run(*skip, "--temperature", 0.3, code=2, cwd=without_weights).stderr
    assert "finished, but --temperature was 0.15, is 0.3; --overwrite starts afresh" in error
    assert last_json(run(*skip, cwd=without_weights)) == summary
    error = run(*skip, "--overwrite", code=2, cwd=without_weights).stderr
    assert "--overwrite and --skip_finished contradict each other" in error
    # the same texts, but labels would be joined to them by ids
    table = tmp_path / "inputs.csv"
    texts = [row.messages[0]["content"] for row in read_input_rows(OLD / "inputs.txt")]
    with open(table, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *enumerate(texts)])
    ids = ["--input_file", table, "--text_column", "text", "--id_column", "id"]
    error = run(*skip, *ids, code=2, cwd=without_weights).stderr
    assert f"{output}: was written with other ids than those of the inputs; --reuse" in error
    same_outputs(output, OLD / "finished" / "labels.jsonl")
    beside(output, "manifest.json").unlink()
    error = run(*skip, code=2, cwd=without_weights).stderr
    assert "no manifest says how it was made" in error


@pytest.mark.parametrize("name", ["finished", "sharded"])
def test_answers_are_reused_for_other_inputs(name, without_weights, tmp_path):
    """Of one journal and of two; nobody is asked, and what is left out is there again later."""
    output = copy_of(name, tmp_path) / "labels.jsonl"
    whole = ["--reuse", "same"]
    some = last_json(run(*labelling(output, *whole, "--limit", 20), cwd=without_weights))
    assert (some["rows"], some["asked"], some["reused"]) == (20, 0, 19)  # one of them twice
    assert [path.name for path in journals_of(output)] == ["labels.jsonl.trace.jsonl"]
    every = last_json(run(*labelling(output, *whole), cwd=without_weights))
    assert (every["rows"], every["asked"], every["reused"]) == (46, 0, 44)
    if name == "finished":
        same_outputs(output, OLD / "finished" / "labels.jsonl")


def test_a_journal_is_not_continued_under_another_value(without_weights, tmp_path):
    output = copy_of("half", tmp_path) / "labels.jsonl"
    before = (tmp_path / "half" / "labels.jsonl.trace.jsonl").read_bytes()
    error = run(*labelling(output, "--temperature", 0.3), code=2, cwd=without_weights).stderr
    assert (
        "trace.jsonl: is of another run, --temperature was 0.15, is 0.3; --reuse changed" in error
    )
    assert [path.read_bytes() for path in (tmp_path / "half").iterdir()] == [before]


@pytest.mark.parametrize("key", OLD_HEADER)
def test_a_header_without_a_key_has_the_value_of_its_time(key, tmp_path):
    """It goes on under the old value alone.

    So does one that has a key which the run of today lacks.
    """
    inputs = scan_inputs(OLD / "inputs.txt")
    journal = OLD / "half" / "labels.jsonl.trace.jsonl"
    _, *lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    old = None if OLD_HEADER[key] is NOT_RECORDED else OLD_HEADER[key]
    with_key = {**header(journal), key: old}
    without = {name: value for name, value in with_key.items() if name != key}

    def opened(folder, written, now):
        folder.mkdir()
        first = json.dumps({"run": written}) + "\n"
        (folder / journal.name).write_text(first + "".join(lines), encoding="utf-8")
        found = Journal(folder / "labels.jsonl", now, inputs)
        found.open()
        return found

    assert (opened(tmp_path / "old", without, with_key).places >= 0).sum() == len(decided(journal))
    assert (opened(tmp_path / "new", with_key, without).places >= 0).sum() == len(decided(journal))
    if OLD_HEADER[key] is NOT_RECORDED:
        opened(tmp_path / "any", without, {**without, key: "another"})
        return
    with pytest.raises(ValueError, match=f"trace.jsonl: --{key} was {old}, is another; --over"):
        opened(tmp_path / "other", without, {**without, key: "another"})


def test_a_run_json_without_a_key_has_the_value_of_its_time(tmp_path):
    """Every key of the table; one that was a flag before it was recorded may have had any value."""
    recorded = json.loads((OLD / "stopped" / "run.json").read_text())
    for key, value in OLD_RUN.items():
        without = {name: value for name, value in recorded.items() if name != key}
        (tmp_path / "run.json").write_text(json.dumps(without))
        if value is NOT_RECORDED:
            refuse_another_run(tmp_path, {**without, key: "any"})
            continue
        refuse_another_run(tmp_path, {**without, key: value})
        with pytest.raises(ValueError, match=f"begun with {key} .*, now another; --overwrite"):
            refuse_another_run(tmp_path, {**without, key: "another"})
    (tmp_path / "run.json").write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match="begun with a_new_setting None, now 3; --overwrite"):
        refuse_another_run(tmp_path, {**recorded, "a_new_setting": 3})


def test_a_key_that_one_side_lacks():
    table = {"added": 1, "unknown": NOT_RECORDED}
    for one, other in (
        ({}, {"added": 1}),
        ({"added": 1}, {}),
        ({}, {"unknown": 7}),
        ({}, {"other": None}),
    ):
        assert first_difference({"m": 1, **one}, {"m": 1, **other}, table) is None
    found = first_difference({}, {"added": 2}, table)
    assert (found.key, found.before, found.now) == ("added", 1, 2)
    found = first_difference({"added": 2}, {}, table)
    assert (found.key, found.before, found.now) == ("added", 2, 1)
    assert first_difference({}, {"other": 3}, table).key == "other"


def test_labels_are_scored_against_gold(tmp_path):
    gold = tmp_path / "gold.jsonl"
    rows = read_jsonl(ROOT / "example-data" / "multilingual_gold.jsonl")[:28]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = ["--labels", OLD / "finished" / "labels.jsonl", "--gold", gold]
    found = last_json(python("evaluate.py", *flags))
    assert (found["rows"], found["unreadable"]) == (28, 0) and found["correct"] >= 24


def test_an_evaluation_is_read_by_the_report(tmp_path):
    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", readme)
    metrics = OLD / "adapter" / "report" / "metrics.json"
    assert (
        last_json(python("report.py", "--metrics", metrics, "--readme", readme))["commit"]
        == "51c9118"
    )
    text = readme.read_text(encoding="utf-8")
    assert "Systems on 12 held-out rows" in text and ", 51c9118." in text
    predictions = read_jsonl(metrics.with_name("predictions.jsonl"))
    write_report(tmp_path / "report", json.loads(metrics.read_text()), predictions)
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "12 of 12 rows" in page and page.count("<img") == 4


def test_a_finished_adapter_is_kept(tmp_path):
    folder = copy_of("adapter", tmp_path)
    with pytest.raises(
        ValueError, match="adapter: holds a finished adapter; --overwrite replaces it"
    ):
        prepare_output(folder, {}, Takeover())
    files = [path for path in (OLD / "adapter").rglob("*") if path.is_file()]
    for path in files:
        assert (folder / path.relative_to(OLD / "adapter")).read_bytes() == path.read_bytes()


def test_a_finished_adapter_can_be_pushed(without_weights, monkeypatch):
    monkeypatch.chdir(without_weights)
    repository = Repository(None, "ana/adapter", "https://example.org/ana/adapter", None)
    tokenizer = AutoTokenizer.from_pretrained(OLD / "adapter")
    operations = {
        found.path_in_repo: found for found in commit_files(repository, OLD / "adapter", tokenizer)
    }
    assert {
        "adapter_model.safetensors",
        "run.json",
        "tokenizer.json",
        "loss.png",
    } < operations.keys()
    card = operations["README.md"].path_or_fileobj.decode()
    assert "base_model: tiny-instruct" in card and 'from_pretrained("ana/adapter")' in card


def test_its_card_gets_the_figures_of_an_evaluation_and_keeps_them_when_pushed(tmp_path, caplog):
    folder = copy_of("adapter", tmp_path)
    metrics = json.loads((folder / "report" / "metrics.json").read_text())
    accuracy = metrics["systems"]["student"]["accuracy"]
    identity = adapter_identity(folder)
    add_to_card(str(folder), metrics)
    assert adapter_identity(folder) == identity
    repository = Repository(None, "ana/adapter", "https://example.org/ana/adapter", None)
    tokenizer = AutoTokenizer.from_pretrained(OLD / "adapter")
    [pushed, *_] = commit_files(repository, folder, tokenizer)
    for text in ((folder / "README.md").read_text(), pushed.path_or_fileobj.decode()):
        shown = {one.metric_name: one.metric_value for one in ModelCard(text).data.eval_results}
        assert shown["accuracy on gold"] == round(accuracy, 4)
        assert f"| heldout.jsonl | {percent(accuracy)} (" in text
    assert caplog.messages == []

    # a card that the user has broken costs the figures and no push
    (folder / "README.md").write_text("---\ntags: [prompt-distillation\n---\n")
    [pushed, *_] = commit_files(repository, folder, tokenizer)
    assert "accuracy on gold" not in pushed.path_or_fileobj.decode()
    [warning] = caplog.messages
    assert "README.md: pushed without an evaluation's figures: its metadata" in warning


def test_states_of_a_checkpoint_are_data_alone():
    """They are loaded without running what a file says, and hold what a resumed run needs."""
    folder = last_checkpoint(OLD / "stopped")
    states = {path.name: torch.load(path, weights_only=True) for path in folder.glob("[os]*.pt")}
    assert set(states) == {"optimizer.pt", "scheduler.pt"}
    assert len(states["optimizer.pt"]["state"]) == len(
        load_file(folder / "adapter_model.safetensors")
    )


@pytest.mark.slow
def test_a_half_finished_journal_is_resumed(pair, tmp_path):
    output = copy_of("half", tmp_path) / "labels.jsonl"
    journal = tmp_path / "half" / "labels.jsonl.trace.jsonl"
    old = decided(journal)
    assert not journal.read_bytes().endswith(b"\n")  # torn
    _, script, *flags = labelling(output)
    summary = last_json(in_fork(script, *flags, cwd=ROOT))
    new = decided(journal)
    assert new[: len(old)] == old
    assert summary["asked"] == len(new) - len(old) == 44 - len(old)
    assert len({record["index"] for record in new}) == len(new)
    answers = {record["hash"]: record["answer"] for record in old if record["answer"]}
    inputs = scan_inputs(OLD / "inputs.txt")
    written = {
        row["messages"][0]["content"]: row["messages"][-1]["content"] for row in read_jsonl(output)
    }
    for index, messages in inputs.read():
        text = messages[0]["content"]
        if inputs.hash(index) in answers:
            assert written[text] == answers[inputs.hash(index)]
    assert summary["rows"] == 46


@pytest.mark.slow
def test_a_checkpoint_is_resumed(pair, tmp_path):
    folder = copy_of("stopped", tmp_path)
    before = json.loads((last_checkpoint(folder) / "trainer_state.json").read_text())
    flags = ["--model_name", STUDENT, "--train_file", OLD / "finished" / "labels.jsonl", *TRAINING]
    flags += ["--max_steps", 12, "--save_strategy", "steps", "--save_steps", 4]
    process = in_fork(ROOT / "train_sft_trl.py", *flags, "--output_dir", folder, cwd=ROOT)
    assert f"resuming from {folder / 'checkpoint-4'}" in process.stderr
    assert last_json(process)["steps"] == 12 and (folder / "results.json").exists()
    state = json.loads((folder / "checkpoint-12" / "trainer_state.json").read_text())
    assert state["log_history"][:4] == before["log_history"]
    assert [entry["step"] for entry in state["log_history"][:12]] == list(range(1, 13))
    rates = [entry["learning_rate"] for entry in state["log_history"][1:12]]
    assert rates == sorted(rates, reverse=True)  # the schedule goes on, without another warm-up


@pytest.mark.slow
def test_an_adapter_is_evaluated_with_the_teacher_s_old_answers(pair, tmp_path):
    """Merged into the student of today and checked against PEFT; the report of then is replaced."""
    adapter = copy_of("adapter", tmp_path)
    teacher = copy_of("teacher", tmp_path) / "heldout.jsonl"
    flags = ["--systems", "teacher,student", "--teacher_answers", teacher, "--adapter", adapter]
    flags += ["--student_model", STUDENT, "--test_file", OLD / "heldout.jsonl", "--latency_rows", 1]
    found = last_json(in_fork(ROOT / "evaluate.py", *flags, cwd=ROOT))
    assert found["rows"] == 12
    metrics = json.loads((adapter / "report" / "metrics.json").read_text())
    assert metrics["check"]["rows"] == 8 and metrics["check"]["differ"] == 0
    assert metrics["systems"]["teacher"]["correct"] >= 8
    assert metrics["systems"]["teacher"]["output_tokens"] > 10  # of the journal beside the answers
    old = json.loads((OLD / "adapter" / "report" / "metrics.json").read_text())
    assert old["systems"].keys() > metrics["systems"].keys()  # of all four systems
    rows = read_jsonl(adapter / "report" / "predictions.jsonl")
    labels = [row["messages"][-1]["content"] for row in read_jsonl(teacher)]
    assert [row["teacher"]["answer"] for row in rows] == labels
