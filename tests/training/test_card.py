"""The model card of an adapter."""

import pytest
import yaml

from distill.training.card import model_card


@pytest.mark.parametrize("name", ["models/a: b", "/data/it's #1: 'x'", "a/b"])
def test_the_card_of_a_student_with_an_odd_name_can_be_read(name):
    run = {"model_name": name, "train_sha256": "abc"}
    card = model_card(run, {"rows": 3}, "out: 1")
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "peft"
