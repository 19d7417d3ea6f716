"""Attempts, retries, guards, votes and the journal, with a teacher that answers from a list:
milliseconds, no model.
"""

import json
from collections import defaultdict
from dataclasses import replace

import pytest

from distill.labels.inputs import scan_inputs
from distill.labels.journal import Journal
from distill.labels.labelling import (
    TOGETHER,
    Labelling,
    Settings,
    batches,
    record_rows,
    vote,
)
from distill.outputs import read_finished
from distill.task import load_task
from distill.teacher.attempts import (
    LOOP_FROM,
    LOOP_TO,
    RETRY_TEMPERATURE,
    RETRY_TOP_K,
    RETRY_TOP_P,
)
from distill.teacher.base import Loop, TeacherEnded
from list_teacher import NOTHING, SETTINGS, UNKNOWN, ListTeacher, says


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(
        '{"prompt": "Which language?", "labels": ["en", "fr", "de"], "answer": "Answer: (.+)"}'
    )
    return load_task(path)


def label(teacher: ListTeacher, task, settings: Settings = SETTINGS) -> dict[int, dict]:
    """The records of all inputs that the teacher has responses for, by index."""
    texts = list(teacher.responses)
    rows = [(index, [{"role": "user", "content": text}]) for index, text in enumerate(texts)]
    return dict(Labelling(teacher, task, settings).label(rows))


def test_an_answer_at_the_first_attempt_is_asked_for_once(task):
    teacher = ListTeacher({"hello": [says("en")], "bonjour": [says("FR")]})
    records = label(teacher, task)
    assert [records[index]["answer"] for index in (0, 1)] == ["en", "fr"]
    assert records[0]["agreement"] == 1.0
    assert records[0]["reason"] is None
    assert len(teacher.asked) == 2


def test_the_record_is_what_the_journal_has_always_held(task):
    """Its keys and their order are read by others; a promise that may grow."""
    [record] = label(ListTeacher({"hello": [NOTHING, says("en")]}), task).values()
    first, second = record.pop("attempts")
    assert record == {"answer": "en", "reason": None, "agreement": 1.0}
    assert json.dumps(first) == json.dumps(
        {
            "response": NOTHING,
            "finish_reason": "stop",
            "answer": None,
            "reason": "no_answer",
            "sampling": {
                "temperature": 0.15,
                "max_tokens": 100,
                "repetition_detection": {
                    "min_pattern_size": LOOP_FROM,
                    "max_pattern_size": LOOP_TO,
                    "min_count": 4,
                },
            },
            "prompt_tokens": 5,
            "cached_tokens": 5,
            "output_tokens": len(NOTHING),
            "thinking_tokens": 3,
            "thinking_cut": False,
        }
    )
    assert json.dumps(second["sampling"]) == json.dumps(
        {
            "temperature": RETRY_TEMPERATURE,
            "max_tokens": 100,
            "top_p": RETRY_TOP_P,
            "top_k": RETRY_TOP_K,
            "thinking_token_budget": 80,
            "structured_outputs": task.constraint(),
        }
    )


def test_a_failure_is_asked_again_as_often_as_allowed(task):
    teacher = ListTeacher(
        {"hello": [NOTHING, UNKNOWN, says("en")], "hallo": [NOTHING, NOTHING, UNKNOWN]}
    )
    records = label(teacher, task)
    assert records[0]["answer"] == "en"
    assert [attempt["reason"] for attempt in records[0]["attempts"]] == [
        "no_answer",
        "not_a_label",
        None,
    ]
    assert records[1]["answer"] is None
    assert records[1]["reason"] == "not_a_label"  # why the last attempt failed
    assert len(records[1]["attempts"]) == 3


@pytest.mark.parametrize(
    ("mode", "guarded"),
    [("retry", [False, True]), ("always", [True, True]), ("never", [False, False])],
)
def test_which_attempts_are_guarded(mode, guarded, task):
    teacher = ListTeacher({"hello": [NOTHING, says("en")]})
    label(teacher, task, replace(SETTINGS, structured_outputs=mode))
    samplings = teacher.samplings("hello")
    assert [sampling.guard == task.constraint() for sampling in samplings] == guarded
    assert [sampling.thinking_budget == 80 for sampling in samplings] == guarded


def test_a_guard_by_schema_is_asked_for_and_recorded(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("prompt: p\nschema: {properties: {b: {type: integer}, a: {}}, required: [b]}")
    task = load_task(path)
    teacher = ListTeacher({"hello": ["Hm.</think>b is 1", 'Hm.</think>{"a":"x","b":1.0}']})
    [record] = label(teacher, task).values()
    assert record["answer"] == '{"b": 1, "a": "x"}'
    first, second = record["attempts"]
    assert (first["reason"], second["reason"]) == ("not_json", None)
    samplings = teacher.samplings("hello")
    assert [sampling.json_schema for sampling in samplings] == [None, task.schema]
    assert [sampling.guard for sampling in samplings] == [None, None]
    assert "structured_outputs" not in first["sampling"]
    assert json.loads(second["sampling"]["structured_outputs"])["required"] == ["b"]


def test_votes_for_json_are_votes_for_values(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("prompt: p\nschema: {type: object}")
    says_json = ['</think>{"a":1,"b":2}', '</think>{"b": 2.0, "a": 1}', '</think>{"a": true}']
    teacher = ListTeacher({"hello": says_json})
    settings = replace(SETTINGS, num_samples=3, min_agreement=0.6)
    [record] = label(teacher, load_task(path), settings).values()
    assert (record["answer"], record["agreement"]) == ('{"a": 1, "b": 2}', 0.6667)


def test_a_retry_is_warmer_and_may_quote_what_loops(task):
    teacher = ListTeacher({"hello": [("la la la", "repetition"), says("en")]})
    [record] = label(teacher, task).values()
    first, second = teacher.samplings("hello")
    assert (first.temperature, first.loop) == (0.15, Loop(LOOP_FROM, LOOP_TO, 4))
    assert (second.temperature, second.top_p, second.top_k) == (
        RETRY_TEMPERATURE,
        RETRY_TOP_P,
        RETRY_TOP_K,
    )
    assert second.loop is None
    assert record["attempts"][0]["reason"] == "unfinished_thinking"


def test_a_retry_is_never_colder_than_the_first_attempt(task):
    teacher = ListTeacher({"hello": [NOTHING, says("en")]})
    label(teacher, task, replace(SETTINGS, temperature=1.2, max_repeats=0))
    assert [sampling.temperature for sampling in teacher.samplings("hello")] == [1.2, 1.2]
    assert teacher.samplings("hello")[0].loop is None


def test_a_completion_gets_the_room_that_the_context_leaves(task):
    teacher = ListTeacher({"hello": [says("en")]}, room=30)
    label(teacher, task)
    assert teacher.samplings("hello")[0].max_tokens == 30


def test_a_teacher_that_does_not_think_has_no_budget_and_no_thought(task):
    teacher = ListTeacher({"hello": ["I cannot say.", "Answer: en"]})
    [record] = label(teacher, task, replace(SETTINGS, reasoning_parser="none")).values()
    assert record["answer"] == "en"
    assert teacher.samplings("hello")[1].thinking_budget is None
    assert teacher.samplings("hello")[1].guard == task.constraint()


def test_a_thought_that_fills_its_budget_was_cut(task):
    short = "x" * 79 + "</think>Answer: en"
    teacher = ListTeacher({"hello": [NOTHING, short], "hallo": ["x" * 99 + "</think>Answer: de"]})
    records = label(teacher, task)
    assert [attempt["thinking_cut"] for attempt in records[0]["attempts"]] == [False, True]
    assert records[1]["attempts"][0]["thinking_cut"]  # without a budget, all the tokens there are


def test_a_row_that_cannot_be_asked_is_rejected_without_a_request(task):
    teacher = ListTeacher({"x" * 51: [], "hello": [says("en")]})
    records = label(teacher, task)
    assert records[0] == {
        "answer": None,
        "reason": "input_too_long",
        "agreement": 0.0,
        "attempts": [],
    }
    assert records[1]["answer"] == "en"


def test_samples_vote_and_each_is_asked_again_by_itself(task):
    settings = replace(SETTINGS, num_samples=3)
    responses = [says("en"), NOTHING, says("fr"), says("en")]
    [record] = label(ListTeacher({"hello": responses}), task, settings).values()
    assert (record["answer"], record["agreement"]) == ("en", 0.6667)
    assert len(record["attempts"]) == 4


def test_a_majority_that_is_too_small_is_no_label(task):
    settings = replace(SETTINGS, num_samples=3, min_agreement=0.7)
    [record] = label(
        ListTeacher({"hello": [says("en"), says("fr"), says("en")]}), task, settings
    ).values()
    assert (record["answer"], record["reason"], record["agreement"]) == (
        None,
        "low_agreement",
        0.6667,
    )


def test_votes():
    assert vote(["en"], 1, 0.0) == ("en", None, 1.0)
    assert vote([], 3, 0.0) == (None, None, 0.0)
    assert vote(["en", "fr"], 2, 0.0) == (None, "low_agreement", 0.5)  # a tie
    assert vote(["en", "fr", "en"], 3, 0.7) == (None, "low_agreement", 2 / 3)
    # a sample without an answer counts against it
    assert vote(["en", "en"], 4, 0.5) == ("en", None, 0.5)
    # one text in two forms of Unicode
    assert vote(["Größe", "Gro\u0308ße", "x"], 3, 0.5)[0] == "Größe"


def test_batches_end_where_nothing_is_there_at_the_moment():
    assert list(batches([1, 2, None, 3])) == [[1, 2], [3]]
    assert list(batches([None, None])) == [[], [], []]
    assert [len(batch) for batch in batches(range(2 * TOGETHER + 1))] == [TOGETHER, TOGETHER, 1]


def test_rows_are_prepared_side_by_side(task):
    teacher = ListTeacher({f"hello {index}": [says("en")] for index in range(TOGETHER + 3)})
    assert len(label(teacher, task)) == TOGETHER + 3
    assert teacher.prepared == [TOGETHER, 3]


def test_what_is_decided_comes_out_while_others_are_still_to_come(task):
    """A replica's rows arrive one by one, with a None where none is there at the moment."""
    arrived = []

    def rows():
        for index, text in enumerate(["hello", "hallo"]):
            arrived.append(text)
            yield index, [{"role": "user", "content": text}]
            yield None

    teacher = ListTeacher({"hello": [says("en")], "hallo": [says("de")]})
    decided = Labelling(teacher, task, SETTINGS).label(rows())
    assert next(decided)[0] == 0
    assert arrived == ["hello"]
    assert next(decided)[0] == 1


def journal_of(path, output) -> Journal:
    journal = Journal(output, {"structured_outputs": "retry"}, scan_inputs(str(path)))
    journal.open()
    return journal


def test_a_teacher_that_ends_loses_nothing_and_is_asked_nothing_twice(task, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("".join(f"text {index}\n" for index in range(10)))
    output = tmp_path / "out.jsonl"
    asked = defaultdict(int)
    for ends_after in (4, 3, None):
        teacher = ListTeacher(
            {f"text {index}": [says("en")] for index in range(10)}, ends_after=ends_after
        )
        journal = journal_of(path, output)
        missing = journal.missing()
        journal.start()
        decided = Labelling(teacher, task, SETTINGS).label(journal.inputs.read(missing))
        if ends_after is None:
            record_rows(decided, journal, int(missing.sum()), 0)
        else:
            with pytest.raises(TeacherEnded):
                record_rows(decided, journal, int(missing.sum()), 0)
        for request in teacher.asked:
            asked[request.prompt.content] += 1
    assert dict(asked) == {f"text {index}": 1 for index in range(10)}
    journal.replay()
    manifest = journal.write_outputs(count_labels=True)
    assert manifest["label_counts"] == {"en": 10}
    finished = read_finished(output)
    assert len(finished.answers) == len(finished.attempts) == 10
