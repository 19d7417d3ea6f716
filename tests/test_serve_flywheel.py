"""The flywheel of docs/cascade.md: what one adapter hands over, the next one learns.

The commands are those of the document, with the tiny pair on real servers.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cascade_server import cascade
from helpers import ROOT, SENTENCES, STUDENT, TEACHER, last_json, python, read_jsonl, run
from vllm_server import server

GOLD = ROOT / "example-data" / "multilingual_gold.jsonl"


class Stopwatch:
    def __init__(self):
        self.t = time.perf_counter()

    def __call__(self, what):
        now = time.perf_counter()
        print(f"## {what} {now - self.t:.1f}", flush=True)
        self.t = now


def ask_all(served, texts):
    with ThreadPoolExecutor(16) as pool:
        return [reply.parse() for reply in pool.map(served.ask, texts)]


def share(replies):
    return sum(reply.cascade["handed_over"] for reply in replies) / len(replies)


def answers(replies):
    return [reply.choices[0].message.content for reply in replies]


@pytest.mark.slow
def test_what_was_handed_over_is_learned(pair, tmp_path):
    watch = Stopwatch()
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    gold = [row["messages"][1]["content"] for row in read_jsonl(GOLD)]
    first_texts, users, others = lines[:300], lines[270:1200], lines[1500:1900]
    right = gold[1500:1900]
    (tmp_path / "in.txt").write_text("\n".join(first_texts) + "\n", encoding="utf-8")
    labels = tmp_path / "labels.jsonl"
    handed = tmp_path / "handed_over.jsonl"
    tiny = ["--config", ROOT / "configs" / "tiny.yaml", "--calibration_fraction", 0.2]
    serving = ["--served-model-name", "teacher", "--reasoning-parser", "qwen3"]
    with server(tmp_path / "teacher.log", TEACHER, *serving) as teacher:
        watch("teacher server")
        at = ["--teacher_url", teacher.base_url, "--teacher_tokenizer", TEACHER]
        flags = ["--model_name", "teacher", "--input_file", tmp_path / "in.txt"]
        flags += ["--max_tokens", 128, "--output_file", labels]
        print(last_json(python("create_data.py", *flags, *at)))
        watch("label")
        first = tmp_path / "first"
        p = run("bash", ROOT / "train_trl.sh", STUDENT, first, labels, *tiny)
        print(p.stderr[-1500:])
        watch("train")
        merge = ["--adapter", first, "--output_dir", tmp_path / "merged-1"]
        python("merge_adapter.py", *merge)
        watch("merge")
        url = ["--teacher_url", teacher.base_url, "--teacher_name", "teacher"]
        url += ["--teacher_tokenizer", TEACHER, "--max_tokens", 128]
        with server(
            tmp_path / "s1.log", tmp_path / "merged-1", "--served-model-name", "student"
        ) as student:
            watch("student server")
            (tmp_path / "test.jsonl").write_text(
                "\n".join(GOLD.read_text().splitlines()[1900:2000]) + "\n"
            )
            flags = ["--systems", "student", "--adapter", first, "--student_model", STUDENT]
            flags += ["--student_url", student.base_url, "--student_name", "student"]
            flags += ["--student_tokenizer", tmp_path / "merged-1", "--hand_over", 0.2]
            flags += ["--test_file", tmp_path / "test.jsonl", "--latency_rows", 1]
            print(python("evaluate.py", *flags).stderr)
            watch("evaluate")
            calibration = json.loads((first / "calibration.json").read_text())
            asks = ["--student_url", student.base_url, "--student_name", "student"]
            asks += ["--student_tokenizer", tmp_path / "merged-1", "--adapter", first]
            with cascade(tmp_path / "c1.log", *url, *asks, "--handed_over_file", handed) as served:
                watch("serve")
                round_1 = ask_all(served, [*users, *users[:50]])
                print("handed over", share(round_1), len(read_jsonl(handed)))
                watch("round")
                second = tmp_path / "second"
                both = f"{labels},{handed}"
                more = ["--init_adapter", first, "--on_conflict", "last"]
                p = run("bash", ROOT / "train_trl.sh", STUDENT, second, both, *more, *tiny)
                print(p.stderr[-2500:])
                watch("train 2")
                before = ask_all(served, others)
                watch("others")
        python("merge_adapter.py", "--adapter", second, "--output_dir", tmp_path / "merged-2")
        with server(
            tmp_path / "s2.log", tmp_path / "merged-2", "--served-model-name", "student"
        ) as student:
            watch("student server 2")
            asks = ["--student_url", student.base_url, "--student_name", "student"]
            asks += ["--student_tokenizer", tmp_path / "merged-2"]
            asks += ["--temperature", calibration["temperature"]]
            asks += ["--threshold", calibration["threshold"]]
            with cascade(tmp_path / "c2.log", *url, *asks) as served:
                after = ask_all(served, others)
                watch("others 2")
    for replies in (before, after):
        found = answers(replies)
        print(
            share(replies),
            sum(a == b for a, b in zip(found, right)) / len(right),
            sum(a == b for a, b, r in zip(found, right, replies) if not r.cascade["handed_over"])
            / sum(not r.cascade["handed_over"] for r in replies),
        )
    assert 0
