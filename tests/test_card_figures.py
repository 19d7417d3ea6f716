"""The figures of step 3 in a model card: what is replaced, and what of the user's stays.

No model.
"""

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from distill.card import model_card
from distill.card_figures import (
    ACCURACY,
    MARKS,
    SPEEDUP,
    TOKENS,
    figure,
    our_entries,
    read_card,
    with_entries,
    with_figures,
)
from loopback_hub import WRITE_TOKEN, LoopbackHub

RUN = {"model_name": "team/student", "train_sha256": "0f", "eval_file": "/data/eval.jsonl"}
RESULTS = {"rows": 7, "eval_loss": 0.25}
TABLE = "| heldout.jsonl | 75.0 % (4; 30.1 % to 95.4 %) | 50.0 % | – | 46.0 (2373.8) | – |"


def figures(rows="heldout.jsonl", accuracy=0.75):
    about = {"rows": 4, "low": 0.3006, "high": 0.9544, "teacher": 0.5, "measured": "2 cores of X"}
    return [
        figure(rows, "accuracy", ACCURACY, accuracy, about),
        figure(rows, "tokens_per_request", TOKENS, 46.0, {"teacher": 2373.8}),
    ]


@pytest.fixture
def card(tmp_path):
    """The directory of an adapter with step 2's card."""
    write(tmp_path, model_card(RUN, RESULTS, "/out/adapter"))
    return tmp_path


def write(folder, text):
    (folder / "README.md").write_text(text, encoding="utf-8")


def text_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def evaluate(folder, *arguments):
    write(folder, with_figures(read_card(folder), figures(*arguments), "adapter"))


def found(text):
    """The figures of a card's metadata: {(test file, metric): value}."""
    data = ModelCard(text).data
    return {(one.dataset_name, one.metric_name): one.metric_value for one in data.eval_results}


def test_figures_stand_in_the_metadata_beside_those_of_step_2(card):
    evaluate(card)
    assert found(text_of(card)) == {
        ("eval.jsonl", "eval_loss"): 0.25,
        ("heldout.jsonl", ACCURACY): 0.75,
        ("heldout.jsonl", TOKENS): 46.0,
    }
    index = read_card(card).data["model-index"]
    name, results = model_index_to_eval_results(index)
    assert name == "adapter"
    [accuracy] = [one for one in results if one.metric_name == ACCURACY]
    assert accuracy.metric_type == "accuracy"
    assert accuracy.metric_args["rows"] == 4


def test_a_section_shows_them_before_the_training(card):
    evaluate(card)
    before, section, after = between_marks(text_of(card))
    assert TABLE in section
    assert section.endswith("its prompt too. Measured on 2 cores of X.\n")
    assert "## Training" not in before and after.startswith("\n\n## Training\n")


def between_marks(text):
    before, _, rest = text.partition(MARKS[0])
    section, _, after = rest.partition(MARKS[1])
    assert MARKS[0] not in after and MARKS[1] not in after
    return before, section, after


def test_evaluating_again_replaces_the_figures(card):
    evaluate(card)
    first = text_of(card)
    evaluate(card, "heldout.jsonl", 0.5)
    assert found(text_of(card))["heldout.jsonl", ACCURACY] == 0.5
    evaluate(card)
    assert text_of(card) == first


def test_another_test_file_has_an_entry_and_a_line_of_its_own(card):
    evaluate(card)
    evaluate(card, "other.jsonl", 1.0)
    text = text_of(card)
    assert found(text)["heldout.jsonl", ACCURACY] == 0.75
    assert found(text)["other.jsonl", ACCURACY] == 1.0
    _, section, _ = between_marks(text)
    assert TABLE in section and "| other.jsonl | 100.0 % (" in section
    # and they stay apart where somebody writes the metadata anew with huggingface_hub's own class
    assert found(str(ModelCard(text))) == found(text)


def test_what_the_user_has_written_stays(card):
    evaluate(card)
    text = text_of(card)
    text = text.replace("tags:\n", "license: apache-2.0\nlanguages_of_mine: [en]\ntags:\n")
    text = text.replace("# LoRA adapter of a distilled prompt", "# My own title")
    text = text.replace("\n## Training", "\nMy notes.\n\n## Training")
    mine = "    - type: mine\n      value: 3\n      name: mine\n"
    text = text.replace("    - type: accuracy\n", f"{mine}    - type: accuracy\n")
    write(card, text)
    evaluate(card, "heldout.jsonl", 0.5)
    again = text_of(card)
    data = read_card(card).data
    assert (data["license"], data["languages_of_mine"]) == ("apache-2.0", ["en"])
    assert again.index("# My own title") < again.index(MARKS[0]) < again.index("My notes.")
    assert found(again)["heldout.jsonl", "mine"] == 3
    assert found(again)["heldout.jsonl", ACCURACY] == 0.5
    assert found(again)["eval.jsonl", "eval_loss"] == 0.25


def test_a_figure_that_was_not_measured_again_goes(card):
    more = [*figures(), figure("heldout.jsonl", "speedup", SPEEDUP, 17.2)]
    write(card, with_figures(read_card(card), more, "adapter"))
    assert found(text_of(card))["heldout.jsonl", SPEEDUP] == 17.2
    evaluate(card)
    assert ("heldout.jsonl", SPEEDUP) not in found(text_of(card))


@pytest.mark.parametrize("lost", [0, 1], ids=["its begin", "its end"])
def test_a_section_without_one_mark_costs_no_text(card, lost):
    evaluate(card)
    write(card, text_of(card).replace(MARKS[lost], "") + "\nMy last words.\n")
    for accuracy in (0.5, 0.25):
        evaluate(card, "heldout.jsonl", accuracy)
        text = text_of(card)
        assert "My last words." in text and "## Training" in text and "## Results" in text
        assert text.count("| 25.0 % (") + text.count("| 50.0 % (") == 1


def test_without_the_heading_the_section_is_the_last(card):
    write(card, text_of(card).partition("## Training")[0])
    evaluate(card)
    assert text_of(card).endswith(f"\n{MARKS[1]}\n")


def test_a_card_of_somebody_else_is_none_of_ours(tmp_path):
    assert read_card(tmp_path) is None
    for text in ("no metadata", "---\nlibrary_name: peft\n---\n# A card\n", ""):
        write(tmp_path, text)
        assert read_card(tmp_path) is None


BROKEN = {
    "YAML": ("tags:\n", "tags: [\n", "not valid YAML"),
    "no list": ("model-index:\n- name", "model-index:\n  name", "its model-index is none"),
    "no data set": ("    dataset:\n", "    data:\n", "its model-index is none"),
}


@pytest.mark.parametrize(("old", "new", "problem"), BROKEN.values(), ids=BROKEN)
def test_metadata_that_cannot_be_read_is_named(card, old, new, problem):
    text = text_of(card)
    assert text.count(old) == 1
    write(card, text.replace(old, new))
    with pytest.raises(ValueError, match=problem):
        read_card(card)


def test_figures_that_somebody_has_changed_are_named(card):
    evaluate(card)
    write(card, text_of(card).replace("rows: 4\n", "lines: 4\n"))
    with pytest.raises(ValueError, match="its figures cannot be read"):
        evaluate(card, "other.jsonl")


def test_a_card_written_anew_takes_the_figures_over(card):
    """As the card that is pushed."""
    evaluate(card)
    pushed = write_pushed(card)
    assert found(pushed)["heldout.jsonl", ACCURACY] == 0.75
    assert TABLE in pushed
    assert 'from_pretrained("ana/adapter"' in pushed
    assert ModelCard(pushed).data.model_name == "ana/adapter"


def write_pushed(folder):
    anew = ModelCard(model_card(RUN, RESULTS, "ana/adapter"))
    (folder / "pushed").mkdir()
    write(folder / "pushed", str(anew))
    return with_entries(read_card(folder / "pushed"), our_entries(read_card(folder)), "ana/adapter")


def test_a_hub_takes_the_card(card):
    evaluate(card)
    with LoopbackHub() as hub:
        hub.create("ana/adapter", {})
        api = HfApi(endpoint=hub.url, token=WRITE_TOKEN)
        text = text_of(card)
        operation = CommitOperationAdd("README.md", text.encode())
        api.create_commit("ana/adapter", [operation], commit_message="card")
        assert hub.commits["ana/adapter"][0].files["README.md"] == text.encode()
        assert ("POST", "/api/validate-yaml") in hub.requests
