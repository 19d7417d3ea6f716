"""Answers that are JSON: how they are read, and the one form in which they are kept.

Two texts are the same answer if they hold the same value: the order of keys, white space and
escapes do not count, 1 and 1.0 are the same number, and `true` is another value than 1. In the one
form

- keys come in the order in which the schema names them, and those that it does not name behind
  them in alphabetical order. vLLM's guard writes keys in the schema's order, too, so that a student
  that has learned this form can be served under the same schema;
- a number with a whole value has no fraction;
- strings are kept as they are, and what is not ASCII stays readable.

So answers are equal where their texts are, and the student has one form to learn.
"""

import json
import math
import re
from functools import lru_cache

from distill.json_schema import parts_of, validator_of

# a code fence around the whole answer, with the name of a language or without
FENCED = re.compile(r"(`{3,}|~{3,})[ \t]*+(?:[a-z]\w*+)?(.*)\1", re.DOTALL | re.IGNORECASE)
EXACT = 2**53  # up to here a floating-point number holds every whole value
LONGEST_DETAIL = 150  # characters of a reason


def parse_json(text: str) -> object:
    """The value that an answer holds, which may stand in a code fence.

    A number with a whole value is an int. Raises ValueError, with a short reason, if the text is no
    JSON, or may mean different things to different readers; RecursionError if it is too deep.
    """
    text = text.strip()
    fenced = FENCED.fullmatch(text)
    if fenced:
        text = fenced[2].strip()
    try:
        value = json.loads(
            text,
            # vLLM's guard lets control characters through in a string with a maxLength
            strict=False,
            parse_float=number_of,
            parse_constant=refuse_constant,
            object_pairs_hook=object_of,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise ValueError(f"not JSON: {error.msg} in {place}") from None
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair") from None
    return value


def number_of(text: str) -> int | float:
    """A number with a fraction or an exponent, whole where its value is."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large")
    if number.is_integer() and abs(number) <= EXACT:
        return int(number)
    return number


def refuse_constant(text: str):
    """Refuse NaN and Infinity, which Python reads and JSON does not know."""
    raise ValueError(f"not JSON: {text}")


def object_of(pairs: list[tuple[str, object]]) -> dict:
    """An object; raises ValueError where a key comes twice, of which readers take either."""
    found = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} comes twice")
        found[key] = value
    return found


def violation(value: object, schema: str) -> str:
    """Where and why a value is not what a schema allows, in a few words; empty if it is."""
    from jsonschema.exceptions import best_match

    error = best_match(validator_of(schema).iter_errors(value))
    if error is None:
        return ""
    return f"{error.json_path}: {error.message}"[:LONGEST_DETAIL]


def written(value: object, schema: str) -> str:
    """A value in the one form in which answers are kept."""
    return json.dumps(in_order(value, order_of_keys(schema)), ensure_ascii=False)


def in_order(value: object, order: dict[str, int]) -> object:
    """A value whose keys come in an order; those that it does not have come last."""
    if isinstance(value, list):
        return [in_order(part, order) for part in value]
    if not isinstance(value, dict):
        return value
    names = sorted(value, key=lambda name: (order.get(name, len(order)), name))
    return {name: in_order(value[name], order) for name in names}


@lru_cache
def order_of_keys(schema: str) -> dict[str, int]:
    """The place of each property among all that a schema names, by its first mention."""
    order = {}
    for _, part in parts_of(json.loads(schema), ""):
        properties = part.get("properties")
        if isinstance(properties, dict):
            for name in properties:
                order.setdefault(name, len(order))
    return order
