"""Which columns an output has, and what stands in them. No model."""

import json
import math

import pyarrow
import pytest
from pyarrow import parquet

from distill.chats import read_input_rows
from distill.columns import Columns
from distill.prediction.rows import cells_of, input_columns, output_columns
from distill.task import Task

TASK = Task("?", ("a", "b"), "", "0")
ANSWERED = {
    "answer": "a",
    "reason": None,
    "log_confidence": math.log(0.98765432),
    "attempts": [{"response": "A."}],
}
UNREAD = {**ANSWERED, "answer": None, "reason": "not_a_label", "attempts": [{"response": "c"}]}
TOO_LONG = {"answer": None, "reason": "input_too_long", "log_confidence": None, "attempts": []}


def names(of_input, task=TASK):
    return [column.name for column in output_columns(of_input, task)]


def rows_of(path, columns, record=ANSWERED):
    """The output's rows by column, as if each input had the same record."""
    columns_there = input_columns(str(path), columns, 10)
    found = []
    for index, row in enumerate(read_input_rows(str(path), columns)):
        cells = cells_of(index, row, record, columns_there)
        found.append(dict(zip(names(columns_there), cells, strict=True)))
    return found


def test_the_columns_of_a_table_are_kept_in_their_order(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("nr,subject,body,n\nA-1,Hi,007,NA\nA-2,,x,\n")
    columns = Columns(text_template="{subject}: {body}", id_column="nr")
    first, second = rows_of(path, columns)
    assert list(first) == [
        "index",
        "nr",
        "subject",
        "body",
        "n",
        "answer",
        "confidence",
        "valid",
        "reason",
        "response",
    ]
    assert (first["nr"], first["body"], first["n"]) == ("A-1", "007", "NA")
    assert (second["subject"], second["n"]) == ("", "")
    assert (first["answer"], first["confidence"], first["valid"]) == ("a", 0.987654, True)
    assert first["reason"] is None and first["response"] is None


def test_a_row_without_a_valid_answer_says_why_and_what_was_written(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("one\n\ntwo\n")
    (first, _) = rows_of(path, Columns(), UNREAD)
    assert (first["index"], first["text"]) == (0, "one")
    assert (first["answer"], first["valid"], first["reason"]) == (None, False, "not_a_label")
    assert first["response"] == "c" and first["confidence"] == 0.987654
    (_, second) = rows_of(path, Columns(), TOO_LONG)
    assert (second["index"], second["text"]) == (1, "two")
    assert (second["reason"], second["response"], second["confidence"]) == (
        "input_too_long",
        None,
        None,
    )


def test_columns_of_ours_that_the_input_has_get_another_name(tmp_path):
    """Gold is often a column "answer"; and predictions may be the next run's input."""
    assert names(["id", "answer"])[1:4] == ["id", "answer", "predicted_answer"]
    again = names(names(["text"]))
    assert len(set(again)) == len(again) and again[0] == "predicted_index"
    assert names(["index", "predicted_index"])[0] == "predicted_predicted_index"


def test_rows_of_json_may_have_different_columns(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [
        '{"text": "one", "n": 1.10, "yes": true, "none": null, "tags": ["x", 2.5]}',
        '{"text": "two", "extra": "007"}',
    ]
    path.write_text("\n".join(rows))
    first, second = rows_of(path, Columns(text_column="text"))
    assert list(first)[1:7] == ["text", "n", "yes", "none", "tags", "extra"]
    # as they stand there
    assert (first["n"], first["yes"], first["none"]) == ("1.10", "true", None)
    assert json.loads(first["tags"]) == ["x", 2.5]
    assert (second["n"], second["extra"]) == (None, "007")


def test_a_chat_is_kept_whole(tmp_path):
    path = tmp_path / "in.jsonl"
    chat = [{"role": r, "content": r} for r in ("user", "assistant", "user")]
    path.write_text(json.dumps({"messages": chat, "kind": "edge"}))
    (row,) = rows_of(path, Columns())
    assert json.loads(row["messages"]) == chat and row["kind"] == "edge"


def test_parquet_keeps_texts_and_leaves_bytes_empty(tmp_path):
    path = tmp_path / "in.parquet"
    table = {"id": ["007"], "text": ["one"], "n": [7], "raw": [b"\x00"]}
    parquet.write_table(pyarrow.table(table), path)
    (row,) = rows_of(path, Columns(text_column="text", id_column="id"))
    assert (row["id"], row["n"], row["raw"]) == ("007", "7", None)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_only_rows_that_are_asked_say_which_columns_there_are(tmp_path, ending):
    path = tmp_path / f"in.{ending}"
    lines = (
        ["text,n", "a,1", "b,2"] if ending == "csv" else ['{"text": "a"}', '{"text": 2, "z": 1}']
    )
    path.write_text("\n".join(lines))
    expected = ["text", "n"] if ending == "csv" else ["text"]
    assert input_columns(str(path), Columns(), 1) == expected
