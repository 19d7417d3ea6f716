"""Rows as --show prints them, from lines of a journal that are made up."""

import pytest

from distill.labels.shown_rows import outcome, parts_of, row_text, why
from distill.task import load_task
from helpers import ROOT, write_task

TASK = load_task(ROOT / "example-data" / "language_classification.yaml")
INPUT = [{"role": "user", "content": "hola"}]


def attempt(response, answer, reason=None, finish_reason="stop", **further):
    return {
        "response": response,
        "finish_reason": finish_reason,
        "answer": answer,
        "reason": reason,
        "sampling": {"temperature": 0.15, "max_tokens": 64},
        "prompt_tokens": 2300,
        "output_tokens": 9,
        **further,
    }


def test_a_row_that_was_asked_twice():
    first = attempt("Spanish.</think>\n\nFinal Answer: xx", None, "not_a_label")
    guarded = {"temperature": 0.6, "structured_outputs": "..."}
    second = attempt(
        "It is Spanish.\n\nSure.</think>Final Answer: es",
        "es",
        sampling=guarded,
        thinking_cut=True,
    )
    record = {"answer": "es", "reason": None, "agreement": 1.0, "attempts": [first, second]}
    assert row_text("Row 1 of 1: accepted", INPUT, record, TASK, thinks=True).splitlines() == [
        "Row 1 of 1: accepted",
        "  user          hola",
        "  attempt 1     temperature 0.15; 2,300 + 9 tokens; ended by stop",
        "    thought     Spanish.",
        "    answer      Final Answer: xx",
        "    why         rejected, not_a_label: what was found is none of the labels (xx)",
        "  attempt 2     temperature 0.6, guarded; 2,300 + 9 tokens; ended by stop, cut thought",
        "    thought     It is Spanish.",
        "",
        "                Sure.",
        "    answer      Final Answer: es",
        "    why         accepted: read as 'es'",
        "  accepted      es",
    ]


def test_what_became_of_a_row():
    rejected = {"answer": None, "reason": "low_agreement", "agreement": 0.5}
    said = "rejected, low_agreement (agreement of 4 samples: 50%)"
    assert outcome(rejected, num_samples=4) == said
    shown = row_text("title", INPUT, {**rejected, "attempts": []}, TASK, thinks=True)
    assert shown.endswith("  rejected      low_agreement: the samples do not agree")
    assert outcome({"answer": "es", "reason": None, "agreement": 1.0}, num_samples=1) == "accepted"


@pytest.mark.parametrize(
    ("response", "thinks", "parts"),
    [
        ("a</think>\n\nb", True, ("a", "b")),
        ("a thought without an end", True, ("a thought without an end", "")),
        (" es ", False, ("", "es")),
        ("a</think>b", False, ("a", "b")),  # it does think
    ],
)
def test_thought_and_answer(response, thinks, parts):
    assert parts_of(response, thinks) == parts


def test_an_attempt_that_was_cut(tmp_path):
    task = load_task(write_task(tmp_path / "task.yaml", ["es"]))
    cut = attempt("and so on and", None, "unfinished_thinking", "repetition")
    said = "rejected, unfinished_thinking: the thought has no end (cut for repetition)"
    assert why(cut, task, thinks=True) == said
