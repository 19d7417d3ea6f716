"""create_data.py --dry_run: what it says without a model, what it refuses, and that it writes
nothing.
"""

import json
import os
import re
import sys
import time

import pytest

from distill.terminal import WIDTH
from helpers import ROOT, fails, last_json, python, run
from hub_cache import make_hub_cache
from small_tokenizers import CHATML, DROPS, save_model

HEAVY = ("torch", "transformers", "vllm", "xgrammar", "ray", "trl", "peft", "datasets")
LIGHT_SECONDS = 60  # on a machine that does something else too; it takes less than one
PROMPT = "Sort the message. " * 50
TASK = {
    "prompt": PROMPT,
    "labels": ["billing", "late delivery", "other"],
    "answer": "Final Answer: (.+)",
}
INPUTS = ["My invoice is wrong.", "Where is it?", "hola", "hola", "A long text, " * 30]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A directory with a tokenizer and a configuration, and no weights."""
    folder = save_model(tmp_path_factory.mktemp("models") / "teacher", CHATML)
    (folder / "config.json").write_text(
        '{"model_type": "qwen3_moe", "max_position_embeddings": 4096}'
    )
    return folder


@pytest.fixture
def flags(tmp_path):
    """Flags of a task with labels and of five inputs; the output is in a folder of its own."""
    (tmp_path / "task.yaml").write_text(json.dumps(TASK))
    (tmp_path / "in.txt").write_text("\n".join(INPUTS) + "\n")
    found = ["--task", tmp_path / "task.yaml", "--input_file", tmp_path / "in.txt"]
    return [*found, "--output_file", tmp_path / "out" / "out.jsonl", "--dry_run"]


def on_one_line(text):
    return " ".join(text.split())


def dry_run(*flags, **environment):
    """The finished process, which has imported nothing heavy."""
    command = [sys.executable, "-X", "importtime", ROOT / "create_data.py", *flags]
    begun = time.monotonic()
    result = run(*command, env={**os.environ, **environment})
    assert time.monotonic() - begun < LIGHT_SECONDS
    imported = set(re.findall(r"\| +(\w+)$", result.stderr, re.MULTILINE))
    assert "json" in imported and not imported & set(HEAVY)
    said = [line for line in result.stderr.splitlines() if not line.startswith("import time:")]
    assert said == []
    return result


def test_it_says_what_would_be_asked_and_writes_nothing(teacher, flags, tmp_path):
    from transformers import AutoTokenizer

    from distill.tokens import prompt_ids

    before = sorted(tmp_path.rglob("*"))
    result = dry_run("--model_name", teacher, "--num_samples", 3, *flags)
    assert sorted(tmp_path.rglob("*")) == before
    summary = last_json(result)
    assert summary["dry_run"] and summary["tokens_counted"]
    assert (summary["inputs"], summary["asked"], summary["requests"]) == (5, 4, 12)
    assert summary["output_tokens_at_most"] == 12 * 4096
    assert (summary["longest_input_index"], summary["context"]) == (4, 4096)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    of_all = 0
    for text in dict.fromkeys(INPUTS):
        turns = [{"role": "system", "content": PROMPT.strip()}, {"role": "user", "content": text}]
        of_all += len(prompt_ids(tokenizer, turns))
    assert summary["prompt_tokens"] == 3 * of_all
    assert summary["shared_prompt_tokens"] + summary["longest_input_tokens"] == len(
        prompt_ids(tokenizer, turns)
    )
    text = result.stdout.rpartition("\n{")[0]
    assert "Final Answer: (billing|late delivery|other)" in text
    assert "'Final Answer: late delivery' is read as 'late delivery'" in text
    assert "<|im_start|>user\n" in text and "<think>" in text  # as the teacher's template has it
    assert "fewer than --max_tokens 4,096" in on_one_line(text)
    seen_by_student = text.partition("student sees")[2]
    assert INPUTS[0] in seen_by_student and "Sort the message" not in seen_by_student
    assert max(map(len, text.splitlines())) <= WIDTH


def test_without_a_tokenizer_tokens_are_estimated_and_said_so(flags):
    result = dry_run("--model_name", "some/teacher", *flags)
    summary = last_json(result)
    assert not summary["tokens_counted"] and summary["context"] is None
    assert summary["shared_prompt_tokens"] == round(len(PROMPT.strip()) / 4)
    why = "estimated, 4 characters for a token: the tokenizer of some/teacher is not on this disk"
    assert why in on_one_line(result.stdout)


def test_the_schema_of_json_answers_is_shown(flags, tmp_path):
    schema = {"type": "object", "properties": {"amount": {"type": "number"}}}
    (tmp_path / "task.yaml").write_text(json.dumps({"prompt": "How much?", "schema": schema}))
    result = dry_run("--model_name", "some/teacher", "--structured_outputs", "always", *flags)
    assert "every attempt is guarded" in result.stdout and '"amount"' in result.stdout
    assert "the JSON that follows the thinking" in on_one_line(result.stdout)


def test_a_tokenizer_in_the_hubs_cache_is_found_by_name(teacher, flags, tmp_path):
    cache = make_hub_cache(tmp_path / "cache", "some/teacher", {"main": teacher})
    by_name = last_json(dry_run("--model_name", "some/teacher", *flags, **cache))
    assert by_name == last_json(dry_run("--model_name", teacher, *flags))


def test_what_is_finished_is_not_counted_again(teacher, flags, tmp_path):
    """Half of a line, which a run that is at work may be writing, stays as it is."""
    output = tmp_path / "out" / "out.jsonl"
    output.parent.mkdir()
    output.write_text("finished\n")
    assert "exists and is finished" in fails("create_data.py", "--model_name", teacher, *flags)
    summary = last_json(python("create_data.py", "--model_name", teacher, *flags, "--overwrite"))
    assert summary["asked"] == 4 and output.read_text() == "finished\n"
    output.unlink()
    journal = tmp_path / "out" / "out.jsonl.trace.jsonl"
    journal.write_text('{"index": 0, "ha')
    assert last_json(python("create_data.py", "--model_name", teacher, *flags))["asked"] == 4
    assert journal.read_text() == '{"index": 0, "ha'


REFUSED = {
    "a label that is not read back": (
        {**TASK, "answer": r"Final Answer: (\S+)"},
        [],
        "and not the label 'late delivery'",
    ),
    "a guard of nothing": (
        {"prompt": "Rewrite."},
        ["--structured_outputs", "always"],
        "--structured_outputs always: {task} has neither labels nor a schema, so nothing can be",
    ),
    "no such key": ({**TASK, "label": []}, [], "unknown key 'label'"),
    "a directory has no revision": (TASK, ["--revision", "v2"], "--revision v2"),
    "no thoughts": (TASK, ["--reasoning_parser", "none"], "its template opens a thought"),
    "no such input": (TASK, ["--input_file", "/nowhere.txt"], "/nowhere.txt"),
}


@pytest.mark.parametrize(("task", "further", "named"), REFUSED.values(), ids=REFUSED)
def test_what_a_real_run_refuses_is_refused(task, further, named, teacher, flags, tmp_path):
    (tmp_path / "task.yaml").write_text(json.dumps(task))
    said = fails("create_data.py", "--model_name", teacher, *flags, *further)
    assert named.format(task=tmp_path / "task.yaml") in said
    # the real run says the same, up to the last flag
    real = [flag for flag in flags if flag != "--dry_run"]
    assert fails("create_data.py", "--model_name", teacher, *real, *further) == said
    assert not (tmp_path / "out").exists()


def test_a_template_without_a_system_message_is_refused(flags, tmp_path):
    folder = save_model(tmp_path / "drops", DROPS)
    said = fails("create_data.py", "--model_name", folder, *flags)
    assert "drops the system message" in said
