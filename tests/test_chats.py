"""Files of chats and texts, line by line."""

import json
import re

import pytest

from distill.chats import read_chat, read_lines

USER = {"role": "user", "content": "Hallo ä"}
ASSISTANT = {"role": "assistant", "content": "de"}
ROW = json.dumps({"messages": [USER, ASSISTANT]}, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("raw", "lines"),
    [
        (b"", []),
        (b"\n\r\n \t\n", []),
        (b"a\nb", [(1, "a"), (2, "b")]),
        (b"a\r\nb\r\n", [(1, "a"), (2, "b")]),
        (b"\xef\xbb\xbfa\nb\n", [(1, "a"), (2, "b")]),
        (b"\xef\xbb\xbf\nb\n", [(2, "b")]),
        (b"\n a \n\n\nb\n", [(2, " a "), (5, "b")]),
        ("a\u2028b\x85c\n".encode(), [(1, "a\u2028b\x85c")]),
    ],
    ids=[
        "empty",
        "blank",
        "no last newline",
        "CRLF",
        "BOM",
        "BOM alone",
        "blank lines",
        "Unicode line ends",
    ],
)
def test_lines(tmp_path, raw, lines):
    path = tmp_path / "lines.txt"
    path.write_bytes(raw)
    assert list(read_lines(path)) == lines


@pytest.mark.parametrize(
    ("raw", "line"), [(b"\xff", 1), (b"a\n\n\xc3\n", 3), ("a\nb\n".encode("utf-16"), 1)]
)
def test_invalid_utf8_is_named_with_its_line(tmp_path, raw, line):
    path = tmp_path / "lines.txt"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}:{line}: not UTF-8"):
        list(read_lines(path))


@pytest.mark.parametrize(
    "read", [read_lines, lambda path: read_chat(path, "user")], ids=["lines", "chat"]
)
def test_missing_file_is_named(tmp_path, read):
    path = tmp_path / "missing.jsonl"
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: No such file"):
        list(read(path))


@pytest.mark.parametrize(
    "raw", [ROW + b"\n\n" + ROW, b"\xef\xbb\xbf" + ROW + b"\r\n\r\n" + ROW + b"\r\n"]
)
def test_chat_is_read_with_line_numbers(tmp_path, raw):
    path = tmp_path / "chat.jsonl"
    path.write_bytes(raw)
    assert list(read_chat(path, "assistant")) == [(1, [USER, ASSISTANT]), (3, [USER, ASSISTANT])]


def test_chat_drops_other_keys(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"id": 7, "messages": [USER, {**ASSISTANT, "weight": 1}]}))
    assert list(read_chat(path, "assistant")) == [(1, [USER, ASSISTANT])]


def test_text_rows_are_user_messages(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"text": "a", "label": "en"}\n{"messages": [{"role": "user", "content": "b"}]}\n'
    )
    expected = [(i, [{"role": "user", "content": text}]) for i, text in [(1, "a"), (2, "b")]]
    assert list(read_chat(path, "user")) == expected
    with pytest.raises(ValueError, match=":1: not chat format"):
        list(read_chat(path, "assistant"))


def chat(*messages) -> str:
    return json.dumps({"messages": messages})


BROKEN_CHATS = {
    "broken JSON": ('{"messages": [', "not JSON"),
    "plain text": ("Hallo", "not JSON"),
    "a number with too many digits": ('{"messages": %s}' % ("9" * 5000), "not "),
    "a list": ("[]", "not chat format"),
    "no messages": ("{}", "not chat format"),
    "text row": ('{"text": "a"}', "not chat format"),
    "empty messages": (chat(), "not chat format"),
    "messages as text": ('{"messages": "a"}', "not chat format"),
    "message as text": (chat("a"), "not chat format"),
    "content missing": (chat(USER, {"role": "assistant"}), "not chat format"),
    "content is null": (chat(USER, {**ASSISTANT, "content": None}), "not chat format"),
    "content in parts": (chat(USER, {**ASSISTANT, "content": [{"text": "a"}]}), "not chat format"),
    "role missing": (chat(USER, {"content": "a"}), "unknown role None"),
    "unknown role": (chat(USER, {**ASSISTANT, "role": "gpt"}), "unknown role 'gpt'"),
    "role in upper case": (
        chat(USER, {**ASSISTANT, "role": "Assistant"}),
        "unknown role 'Assistant'",
    ),
    "role is a list": (chat(USER, {**ASSISTANT, "role": ["user"]}), "unknown role"),
    "ends with the user": (
        chat(USER, ASSISTANT, USER),
        "the last message must be from the assistant",
    ),
    "empty answer": (chat(USER, {**ASSISTANT, "content": ""}), "from the assistant and not empty"),
    "blank answer": (
        chat(USER, {**ASSISTANT, "content": " \n"}),
        "from the assistant and not empty",
    ),
}


@pytest.mark.parametrize(("line", "message"), BROKEN_CHATS.values(), ids=BROKEN_CHATS)
def test_broken_chat_is_named_with_its_line(tmp_path, line, message):
    path = tmp_path / "chat.jsonl"
    path.write_bytes(ROW + b"\n\n" + line.encode() + b"\n")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}:3: .*{message}"):
        list(read_chat(path, "assistant"))


@pytest.mark.parametrize(
    "line", ['{"text": ""}', '{"text": " "}', chat({**USER, "content": ""}), chat(ASSISTANT)]
)
def test_input_must_end_with_user_text(tmp_path, line):
    path = tmp_path / "chat.jsonl"
    path.write_text(line)
    with pytest.raises(
        ValueError, match=":1: the last message must be from the user and not empty"
    ):
        list(read_chat(path, "user"))


def test_an_input_that_has_an_answer_already_is_read_without_it(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(chat(USER, ASSISTANT))
    assert [messages for _, messages in read_chat(path, "user")] == [[USER]]
