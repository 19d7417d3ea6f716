"""Chats as token ids: what a model is asked with, and what a training row's loss falls on.

No torch.

Text in a message that spells a special token, such as <|im_end|>, stays text. It is told from the
template's own tokens by a mask: while the chat is rendered, another character stands for the first
one of the spelling, so that it does not matter whether the template trims, upper-cases, moves or
repeats the message. Then the template's tokens get secret names, known to a copy of the tokenizer
that no longer knows their spelling.
"""

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from distill.templates import GARBLED, TemplateProblem, check_shown, render

THINK_START = "<think>"
THINK_END = "</think>"
# no keyboard writes them, and neither does a template trim or change them
PRIVATE_USE = [range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE)]


def prompt_ids(tokenizer, messages: list[dict], strict: bool = False, **variables) -> list[int]:
    """Token ids of a chat up to where the answer starts; `variables` are the template's.

    Raises TemplateProblem if the template refuses the chat and, where `strict`, unless it shows
    each message once and in order.
    """
    masked = mask(tokenizer, messages)
    text = render(tokenizer, masked.messages, **variables)
    if strict:
        check_shown(tokenizer, masked.messages, text)
    return ids_of_chat(tokenizer, masked, text)


def encode(tokenizer, messages: list[dict]) -> dict[str, list[int]]:
    """input_ids and labels of one training row.

    Labels are -100 but on the answer and its end of turn. The context is what inference sees,
    prompt_ids() of the messages before the answer. Raises TemplateProblem as prompt_ids() does
    where it is strict, and if the template does not show an answer.
    """
    masked = mask(tokenizer, messages)
    *prompt, answer = masked.messages
    text = render(tokenizer, prompt)
    check_shown(tokenizer, prompt, text)
    context = ids_of_chat(tokenizer, masked, text)

    ending = end_of_turn(tokenizer, prompt, next(masked.unused))
    target = ids_after(tokenizer, masked, text, answer["content"] + ending)
    return {"input_ids": context + target, "labels": [-100] * len(context) + target}


def end_of_turn(tokenizer, prompt: list[dict], mark: str) -> str:
    """What the template writes after an answer to `prompt`.

    The newline that inference never generates is left out. `mark` is a character that the
    prompt does not hold. Raises TemplateProblem.
    """
    rendered = render(
        tokenizer, [*prompt, {"role": "assistant", "content": mark}], add_generation_prompt=False
    )
    _, *endings = rendered.split(mark)
    if len(endings) != 1:
        does = "repeats" if endings else "drops"
        raise TemplateProblem(GARBLED, f"{does} the answer")
    return endings[0].rstrip() or tokenizer.eos_token


# Thoughts


def think_end_id(tokenizer) -> int | None:
    """The token </think>; None where a tokenizer makes several tokens of it."""
    return tokenizer.get_vocab().get(THINK_END)


def decode(tokenizer, ids: list[int]) -> str:
    """The text of generated tokens without special ones.

    <think> and </think> stay, which may be special too.
    """
    plainly = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    kept = special_thought_tokens(tokenizer)
    if not kept:
        return tokenizer.decode(ids, **plainly)  # as nearly always, without a look at each token
    pieces = [[]]  # token ids, or a thought's begin or end as text
    for token in ids:
        if token in kept:
            pieces += [kept[token], []]
        else:
            pieces[-1].append(token)
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
        elif piece:
            text += tokenizer.decode(piece, **plainly)
    return text


@lru_cache(maxsize=8)
def special_thought_tokens(tokenizer) -> dict[int, str]:
    """Of <think> and </think> those that a tokenizer calls special.

    It would leave them out of a text.
    """
    found = {}
    for number, token in tokenizer.added_tokens_decoder.items():
        if token.special and str(token) in (THINK_START, THINK_END):
            found[number] = str(token)
    return found


# Text that spells special tokens


@dataclass
class Masked:
    """A chat in which each spelling of a special token has another first character."""

    messages: list[dict]
    first: dict[str, str]  # what a character stands for; empty where nothing is spelled
    unused: Iterator[str]  # further characters that the chat does not hold


def mask(tokenizer, messages: list[dict]) -> Masked:
    """Mask what spells a special token in a chat."""
    tokens = kept_as_text(tokenizer, str(tokenizer.chat_template))
    unused = unused_characters(messages)
    if not any(token in message["content"] for message in messages for token in tokens):
        return Masked(messages, {}, unused)
    stands_for = {first: next(unused) for first in sorted({token[0] for token in tokens})}
    masked = []
    for message in messages:
        content = message["content"]
        for token in tokens:
            content = content.replace(token, stands_for[token[0]] + token[1:])
        masked.append({**message, "content": content})
    return Masked(masked, {character: first for first, character in stands_for.items()}, unused)


def unused_characters(messages: list[dict]) -> Iterator[str]:
    """Yield private-use characters that the chat does not hold."""
    for code in chain.from_iterable(PRIVATE_USE):
        if not any(chr(code) in message["content"] for message in messages):
            yield chr(code)


@lru_cache(maxsize=8)
def kept_as_text(tokenizer, template: str) -> tuple[str, ...]:
    """The tokens that nobody may write into a message, the longest first.

    They are the special ones, and those with which thoughts and, in this template, turns begin and
    end. Other added tokens, such as white space and HTML, are ordinary text, as they are to a
    server.
    """
    written = ""
    if tokenizer.chat_template:
        try:
            written = render(tokenizer, [{"role": "user", "content": "a"}])
        except TemplateProblem:
            written = ""  # whoever renders a chat will be told
    kept = set()
    for token in tokenizer.added_tokens_decoder.values():
        spelling = str(token)
        begins_or_ends = spelling in (THINK_START, THINK_END) or spelling in written
        if spelling.strip() and (token.special or begins_or_ends):
            kept.add(spelling)
    return tuple(sorted(kept, key=lambda spelling: (-len(spelling), spelling)))


@dataclass(frozen=True)
class Renamed:
    """A copy of a tokenizer in which the tokens that are kept as text are renamed.

    Nobody can guess the new names.
    """

    names: dict[str, str]
    spellings: re.Pattern
    backend: object  # tokenizers.Tokenizer

    def ids(self, masked: Masked, text: str) -> list[int]:
        """Token ids of rendered text whose messages are masked."""
        text = self.spellings.sub(lambda found: self.names[found[0]], text)
        for character, first in masked.first.items():
            text = text.replace(character, first)
        return self.backend.encode(text, add_special_tokens=False).ids


@lru_cache(maxsize=8)
def renamed(tokenizer, template: str) -> Renamed:
    """The copy for a tokenizer.

    Raises TemplateProblem for one in pure Python, which cannot be copied so.
    """
    from tokenizers import Tokenizer

    tokens = kept_as_text(tokenizer, template)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        does = (
            "leaves a special token's spelling to a tokenizer in pure Python, "
            "which cannot keep it as text"
        )
        raise TemplateProblem(GARBLED, does)
    secret = secrets.token_hex(8)  # else a message could spell the names instead
    names = {token: f"[{secret} {number}]" for number, token in enumerate(tokens)}
    description = json.loads(backend.to_str())
    for token in description["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = description["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {
            names.get(piece, piece): number for piece, number in model["vocab"].items()
        }
    else:  # Unigram's, with their scores
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token"):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    # it would add tokens, which it knows by their spelling
    description.update(post_processor=None, truncation=None, padding=None)
    spellings = "|".join(re.escape(token) for token in tokens)
    return Renamed(names, re.compile(spellings), Tokenizer.from_str(json.dumps(description)))


# Rendered text to ids


def ids_of(tokenizer, masked: Masked, text: str) -> list[int]:
    """Token ids of rendered text."""
    if not masked.first:
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    return renamed(tokenizer, str(tokenizer.chat_template)).ids(masked, text)


def ids_of_chat(tokenizer, masked: Masked, text: str) -> list[int]:
    """Token ids of a rendered chat.

    What precedes the last message is the same in every row, and tokenised once.
    """
    cut = last_cut(tokenizer, text[: max(text.rfind(masked.messages[-1]["content"].strip()), 0)])
    if any(character in text[:cut] for character in masked.first):
        cut = 0
    return [*head_ids(tokenizer, text[:cut]), *ids_of(tokenizer, masked, text[cut:])]


def ids_after(tokenizer, masked: Masked, before: str, text: str) -> list[int]:
    """Token ids of `text` as it follows `before`, or else of it alone.

    Some tokenizers give it no space where it follows.
    """
    tail = before[last_cut(tokenizer, before) :]
    tail_ids = ids_of(tokenizer, masked, tail)
    both = ids_of(tokenizer, masked, tail + text)
    if both[: len(tail_ids)] == tail_ids:
        return both[len(tail_ids) :]
    # they run together into one token, which inference never sees
    return ids_of(tokenizer, masked, text)


def last_cut(tokenizer, text: str) -> int:
    """The last place at which a rendered text may be cut; 0 if there is none."""
    ends = [text.rfind(token) + len(token) for token in cut_points(tokenizer) if token in text]
    return max(ends, default=0)


@lru_cache(maxsize=8)
def head_ids(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


@lru_cache(maxsize=8)
def cut_points(tokenizer) -> tuple[str, ...]:
    """Special tokens after which a text may be cut.

    What follows is tokenised as it would be alone.
    """

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    tokens = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    probes = ("user", "\n user", " a")
    return tuple(
        t
        for t in tokens
        if all(ids(f"a{t}{probe}") == ids(f"a{t}") + ids(probe) for probe in probes)
    )
