"""Step 1's inputs: ids belong to rows, also where several rows are one question. No model."""

import pytest

from distill.columns import Columns
from distill.labels.inputs import InputsChanged, scan_inputs
from distill.outputs import read_finished
from helpers import read_jsonl
from journals import close, decide, opened
from table_files import write


def repeated(tmp_path):
    """Five rows, of which two pairs are equal, with ids."""
    content = b"id,text\nA,a\nB,b\nC,a\nD,d\nE,b\n"
    path = write(tmp_path / "in.csv", content)
    return scan_inputs(path, columns=Columns(text_column="text", id_column="id"))


def test_ids_belong_to_rows_also_where_their_texts_are_equal(tmp_path):
    inputs = repeated(tmp_path)
    assert inputs.blank_lines == 0 and inputs.first.tolist() == [0, 1, 0, 3, 1]
    journal = opened(tmp_path, inputs)
    journal.start()
    decide(journal, 3, 0)
    decide(journal, 1, answer=None)
    assert [row.get("id") for row in read_jsonl(journal.own)] == [None, "D", "A", "B"]
    journal.replay()
    journal.write_outputs(True)
    output = tmp_path / "out.jsonl"
    rows = [(row["id"], row["messages"][0]["content"]) for row in read_jsonl(output)]
    assert rows == [("A", "a"), ("C", "a"), ("D", "d")]
    rejected = read_jsonl(tmp_path / "out.jsonl.rejected.jsonl")
    assert [(row["index"], row["id"]) for row in rejected] == [(1, "B"), (4, "E")]
    assert sorted(read_finished(output).answers.values(), key=str) == [None, "en", "en"]


def test_a_journal_without_ids_goes_on_with_them(tmp_path):
    (tmp_path / "in.txt").write_text("a\nb\na\nd\nb\n")
    before = opened(tmp_path, scan_inputs(tmp_path / "in.txt"))
    before.start()
    decide(before, 0, 1)
    close(before)
    assert all("id" not in row for row in read_jsonl(before.own))
    journal = opened(tmp_path, repeated(tmp_path))  # the same texts
    assert journal.missing().nonzero()[0].tolist() == [3]
    journal.start()
    decide(journal, 3)
    journal.replay()
    journal.write_outputs(True)
    assert [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["A", "B", "C", "D", "E"]


def test_blank_lines_are_counted_in_any_encoding(tmp_path):
    path = write(tmp_path / "in.txt", "a\n\n上\n\n".encode("utf-16"))
    inputs = scan_inputs(path, columns=Columns(encoding="utf-16"))
    assert (len(inputs), inputs.blank_lines) == (2, 2)
    write(tmp_path / "in.txt", "a\nb\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match="in.txt: not utf-16 .*; convert the file to UTF-8, or"):
        scan_inputs(path, columns=Columns(encoding="utf-16"))


def test_ids_have_a_digest_that_tells_other_ones(tmp_path):
    inputs = repeated(tmp_path)
    known = inputs.ids_sha256()
    assert known == repeated(tmp_path).ids_sha256()
    write(tmp_path / "in.csv", b"id,text\nA,a\nC,b\nB,a\nD,d\nE,b\n")
    columns = Columns(text_column="text", id_column="id")
    changed = scan_inputs(tmp_path / "in.csv", columns=columns)
    assert changed.sha256 == inputs.sha256 and changed.ids_sha256() != known
    assert scan_inputs(tmp_path / "in.csv", columns=Columns("text")).ids_sha256() is None


def test_ids_that_change_are_noticed(tmp_path):
    inputs = repeated(tmp_path)
    assert len(list(inputs.read())) == 5
    write(tmp_path / "in.csv", b"id,text\nA,a\nB,b\nX,a\nD,d\nE,b\n")
    with pytest.raises(InputsChanged, match="in.csv:4: has changed since this run has begun"):
        list(inputs.read())
