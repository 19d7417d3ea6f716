"""Answers that rounding decides.

Where a model's two best tokens are nearly equal, another batch may take the other.
"""

import math
from dataclasses import asdict, dataclass, replace

from distill.adapter import TIE
from distill.teacher.base import Request, Teacher

# Two ways of adding up (LoRA or a merged copy, another batch) move two logits apart by so many
# roundings, as seen in small students: by up to 8 on a CPU without instructions for bfloat16, by
# 11 on one that has them; in float32 what precedes the logits moves them by more than that.
ROUNDINGS = 12
LEAST = 1e-3
BITS = {"float32": 23, "bfloat16": 7, "float16": 10}  # of a number's fraction
NAMED = 10  # rows that the report names


@dataclass(frozen=True)
class Ties:
    """The rows of one system on which a tie decides a token, in the order of the file."""

    rows: list[int]  # indexes
    of: int  # rows that were looked at
    within: float  # logits that counted as equal; the widest, since rounding grows with the logits
    dtype: str
    # for each of rows: how far its two best logits are apart, where they are closest
    apart: list[float]
    # for each of rows: the answer, and how it begins with the other token, or the later one
    answers: list[list[str]]


@dataclass(frozen=True)
class Place:
    """A place of an answer, and its two best tokens."""

    before: list[int]  # the answer's tokens before it
    best: int
    second: int
    apart: float  # of their logits
    within: float  # so close, they count as equal


def width(logit: float, dtype: str, roundings: int) -> float:
    """How close to `logit` another one is as good, if each may be off by some roundings.

    0 for none.
    """
    if not roundings:
        return 0.0
    # of a logit near 0 too: it is a sum of larger numbers
    rounding = 2.0 ** (math.floor(math.log2(max(1.0, abs(logit)))) - BITS[dtype])
    return min(TIE[dtype], max(LEAST, roundings * rounding))


def closest_place(
    token_ids: list[int], logits: list[dict[int, float]], dtype: str, roundings: int
) -> Place:
    """Where an answer is decided most narrowly.

    `logits` holds those of two or three tokens for each place.

    That is the place where the logits are closest, counted in what makes them equal there.
    """
    places = []
    for position, found in enumerate(logits):
        best, second = sorted(found, key=found.get, reverse=True)[:2]
        apart = found[best] - found[second]
        within = width(found[best], dtype, roundings)
        places.append(Place(token_ids[:position], best, second, apart, within))
    return min(places, key=lambda place: place.apart - place.within)


def find_ties(
    teacher: Teacher,
    requests: list[Request],
    answers: dict[int, list[int]],
    dtype: str,
    roundings: int = ROUNDINGS,
) -> dict:
    """Ask the rows of `requests` once more: which of them hold a tie, as Ties in a dict.

    The requests' jobs are their rows. The engine's logprobs_mode must be raw_logits, since
    rounding is the logits'. `answers` are the tokens that they got the first time: a row that
    now gets others is one too. With 0 `roundings` only equal logits are a tie.
    """
    again = []
    for request in requests:
        sampling = replace(request.sampling, logprobs=2)
        again.append(replace(request, sampling=sampling))
    tied = {}
    widest = 0.0
    for row, completion in teacher.ask(again):
        place = closest_place(completion.token_ids, completion.logprobs, dtype, roundings)
        widest = max(widest, place.within)
        answer = teacher.spell(answers[row])
        if completion.token_ids != answers[row]:
            tied[row] = (place.apart, [answer, teacher.spell(completion.token_ids)])
        elif place.apart <= place.within:
            begins = teacher.spell([*place.before, place.second])
            tied[row] = (place.apart, [answer, f"{begins}..."])
    rows = sorted(tied)
    apart = [tied[row][0] for row in rows]
    texts = [tied[row][1] for row in rows]
    return asdict(Ties(rows, len(again), widest, dtype, apart, texts))


def named(ties: dict) -> str:
    """The rows, those first that are decided most narrowly.

    With their two answers where these are known.
    """
    rows = ties["rows"]
    parts = [str(row + 1) for row in rows]
    if "answers" in ties:  # not in what an older evaluate.py kept
        order = sorted(range(len(rows)), key=lambda i: ties["apart"][i])
        parts = [
            f"{rows[i] + 1}: {ties['answers'][i][0]!r} or {ties['answers'][i][1]!r}" for i in order
        ]
    further = len(rows) - NAMED
    more = f" and {further} more" if further > 0 else ""
    word = "row" if len(rows) == 1 else "rows"
    return f"({word} {', '.join(parts[:NAMED])}{more})"


def ties_sentence(ties: dict | None) -> str:
    """What the report says of them; empty if there are none."""
    if not ties or not ties["rows"]:
        return ""
    count = len(ties["rows"])
    if not ties["within"]:
        near = (
            "give other tokens when they are asked again, "
            "or have two tokens that are exactly as good"
        )
        return f"{count} of {ties['of']} rows of the distilled student {near} {named(ties)}."
    word = "row" if count == 1 else "rows"
    return (
        f"On {count} of {ties['of']} {word} the distilled student's two best tokens are within "
        f"{ties['within']:g} in log-probability somewhere in the answer ({ties['dtype']}): "
        f"there LoRA, a merged copy or another batch may answer otherwise {named(ties)}."
    )
