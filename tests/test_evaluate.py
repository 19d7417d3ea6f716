"""Step 3 as a user runs it, without a model: bad input, Ctrl-C, and what the report holds."""

import json
import signal
import subprocess
import sys

import pytest

from chat_rows import chat, write
from distill.evaluation.scores import Prices
from helpers import ENDS, ROOT, fails, last_json, python, qwen_tokenizer, read_jsonl

TASK = ROOT / "example-data" / "language_classification.yaml"
PRICES = Prices(input=1.0, cached=0.1, output=4.0)


HOLA = chat("hola", "es")
BAD_EVALUATION = {
    "missing file": ([], ["--test_file", "/nowhere.jsonl"], "/nowhere.jsonl"),
    "no rows": ([], [], "test.jsonl: no rows"),
    "not a label": ([HOLA, chat("hola", "xx")], [], "test.jsonl:2: gold answer 'xx'"),
    "row without gold": (
        [HOLA, {"messages": HOLA["messages"][:1]}],
        [],
        "test.jsonl:2: the last message must be from",
    ),
    "gold without a question": (
        [{"messages": HOLA["messages"][1:]}],
        [],
        "test.jsonl:1: an answer without a question",
    ),
    "kind is a number": ([chat("hola", "es", kind=3)], [], "test.jsonl:1: 'kind'"),
    "missing teacher": ([HOLA], ["--teacher_model", "./no-model"], "./no-model: no model here"),
    "missing student": ([HOLA], ["--student_model", "./no-model"], "./no-model: no model here"),
    "missing adapter": ([HOLA], ["--adapter", "/nowhere"], "/nowhere: no adapter"),
    "adapter of another base": (
        [HOLA],
        ["--student_model", "some/other"],
        "adapter of some/base, not of --student_model",
    ),
    "teacher's answers missing": (
        [HOLA],
        ["--teacher_answers", "/nowhere.jsonl"],
        "/nowhere.jsonl: No such file",
    ),
    "teacher's answers to other rows": (
        [HOLA],
        ["--teacher_answers", "GOLD"],
        "has no answer for 'hola'",
    ),
    "teacher's answers without teacher": (
        [HOLA],
        ["--systems", "student", "--teacher_answers", "x"],
        "--systems leaves the teacher out",
    ),
    "teacher without a chat template": (
        [HOLA],
        ["--systems", "teacher", "--teacher_model", "TEACHER", "--reasoning_parser", "none"],
        "the tokenizer has no chat template",
    ),
    "inputs without gold missing": (
        [HOLA],
        ["--inputs_without_gold", "/nowhere.txt"],
        "/nowhere.txt",
    ),
    "unknown system": ([HOLA], ["--systems", "teacher,pupil"], "'pupil' is none of"),
    "no latency": ([HOLA], ["--latency_rows", "0"], "--latency_rows 0: must be at least 1"),
    "labels without gold": ([], ["--labels", "x"], "--labels and --gold go together"),
    "labels missing": (
        [],
        ["--labels", "/nowhere.jsonl", "--gold", "GOLD"],
        "/nowhere.jsonl: No such file",
    ),
    "report cannot be written": (
        [HOLA],
        ["--report_dir", "GOLD"],
        "multilingual_gold.jsonl/report.md: cannot be written",
    ),
    "unknown flag": ([HOLA], ["--no_such_flag", "1"], "unrecognized arguments: --no-such-flag"),
}


@pytest.mark.parametrize(("rows", "flags", "named"), BAD_EVALUATION.values(), ids=BAD_EVALUATION)
def test_bad_input_is_refused_before_a_model_is_loaded(rows, flags, named, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    defaults = ["--test_file", write(tmp_path / "test.jsonl", *rows), "--adapter", adapter]
    defaults += ["--teacher_model", "some/teacher", "--student_model", "some/base"]
    named_files = {
        "GOLD": ROOT / "example-data" / "multilingual_gold.jsonl",
        "TEACHER": tmp_path / "teacher",
    }
    if "TEACHER" in flags:
        qwen_tokenizer().save_pretrained(tmp_path / "teacher")
        (tmp_path / "teacher" / "config.json").write_text(
            '{"model_type": "qwen3", "transformers_version": "5.0.0"}'
        )
    flags = [named_files.get(flag, flag) for flag in flags]
    assert named in fails("evaluate.py", *defaults, *flags)
    assert [p.name for p in adapter.iterdir()] == ["adapter_config.json"]


BILL = """
prompt: Read the bill.
schema:
  type: object
  properties:
    sender: {type: string}
    amount: {type: number}
  required: [sender, amount]
"""


def test_answers_that_are_json_are_compared_as_values(tmp_path):
    """Gold and the teacher's answers are read in any order, white space and spelling of numbers."""
    task = tmp_path / "bill.yaml"
    task.write_text(BILL)
    gold = [
        chat("bill 1", '{"sender": "Mill", "amount": 1}'),
        chat("bill 2", '{"sender": "Elm", "amount": 2.5}'),
        chat("bill 3", '{"sender": "Kern", "amount": 1}'),
    ]
    answers = [
        chat("bill 1", '```json\n{"amount": 1.0, "sender": "\\u004dill"}\n```'),
        chat("bill 2", '{"sender": "Elm", "amount": 25e-1}'),
        chat("bill 3", '{"sender": "Kern", "amount": 2}'),
    ]
    flags = ["--task", task, "--test_file", write(tmp_path / "gold.jsonl", *gold)]
    flags += ["--teacher_answers", write(tmp_path / "teacher.jsonl", *answers)]
    flags += ["--systems", "teacher", "--report_dir", tmp_path / "report"]
    assert last_json(python("evaluate.py", *flags))["teacher_accuracy"] == 0.6667
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    fields = metrics["systems"]["teacher"]["per_field"]
    assert [fields["sender"]["correct"], fields["amount"]["correct"]] == [3, 2]
    for name in ("report.md", "report.html"):
        text = (tmp_path / "report" / name).read_text()
        assert "Fields" in text and "66.7 % (2 of 3; 20.8 % to 93.9 %)" in text
    [row, *_] = read_jsonl(tmp_path / "report" / "predictions.jsonl")
    assert row["teacher"]["answer"] == row["gold"] == '{"sender": "Mill", "amount": 1}'
    both = ["--labels", tmp_path / "teacher.jsonl", "--gold", tmp_path / "gold.jsonl"]
    alone = last_json(python("evaluate.py", "--task", task, *both))
    assert (alone["correct"], alone["per_field"]["amount"]["correct"]) == (2, 2)


def test_labels_from_elsewhere_have_no_known_cost(tmp_path):
    """A chat JSONL without anything beside it, in another order than gold, with a label wrong."""
    gold = [chat("hola", "es"), chat("hi", "en"), chat("salut", "fr")]
    labels = [chat("salut", "fr", id="007"), chat("hi", "de", id="2"), chat("hola", "es", id="1")]
    flags = ["--test_file", write(tmp_path / "gold.jsonl", *gold), "--systems", "teacher"]
    flags += ["--teacher_answers", write(tmp_path / "labels.jsonl", *labels)]
    process = python(
        "evaluate.py", *flags, "--price_output", 1, "--report_dir", tmp_path / "report"
    )
    summary = last_json(process)
    assert summary["teacher_accuracy"] == 0.6667
    unknown = ("tokens", "latency_s", "cost_per_million")
    assert [summary[f"teacher_{key}"] for key in unknown] == [None] * 3
    assert "systems: labels from elsewhere" in process.stderr
    row = next(line for line in process.stdout.splitlines() if line.startswith("labels from"))
    assert row.count("not known") == 3
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert [metrics["systems"]["teacher"][key] for key in unknown] == [None] * 3
    assert metrics["teacher_model"] is None
    assert metrics["labels_from_elsewhere"] is True
    for name in ("report.md", "report.html"):
        text = (tmp_path / "report" / name).read_text()
        assert text.count("not known") >= 5
        assert "labels from elsewhere (" in text
        assert "prompt and thinking" not in text


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"sender": "Mill", "amount": true}', "$.amount: True is not of type 'number'"),
        ("1 euro", "not JSON: Extra data in line 1 column 3"),
    ],
)
def test_gold_that_the_schema_does_not_allow_is_refused(answer, reason, tmp_path):
    task = tmp_path / "bill.yaml"
    task.write_text(BILL)
    rows = [chat("bill 1", '{"sender": "Mill", "amount": 1}'), chat("bill 2", answer)]
    path = write(tmp_path / "gold.jsonl", *rows)
    line = fails("evaluate.py", "--task", task, "--test_file", path)
    assert f"gold.jsonl:2: gold answer is not what the task's schema allows ({reason}" in line


def test_ctrl_c_at_once_ends_without_a_traceback():
    """While the script's modules are still read, which Python tells one by one."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "evaluate.py")]
    # it cannot go on much further than what has been read here
    pipe = {"stderr": subprocess.PIPE, "pipesize": 4096}
    process = subprocess.Popen(command, text=True, **pipe)
    for line in process.stderr:
        if line.strip().endswith("early_stop"):
            process.send_signal(signal.SIGINT)
            break
    stderr = process.communicate(timeout=ENDS)[1]
    assert process.returncode == 130 and "Traceback" not in stderr
    assert " distill.evaluation.cascade\n" not in stderr  # it did not go on to read all of them
