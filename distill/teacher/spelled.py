"""Inputs that spell a special token, which a server would take for one."""

import re

from distill.tokens import kept_as_text

# Spellings of special tokens in the families of models that servers have. Without the teacher's
# tokenizer nobody knows which are its own, so an input with any of them may not stay text.
SPELLED = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?think>|\[/?INST\]|</?s>"
    r"|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>"
)


def spells_special(chat: list[dict], tokenizer=None) -> bool:
    """Whether an input spells a special token; the task's prompt is its author's to write.

    `tokenizer` is the teacher's, None where it is not named.
    """
    for message in chat:
        if message["role"] == "system":
            continue
        text = message["content"]
        if tokenizer is None:
            if SPELLED.search(text):
                return True
            continue
        kept = kept_as_text(tokenizer, str(tokenizer.chat_template))
        if any(spelling in text for spelling in kept):
            return True
    return False
