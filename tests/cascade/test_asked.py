"""What a client may ask, and what it is told otherwise. No model, no server."""

import json

import pytest

from distill.cascade.asked import Limits, read_asked
from distill.cascade.refused import Refused

LIMITS = Limits(max_body_bytes=1000, max_messages=3, max_input_tokens=0, allow_system=False)
CHAT = {"model": "cascade", "messages": [{"role": "user", "content": "hola"}]}


def read(limits=LIMITS, **changes):
    return read_asked(json.dumps({**CHAT, **changes}).encode(), "cascade", limits)


def refusal(limits=LIMITS, **changes):
    with pytest.raises(Refused) as error:
        read(limits, **changes)
    return error.value


def test_messages_stream_and_limit_are_read():
    asked = read(stream=True, stream_options={"include_usage": True}, max_tokens=9)
    assert asked.messages == CHAT["messages"]
    assert (asked.stream, asked.include_usage, asked.max_tokens) == (True, True, 9)
    assert read(max_tokens=9, max_completion_tokens=4).max_tokens == 4
    assert read(max_tokens=None).max_tokens is None and read().stream is False
    parts = [{"type": "text", "text": "ho"}, {"type": "text", "text": "la"}]
    assert read(messages=[{"role": "user", "content": parts}]).messages == CHAT["messages"]


@pytest.mark.parametrize(
    "name, value",
    [
        ("user", "somebody"),
        ("top_p", 0.5),
        ("seed", 7),
        ("temperature", 0),
        ("temperature", 0.0),
        ("n", 1),
        ("tools", []),
        ("tools", None),
        ("response_format", {"type": "text"}),
        ("frequency_penalty", 0.0),
        ("anything", None),
    ],
)
def test_what_changes_nothing_is_accepted(name, value):
    assert read(**{name: value}).messages == CHAT["messages"]


@pytest.mark.parametrize(
    "name, value",
    [
        ("tools", [{"type": "function"}]),
        ("n", 2),
        ("n", True),
        ("response_format", {"type": "json_object"}),
        ("temperature", 0.7),
        ("stop", ["."]),
        ("logprobs", True),
        ("chat_template_kwargs", {"enable_thinking": True}),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(name, value):
    error = refusal(**{name: value})
    assert (error.status, error.param, error.code) == (400, name, "unsupported_parameter")


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "hola",
        [{"role": "user", "content": "  "}],
        [{"role": "assistant", "content": "es"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        [{"role": "tool", "content": "es"}],
        [{"role": "user", "content": "half of a pair: \ud800"}],
        [{"role": "user", "content": "hola"}] * 4,
        [7],
    ],
)
def test_other_messages_are_refused(messages):
    error = refusal(messages=messages)
    assert error.status == 400 and error.param.startswith("messages")


def test_a_system_message_is_refused_unless_training_rows_had_one():
    chat = [{"role": "system", "content": "Be kind."}, *CHAT["messages"]]
    error = refusal(messages=chat)
    assert error.param == "messages.[0].role" and "trained without" in error.message
    allowed = Limits(max_body_bytes=1000, max_messages=3, max_input_tokens=0, allow_system=True)
    assert read(allowed, messages=chat).messages == chat
    chat[0]["role"] = "developer"  # as newer clients call it
    assert read(allowed, messages=chat).messages[0]["role"] == "system"


def test_an_earlier_reply_may_be_sent_again_but_no_call_of_a_tool():
    reply = {"role": "assistant", "content": "es", "refusal": None, "annotations": []}
    chat = [{**CHAT["messages"][0], "name": "me"}, reply, *CHAT["messages"]]
    kept = [{"role": each["role"], "content": each["content"]} for each in chat]
    assert read(messages=chat).messages == kept
    reply["tool_calls"] = [{"id": "1", "type": "function"}]
    error = refusal(messages=chat)
    assert error.param == "messages.[1].tool_calls" and error.code == "unsupported_parameter"


def test_another_model_is_not_found():
    error = refusal(model="gpt")
    assert (error.status, error.code) == (404, "model_not_found")
    assert refusal(model=None).param == "model"


@pytest.mark.parametrize("limit", [0, -1, 1.5, "7", True])
def test_a_limit_is_a_whole_number(limit):
    assert refusal(max_tokens=limit).param == "max_tokens"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"[" * 100000])
def test_what_is_no_json_object_is_refused(raw):
    with pytest.raises(Refused) as error:
        read_asked(raw, "cascade", LIMITS)
    assert (error.value.status, error.value.code) == (400, "invalid_json")
