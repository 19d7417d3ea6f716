"""The three scripts on the tiny pair, each as a user runs it: real vLLM, real TRL."""

import json
import re
import sys

import pytest

from conftest import ROOT, STUDENT, TEACHER, fails, last_json, python, run


@pytest.mark.slow
def test_teacher_labels_every_sentence_in_order(labelled):
    output, summary = labelled
    inputs = (ROOT / "example-data" / "multilingual.txt").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["messages"] for line in output.read_text(encoding="utf-8").splitlines()]
    assert summary["rows"] == len(inputs) == 2101
    assert summary["success_rate"] >= 0.995
    assert {len(r) for r in rows} == {2} and [r[0]["role"] for r in rows[:1]] == ["user"]
    remaining = iter(inputs)
    assert all(row[0]["content"] in remaining for row in rows)  # a subsequence of the inputs
    assert not (output.parent / "labels.jsonl.tmp").exists()


@pytest.mark.slow
def test_student_learns_the_task_without_the_prompt(distilled):
    adapter, trained = distilled
    assert trained["steps"] >= 100
    flags = ["--teacher_model", TEACHER, "--student_model", STUDENT, "--adapter", adapter, "--max_tokens", 256]
    test_file = ["--test_file", ROOT / "example-data" / "heldout.jsonl"]
    report = last_json(python("evaluate.py", *flags, *test_file))
    assert report["rows"] == 420
    assert report["teacher_accuracy"] >= 0.95
    assert report["base_accuracy"] <= 0.15
    assert report["student_accuracy"] >= report["teacher_accuracy"] - 0.02
    assert report["student_tokens"] < report["teacher_tokens"] / 10


@pytest.mark.slow
def test_readme_code_block_answers(distilled):
    block = next(b for b in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "Peft" in b)
    block = block.replace("Qwen/Qwen3-30B-A3B-Instruct-2507", str(STUDENT))
    block = block.replace("models/prompt_distillation_trl", str(distilled[0]))
    answer = run(sys.executable, "-c", block).stdout.strip().splitlines()[-1]
    assert answer in "ar de el en es fr hi ru tr ur vi zh ot".split()


CHAT = '{"messages": [{"role": "user", "content": "hola"}, {"role": "assistant", "content": "es"}]}\n'
BAD_TRAINING = {
    "empty": ("", "train.jsonl: no rows"),
    "not JSON": (CHAT + "hola\n", "train.jsonl:2: not JSON"),
    "no messages": (CHAT + '{"text": "hola"}\n', "train.jsonl:2: not chat format"),
    "no answer": (CHAT + '{"messages": [{"role": "user", "content": "hola"}]}\n', "train.jsonl:2: the last message"),
    "unknown role": (CHAT.replace("user", "human"), "train.jsonl:1: unknown role"),
    "empty answer": (CHAT.replace('"es"', '" "'), "train.jsonl:1: the last message"),
    "no question": ('{"messages": [{"role": "assistant", "content": "es"}]}\n', "train.jsonl:1: an answer without"),
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


BAD_TRAIN_FLAGS = {
    "missing file": (["--train_file", "/nowhere.jsonl"], "/nowhere.jsonl"),
    "missing model": (["--model_name", "./no-model"], "./no-model"),
    "unknown flag": (["--no_such_flag", "3"], "--no_such_flag"),
    "not a number": (["--learning_rate", "fast"], "--learning_rate"),
    "rank 0": (["--lora_rank", "0"], "--lora_rank 0"),
    "4 bits": (["--load_in_4bit", "true"], "fused experts cannot be loaded in 4 bits"),
    "dropout in words": (["--lora_dropout", "some"], "--lora_dropout"),
    "eval file and fraction": (["--eval_file", "a", "--eval_fraction", "0.1"], "--eval_fraction 0.1"),
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


BAD_EVALUATION = {
    "missing file": (["--test_file", "/nowhere.jsonl"], "/nowhere.jsonl"),
    "missing model": (["--teacher_model", "./no-model"], "./no-model"),
    "missing adapter": (["--adapter", "/nowhere"], "/nowhere: no adapter"),
    "not a label": ([], "test.jsonl:2: gold answer 'xx'"),
}


@pytest.mark.parametrize(("flags", "named"), BAD_EVALUATION.values(), ids=BAD_EVALUATION)
def test_evaluation_refuses_bad_input(flags, named, tmp_path):
    test_file = tmp_path / "test.jsonl"
    test_file.write_text(CHAT + ("" if flags else CHAT.replace('"es"', '"xx"')))
    assert named in fails("evaluate.py", "--test_file", test_file, *flags)
