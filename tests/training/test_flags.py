"""Every flag of SFTConfig is ours, passed on or refused, and docs/training_flags.md says which.

Configs of --config.
"""

import json
import os
import re
import sys
from dataclasses import fields

import pytest
from trl import SFTConfig

from distill.training.arguments import OneLineParser, TrainArguments
from distill.training.config_file import read_config, take_config
from distill.training.flags import REFUSED
from distill.training.recipe import ScriptArguments
from helpers import ROOT

ON_A_CPU = {"use_cpu": True, "bf16": False}
# A value that each refused flag may be given.
ANOTHER = {
    "packing_strategy": "wrapped",
    "completion_only_loss": True,
    "eval_packing": True,
    "dataset_text_field": "question",
    "dataset_kwargs": {"skip_prepare_dataset": False},
    "dataset_num_proc": 4,
    "truncation_mode": "keep_end",
    "length_column_name": "tokens",
    "label_names": ["labels"],
    "pad_token": "<|endoftext|>",
    "chat_template_path": "other.jinja",
    "model_init_kwargs": {"attn_implementation": "eager"},
    "include_for_metrics": ["loss"],
    "eval_do_concat_batches": False,
    "eval_accumulation_steps": 2,
}


def documented(title):
    """The flags under one title of the document, with what a table says of each."""
    text = (ROOT / "docs" / "training_flags.md").read_text()
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    table = dict(re.findall(r"^\| `--(\w+)` \| (.+) \|$", section, re.MULTILINE))
    return table or dict.fromkeys(re.findall(r"`--(\w+)`", section))


def test_the_document_lists_each_flag_once():
    lists = [documented(title) for title in ("Ours", "Passed on", "Refused")]
    names = [name for listed in lists for name in listed]
    assert sorted(names) == sorted(field.name for field in fields(SFTConfig))
    assert lists[2] == REFUSED


@pytest.mark.parametrize("name", REFUSED)
def test_a_flag_that_would_do_nothing_is_refused(name, tmp_path):
    value = ANOTHER.get(name, True)
    with pytest.raises(ValueError, match=f"^--{name} .*; leave it out$"):
        TrainArguments(output_dir=str(tmp_path), **ON_A_CPU, **{name: value})


def test_defaults_pass(tmp_path):
    defaults = {
        name: TrainArguments.__dataclass_fields__[name].default
        for name in REFUSED
        if name in ANOTHER
    }
    del defaults["include_for_metrics"]  # a list of its own for each
    TrainArguments(output_dir=str(tmp_path), **ON_A_CPU, **defaults)


def test_several_reporters_are_separated_by_commas(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "distill.training.arguments.get_available_reporting_integrations",
        lambda: ["wandb", "tensorboard"],
    )
    common = {"output_dir": str(tmp_path), **ON_A_CPU}
    assert TrainArguments(**common, report_to="tensorboard,wandb").report_to == [
        "tensorboard",
        "wandb",
    ]
    assert TrainArguments(**common, report_to="wandb").report_to == ["wandb"]
    assert TrainArguments(**common).report_to == []
    with pytest.raises(ValueError, match="--report_to trackio: not installed; pip install trackio"):
        TrainArguments(**common, report_to="tensorboard, trackio")
    with pytest.raises(ValueError, match="--report_to none,wandb: none stands alone"):
        TrainArguments(**common, report_to="none,wandb")


def parsed(monkeypatch, tmp_path, text, *flags, spelling="--config={}"):
    """The arguments of a command with this config."""
    config = tmp_path / "config.yaml"
    config.write_text(text)
    rows = tmp_path / "train.jsonl"
    rows.write_text(json.dumps({"messages": []}))
    command = [
        "train_sft_trl.py",
        "--train_file",
        str(rows),
        "--output_dir",
        str(tmp_path / "out"),
        *flags,
    ]
    monkeypatch.setattr(sys, "argv", [*command, *spelling.format(config).split()])
    return OneLineParser((ScriptArguments, TrainArguments)).parse()


CPU = "use_cpu: true\nbf16: false\n"


@pytest.mark.parametrize("spelling", ["--config={}", "--config {}"])
def test_a_config_sets_flags_and_the_command_line_wins(spelling, monkeypatch, tmp_path):
    text = (
        CPU + "lr_scheduler_kwargs:\n  min_lr_rate: 1e-1\nlearning_rate: 1e-3\n"
        "env:\n  OF_A_CONFIG: 3\nlora_rank: 4\n"
    )
    monkeypatch.setenv("OF_A_CONFIG", "0")
    script, args = parsed(monkeypatch, tmp_path, text, "--lora_rank", "8", spelling=spelling)
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 0.1} and args.learning_rate == 1e-3
    assert script.lora_rank == 8 and os.environ["OF_A_CONFIG"] == "3"


BAD_CONFIGS = {
    "tab": (
        "use_cpu: true\n\tbf16: false\n",
        "config.yaml: line 2 not valid YAML (a tab, where YAML takes only",
    ),
    "twice": (
        CPU + "max_steps: 2\nmax_steps: 3\n",
        "config.yaml: key 'max_steps' in line 3 and again in line 4",
    ),
    "twice inside": (
        "lr_scheduler_kwargs:\n  a: 1\n  a: 2\n",
        "config.yaml: key 'a' in line 2 and again in line 3",
    ),
    "unknown": (CPU + "no_such_flag: 3\n", "config.yaml: unknown flag no_such_flag"),
    "a list": ("- 1\n", "config.yaml: expected a line with name and value for each flag"),
    "empty": ("", "config.yaml: expected a line with name and value for each flag"),
    "refused": (CPU + "packing: true\n", "--packing True: rows are encoded here"),
}


@pytest.mark.parametrize(("text", "said"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_bad_config_is_named(text, said, monkeypatch, tmp_path):
    with pytest.raises(ValueError) as refused:
        parsed(monkeypatch, tmp_path, text)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_config_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        ValueError, match="nowhere.yaml: No such file or directory; pass an existing file"
    ):
        read_config(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(ValueError, match="--config: no file is named"):
        take_config(["--use_cpu", "true", "--config"])
    with pytest.raises(ValueError, match="--config is given twice"):
        take_config(["--config", "a", "--config=b"])
