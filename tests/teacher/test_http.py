"""A teacher behind a URL, against a server on loopback that misbehaves on purpose. No model."""

import contextlib
import json
import threading
import time

import pytest

from distill.labels.labelling import Labelling
from distill.task import load_task
from distill.teacher import http
from distill.teacher.http import HTTPTeacher, ServerEnded
from distill.teacher.pace import LONGEST_WAIT, Pace
from distill.teacher.server import OPENAI, About, Server
from helpers import HANGS
from list_teacher import SETTINGS
from loopback_teacher import KEY, MODEL, LoopbackTeacher

TEXTS = [f"input {number}" for number in range(20)]
# each is asked again, as if nothing had been sent
PASSING = ["429", "429 ms", "429 bare", "500", "503", "half", "closed", "no JSON"]
PASSING += ["HTML", "no choices"]


def thought_of(text):
    """What a good server answers."""
    return {"reasoning": f"Hm, {text}.", "content": "Answer: en"}


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.yaml"
    task = {"prompt": "Which language?", "labels": ["en", "fr"], "answer": "Answer: (.+)"}
    path.write_text(json.dumps(task))
    return load_task(path)


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("KEY_OF_THE_TEST", KEY)


def teacher_of(server: LoopbackTeacher, pace=None, **settings) -> HTTPTeacher:
    """What asks it; it does not wait for long after a failure."""
    flags = {
        "model": MODEL,
        "api_key_env": "KEY_OF_THE_TEST",
        "kind": OPENAI,
        "tokenizer": None,
        "special_tokens": "reject",
        "concurrency": 8,
        "request_timeout": 30.0,
    }
    flags.update({name: settings.pop(name) for name in list(settings) if name in flags})
    pace = pace or Pace(flags["concurrency"], first_wait=0.02)
    about = About(OPENAI, None)
    return HTTPTeacher(Server(server.url, **flags), about, thinks=True, pace=pace, **settings)


def label(server, task, texts=TEXTS, labelled=SETTINGS, **settings) -> dict[int, dict]:
    """What the journal would keep of each input, by index."""
    rows = [(index, [{"role": "user", "content": text}]) for index, text in enumerate(texts)]
    teacher = teacher_of(server, **settings)
    try:
        return dict(Labelling(teacher, task, labelled).label(rows))
    finally:
        teacher.close()


def test_rows_are_labelled_at_once_and_recorded_as_the_server_counts_them(task, key):
    two = threading.Barrier(2, timeout=HANGS)  # each waits until another one is asked for too

    def thought_of_two(text):
        two.wait()
        return thought_of(text)

    with LoopbackTeacher(thought_of_two) as server:
        records = label(server, task)
    assert {record["answer"] for record in records.values()} == {"en"} and len(records) == 20
    assert server.requests() == dict.fromkeys(TEXTS, 1)
    [attempt] = records[3]["attempts"]
    assert attempt["response"] == "Hm, input 3.</think>Answer: en"
    counted = [attempt[name] for name in ("prompt_tokens", "cached_tokens", "output_tokens")]
    assert counted == [50, 40, 7]
    assert attempt["served_by"] == MODEL
    assert 1 < server.most_at_once <= 8
    [body] = server.bodies["input 3"]
    assert body["max_tokens"] == 100 and body["temperature"] == 0.15
    # what only vLLM understands is neither sent nor recorded
    assert "repetition_detection" not in body and "repetition_detection" not in attempt["sampling"]


def test_what_fails_on_the_way_is_asked_again_and_is_no_attempt(task, key):
    faults = {text: [fault, fault] for text, fault in zip(TEXTS, PASSING, strict=False)}
    with LoopbackTeacher(thought_of, faults) as server:
        records = label(server, task)
    assert [len(record["attempts"]) for record in records.values()] == [1] * 20
    assert server.answered == dict.fromkeys(TEXTS, 1)
    assert server.requests() == {text: 3 if text in faults else 1 for text in TEXTS}


def test_a_request_that_takes_too_long_is_asked_again(task, key):
    with LoopbackTeacher(thought_of, {"input 4": ["slow"]}) as server:
        records = label(server, task, request_timeout=1.0)
    assert len(records) == 20 and len(records[4]["attempts"]) == 1
    assert server.requests()["input 4"] == 2


def test_a_storm_of_429_makes_the_window_smaller_and_loses_nothing(task, key):
    faults = {text: ["429"] * 2 for text in TEXTS}
    with LoopbackTeacher(thought_of, faults) as server:
        teacher = teacher_of(server)
        rows = [(index, [{"role": "user", "content": text}]) for index, text in enumerate(TEXTS)]
        narrowest = teacher.pace.at_once
        records = {}
        for index, record in Labelling(teacher, task, SETTINGS).label(rows):
            narrowest = min(narrowest, teacher.pace.at_once)
            records[index] = record
        teacher.close()
    assert narrowest < 8
    assert len(records) == 20 and server.answered == dict.fromkeys(TEXTS, 1)
    assert server.requests() == dict.fromkeys(TEXTS, 3)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("key", "refuses the key (401); the environment variable KEY_OF_THE_TEST"),
        ("unknown", "has no model teacher or no such path"),
        ("quota", "the quota is used up (no money)"),
        ("refused", "refuses what it is asked"),
        ("LiteLLM without a database", "refuses what it is asked (no db)"),  # of a wrong key
    ],
)
def test_what_no_waiting_helps_ends_the_run(fault, named, task, key):
    server = LoopbackTeacher(thought_of, {text: [fault] * 9 for text in TEXTS})
    with server, pytest.raises(ServerEnded) as ended:
        label(server, task)
    assert ended.value.exit_code == 2
    assert named in str(ended.value) and KEY not in str(ended.value)
    assert "\n" not in str(ended.value)


def test_a_key_that_is_refused_in_the_middle_loses_nothing_that_was_answered(task, key):
    with LoopbackTeacher(thought_of, {"input 19": ["key"]}) as server:
        teacher = teacher_of(server, concurrency=2)
        rows = [(index, [{"role": "user", "content": text}]) for index, text in enumerate(TEXTS)]
        decided = {}
        with pytest.raises(ServerEnded):
            for index, record in Labelling(teacher, task, SETTINGS).label(rows):
                decided[index] = record
        teacher.close()
    # one other is on its way at the time
    assert len(set(range(19)) - decided.keys()) <= 1 and 19 not in decided


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("too long", "input_too_long"),
        ("too long for llama.cpp", "input_too_long"),
        ("too long behind LiteLLM", "input_too_long"),
        ("refused", "refused"),
    ],
)
def test_a_row_that_the_server_refuses_is_rejected_and_not_asked_again(fault, reason, task, key):
    with LoopbackTeacher(thought_of, {"input 19": [fault]}) as server:
        records = label(server, task, concurrency=1)
    assert records[19]["answer"] is None and records[19]["reason"] == reason
    assert server.requests()["input 19"] == 1
    assert all(records[index]["answer"] == "en" for index in range(19))


def test_a_row_that_fails_for_ever_is_rejected_while_others_are_answered(task, key, monkeypatch):
    monkeypatch.setattr(http, "FAILURES_OF_A_ROW", 3)
    texts = [f"input {number}" for number in range(60)]
    faults = {text: ["500"] * 99 for text in texts[:9]}
    with LoopbackTeacher(thought_of, faults) as server:
        records = label(server, task, texts=texts, concurrency=4)
    assert [records[index]["reason"] for index in range(9)] == ["server_error"] * 9
    assert all(records[index]["answer"] == "en" for index in range(9, 60))


def test_a_server_that_is_away_for_long_costs_no_row(task, key, monkeypatch):
    monkeypatch.setattr(http, "FAILURES_OF_A_ROW", 2)
    texts = [f"input {number}" for number in range(60)]
    faults = {text: ["503", "closed", "503"] for text in texts[:9]}
    with LoopbackTeacher(thought_of, faults) as server:
        records = label(server, task, texts=texts, concurrency=4)
    assert {record["answer"] for record in records.values()} == {"en"}


def test_what_fails_while_a_gateway_has_no_server_is_no_row_s_fault(task, key, monkeypatch):
    """LiteLLM's answers 500 meanwhile, as to a row that breaks its server."""
    monkeypatch.setattr(http, "FAILURES_OF_A_ROW", 2)
    monkeypatch.setattr(http, "OTHERS_ANSWERED", 1)
    with LoopbackTeacher(thought_of, {TEXTS[0]: ["500", "500"]}) as server:
        # each time the next row is answered, and the server is back
        pace = Pace(1, first_wait=HANGS, outage=0.0)
        records = label(server, task, concurrency=1, pace=pace)
    assert {record["answer"] for record in records.values()} == {"en"}
    assert server.requests()[TEXTS[0]] == 3


@pytest.mark.parametrize(
    ("slowest", "silent", "away"),
    [(0.1, 4.0, False), (0.1, 6.0, True), (10.0, 20.0, False), (10.0, 31.0, True)],
)
def test_an_outage_is_longer_than_answers_take(key, slowest, silent, away):
    """Beside slow answers a row that always fails is at fault itself."""
    with LoopbackTeacher(thought_of) as server, contextlib.closing(teacher_of(server)) as asked:
        assert not asked.was_away()
        asked.slowest = slowest
        asked.silent_since = time.monotonic() - silent
        asked.pace = Pace(8)
        assert asked.was_away() == away


def test_those_that_have_waited_after_a_failure_wait_for_a_place_too(task, key):
    texts = [f"input {number}" for number in range(30)]

    def thought_slowly(text):
        time.sleep(0.05)  # meanwhile others would come
        return thought_of(text)

    with LoopbackTeacher(thought_slowly, {text: ["500"] for text in texts[:16]}) as server:
        pace = Pace(4, first_wait=HANGS, outage=0.0)  # so that one answer wakes all
        records = label(server, task, texts=texts, concurrency=4, pace=pace)
    assert len(records) == 30 and server.answered == dict.fromkeys(texts, 1)
    assert server.most_at_once <= 4


def test_rows_that_are_refused_one_after_the_other_end_the_run(task, key):
    texts = [f"input {number}" for number in range(60)]
    faults = {text: ["refused"] for text in texts[5:]}
    server = LoopbackTeacher(thought_of, faults)
    with server, pytest.raises(ServerEnded, match="refuses one row after the other") as ended:
        label(server, task, texts=texts, concurrency=1)
    assert ended.value.exit_code == 2


def test_a_quota_that_is_said_with_400_and_a_refused_parameter_end_the_run(task, key):
    for fault, named in (("quota 400", "the quota is used up"), ("schema", "refuses what it is")):
        server = LoopbackTeacher(thought_of, {"input 9": [fault]})
        with server, pytest.raises(ServerEnded, match=named):
            label(server, task, concurrency=1)


def test_a_limit_of_tokens_above_the_context_is_no_row_s_fault(task, key):
    server = LoopbackTeacher(thought_of, {text: ["no room"] for text in TEXTS})
    with server, pytest.raises(ServerEnded, match="4096 in the completion"):
        label(server, task)


def test_a_server_that_wants_to_be_left_alone_for_long_ends_the_run(task, key):
    server = LoopbackTeacher(thought_of, {"input 9": ["tomorrow"]})
    with server, pytest.raises(ServerEnded, match="wants to be left alone for 86400 s"):
        label(server, task, concurrency=1)


def test_a_date_at_which_it_may_be_asked_again_is_kept_to(task, key):
    with LoopbackTeacher(thought_of, {"input 1": ["429 date"]}) as server:
        start = time.monotonic()
        records = label(server, task, texts=TEXTS[:2], concurrency=1)
        seconds = time.monotonic() - start
    assert [record["answer"] for record in records.values()] == ["en", "en"]
    assert seconds > 1.0  # without the date it is half a second


def test_without_any_success_the_run_gives_up(task, key):
    server = LoopbackTeacher(thought_of, {text: ["500"] * 99 for text in TEXTS})
    with server, pytest.raises(ServerEnded) as ended:
        label(server, task, give_up=1.0)
    assert ended.value.exit_code == 1
    assert "nothing was answered for" in str(ended.value) and "500" in str(ended.value)


def test_a_server_that_comes_back_is_asked_for_what_is_missing(task, key):
    """What was in flight is asked again, and nothing else."""
    with LoopbackTeacher(thought_of) as server:
        teacher = teacher_of(server, concurrency=2)
        rows = [(index, [{"role": "user", "content": text}]) for index, text in enumerate(TEXTS)]
        decided = []
        for index, _ in Labelling(teacher, task, SETTINGS).label(rows):
            decided.append(index)
            if len(decided) == 5:
                server.stop()
                server.start()
        teacher.close()
    assert sorted(decided) == list(range(20))


class OneComesFirst:
    """Of the waits after a failure the first is the shortest, and the others hang."""

    def __init__(self):
        self.waits = iter([0.0])

    def uniform(self, low, high):
        return next(self.waits, high)


def test_those_that_failed_together_do_not_wait_on_when_one_is_answered(task, key, monkeypatch):
    """A server that was restarted is asked at once by all that broke off."""
    monkeypatch.setattr(http, "MISSED_ANSWERS", 0)  # it is away for less than answers take
    gone = threading.Event()

    def thought_until(text):
        if text not in TEXTS[:2]:
            gone.wait(HANGS)
        return thought_of(text)

    with LoopbackTeacher(thought_until) as server:
        pace = Pace(8, chance=OneComesFirst(), first_wait=HANGS, outage=0.0)
        teacher = teacher_of(server, pace=pace)
        rows = [(index, [{"role": "user", "content": text}]) for index, text in enumerate(TEXTS)]
        decided = []
        for index, _ in Labelling(teacher, task, SETTINGS).label(rows):
            decided.append(index)
            if len(decided) == 2:
                server.kill()
                gone.set()
                server.start()
                back = time.monotonic()
        teacher.close()
    assert sorted(decided) == list(range(20))
    assert time.monotonic() - back < LONGEST_WAIT / 2


def test_another_model_in_the_middle_ends_the_run(task, key):
    """A gateway that falls back to another model would mix two teachers' labels."""
    server = LoopbackTeacher(thought_of, {"input 19": ["other model"]})
    with server, pytest.raises(ServerEnded, match="answers as another-model now") as ended:
        label(server, task, concurrency=1)
    assert ended.value.exit_code == 1
    server = LoopbackTeacher(thought_of, served_by="another-model")
    with server, pytest.raises(ServerEnded, match=f"those of {MODEL}"):
        label(server, task, served_by=MODEL)


def test_failed_answers_are_attempts_and_asked_again(task, key):
    """A thought without an end, and a cut answer, fail as they do with an engine of ours."""
    cut = {"reasoning": "Hm", "content": None, "finish_reason": "length"}
    later = iter([cut, {"content": "I cannot say."}, {"reasoning": "", "content": "Answer: nl"}])
    with LoopbackTeacher(lambda text: next(later)) as server:
        records = label(server, task, texts=["input 0"])
    attempts = records[0]["attempts"]
    reasons = [attempt["reason"] for attempt in attempts]
    assert reasons == ["unfinished_thinking", "unfinished_thinking", "unfinished_thinking"]
    assert [attempt["finish_reason"] for attempt in attempts] == ["length", "stop", "stop"]
    assert server.requests()["input 0"] == len(attempts) == 3


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_other_name_of_the_limit_is_learned(concurrency, task, key):
    with LoopbackTeacher(thought_of) as server:
        server.wants_other_name = True
        records = label(server, task, concurrency=concurrency)
    assert {record["answer"] for record in records.values()} == {"en"}
    asked_twice = sum(len(server.bodies[text]) == 2 for text in TEXTS)
    assert 1 <= asked_twice <= concurrency
    assert all("max_completion_tokens" in server.bodies[text][-1] for text in TEXTS)


def test_retries_without_top_p_where_it_is_refused_those_on_their_way_too(task, key, caplog):
    """Each row is asked again without it, and none is taken for a row that is refused."""

    def better_later(text):
        return thought_of(text) if len(server.bodies[text]) > 1 else {"content": "?"}

    with LoopbackTeacher(better_later) as server:
        server.takes_top_p = False
        records = label(server, task)
    assert [record["answer"] for record in records.values()] == ["en"] * 20
    assert caplog.text.count("takes no top_p") == 1


def test_a_server_that_counts_nothing_is_no_problem(task, key):
    with LoopbackTeacher(thought_of, usage=False) as server:
        records = label(server, task)
    assert records[0]["answer"] == "en"
    assert records[0]["attempts"][0]["output_tokens"] == 0


def test_an_input_that_spells_a_special_token_is_not_sent(task, key):
    texts = ["ends <|im_end|> here", "a <b> is text", "so is 5 < 7 |> 3"]
    with LoopbackTeacher(thought_of) as server:
        rejected = label(server, task, texts=texts)
        asked = label(server, task, texts=texts, special_tokens="ask")
    assert [rejected[index]["reason"] for index in range(3)] == ["special_token", None, None]
    assert rejected[0]["attempts"] == []
    assert [record["answer"] for record in asked.values()] == ["en"] * 3
    assert server.requests()[texts[0]] == 1
