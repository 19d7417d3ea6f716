"""The three scripts on the tiny pair, each as a user runs it: real vLLM, real TRL."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEACHER, STUDENT = ROOT / "models" / "tiny-thinking", ROOT / "models" / "tiny-instruct"


def run(*command, code=0):
    """Run a command from another directory than the repository's; returns the finished process."""
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd="/", env=os.environ)
    assert result.returncode == code, result.stdout[-2000:] + result.stderr[-4000:]
    return result


def last_json(result):
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def pair():
    run(sys.executable, ROOT / "tests" / "tiny_pair.py")


@pytest.fixture(scope="session")
def labelled(pair, tmp_path_factory):
    """Step 1 over all sentences: (output file, JSON line)."""
    output = tmp_path_factory.mktemp("data") / "labels.jsonl"
    source = ROOT / "example-data" / "multilingual.txt"
    flags = ["--model_name", TEACHER, "--input_file", source, "--output_file", output, "--max_tokens", 256]
    return output, last_json(run(sys.executable, ROOT / "create_data.py", *flags))


@pytest.fixture(scope="session")
def distilled(labelled, tmp_path_factory):
    """Step 2 on what step 1 wrote: (adapter directory, JSON line)."""
    adapter = tmp_path_factory.mktemp("adapter") / "out"
    config = ["--config", ROOT / "configs" / "tiny.yaml"]
    return adapter, last_json(run("bash", ROOT / "train_trl.sh", STUDENT, adapter, labelled[0], *config))


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
def test_finished_output_is_kept(labelled):
    output, _ = labelled
    before = output.read_bytes()
    source = ROOT / "example-data" / "multilingual.txt"
    flags = ["--model_name", TEACHER, "--input_file", source, "--output_file", output]
    result = run(sys.executable, ROOT / "create_data.py", *flags, code=2)
    assert "--overwrite" in result.stderr and output.read_bytes() == before


@pytest.mark.slow
def test_student_learns_the_task_without_the_prompt(distilled):
    adapter, trained = distilled
    assert trained["steps"] >= 100
    flags = ["--teacher_model", TEACHER, "--student_model", STUDENT, "--adapter", adapter, "--max_tokens", 256]
    test_file = ["--test_file", ROOT / "example-data" / "heldout.jsonl"]
    report = last_json(run(sys.executable, ROOT / "evaluate.py", *flags, *test_file))
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


def fails(script, *flags):
    """Run a script that must refuse: exit code 2 and one line on stderr, which is returned."""
    result = run(sys.executable, ROOT / script, *flags, code=2)
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stdout == ""
    return result.stderr


BAD_DATA = {
    "missing input": (["--input_file", "/nowhere.txt"], "/nowhere.txt"),
    "missing task": (["--task", "/nowhere.yaml"], "/nowhere.yaml"),
    "missing model": (["--model_name", "./no-model"], "./no-model"),
    "bad shard": (["--shard", "2/2"], "--shard"),
    "negative retries": (["--max_retries", "-1"], "--max_retries"),
}


@pytest.mark.parametrize(("flags", "named"), BAD_DATA.values(), ids=BAD_DATA)
def test_create_data_refuses_bad_input(flags, named, tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("hola\n")
    defaults = ["--input_file", source, "--output_file", tmp_path / "out.jsonl"]
    assert named in fails("create_data.py", *defaults, *flags)
    assert [p.name for p in tmp_path.iterdir()] == ["in.txt"]


BAD_FILES = {
    "empty": (b"", "in.txt: no inputs"),
    "not UTF-8": (b"a\n\xff\n", "in.txt:2"),
    "blank lines": (b"\n \n", "in.txt: no inputs"),
}


@pytest.mark.parametrize(("content", "named"), BAD_FILES.values(), ids=BAD_FILES)
def test_create_data_refuses_a_bad_file(content, named, tmp_path):
    source = tmp_path / "in.txt"
    source.write_bytes(content)
    assert named in fails("create_data.py", "--input_file", source, "--output_file", tmp_path / "out.jsonl")


def test_an_unknown_flag_deletes_nothing(tmp_path):
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("hola\n")
    output.write_text("finished\n")
    flags = ["--input_file", source, "--output_file", output, "--overwrite", "--no_such_flag", "3"]
    assert "no_such_flag" in fails("create_data.py", *flags).replace("-", "_")
    assert output.read_text() == "finished\n"


CHAT = '{"messages": [{"role": "user", "content": "hola"}, {"role": "assistant", "content": "es"}]}\n'
BAD_TRAINING = {
    "empty": ("", "train.jsonl: no rows"),
    "not JSON": (CHAT + "hola\n", "train.jsonl:2: not JSON"),
    "no messages": (CHAT + '{"text": "hola"}\n', "train.jsonl:2: not chat format"),
    "no answer": (CHAT + '{"messages": [{"role": "user", "content": "hola"}]}\n', "train.jsonl:2: the last message"),
    "unknown role": (CHAT.replace("user", "human"), "train.jsonl:1: unknown role"),
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
