"""Inputs as tables and compressed files: which column is read, ids, gold, encodings. No model."""

import csv
import gzip
import io
import json

import pyarrow
import pytest
from pyarrow import parquet

from distill.chats import read_gold, read_input_rows
from distill.columns import Columns
from distill.labels.inputs import InputsChanged, scan_inputs
from distill.outputs import read_finished
from helpers import fails, read_jsonl
from journals import close, decide, opened

TICKETS = [
    {"id": "007", "subject": "NA", "body": 'Where is it?\nI wait,\r\n"still"', "label": "1"},
    {"id": "8", "subject": "Ärger", "body": "true", "label": "no"},
    {"id": "1e3", "subject": "", "body": "{subject}", "label": "NA"},
]
TEMPLATE = Columns(text_template=r"{subject}\n\n{body}", id_column="id")
FILLED = ["NA\n\n" + TICKETS[0]["body"], "Ärger\n\ntrue", "\n\n{subject}"]


def as_csv(rows, **settings):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0], **settings)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_parquet(rows):
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


WRITTEN = {
    "in.csv": as_csv(TICKETS),
    "in.CSV": b"\xef\xbb\xbf" + as_csv(TICKETS, delimiter=";"),  # as spreadsheets write it
    "in.tsv": as_csv(TICKETS, delimiter="\t", lineterminator="\n"),
    "in.jsonl": as_lines(TICKETS),
    "in.ndjson": as_lines(TICKETS),
    "in.json": json.dumps(TICKETS, indent=1).encode(),
    "in.parquet": as_parquet(TICKETS),
}


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.name.lower().endswith(".gz") else content)
    return str(path)


def texts_and_ids(path, columns=TEMPLATE):
    rows = list(read_input_rows(path, columns))
    return [row.messages[0]["content"] for row in rows], [row.id for row in rows]


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


AMBIGUOUS = r"in\.{}: which column holds the text\? .*--text_column.* are id, subject, body, label"
REFUSED = {
    "csv": ("in.csv", WRITTEN["in.csv"], Columns(), AMBIGUOUS.format("csv")),
    "tsv": ("in.tsv", WRITTEN["in.tsv"], Columns(), AMBIGUOUS.format("tsv")),
    "Parquet": ("in.parquet", WRITTEN["in.parquet"], Columns(), AMBIGUOUS.format("parquet")),
    "JSON lines": (
        "in.jsonl",
        WRITTEN["in.jsonl"],
        Columns(),
        "in.jsonl:1: not chat format; .*--text_column: id, subject, body, label",
    ),
    "JSON array": (
        "in.json",
        WRITTEN["in.json"],
        Columns(),
        "in.json:1: not chat format; .*--text_column: id, subject, body, label",
    ),
    "no such column": (
        "in.csv",
        WRITTEN["in.csv"],
        Columns(text_column="text"),
        "in.csv:2: has no column 'text'; its columns are id, subject, body, label",
    ),
    "no such column of the template": (
        "in.csv",
        WRITTEN["in.csv"],
        Columns(text_template="{subject} {text}"),
        "in.csv:2: has no column 'text'",
    ),
    "no such column of ids": (
        "in.jsonl",
        b'{"text": "a"}\n',
        Columns(id_column="id"),
        "in.jsonl:1: has no column 'id'; its columns are text",
    ),
    "plain lines have no columns": (
        "in.txt",
        b"a\n",
        Columns(id_column="id"),
        "in.txt: has no columns, each of its lines is an input",
    ),
    "no header": (
        "in.csv",
        b"Where is my parcel? It should be here.\nHello\n",
        Columns(),
        "does not look like a column's name; give the file a header",
    ),
    "empty text": (
        "in.csv",
        b"id,text\n1,a\n2, \n",
        Columns(text_column="text"),
        "in.csv:3: the text of this row is empty",
    ),
    "empty texts in a template": (
        "in.csv",
        b"id,a,b\n1,,\n",
        Columns(text_template="{a}: {b}"),
        "in.csv:2: the text of this row is empty",
    ),
    "empty id": (
        "in.csv",
        b"id,text\n1,a\n,b\n",
        Columns(text_column="text", id_column="id"),
        "in.csv:3: the id in column 'id' is empty",
    ),
    "missing id": (
        "in.jsonl",
        b'{"id": null, "text": "a"}\n',
        Columns(id_column="id"),
        "in.jsonl:1: the id in column 'id' is empty",
    ),
    "repeated id": (
        "in.csv",
        b'id,text\n1,"a\nb"\n2,b\n1,c\n',
        Columns(text_column="text", id_column="id"),
        r"in.csv:5: id '1' is that of .*in.csv:2 too; ids must differ",
    ),
    "two columns of one name": (
        "in.csv",
        b"text,text\na,b\n",
        Columns(text_column="text"),
        "in.csv: has two columns with the name 'text'",
    ),
    "too many cells": (
        "in.csv",
        b"id,text\n1,a\n\n2,b, c\n",
        Columns(text_column="text"),
        "in.csv:4: 3 cells under 2 columns; put quotes",
    ),
    "too few cells": (
        "in.csv",
        b'id,text\n1,"a\n\n"\n2\n',
        Columns(text_column="text"),
        "in.csv:5: 1 cells under 2 columns",
    ),
    "open quote": (
        "in.csv",
        b'id,text\n1,a\n2,"b\n3,c\n',
        Columns(text_column="text"),
        "in.csv:3: no CSV .unexpected end of data.; see to the quotes",
    ),
    "not UTF-8": (
        "in.csv",
        "id,text\n1,a\n2,Ärger\n".encode("cp1252"),
        Columns(text_column="text"),
        r"in.csv:3: not UTF-8 \(byte 3\); convert .* --encoding",
    ),
    "UTF-16": (
        "in.csv",
        "id,text\n1,a\n".encode("utf-16"),
        Columns(text_column="text"),
        "in.csv:1: not UTF-8 but UTF-16",
    ),
    "not the named encoding": (
        "in.csv",
        b"id,text\n1,\x81\n",
        Columns(text_column="text", encoding="cp1252"),
        r"in.csv: not cp1252 \(after line",
    ),
    "UTF-8 under another name": (
        "in.txt",
        b"\xef\xbb\xbfa\n",
        Columns(encoding="cp1252"),
        "in.txt:1: begins with the mark of UTF-8; drop --encoding cp1252",
    ),
    "half a surrogate": (
        "in.jsonl",
        b'{"body": "\\ud83d"}\n',
        Columns(text_column="body"),
        "in.jsonl:1: holds half of a surrogate pair",
    ),
    "list in a cell": (
        "in.jsonl",
        b'{"body": ["a"]}\n',
        Columns(text_column="body"),
        "in.jsonl:1: column 'body' holds no text but a list",
    ),
    "no object": (
        "in.jsonl",
        b'["a"]\n',
        Columns(text_column="body"),
        "in.jsonl:1: is no JSON object",
    ),
    "one JSON object": ("in.json", b'{"rows": []}', Columns(), "in.json: is no JSON array"),
    "numbers": ("in.json", b"[1]", Columns(), "in.json:1: is neither a JSON object nor a text"),
    "cut JSON": ("in.json", b'[{"text": "a"}', Columns(), "in.json: not JSON"),
    "cut gzip": (
        "in.csv.gz",
        None,
        Columns(text_column="text"),
        "in.csv.gz: a damaged gzip file or none",
    ),
    "cut Parquet": (
        "in.parquet",
        WRITTEN["in.parquet"][:-9],
        Columns(),
        "in.parquet: cannot be read as Parquet",
    ),
    "missing Parquet": ("x/in.parquet", None, Columns(), "in.parquet: No such file"),
}


@pytest.mark.parametrize(("name", "content", "columns", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_clear_is_refused(tmp_path, name, content, columns, message):
    path = tmp_path / name
    if content:
        path.write_bytes(content)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(b"id,text\n1,a\n" * 9999)[:-20])
    with pytest.raises(ValueError, match=message) as error:
        list(read_input_rows(str(path), columns))
    assert "\n" not in str(error.value)


BAD_COLUMNS = {
    "both": ({"text_column": "a", "text_template": "{a}"}, "pass one of them"),
    "no column": ({"text_template": "subject"}, "names no column"),
    "open brace": ({"text_template": "{subject"}, "--text_template '{subject': expected '}'"),
    "no name": ({"text_template": "{}"}, "expected a column's name"),
    "gold in the text": ({"text_column": "a", "label_column": "a"}, "would be part of the input"),
    "gold in the template": (
        {"text_template": "{a} {b}", "label_column": "b"},
        "--label_column b: the gold answer would be part",
    ),
    "format": ({"text_template": "{a:>30}"}, "expected a column's name"),
    "encoding": ({"encoding": "utf-9"}, "--encoding utf-9: no encoding that Python knows"),
    "no text": ({"encoding": "base64"}, "--encoding base64: no encoding"),
}


@pytest.mark.parametrize(("flags", "message"), BAD_COLUMNS.values(), ids=BAD_COLUMNS)
def test_flags_that_cannot_be_meant_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        Columns(**flags)


def test_a_template_writes_its_braces_and_backslashes(tmp_path):
    path = write(tmp_path / "in.csv", b"review.text,b\na,c\n")
    columns = Columns(text_template=r"{{x}}\t{review.text}\\n{b}")
    assert texts_and_ids(path, columns)[0] == ["{x}\ta\\nc"]


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


def test_ids_that_change_are_noticed(tmp_path):
    inputs = repeated(tmp_path)
    assert len(list(inputs.read())) == 5
    write(tmp_path / "in.csv", b"id,text\nA,a\nB,b\nX,a\nD,d\nE,b\n")
    with pytest.raises(InputsChanged, match="in.csv:4: has changed since this run has begun"):
        list(inputs.read())


STEP_1 = {
    "ambiguous": ([], "which column holds the text?"),
    "repeated id": (["--text_column", "body", "--id_column", "label"], "ids must differ"),
    "both": (["--text_column", "a", "--text_template", "{b}"], "pass one of them"),
    "no column": (["--text-column", "text"], "its columns are id, subject, body, label"),
}


@pytest.mark.parametrize(("flags", "named"), STEP_1.values(), ids=STEP_1)
def test_step_1_refuses_before_a_model_is_loaded(tmp_path, flags, named):
    rows = [*TICKETS, {**TICKETS[0], "id": "9"}]
    flags = ["--input_file", write(tmp_path / "in.csv", as_csv(rows)), *flags]
    flags += ["--output_file", tmp_path / "out.jsonl", "--model_name", "some/model"]
    assert named in fails("create_data.py", *flags)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


STEP_3 = {
    "no gold named": (
        [],
        "test.csv: which column holds the gold answers? Name it with --label_col",
    ),
    "no text named": (["--label_column", "label"], "test.csv: which column holds the text?"),
    "no label of the task": (
        ["--label_column", "subject", "--text_column", "body"],
        "test.csv:2: gold answer 'NA' is none of the task's labels",
    ),
    "text without gold": (["--text_column", "body"], "name that of gold, --label_column"),
    "inputs are plain": (
        ["--text_column", "body", "--inputs_without_gold", "/nowhere.txt"],
        "which column holds the gold answers?",
    ),
}


@pytest.mark.parametrize(("flags", "named"), STEP_3.values(), ids=STEP_3)
def test_step_3_refuses_before_a_model_is_loaded(tmp_path, flags, named):
    path = write(tmp_path / "test.csv", as_csv(TICKETS))
    adapter = ["--adapter", tmp_path / "none"]
    assert named in fails("evaluate.py", "--test_file", path, *adapter, *flags)
