"""Step 3 with a teacher behind a URL, or a student, or both: on stand-ins, and on vLLM's server."""

import json

import pytest

from helpers import fails, last_json, python, read_jsonl, write_task
from loopback_teacher import KEY, MODEL, LoopbackTeacher

TEXTS = [f"input {number}" for number in range(12)]


def mostly_right(text):
    """`en` for all but one."""
    return {"reasoning": "Hm.", "content": "Answer: fr" if text == "input 5" else "Answer: en"}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("KEY_OF_THE_TEST", KEY)


@pytest.fixture
def flags(tmp_path):
    gold = tmp_path / "gold.jsonl"
    lines = []
    for text in TEXTS:
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "en"}]
        lines.append(json.dumps({"messages": turns}))
    gold.write_text("\n".join(lines))
    task = write_task(tmp_path / "task.yaml", ["en", "fr"], "Answer: (.+)")
    given = ["--task", task, "--test_file", gold, "--systems", "teacher", "--teacher_model", MODEL]
    given += ["--report_dir", tmp_path / "report", "--latency_rows", 2]
    return [*given, "--api_key_env", "KEY_OF_THE_TEST"]


def test_the_teacher_is_scored_and_its_tokens_are_the_servers(flags, tmp_path):
    faults = {"input 3": ["500"], "input 7": ["429"]}
    prices = ["--price_input", 1, "--price_cached", 0.1, "--price_output", 2]
    with LoopbackTeacher(mostly_right, faults) as teacher:
        process = python("evaluate.py", *flags, *prices, "--teacher_url", teacher.url)
    summary = last_json(process)
    assert summary["teacher_accuracy"] == round(11 / 12, 4)
    assert summary["teacher_tokens"] == 57  # 50 of the prompt and 7
    assert summary["teacher_cost_per_million"] == 10 * 1 + 40 * 0.1 + 7 * 2
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["teacher_server"] == "127.0.0.1"
    assert metrics["systems"]["teacher"]["accuracy"] == 11 / 12
    report = (tmp_path / "report" / "report.md").read_text()
    assert "The teacher was asked at 127.0.0.1" in report
    rows = read_jsonl(tmp_path / "report" / "predictions.jsonl")
    assert rows[5]["teacher"] == {"answer": "fr", "response": "Hm.</think>Answer: fr"}
    for path in (tmp_path / "report").rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_a_row_that_the_server_refuses_has_no_answer(flags, tmp_path):
    faults = {"input 2": ["too long"]}
    with LoopbackTeacher(mostly_right, faults) as teacher:
        process = python("evaluate.py", *flags, "--teacher_url", teacher.url, "--concurrency", 1)
    assert last_json(process)["teacher_accuracy"] == round(10 / 12, 4)
    rows = read_jsonl(tmp_path / "report" / "predictions.jsonl")
    assert rows[2]["teacher"] == {"answer": None, "response": ""}


def test_what_is_wrong_is_one_line(flags, monkeypatch):
    refused = fails("evaluate.py", *flags, "--teacher_url", "http://127.0.0.1:9/v1")
    assert refused.startswith("evaluate.py: http://127.0.0.1:9/v1: cannot be reached")
    with LoopbackTeacher(mostly_right) as teacher:
        monkeypatch.setenv("KEY_OF_THE_TEST", "wrong")
        refused = fails("evaluate.py", *flags, "--teacher_url", teacher.url)
        assert "refuses the key (401)" in refused
        named = [*flags, "--teacher_model", "other"]
        monkeypatch.setenv("KEY_OF_THE_TEST", KEY)
        process = python("evaluate.py", *named, "--teacher_url", teacher.url)
        assert "--teacher_model other: not in the server's list of models" in process.stderr


def test_a_quota_that_ends_is_said_with_exit_code_2(flags):
    with LoopbackTeacher(mostly_right, {"input 6": ["quota"]}) as teacher:
        process = python("evaluate.py", *flags, "--teacher_url", teacher.url, code=2)
    said = "teacher failed: http"  # and of no engine
    assert said in process.stderr and "the quota is used up (no money)" in process.stderr
    assert KEY not in process.stderr


# A student that is served elsewhere


@pytest.fixture
def both(flags, monkeypatch):
    """Flags for a teacher and a student, each with a key of its own, and no adapter here."""
    monkeypatch.setenv("KEY_OF_THE_STUDENT", f"{KEY}-2")
    systems = flags.index("--systems") + 1
    return [
        *flags[:systems],
        "teacher,student",
        *flags[systems + 1 :],
        "--adapter",
        "/nowhere/adapter",
        "--student_api_key_env",
        "KEY_OF_THE_STUDENT",
    ]


def student(faults=None, name="student"):
    """All `en`, so that it is right on a row on which the teacher is not."""
    how = {"models": (name,), "served_by": name}
    return LoopbackTeacher(lambda text: {"content": "en"}, faults, **how)


def test_a_served_student_is_scored_beside_a_served_teacher(both, tmp_path):
    prices = ["--teacher_price_input", 1, "--student_price_input", 0.5, "--gpu_price_per_hour", 9]
    with LoopbackTeacher(mostly_right) as teacher, student({"input 3": ["500"]}) as served:
        at = ["--teacher_url", teacher.url, "--student_url", served.url]
        process = python("evaluate.py", *both, *prices, *at)
        # each is asked with its own key, and the student without the prompt
        assert served.keys == {f"Bearer {KEY}-2"}
        assert teacher.keys == {f"Bearer {KEY}"}
        [body, *_] = served.bodies["input 7"]
        assert body["messages"] == [{"role": "user", "content": "input 7"}]
        assert (body["temperature"], body["max_tokens"]) == (0.0, 64)
        assert "without the comparison with PEFT (--check_rows)" in process.stderr
        assert "next, a model to serve" not in process.stderr
    summary = last_json(process)
    assert (summary["teacher_accuracy"], summary["student_accuracy"]) == (round(11 / 12, 4), 1.0)
    # 50 input tokens, of which cached ones cost as much as others
    assert summary["student_tokens"] == 57 and summary["student_cost_per_million"] == 25
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert (metrics["student_server"], metrics["student_name"]) == ("127.0.0.1", "student")
    assert [metrics[key] for key in ("check", "ties", "adapter", "served_as")] == [None] * 4
    for name in ("report.md", "report.html"):
        text = (tmp_path / "report" / name).read_text()
        assert "The distilled student was asked at 127.0.0.1 as student, greedily" in text
    for path in (tmp_path / "report").rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_what_was_scored_is_kept(both):
    """The teacher's answers, where the student's server ends the run."""
    faults = {"input 6": ["quota"]}
    with LoopbackTeacher(mostly_right) as teacher, student(faults) as served:
        at = ["--teacher_url", teacher.url, "--student_url", served.url, "--concurrency", 1]
        ended = python("evaluate.py", *both, *at, code=2)
        assert "what was scored is kept (teacher, prompt and thinking)" in ended.stderr
        asked = sum(teacher.answered.values())
        goes_on = python("evaluate.py", *both, *at)
        assert "teacher, prompt and thinking: taken over" in goes_on.stderr
        assert sum(teacher.answered.values()) == asked
    assert last_json(goes_on)["student_accuracy"] == 1.0


AT = ["--student_url", "http://127.0.0.1:9/v1"]
BAD = {
    "student left out": ([*AT, "--systems", "teacher"], "--systems leaves the student out"),
    "vLLM's flags": ([*AT, "--systems", "student", "--api_key", "secret"], "--api_key does not go"),
    "a way to serve it": ([*AT, "--serve_adapter", "merged"], "--serve_adapter does not go with"),
    "nobody there": ([*AT, "--systems", "student"], "start the server, or mend --student_url"),
    "tokenizer alone": (["--student_tokenizer", "a/b"], "--student_tokenizer is for --student_url"),
}


@pytest.mark.parametrize(("given", "named"), BAD.values(), ids=BAD)
def test_bad_flags_of_a_served_student_are_one_line(given, named, both, tmp_path):
    said = fails("evaluate.py", *both, *given)
    assert named in said and "secret" not in said
    assert not (tmp_path / "report").exists()
