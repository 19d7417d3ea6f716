"""Stored responses read again: which attempts count, and which rows must be asked."""

from dataclasses import replace

import pytest

from distill.json_schema import schema_text
from distill.labels.labelling import Labelling
from distill.labels.reread import read_again
from distill.task import Task
from list_teacher import NOTHING, SETTINGS, UNKNOWN, ListTeacher, says

TASK = Task("Which language?", ("en", "fr", "de"), "Answer: (.+)", hash="1")
WITH_NL = replace(TASK, labels=("en", "fr", "de", "nl"))
WITHOUT_DE = replace(TASK, labels=("en", "fr"))
LONG_INPUT = "a text of more than fifty characters, which is too long"


def record_of(*responses, task=TASK, settings=SETTINGS, text="hallo"):
    """What the journal keeps of a row that was answered so."""
    row = (0, [{"role": "user", "content": text}])
    teacher = ListTeacher({text: list(responses)})
    [(_, record)] = Labelling(teacher, task, settings).label([row])
    assert not teacher.responses[text], "not asked for all of them"
    return {"index": 0, "hash": "0", "seconds": 1.0, **record}


def test_an_answer_that_is_read_as_before_stays_as_it_is():
    for responses in ([says("en")], [NOTHING, says("de")], [NOTHING, NOTHING, NOTHING]):
        record = record_of(*responses)
        assert read_again(record, TASK, SETTINGS) == record


def test_a_new_label_is_found_in_the_first_attempt():
    """What came after it would not have been asked for."""
    record = record_of(UNKNOWN, says("de"))
    assert record["answer"] == "de"
    found = read_again(record, WITH_NL, SETTINGS)
    assert (found["answer"], found["reason"], found["agreement"]) == ("nl", None, 1.0)
    [attempt] = found["attempts"]
    assert (attempt["answer"], attempt["reason"], attempt["response"]) == ("nl", None, UNKNOWN)
    assert (found["index"], found["seconds"]) == (0, 1.0)


def test_a_guarded_attempt_says_nothing_of_other_labels():
    """With nl to choose from the teacher may have said nl, and without de it may say anything."""
    guarded = record_of(NOTHING, says("de"))
    assert read_again(guarded, WITH_NL, SETTINGS) is None
    assert read_again(record_of(NOTHING, says("en")), WITHOUT_DE, SETTINGS) is None
    always = replace(SETTINGS, structured_outputs="always")
    assert read_again(record_of(says("en"), settings=always), WITH_NL, always) is None
    never = replace(SETTINGS, structured_outputs="never")
    free = record_of(NOTHING, says("de"), settings=never)
    assert read_again(free, WITH_NL, never) == free


def test_what_a_server_refused_is_not_read():
    record = record_of(NOTHING, NOTHING, NOTHING)
    refused = {**record["attempts"][0], "response": "Answer: en", "reason": "refused"}
    record = {**record, "reason": "refused", "attempts": [refused]}
    for task in (TASK, WITH_NL):
        found = read_again(record, task, SETTINGS)
        assert (found["answer"], found["reason"]) == (None, "refused")


def test_where_only_the_vote_changes_every_attempt_counts():
    """Its guard may spell the same labels in another order."""
    always = replace(SETTINGS, structured_outputs="always")
    record = record_of(says("en"), settings=always)
    reordered = replace(TASK, labels=tuple(reversed(TASK.labels)))
    assert read_again(record, reordered, always, same_guard=True) == record


def test_a_label_that_is_no_longer_allowed_is_asked_for_again():
    assert read_again(record_of(says("de")), WITHOUT_DE, SETTINGS) is None
    assert read_again(record_of(says("en")), WITHOUT_DE, SETTINGS)["answer"] == "en"


def test_a_label_that_is_written_otherwise():
    upper = replace(TASK, labels=("EN", "fr", "de"))
    assert read_again(record_of(says("en")), upper, SETTINGS)["answer"] == "EN"


def test_another_expression():
    record = record_of("Hm.</think>Answer: en\nSo it is: fr")
    assert record["answer"] == "en"
    other = replace(TASK, answer="So it is: (.+)")
    assert read_again(record, other, SETTINGS)["answer"] == "fr"
    assert read_again(record_of(says("en")), other, SETTINGS) is None


def test_without_a_retry_left_a_row_is_rejected():
    """A fresh run would not ask it either."""
    once = replace(SETTINGS, max_retries=0)
    found = read_again(record_of(says("de"), settings=once), WITHOUT_DE, once)
    assert (found["answer"], found["reason"], len(found["attempts"])) == (None, "not_a_label", 1)


def test_a_row_that_could_not_be_asked_stays_rejected():
    record = record_of(text=LONG_INPUT)
    assert (record["reason"], record["attempts"]) == ("input_too_long", [])
    assert read_again(record, WITH_NL, SETTINGS) == record


def test_a_row_whose_thought_was_cut_is_not_read():
    never = replace(SETTINGS, structured_outputs="never", max_retries=1)
    record = record_of(("Answer: nl", "length"), UNKNOWN, settings=never)
    found = read_again(record, WITH_NL, never)
    assert [a["reason"] for a in found["attempts"]] == ["unfinished_thinking", None]


VOTE = replace(SETTINGS, num_samples=3, temperature=0.6)


def test_the_vote_is_taken_anew():
    record = record_of(says("en"), says("fr"), says("en"), settings=VOTE)
    assert (record["answer"], record["agreement"]) == ("en", 0.6667)
    strict = replace(VOTE, min_agreement=0.9)
    found = read_again(record, TASK, strict)
    assert (found["answer"], found["reason"], found["agreement"]) == (None, "low_agreement", 0.6667)
    assert read_again(found, TASK, VOTE) == record


def test_samples_take_the_retries_that_there_are():
    never = replace(VOTE, structured_outputs="never")
    record = record_of(UNKNOWN, says("en"), says("en"), says("en"), settings=never)
    assert (record["answer"], len(record["attempts"])) == ("en", 4)
    found = read_again(record, WITH_NL, never)
    assert (found["answer"], found["agreement"], len(found["attempts"])) == ("en", 0.6667, 3)
    other = record_of(says("de"), NOTHING, says("de"), says("en"), settings=never)
    assert other["answer"] == "de"
    assert read_again(other, WITHOUT_DE, never) is None  # two samples need retries, one is there


def test_retries_that_would_be_guarded_now_count_if_they_have_an_answer():
    """Of a task that had neither labels nor schema: they were free, and did not use it."""
    free = replace(TASK, labels=())
    record = record_of(NOTHING, says("en"), task=free)
    assert read_again(record, TASK, SETTINGS)["answer"] == "en"
    failed = record_of(NOTHING, NOTHING, says("nl"), task=free)
    assert failed["answer"] == "nl"
    assert read_again(failed, TASK, SETTINGS) is None


SCHEMA = {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]}
WIDER = {**SCHEMA, "properties": {"kind": {"type": "string"}, "fee": {"type": "number"}}}


@pytest.mark.parametrize(
    ("responses", "answer"),
    [
        (['Hm.</think>{"fee": 2.0, "kind": "gas"}'], '{"kind": "gas", "fee": 2}'),
        (["Hm.</think>gas", 'Hm.</think>{"kind": "gas"}'], None),
    ],
    ids=["free", "guarded"],
)
def test_json_under_another_schema(responses, answer):
    """It is reading and guard in one: what was free is read again, and has the new form."""
    before = Task("What kind?", (), "", "1", schema_text(SCHEMA))
    now = replace(before, schema=schema_text(WIDER))
    found = read_again(record_of(*responses, task=before), now, SETTINGS)
    assert (found and found["answer"]) == answer
