"""The flywheel of docs/cascade.md: what one adapter hands over, the next one has learned.

The commands are those of the document, with the tiny pair on vLLM's servers.
"""

import json
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

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
ROUND = slice(270, 600)
REPORT = slice(1400, 1440)
OTHERS = slice(1500, 1620)
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

    folder: Path
    names: dict[str, object]

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

    def serve(self, command):
        """serve.py, with what the tiny teacher needs."""
        return cascade(self.folder, *self.words(command), "--max_tokens", 128)


def ask_all(served, texts):
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [reply.parse() for reply in pool.map(served.ask, texts)]


def handed_over(replies):
    """The share of the requests that the teacher was asked for."""
    return sum(reply.cascade["handed_over"] for reply in replies) / len(replies)


def right_alone(student, texts, gold):
    """Of each input, whether a student's own answer is gold's."""

    def answer(text):
        chat = [{"role": "user", "content": text}]
        asked = {"model": "student", "messages": chat, "temperature": 0, "max_tokens": 8}
        return student.chat.completions.create(**asked).choices[0].message.content

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(answer, texts))
    return [answer == label for answer, label in zip(found, gold, strict=True)]


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
    """Step 3 on the student's server: three tenths of the calibration rows go to the teacher."""
    adapter = flywheel.folder / "first"
    test_file = flywheel.folder / "test.jsonl"
    rows = GOLD.read_text("utf-8").splitlines(keepends=True)[REPORT]
    test_file.write_text("".join(rows), encoding="utf-8")
    flags = ["--systems", "student", "--adapter", adapter, "--student_model", STUDENT]
    flags += ["--student_url", student.base_url, "--test_file", test_file, "--latency_rows", 1]
    flags += ["--student_tokenizer", flywheel.folder / "first-merged", "--hand_over", 0.3]
    python("evaluate.py", *flags, "--calibration_file", adapter / "calibration.jsonl")
    return json.loads((adapter / "calibration.json").read_text())


@pytest.mark.slow
def test_what_is_handed_over_is_learned(pair, tmp_path):
    collecting, training, merging, comparing = documented("The flywheel")
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    gold = [row["messages"][-1]["content"] for row in read_jsonl(GOLD)[OTHERS]]
    names = {"MODEL": STUDENT, "TEACHER": TEACHER, "TASK.yaml": TASK}
    flywheel = Flywheel(tmp_path, names)
    named = ["--served-model-name", "student"]
    thinking = ["--served-model-name", "teacher", "--reasoning-parser", "qwen3"]
    with server(tmp_path / "teacher.log", TEACHER, *thinking) as teacher:
        names["TEACHER_URL"] = teacher.base_url
        first_adapter(flywheel, lines, teacher)
        with server(tmp_path / "first.log", tmp_path / "first-merged", *named) as student:
            names["STUDENT_URL"] = student.base_url
            calibration = calibrate(flywheel, student)
            with flywheel.serve(collecting) as served:
                # some of them twice
                ask_all(served, [*lines[ROUND], *lines[ROUND][:40]])
                collected = read_jsonl(tmp_path / "handed_over.jsonl")
                trained = flywheel.train(training)  # on the file as it is, while it is served
                before = ask_all(served, lines[OTHERS])
            first_is_right = right_alone(student, lines[OTHERS], gold)
        python("merge_adapter.py", *flywheel.words(merging))
        names["TEMPERATURE"] = calibration["temperature"]
        names["THRESHOLD"] = calibration["threshold"]
        with server(tmp_path / "second.log", tmp_path / "second-merged", *named) as student:
            names["STUDENT_URL"] = student.base_url
            with flywheel.serve(comparing) as served:
                after = ask_all(served, lines[OTHERS])
            second_is_right = right_alone(student, lines[OTHERS], gold)
    unsure = [row for row, reply in enumerate(before) if reply.cascade["handed_over"]]
    right_before = sum(first_is_right[row] for row in unsure)
    right_after = sum(second_is_right[row] for row in unsure)
    for replies, right in ((before, right_before), (after, right_after)):  # shown by -s
        print(f"{handed_over(replies):.1%} handed over, {right} of {len(unsure)} right alone")

    inputs = [row["messages"][0]["content"] for row in collected]
    assert len(set(inputs)) == len(inputs) > 60
    rows = re.search(r" (\d+) rows of \S+/labels.jsonl and (\d+) of \S+over.jsonl,", trained.stderr)
    kept = last_json(trained)["calibration_rows"]
    assert int(rows[1]) + int(rows[2]) + kept == 300 + len(collected)
    assert f"training starts from the weights of {tmp_path / 'first'}" in trained.stderr

    # less goes to the teacher, and of what the first student had to ask, the second one knows more
    assert handed_over(before) > 0.1
    assert handed_over(after) < handed_over(before) / 2
    assert right_after > right_before
    # and it is not just sure of everything
    assert min(reply.cascade["confidence"] for reply in after) < 0.9
