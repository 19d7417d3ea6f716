"""Inputs and conversations: plain lines and chat JSONL, read and checked; an input's digest."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from distill.input_files import is_json_lines, open_text


def read_chat(path: str | Path, last_role: str) -> Iterator[tuple[int, list[dict]]]:
    """Yield (line number, messages) of a chat-format JSONL, as read_chat_rows() does."""
    for number, messages, _ in read_chat_rows(path, last_role):
        yield number, messages


def read_chat_rows(path: str | Path, last_role: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Yield (line number, messages, the whole row) of a chat-format JSONL.

    Raises ValueError that names file and line. Every conversation must end with a message of
    `last_role` that is not empty; blank lines are skipped. Where inputs are read (`last_role`
    user), an answer that a row already has is left out.
    """
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise ValueError(
                f"{where}: not JSON ({reason}); each line must be one JSON object"
            ) from error
        if isinstance(row, dict) and isinstance(row.get("text"), str) and last_role == "user":
            row = {"messages": [{"role": "user", "content": row["text"]}]}
        messages = row.get("messages") if isinstance(row, dict) else None
        if not isinstance(messages, list) or not messages:
            raise ValueError(
                f"{where}: not chat format; "
                'expected {"messages": [{"role": ..., "content": ...}]}'
            )
        for m in messages:
            if not isinstance(m, dict) or not isinstance(m.get("content"), str):
                raise ValueError(
                    f"{where}: not chat format; "
                    "every message needs a role and a content that is text"
                )
            if m.get("role") not in ("system", "user", "assistant"):
                raise ValueError(
                    f"{where}: unknown role {m.get('role')!r}; use system, user or assistant"
                )
        try:
            "".join(m["content"] for m in messages).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where}: holds half of a surrogate pair; write the text as UTF-8"
            ) from error
        if last_role == "user" and len(messages) > 1 and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        if messages[-1]["role"] != last_role or not messages[-1]["content"].strip():
            raise ValueError(
                f"{where}: the last message must be from the {last_role} and not empty"
            )
        yield number, [{"role": m["role"], "content": m["content"]} for m in messages], row


def read_lines(path: str | Path, are_inputs: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the lines that are not blank.

    Raises ValueError on a bad file or bad bytes. Where the lines `are_inputs`, tables and JSON are
    bad files too.
    """
    number = 0
    try:
        with open_text(path, are_inputs) as file:
            for number, raw in enumerate(file, 1):
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if "\0" in text:
                    raise ValueError(
                        f"{path}:{number}: not UTF-8 text (it holds NUL); convert the file to UTF-8"
                    )
                if text.strip():
                    yield number, text
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; pass an existing file") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}:{number}: not UTF-8 (byte {error.start + 1}); convert the file to UTF-8"
        ) from error


def read_inputs(path: str):
    """Yield (line number, messages) for each input; raises ValueError that names file and line."""
    if is_json_lines(path):
        yield from read_chat(path, last_role="user")
    else:
        for number, text in read_lines(path, are_inputs=True):
            yield number, [{"role": "user", "content": text}]


def digest(messages: list[dict]) -> bytes:
    """sha256 of an input."""
    return hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode()).digest()


def input_hash(messages: list[dict]) -> str:
    """Eight bytes of an input's digest, as a journal line has them."""
    return f"{int.from_bytes(digest(messages)[:8], sys.byteorder):016x}"
