"""predict.py with real vLLM: as step 3 measured, killed and resumed, on one engine and replicas."""

import csv
import json
import math
import os

import pytest
from pyarrow import parquet

from distill.calibration import read_calibration
from distill.locks import own_journal
from distill.task import load_task
from forks import start_in_fork
from helpers import (
    ROOT,
    STUDENT,
    assert_gone,
    descendants,
    fails,
    in_fork,
    last_json,
    python,
    read_jsonl,
    trace,
)
from rest import rests_after, wait_for_rest

HELDOUT = ROOT / "example-data" / "heldout.jsonl"
TASK = ROOT / "example-data" / "language_classification.yaml"
COLUMNS = ["--text_column", "text", "--id_column", "nr"]


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def backlog(tmp_path_factory):
    """The held-out inputs as a table, with two that are equal and one that is far too long."""
    path = tmp_path_factory.mktemp("backlog") / "in.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["nr", "n", "text"])
        texts = [row["messages"][0]["content"] for row in read_jsonl(HELDOUT)]
        for index, text in enumerate([*texts, texts[0], "hola " * 20000]):
            writer.writerow([f"{index:03}", "NA", text])
    return path


@pytest.fixture(scope="module")
def predicted(evaluated, distilled, backlog, tmp_path_factory):
    """predict.py over the backlog without a stop, calibrated by step 3: (output, process)."""
    output = tmp_path_factory.mktemp("predicted") / "out.csv"
    flags = ["--adapter", distilled[0], "--input_file", backlog, *COLUMNS, "--output_file", output]
    return output, python("predict.py", *flags, "--gpu_price_per_hour", 3.6)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--adapter", "nowhere"], "nowhere: no adapter here"),
        (["--output_file", "out.txt"], "predictions are written as .csv, "),
        (["--overwrite", "--skip_finished"], "contradict each other"),
        (["--gpu_price_per_hour", 1, "--price_input", 1], "takes the place of --price_*"),
        (["--text_template", "x"], "names no column"),
    ],
)
def test_bad_flags_end_in_one_line_and_leave_nothing(flags, said, tmp_path):
    common = ["--input_file", HELDOUT, "--output_file", tmp_path / "out.csv"]
    assert said in fails("predict.py", *common, *flags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_answers_as_step_3_has_measured(distilled, evaluated, predicted, backlog):
    """And is as sure of it, and unsure where step 3 would have asked the teacher."""
    output, process = predicted
    rows = read_csv(output)
    measured = read_jsonl(evaluated[0] / "predictions.jsonl")[:420]
    answers = [row["student"]["answer"] or "" for row in measured]
    assert [row["answer"] for row in rows[:420]] == answers
    assert len(set(answers)) > 10  # not always the same
    assert [row["nr"] for row in rows] == [f"{index:03}" for index in range(len(rows))]
    assert [row["text"] for row in rows] == [row["text"] for row in read_csv(backlog)]
    labels = load_task(TASK).labels
    assert all((row["answer"] in labels) == (row["valid"] == "true") for row in rows)
    assert rows[420]["answer"] == rows[0]["answer"] and rows[0]["confidence"]
    assert rows[420]["confidence"] == rows[0]["confidence"]
    assert (rows[421]["reason"], rows[421]["confidence"]) == ("input_too_long", "")
    # what the student is sure of is right more often: gold knows
    right = []
    wrong = []
    for row, line in zip(rows[:420], measured, strict=True):
        calibrated = line["student"]["confidence"]
        assert float(row["confidence"]) == pytest.approx(calibrated, abs=1e-3)
        (right if row["answer"] == line["gold"] else wrong).append(float(row["confidence"]))
    assert sum(right) / len(right) > sum(wrong) / len(wrong) + 0.1

    calibration = read_calibration(distilled[0], load_task(TASK))
    unsure = [row["unsure"] == "true" for row in rows]
    would_ask = [line["cascade"]["answered_by"] == "teacher" for line in measured]
    differing = [
        row
        for row, here, there in zip(rows, unsure, would_ask, strict=False)
        if here != there and abs(float(row["confidence"]) - calibration.threshold) > 1e-3
    ]
    assert not differing and 0 < sum(unsure) < 100

    line = last_json(process)
    assert (line["rows"], line["rejected"], line["asked"]) == (422, 1, 421)
    assert (line["unsure"], line["unsure_share"]) == (sum(unsure), round(sum(unsure) / 422, 6))
    assert line["calibration"]["temperature"] == calibration.temperature
    assert line["cost"] == pytest.approx(421 / line["rows_per_second"] / 1000, rel=0.01)
    manifest = json.loads(output.with_name("out.csv.manifest.json").read_text())
    assert manifest["task_file"] == str(TASK) and manifest["served_as"] == "a merged copy"
    assert manifest["model"] == str(STUDENT) and len(manifest["student"]) == 64
    assert not output.with_name("out.csv.unfinished").exists()


@pytest.mark.slow
def test_confidence_is_the_probability_that_transformers_gives(distilled, predicted, tmp_path):
    """The product over the answer's tokens and the end of turn, by the adapter under PEFT.

    In float32. The engine computes in bfloat16 where the CPU can, which moved it by up to 0.017.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from distill.tokens import encode

    adapter = distilled[0]
    base = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    close = 2e-4 if torch.backends.cpu.get_cpu_capability() == "AVX2" else 0.03
    rows = [row for row in read_csv(predicted[0]) if row["valid"] == "true"]
    # as the journal has it, which knows nothing of a calibration
    sure = {record["index"]: record["log_confidence"] for record in trace(predicted[0])}
    sure[420] = sure[0]  # whose text it has
    for row in sorted(rows, key=lambda row: float(row["confidence"]))[::60]:
        chat = [
            {"role": "user", "content": row["text"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        encoded = encode(tokenizer, chat)
        ids = torch.tensor([encoded["input_ids"]])
        with torch.inference_mode():
            logprobs = model(ids).logits.float().log_softmax(-1)[0]
        total = 0.0
        for place, token in enumerate(encoded["labels"]):
            if token != -100:
                total += float(logprobs[place - 1, token])
        assert math.exp(sure[int(row["index"])]) == pytest.approx(math.exp(total), abs=close)


@pytest.mark.slow
def test_killed_and_resumed(distilled, predicted, backlog, tmp_path):
    """As of an uninterrupted run, and then in another format from the journal alone."""
    output = tmp_path / "out.csv"
    flags = ["--adapter", distilled[0], "--input_file", backlog, *COLUMNS, "--output_file", output]
    resting = {**os.environ, **rests_after(own_journal(output), 30)}
    settings = {"folder": tmp_path, "environment": resting}
    process = start_in_fork(ROOT / "predict.py", *flags, "--max_num_seqs", 8, **settings)
    wait_for_rest(process)
    children = descendants(process)
    process.kill()
    process.join()
    assert process.exitcode == -9, (tmp_path / "stderr").read_text()[-2000:]
    assert_gone(children)
    kept = trace(output)
    assert 30 <= len(kept) < 421 and not output.exists()
    # other engines may go on
    replicas = ["--num_replicas", 2, "--cpus_per_replica", 1]
    # on a cluster of its own, whatever else runs here
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    line = last_json(in_fork(ROOT / "predict.py", *flags, *replicas, environment=environment))
    assert line["asked"] == 421 - len(kept)
    records = trace(output)
    assert records[: len(kept)] == kept and len(records) == 421
    whole = read_csv(predicted[0])
    for row, other in zip(read_csv(output), whole, strict=True):
        # rounding differs where other rows are in the batch
        assert float(row.pop("confidence") or 0) == pytest.approx(
            float(other.pop("confidence") or 0), abs=1e-4
        )
        del row["unsure"], other["unsure"]  # which may hang on that
        assert row == other
    assert "exists and is finished" in fails("predict.py", *flags)
    assert last_json(python("predict.py", *flags, "--skip_finished"))["skipped"] is True

    table = tmp_path / "out.parquet"
    output.with_name("out.csv.trace.jsonl").rename(tmp_path / "out.parquet.trace.jsonl")
    assert last_json(python("predict.py", *flags[:-1], table))["asked"] == 0
    rows = parquet.read_table(table).to_pylist()
    assert [row["answer"] or "" for row in rows] == [row["answer"] for row in whole]
    assert rows[7]["nr"] == "007" and rows[7]["n"] == "NA" and rows[421]["confidence"] is None
