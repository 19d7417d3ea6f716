"""Step 3 as a user runs it, without a model: bad input, Ctrl-C, and what the report holds."""

import signal
import subprocess
import sys

import pytest

from chat_rows import chat, write
from distill.evaluation.scores import Prices
from helpers import ENDS, ROOT, fails, qwen_tokenizer

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


def test_ctrl_c_at_once_ends_without_a_traceback():
    """While the script's modules are still read, which Python tells one by one."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "evaluate.py")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.strip().endswith("early_stop"):
            process.send_signal(signal.SIGINT)
            break
    stderr = process.communicate(timeout=ENDS)[1]
    assert process.returncode == 130 and "Traceback" not in stderr
    assert " journal" not in stderr  # it did not go on to read all of them
