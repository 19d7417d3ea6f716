"""A run of predict.py around a student that answers from a list: journal, resume, output. No
model.
"""

import json
from collections import Counter

import pytest

import predict
from distill.labels.inputs import scan_inputs
from distill.prediction.run import header_of
from distill.prediction.student import find_student
from distill.teacher.base import TeacherEnded
from helpers import ROOT, fails, in_fork, last_json
from hub_cache import commit_of, make_hub_cache
from list_student import ListStudent
from predictions import ANSWERS, TASK, choices, last_line, make_folder, rows, run_once
from table_files import as_parquet


@pytest.fixture
def folder(tmp_path):
    make_folder(tmp_path)
    return tmp_path


def test_every_row_is_in_the_output_and_equal_ones_are_asked_once(folder, capsys):
    student = ListStudent(ANSWERS)
    assert run_once(choices(folder, "--price_input", 100, "--price_output", 1), student) == 0
    assert len(student.asked) == 4
    found = rows(folder / "out.csv")
    assert [row["nr"] for row in found] == ["007", "008", "009", "010", "011", "012"]
    assert [row["answer"] for row in found] == ["a", "b", "a", "", "", ""]
    assert [row["confidence"] for row in found] == ["0.9", "0.5", "0.9", "0.25", "", ""]
    assert [row["valid"] for row in found] == ["true"] * 3 + ["false"] * 3
    reasons = ["", "", "", "not_a_label", "input_too_long", "cut"]
    assert [row["reason"] for row in found] == reasons
    assert [row["response"] for row in found] == ["", "", "", "c", "", "a a a"]
    assert [row["n"] for row in found[:3]] == ["NA", "1", ""]
    manifest = json.loads((folder / "out.csv.manifest.json").read_text())
    assert manifest["rows"] == 6 and manifest["unique_rows"] == 5
    assert manifest["label_counts"] == {"a": 2, "b": 1}
    assert manifest["reasons"] == {"not_a_label": 1, "input_too_long": 1, "cut": 1}
    assert manifest["mean_confidence"] == pytest.approx((0.9 * 2 + 0.5 + 0.25) / 4)
    assert manifest["success_rate"] == 0.5 and manifest["labels"] == ["a", "b"]
    line = last_line(capsys)
    assert line["rejected"] == 3 and line["output_tokens"] == 7
    # 15 input tokens, of which cached ones cost as much as others, and 7 of output
    assert line["cost"] == pytest.approx((15 * 100 + 7) / 1e6)


@pytest.mark.parametrize("ends_after", [0, 1, 3])
def test_a_run_that_ended_goes_on_and_asks_nothing_twice(folder, ends_after):
    assert run_once(choices(folder, output="whole.csv"), ListStudent(ANSWERS)) == 0
    first = ListStudent(ANSWERS, ends_after=ends_after)
    with pytest.raises(TeacherEnded):
        run_once(choices(folder), first)
    assert not (folder / "out.csv").exists()
    with open(folder / "out.csv.trace.jsonl", "ab") as file:
        file.write(b'{"index": 3, "hash": "torn')
    second = ListStudent(ANSWERS)
    assert run_once(choices(folder), second) == 0
    asked = Counter(r.prompt.content[0]["content"] for r in first.asked + second.asked)
    assert asked == Counter(list(ANSWERS))
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()


@pytest.mark.parametrize("name", ["out.jsonl", "out.tsv", "out.parquet", "out.csv.gz", "out.json"])
def test_the_journal_holds_all_that_an_output_needs(folder, name):
    """Another format costs no model: the journal under the new name is enough."""
    assert run_once(choices(folder), ListStudent(ANSWERS)) == 0
    (folder / "out.csv.trace.jsonl").rename(folder / f"{name}.trace.jsonl")
    assert run_once(choices(folder, output=name), ListStudent({})) == 0
    assert (folder / name).stat().st_size > 0


def test_a_finished_output_is_left_or_made_again(folder, capsys):
    assert run_once(choices(folder), ListStudent(ANSWERS)) == 0
    before = (folder / "out.csv").read_bytes()
    with pytest.raises(ValueError, match="exists and is finished; --overwrite replaces it"):
        run_once(choices(folder), None)
    assert run_once(choices(folder, "--skip_finished"), None) == 0
    line = last_line(capsys)
    assert line["skipped"] is True and line["rows"] == 6 and line["asked"] == 0
    with pytest.raises(ValueError, match="made with another --max_tokens"):
        run_once(choices(folder, "--skip_finished", "--max_tokens", 8), None)
    again = ListStudent(ANSWERS)
    assert run_once(choices(folder, "--overwrite"), again) == 0
    assert len(again.asked) == 4 and (folder / "out.csv").read_bytes() == before


@pytest.mark.parametrize("flags", [[], ["--skip_finished"]])
def test_a_run_that_was_killed_before_its_manifest_asks_nothing_again(folder, flags):
    assert run_once(choices(folder), ListStudent(ANSWERS)) == 0
    output = folder / "out.csv"
    manifest = folder / "out.csv.manifest.json"
    before = output.read_bytes()
    counted = json.loads(manifest.read_text())
    manifest.unlink()
    with pytest.raises(ValueError, match="made with another --max_tokens"):
        run_once(choices(folder, *flags, "--max_tokens", 8), None)
    assert run_once(choices(folder, *flags), None) == 0
    assert output.read_bytes() == before
    again = json.loads(manifest.read_text())
    for key in ("student", "rows", "label_counts", "reasons", "output_tokens"):
        assert again[key] == counted[key]


@pytest.mark.parametrize("flags", [[], ["--skip_finished"]])
def test_an_output_that_no_run_has_made_stays(folder, flags):
    """Without a journal, or with one that does not hold an answer to every input."""
    output = folder / "out.csv"
    output.write_text("by hand")
    with pytest.raises(ValueError, match="out.csv: no manifest says how it was made; --overwrite"):
        run_once(choices(folder, *flags), None)
    output.unlink()
    with pytest.raises(TeacherEnded):
        run_once(choices(folder), ListStudent(ANSWERS, ends_after=2))
    output.write_text("by hand")
    with pytest.raises(ValueError, match="out.csv: no manifest says how it was made; --overwrite"):
        run_once(choices(folder, *flags), None)
    assert output.read_text() == "by hand"


def test_an_earlier_outputs_manifest_does_not_say_that_this_one_is_finished(folder, monkeypatch):
    """As after --overwrite, when the process dies between output and manifest."""
    assert run_once(choices(folder), ListStudent(ANSWERS)) == 0

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("distill.prediction.results.manifest_for", killed)
        with pytest.raises(KeyboardInterrupt):
            run_once(choices(folder, "--overwrite"), ListStudent(ANSWERS))
    assert (folder / "out.csv").exists()
    assert not (folder / "out.csv.manifest.json").exists()
    assert run_once(choices(folder), None) == 0
    assert (folder / "out.csv.manifest.json").exists()


def test_another_run_is_refused_in_words(folder):
    with pytest.raises(TeacherEnded):
        run_once(choices(folder), ListStudent(ANSWERS, ends_after=2))
    journal = (folder / "out.csv.trace.jsonl").read_bytes()
    with pytest.raises(ValueError, match="made with other inputs"):
        run_once(choices(folder, "--limit", 3), None)
    (folder / "task.yaml").write_text(TASK.replace("?", "Another prompt"))
    with pytest.raises(TeacherEnded):  # which the student never sees, so that it goes on
        run_once(choices(folder), ListStudent(ANSWERS, ends_after=0))
    (folder / "task.yaml").write_text(TASK.replace('"b"', '"c"'))
    with pytest.raises(ValueError, match="a task with other labels"):
        run_once(choices(folder), None)
    (folder / "task.yaml").write_text(TASK)
    (folder / "merged" / "model.safetensors").write_bytes(b"trained again")
    with pytest.raises(ValueError, match="made with another student: it was trained again"):
        run_once(choices(folder), None)
    assert (folder / "out.csv.trace.jsonl").read_bytes().startswith(journal)


def test_a_base_that_was_replaced_between_two_starts_is_refused(folder):
    """Some answers would be of the one, some of the other, with the same adapter."""
    adapter = folder / "adapter"
    adapter.mkdir()
    recorded = {"base_model_name_or_path": str(folder / "merged")}
    (adapter / "adapter_config.json").write_text(json.dumps(recorded))
    flags = ["--adapter", adapter, "--model_name", ""]
    with pytest.raises(TeacherEnded):
        run_once(choices(folder, *flags), ListStudent(ANSWERS, ends_after=1))
    (folder / "merged" / "model.safetensors").write_bytes(b"another base")
    with pytest.raises(ValueError, match="made with other weights of the base model: its files"):
        run_once(choices(folder, *flags), None)


def test_columns_that_are_not_kept_are_named(folder, caplog):
    row = {"nr": "7", "text": "one", "tags": ["x"], "raw": b"x"}
    (folder / "in.parquet").write_bytes(as_parquet([row]))
    flags = ["--input_file", folder / "in.parquet"]
    assert run_once(choices(folder, *flags), ListStudent(ANSWERS)) == 0
    assert "in.parquet: lists, structures and bytes are not kept" in caplog.text
    assert "columns for tags, raw; write" in caplog.text
    assert list(rows(folder / "out.csv")[0])[:4] == ["index", "nr", "text", "raw"]
    caplog.clear()
    assert run_once(choices(folder, output="other.csv"), ListStudent(ANSWERS)) == 0
    assert "not kept" not in caplog.text


def test_a_journal_of_step_1_is_not_continued(folder):
    (folder / "out.csv.trace.jsonl").write_text('{"run": {"model": "teacher"}}\n')
    with pytest.raises(ValueError, match="is a journal of create_data.py"):
        run_once(choices(folder), None)


def test_bad_input_is_refused_before_anything_is_made(folder):
    for flags, said in (
        (["--output_file", folder / "out.txt"], "predictions are written as .csv"),
        (["--output_file", folder / "in.csv", "--overwrite"], "would be replaced"),
        (["--id_column", "n"], "the id in column 'n' is empty"),
        (["--text_column", "body"], "no column 'body'"),
    ):
        before = sorted(folder.iterdir())
        with pytest.raises(ValueError, match=said):
            run_once(choices(folder, *flags), None)
        assert sorted(folder.iterdir()) == before


def test_too_few_answers_are_said_and_the_output_is_there(folder, caplog):
    assert run_once(choices(folder, "--min_success_rate", 0.9), ListStudent(ANSWERS)) == 1
    assert "only 50.0 % of the rows got a valid answer (1 not_a_label, " in caplog.text
    assert len(rows(folder / "out.csv")) == 6


def test_a_schemas_answers_are_json(folder):
    schema = {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}
    (folder / "task.yaml").write_text(json.dumps({"prompt": "?", "schema": schema}))
    (folder / "in.csv").write_text("nr,text\n1,one\n")
    answers = {"one": ('{"n": 2.0}', "stop", 0.5)}
    assert run_once(choices(folder), ListStudent(answers)) == 0
    assert rows(folder / "out.csv")[0]["answer"] == '{"n": 2}'
    assert run_once(choices(folder, output="out.jsonl"), ListStudent(answers)) == 0
    assert json.loads((folder / "out.jsonl").read_text())["answer"] == {"n": 2}


def test_prices_of_replicas_are_those_of_all_their_gpus(folder):
    prices = choices(folder, "--gpu_price_per_hour", 3.6, "--num_replicas", 4).prices
    assert prices.of_system("student", {"rows_per_second": 1000}) == pytest.approx(4.0)


def test_a_student_on_the_hub_goes_on_with_its_commit(folder):
    """Whose branch has moved meanwhile."""
    (folder / "in.csv").write_text("nr,text\n1,one\n")
    flags = ["--adapter", "", "--model_name", "team/student", "--task", folder / "task.yaml"]
    flags += ["--input_file", folder / "in.csv", "--output_file", folder / "out.csv"]
    flags += ["--text_column", "text"]
    chosen = predict.parse_args([str(word) for word in flags])
    inputs = scan_inputs(chosen.input_file, 0, chosen.columns)
    begun = commit_of("v1")
    header = {"run": header_of(chosen, find_student(chosen), inputs, begun), "commit": begun}
    attempt = {"response": "a", "prompt_tokens": 3, "cached_tokens": 0, "output_tokens": 2}
    record = {"index": 0, "hash": inputs.hash(0), "answer": "a", "reason": None}
    record.update(log_confidence=-0.1, seconds=1.0, attempts=[attempt])
    journal = folder / "out.csv.trace.jsonl"
    journal.write_text(f"{json.dumps(header)}\n{json.dumps(record)}\n")
    merged = folder / "merged"
    cache = make_hub_cache(folder / "hub", "team/student", {"v1": merged, "main": merged})
    assert last_json(in_fork(ROOT / "predict.py", *flags, environment=cache))["asked"] == 0
    manifest = json.loads((folder / "out.csv.manifest.json").read_text())
    assert (manifest["student"], manifest["commit"]) == (begun, begun)
    skipped = in_fork(ROOT / "predict.py", *flags, "--skip_finished", environment=cache)
    assert last_json(skipped)["skipped"] is True
    (folder / "out.csv").unlink()
    said = fails("predict.py", *flags, "--revision", "v1", env=cache)
    assert "made with another revision of the model; --overwrite" in said
    # an adapter on the same base is another student, whatever its commit is
    header["run"]["student"] = "f" * 64
    journal.write_text(f"{json.dumps(header)}\n{json.dumps(record)}\n")
    (folder / "out.csv.manifest.json").unlink()
    assert "another student" in fails("predict.py", *flags, env=cache)
