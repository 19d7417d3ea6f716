"""The cascade out of what student and teacher have answered. No model."""

import json
import math

import pytest

from distill.calibration import read_calibration
from distill.evaluation.calibrated import add_confidence, calibrate, save
from distill.evaluation.calibration_rows import NONE, CalibrationRows, read_calibration_rows
from distill.evaluation.cascade import add_cascade, cascade_result
from distill.evaluation.choices import HandingOver
from distill.evaluation.report import on_terminal
from distill.evaluation.scores import measure
from distill.evaluation.sentences import sentences
from distill.evaluation.systems import CASCADE
from distill.evaluation.tables import tables
from distill.evaluation.verdict import verdict
from distill.prices import Prices, TokenPrices
from distill.task import load_task

SURE = [0.99, 0.98, 0.97, 0.9, 0.5]
GOLD = ["de", "en", "de", "en", "de"]
ROWS = len(GOLD)
FREE = Prices()


def chat(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("labels: [de, en]\nprompt: Which language?\n")
    return load_task(str(path))


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return folder


def teacher(**more) -> dict:
    return {
        "answers": ["de", "en", "de", "de", "de"],
        "responses": ["thought"] * ROWS,
        "prompt_tokens": [1000] * ROWS,
        "cached_tokens": [900] * ROWS,
        "output_tokens": [100] * ROWS,
        "latencies": [1.0, 3.0],
        "rows_per_second": 2.0,
        **more,
    }


def student(**more) -> dict:
    """The least sure answer is wrong, and one that is sure is right where the teacher is wrong."""
    return {
        "answers": ["de", "en", "de", "en", "en"],
        "responses": ["de", "en", "de", "en", "en"],
        "log_confidence": [math.log(sure) for sure in SURE],
        "prompt_tokens": [20] * ROWS,
        "cached_tokens": [10] * ROWS,
        "output_tokens": [2] * ROWS,
        "latencies": [0.1, 0.3],
        "rows_per_second": 40.0,
        "calibration": {
            "answers": ["de"] * 19 + ["en"],
            "log_confidence": [math.log(0.99 - 0.01 * row) for row in range(20)],
        },
        **more,
    }


def rows() -> CalibrationRows:
    """Of which the student answers the least sure one otherwise than the teacher."""
    return CalibrationRows("calibration.jsonl", [chat(str(i)) for i in range(20)], ["de"] * 20)


def calibrated(task, adapter, results, share=0.05, target=None):
    handing_over = HandingOver("", share, target, 10)
    return calibrate(rows(), results, handing_over, task, "task.yaml", str(adapter))


def measured(task, adapter, results, prices=FREE):
    found = calibrated(task, adapter, results)
    results[CASCADE] = cascade_result(results["student"], results["teacher"], found.calibration)
    metrics = measure(results, GOLD, [None] * ROWS, True, prices)
    metrics["prices"] = {name: prices.basis(name) for name in results}
    add_cascade(metrics, results, GOLD, True, found)
    return metrics


def test_a_calibration_is_fitted_chosen_and_read_back(task, adapter):
    found = calibrated(task, adapter, {"student": student()})
    chosen = found.calibration
    assert (chosen.rows, chosen.handed_over, chosen.agreed) == (20, 1, 19)
    assert chosen.agreement_bound == pytest.approx(0.05 ** (1 / 19))
    # between the last two of the rows
    assert chosen.hands_over(math.log(0.80)) and not chosen.hands_over(math.log(0.81))
    save(str(adapter), found, is_served=False)
    assert read_calibration(adapter, task) == chosen
    assert json.loads((adapter / "calibration.json").read_text())["reliability"]["after"]


def test_a_target_that_is_not_shown_is_a_warning_and_no_calibration(task, adapter, caplog):
    assert calibrated(task, adapter, {"student": student()}, target=0.98) is None
    assert "--target_agreement 0.98: 20 calibration rows cannot show" in caplog.text
    assert "no calibration.json is written" in caplog.text
    save(str(adapter), calibrated(task, adapter, {"student": student()}), is_served=False)
    caplog.clear()
    assert calibrated(task, adapter, {"student": student()}, target=0.98) is None
    assert f"{adapter}/calibration.json stays as an earlier run has written it" in caplog.text


def test_a_served_student_calibrates_the_adapter_that_is_named_alone(
    task, adapter, monkeypatch, caplog
):
    """The one in the default directory may be another student's."""
    found = calibrated(task, adapter, {"student": student()})
    monkeypatch.setattr("distill.evaluation.calibrated.ADAPTER", str(adapter))
    save(str(adapter), found, is_served=True)
    assert not (adapter / "calibration.json").exists()
    assert "--adapter does not say which one the server has" in caplog.text
    monkeypatch.undo()
    save(str(adapter), found, is_served=True)
    assert (adapter / "calibration.json").exists()


def test_without_confidences_there_is_no_calibration(task, adapter):
    old = student()
    del old["calibration"], old["log_confidence"]
    assert calibrated(task, adapter, {"student": old}) is None
    assert calibrated(task, adapter, {}) is None
    add_confidence(old, None)
    assert "confidence" not in old


def test_a_directory_that_cannot_be_written_is_a_warning(task, adapter, caplog):
    found = calibrated(task, adapter, {"student": student()})
    save(str(adapter / "adapter_config.json"), found, is_served=False)
    assert "calibration.json: not written, the report has its figures" in caplog.text


def test_the_teacher_answers_what_the_student_is_not_sure_of(task, adapter):
    results = {"teacher": teacher(), "student": student()}
    metrics = measured(task, adapter, results)
    assert results[CASCADE]["handed_over"] == [False] * 4 + [True]
    assert results[CASCADE]["answers"] == GOLD
    assert results[CASCADE]["responses"][-1] == "thought"
    systems = metrics["systems"]
    assert [systems[name]["correct"] for name in ("teacher", "student", CASCADE)] == [4, 4, 5]
    own = metrics[CASCADE]
    assert (own["share"], own["rows_handed_over"], own["rows_answered"]) == (0.2, 1, 4)
    assert own["agreement_answered"] == 0.75  # the row in which the teacher is wrong
    assert own["random_accuracy"] == pytest.approx(0.8)
    assert (own["mcnemar"]["only_student"], own["mcnemar"]["only_teacher"]) == (1, 0)


def test_a_teacher_that_cannot_be_read_leaves_the_students_answer(task, adapter):
    unreadable = teacher(answers=["de", "en", "de", "de", None])
    results = {"teacher": unreadable, "student": student()}
    metrics = measured(task, adapter, results)
    assert results[CASCADE]["answers"][-1] == "en"
    # also on the way from one to the other, and at random
    assert metrics["systems"][CASCADE]["accuracy"] == 0.8
    assert metrics[CASCADE]["curve"]["accuracy"][:2] == pytest.approx([0.8, 0.8])
    assert metrics[CASCADE]["curve"]["accuracy"][-1] == pytest.approx(0.6)
    assert metrics[CASCADE]["random_accuracy"] == pytest.approx(0.8 * 0.8 + 0.2 * 0.6)


def test_a_student_that_cannot_be_read_is_handed_over_however_sure(task, adapter):
    own = student(answers=[None, "en", "de", "en", "en"])
    results = {"teacher": teacher(), "student": own}
    metrics = measured(task, adapter, results)
    assert results[CASCADE]["handed_over"] == [True, False, False, False, True]
    assert metrics["systems"][CASCADE]["unreadable"] == 0


def test_what_a_request_takes_is_both_together(task, adapter):
    prices = Prices(teacher=TokenPrices(10, 1, 20), student=TokenPrices(1, 0.1, 2))
    metrics = measured(task, adapter, {"teacher": teacher(), "student": student()}, prices)
    systems = metrics["systems"]
    cascade = systems[CASCADE]
    assert cascade["tokens"] == pytest.approx(22 + 1100 / 5)
    assert cascade["token_ratio"] == pytest.approx(1100 / 242)
    assert cascade["latency_s"] == pytest.approx(0.2 + 2.0 / 5)
    assert cascade["speedup"] == pytest.approx(2.0 / 0.6)
    assert 1 / cascade["rows_per_second"] == pytest.approx(1 / 40 + 0.2 / 2)
    by_hand = systems["student"]["cost_per_million"] + systems["teacher"]["cost_per_million"] / 5
    assert cascade["cost_per_million"] == pytest.approx(by_hand)


def test_the_curve_goes_from_the_student_to_the_teacher(task, adapter):
    metrics = measured(task, adapter, {"teacher": teacher(), "student": student()})
    curve = metrics[CASCADE]["curve"]
    assert curve["shares"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert curve["accuracy"] == pytest.approx([0.8, 1, 0.8, 0.8, 0.8, 0.8])
    assert curve["agreement"] == [pytest.approx(0.6), 0.75, 1.0, 1.0, 1.0, None]


def test_labels_from_elsewhere_have_no_tokens_and_no_time(task, adapter):
    labels = {"answers": ["de", "en", "de", "de", "de"], "responses": [""] * ROWS}
    metrics = measured(task, adapter, {"teacher": labels, "student": student()})
    cascade = metrics["systems"][CASCADE]
    assert (cascade["tokens"], cascade["latency_s"], cascade["rows_per_second"]) == (None,) * 3
    assert cascade["correct"] == 5


def test_how_often_the_teacher_agrees_with_itself(task, adapter):
    pairs = [["de", "de"], ["de", "en"], [None, "de"], ["en", "en"], ["en", "en"]]
    results = {"teacher": teacher(asked_again=pairs), "student": student()}
    found = calibrated(task, adapter, results)
    assert found.self_agreement == {"rows": 4, "agreed": 3, "share": 0.75}
    assert calibrated(task, adapter, {"student": student()}).self_agreement is None


def test_it_is_said_in_verdict_terminal_tables_and_sentences(task, adapter):
    metrics = measured(task, adapter, {"teacher": teacher(), "student": student()})
    metrics.update(rows=ROWS)
    said = " ".join(verdict(metrics))
    assert "With the 20.0 % of the requests of which the student is least sure" in said
    assert "handed to the teacher, 100.0 % are right, for 22 % of the tokens." in said
    terminal = on_terminal(metrics)
    assert "student, teacher if unsure" in terminal
    assert max(map(len, terminal.splitlines())) <= 100
    titles = [table.title for table in tables(metrics)]
    assert "Student, teacher if unsure" in titles
    assert "How sure the student is, by its answer" in titles
    assert any("those of 20 calibration rows" in sentence for sentence in sentences(metrics))


def test_calibration_rows_are_those_that_step_2_has_kept(task, adapter):
    assert read_calibration_rows("", str(adapter), [], task) == NONE
    line = {"messages": [*chat("Guten Tag"), {"role": "assistant", "content": "DE"}]}
    (adapter / "calibration.jsonl").write_text(json.dumps(line) + "\n")
    found = read_calibration_rows("", str(adapter), [chat("Hello")], task)
    assert (found.chats, found.answers) == ([chat("Guten Tag")], ["de"])
    with pytest.raises(ValueError, match=r"calibration\.jsonl:1: is among the rows with gold too"):
        read_calibration_rows("", str(adapter), [chat("Guten Tag")], task)
    (adapter / "other.jsonl").write_text("")
    with pytest.raises(ValueError, match="no rows"):
        read_calibration_rows(str(adapter / "other.jsonl"), str(adapter), [], task)
    with pytest.raises(ValueError, match="pass an existing file"):
        read_calibration_rows(str(adapter / "nowhere.jsonl"), str(adapter), [], task)


def test_rows_that_are_asked_again_come_from_the_whole_file():
    assert rows().some(4) == [0, 5, 10, 15]
    assert rows().some(100) == list(range(20))
    assert NONE.some(3) == []
