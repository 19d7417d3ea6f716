"""Answers that are JSON: read after the thinking, checked, and kept in one form. No model."""

import json
import time

import pytest

from distill.evaluation.fields import fields_of, right_by_field
from distill.json_answers import written
from distill.json_schema import schema_text
from distill.labels.labelling import vote
from distill.task import NoAnswer, Task, load_task
from helpers import ROOT, read_jsonl

BILL = schema_text(
    {
        "type": "object",
        "properties": {
            "sender": {"type": "string"},
            "amount": {"type": "number"},
            "paid": {"type": "boolean"},
            "day": {"type": "string", "format": "date"},
            "lines": {
                "type": "array",
                "items": {
                    "properties": {"text": {"type": "string"}, "count": {"type": "integer"}},
                    "required": ["text"],
                },
            },
        },
        "required": ["amount"],
    }
)
TASK = Task("Read the bill.", (), "", "", BILL)
ONE = '{"amount": 1}'
ACCEPTED = {
    "as it is": (ONE, ONE),
    "after empty lines": ('\n\n{"amount":1}\n', ONE),
    "over several lines": ('{\n  "amount": 1\n}', ONE),
    "in a fence": ('```json\n{"amount": 1}\n```', ONE),
    "in a fence without a name": ('```\n{"amount": 1}\n```\n', ONE),
    "in a fence on one line": ('```{"amount": 1}```', ONE),
    "in a fence of tildes": ('~~~~ JSON\r\n{"amount": 1}\r\n~~~~', ONE),
    "a fence in a string": (
        '{"sender": "```json", "amount": 1}',
        '{"sender": "```json", "amount": 1}',
    ),
    "a whole number with a fraction": ('{"amount": 1.0}', ONE),
    "a whole number with an exponent": ('{"amount": 10e-1}', ONE),
    "minus nought": ('{"amount": -0.0}', '{"amount": 0}'),
    "a fraction": ('{"amount": 12.50}', '{"amount": 12.5}'),
    "a very large number": ('{"amount": 1e300}', '{"amount": 1e+300}'),
    "more digits than a float has": (
        '{"amount": 12345678901234567891}',
        '{"amount": 12345678901234567891}',
    ),
    "keys in another order": (
        '{"paid": true, "amount": 2, "sender": "x"}',
        '{"sender": "x", "amount": 2, "paid": true}',
    ),
    "keys within a list": (
        '{"amount": 2, "lines": [{"count": 3.0, "text": "b"}, {"text": "a"}]}',
        '{"amount": 2, "lines": [{"text": "b", "count": 3}, {"text": "a"}]}',
    ),
    "keys that the schema does not name": (
        '{"z": 1, "b": null, "amount": 2}',
        '{"amount": 2, "b": null, "z": 1}',
    ),
    "escapes": (
        '{"amount": 1, "sender": "caf\\u00e9 \\ud83d\\ude00 \\/\\n"}',
        '{"sender": "café 😀 /\\n", "amount": 1}',
    ),
    "a line's end and a tab in a string": (
        '{"amount": 1, "sender": "a\nb\tc"}',
        '{"sender": "a\\nb\\tc", "amount": 1}',
    ),
    "a string that looks like a number": (
        '{"amount": 1, "sender": " 1.0 "}',
        '{"sender": " 1.0 ", "amount": 1}',
    ),
    "a form of Unicode": (
        '{"amount": 1, "sender": "e\u0301"}',
        '{"sender": "e\u0301", "amount": 1}',
    ),
}
REFUSED = {
    "nothing": ("\n\n", "no_answer", ""),
    "a sentence": ("It is 1 euro.", "not_json", "not JSON: Expecting value in line 1 column 1"),
    "a word before": ('Answer: {"amount": 1}', "not_json", "not JSON"),
    "a word behind": ('{"amount": 1} euro', "not_json", "not JSON: Extra data"),
    "text around a fence": ('Here it is:\n```json\n{"amount": 1}\n```', "not_json", "not JSON"),
    "cut off": ('{"amount": 1', "not_json", "not JSON"),
    "an empty fence": ("```json\n```", "not_json", "not JSON"),
    "single quotes": ("{'amount': 1}", "not_json", "not JSON"),
    "not a number": ('{"amount": NaN}', "not_json", "not JSON: NaN"),
    "infinity": ('{"amount": -Infinity}', "not_json", "not JSON: -Infinity"),
    "too large a number": ('{"amount": 1e999}', "not_json", "1e999 is too large"),
    "too many digits": ('{"amount": ' + 5000 * "1" + "}", "not_json", "4300 digits"),
    "a key twice": ('{"amount": 1, "amount": 2}', "not_json", "key 'amount' comes twice"),
    "half a character": ('{"amount": 1, "sender": "\\ud83d"}', "not_json", "surrogate"),
    "very deep": (100_000 * "[", "not_json", "too deeply nested"),
    "deep, and complete": (
        '{"amount": 1, "x": ' + 980 * "[" + 980 * "]" + "}",
        "not_json",
        "too deeply nested",
    ),
    "another type": ('{"amount": "1"}', "not_in_schema", "$.amount: '1' is not of type 'number'"),
    "true for a number": ('{"amount": true}', "not_in_schema", "$.amount: True is not of type"),
    "no such day": (
        '{"amount": 1, "day": "2026-02-30"}',
        "not_in_schema",
        "$.day: '2026-02-30' is not a 'date'",
    ),
    "1 for true": ('{"amount": 1, "paid": 1}', "not_in_schema", "$.paid: 1 is not of type 'bool"),
    "a key that is missing": ('{"paid": true}', "not_in_schema", "'amount' is a required prop"),
    "no object": ("[1]", "not_in_schema", "$: [1] is not of type 'object'"),
    "a wrong part of a list": (
        '{"amount": 1, "lines": [{"text": "a"}, {"count": 2}]}',
        "not_in_schema",
        "$.lines[1]: 'text' is a required property",
    ),
}


@pytest.mark.parametrize(("content", "answer"), ACCEPTED.values(), ids=ACCEPTED)
def test_an_answer_has_one_form(content, answer):
    assert TASK.read_answer(f'So {{"amount": 9}}.\n</think>{content}') == answer
    assert TASK.read_answer(content, thinks=False) == answer
    assert TASK.read_content(answer) == answer  # which is read as itself


@pytest.mark.parametrize(("content", "reason", "detail"), REFUSED.values(), ids=REFUSED)
def test_another_answer_is_refused_with_the_reason(content, reason, detail):
    with pytest.raises(NoAnswer) as error:
        TASK.read_answer(f'So {{"amount": 9}}.\n</think>{content}')
    assert error.value.reason == reason and detail in error.value.detail
    assert len(error.value.detail) < 200


def test_cents_are_multiples_of_a_cent():
    schema = {"properties": {"price": {"type": "number", "multipleOf": 0.01}}}
    task = Task("Read it.", [], "", "", schema=schema_text(schema))
    for cents in range(2000):
        assert task.read_content(f'{{"price": {cents / 100}}}')
    for price in ("0.295", "1e-3"):
        with pytest.raises(NoAnswer) as error:
            task.read_content(f'{{"price": {price}}}')
        assert "is not a multiple of 0.01" in error.value.detail
    assert task.read_content(f'{{"price": {400 * "1"}}}')


def test_a_fence_that_is_not_closed_costs_no_time():
    start = time.perf_counter()
    for content in ("```" + 5000 * " " + "x", "```json" + 5000 * "\n" + "{"):
        with pytest.raises(NoAnswer):
            TASK.read_content(content)
    assert time.perf_counter() - start < 5  # a pattern that goes back and forth takes hours


def test_the_order_is_the_one_in_which_vllm_guides():
    """A student that has learned the form can be served under the same schema."""
    from xgrammar import Grammar
    from xgrammar.testing import _is_grammar_accept_string

    grammar = Grammar.from_json_schema(BILL)
    given = '{"lines": [{"count": 3, "text": "é"}], "paid": true, "amount": 2.5, "sender": "x"}'
    kept = TASK.read_content(given)
    assert kept != given and json.loads(kept) == json.loads(given)
    assert _is_grammar_accept_string(grammar, kept)
    assert not _is_grammar_accept_string(grammar, given)


def test_keys_are_ordered_in_referenced_parts_too():
    schema = schema_text(
        {
            "$defs": {"part": {"properties": {"y": {"default": {"a": 1}}, "x": {}}}},
            "anyOf": [{"properties": {"part": {"$ref": "#/$defs/part"}}}, {"type": "null"}],
        }
    )
    value = {"part": {"x": {"b": 1, "a": 2}, "y": 1}}
    assert written(value, schema) == '{"part": {"y": 1, "x": {"a": 2, "b": 1}}}'
    assert written(None, schema) == "null"


def test_a_vote_counts_values():
    texts = ['{"amount": 1, "paid": true}', '```\n{"paid": true, "amount": 1.0}\n```']
    texts.append('{"amount": 2, "paid": true}')
    answers = [TASK.read_content(text) for text in texts]
    assert vote(answers, 3, 0.6) == ('{"amount": 1, "paid": true}', None, pytest.approx(2 / 3))


def test_fields_are_compared_as_values():
    gold = ['{"sender": "a", "amount": 1, "paid": true}', '{"amount": 2}', '{"amount": 3}']
    answers = ['{"sender": "b", "amount": 1, "paid": true}', '{"amount": 2, "paid": false}', None]
    fields = fields_of(BILL, gold)
    assert fields == ["sender", "amount", "paid", "day", "lines"]
    # a field that both lack is right, one that is invented is not
    assert right_by_field(answers, gold, fields) == {
        "sender": 1,
        "amount": 2,
        "paid": 1,
        "day": 2,
        "lines": 2,
    }
    assert right_by_field(['{"x": 1}'], ['{"x": true}'], ["x"]) == {"x": 0}
    assert fields_of("", ["a"]) is None and fields_of('{"type": "array"}', ["[1]"]) == []
    assert fields_of("{}", ['{"b": 1}', '{"c": 1, "b": 2}']) == ["b", "c"]


def test_the_gold_of_the_example_is_in_its_form():
    task = load_task(ROOT / "example-data" / "notice_facts.yaml")
    rows = read_jsonl(ROOT / "example-data" / "notice_facts_gold.jsonl")
    notices = (ROOT / "example-data" / "notices.txt").read_text(encoding="utf-8").splitlines()
    assert [row["messages"][0]["content"] for row in rows] == notices
    for row in rows:
        answer = row["messages"][1]["content"]
        assert task.read_content(answer) == answer
        assert json.loads(answer)["kind"] in ("closure", "deadline", "rule", "change")
    shown = [line for line in task.prompt.splitlines() if line.startswith("Example answer: ")]
    assert len(shown) == 2
    for line in shown:
        answer = line.removeprefix("Example answer: ")
        assert task.read_content(answer) == answer
