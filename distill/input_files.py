"""What a file must be to be read as inputs. No torch, no vLLM.

It can be read again, is text in UTF-8 or a named encoding, and its lines are inputs of their own. A
table or a JSON document that is taken for plain lines would be labelled line by line, header and
brackets included. Such files are refused by their ending (those that are read are in
input_tables.py), and by what they hold where that is sure. No torch, no vLLM.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import os
import re
import stat
from functools import cache
from pathlib import Path

HEAD = 2**16  # bytes at the start of a file that are looked at
# bytes of a file that is parsed as a whole to see whether it is one JSON document
LARGEST_DOCUMENT = 2**26
FIRST_LINES = 50  # that must all look alike
REMEDY = "pass one input a line (.txt), or .jsonl, .json, .csv, .tsv or .parquet"

GZIP = ".gz"  # after any other ending
JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
FLAT = (".csv", ".tsv", ".parquet")  # tables of cells
TABLES = (*FLAT, ".json")
STRUCTURED = tuple(
    ".arrow .feather .xlsx .xls .ods .docx .pdf .xml .yaml .yml .db "
    ".sqlite .pkl .npy .h5 .bz2 .xz .zst .zip .7z .tar .tgz".split()
)
# How files of other kinds begin. No text begins like this.
SIGNATURES = {
    rb"\x1f\x8b": "gzip",
    rb"BZh[1-9]1AY&SY": "bzip2",
    rb"\xfd7zXZ\x00": "xz",
    rb"\x28\xb5\x2f\xfd": "Zstandard",
    rb"PK\x03\x04": "ZIP or Office",
    rb"7z\xbc\xaf": "7-Zip",
    rb"\xd0\xcf\x11\xe0": "Office",
    rb"PAR1[\x00-\x1f]": "Parquet",
    rb"ARROW1\x00": "Arrow",
    rb"SQLite format 3\x00": "SQLite",
    rb"%PDF-": "PDF",
    rb"\{\\rtf": "RTF",
    rb"\x89HDF": "HDF5",
    rb"\x93NUMPY": "NumPy",
    rb"version https://git-lfs\.github\.com/spec/": "Git LFS pointer",
}
# In this order: UTF-32 in little endian begins like UTF-16.
BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
DELIMITERS = ",\t;|"
COLUMN = re.compile(r"\w+(?:[ ./-]\w+){0,3}")  # a short name without space around it
# One of these words stands in the header of nearly every table of texts.
COLUMN_WORDS = set(
    "text texts sentence sentences input content message prompt question query utterance review "
    "comment title tweet post body description subject document headline article summary passage "
    "instruction email transcript label labels answer output response id index lang language "
    "category class target sentiment intent topic".split()
)


def check_regular(path: str | Path) -> None:
    """Refuse a pipe, a device or a socket, which cannot be read again and may never end.

    Raises ValueError. What is missing and a directory pass: opening it says what is wrong.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(
            f"{path}: is no regular file but a pipe or a device; write it to a file and pass that"
        )


def open_bytes(path: str | Path) -> io.BufferedReader:
    """Open a file for reading; what a .gz file holds is read as if it were not compressed.

    Raises ValueError for a pipe or a device.
    """
    check_regular(path)
    if str(path).lower().endswith(GZIP):
        return io.BufferedReader(gzip.open(path), HEAD)
    return open(path, "rb", buffering=HEAD)


def open_text(
    path: str | Path, are_inputs: bool = False, encoding: str | None = None
) -> io.BufferedReader:
    """Open a file for reading lines of bytes.

    Raises ValueError if what it holds shows that it is no text, or none in UTF-8 where that is its
    `encoding`. Where its lines `are_inputs`, a table or JSON is refused too. All is judged by the
    one open file that is then read, so that nobody can put another one in its place in between.
    """
    if are_inputs:
        refuse_structured_ending(path)
    file = open_bytes(path)
    try:
        head = file.read(HEAD)
        refuse_other_kinds(path, head)
        refuse_other_encodings(path, head, file, encoding)
        if are_inputs:
            refuse_other_lines(path, head, file, encoding or "utf-8")
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def ending_of(path: str | Path) -> str:
    """A file's ending in lower case, such as .csv; that of compression does not count."""
    name = str(path).lower().removesuffix(GZIP)
    return os.path.splitext(name)[1]


def is_utf8(encoding: str | None) -> bool:
    """Whether an encoding is UTF-8, with a mark at its start or without; None is."""
    return encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def refuse_structured_ending(path: str | Path) -> None:
    """Raise ValueError if a file is by its name one of another kind than text."""
    ending = ending_of(path)
    if ending in STRUCTURED:
        raise ValueError(f"{path}: {ending} files are not read; {REMEDY}")


def refuse_other_kinds(path: str | Path, head: bytes) -> None:
    """Raise ValueError if the file begins with the signature of another kind."""
    for signature, kind in SIGNATURES.items():
        if re.match(signature, head):
            raise ValueError(f"{path}: is a {kind} file, not text; {REMEDY}, each also .gz")


def refuse_other_encodings(
    path: str | Path, head: bytes, file: io.BufferedReader, encoding: str | None
) -> None:
    """Raise ValueError for a byte order mark that is not that of UTF-8, where this is expected.

    For UTF-8's where it is not, and for lines that end with CR alone.
    """
    if is_utf8(encoding):
        for mark, other in BYTE_ORDER_MARKS.items():
            if head.startswith(mark):
                raise ValueError(f"{path}:1: not UTF-8 but {other}; convert the file to UTF-8")
    elif head.startswith(codecs.BOM_UTF8):
        raise ValueError(f"{path}:1: begins with the mark of UTF-8; drop --encoding {encoding}")
    if b"\r" in head.rstrip(b"\r") and b"\n" not in head and not has_line_feed(file):
        raise ValueError(
            f"{path}:1: its lines end with CR alone; convert them to LF, as with tr '\\r' '\\n'"
        )


def has_line_feed(file: io.BufferedReader) -> bool:
    """Whether there is one anywhere in the rest of a file; its first line may be long."""
    return any(b"\n" in block for block in iter(lambda: file.read(HEAD), b""))


def refuse_other_lines(
    path: str | Path, head: bytes, file: io.BufferedReader, encoding: str
) -> None:
    """Raise ValueError for a file whose lines are not inputs of their own.

    That is a table or JSON, by what it holds.
    """
    is_whole = len(head) < HEAD
    text = head.decode(encoding, errors="replace").removeprefix("\ufeff")
    if not is_whole:
        text = text.rpartition("\n")[0]
    if is_json_rows(text):
        raise ValueError(f"{path}: holds JSON lines; name it .jsonl")
    if is_json_document(head, file):
        raise ValueError(
            f"{path}: is one JSON document, not a line for each input; name a list of rows .json"
        )
    if is_table(text, is_whole):
        raise ValueError(f"{path}: is a table with a header; name it .csv or .tsv")


def is_json_lines(path: str | Path) -> bool:
    """Whether a file holds one JSON object a line, by its name."""
    return ending_of(path) in JSON_LINES


def is_json_rows(text: str) -> bool:
    """Whether each of the first lines is a JSON object as step 1 reads it from JSON lines."""
    lines = [line for line in text.split("\n") if line.strip()][:FIRST_LINES]
    for line in lines:
        if not line.lstrip().startswith("{"):
            return False
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(row.get("text"), str) and not isinstance(row.get("messages"), list):
            return False
    return bool(lines)


def is_json_document(head: bytes, file: io.BufferedReader) -> bool:
    """Whether a whole file is one JSON array, or one JSON object over several lines.

    It begins with `head`.
    """
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"[", b"{")):
        return False
    if os.fstat(file.fileno()).st_size > LARGEST_DOCUMENT:
        return False
    file.seek(0)
    content = file.read().strip()
    if not content.endswith((b"]", b"}")):
        return False
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    if isinstance(document, list):
        # "[1]" may be a text
        return any(isinstance(element, str | dict | list) for element in document)
    return b"\n" in content


def is_table(text: str, is_whole: bool = True) -> bool:
    """Whether the first lines are a table.

    That is a header of known names, or of any where cells are quoted, and as many cells in each
    row as there.
    """
    for delimiter in DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            rows = [row for row, _ in zip(reader, range(FIRST_LINES), strict=False) if row]
        except csv.Error:
            continue
        if not is_whole:
            rows = rows[:-1]  # its last cell may have been cut
        if len(rows) < 3 or len(rows[0]) < 2:
            continue
        same_length = all(len(row) == len(rows[0]) for row in rows)
        first, _, others = text.partition("\n")
        quoted = '"' not in first and (f'{delimiter}"' in others or '\n"' in text)
        if same_length and is_header(rows[0], any_names=quoted):
            return True
    return False


def is_header(cells: list[str], any_names: bool = False) -> bool:
    """Whether these are names of columns, one of them of a text or a label unless `any_names`."""
    if not cells[0]:
        cells = cells[1:]  # pandas writes the numbers of rows without a name
    if not all(COLUMN.fullmatch(cell) for cell in cells):
        return False
    if len(set(cells)) < len(cells):
        return False
    if any_names:
        return True
    words = re.findall(r"[a-z]+", " ".join(cells).lower().replace("_", " "))
    return bool(COLUMN_WORDS.intersection(words))


def sha256_of(path: str | Path) -> str:
    """sha256 of a file's bytes as it is now."""
    check_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def first_sha256(path: str | Path) -> str:
    """sha256 of a file as it was when this process first asked.

    That is before it reads what is in it.
    """
    return sha256_of(path)


def unchanged_sha256(path: str | Path) -> str:
    """first_sha256(), if the file is still the same.

    Raises ValueError if what was read may be another content.
    """
    if sha256_of(path) != first_sha256(path):
        raise ValueError(f"{path}: has changed while it was read; start again when it is complete")
    return first_sha256(path)
