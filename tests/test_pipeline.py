"""The three scripts on the tiny pair, each as a user runs it: real vLLM, real TRL."""

import json
import re
import sys

import pytest
from huggingface_hub import ModelCard

from distill.calibration import read_calibration
from distill.evaluation.systems import BASE_LATENCY_ROWS, BASE_SYSTEMS, CASCADE
from distill.task import load_task
from distill.wording import percent
from helpers import ROOT, STUDENT, fails, last_json, read_jsonl, run


@pytest.mark.slow
def test_teacher_labels_every_sentence_in_order(labelled):
    output, summary = labelled
    inputs = (ROOT / "example-data" / "multilingual.txt").read_text(encoding="utf-8").splitlines()
    rows = [
        json.loads(line)["messages"] for line in output.read_text(encoding="utf-8").splitlines()
    ]
    assert summary["rows"] == len(inputs) == 2101
    assert summary["success_rate"] >= 0.995
    assert {len(r) for r in rows} == {2} and [r[0]["role"] for r in rows[:1]] == ["user"]
    remaining = iter(inputs)
    assert all(row[0]["content"] in remaining for row in rows)  # a subsequence of the inputs
    assert not (output.parent / "labels.jsonl.tmp").exists()


@pytest.mark.slow
def test_student_learns_the_task_without_the_prompt(distilled, evaluated):
    assert distilled[1]["steps"] >= 100
    found = last_json(evaluated[1])
    assert found["rows"] == 420
    assert found["teacher_accuracy"] >= 0.95
    assert found["base_accuracy"] <= 0.15
    assert found["student_accuracy"] >= found["teacher_accuracy"] - 0.02
    assert found["student_tokens"] < found["teacher_tokens"] / 10
    assert found["speedup"] > 2


@pytest.mark.slow
def test_report_has_all_its_files_and_parts(evaluated):
    folder, process = evaluated
    names = {"metrics.json", "predictions.jsonl", "report.md", "report.html"}
    plots = ("confusion", "per_label", "latency", "tokens", "handing_over", "reliability")
    names.update(f"{name}.png" for name in plots)
    assert {p.name for p in folder.iterdir()} == names  # what was kept meanwhile is gone
    text = (folder / "report.md").read_text()
    for named in (
        "McNemar",
        "By kind of row",
        "Inputs without gold",
        "Cost of a million requests",
        "(latency.png)",
    ):
        assert named in text
    assert text.splitlines()[2].startswith("The student gives ")
    assert process.stdout.startswith("The student gives ")
    lines = process.stdout.splitlines()
    assert max(map(len, lines[:-2])) <= 100  # before the report's path and the JSON
    assert sum(line.startswith("distilled student ") for line in lines) == 1


@pytest.mark.slow
def test_the_adapters_card_has_the_figures(distilled, evaluated):
    metrics = json.loads((evaluated[0] / "metrics.json").read_text())
    student = metrics["systems"]["student"]
    card = ModelCard.load(distilled[0] / "README.md")
    shown = {one.metric_name: one for one in card.data.eval_results}
    assert shown["accuracy on gold"].metric_value == round(student["accuracy"], 4)
    assert shown["accuracy on gold"].dataset_name == "heldout.jsonl"
    assert shown["accuracy on gold"].metric_args["rows"] == 420
    assert shown["agreement with the teacher"].metric_value == round(student["agreement"], 4)
    assert shown["speed-up"].metric_value > 2
    together = shown["accuracy on gold, with the teacher where the student is unsure"]
    assert together.metric_value == round(metrics["systems"]["cascade"]["accuracy"], 4)
    assert together.metric_args["handed_over"] == round(metrics["cascade"]["share"], 4)
    assert f"| heldout.jsonl | {percent(student['accuracy'])} (420; " in card.text
    assert '"lora_rank": 64' in card.text  # step 2's text stays


@pytest.mark.slow
def test_figures_are_those_of_the_rows(evaluated):
    folder, _ = evaluated
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = read_jsonl(folder / "predictions.jsonl")
    gold = read_jsonl(ROOT / "example-data" / "heldout.jsonl")
    assert [row["messages"] for row in rows[:420]] == [row["messages"][:1] for row in gold]
    assert len(rows) == 441 and {row["gold"] for row in rows[420:]} == {None}
    for name, m in metrics["systems"].items():
        right = [row[name]["answer"] == row["gold"] for row in rows[:420]]
        same = [
            row[name]["answer"] == row["teacher"]["answer"]
            for row in rows
            if row["teacher"]["answer"]
        ]
        assert m["correct"] == sum(right) and m["agreement"] == pytest.approx(
            sum(same[:420]) / 420, abs=0.01
        )
        edge = [r for r, row in zip(right, gold, strict=False) if row["kind"] == "edge"]
        of = {kind: metrics["kinds"][kind][name] for kind in ("edge", "parallel")}
        assert (of["edge"]["rows"], of["edge"]["correct"], of["parallel"]["rows"]) == (
            60,
            sum(edge),
            360,
        )
        if name == CASCADE:  # which nobody has asked
            continue
        alone = BASE_LATENCY_ROWS if name in BASE_SYSTEMS else 20
        assert (
            len(m["latencies_s"]) == alone
            and m["latency_s"] <= m["latency_p95_s"]
            and m["rows_per_second"] > 0
        )
        assert m["cost_per_million"] == pytest.approx(
            0.1 * (m["prompt_tokens"] - m["cached_tokens"])
            + 0.01 * m["cached_tokens"]
            + 0.4 * m["output_tokens"]
        )
    assert [
        sum(map(sum, metrics["confusion"][name]["matrix"])) for name in ("teacher", "student")
    ] == [420, 420]


@pytest.mark.slow
def test_the_student_hands_over_what_it_is_not_sure_of(distilled, evaluated):
    adapter = distilled[0]
    folder, process = evaluated
    calibration = read_calibration(
        adapter, load_task(ROOT / "example-data" / "language_classification.yaml")
    )
    kept = read_jsonl(adapter / "calibration.jsonl")
    assert calibration.rows == len(kept) == distilled[1]["calibration_rows"] > 100
    assert calibration.handed_over / calibration.rows <= 0.05 < calibration.agreement_bound
    metrics = json.loads((folder / "metrics.json").read_text())
    found = metrics[CASCADE]
    cascade = metrics["systems"][CASCADE]
    student = metrics["systems"]["student"]
    teacher = metrics["systems"]["teacher"]
    rows = read_jsonl(folder / "predictions.jsonl")
    handed = [row for row in rows[:420] if row[CASCADE]["answered_by"] == "teacher"]
    assert len(handed) == found["rows_handed_over"] and 0 < found["share"] <= 0.2
    for row in rows[:420]:
        sure = row["student"]["confidence"] >= calibration.threshold
        by = "student" if sure else "teacher"
        assert (row[CASCADE]["answered_by"], row[CASCADE]["answer"]) == (by, row[by]["answer"])
    assert "confidence" not in rows[0]["teacher"]
    # the one far too long input has no answer of which anybody could be sure
    assert [row["student"]["confidence"] for row in rows].count(None) == 1
    assert cascade["accuracy"] > max(student["accuracy"], found["random_accuracy"])
    assert found["agreement_answered"] > student["agreement"]
    assert student["tokens"] < cascade["tokens"] < teacher["tokens"] / 4
    assert student["latency_s"] < cascade["latency_s"] < teacher["latency_s"]
    assert found["self_agreement"]["rows"] == 100 and found["self_agreement"]["share"] > 0.9
    line = last_json(process)
    assert line["cascade_accuracy"] == round(cascade["accuracy"], 4)
    assert "student, teacher if unsure" in process.stdout
    assert "handed to the teacher" in process.stdout


@pytest.mark.slow
def test_report_says_how_it_was_made(evaluated):
    metrics = json.loads((evaluated[0] / "metrics.json").read_text())
    assert "cost/1M" in evaluated[1].stdout
    assert metrics["prices"]["student"] == {"input": 0.1, "cached": 0.01, "output": 0.4}
    assert (
        metrics["systems"]["teacher"]["cached_tokens"]
        > 0.8 * metrics["systems"]["teacher"]["prompt_tokens"]
    )
    student = metrics["without_gold"]["student"]
    assert (student["rows"], student["unreadable"]) == (21, 1) and student["agreement"] > 0.7
    assert metrics["instead_of"] is None and metrics["taken_over"] == {}
    assert (
        metrics["served_as"] == "a merged copy"
        and metrics["check"]["rows"] == 8
        and not metrics["check"]["differ"]
    )
    assert (
        metrics["machine"] and len(metrics["date"]) == 10 and "transformers" in metrics["versions"]
    )


@pytest.mark.slow
def test_code_of_the_page_on_serving_answers(distilled):
    page = (ROOT / "docs" / "serving.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "Peft" in b)
    block = block.replace("Qwen/Qwen3-30B-A3B-Instruct-2507", str(STUDENT))
    block = block.replace("models/prompt_distillation_trl", str(distilled[0]))
    answer = run(sys.executable, "-c", block).stdout.strip().splitlines()[-1]
    assert answer in "ar de el en es fr hi ru tr ur vi zh ot".split()


CHAT = (
    '{"messages": [{"role": "user", "content": "hola"}, {"role": "assistant", "content": "es"}]}\n'
)
BAD_TRAINING = {
    "empty": ("", "train.jsonl: no rows"),
    "not JSON": (CHAT + "hola\n", "train.jsonl:2: not JSON"),
    "no messages": (CHAT + '{"text": "hola"}\n', "train.jsonl:2: not chat format"),
    "no answer": (
        CHAT + '{"messages": [{"role": "user", "content": "hola"}]}\n',
        "train.jsonl:2: the last message",
    ),
    "unknown role": (CHAT.replace("user", "human"), "train.jsonl:1: unknown role"),
    "empty answer": (CHAT.replace('"es"', '" "'), "train.jsonl:1: the last message"),
    "no question": (
        '{"messages": [{"role": "assistant", "content": "es"}]}\n',
        "train.jsonl:1: an answer without",
    ),
    "too long": (CHAT + CHAT.replace("hola", "hola " * 3000), "train.jsonl:2:"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("content", "named"), BAD_TRAINING.values(), ids=BAD_TRAINING)
def test_training_refuses_a_bad_file(content, named, pair, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(content, encoding="utf-8")
    flags = ["--model_name", STUDENT, "--train_file", path, "--output_dir", tmp_path / "out"]
    assert named in fails("train_sft_trl.py", *flags, "--config", ROOT / "configs" / "tiny.yaml")
    assert [p.name for p in tmp_path.iterdir()] == ["train.jsonl"]


# What Trainer and SFTTrainer refuse in their constructors, which take the loaded student.
BAD_FOR_TRAINER = {
    "not installed": (["--optim", "adamw_bnb_8bit"], "You need to install `bitsandbytes`"),
    "nothing to evaluate": (
        ["--eval_strategy", "steps", "--eval_steps", "5"],
        "you didn't pass an `eval_dataset`",
    ),
    "a schedule without its value": (
        ["--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs", '{"end": 1}'],
        "'end'",
    ),
    "unknown token": (
        ["--eos_token", "nope"],
        "--eos_token nope: no special token of the student's tokenizer",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "named"), BAD_FOR_TRAINER.values(), ids=BAD_FOR_TRAINER)
def test_what_the_trainer_would_refuse_is_refused_before_the_student_is_loaded(
    flags, named, pair, tmp_path
):
    (tmp_path / "train.jsonl").write_text(CHAT)
    student = tmp_path / "student"
    student.mkdir()
    for file in STUDENT.iterdir():
        if file.suffix != ".safetensors":  # without weights it could not be loaded
            (student / file.name).symlink_to(file)
    settings = {
        "model_name": student,
        "train_file": tmp_path / "train.jsonl",
        "output_dir": tmp_path / "out",
    }
    settings["config"] = ROOT / "configs" / "tiny.yaml"
    files = [word for name, value in settings.items() for word in (f"--{name}", value)]
    assert named in fails("train_sft_trl.py", *files, *flags)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student", "train.jsonl"]


BAD_TRAIN_FLAGS = {
    "missing file": (["--train_file", "/nowhere.jsonl"], "/nowhere.jsonl"),
    "missing model": (["--model_name", "./no-model"], "./no-model"),
    "unknown flag": (["--no_such_flag", "3"], "--no_such_flag"),
    "not a number": (["--learning_rate", "fast"], "--learning_rate"),
    "rank 0": (["--lora_rank", "0"], "--lora_rank 0"),
    "4 bits": (["--load_in_4bit", "true"], "fused experts cannot be loaded in 4 bits"),
    "dropout in words": (["--lora_dropout", "some"], "--lora_dropout"),
    "eval file and fraction": (
        ["--eval_file", "a", "--eval_fraction", "0.1"],
        "--eval_fraction 0.1",
    ),
    "all rows kept away": (["--calibration_fraction", "1"], "--calibration_fraction 1.0: a share"),
    "report to what is not there": (
        ["--use_cpu", "true", "--bf16", "false", "--report_to", "no_such_tracker"],
        "no_such_tracker: not installed",
    ),
    "no GPU": ([], "--use_cpu true --bf16 false"),
}


@pytest.mark.parametrize(("flags", "named"), BAD_TRAIN_FLAGS.values(), ids=BAD_TRAIN_FLAGS)
def test_training_refuses_bad_flags(flags, named, tmp_path):
    (tmp_path / "train.jsonl").write_text(CHAT)
    defaults = ["--train_file", tmp_path / "train.jsonl", "--output_dir", tmp_path / "out"]
    assert named in fails("train_sft_trl.py", *defaults, *flags)
