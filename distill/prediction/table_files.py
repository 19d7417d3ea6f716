"""Files of predictions, written row by row: CSV, TSV, JSON and Parquet, by the output's ending.

Each appears complete or not at all, and holds the same bytes whenever the same rows are written. No
torch, no vLLM.
"""

import contextlib
import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from distill.files import Replacing
from distill.input_files import GZIP, JSON_LINES, TABLES, ending_of

ENDINGS = (".csv", ".tsv", *JSON_LINES, ".json", ".parquet")
ROW_GROUP = 10_000  # rows of a Parquet file that are in memory at a time

# What a column holds. A cell of any kind may be None: nothing.
TEXT = "text"
INTEGER = "integer"
NUMBER = "number"
TRUTH = "truth"  # true or false
JSON = "json"  # JSON as text, which is a value of its own where the file is JSON


@dataclass(frozen=True)
class Column:
    """One column of a file that is written."""

    name: str
    kind: str = TEXT


class Writer(Protocol):
    """Takes the rows of one file."""

    def write(self, cells: list) -> None:
        """Add a row, its cells in the order of the columns."""

    def close(self) -> None:
        """Write what is still to come after the last row."""


def check_ending(output: str | Path) -> None:
    """Raise ValueError for an output whose ending names no kind of file that is written here."""
    if ending_of(output) in ENDINGS:
        return
    raise ValueError(
        f"{output}: predictions are written as .csv, .tsv, .jsonl, .json or .parquet, each also "
        f"{GZIP}; choose an --output_file with one of these endings"
    )


@contextlib.contextmanager
def writing(output: Path, columns: list[Column]) -> Iterator[Writer]:
    """A Writer of a file, which is at its place when the block ends without an error."""
    with Replacing(output, binary=True) as raw, compressed(output, raw) as file:
        writer = writer_of(ending_of(output), file, columns)
        try:
            yield writer
        except BaseException:
            with contextlib.suppress(Exception):  # the file goes away, whatever is in it
                writer.close()
            raise
        writer.close()


@contextlib.contextmanager
def compressed(output: Path, raw: BinaryIO) -> Iterator[BinaryIO]:
    """The file to write to: `raw`, or what is compressed into it where the output is .gz."""
    if not output.name.lower().endswith(GZIP):
        yield raw
        return
    # without name and time, by which the same rows would give other bytes
    with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        yield file


def writer_of(ending: str, file: BinaryIO, columns: list[Column]) -> Writer:
    """The Writer for a file with this ending."""
    if ending == ".parquet":
        return ParquetRows(file, columns)
    if ending in JSON_LINES:
        return JsonRows(file, columns)
    if ending == ".json":
        return JsonRows(file, columns, as_array=True)
    assert ending in TABLES
    return DelimitedRows(file, columns, delimiter="\t" if ending == ".tsv" else ",")


def text_file(file: BinaryIO) -> io.TextIOWrapper:
    """Text in UTF-8; what cannot be written in it becomes an escape."""
    return io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")


class DelimitedRows:
    """CSV or TSV under a header, with quotes where a cell needs them; nothing is an empty cell."""

    def __init__(self, file: BinaryIO, columns: list[Column], delimiter: str):
        self.file = text_file(file)
        how = {"delimiter": delimiter, "lineterminator": "\n"}
        self.plain = csv.writer(self.file, **how)
        # Python before 3.13 leaves a cell with CR alone unquoted, which its own reader refuses
        self.quoted = csv.writer(self.file, quoting=csv.QUOTE_ALL, **how)
        self.write([column.name for column in columns])

    def write(self, cells: list) -> None:
        texts = [as_text(cell) for cell in cells]
        writer = self.quoted if any("\r" in text for text in texts) else self.plain
        writer.writerow(texts)

    def close(self) -> None:
        self.file.flush()
        self.file.detach()


def as_text(cell) -> str:
    """A cell of CSV."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return str(cell)


class JsonRows:
    """One JSON object a line, or all of them in one array."""

    def __init__(self, file: BinaryIO, columns: list[Column], as_array: bool = False):
        self.file = text_file(file)
        self.columns = columns
        self.as_array = as_array
        self.count = 0

    def write(self, cells: list) -> None:
        members = []
        for column, cell in zip(self.columns, cells, strict=True):
            # JSON is put in as it stands: reading it would change numbers with many digits
            is_json = column.kind == JSON and cell is not None
            value = cell if is_json else json.dumps(cell, ensure_ascii=False)
            members.append(f"{json.dumps(column.name, ensure_ascii=False)}: {value}")
        line = "{" + ", ".join(members) + "}"
        if self.as_array:
            self.file.write(",\n" if self.count else "[\n")
            self.file.write(line)
        else:
            self.file.write(line + "\n")
        self.count += 1

    def close(self) -> None:
        if self.as_array:
            self.file.write("\n]\n" if self.count else "[]\n")
        self.file.flush()
        self.file.detach()


class ParquetRows:
    """Parquet, a row group of ROW_GROUP rows at a time."""

    def __init__(self, file: BinaryIO, columns: list[Column]):
        import pyarrow
        from pyarrow import parquet

        types = {INTEGER: pyarrow.int64(), NUMBER: pyarrow.float64(), TRUTH: pyarrow.bool_()}
        fields = []
        for column in columns:
            fields.append((column.name, types.get(column.kind, pyarrow.string())))
        self.schema = pyarrow.schema(fields)
        self.writer = parquet.ParquetWriter(file, self.schema)
        self.rows: list[list] = []

    def write(self, cells: list) -> None:
        self.rows.append([encodable(cell) for cell in cells])
        if len(self.rows) == ROW_GROUP:
            self._write_group()

    def close(self) -> None:
        if self.rows:
            self._write_group()
        self.writer.close()

    def _write_group(self) -> None:
        import pyarrow

        arrays = []
        for place, field in enumerate(self.schema):
            values = [row[place] for row in self.rows]
            arrays.append(pyarrow.array(values, field.type))
        self.writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self.schema))
        self.rows = []


def encodable(cell):
    """A cell whose text can be written as UTF-8, as in the other files."""
    if not isinstance(cell, str):
        return cell
    return cell.encode("utf-8", errors="backslashreplace").decode("utf-8")
