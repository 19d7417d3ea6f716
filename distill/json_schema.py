"""The JSON Schema of a task whose answers are JSON, checked before anything is asked.

A task holds it as JSON text with the keys in the file's order: in this order vLLM's guard writes an
answer, and in this order answers are kept. Nothing is ever fetched for a schema.
"""

import json
import math
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from distill.yaml_file import whole_characters

ROOT = "schema"  # how messages name the schema itself
# keywords whose values are answers, or parts of them, and no schemas
VALUES = ("enum", "const", "default", "examples")
# keywords whose values are schemas by names that the author of the schema has chosen
BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
QUOTE = 'YAML reads words such as no and yes as true or false: write "no" and "yes"'


def schema_text(schema: object) -> str:
    """A schema that YAML has read, as JSON text; raises ValueError that names the place."""
    if not isinstance(schema, dict):
        raise ValueError(f"{ROOT}: must be a mapping with keys such as type and properties")
    try:
        schema = in_json(schema, ROOT)
        if not isinstance(schema.get("$schema", ""), str):
            raise ValueError(f"{ROOT}.$schema: must be a text")
        check_keywords(schema)
        check_references(schema)
        check_choices(schema)
        text = json.dumps(schema, ensure_ascii=False)
        validator_of(text).is_valid(None)
    except RecursionError:
        raise ValueError(f"{ROOT}: refers to itself without end") from None
    return text


@lru_cache
def validator_of(schema: str):
    """jsonschema's validator of a schema, given as JSON text.

    It checks the formats that jsonschema knows without further packages, such as date and email.
    """
    from jsonschema.validators import extend
    from referencing import Registry

    content = json.loads(schema)
    of_draft = extend(validator_class(content), {"multipleOf": multiple_of})
    return of_draft(content, registry=Registry(), format_checker=of_draft.FORMAT_CHECKER)


def multiple_of(validator, step, value, schema) -> Iterator[Exception]:
    """The keyword multipleOf, exactly: jsonschema would divide floating-point numbers.

    To it 0.07 is no multiple of 0.01.
    """
    from jsonschema import ValidationError

    if validator.is_type(value, "number") and Fraction(str(value)) % Fraction(str(step)):
        yield ValidationError(f"{value!r} is not a multiple of {step}")


def validator_class(schema: dict):
    """jsonschema's validator of the draft that a schema names; of the newest one without a name."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    return validator_for(schema, default=Draft202012Validator)


def in_json(value: object, place: str):
    """What YAML has read, as JSON has it; raises ValueError that begins with the place."""
    if isinstance(value, dict):
        found = {}
        for key, part in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{place}: the key {key!r} must be in quotes; {QUOTE}")
            found[in_json(key, place)] = in_json(part, f"{place}.{key}")
        return found
    if isinstance(value, list):
        return [in_json(part, f"{place}[{number}]") for number, part in enumerate(value)]
    if isinstance(value, str):
        try:
            return whole_characters(value)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place}: {value} is no number of JSON")
    if value is None or isinstance(value, bool | int | float):
        return value
    raise ValueError(f"{place}: {value} is read as a {type(value).__name__}; put it in quotes")


def check_keywords(schema: dict) -> None:
    """Raise ValueError where a keyword has a value that JSON Schema does not allow."""
    from jsonschema import SchemaError

    try:
        validator_class(schema).check_schema(schema)
    except SchemaError as error:
        # the first of several alternatives says more than that it is none of them
        reason = error.context[0].message if error.context else error.message
        raise ValueError(f"{ROOT}{error.json_path[1:]}: {reason}") from None


def check_references(schema: dict) -> None:
    """Raise ValueError where a reference leads out of the schema, or nowhere."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
    for place, part in parts_of(schema, ROOT):
        if part is not schema and "$id" in part:
            raise ValueError(f"{place}.$id: only the schema itself may have one")
        for keyword in ("$ref", "$dynamicRef"):
            reference = part.get(keyword)
            if reference is None:
                continue
            try:
                resolver.lookup(reference)
            except (Unresolvable, TypeError, ValueError):
                raise ValueError(
                    f"{place}.{keyword}: {reference!r} is nowhere in this schema"
                ) from None


def check_choices(schema: dict) -> None:
    """Raise ValueError where a choice cannot be an answer, such as a no that YAML has read."""
    for place, part in parts_of(schema, ROOT):
        choices = part["enum"] if isinstance(part.get("enum"), list) else []
        types = part.get("type")
        if isinstance(types, str | list):
            of_type = validator_class(schema)({"type": types})
            for choice in choices:
                if not of_type.is_valid(choice):
                    shown = json.dumps(choice, ensure_ascii=False)
                    raise ValueError(f"{place}.enum: {shown} is not of type {types}; {QUOTE}")
        elif {str, bool} <= set(map(type, choices)):
            raise ValueError(f"{place}.enum: has both texts and true or false; {QUOTE}")


def parts_of(schema: object, place: str, by_name: bool = False) -> Iterator[tuple[str, dict]]:
    """Each schema within a schema with its place, the outer ones first, itself the first.

    With `by_name` the keys are names, and what they name are the schemas.
    """
    if isinstance(schema, dict):
        if not by_name:
            yield place, schema
        for key, part in schema.items():
            if by_name or key not in VALUES:
                named = not by_name and key in BY_NAME
                yield from parts_of(part, f"{place}.{key}", named)
    if isinstance(schema, list):
        for number, part in enumerate(schema):
            yield from parts_of(part, f"{place}[{number}]")
