"""Answers that are JSON objects, field by field. No model, no vLLM."""

import json


def fields_of(schema: str, gold: list[str]) -> list[str] | None:
    """The top-level fields that are compared; None where answers are no JSON.

    They are those that the schema names, and what gold answers hold beside them. `schema` is the
    task's, and empty where it has none.
    """
    if not schema:
        return None
    found = dict.fromkeys(json.loads(schema).get("properties", {}))
    for text in gold:
        found.update(dict.fromkeys(fields_in(text)))
    return list(found)


def right_by_field(answers: list[str | None], gold: list[str], fields: list[str]) -> dict[str, int]:
    """How many rows have each field right, of answers in their one form (json_answers.py).

    A field is right where answer and gold hold the same value, or neither holds it. Of an answer
    that cannot be read (None) no field is right.
    """
    right = dict.fromkeys(fields, 0)
    for answer, expected in zip(answers, gold, strict=True):
        if answer is None:
            continue
        given = fields_in(answer)
        wanted = fields_in(expected)
        for field in fields:
            right[field] += given.get(field) == wanted.get(field)
    return right


def fields_in(text: str) -> dict[str, str]:
    """The fields of an answer that is an object, each as JSON text, in which true is not 1.

    None of another answer.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        return {}
    return {name: json.dumps(part, ensure_ascii=False) for name, part in value.items()}
