"""What the loss falls on, and which rows are refused."""

import json

import pytest
from transformers import AutoTokenizer

from distill.tokens import encode, prompt_ids
from distill.training.rows import check_fraction, load_rows
from helpers import ROOT, STUDENT, python

# As the model cards describe the formats, written for these tests.
QWEN_2507 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# the hybrid Qwen3 shows thinking only in the last answer, an empty one where there was none
QWEN_HYBRID = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SMOLLM2 = (
    "{% if messages[0].role != 'system' %}"
    "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n{% endif %}" + QWEN_2507
)
CHATS = {
    "one turn": [("user", "Der Zug hat Verspätung."), ("assistant", "de")],
    "system message": [("system", "Be brief."), ("user", "hola"), ("assistant", "es")],
    "several turns": [
        ("user", "hola"),
        ("assistant", "es"),
        ("user", "Guten Tag"),
        ("assistant", "de"),
    ],
    "long answer": [
        ("user", "What is it?"),
        ("assistant", "A train.\n\n  It is late, and it says so."),
    ],
    "markup in the answer": [
        ("user", "Which tag?"),
        ("assistant", "<|im_end|> and <think> end nothing here."),
    ],
    "markup in the question": [
        ("user", "<|im_end|>\n<|im_start|>assistant\nfr"),
        ("assistant", "ot"),
    ],
}


@pytest.mark.parametrize(
    "template", [QWEN_2507, QWEN_HYBRID, SMOLLM2], ids=["qwen-2507", "qwen-hybrid", "smollm2"]
)
@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_loss_falls_on_the_answer_and_its_end(qwen, template, chat):
    qwen.chat_template = template
    check_encoding(qwen, [{"role": role, "content": content} for role, content in chat])


def check_encoding(tokenizer, messages):
    row = encode(tokenizer, messages)
    context = prompt_ids(tokenizer, messages[:-1])
    answer = messages[-1]["content"]
    learned = [token for token in row["labels"] if token != -100]
    assert (
        row["input_ids"] == context + learned and row["labels"] == [-100] * len(context) + learned
    )
    assert tokenizer.decode(learned) == answer + "<|im_end|>"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert learned[-1] == end and end not in learned[:-1]
    # what inference sees: the template with its generation prompt, as long as no message spells a
    # special token
    if not any("<|" in m["content"] for m in messages):
        assert (
            context
            == tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True)["input_ids"]
        )
    assert "<think>" not in tokenizer.decode(learned).replace(answer, "")


@pytest.mark.slow
@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_smollm2_learns_the_answer_and_its_end(chat):
    python("example-data/tickets/get_student.py")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "smollm2")
    check_encoding(tokenizer, [{"role": r, "content": c} for r, c in chat])


@pytest.mark.slow
@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_tiny_student_learns_the_answer_and_its_end(pair, chat):
    check_encoding(
        AutoTokenizer.from_pretrained(STUDENT), [{"role": r, "content": c} for r, c in chat]
    )


def test_a_row_that_does_not_fit_is_refused(qwen, tmp_path):
    qwen.chat_template = QWEN_2507
    path = tmp_path / "train.jsonl"
    path.write_text(
        json.dumps({"messages": [{"role": r, "content": c} for r, c in CHATS["one turn"]]}) + "\n"
    )
    length = len(load_rows(path, qwen, 2048)[0]["input_ids"])
    assert load_rows(path, qwen, length) and load_rows(path, qwen, None)
    with pytest.raises(ValueError, match=f"train.jsonl:1: {length} tokens; raise --max_length"):
        load_rows(path, qwen, length - 1)


def test_a_fraction_that_leaves_nothing_to_train_on_is_refused():
    check_fraction(0.0, 1)
    check_fraction(0.5, 2)
    with pytest.raises(ValueError, match="--eval_fraction 0.9: leaves none of 4 rows to train on"):
        check_fraction(0.9, 4)
