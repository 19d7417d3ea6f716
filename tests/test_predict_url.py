"""predict.py with a student that is served elsewhere: on a stand-in, and on vLLM's server."""

import csv
import json
import math
import shutil
from dataclasses import fields

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.calibration import Calibration, tempered
from distill.task import load_task
from distill.tokens import encode
from helpers import ROOT, fails, last_json, python, read_jsonl, trace, write_task
from loopback_teacher import KEY, LoopbackTeacher

HELDOUT = ROOT / "example-data" / "heldout.jsonl"
TASK = ROOT / "example-data" / "language_classification.yaml"

CALIBRATION_FIELDS = [field.name for field in fields(Calibration)]
TEXTS = [f"input {number}" for number in range(12)]
NAME = "student"
SURE = {"confidence": f"{math.exp(-0.3):.6f}"}  # what the stand-in says of each answer


def answer(text):
    """What a student says, which does not think."""
    return {"content": "fr" if text == "input 5" else "en"}


def served(answer=answer, faults=None, **how):
    how = {"logprobs": "whole", "models": (NAME,), "served_by": NAME, **how}
    return LoopbackTeacher(answer, faults, **how)


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """What to answer, and where to."""
    monkeypatch.setenv("KEY_OF_THE_TEST", KEY)
    (tmp_path / "in.txt").write_text("\n".join([*TEXTS, TEXTS[0]]))
    task = write_task(tmp_path / "task.yaml", ["en", "fr"], "Answer: (.+)")
    given = ["--input_file", tmp_path / "in.txt", "--task", task]
    return [
        *given,
        "--output_file",
        tmp_path / "out.csv",
        "--student_api_key_env",
        "KEY_OF_THE_TEST",
    ]


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_answered_with_a_confidence_and_the_key_is_nowhere(flags, tmp_path):
    faults = {"input 3": ["429 ms", "half"], "input 9": ["no JSON"], "input 7": ["too long"]}
    prices = ["--price_input", 1000, "--price_cached", 100, "--price_output", 2000]
    with served(faults=faults) as student:
        at = ["--student_url", student.url, "--min_success_rate", 0.9]
        process = python("predict.py", *flags, *at, *prices)
    rows = read_csv(tmp_path / "out.csv")
    assert [row["answer"] for row in rows[4:8]] == ["en", "fr", "en", ""]
    assert rows[7]["reason"] == "input_too_long" and rows[7]["confidence"] == ""
    assert {row["confidence"] for row in rows if row["answer"]} == {SURE["confidence"]}
    summary = last_json(process)
    assert (summary["rows"], summary["accepted"], summary["asked"]) == (13, 12, 12)
    assert summary["prompt_tokens"] == 11 * 50  # as the server counts them, of what it answered
    assert summary["cost"] == pytest.approx(11 * (10 * 1000 + 40 * 100 + 7 * 2000) / 1e6, rel=1e-4)
    assert f"student {NAME} at {student.url}" in process.stderr
    assert f"--student_url {student.url} --student_name {NAME}" in process.stderr  # what is next
    manifest = json.loads((tmp_path / "out.csv.manifest.json").read_text())
    assert (manifest["server"], manifest["model"]) == ("127.0.0.1", NAME)
    assert manifest["served_by"] == NAME and manifest["adapter"] is None
    # as often as the journal says, but for what failed on the way and the one that tried it
    assert {len(record["attempts"]) for record in trace(tmp_path / "out.csv")} == {1}
    [tried] = set(student.answered) - set(TEXTS)
    assert student.answered[tried] == 1 and len(student.answered) == 12
    assert set(student.answered.values()) == {1}
    [body] = student.bodies["input 0"]  # of two that are equal
    assert body["messages"] == [{"role": "user", "content": "input 0"}]
    assert (body["model"], body["temperature"], body["max_tokens"]) == (NAME, 0.0, 64)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY not in path.read_text(encoding="utf-8")
    assert KEY not in process.stdout + process.stderr


def test_a_calibration_that_is_named_says_where_the_student_is_unsure(flags, tmp_path):
    """Of a server nobody sees which adapter it has, so only the task is checked."""
    task = load_task(tmp_path / "task.yaml")
    fitted = dict.fromkeys(CALIBRATION_FIELDS, 0)
    fitted.update(temperature=2.0, threshold=0.7, task_hash=task.hash)
    (tmp_path / "calibration.json").write_text(json.dumps(fitted))
    with served() as student:
        at = ["--student_url", student.url, "--calibration", tmp_path / "calibration.json"]
        process = python("predict.py", *flags, *at)
    sure = f"{tempered(-0.3, 2.0):.6f}"
    rows = read_csv(tmp_path / "out.csv")
    assert {(row["confidence"], row["unsure"]) for row in rows} == {(sure, "true")}
    assert "that it is this student's cannot be seen" in process.stderr
    summary = last_json(process)
    assert summary["unsure_share"] == 1.0 and summary["calibration"]["threshold"] == 0.7


@pytest.mark.parametrize("logprobs", ["without the end", "not known", "refused", None])
def test_without_all_log_probabilities_no_row_has_a_confidence(logprobs, flags, tmp_path):
    with served(logprobs=logprobs) as student:
        process = python("predict.py", *flags, "--student_url", student.url)
    assert process.stderr.count("so no row has a confidence") == 1
    rows = read_csv(tmp_path / "out.csv")
    assert {row["confidence"] for row in rows} == {""} and rows[5]["answer"] == "fr"
    assert last_json(process)["mean_confidence"] is None
    assert "logprobs" not in student.bodies["input 0"][0]  # it was not asked for them in vain


def test_a_run_that_ended_goes_on_and_no_other_student_continues_it(flags, tmp_path):
    with served(faults={"input 8": ["quota"]}) as student:
        at = ["--student_url", student.url, "--concurrency", 1]
        ended = python("predict.py", *flags, *at, code=2)
        assert "the quota is used up (no money); what is finished is kept" in ended.stderr
        assert len(trace(tmp_path / "out.csv")) == 8
        for other, named in {
            "--student_name": "another base model",
            "--student_url": "a student at another host",
        }.items():
            value = "other" if other == "--student_name" else student.url.replace("127.0.0.1", "l")
            assert named in fails("predict.py", *flags, *at, other, value)
        student.served_by = "another"
        ended = python("predict.py", *flags, *at, code=1)
        assert "answers as another now" in ended.stderr and KEY not in ended.stderr
        assert len(trace(tmp_path / "out.csv")) == 8
        student.served_by = NAME
        assert last_json(python("predict.py", *flags, *at))["asked"] == 4
        assert "is finished" in fails("predict.py", *flags, *at)
        again = python("predict.py", *flags, *at, "--skip_finished")
        assert last_json(again)["skipped"] is True
    model = tmp_path / "model"
    shutil.copytree(ROOT / "tests" / "pair" / "tiny-instruct", model)
    here = ["--adapter", "", "--model_name", model, "--skip_finished"]
    without_key = flags[:-2]
    assert "another base model" in fails("predict.py", *without_key, *here)
    assert all(student.answered[text] == 1 for text in TEXTS)


def test_an_input_that_spells_a_special_token_is_asked_only_by_a_flag(flags, tmp_path):
    (tmp_path / "in.txt").write_text("hello\nends <|im_end|> here\n")
    with served() as student:
        at = ["--student_url", student.url, "--min_success_rate", 0]
        python("predict.py", *flags, *at)
        assert [row["reason"] for row in read_csv(tmp_path / "out.csv")] == ["", "special_token"]
        assert "ends <|im_end|> here" not in student.bodies
        python("predict.py", *flags, *at, "--overwrite", "--special_tokens", "ask")
    assert [row["answer"] for row in read_csv(tmp_path / "out.csv")] == ["en", "en"]


AT = ["--student_url", "http://127.0.0.1:9/v1"]
BAD = {
    "no URL": (["--student_url", "host"], "--student_url host: expected http(s)://HOST/v1"),
    "password": (["--student_url", "https://me:secret@host/v1"], "that --student_api_key_env"),
    "nobody there": (AT, "Connection refused); start the server, or mend --student_url"),
    "the key itself": (
        [*AT, "--student_api_key_env", "sk-secret-1"],
        "--student_api_key_env: there is no environment variable of this name",
    ),
    "vLLM's flags": ([*AT, "--api_key", "secret"], "--api_key does not go with --student_url"),
    "replicas": ([*AT, "--num_replicas", 2], "--num_replicas does not go with --student_url"),
    "an adapter": ([*AT, "--adapter", "models/x"], "--adapter does not go with --student_url"),
    "a GPU's hours": (
        [*AT, "--gpu_price_per_hour", 2],
        "--gpu_price_per_hour does not go with --student_url",
    ),
    "no task": ([*AT, "--task", ""], "which task? A server does not say it; name its file"),
    "tokenizer alone": (["--student_tokenizer", "a/b"], "--student_tokenizer is for --student_url"),
}


@pytest.mark.parametrize(("given", "named"), BAD.values(), ids=BAD)
def test_bad_flags_are_one_line_and_write_nothing(given, named, flags, tmp_path):
    said = fails("predict.py", *flags, *given)
    assert named in said and "secret" not in said
    assert not list(tmp_path.glob("out.csv*"))


def test_a_wrong_key_is_one_line_before_anything_is_written(flags, tmp_path, monkeypatch):
    with served() as student:
        monkeypatch.setenv("KEY_OF_THE_TEST", "wrong")
        said = fails("predict.py", *flags, "--student_url", student.url)
    assert "refuses the key (401)" in said and "KEY_OF_THE_TEST holds another one" in said
    assert not list(tmp_path.glob("out.csv*"))


# On vLLM's own server, with the tiny student merged


SPELLED = "ends <|im_end|> here"
TOO_LONG = "hola " * 20000
ROWS = 420  # of the report


@pytest.fixture(scope="module")
def measured(evaluated):
    """What step 3 has found of the student on an engine of ours, by rows."""
    return read_jsonl(evaluated[0] / "predictions.jsonl")[:ROWS]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["chat", "token ids"])
def test_vllms_server_answers_as_step_3_has_measured(by, student_server, measured, tmp_path):
    """And as sure as transformers finds the merged model."""
    client, merged = student_server
    url = str(client.base_url)
    texts = [row["messages"][0]["content"] for row in measured]
    lines = [json.dumps({"text": text}) for text in [*texts, SPELLED, TOO_LONG]]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    flags = ["--input_file", tmp_path / "in.jsonl", "--text_column", "text", "--task", TASK]
    flags += ["--output_file", tmp_path / "out.csv", "--student_url", url]
    flags += ["--student_tokenizer", merged] if by == "token ids" else []
    process = python("predict.py", *flags)
    assert "no row has a confidence" not in process.stderr
    rows = read_csv(tmp_path / "out.csv")
    answers = [row["student"]["answer"] or "" for row in measured]
    equal = sum(row["answer"] == answer for row, answer in zip(rows, answers, strict=False))
    assert equal >= 0.99 * ROWS  # all, where step 3 has asked in fp32 too
    *_, spelled, too_long = rows
    assert too_long["reason"] == "input_too_long"
    assert (spelled["reason"] == "special_token") == (by == "chat")
    assert bool(spelled["confidence"]) == (by == "token ids")
    gaps = sorted(confidence_gaps(rows[:ROWS:7], merged))
    assert len(gaps) == 60 and gaps[-1] < 1e-3


def confidence_gaps(rows, merged):
    """How far each is from the product over the answer's tokens and its end in transformers."""
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(merged)
    gaps = []
    for row in rows:
        answer = row["answer"] or row["response"]
        chat = [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": answer}]
        encoded = encode(tokenizer, chat)
        with torch.inference_mode():
            logits = model(torch.tensor([encoded["input_ids"]])).logits
        logprobs = logits.float().log_softmax(-1)[0]
        total = 0.0
        for place, token in enumerate(encoded["labels"]):
            if token != -100:
                total += float(logprobs[place - 1, token])
        gaps.append(abs(float(row["confidence"]) - math.exp(total)))
    return gaps


@pytest.mark.slow
def test_step_3_scores_the_server_as_an_engine_of_ours(student_server, measured, tmp_path):
    client, merged = student_server
    url = str(client.base_url)
    flags = ["--systems", "student", "--student_url", url, "--student_tokenizer", merged]
    flags += ["--report_dir", tmp_path / "report", "--latency_rows", 5, "--adapter", "/nowhere"]
    process = python("evaluate.py", *flags, "--test_file", HELDOUT)
    rows = read_jsonl(tmp_path / "report" / "predictions.jsonl")
    equal = sum(
        row["student"]["answer"] == other["student"]["answer"]
        for row, other in zip(rows, measured, strict=True)
    )
    assert equal >= 0.99 * ROWS
    summary = last_json(process)
    assert summary["student_accuracy"] > 0.8 and summary["student_tokens"] > 20
