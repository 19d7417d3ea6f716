"""The schema of a task file: what is refused, by its place, before anything is asked. No model."""

import json

import pytest

from distill.json_schema import schema_text
from distill.task import load_task
from helpers import ROOT, fails

EXAMPLE = ROOT / "example-data" / "notice_facts.yaml"
# what stands behind "schema:" in a task file, and what the message says after the file's name
BROKEN = {
    "an unknown type": (
        "{type: object, properties: {amount: {type: nubmer}}}",
        "schema.properties.amount.type: 'nubmer' is not one of ['array', 'boolean',",
    ),
    "a list of properties": (
        "{properties: [amount]}",
        "schema.properties: ['amount'] is not of type 'object'",
    ),
    "a name that is no list": ("{required: amount}", "schema.required: 'amount' is not of type"),
    "a broken pattern": ("{properties: {a: {pattern: '('}}}", "schema.properties.a.pattern: '('"),
    "a limit in words": ("{minimum: three}", "schema.minimum: 'three' is not of type 'number'"),
    "a text": ("answer.schema.json", "schema: must be a mapping"),
    "a list": ("[{type: object}]", "schema: must be a mapping"),
    "true": ("true", "schema: must be a mapping"),
    "a reference to nothing": (
        "{properties: {a: {$ref: '#/$defs/amount'}}}",
        "schema.properties.a.$ref: '#/$defs/amount' is nowhere in this schema",
    ),
    "a reference to the network": (
        "{items: {$ref: 'https://example.com/schema.json'}}",
        "schema.items.$ref: 'https://example.com/schema.json' is nowhere",
    ),
    "a reference below a property named as a keyword": (
        "{properties: {default: {items: {$ref: nowhere}}}}",
        "schema.properties.default.items.$ref: 'nowhere' is nowhere in this schema",
    ),
    "a name of a part": (
        "{items: {$id: part}}",
        "schema.items.$id: only the schema itself may have one",
    ),
    "a reference to itself": ("{$ref: '#'}", "schema: refers to itself without end"),
    "an alias of itself": ("&all {properties: {a: *all}}", "schema: refers to itself without end"),
    "a no that YAML reads": (
        "{properties: {paid: {type: string, enum: [yes, no]}}}",
        "schema.properties.paid.enum: true is not of type string; YAML reads",
    ),
    "a no beside a word": (
        "{properties: {paid: {enum: [no, unknown]}}}",
        "schema.properties.paid.enum: has both texts and true or false; YAML reads",
    ),
    "a no as a key": ("{properties: {no: {type: string}}}", "the key False must be in quotes"),
    "a date": ("{const: 2026-01-31}", "schema.const: 2026-01-31 is read as a date; put it in quo"),
    "no number": ("{minimum: .nan}", "schema.minimum: nan is no number of JSON"),
    "a draft by number": ("{$schema: 5}", "schema.$schema: must be a text"),
    "a reference into a number": (
        "{properties: {a: {$ref: '#/properties/b/maxLength/x'}, b: {maxLength: 3}}}",
        "schema.properties.a.$ref: '#/properties/b/maxLength/x' is nowhere",
    ),
    "half a character": ('{const: "\\ud83d"}', "schema.const: holds half of a surrogate pair"),
}


def task_file(folder, schema: str, more: str = ""):
    path = folder / "task.yaml"
    path.write_text(f"prompt: Read it.\nschema: {schema}\n{more}", encoding="utf-8")
    return path


@pytest.mark.parametrize(("schema", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_schema_is_refused_by_its_place(schema, message, tmp_path):
    with pytest.raises(ValueError) as error:
        load_task(task_file(tmp_path, schema))
    said = str(error.value)
    assert said.startswith(f"{tmp_path}/task.yaml: ") and message in said and "\n" not in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("labels: [a, b]", "has both 'labels' and 'schema'; an answer is one of them"),
        ("answer: 'Final Answer: (.+)'", "has both 'answer' and 'schema'"),
    ],
)
def test_a_schema_stands_alone(more, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_task(task_file(tmp_path, "{type: object}", more))
    assert load_task(task_file(tmp_path, "{type: object}", "labels: []\nanswer: ''")).schema


def test_both_scripts_refuse_it_in_one_line_before_a_model_is_looked_for(tmp_path):
    path = task_file(tmp_path, "{type: nubmer}")
    expected = f"{path}: schema.type: 'nubmer' is not one of"
    flags = ["--task", path]
    source = ["--input_file", ROOT / "example-data" / "notices.txt"]
    output = ["--output_file", tmp_path / "out.jsonl"]
    assert expected in fails("create_data.py", *flags, *source, *output)
    assert expected in fails("evaluate.py", *flags)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_schema_keeps_its_order_and_its_characters():
    schema = {"type": "object", "properties": {"z": {"const": "é"}, "a": {"$ref": "#/$defs/n"}}}
    schema["$defs"] = {"n": {"type": ["number", "null"], "enum": [1, 2.5, None]}}
    assert schema_text(schema) == json.dumps(schema, ensure_ascii=False)
    named = {"properties": {"paid": {"enum": [True, False]}, "enum": {"const": "a word"}}}
    named["properties"]["type"] = {"const": {"$ref": "no reference"}}
    assert json.loads(schema_text(named)) == named
    assert load_task(EXAMPLE).schema.startswith('{"type": "object", "properties": {"kind": ')


def test_vllm_guides_by_the_example_and_says_why_not_by_others():
    from distill.teacher.check import schema_problem

    assert schema_problem(load_task(EXAMPLE).schema) == ""
    # xgrammar does not take it, and vLLM then asks llguidance
    assert schema_problem('{"type": "integer", "multipleOf": 5}') == ""
    unique = schema_problem('{"type": "array", "uniqueItems": true}')
    assert unique == 'Grammar error: Unimplemented keys: ["uniqueItems"]'
