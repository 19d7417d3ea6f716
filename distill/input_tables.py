"""Tables of inputs, read row by row: CSV, TSV, a JSON array and Parquet. No torch, no vLLM.

A row is a dictionary of its cells by column. What stands in a cell is kept as it is, so that 007
and NA stay what they are: the cells of CSV are texts, and those of the others are read as texts by
columns.py.
"""

import csv
import io
import json
import sys
import zlib
from collections.abc import Iterator
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from distill.input_files import DELIMITERS, GZIP, TABLES, ending_of, is_json_rows, open_bytes
from distill.text_lines import text_lines

BATCH = 1024  # rows of a Parquet file that are in memory at a time


def is_table_file(path: str | Path) -> bool:
    """Whether a file is a table, by its name."""
    return ending_of(path) in TABLES


def read_table(path: str | Path, encoding: str) -> Iterator[tuple[int, dict]]:
    """Yield (number, row) of a table.

    In CSV and TSV the number is that of the line where a row begins, else that of the row. Raises
    ValueError that names the file, and the line where there is one.
    """
    ending = ending_of(path)
    if ending == ".parquet":
        return read_parquet(path)
    if ending == ".json":
        return read_json_array(path, encoding)
    return read_csv(path, encoding)


def read_csv(path: str | Path, encoding: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of CSV under their header; empty ones are left out."""
    csv.field_size_limit(sys.maxsize)  # else a long text would be refused
    lines = text_lines(path, encoding=encoding)
    number = 0
    first = ""
    for number, first in lines:  # noqa: B007, both are used below
        if first.strip():
            break
    before = number - 1  # lines before the header
    # where the decimal sign is a comma, spreadsheets write semicolons into .csv
    possible = "\t" if ending_of(path) == ".tsv" else DELIMITERS
    delimiter = max(possible, key=first.count)
    rest = (line for _, line in lines)
    reader = csv.reader(chain([first], rest), delimiter=delimiter, strict=True)
    header = []
    begins = number
    try:
        for cells in reader:
            if any(cells) and not header:
                header = checked_header(path, [name.strip() for name in cells])
            elif any(cells):
                if len(cells) != len(header):
                    raise ValueError(
                        f"{path}:{begins}: {len(cells)} cells under {len(header)} columns; "
                        "put quotes around cells that hold a separator or the end of a line"
                    )
                check_nameless(f"{path}:{begins}", header, cells)
                yield begins, dict(zip(header, cells, strict=True))
            begins = before + reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}:{begins}: no CSV ({error}); see to the quotes there") from error


def checked_header(path: str | Path, names: list[str]) -> list[str]:
    """The names of a table's columns. Raises ValueError if two columns have one name."""
    for name in names:
        if name and names.count(name) > 1:
            raise ValueError(f"{path}: has two columns with the name {name!r}; rename one")
    return names


def check_nameless(where: str, header: list[str], cells: list[str]) -> None:
    """Raise ValueError if several columns have no name and one of them holds something.

    Spreadsheets write such columns, empty ones, behind the table. Of the others only the last would
    be read.
    """
    if header.count("") < 2:
        return
    for place, (name, cell) in enumerate(zip(header, cells, strict=True), 1):
        if not name and cell.strip():
            raise ValueError(
                f"{where}: cell {place} is not empty, and several columns, of which this is one, "
                "have no name; give each one in the header"
            )


def read_json_array(path: str | Path, encoding: str) -> Iterator[tuple[int, dict]]:
    """The elements of one JSON array, which is read as a whole; a text is a row of that text."""
    text = "".join(line for _, line in text_lines(path, encoding=encoding))
    try:
        rows = json.loads(text, parse_float=Decimal)  # which keeps the digits as they stand
    except (ValueError, RecursionError) as error:
        if is_json_rows(text):
            raise ValueError(f"{path}: holds JSON lines; name it .jsonl") from error
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: is no JSON array; pass [...] with a row for each input")
    for number, row in enumerate(rows, 1):
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: is neither a JSON object nor a text")
        yield number, row


def opened_parquet(path: str | Path, file: BinaryIO):
    """The ParquetFile in an open file, whose end is read first.

    A compressed one cannot go there at once, and is read as a whole.
    """
    from pyarrow import parquet

    compressed = str(path).lower().endswith(GZIP)
    return parquet.ParquetFile(io.BytesIO(file.read()) if compressed else file)


def is_read(column) -> bool:
    """Whether rows of a Parquet file hold a column of its schema."""
    from pyarrow import types

    return column.name == "messages" or not types.is_nested(column.type)


def columns_without_text(path: str | Path) -> list[str]:
    """The columns of a Parquet file that are lost as text: nested ones, and bytes.

    Those of another kind of file can all be written as text. Raises ValueError or OSError.
    """
    from pyarrow import types

    if ending_of(path) != ".parquet":
        return []
    kinds_of_bytes = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    found = []
    with open_bytes(path) as file:
        for column in opened_parquet(path, file).schema_arrow:
            holds_bytes = any(is_kind(column.type) for is_kind in kinds_of_bytes)
            if holds_bytes or not is_read(column):
                found.append(column.name)
    return found


def read_parquet(path: str | Path) -> Iterator[tuple[int, dict]]:
    """The rows of a Parquet file, without columns that hold neither texts nor chats."""
    import pyarrow

    number = 0
    try:
        with open_bytes(path) as file:
            table = opened_parquet(path, file)
            wanted = [column.name for column in table.schema_arrow if is_read(column)]
            checked_header(path, wanted)
            # threads of its own would be copied in vain where the engine's process is forked
            for batch in table.iter_batches(BATCH, use_threads=False):
                for row in batch.select(wanted).to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: cannot be read as Parquet ({reason})") from error
    except (EOFError, OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: {reason}; pass an existing Parquet file") from error
