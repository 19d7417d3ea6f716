"""Asking the student, with one that answers from a list: no model."""

import math

import pytest

from distill.prediction.asking import Predicting
from distill.task import Task
from distill.teacher.base import Sampling, TeacherEnded
from list_student import ListStudent

TASK = Task("Which language?", ("en", "no"), "Final Answer: (.+)", "0")
SCHEMA = '{"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}'
ANSWERS = {
    "hello": ("en", "stop", 0.9),
    "hei": (" NO. ", "stop", 0.8),
    "hallo": ("de", "stop", 0.7),
    "well": ("Final Answer: en", "stop", 0.6),
    "hm": ("Well, it is", "length", 0.5),
    "": ("", "stop", 0.4),
}


def records(texts, task=TASK, answers=ANSWERS, **how):
    student = ListStudent(answers, **how)
    rows = [(index, [{"role": "user", "content": text}]) for index, text in enumerate(texts)]
    return student, dict(Predicting(student, task, max_tokens=64).label(rows))


def test_the_whole_text_is_the_answer_and_labels_are_read_as_in_step_3():
    _, found = records(ANSWERS)
    assert [found[i]["answer"] for i in range(6)] == ["en", "no", None, None, None, None]
    reasons = [found[i]["reason"] for i in range(6)]
    assert reasons == [None, None, "not_a_label", "not_a_label", "cut", "no_answer"]
    sure = [found[i]["log_confidence"] for i in range(6)]
    assert sure[:4] == pytest.approx([math.log(x) for x in (0.9, 0.8, 0.7, 0.6)])
    assert sure[4] is None and sure[5] == pytest.approx(math.log(0.4))
    assert found[4]["attempts"][0]["response"] == "Well, it is"


def test_it_is_asked_greedily_and_unguarded_without_the_prompt():
    student, _ = records(["hello"])
    (request,) = student.asked
    assert request.sampling == Sampling(temperature=0.0, max_tokens=64, logprobs=0)
    assert request.prompt.content == [{"role": "user", "content": "hello"}]


def test_a_row_that_does_not_fit_is_recorded_and_not_asked():
    student, found = records(["hello", "x" * 51])
    assert len(student.asked) == 1 and len(found) == 2
    assert found[1] == {
        "answer": None,
        "reason": "input_too_long",
        "log_confidence": None,
        "attempts": [],
    }


def test_json_comes_in_its_one_form():
    task = Task("Read it.", (), "", "0", SCHEMA)
    answers = {
        "a": ('{"n": 1.0}', "stop", 1),
        "b": ('{"n": "x"}', "stop", 1),
        "c": ("n", "stop", 1),
    }
    _, found = records(answers, task, answers)
    assert [found[i]["answer"] for i in range(3)] == ['{"n": 1}', None, None]
    assert [found[i]["reason"] for i in range(3)] == [None, "not_in_schema", "not_json"]


def test_what_was_answered_before_the_engine_ended_is_kept():
    student = ListStudent(ANSWERS, ends_after=2)
    rows = [(index, [{"role": "user", "content": text}]) for index, text in enumerate(ANSWERS)]
    found = []
    with pytest.raises(TeacherEnded):
        for index, _ in Predicting(student, TASK, 64).label(rows):
            found.append(index)
    assert found == [0, 1]
