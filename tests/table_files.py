"""The same tickets as a table of each kind, for tests of what is read from it."""

import csv
import gzip
import io
import json

import pyarrow
from pyarrow import parquet

from distill.chats import read_input_rows
from distill.columns import Columns

TICKETS = [
    {"id": "007", "subject": "NA", "body": 'Where is it?\nI wait,\r\n"still"', "label": "1"},
    {"id": "8", "subject": "Ärger", "body": "true", "label": "no"},
    {"id": "1e3", "subject": "", "body": "{subject}", "label": "NA"},
]
TEMPLATE = Columns(text_template=r"{subject}\n\n{body}", id_column="id")


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
