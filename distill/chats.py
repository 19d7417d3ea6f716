"""Inputs and conversations: plain lines, chats and tables, read and checked; an input's digest."""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from distill.columns import Columns, SeenIds, check_unicode, listed
from distill.input_files import FLAT, ending_of, is_json_lines
from distill.input_tables import is_table_file, read_table
from distill.text_lines import text_lines

NO_COLUMNS = Columns()


@dataclass(frozen=True)
class InputRow:
    """One row of a file of inputs."""

    number: int  # its line; in JSON arrays and Parquet, which row it is
    messages: list[dict]
    id: str | None  # None: no column of ids was named
    cells: dict | None = None  # all that the row holds, by column; None: a line without columns


@dataclass(frozen=True)
class GoldRow:
    """One row of a file of inputs with their right answers."""

    number: int  # as of an input
    chat: list[dict]  # without the answer
    gold: str
    id: str | None
    kind: object  # what the row says of its kind, not yet checked; None: nothing


def read_chat(path: str | Path, last_role: str) -> Iterator[tuple[int, list[dict]]]:
    """Yield (line number, messages) of a chat-format JSONL.

    Raises ValueError that names file and line. Every conversation must end with a message of
    `last_role` that is not empty; blank lines are skipped. Where inputs are read (`last_role`
    user), an answer that a row already has is left out.
    """
    for number, row in read_json_lines(path):
        yield number, chat_of(row, f"{path}:{number}", last_role)


def read_json_lines(path: str | Path, encoding: str | None = None) -> Iterator[tuple[int, object]]:
    """Yield (line number, what stands there) of JSON lines; raises ValueError."""
    for number, line in read_lines(path, encoding=encoding):
        try:
            yield number, json.loads(line, parse_float=Decimal)  # which keeps the digits
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise ValueError(
                f"{path}:{number}: not JSON ({reason}); each line must be one JSON object"
            ) from error


def chat_of(row: object, where: str, last_role: str) -> list[dict]:
    """The messages of a row, as read_chat() reads them.

    Raises ValueError that begins with `where`.
    """
    if isinstance(row, dict) and isinstance(row.get("text"), str) and last_role == "user":
        row = {"messages": [{"role": "user", "content": row["text"]}]}
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        other = ""
        if isinstance(row, dict) and row and "messages" not in row and last_role == "user":
            other = f", or name the column of the text with --text_column: {listed(row)}"
        raise ValueError(
            f"{where}: not chat format; "
            f'expected {{"messages": [{{"role": ..., "content": ...}}]}}{other}'
        )
    for m in messages:
        if not isinstance(m, dict) or not isinstance(m.get("content"), str):
            raise ValueError(
                f"{where}: not chat format; every message needs a role and a content that is text"
            )
        if m.get("role") not in ("system", "user", "assistant"):
            raise ValueError(
                f"{where}: unknown role {m.get('role')!r}; use system, user or assistant"
            )
    check_unicode("".join(m["content"] for m in messages), where)
    if last_role == "user" and len(messages) > 1 and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if messages[-1]["role"] != last_role or not messages[-1]["content"].strip():
        raise ValueError(f"{where}: the last message must be from the {last_role} and not empty")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def read_lines(
    path: str | Path, are_inputs: bool = False, encoding: str | None = None
) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the lines that are not blank; raises as text_lines()."""
    for number, line in text_lines(path, are_inputs, encoding):
        text = line.rstrip("\r\n")
        if text.strip():
            yield number, text


def read_inputs(path: str, columns: Columns = NO_COLUMNS) -> Iterator[tuple[int, list[dict]]]:
    """Yield (line number, messages) for each input, as read_input_rows()."""
    for row in read_input_rows(path, columns):
        yield row.number, row.messages


def read_input_rows(path: str, columns: Columns = NO_COLUMNS) -> Iterator[InputRow]:
    """Yield the rows of a file of inputs: plain lines, JSON lines or a table, by its ending.

    Raises ValueError that names file and line. Ids take about 150 bytes of memory each.
    """
    if not has_columns(path):
        yield from plain_rows(path, columns)
        return
    seen = SeenIds(path)
    for number, row in records(path, columns.encoding):
        messages = input_of(row, columns, path, number)
        found = columns.id_of(row, f"{path}:{number}")
        seen.add(found, number)
        yield InputRow(number, messages, found, row)


def has_columns(path: str) -> bool:
    """Whether a file of inputs is a table or JSON lines by its name; else its lines are inputs."""
    return is_table_file(path) or is_json_lines(path)


def plain_rows(path: str, columns: Columns) -> Iterator[InputRow]:
    """Yield the lines of a file that has no columns."""
    if columns.names_text or columns.id_column:
        raise ValueError(
            f"{path}: has no columns, each of its lines is an input; drop --text_column, "
            "--text_template and --id_column, or name a table .csv, .tsv, .jsonl, .json or .parquet"
        )
    for number, text in read_lines(path, are_inputs=True, encoding=columns.encoding):
        yield InputRow(number, [{"role": "user", "content": text}], None)


def records(path: str, encoding: str) -> Iterator[tuple[int, object]]:
    """Yield (number, row) of a table by its ending, or else of JSON lines."""
    if is_table_file(path):
        return read_table(path, encoding)
    return read_json_lines(path, encoding)


def input_of(row: object, columns: Columns, path: str, number: int) -> list[dict]:
    """The messages of an input: a chat, or the text that the columns hold. Raises ValueError."""
    where = f"{path}:{number}"
    is_chat = isinstance(row, dict) and isinstance(row.get("messages"), list)
    # JSON has its own names for what it holds
    if not columns.names_text and (is_chat or ending_of(path) not in FLAT):
        return chat_of(row, where, "user")
    if not isinstance(row, dict):
        raise ValueError(f"{where}: is no JSON object, which would have columns")
    return [{"role": "user", "content": columns.text_of(row, path, number)}]


def read_gold(path: str, columns: Columns = NO_COLUMNS) -> Iterator[GoldRow]:
    """Yield inputs with their right answers: chats that end with them, or rows of a table.

    Which it is, says `columns.label_column`. Raises ValueError that names file and line.
    """
    seen = SeenIds(path)
    for number, row in records(path, columns.encoding):
        where = f"{path}:{number}"
        if columns.label_column:
            chat = input_of(row, columns, path, number)
            gold = columns.label_of(row, where)
        else:
            if is_table_file(path) and "messages" not in row:
                raise ValueError(
                    f"{path}: which column holds the gold answers? Name it with --label_column; "
                    f"its columns are {listed(row)}"
                )
            *chat, answer = chat_of(row, where, "assistant")
            gold = answer["content"]
        if not chat:
            raise ValueError(f"{where}: an answer without a question")
        found = columns.id_of(row, where)
        seen.add(found, number)
        kind = row.get("kind")
        if kind == "":  # an empty cell
            kind = None
        yield GoldRow(number, chat, gold, found, kind)


def digest(messages: list[dict]) -> bytes:
    """sha256 of an input."""
    return hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode()).digest()


def input_hash(messages: list[dict]) -> str:
    """Eight bytes of an input's digest, as a journal line has them."""
    return f"{int.from_bytes(digest(messages)[:8], sys.byteorder):016x}"
