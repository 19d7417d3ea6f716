"""The second example, example-data/tickets/: its files, and the way from CSV to a report."""

import csv

import pytest

from chat_rows import write
from distill.chats import read_gold, read_input_rows
from distill.columns import Columns
from distill.task import load_task
from helpers import ROOT, last_json, python, read_jsonl

TICKETS = ROOT / "example-data" / "tickets"
TEMPLATE = r"{subject}\n\n{body}"
INPUTS = Columns(text_template=TEMPLATE, id_column="id")
GOLD = Columns(text_template=TEMPLATE, id_column="id", label_column="label")


@pytest.fixture(scope="module")
def tickets():
    """The rows of tickets.csv as step 1 reads them."""
    return list(read_input_rows(str(TICKETS / "tickets.csv"), INPUTS))


@pytest.fixture(scope="module")
def gold():
    """The rows of gold.csv as step 3 reads them."""
    return list(read_gold(str(TICKETS / "gold.csv"), GOLD))


def test_the_files_hold_what_their_readme_says(tickets, gold):
    task = load_task(TICKETS / "tickets.yaml")
    assert len(task.prompt.split()) >= 600
    assert len(task.labels) == 7
    assert len(tickets) == 300
    assert len(gold) == 100
    ids = [row.id for row in tickets] + [row.id for row in gold]
    assert len(set(ids)) == 400
    assert any(found.startswith("0") for found in ids)
    texts = [row.messages[0]["content"] for row in tickets] + [
        row.chat[0]["content"] for row in gold
    ]
    assert len(set(texts)) == 400


def test_tickets_have_the_length_of_tickets():
    for name in ("tickets.csv", "gold.csv"):
        with open(TICKETS / name, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                assert 15 <= len(row["body"].split()) <= 80, row["id"]


def test_the_shipped_labels_are_what_step_1_would_write(tickets):
    labels = load_task(TICKETS / "tickets.yaml").labels
    rows = read_jsonl(TICKETS / "labels.jsonl")
    assert [list(row) for row in rows] == [["id", "messages"]] * 300
    assert [row["id"] for row in rows] == [ticket.id for ticket in tickets]
    assert [row["messages"][:-1] for row in rows] == [ticket.messages for ticket in tickets]
    answers = [row["messages"][-1] for row in rows]
    assert {answer["role"] for answer in answers} == {"assistant"}
    given = [answer["content"] for answer in answers]
    assert set(given) == set(labels)
    assert min(given.count(label) for label in labels) >= 20


def test_gold_has_all_labels(gold):
    labels = load_task(TICKETS / "tickets.yaml").labels
    given = [row.gold for row in gold]
    assert set(given) == set(labels)
    assert min(given.count(label) for label in labels) >= 8


@pytest.fixture(scope="module")
def smollm2():
    """The student of the walk, a real instruct model."""
    python("example-data/tickets/get_student.py")
    return ROOT / "models" / "smollm2"


@pytest.mark.slow
def test_the_way_from_a_table_to_an_answer_for_every_row(smollm2, tmp_path):
    """As the README walks it, with 20 short steps and 8 rows of gold."""
    task = ["--task", TICKETS / "tickets.yaml"]
    table = ["--id_column", "id", "--text_template", TEMPLATE]
    inputs = ["--input_file", TICKETS / "tickets.csv", "--output_file", tmp_path / "out.jsonl"]
    expected = last_json(python("create_data.py", *task, *inputs, *table, "--dry_run"))
    assert (expected["inputs"], expected["requests"]) == (300, 300)

    adapter = tmp_path / "adapter"
    training = ["--model_name", smollm2, "--train_file", TICKETS / "labels.jsonl"]
    training += ["--output_dir", adapter, "--config", ROOT / "configs" / "small_dense.yaml"]
    training += ["--use_cpu", "true", "--bf16", "false", "--save_strategy", "no"]
    few = ["--max_steps", 20, "--per_device_train_batch_size", 1]
    trained = python("train_sft_trl.py", *training, *few)
    assert (last_json(trained)["rows"], last_json(trained)["steps"]) == (300, 20)
    assert "--systems base,student --task TASK.yaml" in trained.stderr.splitlines()[-1]

    chosen = list(read_gold(str(TICKETS / "gold.csv"), GOLD))[:8]
    other = "other" if chosen[0].gold != "other" else "billing"
    answers = [other] + [row.gold for row in chosen[1:]]
    rows = []
    for row, answer in zip(chosen, answers, strict=True):
        message = {"role": "assistant", "content": answer}
        rows.append({"id": row.id, "messages": [*row.chat, message]})
    labels = write(tmp_path / "labels.jsonl", *reversed(rows))
    test = ["--test_file", TICKETS / "gold.csv", "--label_column", "label", "--limit", 8]
    models = ["--student_model", smollm2, "--adapter", adapter, "--systems", "teacher,student"]
    few = [
        "--serve_adapter",
        "merged",
        "--latency_rows",
        1,
        "--check_rows",
        1,
        "--student_max_tokens",
        4,
    ]
    flags = [*task, *test, *table, *models, "--teacher_answers", labels, *few]
    found = last_json(python("evaluate.py", *flags, "--max_model_len", 512))
    assert found["rows"] == 8
    assert found["teacher_accuracy"] == pytest.approx(7 / 8, abs=1e-4)
    assert found["teacher_tokens"] is None
    assert found["student_tokens"] > 20
    predictions = read_jsonl(adapter / "report" / "predictions.jsonl")
    assert [row["id"] for row in predictions] == [row.id for row in chosen]
    assert [row["teacher"]["answer"] for row in predictions] == answers

    answered = tmp_path / "answered.csv"
    asked = ["--input_file", TICKETS / "tickets.csv", "--output_file", answered, "--limit", 5]
    asked += ["--max_tokens", 4, "--max_model_len", 512, "--min_success_rate", 0]
    assert last_json(python("predict.py", *task, *table, *asked, "--adapter", adapter))["rows"] == 5
    with open(answered, encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    ids = [row.id for row in read_input_rows(str(TICKETS / "tickets.csv"), INPUTS)]
    assert [row["id"] for row in found] == ids[:5]
    # without the end of its turn an answer of a student with so little training has none
    sure = [float(row["confidence"]) for row in found if row["confidence"]]
    assert all(0 < confidence <= 1 for confidence in sure)
    assert all(row["answer"] or row["reason"] for row in found)
