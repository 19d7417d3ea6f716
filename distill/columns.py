r"""Which columns of a file hold an input's text, its id and its gold answer. No torch, no vLLM.

Columns are read as text. Where several could be meant and none is named, the file is refused with
their names: a label that is read along with the text, or a number in its place, shows nowhere else.
"""

import json
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from distill.input_files import COLUMN
from distill.text_lines import check_encoding

ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}  # a shell's quotes leave them as they are
UTF8 = "utf-8"


@dataclass(frozen=True)
class Columns:
    """What the flags say of a file's columns; a name that is empty was not given.

    Raises ValueError for flags that contradict each other or cannot be understood.
    """

    text_column: str = ""
    text_template: str = ""  # of several columns, such as "{subject}\n\n{body}"
    id_column: str = ""
    label_column: str = ""  # of the gold answer
    encoding: str = UTF8

    def __post_init__(self):
        check_encoding(self.encoding)
        if self.text_column and self.text_template:
            raise ValueError("--text_column and --text_template: pass one of them")
        if self.text_template and not self.in_template:
            raise ValueError(
                f"--text_template {self.text_template!r}: names no column, as {{subject}} would"
            )
        if self.label_column and self.label_column in (self.text_column, *self.in_template):
            raise ValueError(
                f"--label_column {self.label_column}: the gold answer would be part of the input"
            )

    @property
    def names_text(self) -> bool:
        """Whether the flags say where the text is."""
        return bool(self.text_column or self.text_template)

    def given(self) -> dict[str, str]:
        """What the flags name, by flag."""
        found = {}
        for name in ("text_column", "text_template", "id_column", "label_column"):
            if getattr(self, name):
                found[name] = getattr(self, name)
        if self.encoding != UTF8:
            found["encoding"] = self.encoding
        return found

    @cached_property
    def parts(self) -> list[tuple[str, str | None]]:
        """The template in pairs of a text and the column that follows it, if one does.

        Raises ValueError.
        """
        flag = f"--text_template {self.text_template!r}"
        unescaped = re.sub(r"\\[nt\\]", lambda found: ESCAPES[found[0]], self.text_template)
        found = []
        try:
            for text, column, format_spec, conversion in string.Formatter().parse(unescaped):
                if format_spec or conversion or column == "":
                    raise ValueError("expected a column's name in {}")
                found.append((text, column))
        except ValueError as error:
            raise ValueError(f"{flag}: {error}; write {{{{ for a brace") from error
        return found

    @property
    def in_template(self) -> list[str]:
        """The columns that the template names."""
        return [column for _, column in self.parts if column is not None]

    def text_of(self, row: dict, path: str, number: int) -> str:
        """The text of an input. Raises ValueError that names the columns if it is not clear."""
        where = f"{path}:{number}"
        if self.text_template:
            values = {column: cell(row, column, where) for column in self.in_template}
            text = "".join(before + values.get(column, "") for before, column in self.parts)
            filled = any(value.strip() for value in values.values())
        else:
            text = cell(row, self.text_column or self.only_column(row, path), where)
            filled = bool(text.strip())
        if not filled:
            raise ValueError(f"{where}: the text of this row is empty; drop the row")
        check_unicode(text, where)
        return text

    def only_column(self, row: dict, path: str) -> str:
        """The one column beside those of id and gold; raises ValueError if there are others."""
        left = [name for name in row if name not in (self.id_column, self.label_column)]
        if len(left) != 1:
            raise ValueError(
                f"{path}: which column holds the text? Name it with --text_column, or several with "
                f"--text_template; its columns are {listed(row)}"
            )
        # the first text of a file without a header would be left out as its header
        if not COLUMN.fullmatch(left[0]):
            raise ValueError(
                f"{path}: {left[0]!r} does not look like a column's name; give the file a header, "
                "or name the column with --text_column"
            )
        return left[0]

    def id_of(self, row: dict, where: str) -> str | None:
        """The id of a row; None where no column is named. Raises ValueError if it is empty."""
        if not self.id_column:
            return None
        return filled_cell(row, self.id_column, where, "id", "give the row one")

    def label_of(self, row: dict, where: str) -> str:
        """The gold answer of a row. Raises ValueError if it is empty.

        That of a task with a schema may stand there as JSON itself.
        """
        value = row.get(self.label_column)
        if isinstance(value, dict | list):
            return json.dumps(value, ensure_ascii=False, default=float)  # of its decimal numbers
        return filled_cell(row, self.label_column, where, "gold answer", "drop the row")


class SeenIds:
    """The ids of a file so far, with their lines."""

    def __init__(self, path: str):
        self.path = path
        self.lines: dict[str, int] = {}

    def add(self, found: str | None, number: int) -> None:
        """Take in a row's id, None where rows have none; raises ValueError if another has it."""
        if found is None:
            return
        first = self.lines.setdefault(found, number)
        if first != number:
            raise ValueError(
                f"{self.path}:{number}: id {found!r} is that of {self.path}:{first} too; "
                "ids must differ"
            )


def cell(row: dict, column: str, where: str) -> str:
    """A cell as text: a missing value is empty, and numbers are written as they stand.

    Raises ValueError if there is no such column, or if it holds no text.
    """
    if column not in row:
        raise ValueError(f"{where}: has no column {column!r}; its columns are {listed(row)}")
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list | bytes):
        raise ValueError(f"{where}: column {column!r} holds no text but a {type(value).__name__}")
    return str(value)


def filled_cell(row: dict, column: str, where: str, what: str, remedy: str) -> str:
    """A cell that must hold something; raises ValueError with the remedy if it is empty."""
    found = cell(row, column, where)
    if not found.strip():
        raise ValueError(f"{where}: the {what} in column {column!r} is empty; {remedy}")
    check_unicode(found, where)
    return found


def listed(columns: Iterable[str]) -> str:
    """Names of columns for a message."""
    return ", ".join(name or "(one without a name)" for name in columns)


def check_unicode(text: str, where: str) -> None:
    """Raise ValueError for half of a surrogate pair, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: holds half of a surrogate pair; write the text as UTF-8"
        ) from error


def add_column_flags(parser, gold: bool = False) -> None:
    """Add the flags of Columns to a distill.cli.Parser; `gold`: with that of the gold answer."""
    parser.add("text_column", "", "column of the text, where a file has several")
    parser.add("text_template", "", r'the text from several columns, such as "{subject}\n\n{body}"')
    parser.add("id_column", "", "column of the rows' ids, which go into all that is written")
    if gold:
        parser.add("label_column", "", "column of gold, where the test file is no chat JSONL")
    parser.add("encoding", UTF8, "of inputs that are not UTF-8, such as cp1252")
