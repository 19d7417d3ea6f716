"""Step 1 with a teacher behind a URL, as a user runs it: on vLLM's server, and on a stand-in."""

import json
import re
import time
import urllib.request

import pytest

from distill.prices import TokenPrices
from distill.teacher.base import Prompt, Request, Sampling
from distill.teacher.purse import Purse
from forks import start_in_fork
from helpers import (
    HANGS,
    ROOT,
    SENTENCES,
    TEACHER,
    fails,
    last_json,
    python,
    read_jsonl,
    trace,
    write_task,
)
from loopback_teacher import KEY, MODEL, LoopbackTeacher
from vllm_server import free_port, server

TEXTS = [f"input {number}" for number in range(30)]
AT_ONCE = 128  # requests that vLLM's server on a CPU runs together


def thought_of(text):
    return {"reasoning": f"Hm, {text}.", "content": "Answer: en"}


@pytest.fixture
def flags(tmp_path):
    """What to label, and where to."""
    (tmp_path / "in.txt").write_text("\n".join(TEXTS))
    task = write_task(tmp_path / "task.yaml", ["en", "fr"], "Answer: (.+)")
    given = ["--input_file", tmp_path / "in.txt", "--task", task, "--model_name", MODEL]
    return [*given, "--output_file", tmp_path / "out.jsonl", "--api_key_env", "KEY_OF_THE_TEST"]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("KEY_OF_THE_TEST", KEY)


def test_rows_are_labelled_and_the_key_is_nowhere(flags, tmp_path):
    faults = {"input 3": ["429", "half"], "input 9": ["no JSON"], "input 12": ["too long"]}
    with LoopbackTeacher(thought_of, {**faults, "input 29": ["refused"]}) as teacher:
        at = ["--teacher_url", teacher.url, "--concurrency", 4, "--min_success_rate", 0.9]
        process = python("create_data.py", *flags, *at)
    summary = last_json(process)
    assert (summary["rows"], summary["accepted"], summary["rejected"]) == (30, 28, 2)
    assert f"teacher {MODEL} at {teacher.url}" in process.stderr
    rejected = read_jsonl(tmp_path / "out.jsonl.rejected.jsonl")
    assert [row["reason"] for row in rejected] == ["input_too_long", "refused"]
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert (manifest["server"], manifest["model"]) == ("127.0.0.1", MODEL)
    assert manifest["prompt_tokens"] == 28 * 50
    # as often as the journal says, but for what failed on the way
    records = trace(tmp_path / "out.jsonl")
    attempts = {TEXTS[record["index"]]: len(record["attempts"]) for record in records}
    assert attempts == dict.fromkeys(TEXTS, 1)
    assert teacher.answered == {text: 1 for text in TEXTS if text not in ("input 12", "input 29")}
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY not in path.read_text(encoding="utf-8")
    assert KEY not in process.stdout + process.stderr


def test_a_run_that_ended_goes_on_and_no_other_teacher_continues_it(flags, tmp_path):
    faults = {"input 20": ["quota"]}
    with LoopbackTeacher(thought_of, faults) as teacher:
        at = ["--teacher_url", teacher.url, "--concurrency", 1]
        failed = python("create_data.py", *flags, *at, code=2)
        assert "the quota is used up (no money); what is finished is kept" in failed.stderr
        assert KEY not in failed.stderr
        assert len(trace(tmp_path / "out.jsonl")) == 20
        refused = fails("create_data.py", *flags, "--model_name", TEACHER)
        assert "model" in refused or "server" in refused
        assert last_json(python("create_data.py", *flags, *at))["asked"] == 10
    assert teacher.requests() == {text: 2 if text in faults else 1 for text in TEXTS}


# of a request at the stand-in: 50 tokens of prompt, of which 40 are cached, and 7 of answer
PRICES = ["--price_input", 1000, "--price_cached", 100, "--price_output", 2000]
COST = (10 * 1000 + 40 * 100 + 7 * 2000) / 1e6


def test_costs_are_estimated_shown_and_recorded(flags, tmp_path):
    with LoopbackTeacher(thought_of) as teacher:
        at = ["--teacher_url", teacher.url, *PRICES, "--expected_output_tokens", 10]
        process = python("create_data.py", *flags, *at)
    assert re.search(r"create_data.py: about [\d.]+ for 30 requests", process.stderr)
    assert "(--expected_output_tokens 10)" in process.stderr
    assert f"spent {30 * COST:.4g}" in process.stderr
    assert last_json(process)["cost"] == round(30 * COST, 6)
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["cost"] == round(30 * COST, 6)
    assert manifest["prices"] == {"input": 1000, "cached": 100, "output": 2000}


def test_a_budget_ends_the_run_before_it_is_exceeded_and_a_higher_one_goes_on(flags, tmp_path):
    with LoopbackTeacher(thought_of) as teacher:
        at = ["--teacher_url", teacher.url, *PRICES, "--max_tokens", 100]
        ended = python("create_data.py", *flags, *at, "--budget", 0.8, code=1)
        assert "--budget 0.8: " in ended.stderr and "a higher one goes on" in ended.stderr
        done = len(trace(tmp_path / "out.jsonl"))
        assert 0 < done < 30 and done * COST <= 0.8
        assert sum(teacher.answered.values()) == done  # what was on its way is kept
        again = python("create_data.py", *flags, *at, "--budget", 0.8, code=1)
        assert "are spent" in again.stderr  # those of the first run
        assert sum(teacher.answered.values()) < 30
        finished = python("create_data.py", *flags, *at, "--budget", 5)
    assert last_json(finished)["cost"] == round(30 * COST, 6)
    assert teacher.answered == dict.fromkeys(TEXTS, 1)


def test_what_a_server_does_not_count_is_remembered_as_spent(flags, tmp_path):
    """The same command again does not spend the budget again."""
    with LoopbackTeacher(thought_of, usage=False) as teacher:
        at = ["--teacher_url", teacher.url, *PRICES, "--max_tokens", 100, "--budget", 2]
        for _ in range(3):
            python("create_data.py", *flags, *at, code=1)
        once = sum(teacher.answered.values())
    header = {"role": "system", "content": "Choose."}
    most = Purse(TokenPrices(1000, 100, 2000)).most(
        Request(0, Prompt([header, {"role": "user", "content": TEXTS[-1]}], 0), Sampling(0, 100))
    )
    assert 0 < once * most <= 2.01


def test_attempts_at_rows_that_are_not_decided_are_remembered_as_spent(flags, tmp_path):
    with LoopbackTeacher(lambda text: {"content": "I cannot say."}) as teacher:
        at = ["--teacher_url", teacher.url, *PRICES, "--max_tokens", 100, "--budget", 0.5]
        at += ["--max_retries", 50]
        for _ in range(2):
            ended = python("create_data.py", *flags, *at, code=1)
        asked = sum(teacher.answered.values())
    assert asked and asked * COST <= 0.5
    assert "are spent" in ended.stderr


def test_from_a_url_to_an_engine_is_another_teacher_when_the_output_is_finished(flags, tmp_path):
    with LoopbackTeacher(thought_of) as teacher:
        python("create_data.py", *flags, "--teacher_url", teacher.url)
    named = [*flags, "--model_name", TEACHER]
    refused = fails("create_data.py", *named, "--skip_finished")
    assert "model" in refused or "server" in refused


def test_another_host_is_another_teacher(flags, tmp_path):
    with LoopbackTeacher(thought_of) as teacher:
        python("create_data.py", *flags, "--teacher_url", teacher.url, "--limit", 2)
        (tmp_path / "out.jsonl").unlink()
        other = teacher.url.replace("127.0.0.1", "localhost")
        refused = fails("create_data.py", *flags, "--teacher_url", other, "--limit", 2)
    assert "localhost" in refused and "127.0.0.1" in refused


BAD = {
    "no URL": (["--teacher_url", "host"], "--teacher_url host: expected http(s)://HOST/v1"),
    "another scheme": (["--teacher_url", "ftp://host/v1"], "expected http(s)"),
    "password": (["--teacher_url", "https://me:secret@host/v1"], "holds a name or a password"),
    "query": (["--teacher_url", "https://host/v1?key=secret"], "a query"),
    "port": (["--teacher_url", "http://host:port/v1"], "is no URL"),
    "nobody there": (["--teacher_url", "http://127.0.0.1:9/v1"], "cannot be reached"),
    "vLLM's flags": (
        ["--teacher_url", "http://h/v1", "--api_key", "secret"],
        "--api_key does not go with --teacher_url",
    ),
    "replicas": (
        ["--teacher_url", "http://h/v1", "--num_replicas", "2"],
        "--num_replicas does not go with --teacher_url",
    ),
    "the key itself": (
        ["--teacher_url", "http://h/v1", "--api_key_env", "sk-secret-1"],
        "--api_key_env: there is no environment variable of this name",
    ),
    "a key of letters": (
        ["--teacher_url", "http://h/v1", "--api_key_env", "secret"],
        "--api_key_env: there is no environment variable of this name",
    ),
    "budget without prices": (
        ["--teacher_url", "http://h/v1", "--budget", "1"],
        "--budget: needs --price_input",
    ),
    "budget of an engine": (
        ["--price_input", "1", "--budget", "1"],
        "--budget: is for --teacher_url",
    ),
    "tokenizer alone": (["--teacher_tokenizer", "a/b"], "--teacher_tokenizer is for --teacher_url"),
}


@pytest.mark.parametrize(("given", "named"), BAD.values(), ids=BAD)
def test_bad_flags_are_one_line_and_write_nothing(given, named, flags, tmp_path):
    said = fails("create_data.py", *flags, *given)
    assert named in said and "secret" not in said
    assert not list(tmp_path.glob("out.jsonl*"))


def test_an_unknown_model_or_a_wrong_key_ends_the_run_in_one_line(flags, monkeypatch):
    faults = {text: ["unknown"] * 9 for text in TEXTS}
    with LoopbackTeacher(thought_of, faults, models=["other", "another"]) as teacher:
        said = python("create_data.py", *flags, "--teacher_url", teacher.url, code=2).stderr
        assert f"--model_name {MODEL}: not in the server's list of models: another, other" in said
        assert "has no model teacher" in said.splitlines()[-1]
        monkeypatch.setenv("KEY_OF_THE_TEST", "wrong")
        said = fails("create_data.py", *flags, "--teacher_url", teacher.url)
        assert "refuses the key (401)" in said and "KEY_OF_THE_TEST holds another one" in said
    assert not teacher.answered


def test_a_server_without_a_list_of_models_is_asked_all_the_same(flags):
    with LoopbackTeacher(thought_of, models=None) as teacher:
        summary = last_json(python("create_data.py", *flags, "--teacher_url", teacher.url))
    assert summary["accepted"] == 30


def answered_by(client) -> int:
    """How many requests vLLM's server has answered, as it counts them itself."""
    address = str(client.base_url).replace("/v1/", "/metrics")
    with urllib.request.urlopen(address) as reply:
        text = reply.read().decode()
    counts = re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", text, re.MULTILINE)
    assert counts
    return sum(int(float(count)) for count in counts)


def by_index(output):
    return sorted(trace(output), key=lambda record: record["index"])


@pytest.mark.slow
def test_a_server_of_vllm_that_is_killed_gives_the_labels_of_the_engine(pair, tmp_path, request):
    """In fp32, at temperature 0 and without retries: all labels are the same.

    What was in flight is asked again, nothing else, and each row has one attempt.
    """
    asked = ["--input_file", SENTENCES, "--model_name", TEACHER, "--max_tokens", 128]
    asked += ["--temperature", 0, "--max_retries", 0]
    local = tmp_path / "local.jsonl"
    engine = ["--dtype", "float32"]
    rows = last_json(python("create_data.py", *asked, "--output_file", local, *engine))["rows"]
    output = tmp_path / "url.jsonl"
    port = free_port()
    flags = [*asked, "--output_file", output, "--concurrency", AT_ONCE]
    flags += ["--teacher_url", f"http://127.0.0.1:{port}/v1", "--teacher_tokenizer", TEACHER]
    serving = [*engine, "--reasoning-parser", "qwen3"]
    journal = output.with_name("url.jsonl.trace.jsonl")
    with server(tmp_path / "first.log", TEACHER, *serving, port=port, killed=True):
        process = start_in_fork(ROOT / "create_data.py", *flags, folder=tmp_path)
        request.addfinalizer(process.kill)  # it would wait for its server for ten minutes
        end = time.monotonic() + HANGS
        while not journal.exists() or journal.read_bytes().count(b"\n") < rows // 4:
            assert process.is_alive() and time.monotonic() < end
            time.sleep(0.1)
    before = len(trace(output))
    assert rows // 4 - 1 <= before < rows and process.is_alive()
    with server(tmp_path / "second.log", TEACHER, *serving, port=port) as client:
        process.join(HANGS)
        answered_again = answered_by(client)
    assert process.exitcode == 0
    out = (tmp_path / "stdout").read_text()
    assert json.loads(out.splitlines()[-1])["rows"] == rows == 2101
    assert answered_again <= rows - before
    assert read_jsonl(output) == read_jsonl(local)
    assert [record["index"] for record in by_index(output)] == list(range(rows))
    for mine, other in zip(by_index(output), by_index(local), strict=True):
        assert len(mine["attempts"]) == 1
        for name in ("response", "finish_reason", "output_tokens", "thinking_tokens", "sampling"):
            assert mine["attempts"][0][name] == other["attempts"][0][name], (mine, other)
