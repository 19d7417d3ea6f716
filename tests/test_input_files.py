"""Which files are read as inputs, and which are refused: no model, no engine."""

import csv
import gzip
import io
import json
import os
import re
import threading

import pytest

from distill.chats import read_chat, read_inputs, read_lines
from distill.cli import check_writable
from distill.input_files import first_sha256, is_table, unchanged_sha256
from distill.labels.inputs import InputsChanged, scan_inputs
from distill.outputs import check_apart, read_answers
from distill.task import load_task

ROWS = [{"text": "Hello"}, {"text": "Bonjour"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = "id,text,label\n" + "".join(f'{i},"Hello, you {i}",en\n' for i in range(20))


def texts(path):
    return [messages[0]["content"] for _, messages in read_inputs(str(path))]


@pytest.mark.parametrize("name", ["in.jsonl", "in.ndjson", "in.JSONL", "in.NdJson", "in.jsonlines"])
def test_json_lines_are_known_by_their_ending(tmp_path, name):
    (tmp_path / name).write_text(LINES)
    assert texts(tmp_path / name) == ["Hello", "Bonjour"]


REFUSED = {
    "JSON lines as a list": ("in.json", LINES, "in.json: holds JSON lines; name it .jsonl"),
    "spreadsheet": (
        "in.XLSX",
        "a\nb\n",
        r"in.XLSX: .xlsx files are not read; pass one input a line \(.txt\), or .jsonl",
    ),
    "text as Parquet": ("in.parquet", "a\n", "in.parquet: cannot be read as Parquet"),
    "not compressed": ("in.jsonl.gz", "a\n", "in.jsonl.gz: a damaged gzip file or none"),
    "JSON lines as text": ("in.txt", LINES, "in.txt: holds JSON lines; name it .jsonl"),
    "chat lines as text": ("in", '{"messages": []}\n', "in: holds JSON lines"),
    "JSON array": ("in.txt", json.dumps(ROWS), "in.txt: is one JSON document"),
    "JSON array over lines": (
        "in.txt",
        "\ufeff" + json.dumps(ROWS, indent=1),
        "in.txt: is one JSON document",
    ),
    "JSON array of texts": ("in.txt", '["a",\n"b"]\n', "in.txt: is one JSON document"),
    "JSON object over lines": (
        "in.txt",
        json.dumps({"rows": ROWS}, indent=1),
        "in.txt: is one JSON document",
    ),
    "table": ("in.txt", TABLE, "in.txt: is a table with a header"),
    "table with BOM": ("in.txt", "\ufeff" + TABLE, "in.txt: is a table"),
    "table of two columns": (
        "in.txt",
        "text,label\nHello,en\n\nBonjour,fr\n",
        "in.txt: is a table",
    ),
    "table with tabs": ("in.log", TABLE.replace(",", "\t"), "in.log: is a table"),
    "table with semicolons": ("in.txt", "Satz_Nr;text\n1;Hallo, du\n2;Na\n", "in.txt: is a table"),
    "table of pandas": (
        "in.txt",
        ",tweet,sentiment\n0,Hello,good\n1,Well,bad\n",
        "in.txt: is a table",
    ),
    "table with lines in cells": (
        "in.txt",
        'id,review text\n1,"a\nb"\n2,"c, d"\n',
        "in.txt: is a table",
    ),
    "table of other words": (
        "in.txt",
        'nr;betreff;inhalt\n1;Paket;"Wo ist es; ich warte"\n2;Rechnung;Zu hoch\n',
        "in.txt: is a table with a header; name it .csv or .tsv",
    ),
    "CR alone": (
        "in.txt",
        "Guten Tag.\rBonjour\rПривет\r",
        "in.txt:1: its lines end with CR alone",
    ),
    "CR alone in JSON lines": (
        "in.jsonl",
        LINES.replace("\n", "\r"),
        "in.jsonl:1: its lines end with CR alone",
    ),
    "NUL": ("in.txt", "a\nb\0\n", r"in.txt:2: not UTF-8 text \(it holds NUL\)"),
}


@pytest.mark.parametrize(("name", "content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_plain_lines_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(ValueError, match=message) as error:
        texts(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(tmp_path, encoding):
    (tmp_path / "in.txt").write_bytes("Hello world\nGood day\n".encode(encoding))
    with pytest.raises(ValueError, match=r"in.txt:1: not UTF-8.*convert the file to UTF-8"):
        texts(tmp_path / "in.txt")


def parquet(path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["Hello"]}), path)


SIGNED = {
    "gzip": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "Parquet": parquet,
    "PDF": lambda path: path.write_bytes(b"%PDF-1.7\n"),
    "Git LFS pointer": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
    ),
}


@pytest.mark.parametrize("name", ["in.txt", "in.jsonl"])
@pytest.mark.parametrize(("kind", "write"), SIGNED.items(), ids=SIGNED)
def test_files_of_other_kinds_are_named(tmp_path, kind, write, name):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: is a {kind} file, not text"):
        texts(tmp_path / name)


TEXTS = {
    "commas": "Hello, you\nWell, well\nNo, thanks\n",
    "the same number of commas": "Text, label and so on\nOne, two\nThree, four\nFive, six\n",
    "a header without rows": "id,text,label\n",
    "rows of different lengths": "id,text\n1,Hello, you\n2,no\n",
    "a stage direction": "[Music]\n[Applause]\n",
    "brackets around everything": "[Music]\nand then [Applause]",
    "a footnote": "[1]\n",
    "braces": "{name}, your parcel is here\n{name}, thanks\n",
    "records of a program": (
        '{"level": "info", "message": "started"}\n{"level": "info", "message": "ended"}\n'
    ),
    "some JSON": '{"text": "Hello"}\nand a text\n',
    "ends like JSON": "[first\nlast]\n",
    "CR within a line": "a\rb\nc\n",
    "CR within a long first line": "a" * 70000 + "\rb\nc\n",
    "CRLF": "a\r\nb\r\n",
    "CR at the end": "a\r",
    "form feed": "a\fb\nc\n",
    "quotes": 'Anna,"Hello"\nBob,"no"\nEva,"Well, yes"\n',
    "tabs in all lines": "a\tb\nc\td\ne\tf\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_plain_text_stays_plain_text(tmp_path, text):
    (tmp_path / "in.txt").write_bytes(text.encode())
    assert texts(tmp_path / "in.txt") == [
        line.rstrip("\r") for line in text.split("\n") if line.strip()
    ]


def test_a_long_table_is_seen_at_its_start(tmp_path):
    rows = io.StringIO()
    csv.writer(rows).writerows([["id", "text"], *([i, "word, " * 50] for i in range(10_000))])
    assert is_table(rows.getvalue())
    (tmp_path / "in.txt").write_text(rows.getvalue())
    with pytest.raises(ValueError, match="is a table"):
        texts(tmp_path / "in.txt")


def test_a_table_is_seen_where_its_start_ends_within_a_cell(tmp_path):
    rows = io.StringIO()
    csv.writer(rows).writerows([["text", "label"], *(["a line\n" * 400, i] for i in range(100))])
    (tmp_path / "in.txt").write_text(rows.getvalue())
    with pytest.raises(ValueError, match="is a table"):
        texts(tmp_path / "in.txt")


READERS = {
    "inputs": lambda path: list(read_inputs(str(path))),
    "lines": lambda path: list(read_lines(path)),
    "chat": lambda path: list(read_chat(path, "assistant")),
    "labels": read_answers,
    "task": load_task,
    "output": check_writable,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_pipe_is_refused_at_once(tmp_path, read):
    """A named one, which nobody writes to, would be waited for for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        ValueError, match="pipe: is no regular file but a pipe or a device; write it to a file"
    ):
        read(tmp_path / "pipe")


def test_a_shells_pipe_is_refused():
    reading, writing = os.pipe()
    thread = threading.Thread(target=lambda: os.close(writing))
    thread.start()
    with pytest.raises(ValueError, match=f"/dev/fd/{reading}: is no regular file"):
        scan_inputs(f"/dev/fd/{reading}")
    thread.join()
    os.close(reading)


CHANGES = {
    "another text": ("a\nb\nX\nd\n", r"in.txt:3: has changed since this run has begun"),
    "another order": ("b\na\nc\nd\n", "in.txt:1: has changed"),
    "fewer": ("a\nb\n", "in.txt: holds 2 inputs, no longer 4"),
    "empty": ("", "in.txt: holds 0 inputs, no longer 4"),
    "damaged": ("a\nb\n\xff\n", r"in.txt: has changed \(.*in.txt:3: not UTF-8"),
}


@pytest.mark.parametrize(("content", "message"), CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_is_noticed_in_the_next_pass(tmp_path, content, message):
    path = tmp_path / "in.txt"
    path.write_text("a\nb\nc\nd\n")
    inputs = scan_inputs(path)
    assert [index for index, _ in inputs.read()] == [0, 1, 2, 3]
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputsChanged, match=message):
        list(inputs.read())


def test_a_file_that_has_gone_is_noticed(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("a\n")
    inputs = scan_inputs(path)
    path.unlink()
    with pytest.raises(InputsChanged, match=r"in.txt: has changed \(.*No such file"):
        list(inputs.read())


@pytest.mark.parametrize(("limit", "said"), [(0, True), (2, False)])
def test_a_file_that_grows_is_said_and_its_first_inputs_stand(tmp_path, caplog, limit, said):
    path = tmp_path / "in.txt"
    path.write_text("a\nb\n")
    inputs = scan_inputs(path, limit)
    path.write_text("a\nb\nc\n")
    assert [messages[0]["content"] for _, messages in inputs.read()] == ["a", "b"]
    assert ("in.txt: holds more inputs than when this run began" in caplog.text) == said


def test_a_train_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(LINES)
    before = first_sha256(path)
    assert unchanged_sha256(path) == before
    path.write_text(LINES * 2)
    with pytest.raises(ValueError, match="train.jsonl: has changed while it was read; start again"):
        unchanged_sha256(path)
    path.write_text(LINES)
    assert unchanged_sha256(path) == before


def test_an_output_that_is_a_dangling_link_is_refused(tmp_path):
    (tmp_path / "out.jsonl").symlink_to(tmp_path / "nowhere" / "out.jsonl")
    with pytest.raises(
        ValueError, match=r"out.jsonl: is a link to .*nowhere/out.jsonl, which is not there"
    ):
        check_writable(tmp_path / "out.jsonl")
    (tmp_path / "folder").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="folder: is a link to .*nowhere, which is not there"):
        check_writable(tmp_path / "folder" / "out.jsonl")
    (tmp_path / "nowhere").mkdir()
    check_writable(tmp_path / "folder" / "out.jsonl")


@pytest.mark.parametrize("ending", ["", ".rejected.jsonl", ".manifest.json", ".trace.jsonl"])
def test_an_output_that_would_replace_its_input_is_refused(tmp_path, ending):
    output = tmp_path / "out.jsonl"
    source = tmp_path / f"out.jsonl{ending}"
    source.write_text("a\n")
    (tmp_path / "link.txt").symlink_to(source)
    for name in (source, tmp_path / "link.txt"):
        with pytest.raises(
            ValueError, match=re.escape(f"{name}: would be replaced by what the run writes")
        ):
            check_apart(output, "/nowhere", str(name))
    check_apart(tmp_path / "other.jsonl", str(source))
