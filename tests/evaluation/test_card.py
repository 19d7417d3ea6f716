"""What step 3 puts into the adapter's card, and what it does without one. No model."""

import pytest
from huggingface_hub import ModelCard

from distill.card import model_card
from distill.card_figures import (
    ACCURACY,
    AGREEMENT,
    CASCADE_ACCURACY,
    CHRF,
    EXACT_MATCH,
    FIELD_ACCURACY,
    MACRO_F1,
    SPEEDUP,
    TOKEN_F1,
)
from distill.card_figures import TOKENS as PER_REQUEST
from distill.evaluation.card import add_to_card, figures_of
from distill.evaluation.scores import Prices, measure
from distill.evaluation.systems import CASCADE

GOLD = ["en", "de", "fr", "de"]
TOKENS = {"prompt_tokens": [10] * 4, "cached_tokens": [4] * 4, "output_tokens": [2] * 4}


def metrics_of(*names, labelled=True, **of_student):
    """metrics.json of these systems; the teacher gets one row right of four, the student three."""
    results = {
        "teacher": {"answers": ["en", "en", "en", "en"], **TOKENS, "latencies": [1.0]},
        "base": {"answers": [None] * 4},
        "student": {
            "answers": ["en", "de", "fr", "fr"],
            **TOKENS,
            "latencies": [0.5],
            **of_student,
        },
    }
    asked = {name: results[name] for name in names}
    metrics = measure(asked, GOLD, [None] * 4, labelled, Prices())
    metrics.update(test_file="/data/mine/held out.jsonl", machine="2 cores of X", date="2026-01-31")
    return metrics


def values(metrics):
    return {one.metric_name: one.metric_value for one in figures_of(metrics)}


def test_figures_are_the_students():
    assert values(metrics_of("teacher", "base", "student")) == {
        ACCURACY: 0.75,
        MACRO_F1: pytest.approx(0.7778, abs=1e-4),
        AGREEMENT: 0.25,
        PER_REQUEST: 12.0,
        SPEEDUP: 2.0,
    }
    accuracy = figures_of(metrics_of("teacher", "student"))[0]
    assert accuracy.dataset_name == "held out.jsonl"  # and not where it lies here
    assert accuracy.metric_args == {
        "rows": 4,
        "low": pytest.approx(0.3006),
        "high": pytest.approx(0.9544),
        "teacher": 0.25,
        "measured": "2 cores of X, 2026-01-31",
    }


def test_what_was_not_measured_is_left_out():
    assert set(values(metrics_of("student"))) == {ACCURACY, MACRO_F1, PER_REQUEST}
    unmeasured = metrics_of("student", prompt_tokens=None, latencies=[])
    assert set(values(unmeasured)) == {ACCURACY, MACRO_F1}
    assert "teacher" not in figures_of(unmeasured)[0].metric_args


def test_free_answers_have_the_measures_of_texts():
    found = values(metrics_of("student", labelled=False))
    assert set(found) == {ACCURACY, EXACT_MATCH, TOKEN_F1, CHRF, PER_REQUEST}


def test_json_answers_have_the_mean_of_their_fields():
    gold = ['{"a": 1, "b": 2}'] * 4
    results = {"student": {"answers": ['{"a": 1, "b": 3}', *gold[1:]]}}
    metrics = measure(results, gold, [None] * 4, False, Prices(), fields=["a", "b"])
    assert values({**metrics, "test_file": "gold.jsonl"}) == {ACCURACY: 0.75, FIELD_ACCURACY: 0.875}


@pytest.fixture
def adapter(tmp_path):
    run = {"model_name": "team/student", "train_sha256": "0f"}
    (tmp_path / "README.md").write_text(model_card(run, {"rows": 7}, str(tmp_path)))
    return tmp_path


def test_beside_labels_from_elsewhere_the_teachers_tokens_are_not_known(adapter):
    metrics = metrics_of("teacher", "student")
    for key in ("prompt_tokens", "tokens", "latency_s"):
        metrics["systems"]["teacher"][key] = None
    metrics["systems"]["student"]["speedup"] = None
    metrics["labels_from_elsewhere"] = True
    for _ in range(2):  # what a card holds already is read again
        add_to_card(str(adapter), metrics)
    line = next(
        line for line in (adapter / "README.md").read_text().splitlines() if "| held out" in line
    )
    assert "| 25.0 % | 25.0 % | 12.0 (not known) | – |" in line


def test_the_adapters_card_gets_them(adapter, caplog):
    add_to_card(str(adapter), metrics_of("teacher", "student"))
    card = ModelCard.load(adapter / "README.md")
    assert len(card.data.eval_results) == 5
    assert card.data.model_name == adapter.name
    assert (
        "| held out.jsonl | 75.0 % (4; 30.1 % to 95.4 %) | 25.0 % | 25.0 % | 12.0 (12.0) | 2.0 |"
        in (card.text)
    )
    assert [path.name for path in adapter.iterdir()] == ["README.md"]
    assert caplog.messages == []


def test_what_student_and_teacher_give_together_has_a_figure_and_a_sentence(adapter):
    metrics = metrics_of("teacher", "student")
    add_to_card(str(adapter), metrics)
    alone = (adapter / "README.md").read_text()
    metrics["systems"][CASCADE] = {"accuracy": 1.0}
    metrics[CASCADE] = {"share": 0.25, "temperature": 1.23456, "threshold": 0.8312345678}
    for _ in range(2):  # what a card holds already is read again
        add_to_card(str(adapter), metrics)
    card = ModelCard.load(adapter / "README.md")
    [figure] = [one for one in card.data.eval_results if one.metric_name == CASCADE_ACCURACY]
    assert (figure.metric_type, figure.metric_value) == ("accuracy", 1.0)
    about = {"handed_over": 0.25, "temperature": 1.2346, "threshold": 0.831235}
    assert figure.metric_args == about
    assert card.text.count("With the teacher's answer where the student is unsure 100.0 % of") == 1
    assert "over are then 25.0 % of the requests: those with a confidence below 0.8312" in card.text
    assert "at a temperature of 1.235." in card.text
    add_to_card(str(adapter), metrics_of("teacher", "student"))  # without a calibration
    assert (adapter / "README.md").read_text() == alone


def test_without_the_student_nothing_is_touched(adapter):
    before = (adapter / "README.md").read_bytes()
    add_to_card(str(adapter), metrics_of("teacher", "base"))
    assert (adapter / "README.md").read_bytes() == before


def test_an_adapter_without_a_card_of_ours_gets_none(tmp_path, caplog):
    add_to_card(str(tmp_path), metrics_of("student"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "README.md").write_text("---\nlibrary_name: peft\n---\n# Somebody else's\n")
    add_to_card(str(tmp_path), metrics_of("student"))
    assert "Somebody else's" in (tmp_path / "README.md").read_text()
    assert "Evaluation" not in (tmp_path / "README.md").read_text()
    assert caplog.messages == []


def test_a_card_that_cannot_be_changed_is_one_warning(adapter, caplog):
    (adapter / "README.md.tmp").mkdir()  # as in a directory that may not be written to
    before = (adapter / "README.md").read_bytes()
    add_to_card(str(adapter), metrics_of("student"))
    [line] = caplog.messages
    assert f"{adapter}/README.md: not given the figures, which are in the report" in line
    assert (adapter / "README.md").read_bytes() == before


def test_a_card_that_cannot_be_read_is_one_warning(adapter, caplog):
    text = (adapter / "README.md").read_text().replace("tags:\n", "tags: [\n")
    (adapter / "README.md").write_text(text)
    add_to_card(str(adapter), metrics_of("student"))
    [line] = caplog.messages
    assert line.endswith("its metadata is not valid YAML")
    assert (adapter / "README.md").read_text() == text
