"""Replies as servers document them, and what they are read as: no model, no server."""

import pytest

from distill.confidence import log_confidence
from distill.task import NoAnswer, load_task
from distill.teacher.reply import BadReply, read_chat, read_text
from helpers import write_task


def reply(message, finish_reason="stop", **usage):
    choice = {"index": 0, "message": {"role": "assistant", **message}}
    found = {"model": "m", "choices": [{**choice, "finish_reason": finish_reason}]}
    if usage:
        found["usage"] = usage
    return found


# of a thought "It is short." and the answer "en"
SERVERS = {
    "vLLM, OpenRouter and Ollama": reply({"reasoning": "It is short.", "content": "\n\nen"}),
    "an older vLLM, DeepSeek, llama.cpp and LiteLLM": reply(
        {"reasoning_content": "It is short.", "content": "en", "thinking_blocks": []}
    ),
    "LiteLLM in front of vLLM": reply(
        {
            "reasoning_content": "It is short.",
            "content": "\n\nen",
            "provider_specific_fields": {"reasoning": "It is short."},
        },
        completion_tokens=9,
        completion_tokens_details={"reasoning_tokens": 6},
    ),
    "both fields": reply(
        {"reasoning": "It is short.", "reasoning_content": "It is short.", "content": "en"}
    ),
    "LM Studio, inline": reply({"content": "<think>\nIt is short.\n</think>\n\nen"}),
    "inline, opened by the template": reply({"content": "It is short.\n</think>\n\nen"}),
    "in parts": reply(
        {"reasoning": "It is short.", "content": [{"type": "text", "text": "e"}, {"text": "n"}]}
    ),
    "an o-series, whose thoughts are hidden": reply(
        {"content": "en", "refusal": None},
        prompt_tokens=9,
        completion_tokens=40,
        completion_tokens_details={"reasoning_tokens": 38},
    ),
    "several choices": {
        "choices": [
            reply({"reasoning": "It is short.", "content": "en"})["choices"][0],
            reply({"reasoning": "It is long.", "content": "fr"})["choices"][0],
        ]
    },
}


@pytest.fixture
def task(tmp_path):
    return load_task(write_task(tmp_path / "task.yaml", ["en", "fr"]))


@pytest.mark.parametrize("body", SERVERS.values(), ids=SERVERS)
def test_the_answer_follows_the_thought_wherever_that_stands(body, task):
    found = read_chat(body, thinks=True)
    assert task.read_answer(found.text, found.finish_reason) == "en"
    assert found.problem is None


UNFINISHED = {
    "cut in the thought": reply({"reasoning": "It is", "content": None}, "length"),
    "cut inline": reply({"content": "<think>It is"}, "length"),
    "cut, in another word": reply({"reasoning": "Hm", "content": "en"}, "max_tokens"),
    "cut in the answer": reply({"reasoning": "It is short.", "content": "e"}, "length"),
    "no thought at all": reply({"content": "en"}),
    "ended in the thought": reply({"reasoning": "en", "content": ""}),
    "nothing": reply({"content": None}),
}


@pytest.mark.parametrize("body", UNFINISHED.values(), ids=UNFINISHED)
def test_an_unfinished_answer_is_none(body, task):
    """A label in the thought is no answer; as with an engine of ours."""
    found = read_chat(body, thinks=True)
    with pytest.raises(NoAnswer):
        task.read_answer(found.text, found.finish_reason)


def test_a_teacher_that_does_not_think_answers_with_all_of_it(task):
    found = read_chat(reply({"content": "en"}), thinks=False)
    assert task.read_answer(found.text, found.finish_reason, thinks=False) == "en"


def test_tokens_are_the_servers():
    usage = {
        "prompt_tokens": 900,
        "completion_tokens": 40,
        "prompt_tokens_details": {"cached_tokens": 896},
        "completion_tokens_details": {"reasoning_tokens": 38},
    }
    found = read_chat(reply({"reasoning": "Hm", "content": "en"}, **usage), thinks=True)
    assert (found.prompt_tokens, found.cached_tokens) == (900, 896)
    assert (found.output_tokens, found.thinking_tokens) == (40, 38)
    assert found.served_by == "m"


def test_missing_or_odd_counts_are_not_known():
    for usage in ({}, {"prompt_tokens": None, "prompt_tokens_details": None}):
        found = read_chat(reply({"content": "en"}, **usage), thinks=False)
        assert found.prompt_tokens is None and found.cached_tokens == 0
        assert found.output_tokens == 0


def test_a_filter_refuses_the_row():
    assert read_chat(reply({"content": ""}, "content_filter"), thinks=True).problem == "refused"


BAD = {
    "a list": [],
    "a text": "welcome",
    "no choices": {"choices": []},
    "an error with 200": {"error": {"message": "no"}},
    "no message": {"choices": [{"finish_reason": "stop"}]},
    "failed on the way": reply({"content": "e"}, "error"),
    "an odd reason": {"choices": [{"finish_reason": {"type": "stop"}}]},
    "stopped with the server": reply({"content": "e"}, "abort"),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_what_is_no_reply_is_asked_again(body):
    with pytest.raises(BadReply):
        read_chat(body, thinks=True)


def test_token_ids_are_read_as_the_engines():
    body = {"model": "m", "choices": [{"token_ids": [5, 6, 2], "finish_reason": "stop"}]}
    found = read_text(body, lambda ids, finish: f"{ids} {finish}")
    assert found.text == "[5, 6, 2] stop" and found.output_tokens == 3
    with pytest.raises(BadReply):
        read_text({"choices": [{"text": "Hm"}]}, str)


def test_log_probabilities_are_those_of_all_tokens_or_none():
    places = [{"token": "es", "logprob": -0.5}, {"token": "<|im_end|>", "logprob": 0}]
    choice = {"message": {"content": "es"}, "finish_reason": "stop"}
    usage = {"completion_tokens": 2}
    body = {"choices": [{**choice, "logprobs": {"content": places}}], "usage": usage}
    found = read_chat(body, thinks=False)
    assert found.chosen_logprobs == [-0.5, 0.0] and log_confidence(found) == -0.5
    for missing in (None, {}, {"content": None}, {"content": [{"logprob": "high"}]}):
        body = {"choices": [{**choice, "logprobs": missing}], "usage": usage}
        assert read_chat(body, thinks=False).chosen_logprobs is None
    ids = {"token_ids": [7, 1], "logprobs": {"token_logprobs": [-1.5, -0.25]}}
    body = {"choices": [{**ids, "finish_reason": "stop"}], "usage": usage}
    assert log_confidence(read_text(body, lambda *_: "es")) == -1.75
    # the end of turn is not among them
    ids["logprobs"]["token_logprobs"] = [-1.5]
    assert log_confidence(read_text(body, lambda *_: "es")) is None
