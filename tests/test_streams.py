"""What is printed ends no run: terminals that know ASCII alone, readers that go away, and python
-O. No engine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import create_data
from distill.labels.inputs import scan_inputs
from distill.labels.journal import Journal
from distill.labels.run import header_of
from distill.task import load_task
from helpers import ROOT, last_json, program, run

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
LABELS = ["普通话", "😀"]
TASK = "prompt: Sort.\nlabels: [普通话, 😀]\n"
GUARDED = {"temperature": 0.6, "structured_outputs": "x"}
PLAIN = {"temperature": 0.15}
ATTEMPT = {
    "response": "</think>Ä",
    "prompt_tokens": 9,
    "cached_tokens": 8,
    "output_tokens": 3,
    "thinking_cut": False,
}


@pytest.fixture
def decided(tmp_path):
    """Step 1's flags where all inputs are decided, so that it only writes its results: without a
    model.
    """
    folder = tmp_path / "größe"
    folder.mkdir()
    (tmp_path / "config.json").write_text("{}")
    (folder / "in.txt").write_text("één\nδύο\n三\n", encoding="utf-8")
    (folder / "task.yaml").write_text(
        json.dumps({"prompt": "Sort.", "labels": LABELS}, ensure_ascii=False), encoding="utf-8"
    )
    flags = [
        "--input_file",
        folder / "in.txt",
        "--output_file",
        folder / "out.jsonl",
        "--model_name",
        tmp_path,
    ]
    flags += ["--task", folder / "task.yaml"]
    decide_all([str(flag) for flag in flags])
    return folder, [sys.executable, ROOT / "create_data.py", *flags]


def decide_all(flags):
    """Journal all inputs under the header that create_data.py itself would write."""
    choices = create_data.parse_args(flags)
    inputs = scan_inputs(choices.input_file)
    header = header_of(choices, load_task(choices.task_file), inputs)
    journal = Journal(Path(choices.output_file), header, inputs)
    journal.open()
    journal.start()
    for index, sampling in enumerate((PLAIN, GUARDED, PLAIN)):
        answer = LABELS[index % 2]
        attempts = [{**ATTEMPT, "answer": answer, "sampling": sampling}]
        journal.record(index, answer=answer, reason=None, seconds=1.0, attempts=attempts)
    journal.file.close()


def without_reader(command, closed, **environment):
    """Run a command of which nobody reads `closed`, stdout or stderr.

    Returns its exit code and the other stream.
    """
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writing}
    command = [str(part) for part in command]
    process = subprocess.run(
        command, **streams, text=True, cwd="/", env={**os.environ, **environment}
    )
    os.close(writing)
    return process.returncode, process.stdout or process.stderr or ""


def test_step_1_on_a_terminal_that_knows_ascii_alone(decided):
    folder, command = decided
    result = run(*command, env={**os.environ, **ASCII})
    summary = last_json(result)
    assert (summary["answers"], summary["guarded_answers"], summary["guarded_share"]) == (
        3,
        1,
        0.3333,
    )
    assert "1 of 3 answers were guarded after a failed attempt" in result.stderr
    assert "Traceback" not in result.stderr
    rows = [
        json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["messages"][1]["content"] for row in rows] == ["普通话", "😀", "普通话"]
    again = run(*command, env={**os.environ, **ASCII}, code=2).stderr
    assert "out.jsonl: exists and is finished" in again and again.isascii()


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_step_1_without_a_reader(decided, closed):
    folder, command = decided
    code, other = without_reader(command, closed)
    assert code == 0 and "Traceback" not in other and "BrokenPipe" not in other
    assert (folder / "out.jsonl.manifest.json").exists()
    if closed == "stderr":
        assert json.loads(other.splitlines()[-1])["rows"] == 3


def test_step_1_without_asserts(decided):
    folder, command = decided
    python, *rest = command
    assert last_json(run(python, "-O", *rest))["rows"] == 3
    bad = run(python, "-O", *rest, "--shard", "2/2", code=2).stderr
    assert "--shard 2/2: expected i/n" in bad


def test_a_file_name_that_is_not_utf8_is_written_as_an_escape(decided):
    folder, command = decided
    name = os.fsencode(folder) + b"/in\xff.txt"
    os.rename(folder / "in.txt", name)
    command[command.index(folder / "in.txt")] = os.fsdecode(name)
    assert last_json(run(*command))["rows"] == 3
    manifest = json.loads((folder / "out.jsonl.manifest.json").read_text(encoding="utf-8"))
    assert manifest["input_file"].endswith("in\udcff.txt")


def test_inputs_that_change_after_they_were_labelled(decided):
    """Nothing is written, and the same command continues once the file is back."""
    folder, command = decided
    source = folder / "in.txt"
    content = source.read_text(encoding="utf-8")
    said = run(*program("change_inputs_late.py", *command[1:]), code=1).stderr
    assert (
        "in.txt:1: has changed since this run has begun; bring the file back" in said
        and said.count("\n") == 1
    )
    assert sorted(path.name for path in folder.glob("out*")) == ["out.jsonl.trace.jsonl"]
    assert "the inputs have changed; --reuse same keeps" in run(*command, code=2).stderr
    source.write_text(content, encoding="utf-8")
    assert last_json(run(*command))["rows"] == 3


@pytest.fixture
def gold(tmp_path):
    """Step 3's flags for the teacher's answers alone: without a model."""
    rows = [
        {"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": t}]}
        for t in LABELS
    ]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(
        json.dumps({"prompt": "Sort.", "labels": LABELS}, ensure_ascii=False), encoding="utf-8"
    )
    return tmp_path, [sys.executable, ROOT / "evaluate.py"]


def test_step_3_on_a_terminal_that_knows_ascii_alone(gold):
    folder, command = gold
    labels = [
        "--labels",
        folder / "gold.jsonl",
        "--gold",
        folder / "gold.jsonl",
        "--task",
        folder / "task.yaml",
    ]
    assert set(last_json(run(*command, *labels, env={**os.environ, **ASCII}))["per_label"]) == set(
        LABELS
    )


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_step_3_without_a_reader(gold, closed):
    folder, command = gold
    flags = [
        "--task",
        folder / "task.yaml",
        "--test_file",
        folder / "gold.jsonl",
        "--systems",
        "teacher",
    ]
    flags += ["--teacher_answers", folder / "gold.jsonl", "--report_dir", folder / "report"]
    code, other = without_reader([*command, *flags], closed, **ASCII)
    assert code == 0, other
    assert "Traceback" not in other and (folder / "report" / "report.html").exists()
    if closed == "stderr":
        assert json.loads(other.splitlines()[-1])["teacher_accuracy"] == 1


def test_a_progress_bar_outlives_its_reader():
    """A bar, a log and an own exit code, of which the first write already fails."""
    for closed in ("stdout", "stderr"):
        for environment in ({}, ASCII):
            code, other = without_reader(program("show_progress.py"), closed, **environment)
            assert code == 7 and "Broken" not in other and "Exception" not in other
