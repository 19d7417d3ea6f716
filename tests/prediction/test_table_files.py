"""Files of predictions, written and read back in each format. No model."""

import csv
import gzip
import json

import pytest
from pyarrow import parquet

from distill.input_tables import read_table
from distill.prediction import table_files
from distill.prediction.table_files import (
    INTEGER,
    JSON,
    NUMBER,
    TRUTH,
    Column,
    check_ending,
    writing,
)

COLUMNS = [
    Column("index", INTEGER),
    Column("text"),
    Column("answer", JSON),
    Column("confidence", NUMBER),
    Column("valid", TRUTH),
]
DIGITS = '{"n": 0.12345678901234567890123}'
ROWS = [
    [0, "007", DIGITS, 0.5, True],
    [1, 'NA, "so"\nthey say; \t', None, None, False],
    [2, "a\rb", '{"n": 1}', 1e-06, True],
    [3, None, '{"n": "ü"}', 1.0, True],
    [4, "half \ud800", '{"n": 2}', 1.0, True],
]
ESCAPED = "half \\ud800"  # no file can hold half of a pair


def write(path, rows=ROWS):
    with writing(path, COLUMNS) as writer:
        for row in rows:
            writer.write(row)
    return path


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.csv.gz"])
def test_cells_stay_what_they_are_in_csv(tmp_path, name):
    path = write(tmp_path / name)
    texts = [
        (row["text"], row["answer"], row["confidence"], row["valid"])
        for _, row in read_table(path, "utf-8")
    ]
    assert texts == [
        ("007", DIGITS, "0.5", "true"),
        (ROWS[1][1], "", "", "false"),
        ("a\rb", '{"n": 1}', "1e-06", "true"),
        ("", '{"n": "ü"}', "1.0", "true"),
        (ESCAPED, '{"n": 2}', "1.0", "true"),
    ]


def test_csv_has_a_line_feed_and_no_quotes_where_none_are_needed(tmp_path):
    raw = write(tmp_path / "x.csv", [[0, "007", None, None, None]]).read_bytes()
    assert raw == b"index,text,answer,confidence,valid\n0,007,,,\n"


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson.gz", "x.json", "x.JSON.gz"])
def test_json_answers_are_values_in_json(tmp_path, name):
    path = write(tmp_path / name)
    raw = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    text = raw.decode("utf-8")
    assert DIGITS in text and "ü" in text  # not a digit is lost
    is_array = ".json" in name.lower() and "jsonl" not in name
    rows = json.loads(text) if is_array else [json.loads(line) for line in text.splitlines()]
    assert [row["text"] for row in rows] == ["007", ROWS[1][1], "a\rb", None, "half \ud800"]
    assert rows[2]["answer"] == {"n": 1} and rows[1]["answer"] is None
    assert [row["valid"] for row in rows] == [True, False, True, True, True]
    assert rows[2]["confidence"] == 1e-06 and rows[1]["confidence"] is None


@pytest.mark.parametrize("name", ["x.parquet", "x.parquet.gz"])
def test_parquet_has_types_and_texts(tmp_path, name, monkeypatch):
    monkeypatch.setattr(table_files, "ROW_GROUP", 2)
    path = write(tmp_path / name)
    if name.endswith("gz"):
        path = tmp_path / "plain.parquet"
        path.write_bytes(gzip.decompress((tmp_path / name).read_bytes()))
    file = parquet.ParquetFile(path)
    assert file.num_row_groups == 3
    assert [str(field.type) for field in file.schema_arrow] == [
        "int64",
        "string",
        "string",
        "double",
        "bool",
    ]
    rows = file.read().to_pylist()
    assert [row["text"] for row in rows] == ["007", ROWS[1][1], "a\rb", None, ESCAPED]
    assert rows[0]["answer"] == DIGITS and rows[1]["answer"] is None


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.jsonl", "x.parquet"])
def test_without_rows_there_is_a_file_all_the_same(tmp_path, name):
    path = write(tmp_path / name, [])
    assert name == "x.jsonl" or path.stat().st_size > 0
    if name == "x.json":
        assert json.loads(path.read_text()) == []


@pytest.mark.parametrize("name", ["x.csv.gz", "x.jsonl.gz", "x.parquet"])
def test_the_same_rows_give_the_same_bytes(tmp_path, name):
    other = tmp_path / "other"
    other.mkdir()
    assert write(tmp_path / name).read_bytes() == write(other / name).read_bytes()


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.json.gz"])
def test_a_file_appears_complete_or_not_at_all(tmp_path, name):
    with pytest.raises(RuntimeError), writing(tmp_path / name, COLUMNS) as writer:
        writer.write(ROWS[0])
        assert not (tmp_path / name).exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.txt", "x", "x.xlsx", "x.csv.zip", "csv"])
def test_other_endings_are_refused(name):
    with pytest.raises(ValueError, match=r"written as \.csv, .* choose an --output_file"):
        check_ending(name)


def test_python_reads_csv_back_with_any_dialect(tmp_path):
    with open(write(tmp_path / "x.csv"), newline="", encoding="utf-8") as file:
        assert [row[1] for row in csv.reader(file, strict=True)][3] == "a\rb"
