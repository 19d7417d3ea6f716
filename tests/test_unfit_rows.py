"""Rows whose turns a template does not show, and the tokenizer that is tried.

No model, no engine.
"""

import json
import shutil
from collections import Counter

import pytest

from create_data import parse_args
from distill.evaluation.templates import tokenizer_of_system, try_templates
from distill.labels.inputs import scan_inputs
from distill.model_tokenizer import load_tokenizer
from distill.task import Task, load_task
from distill.teacher.check import check_teacher
from distill.training.rows import load_rows
from helpers import PROGRAMS, fails
from small_tokenizers import CHATML, DROPS, save_model, system

# as older templates of Mistral's, the system message goes into the last turn of the user
LAST_TURN = (
    "{% set prompt = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role + '\\n' }}"
    "{% if loop.last and prompt %}{{ prompt + '\\n\\n' }}{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
SINGLE = [{"role": "user", "content": "hola"}]
SEVERAL = [*SINGLE, {"role": "assistant", "content": "es"}, {"role": "user", "content": "und das?"}]
ROLES = Counter({("user",): 3, ("user", "assistant", "user"): 2})
DOES = (
    "its chat template puts the messages in another order "
    "in a chat of system, user, assistant, user"
)
TASK = Task("Name the language.", (), "", "")


def write_rows(path, rows):
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


def test_step_1_says_once_how_many_rows_it_will_reject(tmp_path, caplog):
    model = save_model(tmp_path / "model", LAST_TURN)
    flags = ["--model_name", str(model)]
    choices = parse_args(flags)
    task = load_task(choices.task_file)
    asked = (choices.teacher, choices.task_file, task, choices.settings.guards)
    inputs = scan_inputs(
        write_rows(tmp_path / "in.jsonl", [SINGLE, SEVERAL, SINGLE, SEVERAL, SINGLE])
    )
    assert inputs.roles == ROLES
    check_teacher(*asked, inputs.roles)
    [said] = [record.getMessage() for record in caplog.records if record.name == "create_data"]
    assert said.startswith(
        f"{model}: {DOES}; 2 of 5 rows cannot be asked and are rejected; drop them"
    )
    caplog.clear()
    check_teacher(*asked, scan_inputs(write_rows(tmp_path / "in.jsonl", [SINGLE])).roles)
    assert not [record for record in caplog.records if record.name == "create_data"]


def test_step_1_refuses_inputs_of_which_none_can_be_asked(tmp_path):
    model = save_model(tmp_path / "model", LAST_TURN)
    source = write_rows(tmp_path / "in.jsonl", [SEVERAL, [*SEVERAL[:2], *SINGLE]])
    output = tmp_path / "out.jsonl"
    said = fails(
        "create_data.py", "--model_name", model, "--input_file", source, "--output_file", output
    )
    assert f"{model}: {DOES}; none of the 2 rows can be asked" in said and not output.exists()


def test_step_2_names_the_row_and_takes_turns_without_a_prompt(tmp_path):
    tokenizer = load_tokenizer(str(save_model(tmp_path / "model", LAST_TURN)))
    prompt = {"role": "system", "content": "Name the language."}
    answer = {"role": "assistant", "content": "de"}
    fit = [[*SINGLE, answer], [*SEVERAL, answer], [prompt, *SINGLE, answer]]
    assert len(load_rows(write_rows(tmp_path / "train.jsonl", fit), tokenizer, None)) == 3
    path = write_rows(tmp_path / "train.jsonl", [*fit, [prompt, *SEVERAL, answer]])
    with pytest.raises(
        ValueError, match=f"^{path}:4: the chat template puts the messages in another order"
    ):
        load_rows(path, tokenizer, None)


def test_step_3_says_once_how_many_rows_count_as_unreadable(tmp_path, caplog):
    model = save_model(tmp_path / "model", LAST_TURN)
    systems = [system(name, model) for name in ("teacher", "base")]
    assert try_templates(systems, TASK, ROLES, "", []) == ({}, [])
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        f"{model}: {DOES}; 2 of 5 rows cannot be asked and count as unreadable (teacher); drop"
    )

    several = Counter({("user", "assistant", "user"): 2})
    with pytest.raises(ValueError, match="none of the 2 rows can be asked"):
        try_templates(systems, TASK, several, "", [])
    left_out, _ = try_templates([system("base_prompt", model)], TASK, several, "", [])
    assert "none of the 2 rows can be asked" in left_out["base_prompt"]


def test_step_3_tries_the_tokenizer_that_the_engine_loads(tmp_path):
    """Under --tokenizer that one, but for a student that brings its own."""
    drops = save_model(tmp_path / "drops", DROPS)
    good = save_model(tmp_path / "good", CHATML)
    adapter = save_model(tmp_path / "adapter", LAST_TURN)
    one = Counter({("user",): 1})
    teacher = system("teacher", drops)
    with pytest.raises(ValueError, match="drops the system message"):
        try_templates([teacher], TASK, one, str(adapter), [])
    under = ["--tokenizer", str(good)]
    assert try_templates([teacher], TASK, one, str(adapter), under) == ({}, [])
    with pytest.raises(ValueError, match=f"^{good}: its chat template drops the system message"):
        try_templates(
            [system("teacher", good)], TASK, one, str(adapter), ["--tokenizer", str(drops)]
        )
    student = system("student", good)
    assert tokenizer_of_system(student, str(adapter), under).chat_template == LAST_TURN
    # an old adapter has none
    assert tokenizer_of_system(student, str(tmp_path), under).chat_template == CHATML


def test_step_3_runs_code_of_a_tokenizer_only_where_it_is_trusted(tmp_path):
    model = save_model(tmp_path / "model", CHATML)
    shutil.copy(PROGRAMS / "own_tokenizer.py", model / "own.py")
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.update(tokenizer_class="Own", auto_map={"AutoTokenizer": [None, "own.Own"]})
    path.write_text(json.dumps(config))
    teacher = system("teacher", model)
    assert tokenizer_of_system(teacher, "", ["--trust_remote_code"]).is_own
    assert not hasattr(tokenizer_of_system(teacher, "", []), "is_own")
