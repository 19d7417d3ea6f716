"""The rows that are evaluated: gold, labels and answers that were made before."""

import json

import pytest

from chat_rows import chat, write
from distill.columns import Columns
from distill.evaluation import rows as evaluation_rows
from distill.evaluation.rows import label_quality, read_rows, read_teacher
from distill.task import load_task
from helpers import ROOT, fails, last_json, python

TASK = ROOT / "example-data" / "language_classification.yaml"


def test_labels_are_scored_against_gold(tmp_path):
    gold = ROOT / "example-data" / "multilingual_gold.jsonl"
    rows = [json.loads(line) for line in gold.read_text(encoding="utf-8").splitlines()]
    labels = tmp_path / "labels.jsonl"
    rows[0]["messages"][1]["content"] = "zh"  # one wrong, one rejected, in another order
    labels.write_text(
        "".join(json.dumps(row) + "\n" for row in reversed(rows[:-1])), encoding="utf-8"
    )
    found = last_json(python("evaluate.py", "--labels", labels, "--gold", gold))
    assert (found["rows"], found["correct"], found["unreadable"]) == (2101, 2099, 1)
    assert found["per_label"]["ar"]["recall"] == pytest.approx(
        1 - 1 / found["per_label"]["ar"]["rows"]
    )
    found = last_json(python("evaluate.py", "--labels", labels, "--gold", gold, "--limit", 100))
    assert (found["rows"], found["correct"]) == (100, 99)
    heldout = ROOT / "example-data" / "heldout.jsonl"
    assert "has no input of" in fails("evaluate.py", "--labels", labels, "--gold", heldout)


def test_labels_are_scored_under_their_task(tmp_path):
    """Its labels in any case and form of Unicode; texts, where it has none."""
    labelled = tmp_path / "labelled.yaml"
    free = tmp_path / "free.yaml"
    labelled.write_text("prompt: p\nlabels: [café, thé]", encoding="utf-8")
    free.write_text("prompt: p")
    labels = write(tmp_path / "labels.jsonl", chat("a", "café"), chat("b", "thé"))
    gold = write(tmp_path / "gold.jsonl", chat("a", "CAFE\u0301"), chat("b", "cafe\u0301"))
    found = label_quality(labels, gold, 0, load_task(labelled))
    assert (found["rows"], found["correct"], list(found["per_label"])) == (2, 1, ["café"])
    found = label_quality(labels, gold, 0, load_task(free))
    assert (found["correct"], found["exact_match"]) == (0, 0.5) and "per_label" not in found
    line = fails("evaluate.py", "--labels", labels, "--gold", gold)
    assert (
        "labels.jsonl:1: answer 'café' is none of the task's labels; pass its own task with --task"
        in line
    )


def test_gold_is_read_in_any_case_and_form(tmp_path):
    (tmp_path / "task.yaml").write_text("prompt: p\nlabels: [café, Thé]", encoding="utf-8")
    rows = [chat("a", "Cafe\u0301"), chat("cafe\u0301 \u200b", "THÉ.")]
    path = write(tmp_path / "gold.jsonl", *rows)
    found = read_rows(path, "", 0, load_task(tmp_path / "task.yaml"))
    assert found.gold == ["café", "Thé"]
    assert found.chats[1][0]["content"] == "cafe\u0301 \u200b"  # inputs stay as they are


def test_a_row_keeps_its_kind_where_the_test_file_is_replaced_meanwhile(tmp_path, monkeypatch):
    rows = [chat("hola", "es", kind="edge"), chat("hi", "en"), chat("ciao", "it", kind="parallel")]
    path = write(tmp_path / "gold.jsonl", *rows)
    write(tmp_path / "other.jsonl", *(chat("adieu", "fr", kind="other") for _ in rows))

    def replace_file(task, text, where):
        if (tmp_path / "other.jsonl").exists():
            (tmp_path / "other.jsonl").rename(path)
        return text

    monkeypatch.setattr(evaluation_rows, "known_answer", replace_file)
    found = read_rows(path, "", 0, load_task(TASK))
    assert found.gold == ["es", "en", "it"]
    assert found.kinds == ["edge", None, "parallel"]
    assert "adieu" in path.read_text()


def test_teacher_answers_are_read_from_a_file(tmp_path):
    """Without its journal only the answers are known; what was rejected is unreadable."""
    task = load_task(TASK)
    labels = write(tmp_path / "out.jsonl", chat("hola", "es"), chat("hi", "en"))
    rejected = {
        "index": 1,
        "messages": chat("?", "")["messages"][:1],
        "reason": "no_answer",
        "responses": [],
    }
    write(tmp_path / "out.jsonl.rejected.jsonl", rejected)
    chats = [chat(text, "")["messages"][:1] for text in ("?", "hola")]
    assert read_teacher(labels, chats, task) == {"answers": [None, "es"], "responses": ["", "es"]}
    with pytest.raises(ValueError, match="out.jsonl: has no answer for 'ciao'"):
        read_teacher(labels, [chat("ciao", "")["messages"][:1]], task)
    write(tmp_path / "out.jsonl.manifest.json", {"task": "another", "task_file": "other.yaml"})
    with pytest.raises(ValueError, match=r"another task \(other.yaml\)"):
        read_teacher(labels, chats, task)
    # a comment in its file makes no other task of it
    same = {"task": "another", "task_meaning": task.meaning}
    write(tmp_path / "out.jsonl.manifest.json", same)
    assert read_teacher(labels, chats, task)["answers"] == [None, "es"]


def test_labels_from_elsewhere_are_a_teachers_answers(tmp_path):
    """A chat JSONL alone, in another order, with ids, and with more rows than are asked for."""
    task = load_task(TASK)
    rows = [chat("ciao", "ot", id="3"), chat("hi", "EN", id="007"), chat("hola", "es", id="NA")]
    labels = write(tmp_path / "labels.jsonl", *rows)
    chats = [chat(text, "")["messages"][:1] for text in ("hola", "hi")]
    assert read_teacher(labels, chats, task) == {
        "answers": ["es", "en"],
        "responses": ["es", "EN"],
        "from_elsewhere": True,
        "thinks": False,
        "model": None,
        "revision": None,
    }
    write(tmp_path / "labels.jsonl.manifest.json", {"model": "m", "reasoning_parser": "none"})
    found = read_teacher(labels, chats, task)
    assert "from_elsewhere" not in found
    assert (found["model"], found["revision"]) == ("m", None)


def test_labels_that_contradict_each_other_are_refused(tmp_path):
    rows = [chat("hi", "en"), chat("hola", "es"), chat("hi", "de")]
    labels = write(tmp_path / "labels.jsonl", *rows)
    named = "labels.jsonl:3: answers 'de' where an earlier row with the same input answers 'en'"
    with pytest.raises(ValueError, match=named):
        read_teacher(labels, [rows[1]["messages"][:1]], load_task(TASK))
    gold = write(tmp_path / "gold.jsonl", rows[1])
    with pytest.raises(ValueError, match="labels.jsonl: answers 'de' where an earlier row"):
        label_quality(labels, gold, 0, load_task(TASK))
    same = write(tmp_path / "same.jsonl", rows[0], rows[1], rows[0])
    assert read_teacher(same, [rows[0]["messages"][:1]], load_task(TASK))["answers"] == ["en"]


def test_gold_in_a_table_counts_row_by_row(tmp_path):
    """Also where two rows have one text; other files beside it are read by the same columns."""
    (tmp_path / "task.yaml").write_text("prompt: p\nlabels: [café, thé]", encoding="utf-8")
    task = load_task(tmp_path / "task.yaml")
    gold = tmp_path / "gold.csv"
    gold.write_text("nr,text,gold\n007,a,CAFÉ\n8,a,thé\nNA,b,thé\n", encoding="utf-8")
    further = tmp_path / "further.csv"
    further.write_text("gold,nr,text\n,x,c\n", encoding="utf-8")
    (tmp_path / "further.txt").write_text("c\nd\n")
    columns = Columns(text_column="text", id_column="nr", label_column="gold")
    found = read_rows(str(gold), str(further), 0, task, columns)
    assert found.gold == ["café", "thé", "thé"]
    assert found.ids == ["007", "8", "NA", "x"]
    assert [chat[0]["content"] for chat in found.chats] == ["a", "a", "b", "c"]
    found = read_rows(str(gold), str(tmp_path / "further.txt"), 0, task, columns)
    assert found.ids == ["007", "8", "NA", None, None]
    labels = write(tmp_path / "labels.jsonl", chat("a", "café"), chat("b", "thé"))
    measured = label_quality(labels, str(gold), 0, task, columns)
    assert (measured["rows"], measured["correct"]) == (3, 2)


def test_columns_that_only_plain_inputs_could_have_are_refused(tmp_path):
    (tmp_path / "task.yaml").write_text("prompt: p")
    gold = write(tmp_path / "gold.jsonl", chat("a", "b"))
    (tmp_path / "further.txt").write_text("c\n")
    files = (gold, str(tmp_path / "further.txt"))
    with pytest.raises(ValueError, match="further.txt: has no columns"):
        read_rows(*files, 0, load_task(tmp_path / "task.yaml"), Columns(text_column="text"))
