"""Inputs as tables and compressed files, in any encoding. No model."""

import json

import pytest

from distill.chats import read_gold
from distill.columns import Columns
from distill.input_tables import columns_without_text, read_table
from distill.labels.inputs import scan_inputs
from table_files import TICKETS, WRITTEN, as_lines, as_parquet, texts_and_ids, write

FILLED = ["NA\n\n" + TICKETS[0]["body"], "Ärger\n\ntrue", "\n\n{subject}"]


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_table_of_each_kind_is_read_as_text(tmp_path, name, gz):
    path = write(tmp_path / (name + gz), WRITTEN[name])
    assert texts_and_ids(path) == (FILLED, ["007", "8", "1e3"])
    columns = Columns(text_column="body", label_column="label", id_column="id")
    found = list(read_gold(path, columns))
    assert [row.gold for row in found] == ["1", "no", "NA"]
    assert [row.chat[0]["content"] for row in found] == [row["body"] for row in TICKETS]
    assert [row.id for row in found] == ["007", "8", "1e3"]


def test_numbers_are_written_as_they_stand(tmp_path):
    lines = b'{"id": 7, "text": 1.10}\n{"id": 12345678901234567890, "text": true}\n'
    columns = Columns(text_column="text", id_column="id")
    found = (["1.10", "true"], ["7", "12345678901234567890"])
    assert texts_and_ids(write(tmp_path / "in.jsonl", lines), columns) == found
    array = b"[" + lines.strip().replace(b"\n", b",") + b"]"
    assert texts_and_ids(write(tmp_path / "in.json", array), columns) == found
    rows = [{"id": 7, "text": "a"}, {"id": 8, "text": "b"}]
    path = write(tmp_path / "in.parquet", as_parquet(rows))
    assert texts_and_ids(path, columns) == (["a", "b"], ["7", "8"])


def test_kinds_of_a_table_are_read_as_those_of_chats(tmp_path):
    content = b"text, label, kind\na,es,edge\nb,en,\n"  # with spaces in the header
    path = write(tmp_path / "gold.csv", content)
    rows = list(read_gold(path, Columns(text_column="text", label_column="label")))
    assert [(row.gold, row.kind) for row in rows] == [("es", "edge"), ("en", None)]


def test_gold_may_be_json_itself(tmp_path):
    """Of a task with a schema."""
    path = write(tmp_path / "gold.json", b'[{"text": "a", "label": {"amount": 1.5, "to": "x"}}]')
    [row] = read_gold(path, Columns(text_column="text", label_column="label"))
    assert json.loads(row.gold) == {"amount": 1.5, "to": "x"}


def test_one_column_needs_no_name(tmp_path):
    path = write(tmp_path / "in.csv", b'\n"review text"\n"a, b"\n\n"c\nd"\n')
    assert texts_and_ids(path, Columns()) == (["a, b", "c\nd"], [None, None])
    path = write(tmp_path / "ids.csv", b"nr,review\n1,a\n2,b\n")
    assert texts_and_ids(path, Columns(id_column="nr")) == (["a", "b"], ["1", "2"])
    path = write(tmp_path / "in.json", b'["a", "b"]')
    assert texts_and_ids(path, Columns()) == (["a", "b"], [None, None])


CHATS = [
    {"id": "x", "messages": [{"role": "user", "content": "a"}]},
    {"id": "y", "messages": [{"role": "user", "content": "b"}]},
]


@pytest.mark.parametrize("name", ["in.jsonl", "in.json", "in.parquet", "in.jsonl.gz"])
def test_chats_keep_their_form_and_may_have_ids(tmp_path, name):
    write_as = {"json": json.dumps, "parquet": as_parquet}.get(name.split(".")[1], as_lines)
    content = write_as(CHATS)
    content = content.encode() if isinstance(content, str) else content
    path = write(tmp_path / name, content)
    assert texts_and_ids(path, Columns()) == (["a", "b"], [None, None])
    assert texts_and_ids(path, Columns(id_column="id")) == (["a", "b"], ["x", "y"])


def test_gold_of_a_chat_file_ends_its_chats(tmp_path):
    rows = [{"nr": 1, "kind": "edge", "messages": [*CHATS[0]["messages"]]}]
    rows[0]["messages"].append({"role": "assistant", "content": "es"})
    path = write(tmp_path / "gold.jsonl", as_lines(rows))
    (row,) = read_gold(path, Columns(id_column="nr", text_column="body"))
    assert (row.gold, row.id, row.kind) == ("es", "1", "edge")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "shift_jis"])
@pytest.mark.parametrize("name", ["in.txt", "in.jsonl", "in.csv", "in.csv.gz"])
def test_other_encodings_are_read_when_they_are_named(tmp_path, name, encoding):
    text = "カ一" if encoding == "shift_jis" else "Größe"  # the second byte of カ is J
    lines = {
        "in.txt": f"{text}\r\nb\n",
        "in.jsonl": f'{{"text": "{text}"}}\n{{"text": "b"}}\n',
    }.get(name, f"text\n{text}\nb\n")
    path = write(tmp_path / name, lines.encode(encoding))
    assert texts_and_ids(path, Columns(encoding=encoding))[0] == [text, "b"]


@pytest.mark.parametrize("name", ["in.txt.gz", "in.gz"])
def test_compressed_lines_are_lines(tmp_path, name):
    path = write(tmp_path / name, b"a\n\n b\r\n\n")
    assert texts_and_ids(path, Columns())[0] == ["a", " b"]
    assert scan_inputs(path).blank_lines == 2


def test_long_cells_are_read(tmp_path):
    path = write(tmp_path / "in.csv", b"text\n" + b"word " * 100_000 + b"\n")
    assert len(texts_and_ids(path, Columns())[0][0]) == 500_000


def test_columns_without_a_name_are_read_as_far_as_nothing_is_lost(tmp_path):
    """Spreadsheets write empty ones behind a table; pandas writes its index as one before it."""
    path = tmp_path / "in.csv"
    path.write_text("id,text,,\n1,one,, \n2,two,,\n")
    columns = Columns(text_column="text", id_column="id")
    assert texts_and_ids(str(path), columns) == (["one", "two"], ["1", "2"])
    path.write_text(",text\n0,one\n1,two\n")
    assert [row[""] for _, row in read_table(path, "utf-8")] == ["0", "1"]


@pytest.mark.parametrize("name", ["in.parquet", "in.parquet.gz"])
def test_columns_of_parquet_that_are_lost_as_text_are_known(tmp_path, name):
    message = {"role": "user", "content": "one"}
    row = {"text": "one", "n": 1, "tags": ["x"], "raw": b"x", "more": {"a": 1}}
    path = write(tmp_path / name, as_parquet([{**row, "messages": [message]}]))
    assert columns_without_text(path) == ["tags", "raw", "more"]
    assert columns_without_text(write(tmp_path / "in.csv", b"text\none\n")) == []
