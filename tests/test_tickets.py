"""The second example, example-data/tickets/: its files, and the way from CSV to a report."""

import csv

import pytest

from distill.chats import read_gold, read_input_rows
from distill.columns import Columns
from distill.task import load_task
from helpers import ROOT, read_jsonl

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
