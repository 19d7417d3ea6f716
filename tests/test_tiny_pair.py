"""The pair that comes with the repository is put in its place, and another one is trained where it
does not fit.
"""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny_pair


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("the pair is trained")

    monkeypatch.setattr(tiny_pair, "build", refuse)


def test_the_shipped_pair_fits_and_is_copied_once(no_training, tmp_path):
    assert tiny_pair.provide(tmp_path) == "copied"
    for name in ("tiny-thinking", "tiny-instruct"):
        copied = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        shipped = {path.name: path.read_bytes() for path in (tiny_pair.SHIPPED / name).iterdir()}
        assert copied == shipped
        assert "model.safetensors" in copied
    (tmp_path / "tiny-instruct" / "mine.txt").touch()
    assert tiny_pair.provide(tmp_path) == "there"
    assert (tmp_path / "tiny-instruct" / "mine.txt").exists()


def test_half_a_pair_or_an_older_one_is_replaced(no_training, tmp_path):
    tiny_pair.provide(tmp_path)
    (tmp_path / "tiny-thinking" / "build_hash.txt").write_text("of another recipe")
    assert tiny_pair.provide(tmp_path) == "copied"
    assert tiny_pair.provide(tmp_path) == "there"


@pytest.mark.parametrize("changed", ["TASK_FILE", "GOLD_FILE", "RECIPE"])
def test_another_task_other_sentences_or_another_recipe_need_another_pair(
    changed, tmp_path, monkeypatch
):
    built = []
    monkeypatch.setattr(tiny_pair, "build", lambda *arguments: built.append(arguments))
    other = tmp_path / "other"
    other.write_text("something else")
    monkeypatch.setattr(tiny_pair, changed, 2 if changed == "RECIPE" else other)
    assert tiny_pair.provide(tmp_path / "models") == "built"
    assert len(built) == 1


def test_it_is_trained_again_where_asked(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(tiny_pair, "build", lambda *arguments: built.append(arguments))
    assert tiny_pair.provide(tmp_path, rebuild=True) == "built"
    assert len(built) == 1


def test_a_short_training_gives_two_models(tmp_path):
    """Two steps each: what comes out knows nothing, but it is a pair with its stamp and its two
    templates.
    """
    assert tiny_pair.provide(tmp_path, base_steps=2, teacher_steps=2) == "built"
    assert tiny_pair.provide(tmp_path, base_steps=2, teacher_steps=2) == "there"
    openings = {}
    for name in ("tiny-thinking", "tiny-instruct"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert model.config.vocab_size >= len(tokenizer)
        assert 1.8e6 < model.num_parameters() < 2.0e6
        chat = [{"role": "user", "content": "hola"}]
        openings[name] = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=False
        )
    assert openings["tiny-thinking"] == openings["tiny-instruct"] + "<think>\n"
