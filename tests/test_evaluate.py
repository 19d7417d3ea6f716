"""The figures of evaluate.py on answers whose scores are known by hand."""

import json
from types import SimpleNamespace

import pytest

from conftest import ROOT, fails, last_json, python
from evaluate import mcnemar, score, table

PRICES = SimpleNamespace(price_input=1.0, price_cached=0.1, price_output=4.0)


def result(answers):
    tokens = {"prompt_tokens": [10] * 4, "cached_tokens": [4] * 4, "output_tokens": [1, 2, 2, 3]}
    return {"answers": answers, **tokens, "latencies": [0.1, 0.2, 0.3], "rows_per_second": 5.0}


def test_score():
    metrics = score(result(["en", "de", None, "fr"]), ["en", "de", "fr", "de"], ["en", None, "fr", "fr"], PRICES)
    assert (metrics["correct"], metrics["accuracy"], metrics["unreadable"]) == (2, 0.5, 1)
    # Wilson's interval for 2 of 4 at z = 1.96: (0.5 + 1.92 / 4 -+ 1.96 * sqrt(0.0625 + 0.96 / 16)) / (1 + 3.84 / 4)
    assert metrics["accuracy_interval"] == pytest.approx([0.150, 0.850], abs=1e-3)
    assert metrics["agreement"] == pytest.approx(2 / 3)  # of the rows that the teacher answered
    assert metrics["per_label"]["de"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "rows": 2.0}
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert (metrics["tokens"], metrics["latency_s"]) == (12, pytest.approx(0.2))
    assert metrics["latency_p95_s"] == pytest.approx(0.29)
    assert metrics["cost_per_million"] == pytest.approx(6 * 1.0 + 4 * 0.1 + 2 * 4.0)
    text = table({"teacher": metrics, "student": metrics}, 4)
    assert "50.0% (2; 15.0% to 85.0%)" in text and text.count("1.0x") == 2


def test_mcnemar_counts_the_rows_that_only_one_gets_right():
    gold = list("abcdefgh")
    found = mcnemar(gold[:6] + ["x", "x"], ["a", *"xxxxx", "g", "x"], gold)
    # 5 against 1 of 6 discordant rows: two-sided binomial, 2 * (1 + 6) / 64
    assert found == {"only_student": 5, "only_teacher": 1, "p_value": pytest.approx(14 / 64)}
    assert mcnemar(gold, gold, gold)["p_value"] == 1.0


def test_labels_are_scored_against_gold(tmp_path):
    gold = ROOT / "example-data" / "multilingual_gold.jsonl"
    rows = [json.loads(line) for line in gold.read_text(encoding="utf-8").splitlines()]
    labels = tmp_path / "labels.jsonl"
    rows[0]["messages"][1]["content"] = "zh"  # one wrong, one rejected, in another order
    labels.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows[:-1])), encoding="utf-8")
    found = last_json(python("evaluate.py", "--labels", labels, "--gold", gold))
    assert (found["rows"], found["correct"], found["unreadable"]) == (2101, 2099, 1)
    assert found["per_label"]["ar"]["recall"] == pytest.approx(1 - 1 / found["per_label"]["ar"]["rows"])
    heldout = ROOT / "example-data" / "heldout.jsonl"
    assert "has no input of" in fails("evaluate.py", "--labels", labels, "--gold", heldout)
