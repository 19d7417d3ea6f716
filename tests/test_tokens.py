"""Token ids of chats under templates and tokenizers that do more than the tiny pair's.

No model, no torch.
"""

import pytest

from distill.templates import TemplateProblem, depends_on_date
from distill.tokens import encode, prompt_ids
from small_tokenizers import ADDED, BACKENDS, CHATML, SPECIAL, make_tokenizer, template


@pytest.fixture(scope="module", params=BACKENDS)
def tokenizer(request):
    return make_tokenizer(request.param)


TEMPLATES = {
    "plain": CHATML,
    "trims": template(content="m.content | trim"),
    "upper case": template(content="m.content | upper"),
    "reverses": template(messages="messages | reverse"),
    "repeats": template(content="m.content + ' AGAIN ' + m.content"),
    "text after the generation prompt": CHATML
    + "{% if add_generation_prompt %}{{ messages[-1].content }}{% endif %}",
}
CONTENTS = {
    "nothing spelt": [" A text ", "of \n\n\n1 "],
    "end of turn": [" A<|im_end|>B ", "of <|im_start|>\n"],
    "alone": ["<|im_end|>", "<|im_end|>"],
    "thoughts": ["<think>A", "</think>"],
    "nested and doubled": ["<|im_<|im_end|>end|>", "<|im_start|><|im_start|> "],
    "beside white space and HTML": [
        "A<|im_end|>\n\n\n<table> <|im_end|>",
        "    </h1>A<|im_end|>  B",
    ],
    "unknown token": ["A<unk>", "<unk>B"],
}


def chat(system, user):
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


@pytest.mark.parametrize("contents", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("text", TEMPLATES.values(), ids=TEMPLATES)
def test_messages_stay_text_where_the_template_puts_them(tokenizer, text, contents):
    """The ids stand for the rendered text, and none of its special tokens comes from a message."""
    tokenizer.chat_template = text
    ids = prompt_ids(tokenizer, chat(*contents))
    rendered = tokenizer.apply_chat_template(
        chat(*contents), tokenize=False, add_generation_prompt=True
    )
    assert shown(tokenizer, ids) == without_spaces(rendered)
    ordinary = prompt_ids(tokenizer, chat("A", "B"))
    for spelling in [*SPECIAL[1:], *ADDED[:2]]:
        token = tokenizer.convert_tokens_to_ids(spelling)
        assert ids.count(token) == ordinary.count(token), spelling


def shown(tokenizer, ids):
    return without_spaces(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def without_spaces(text):
    """SentencePiece's decoders do not say which spaces were there."""
    return text.replace(" ", "").replace("▁", "")


PLAIN = ["A text", " A", "A  B    1", "of\n\n\n1\n\n", "<table>A</h1>", "\n<table>\n\n"]


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_added_but_not_special_is_tokenised_as_ever(tokenizer, text):
    """White space and HTML among the added tokens are text.

    Beside a spelling too, and no space comes in.
    """
    tokenizer.chat_template = CHATML
    messages = chat(text, text)
    expected = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert prompt_ids(tokenizer, messages) == expected
    # the same with a spelling in the other message, up to where that message begins
    spelt = prompt_ids(tokenizer, chat(text, "<|im_end|>"))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert spelt[: spelt.index(end)] == expected[: expected.index(end)]


@pytest.mark.parametrize("answer", ["A", "A text", "<table>", "A\n\n\nB", "A<|im_end|>"])
def test_an_answer_is_tokenised_as_it_follows_the_context(tokenizer, answer):
    """A tokenizer that puts a space before a text puts none before the answer."""
    tokenizer.chat_template = CHATML
    row = encode(tokenizer, [*chat("A", "B"), {"role": "assistant", "content": answer}])
    context = prompt_ids(tokenizer, chat("A", "B"))
    assert row["input_ids"][: len(context)] == context and row["labels"][: len(context)] == [
        -100
    ] * len(context)
    whole = tokenizer.apply_chat_template(
        chat("A", "B"), tokenize=False, add_generation_prompt=True
    )
    whole += answer + "<|im_end|>"
    assert shown(tokenizer, row["input_ids"]) == without_spaces(whole)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert row["labels"].count(end) == 1 and row["labels"][-1] == end
    if "<|im_end|>" not in answer:
        assert row["input_ids"] == tokenizer(whole, add_special_tokens=False)["input_ids"]


# what templates do


BAD_TEMPLATES = {
    "drops": (
        template(messages="messages | rejectattr('role', 'equalto', 'system')"),
        "drops the system message",
    ),
    "drops the user": (template(messages="messages[:1]"), "drops the user message"),
    "reverses": (TEMPLATES["reverses"], "puts the messages in another order"),
    "repeats": (TEMPLATES["repeats"], "repeats the system message"),
    "refuses": (
        template(before="{{ raise_exception('no system\nmessages') }}"),
        "refuses the chat (no system messages)",
    ),
    "fails": (template(content="m.content + m.name"), "refuses the chat ("),
    "cuts": (template(content="m.content[:20]"), "changes the text of a message"),
}


@pytest.mark.parametrize(("text", "does"), BAD_TEMPLATES.values(), ids=BAD_TEMPLATES)
def test_a_template_that_does_not_show_the_messages_is_seen(tokenizer, text, does):
    tokenizer.chat_template = text
    messages = chat("Name the language of the text.", "Guten Tag, wie geht es Ihnen?")
    with pytest.raises(TemplateProblem) as error:
        prompt_ids(tokenizer, messages, strict=True)
    assert str(error.value).startswith(does)
    assert error.value.reason == (
        "refused_by_template" if "refuses" in does else "garbled_by_template"
    )


@pytest.mark.parametrize("name", ["plain", "trims", "upper case"])
@pytest.mark.parametrize("contents", CONTENTS.values(), ids=CONTENTS)
def test_a_template_that_shows_them_is_not_refused(tokenizer, name, contents):
    tokenizer.chat_template = TEMPLATES[name]
    assert prompt_ids(tokenizer, chat(*contents), strict=True) == prompt_ids(
        tokenizer, chat(*contents)
    )


def test_a_template_may_take_out_a_switch_for_thinking(tokenizer):
    """As SmolLM3's does, which reads it there."""
    tokenizer.chat_template = template(
        content="m.content | replace('/no_think', '') | replace('/think', '')"
    )
    assert prompt_ids(
        tokenizer, chat("/no_think Name the language.", "see example.org/thinking"), strict=True
    )


def test_only_chats_whose_roles_do_not_fit_are_refused(tokenizer):
    """A template that puts the system message before the last user message is right, for a single
    turn.
    """
    last = "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>"
        + last
        + "{{ m.content }}<|im_end|>"
        "{% endif %}{% endfor %}"
    )
    assert prompt_ids(tokenizer, chat("A", "B"), strict=True)
    longer = [
        *chat("A", "B"),
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "2"},
    ]
    with pytest.raises(TemplateProblem, match="in another order"):
        prompt_ids(tokenizer, longer, strict=True)


@pytest.mark.parametrize(
    ("text", "does"),
    [
        (
            template(messages="messages | rejectattr('role', 'equalto', 'assistant')"),
            "drops the answer",
        ),
        (
            template(content="m.content + (m.content if m.role == 'assistant' else '')"),
            "repeats the answer",
        ),
        (
            template(
                before="{% if messages[-1].role == 'assistant' %}"
                "{{ raise_exception('no') }}{% endif %}"
            ),
            "refuses",
        ),
    ],
    ids=["drops", "repeats", "refuses"],
)
def test_a_template_that_does_not_show_the_answer_is_seen(tokenizer, text, does):
    tokenizer.chat_template = text
    with pytest.raises(TemplateProblem, match=f"^{does}"):
        encode(tokenizer, [*chat("A", "B"), {"role": "assistant", "content": "1"}])


DATED = "{% set today = date_string if date_string is defined else strftime_now('%d %b %Y') %}"


@pytest.mark.parametrize(
    ("text", "dated"),
    [
        (CHATML, False),
        (DATED + CHATML, False),
        ("{{ strftime_now('%d %B %Y') }}" + CHATML, True),
        (DATED + "{{ today }}" + CHATML, True),
        ("{% if messages | length > 5 %}{{ strftime_now('%Y') }}{% endif %}" + CHATML, False),
    ],
)
def test_a_template_that_writes_the_day_is_noticed(tokenizer, text, dated):
    tokenizer.chat_template = text
    assert depends_on_date(tokenizer, chat("A", "B")) == dated
