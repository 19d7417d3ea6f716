"""The quick tokenizer of a dry run gives what transformers' gives, or leaves it to transformers."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from distill.labels.quick_tokenizer import load_quickly
from distill.templates import TemplateProblem, render
from distill.tokens import kept_as_text, prompt_ids
from helpers import ROOT, SENTENCES, TEACHER, qwen_files
from small_tokenizers import BACKENDS, CHATML, save_model, template

SENTENCES_TRIED = SENTENCES.read_text("utf-8").splitlines()[::70]  # of all languages
TEXTS = [*SENTENCES_TRIED, "<|im_end|>\n<think>", "  spaces  \n\n\n", "<table> ﷺ 👩‍👩‍👧"]


def chats():
    for text in TEXTS:
        yield [{"role": "system", "content": "Sort <b>it</b>."}, {"role": "user", "content": text}]
    turns = [("user", "hola"), ("assistant", "<think>\nwhy\n</think>\n\nes"), ("user", "hi")]
    yield [{"role": role, "content": content} for role, content in turns]


def assert_same(folder):
    """Text and tokens of every chat, and the tokens that nobody may spell."""
    quick = load_quickly(folder)
    slow = AutoTokenizer.from_pretrained(folder)
    assert quick is not None
    assert kept_as_text(quick, quick.chat_template) == kept_as_text(slow, slow.chat_template)
    assert quick.eos_token == slow.eos_token and quick.get_vocab() == slow.get_vocab()
    for messages in chats():
        assert render(quick, messages) == render(slow, messages)
        assert prompt_ids(quick, messages) == prompt_ids(slow, messages)


def test_of_the_tiny_pair():
    assert_same(ROOT / "tests" / "pair" / TEACHER.name)


def qwens_files(folder):
    """Qwen's own but for the template, which is the tiny teacher's, as is the configuration."""
    shutil.copytree(qwen_files(), folder)
    for name in ("chat_template.jinja", "config.json"):
        shutil.copy(ROOT / "tests" / "pair" / TEACHER.name / name, folder)
    return folder


def test_of_qwen(tmp_path):
    folder = qwens_files(tmp_path / "model")
    assert "Qwen2Tokenizer" in (folder / "tokenizer_config.json").read_text()
    assert_same(folder)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_every_kind(backend, tmp_path):
    assert_same(save_model(tmp_path, CHATML, backend=backend))


TEMPLATES = {
    "JSON": template(content="m.content | tojson"),
    "tokens with a name": template(content="m.content + eos_token"),
    "a token without a name": template(content="m.content + (bos_token or 'none')"),
    "the day": template(content="m.content + strftime_now('%Y')"),
    "a loop that ends": template(before="{% for m in messages %}a{% break %}{% endfor %}"),
    "no tools": template(before="{% if tools is none %}none{% endif %}"),
}


@pytest.mark.parametrize("chat_template", TEMPLATES.values(), ids=TEMPLATES)
def test_templates(chat_template, tmp_path):
    assert_same(save_model(tmp_path, chat_template))


def test_a_template_that_refuses(tmp_path):
    refuses = template(before="{{ raise_exception('no system here') }}")
    save_model(tmp_path, refuses)
    said = []
    for tried in (load_quickly(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        with pytest.raises(TemplateProblem) as problem:
            render(tried, [{"role": "user", "content": "a"}])
        said.append(str(problem.value))
    assert said[0] == said[1] and "no system here" in said[0]


LEFT_TO_TRANSFORMERS = {
    "another class": {"tokenizer_class": "LlamaTokenizer"},
    "code that a model brings along": {"auto_map": {"AutoTokenizer": ["a.B", None]}},
    "a space before each text": {"add_prefix_space": True},
    "special tokens taken apart": {"split_special_tokens": True},
    "a token that is not in tokenizer.json": {"eos_token": "<|end|>"},
    "a token that is no text": {"eos_token": ["<|im_end|>"]},
    "a further one": {"additional_special_tokens": ["<|end|>"]},
    "another one made special": {
        "added_tokens_decoder": {"3": {"content": "<think>", "special": True}}
    },
    "others with names": {"extra_special_tokens": {"image_token": "<|im_end|>"}},
    "other files": {"fast_tokenizer_files": ["tokenizer.4.json"]},
    "tokens that tokenizer.json has otherwise": {
        "added_tokens_decoder": {
            "3": {
                "content": "<|im_end|>",
                "lstrip": True,
                "rstrip": False,
                "normalized": False,
                "single_word": False,
                "special": True,
            }
        }
    },
    "a class that builds its own": {"tokenizer_class": "Qwen2Tokenizer"},
    "several templates": {"chat_template": [{"name": "default", "template": CHATML}]},
    "no template": {"chat_template": None},
    "an extension of transformers": {
        "chat_template": "{% generation %}{{ messages[0].content }}{% endgeneration %}"
    },
}


@pytest.mark.parametrize("changed", LEFT_TO_TRANSFORMERS.values(), ids=LEFT_TO_TRANSFORMERS)
def test_what_is_unusual_is_left_to_transformers(changed, tmp_path):
    save_model(tmp_path, CHATML)
    (tmp_path / "chat_template.jinja").unlink()
    path = tmp_path / "tokenizer_config.json"
    config = {**json.loads(path.read_text()), "chat_template": CHATML}
    path.write_text(json.dumps(config))
    assert load_quickly(tmp_path) is not None
    path.write_text(json.dumps({**config, **changed}))
    assert load_quickly(tmp_path) is None


OTHER_FILES = {
    "another model": ("config.json", '{"model_type": "qwen2"}'),
    "tokens of an older format": ("special_tokens_map.json", '{"eos_token": "<unk>"}'),
    "further tokens": ("added_tokens.json", '{"<foo>": 999}'),
    "a template that is nested too deeply": ("chat_template.jinja", "{{ " + "(" * 5000),
}


@pytest.mark.parametrize(("name", "text"), OTHER_FILES.values(), ids=OTHER_FILES)
def test_other_files_are_left_to_transformers(name, text, tmp_path):
    save_model(tmp_path, CHATML)
    assert load_quickly(tmp_path) is not None
    (tmp_path / name).write_text(text)
    assert load_quickly(tmp_path) is None


NOT_QWENS = {
    "another normalizer": ('"NFC"', '"NFKC"'),
    "other words": ("p{N}| ?", "p{N}{1,3}| ?"),
    "words cut twice": ('"use_regex":false', '"use_regex":true'),
    "whole words first": ('"ignore_merges":false', '"ignore_merges":true'),
}


@pytest.mark.parametrize(("before", "after"), NOT_QWENS.values(), ids=NOT_QWENS)
def test_a_tokenizer_that_is_not_qwens_is_left_to_transformers(before, after, tmp_path):
    folder = qwens_files(tmp_path / "model")
    path = folder / "tokenizer.json"
    text = json.dumps(json.loads(path.read_text()), separators=(",", ":"))
    assert before in text
    path.write_text(text.replace(before, after))
    assert load_quickly(folder) is None


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}"])
def test_broken_files_are_left_to_transformers(name, text, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "tests" / "pair" / TEACHER.name, folder)
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    assert load_quickly(folder) is None
