"""What a teacher has written, from its token ids."""

from distill.tokens import decode


def text_of(tokenizer, token_ids: list[int], finish_reason: str) -> str:
    """A completion's text without its end of turn, which is its last token where it stopped."""
    if finish_reason == "stop":
        token_ids = token_ids[:-1]
    return decode(tokenizer, token_ids)


def thinking_tokens(token_ids: list[int], think_end: int) -> int:
    """How many tokens precede the last </think>, whose id is `think_end`; all if it is missing."""
    if think_end not in token_ids:
        return len(token_ids)
    return len(token_ids) - 1 - token_ids[::-1].index(think_end)
