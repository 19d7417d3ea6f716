"""The figures of an evaluation on answers whose scores are known by hand."""

import pytest

from distill.evaluation.headlines import headlines
from distill.evaluation.scores import Prices, mcnemar, measure, quality
from distill.evaluation.tables import overview, tables
from distill.evaluation.verdict import verdict

PRICES = Prices(input=1.0, cached=0.1, output=4.0)


def result(answers, **further):
    tokens = {"prompt_tokens": [10] * 4, "cached_tokens": [4] * 4, "output_tokens": [1, 2, 2, 3]}
    return {
        "answers": answers,
        **tokens,
        "latencies": [0.1, 0.2, 0.3],
        "rows_per_second": 5.0,
        **further,
    }


@pytest.fixture
def measured():
    """The figures of a teacher and a student on four rows of two kinds."""
    gold = ["en", "de", "fr", "de"]
    teacher = result(["en", None, "fr", "fr"], latencies=[1.0])
    student = result(["en", "de", None, "fr"])
    kinds = ["a", "a", "b", None]
    return measure({"teacher": teacher, "student": student}, gold, kinds, True, PRICES)


def test_figures_of_quality(measured):
    found = measured["systems"]["student"]
    assert (found["rows"], found["correct"], found["accuracy"], found["unreadable"]) == (
        4,
        2,
        0.5,
        1,
    )
    # Wilson's interval for 2 of 4 at z = 1.96: (0.5 + 1.92 / 4 -+ 1.96 * sqrt(0.0625 + 0.96 / 16))
    # / (1 + 3.84 / 4)
    assert found["accuracy_interval"] == pytest.approx([0.150, 0.850], abs=1e-3)
    assert found["agreement"] == pytest.approx(2 / 3)  # of the rows that the teacher answered
    assert found["per_label"]["de"] == {
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "rows": 2.0,
    }
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert {kind: of["student"]["correct"] for kind, of in measured["kinds"].items()} == {
        "a": 2,
        "b": 0,
    }
    # gold de, en, fr by answer de, en, fr, other
    assert measured["confusion"]["student"]["matrix"] == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


def test_figures_of_speed_and_cost(measured):
    found = measured["systems"]["student"]
    assert (found["tokens"], found["latency_s"]) == (12, pytest.approx(0.2))
    assert found["latency_p95_s"] == pytest.approx(0.29)
    assert found["cost_per_million"] == pytest.approx(6 * 1.0 + 4 * 0.1 + 2 * 4.0)
    assert (found["speedup"], found["token_ratio"]) == (pytest.approx(5), 1)


def test_figures_in_the_table(measured):
    table = tables(measured)[0]
    assert "50.0 % (2 of 4; 15.0 % to 85.0 %)" in table.rows[1]
    assert "5.0" in table.rows[1]
    assert len(table.rows[1]) == len(table.header)


def test_inputs_without_gold_count_for_agreement_alone():
    answers = ["en", "de", "fr", "es"]
    results = {
        "teacher": result(answers),
        "student": result(["en", "fr", "fr", None], prompt_tokens=[1, 3, 9, 9]),
    }
    metrics = measure(results, ["en", "de"], [None, None], True, PRICES)
    assert metrics["without_gold"]["student"] == {"rows": 2, "unreadable": 1, "agreement": 0.5}
    student = metrics["systems"]["student"]
    assert (student["rows"], student["agreement"], student["prompt_tokens"]) == (2, 0.5, 2)
    assert metrics["kinds"] == {}


def test_one_system_alone_and_unmeasured_figures_are_shown_as_missing():
    metrics = measure(
        {"student": {"answers": ["en", "de"]}}, ["en", "en"], [None, None], True, PRICES
    )
    assert metrics["mcnemar"] is None and "agreement" not in metrics["systems"]["student"]
    assert metrics["systems"]["student"]["tokens"] is None
    assert tables(metrics)[0].rows[0][3:] == ["–", "0", "– (– + –)", "–", "–", "–, –", "–", "–"]


def test_free_answers_have_exact_match_and_token_f1():
    found = quality(["the cat sat.", "no", None], ["Cat sat", "yes it is", "a"], labelled=False)
    # SQuAD's measures leave out case, punctuation and articles; F1 is that of the words
    assert (found["correct"], found["exact_match"], found["token_f1"]) == (
        0,
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
    )
    assert quality(["it was"], ["it is"], labelled=False)["token_f1"] == pytest.approx(0.5)
    metrics = measure({"student": {"answers": ["a b"]}}, ["b a"], [None], False, PRICES)
    table = tables(metrics)[0]
    assert dict(zip(table.header, table.rows[0], strict=True))["token-F1"] == "1.000"
    assert "macro_f1" not in metrics["systems"]["student"] and metrics["confusion"] == {}


def test_free_answers_have_sacrebleus_chrf():
    """Of all rows together, from 0 to 1; an answer that is unreadable has nothing in common."""
    import sacrebleu

    answers = ["you must pay the fees", "Bring it back in ten days", None]
    gold = ["You have to pay the fee.", "Bring it back within 10 days.", "Leave."]
    expected = sacrebleu.corpus_chrf([answers[0], answers[1], ""], [gold]).score
    found = quality(answers, gold, labelled=False)
    assert found["chrf"] == pytest.approx(expected / 100) and 0.3 < found["chrf"] < 0.7
    assert found["token_f1"] < found["chrf"]  # "fees" is near "fee", and no word of it
    assert quality(gold, gold, labelled=False)["chrf"] == 1
    assert quality([None], ["a"], labelled=False)["chrf"] == 0
    metrics = measure({"student": {"answers": answers}}, gold, [None] * 3, False, PRICES)
    table = tables(metrics)[0]
    shown = dict(zip(table.header, table.rows[0], strict=True))
    assert shown["chrF"] == f"{found['chrf']:.3f}"


def test_answers_that_are_json_are_right_as_a_whole_and_by_field():
    gold = ['{"kind": "a", "fee": 1}', '{"kind": "b", "fee": null}', '{"kind": "é"}']
    results = {
        "teacher": {"answers": gold},
        "student": {"answers": ['{"kind": "a", "fee": 2}', None, '{"kind": "e\u0301"}']},
    }
    metrics = measure(results, gold, ["x", "x", "y"], False, PRICES, fields=["kind", "fee"])
    teacher = metrics["systems"]["teacher"]
    student = metrics["systems"]["student"]
    assert (teacher["correct"], student["correct"], student["unreadable"]) == (3, 1, 1)
    assert student["agreement"] == pytest.approx(1 / 3)
    assert not {"token_f1", "chrf", "macro_f1"} & set(student)
    kind = student["per_field"]["kind"]
    fee = student["per_field"]["fee"]
    assert (kind["correct"], fee["correct"], kind["rows"]) == (2, 1, 3)
    assert kind["accuracy_interval"] == pytest.approx([0.2077, 0.9385], abs=1e-4)
    assert student["field_accuracy"] == pytest.approx(0.5)
    assert metrics["kinds"]["y"]["student"]["per_field"]["kind"]["accuracy"] == 1
    found = {table.title: table for table in tables(metrics)}
    assert found["Fields"].header == ["field", "teacher, prompt and thinking", "distilled student"]
    assert [row[0] for row in found["Fields"].rows] == ["kind", "fee"]
    assert found["Fields"].rows[0][2] == "66.7 % (2 of 3; 20.8 % to 93.9 %)"
    first = found["Systems on 3 held-out rows"]
    shown = dict(zip(first.header, first.rows[1], strict=True))
    assert shown["fields right (mean)"] == "50.0 %" and "token-F1" not in shown
    assert "Labels" not in found
    assert overview(metrics).header[1:3] == ["accuracy (95 % CI)", "agreement"]
    assert verdict(metrics)[0].startswith("The student gives 33.3 % right answers where ")
    assert headlines(metrics)[0].title == "Right answers"


def test_answers_that_are_lists_have_no_fields():
    metrics = measure({"student": {"answers": ["[1]"]}}, ["[1]"], [None], False, PRICES, fields=[])
    student = metrics["systems"]["student"]
    assert (student["accuracy"], student["per_field"], student["field_accuracy"]) == (1, {}, None)
    assert "Fields" not in {table.title for table in tables(metrics)}
    assert "fields right (mean)" not in tables(metrics)[0].header


def test_mcnemar_counts_the_rows_that_only_one_gets_right():
    gold = list("abcdefgh")
    found = mcnemar(gold[:6] + ["x", "x"], ["a", *"xxxxx", "g", "x"], gold)
    # 5 against 1 of 6 discordant rows: two-sided binomial, 2 * (1 + 6) / 64
    assert found == {"only_student": 5, "only_teacher": 1, "p_value": pytest.approx(14 / 64)}
    assert mcnemar(gold, gold, gold)["p_value"] == 1.0
