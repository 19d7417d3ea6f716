"""The flywheel of docs/cascade.md: what one adapter hands over, the next one has learned.

The commands are those of the document, with the tiny pair on vLLM's servers.
"""

import json
import re
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from cascade_server import cascade
from helpers import ROOT, SENTENCES, STUDENT, TEACHER, last_json, python, read_jsonl
from vllm_server import server

PAGE = ROOT / "docs" / "cascade.md"
GOLD = ROOT / "example-data" / "multilingual_gold.jsonl"
TASK = ROOT / "example-data" / "language_classification.yaml"
TINY = ["--config", ROOT / "configs" / "tiny.yaml"]
# Sentences by their lines: those that were labelled first, of the round (some of which were
# labelled), of the report in between, and those that neither student has seen.
LABELLED = slice(0, 300)
ROUND = slice(270, 1200)
REPORT = slice(1400, 1500)
OTHERS = slice(1500, 1900)
AT_ONCE = 16  # clients


def documented(section):
    """The commands of a section of the page, each as words."""
    text = PAGE.read_text("utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        lines += block.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


@dataclass
class Flywheel:
    """The names of the page, and what stands for them here."""

    folder: object
    names: dict

    def words(self, command):
        """The words behind the script's name, as they are typed here."""
        found = []
        for word in command[2:]:
            here = re.sub(r"\b(data|models)/", f"{self.folder}/", word)
            found.append(str(self.names.get(word, here)))
        return found

    def train(self, command):
        """The same as train_trl.sh, which only replaces itself by the script."""
        student, adapter, rows, *flags = self.words(command)
        names = ["--model_name", student, "--output_dir", adapter, "--train_file", rows]
        return python("train_sft_trl.py", *names, *flags, *TINY)

    def serve(self, log, command):
        """serve.py, with what the tiny teacher needs."""
        return cascade(self.folder / log, *self.words(command), "--max_tokens", 128)


def ask_all(served, texts):
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [reply.parse() for reply in pool.map(served.ask, texts)]


def handed_over(replies):
    """The share of the requests that the teacher was asked for."""
    return sum(reply.cascade["handed_over"] for reply in replies) / len(replies)


def right(replies):
    """The share of the answers to OTHERS that are gold's, whoever answered."""
    gold = [row["messages"][-1]["content"] for row in read_jsonl(GOLD)[OTHERS]]
    found = [reply.choices[0].message.content for reply in replies]
    return sum(one == other for one, other in zip(found, gold, strict=True)) / len(gold)


def first_adapter(flywheel, lines, teacher):
    """Trained on few rows of the teacher's server."""
    inputs = flywheel.folder / "in.txt"
    inputs.write_text("".join(f"{line}\n" for line in lines[LABELLED]), encoding="utf-8")
    labels = flywheel.folder / "labels.jsonl"
    flags = ["--input_file", inputs, "--output_file", labels, "--max_tokens", 128]
    flags += ["--teacher_url", teacher.base_url, "--model_name", "teacher"]
    python("create_data.py", *flags, "--teacher_tokenizer", TEACHER)
    flags = ["--model_name", STUDENT, "--train_file", labels, "--calibration_fraction", 0.3]
    python("train_sft_trl.py", *flags, "--output_dir", flywheel.folder / "first", *TINY)
    merging = ["--output_dir", flywheel.folder / "first-merged"]
    python("merge_adapter.py", "--adapter", flywheel.folder / "first", *merging)


def calibrate(flywheel, student):
    """Step 3 on the student's server: a fifth of the calibration rows goes to the teacher."""
    adapter = flywheel.folder / "first"
    test_file = flywheel.folder / "test.jsonl"
    rows = GOLD.read_text("utf-8").splitlines(keepends=True)[REPORT]
    test_file.write_text("".join(rows), encoding="utf-8")
    flags = ["--systems", "student", "--adapter", adapter, "--student_model", STUDENT]
    flags += ["--student_url", student.base_url, "--test_file", test_file, "--latency_rows", 1]
    flags += ["--student_tokenizer", flywheel.folder / "first-merged", "--hand_over", 0.2]
    python("evaluate.py", *flags, "--calibration_file", adapter / "calibration.jsonl")
    return json.loads((adapter / "calibration.json").read_text())


class Stopwatch:
    def __init__(self):
        self.t = time.perf_counter()

    def __call__(self, what):
        now = time.perf_counter()
        print(f"## {what} {now - self.t:.1f}", flush=True)
        self.t = now


@pytest.mark.slow
def test_what_is_handed_over_is_learned(pair, tmp_path):
    watch = Stopwatch()
    collecting, training, merging, comparing = documented("The flywheel")
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    names = {"MODEL": STUDENT, "TEACHER": TEACHER, "TASK.yaml": TASK}
    flywheel = Flywheel(tmp_path, names)
    thinking = ["--served-model-name", "teacher", "--reasoning-parser", "qwen3"]
    with server(tmp_path / "teacher.log", TEACHER, *thinking) as teacher:
        names["TEACHER_URL"] = teacher.base_url
        watch("teacher")
        first_adapter(flywheel, lines, teacher)
        watch("first_adapter")
        named = ["--served-model-name", "student"]
        with server(tmp_path / "first.log", tmp_path / "first-merged", *named) as student:
            names["STUDENT_URL"] = student.base_url
            watch("server")
            calibration = calibrate(flywheel, student)
            watch("calibrate")
            with flywheel.serve("collecting.log", collecting) as served:
                watch("serve")
                ask_all(served, [*lines[ROUND], *lines[ROUND][:100]])
                watch("round")
                collected = read_jsonl(tmp_path / "handed_over.jsonl")
                result = flywheel.train(training)
                watch("train")
                before = ask_all(served, lines[OTHERS])
                watch("others")
        flywheel_words = flywheel.words(merging)
        python("merge_adapter.py", *flywheel_words)
        names["TEMPERATURE"] = calibration["temperature"]
        names["THRESHOLD"] = calibration["threshold"]
        watch("merge")
        with server(tmp_path / "second.log", tmp_path / "second-merged", *named) as student:
            names["STUDENT_URL"] = student.base_url
            watch("server")
            with flywheel.serve("comparing.log", comparing) as served:
                after = ask_all(served, lines[OTHERS])
                watch("others")
    inputs = [row["messages"][0]["content"] for row in collected]
    assert len(set(inputs)) == len(inputs)
    print(result.stderr)
    print(calibration["threshold"], calibration["temperature"], calibration["rows"])
    print(len(collected), last_json(result))
    for replies in (before, after):
        print(f"{handed_over(replies):.3f} handed over, {right(replies):.3f} right")
    assert 0
