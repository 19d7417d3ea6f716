"""Chats as token ids: what a model is asked with, and what a training row's loss falls on. No torch."""

import re
from functools import lru_cache


def prompt_ids(tokenizer, messages: list[dict]) -> list[int]:
    """Token ids of a chat up to where the answer starts.

    Text in a message that spells a special token, such as <|im_end|>, stays text: the template is rendered around
    placeholders, and the messages' own text is tokenised apart, only where it holds such a spelling.
    """
    special = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    mark = "\ue000"  # a private-use character, which no template touches
    while any(mark in message["content"] for message in messages):
        mark += "\ue000"
    contents, marked = {}, []
    for i, message in enumerate(messages):
        if any(token in message["content"] for token in special):
            contents[f"{mark}{i}\ue001"] = message["content"]
            message = {**message, "content": f"{mark}{i}\ue001"}
        marked.append(message)
    text = tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True)
    # what precedes the last message is the same in every row of a task, so it is tokenised once
    last = text.rfind(marked[-1]["content"])
    cut = max(
        (text.rfind(token, 0, last) + len(token) for token in cut_points(tokenizer) if token in text[:last]), default=0
    )
    if any(placeholder in text[:cut] for placeholder in contents):
        cut = 0
    ids, text = list(head_ids(tokenizer, text[:cut])), text[cut:]
    for placeholder, content in contents.items():
        before, _, text = text.partition(placeholder)
        ids += tokenizer(before, add_special_tokens=False)["input_ids"]
        ids += text_ids(tokenizer, content)
    return ids + tokenizer(text, add_special_tokens=False)["input_ids"]


@lru_cache(maxsize=8)
def head_ids(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


@lru_cache(maxsize=8)
def cut_points(tokenizer) -> tuple[str, ...]:
    """Special tokens after which a text may be cut, because what follows is tokenised as it would be alone."""

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    tokens = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    probes = ("user", "\n user", " a")
    return tuple(t for t in tokens if all(ids(f"a{t}{probe}") == ids(f"a{t}") + ids(probe) for probe in probes))


def text_ids(tokenizer, text: str) -> list[int]:
    """Token ids of plain text; what spells an added token, such as <think>, is cut after its first letter."""
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if len(str(token)) > 1]
    inside = "|".join(f"(?<={re.escape(t[0])})(?={re.escape(t[1:])})" for t in special) or "(?!)"
    return [i for piece in re.split(inside, text) for i in tokenizer(piece, add_special_tokens=False)["input_ids"]]


def encode(tokenizer, messages: list[dict]) -> dict[str, list[int]]:
    """input_ids and labels of one training row; labels are -100 but on the answer and its end of turn.

    The context is what inference sees, prompt_ids() of the messages before the answer.
    """
    *prompt, answer = messages
    context = prompt_ids(tokenizer, prompt)
    mark = "\ue002"  # a private-use character, which no template touches
    probe = [*prompt, {"role": "assistant", "content": mark}]
    rendered = tokenizer.apply_chat_template(probe, tokenize=False)
    # what the template writes after an answer, without the newline that inference never generates
    ending = rendered.rpartition(mark)[2].rstrip() or tokenizer.eos_token
    target = text_ids(tokenizer, answer["content"])
    target += tokenizer(ending, add_special_tokens=False)["input_ids"]
    return {"input_ids": context + target, "labels": [-100] * len(context) + target}
