"""--help of each script: one page, at once, with what people change; --help_all shows the rest."""

import re
import sys
from dataclasses import fields

import pytest
from trl import SFTConfig

import create_data
import train_sft_trl
from distill.teacher.engine import parse_engine_flags
from distill.teacher.engine_flags import ENGINE_FLAGS
from distill.training.recipe import CHANGED, Recipe
from distill.training.short_help import answer_help
from helpers import ROOT, run

HEAVY = ("torch", "vllm", "transformers", "trl", "peft", "datasets")
PAGE = 90  # lines
STARTS = 60  # seconds, on a machine that does something else too; it takes less than one
NAMED = {
    "create_data.py": ["--input_file", "--shard", "--overwrite", "--max_model_len", "--help_all"],
    "train_sft_trl.py": ["--model_name", "--lora_rank", "--learning_rate", "--seed", "--help_all"],
    "evaluate.py": ["--test_file", "--systems", "--gold", "--max_num_seqs", "--help_all"],
    "predict.py": ["--adapter", "--id_column", "--num_replicas", "--max_num_seqs", "--help_all"],
    "serve.py": ["--student_url", "--threshold", "--max_handed_over", "--api_key_env"],
    "merge_adapter.py": ["--output_dir", "must be given", "--dtype"],
    "report.py": ["--metrics", "--readme"],
}
WRAPPERS = {
    "train_trl.sh": "train_sft_trl.py",
    "train_trl_multi_gpu.sh": "train_sft_trl.py",
    "train_trl_fsdp.sh": "train_sft_trl.py",
    "create_data_h100x8.sh": "create_data.py",
}


@pytest.mark.parametrize("script", NAMED)
def test_help_is_a_page_that_needs_no_heavy_library(script):
    command = [sys.executable, "-X", "importtime", ROOT / script, "--help"]
    result = run(*command, timeout=STARTS)
    imported = set(re.findall(r"\| +(\w+)$", result.stderr, re.MULTILINE))
    assert "argparse" in imported and not imported & set(HEAVY)
    lines = result.stdout.splitlines()
    assert len(lines) <= PAGE and max(map(len, lines)) <= 100
    for name in NAMED[script]:
        assert name in result.stdout


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_pass_help_on_at_once(wrapper, monkeypatch):
    """Before they check flags, look for GPUs or launch anything, wherever it stands."""
    monkeypatch.setenv("NUM_PROCESSES", "2")
    monkeypatch.setenv("INSTANCES", "100")
    asked = run("bash", ROOT / wrapper, "--limit", "3", "--help", timeout=STARTS)
    script = run(sys.executable, ROOT / WRAPPERS[wrapper], "-h", timeout=STARTS)
    assert asked.stdout == script.stdout and asked.stderr == ""


def test_help_all_where_there_is_no_more_is_help():
    asked = run(sys.executable, ROOT / "merge_adapter.py", "--help_all", timeout=STARTS)
    assert asked.stdout == run(sys.executable, ROOT / "merge_adapter.py", "--help").stdout


def test_help_all_of_the_engine_is_vllms_own(capsys):
    with pytest.raises(SystemExit) as ended:
        create_data.parse_args(["--help-all"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: ") and "--input_file" in said
    assert "--block-size" in said and "--log-stats" in said


def test_help_all_of_step_2_is_trls_own(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_sft_trl.py", "--help_all"])
    with pytest.raises(SystemExit) as ended:
        answer_help(train_sft_trl.__doc__)
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for field in fields(SFTConfig):
        assert f"--{field.name}" in said
    assert "--lora_rank" in said


def test_flags_that_help_names_are_there():
    known = parse_engine_flags("some/model", [])
    for name in ENGINE_FLAGS:
        assert hasattr(known, name), name
    names = {field.name for field in fields(SFTConfig)}
    assert set(CHANGED) - {"config"} <= names
    assert {field.name for field in fields(Recipe)} <= names
