"""The log-probabilities in replies, and when they are those of a whole answer: no server."""

import math

import pytest

from distill.confidence import log_confidence
from distill.teacher.reply import read_chat, read_text

END = "<|im_end|>"


def place(token, value=-0.5, **further):
    return {"token": token, "logprob": value, "bytes": list(token.encode()), **further}


def chat(content, places, finish_reason="stop", **further):
    """A reply with this answer and these places."""
    choice = {"message": {"content": content}, "finish_reason": finish_reason, **further}
    return {"choices": [{**choice, "logprobs": {"content": places}}]}


EURO = "€".encode()
WHOLE = {
    "the end of turn last": chat("de", [place("de"), place(END)]),
    "llama.cpp's, whose end of turn is not shown": chat("de", [place("de"), place("")]),
    "no answer but the end": chat(None, [place(END, -1.0)]),
    "a character in two tokens": chat(
        "€",
        [
            {"token": "\ufffd", "logprob": -0.25, "bytes": list(EURO[:1])},
            {"token": "\ufffd", "logprob": -0.25, "bytes": list(EURO[1:])},
            place(END),
        ],
    ),
    "vLLM's, whose bytes are not those of the text": chat(
        "€",
        [place("\ufffd", -0.25), place("\ufffd", -0.25), place(END)],
        token_ids=[7, 8, 9],
    ),
    "without bytes": chat("de", [place("de", bytes=None), place(END, bytes=None)]),
}
NOT_WHOLE = {
    "without the end of turn": chat("de nada", [place("de"), place(" nada")]),
    "vLLM's with a token too few": chat("de", [place("de")], token_ids=[7, 9]),
    "none": {"choices": [{"message": {"content": "de"}, "finish_reason": "stop"}]},
    "null": {"choices": [{"message": {"content": "de"}, "logprobs": None}]},
    "an empty list": chat("", []),
    "a token without a number": chat("de", [place("de", None), place(END)]),
    "a token that is not known": chat("de", [place("de", -9999.0), place(END)]),
    "no number": chat("de", [place("de", math.nan), place(END)]),
    "no tokens": chat("de", ["de", END]),
    "bytes that are none": chat("de", [place("de", bytes=["x"]), place(END)]),
    "cut": chat("de", [place("de"), place(END)], finish_reason="length"),
}


@pytest.mark.parametrize("body", WHOLE.values(), ids=WHOLE)
def test_a_whole_answer_has_a_confidence(body):
    assert log_confidence(read_chat(body, thinks=False)) == pytest.approx(
        sum(found["logprob"] for found in body["choices"][0]["logprobs"]["content"])
    )


@pytest.mark.parametrize("body", NOT_WHOLE.values(), ids=NOT_WHOLE)
def test_what_is_not_whole_has_none(body):
    assert log_confidence(read_chat(body, thinks=False)) is None


def text(values):
    """A reply of vLLM's to token ids."""
    choice = {"token_ids": [7, 9], "finish_reason": "stop", "logprobs": {"token_logprobs": values}}
    return read_text({"choices": [choice]}, lambda ids, finish: "de")


def test_an_answer_in_token_ids_has_one_number_for_each():
    assert log_confidence(text([-0.5, -0.25])) == -0.75
    assert log_confidence(text([0.0001, 0.0])) == 0.0
    for values in ([-0.5], [None, -0.25], None):
        assert log_confidence(text(values)) is None
