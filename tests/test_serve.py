"""serve.py as a user runs it, in front of two stand-ins that die when the test wants it."""

import http.client
import json
import math
import os
import signal
import socket
import stat
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import openai
import pytest

from cascade_server import cascade
from distill.cascade.cascade import GIVE_STUDENTS, REFUSE
from distill.cascade.metrics import Metrics
from distill.cascade.start import check_choices, run_to_the_end, serve
from distill.outputs import read_finished
from helpers import ENDS, HANGS, fails, read_jsonl, write_task
from loopback_teacher import KEY, LoopbackTeacher
from serve import parse_args

SURE = [math.log(0.99), 0.0]
DOUBTFUL = [math.log(0.4), 0.0]
CLIENTS_KEY = "sk-of-the-clients-0123456789"


def student_says(text):
    """`en`, of which it is sure unless the input is hard."""
    return {"content": "en", "logprobs": DOUBTFUL if "hard" in text else SURE}


def teacher_says(text):
    return {"reasoning": f"Hm, {text}.", "content": "Answer: fr"}


@pytest.fixture
def student():
    with LoopbackTeacher(student_says, models=("student",), served_by="student") as server:
        yield server


@pytest.fixture
def teacher():
    with LoopbackTeacher(teacher_says) as server:
        yield server


@pytest.fixture
def flags(tmp_path, student, teacher):
    task = write_task(tmp_path / "task.yaml", ["en", "fr"], "Answer: (.+)")
    found = ["--student_url", student.url, "--student_name", "student", "--task", task]
    found += ["--teacher_url", teacher.url, "--teacher_name", "teacher"]
    return [*found, "--temperature", 1, "--threshold", 0.9]


def refused(*flags):
    """What serve.py says, which needs none of the libraries that forks of the tests have."""
    return fails("serve.py", *flags, env=os.environ)


def refused_here(*flags):
    """The same in this process, which spares a start."""
    choices = parse_args([str(flag) for flag in flags])
    with pytest.raises(ValueError) as error:
        run_to_the_end(serve(choices, *check_choices(choices), Metrics()))
    return str(error.value)


def answer_of(reply):
    return reply.parse().choices[0].message.content


def request(url, method="POST", path="/v1/chat/completions", body=None, **headers):
    """One request without a client's help: (status, body, headers)."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=HANGS)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json"}
    given.update({name.replace("_", "-"): value for name, value in headers.items()})
    connection.request(method, path, content, given)
    reply = connection.getresponse()
    raw = reply.read()
    connection.close()
    return reply.status, raw, reply.headers


def connection_to(url):
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=HANGS)


def raw_request(body, *headers):
    """A request's bytes, with further lines in its head."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def wait_until(holds):
    end = time.monotonic() + HANGS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def chat(text="easy", **further):
    return {"model": "cascade", "messages": [{"role": "user", "content": text}], **further}


def test_the_teacher_answers_what_the_student_is_not_sure_of(flags, tmp_path, student, teacher):
    with cascade(tmp_path, *flags) as served:
        easy = served.ask("easy", max_tokens=8, user="somebody")
        assert answer_of(easy) == "en"
        assert easy.headers["x-answered-by"] == "student"
        assert float(easy.headers["x-confidence"]) == pytest.approx(0.99)
        assert (easy.headers["x-handed-over"], easy.headers["x-unsure"]) == ("false", "false")
        found = easy.parse()
        assert found.model == "student" and found.usage.total_tokens == 52
        assert found.cascade["why"] is None
        hard = served.ask("hard")
        assert answer_of(hard) == "fr"
        assert hard.headers["x-answered-by"] == "teacher"
        assert float(hard.headers["x-confidence"]) == pytest.approx(0.4)
        assert (hard.headers["x-handed-over"], hard.headers["x-unsure"]) == ("true", "false")
        found = hard.parse()
        assert found.model == "teacher" and found.cascade["why"] == "unsure"
        assert found.usage.total_tokens == 52 + 57
        assert found.cascade["teacher_usage"]["attempts"] == 1

        # what was asked: the input alone, greedily, and the task's prompt
        [asked] = student.bodies["hard"]
        assert asked["messages"] == [{"role": "user", "content": "hard"}]
        assert asked["temperature"] == 0 and asked["logprobs"] is True
        assert student.bodies["easy"][0]["max_tokens"] == 8
        assert teacher.bodies["hard"][0]["messages"][0]["content"] == "Choose."
        assert "easy" not in teacher.bodies

        chunks = list(
            served.client.chat.completions.create(
                **chat("hard"), stream=True, stream_options={"include_usage": True}
            )
        )
        text = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
        assert "".join(text) == "fr" and chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-2].cascade["answered_by"] == "teacher"
        assert chunks[-1].usage.total_tokens == 109 and not chunks[-1].choices

        assert [model.id for model in served.client.models.list()] == ["cascade"]
        assert served.client.models.retrieve("cascade").threshold == 0.9
        with pytest.raises(openai.NotFoundError, match="the model 'org/gpt' is not served here"):
            served.client.models.retrieve("org/gpt")
        for method in ("GET", "HEAD"):
            assert request(served.url, method, "/health")[0] == 200
        _, figures, headers = request(served.url, "GET", "/metrics")
        assert b'cascade_answers_total{answered_by="teacher"} 2.0' in figures
        assert b'cascade_handed_over_total{why="unsure"} 2.0' in figures
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")

        totals = json.loads(served.end().splitlines()[-1])
        assert totals == {"requests": 3, "handed_over": 2, "unsure": 0, "refused": 1}
        assert served.process.exitcode == 130
        assert "Traceback" not in served.said()


def test_requests_go_on_at_once_and_none_is_mixed_up(flags, tmp_path, student, teacher):
    eight = threading.Barrier(8, timeout=HANGS)  # each waits until seven others are asked too

    def says_with_others(text):
        eight.wait()
        return student_says(text)

    with cascade(tmp_path, *flags) as served:
        student.answer = says_with_others
        texts = [f"{'hard' if number % 5 == 0 else 'easy'} {number}" for number in range(80)]
        with ThreadPoolExecutor(32) as pool:
            replies = list(pool.map(served.ask, texts))
        assert [answer_of(reply) for reply in replies] == ["fr", "en", "en", "en", "en"] * 16
        assert Counter(student.requests()) >= Counter(texts)
        assert student.most_at_once >= 8
        hard = [text for text in texts if "hard" in text]
        assert teacher.requests() == Counter(hard)
        assert served.end(signal.SIGTERM) and served.process.exitcode == 143


@pytest.mark.parametrize("policy", [GIVE_STUDENTS, REFUSE])
def test_a_teacher_that_dies_is_slow_or_says_nothing_valid(flags, tmp_path, teacher, policy):
    further = ["--teacher_timeout", 2, "--max_retries", 1, "--when_teacher_fails", policy]
    with cascade(tmp_path, *flags, *further) as served:

        def problem_with(text):
            """Why the teacher has not answered; what the client gets is the policy's."""
            if policy == REFUSE:
                with pytest.raises(openai.InternalServerError) as error:
                    served.ask(text)
                assert error.value.status_code == 503
                assert error.value.body["code"] == "no_sure_answer"
                return error.value.body["message"].partition("the teacher's: ")[2]
            reply = served.ask(text)
            assert answer_of(reply) == "en" and reply.headers["x-answered-by"] == "student"
            assert (reply.headers["x-handed-over"], reply.headers["x-unsure"]) == ("true", "true")
            return reply.parse().cascade["teacher_problem"]

        teacher.faults.update({"hard 1": ["slow"], "hard 3": ["slow"]})
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(problem_with, "hard 1")
            wait_until(lambda: "hard 1" in teacher.bodies)
            teacher.kill()  # in the middle of the answer
            assert waiting.result() == "unreachable"
        assert answer_of(served.ask("easy")) == "en"
        teacher.start()
        assert answer_of(served.ask("hard 2")) == "fr"  # as if nothing had been
        assert problem_with("hard 3") == "timeout"
        teacher.answer = lambda text: {"reasoning": "Hm.", "content": "I cannot say."}
        assert problem_with("hard 4") == "no_answer"
        assert len(teacher.bodies["hard 4"]) == 2
        assert answer_of(served.ask("easy")) == "en"
        # said once in a while, and not for each request
        assert "the teacher's server fails (unreachable: " in served.said()
        assert served.said().count("the teacher's server fails") < 3


def test_where_the_student_dies_the_teacher_answers_within_the_budget(flags, tmp_path, student):
    with cascade(tmp_path, *flags, "--max_handed_over", 0.003) as served:
        assert answer_of(served.ask("easy")) == "en"
        student.faults["easy 1"] = ["slow"]
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(served.ask, "easy 1")
            wait_until(lambda: "easy 1" in student.bodies)
            student.kill()
            reply = waiting.result()
        assert answer_of(reply) == "fr" and "x-confidence" not in reply.headers
        assert reply.parse().cascade["why"] == "student_failed"
        assert answer_of(served.ask("easy 2")) == "fr"
        student.start()
        assert answer_of(served.ask("hard 3")) == "fr"
        # three of a thousand requests are handed over
        reply = served.ask("hard 4")
        assert answer_of(reply) == "en" and reply.headers["x-unsure"] == "true"
        assert reply.headers["x-handed-over"] == "false"
        assert reply.parse().cascade["teacher_problem"] == "budget"
        student.stop()
        student.kill()
        with pytest.raises(openai.InternalServerError, match="the teacher's: budget"):
            served.ask("easy 5")


def test_what_clients_do_not_wait_for_is_cancelled(flags, tmp_path, teacher):
    texts = [f"hard {number}" for number in range(64)]
    teacher.faults.update({text: ["slow"] for text in texts})
    with cascade(tmp_path, *flags) as served:

        def leave(text):
            """Ask for a stream, and close the connection before it has begun."""
            with connection_to(served.url) as connection:
                connection.sendall(raw_request(json.dumps(chat(text, stream=True)).encode()))
                wait_until(lambda: text in teacher.bodies)

        with ThreadPoolExecutor(64) as pool:
            list(pool.map(leave, texts))
        wait_until(lambda: served.figures()["cascade_gone_total"] == 64)
        assert served.figures()["cascade_running"] == 0
        # and one that leaves in the middle of its request
        with connection_to(served.url) as connection:
            connection.sendall(raw_request(b"{" * 99)[:-98])
        wait_until(lambda: served.figures()["cascade_gone_total"] == 65)
        assert answer_of(served.ask("hard 64")) == "fr"
        assert "Traceback" not in served.said()
        # the stand-in's replies came to nobody, and it was not asked again
        assert teacher.requests() == Counter([*texts, "hard 64"])


def test_who_may_ask(flags, tmp_path, monkeypatch, teacher):
    monkeypatch.setenv("KEY_OF_CLIENTS", CLIENTS_KEY)
    monkeypatch.setenv("KEY_OF_TEACHER", KEY)
    keys = ["--api_key_env", "KEY_OF_CLIENTS", "--teacher_key_env", "KEY_OF_TEACHER"]
    teacher.faults["hard"] = ["key"]  # a reply that repeats the key
    small = ["--max_body_bytes", 1000, "--max_messages", 2]
    with cascade(tmp_path, *flags, *keys, *small, key=CLIENTS_KEY) as served:
        assert answer_of(served.ask("easy")) == "en"
        assert answer_of(served.ask("hard")) == "en"
        assert "the teacher's server fails" in served.said()
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": CLIENTS_KEY}):
            status, body, _ = request(served.url, body=chat(), **wrong)
            assert status == 401 and json.loads(body)["error"]["code"] == "invalid_api_key"
        assert request(served.url, "GET", "/metrics")[0] == 401
        assert request(served.url, "GET", "/health")[0] == 200
        allowed = {"Authorization": f"Bearer {CLIENTS_KEY}"}
        for host in ("evil.example", "127.0.0.1.evil.example:80", ""):
            assert request(served.url, body=chat(), Host=host, **allowed)[0] == 421
        assert request(served.url, body=chat(), Host="localhost:1", **allowed)[0] == 200
        form = {"Content_Type": "text/plain", **allowed}
        assert request(served.url, body=chat(), **form)[0] == 415
        status, _, headers = request(served.url, "OPTIONS", Origin="http://evil.example", **allowed)
        assert status == 405 and "Access-Control-Allow-Origin" not in headers
        status, body, _ = request(served.url, body=chat("x" * 2000), **allowed)
        assert status == 413 and json.loads(body)["error"]["code"] == "request_too_large"
        assert request(served.url, body=b"{", **allowed)[0] == 400
        assert request(served.url, "GET", "/v1/nowhere", **allowed)[0] == 404
        three = {**chat(), "messages": chat()["messages"] * 3}
        assert request(served.url, body=three, **allowed)[0] == 400
        with pytest.raises(openai.BadRequestError) as error:
            served.ask("easy", tools=[{"type": "function", "function": {"name": "f"}}])
        assert error.value.param == "tools" and error.value.code == "unsupported_parameter"
        # a head has a longest length too, which holds before a key is read
        with connection_to(served.url) as connection:
            connection.sendall(raw_request(b"", f"X-Long: {'x' * 100000}")[:-4])
            assert connection.recv(100).startswith(b"HTTP/1.1 431 ")
        body = json.dumps(chat()).encode()
        key = f"Authorization: Bearer {CLIENTS_KEY}"
        with connection_to(served.url) as connection:
            connection.sendall(raw_request(body, key, f"X-Long: {'x' * 60000}"))
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        assert CLIENTS_KEY not in served.said() and KEY not in served.said()
        assert "Traceback" not in served.said()


def test_what_was_handed_over_is_the_next_training_file(flags, tmp_path):
    path = tmp_path / "new" / "handed.jsonl"
    with cascade(tmp_path, *flags, "--handed_over_file", path) as served:
        for text in ("hard 1", "easy", "hard 2", "hard 1"):
            served.ask(text)
        said = refused(*flags, "--handed_over_file", path)
        assert "another run is writing it" in said
        served.process.kill()
        served.process.join(ENDS)
    inputs = [row["messages"][0]["content"] for row in read_jsonl(path)]
    assert inputs == ["hard 1", "hard 2"]
    assert read_jsonl(path)[0]["messages"][1] == {"role": "assistant", "content": "fr"}
    journal = path.with_name("handed.jsonl.trace.jsonl")
    for each in (path, journal):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
        with open(each, "a") as file:
            file.write('{"messages": [{"role": "us')  # as a kill may leave it
    with cascade(tmp_path, *flags, "--handed_over_file", path) as served:
        for text in ("hard 2", "hard 3"):
            served.ask(text)
    finished = read_finished(path)
    assert list(finished.answers.values()) == ["fr", "fr", "fr"]
    assert [len(attempts) for attempts in finished.attempts.values()] == [1, 1, 1]
    assert read_jsonl(journal)[1]["why"] == "unsure"


def test_a_student_without_log_probabilities_is_refused(flags, student, teacher):
    student.answer = lambda text: {"content": "en"}
    assert "does not give log-probabilities of all tokens" in refused_here(*flags)
    student.answer = lambda text: {"content": "en", "logprobs": [-0.1]}  # not that of its end
    assert "does not give log-probabilities of all tokens" in refused_here(*flags)
    student.answer = lambda text: {"content": "en", "logprobs": [-0.1, -0.1]}
    student.usage = False
    assert "does not count the tokens" in refused_here(*flags)
    student.kill()
    said = refused(*flags)
    assert f"{student.url}: cannot be reached" in said and "mend --student_url" in said


def test_what_is_wrong_with_the_flags_is_one_line(flags, tmp_path):
    without = flags[:-4]
    said = refused(*without, "--adapter", tmp_path)
    assert "has no calibration.json" in said and "--threshold" in said
    assert "--threshold 1.5" in refused(*flags, "--threshold", "1.5")


def test_a_port_that_is_taken_is_said(flags, student):
    said = refused(*flags, "--port", student.port)
    assert f"--port {student.port}: " in said and "choose another" in said


def test_servers_that_come_later_are_waited_for(flags, tmp_path, student):
    student.kill()
    later = threading.Timer(1.0, student.start)
    later.start()
    with cascade(tmp_path, *flags, "--wait_for_servers", HANGS) as served:
        assert answer_of(served.ask("easy")) == "en"
