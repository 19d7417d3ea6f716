"""Which column holds an input's text, its id and its gold, and what is refused. No model."""

import gzip

import pytest

from distill.chats import read_input_rows
from distill.columns import Columns
from helpers import fails
from table_files import TICKETS, WRITTEN, as_csv, texts_and_ids, write

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
    "two columns without a name": (
        "in.csv",
        b"id,text,,\n1,a,,\n2,b,x,\n",
        Columns(text_column="text"),
        "in.csv:3: cell 3 is not empty, and several columns, .* have no name; give each one",
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
