"""The model card of an adapter."""

import pytest
import yaml
from huggingface_hub import ModelCard

from distill.card import model_card


@pytest.mark.parametrize("name", ["models/a: b", "/data/it's #1: 'x'", "a/b"])
def test_the_card_of_a_student_with_an_odd_name_can_be_read(name):
    run = {"model_name": name, "train_sha256": "abc"}
    card = model_card(run, {"rows": 3}, "out: 1")
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "peft"


def test_cards_metadata_is_what_the_hub_accepts():
    run = {"model_name": "Qwen/Qwen3-30B-A3B-Instruct-2507", "train_sha256": "0f"}
    card = ModelCard(model_card(run, {"rows": 7}, "ana/adapter", "v1"))
    assert card.data.base_model == "Qwen/Qwen3-30B-A3B-Instruct-2507"
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert 'from_pretrained("ana/adapter", revision="v1")' in card.text
    run["model_name"] = "/data/my student: second try"  # no model on the hub can have this name
    assert ModelCard(model_card(run, {"rows": 7}, "/out")).data.base_model is None


def test_a_card_shows_the_figures_of_the_evaluation_and_no_path():
    """Of a run that has any; the hub shows them beside the text."""
    run = {"model_name": "team/student", "train_sha256": "0f", "eval_file": "/data/mine/eval.jsonl"}
    results = {"rows": 7, "eval_loss": 0.25, "eval_exact_answers": 0.875}
    card = ModelCard(model_card(run, results, "/models/my adapter"))
    shown = {found.metric_name: found for found in card.data.eval_results}
    assert {name: found.metric_value for name, found in shown.items()} == {
        "eval_loss": 0.25,
        "eval_exact_answers": 0.875,
    }
    assert {name: found.metric_type for name, found in shown.items()} == {
        "eval_loss": "loss",
        "eval_exact_answers": "exact_match",
    }
    assert {found.dataset_name for found in shown.values()} == {"eval.jsonl"}
    assert card.data.model_name == "my adapter"

    share = ModelCard(model_card({**run, "eval_file": ""}, results, "ana/adapter"))
    assert share.data.eval_results[0].dataset_name == "rows left out of the train file"
    assert share.data.model_name == "ana/adapter"


def test_a_card_without_evaluation_has_no_figures():
    run = {"model_name": "team/student", "train_sha256": "0f"}
    for results in ({"rows": 7}, {"rows": 7, "eval_loss": float("nan")}):
        text = model_card(run, results, "/out")
        assert "model-index" not in text and "model_name:" not in text
        assert text.endswith("}\n```\n")
