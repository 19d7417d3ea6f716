"""Step 3 with a teacher behind a URL, on a stand-in for the server. No engine is needed for it."""

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


def test_a_quota_that_ends_is_said_with_exit_code_2(flags):
    with LoopbackTeacher(mostly_right, {"input 6": ["quota"]}) as teacher:
        process = python("evaluate.py", *flags, "--teacher_url", teacher.url, code=2)
    assert "the quota is used up (no money)" in process.stderr and KEY not in process.stderr
