"""A run that starts from an adapter's weights: it begins there, and is a run of its own."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from distill.adapter_files import adapter_identity
from distill.training.init_adapter import check_init_adapter
from distill.training.loading import empty_model
from distill.training.lora import lora_config
from distill.training.rows import load_rows
from helpers import STUDENT, cosine, fails, last_json, losses, python, train
from run_directories import contents

FLAGS = ["--use_cpu", "true", "--bf16", "false", "--lora_rank", 8, "--learning_rate", 1e-2]
WHOSE = {"single": "fsdp", "ddp": "single", "fsdp": "ddp"}  # adapter each launcher starts from
STEPS = ["--save_strategy", "steps", "--save_steps", 2, "--logging_steps", 1]


def mean_loss(base, adapter, train_file):
    """The loss of an adapter, or without one of the base, over the answer tokens of all rows."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    tokenizer = AutoTokenizer.from_pretrained(base)
    total = 0.0
    tokens = 0
    for row in load_rows(train_file, tokenizer, None):
        ids = torch.tensor([row["input_ids"]])
        labels = torch.tensor([row["labels"]])
        learned = (labels[:, 1:] != -100).sum().item()
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * learned
        tokens += learned
    return total / tokens


def command(small, output_dir, *flags):
    """The flags of a run of the small student."""
    rows = ["--model_name", small / "base", "--train_file", small / "train.jsonl"]
    return [*rows, "--output_dir", output_dir, *FLAGS, *STEPS, *flags]


@pytest.fixture(scope="module")
def first(small):
    """An adapter of the small student, trained for a few steps."""
    python("train_sft_trl.py", *command(small, small / "first", "--max_steps", 6))
    return small / "first"


@pytest.fixture(scope="module")
def second(small, first):
    """A run of four steps that starts there: its directory, the files of the first one before."""
    before = contents(first)
    flags = command(small, small / "second", "--max_steps", 4, "--init_adapter", first)
    result = python("train_sft_trl.py", *flags)
    assert f"training starts from the weights of {first}" in result.stderr
    return small / "second", before


def test_training_begins_with_the_adapters_weights(small, first, second):
    output_dir, before = second
    start = losses(output_dir, 4)[0]
    assert start == pytest.approx(mean_loss(small / "base", first, small / "train.jsonl"), abs=1e-4)
    assert start < mean_loss(small / "base", None, small / "train.jsonl") - 0.1
    assert contents(first) == before


def test_it_is_a_run_of_its_own(first, second):
    output_dir, _ = second
    results = json.loads((output_dir / "results.json").read_text())
    assert results["steps"] == 4
    assert results["train_loss"] == pytest.approx(sum(losses(output_dir, 4)) / 4, abs=1e-4)
    run = json.loads((output_dir / "run.json").read_text())
    assert run["init_adapter"] == str(first)
    assert run["init_adapter_identity"] == adapter_identity(first)
    card = (output_dir / "README.md").read_text()
    assert f"adapter `{first}` (identity `{adapter_identity(first)}`)" in card
    others = json.loads((first / "run.json").read_text())
    assert others["init_adapter"] is None
    assert "Training started from" not in (first / "README.md").read_text()


def test_a_stopped_one_goes_on_from_its_own_checkpoint(small, first, second, tmp_path):
    """As a kill after the second step leaves it."""
    whole, _ = second
    stopped = tmp_path / "stopped"
    (stopped / "checkpoint-2").parent.mkdir()
    shutil.copytree(whole / "checkpoint-2", stopped / "checkpoint-2")
    shutil.copy(whole / "run.json", stopped)
    flags = command(small, stopped, "--max_steps", 4, "--init_adapter", first)
    result = python("train_sft_trl.py", *flags)
    assert f"resuming from {stopped / 'checkpoint-2'}" in result.stderr
    assert "training starts from" not in result.stderr
    assert losses(stopped, 4) == pytest.approx(losses(whole, 4), abs=1e-5)
    assert cosine(stopped, whole) > 0.99999
    found = last_json(result)
    expected = json.loads((whole / "results.json").read_text())
    for key in ("steps", "tokens", "rows"):
        assert found[key] == expected[key]
    # of all four steps, not of the last two
    assert found["train_loss"] == pytest.approx(expected["train_loss"], abs=1e-3)


def test_another_runs_checkpoint_is_refused_and_names_the_flag(small, first, tmp_path):
    named = first / "checkpoint-6"
    flags = command(small, tmp_path / "out", "--max_steps", 4)
    said = fails("train_sft_trl.py", *flags, "--resume_from_checkpoint", named)
    assert said == (
        f"train_sft_trl.py: {named}: a checkpoint of another run, begun with max_steps 6, now 4; "
        f"--init_adapter {named} starts a new run from its weights\n"
    )
    said = fails("train_sft_trl.py", *flags, "--init_adapter", first, "--lora_alpha", 4)
    assert "does not fit this run: alpha 16, here 4; pass the flags that it was" in said
    assert not (tmp_path / "out").exists()


def checked(small, adapter, model=None, output_dir="out", **lora):
    """The identity that check_init_adapter() notes."""
    config = AutoConfig.from_pretrained(small / "base")
    asked = lora_config(empty_model(config), **{"rank": 8, "alpha": 16, **lora})
    model_name = str(model or small / "base")
    script = SimpleNamespace(init_adapter=str(adapter), model_name=model_name, commit=None)
    check_init_adapter(script, small / output_dir, config, asked)
    return script.init_adapter_identity


def test_an_adapter_that_does_not_fit_is_refused(small, first, tmp_path):
    assert checked(small, first) == adapter_identity(first)
    assert checked(small, first / "checkpoint-6")
    with pytest.raises(ValueError, match="rank 8, here 4; alpha 16, here 2; layers down_proj, gat"):
        checked(small, first, rank=4, alpha=2, target="attention")
    with pytest.raises(
        ValueError, match=r"does not fit this run: base .*base, here .*elsewhere; pass"
    ):
        checked(small, first, model="team/elsewhere")
    with pytest.raises(ValueError, match="first: lies in --output_dir"):
        checked(small, first, output_dir="first")
    with pytest.raises(ValueError, match="checkpoint-6: lies in --output_dir"):
        checked(small, first / "checkpoint-6", output_dir="first")
    torn = shutil.copytree(first, tmp_path / "torn")
    weights = torn / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match="torn/adapter_model.safetensors: cannot be read"):
        checked(small, torn)
    weights.unlink()
    with pytest.raises(ValueError, match="torn/adapter_model.safetensors: cannot be read"):
        checked(small, torn)


NAMELESS = {
    "no base": "{}",
    "null": '{"base_model_name_or_path": null}',
    "a number": '{"base_model_name_or_path": 7}',
    "empty": '{"base_model_name_or_path": ""}',
    "a list": "[]",
    "torn": '{"base_model_name_or_path": "ba',
}


@pytest.mark.parametrize("text", NAMELESS.values(), ids=NAMELESS)
def test_an_adapter_that_does_not_name_its_base_is_refused(text, tmp_path):
    (tmp_path / "adapter_config.json").write_text(text)
    script = SimpleNamespace(init_adapter=str(tmp_path), model_name="team/base", commit=None)
    with pytest.raises(ValueError, match="adapter_config.json: does not name the model of the ad"):
        check_init_adapter(script, tmp_path / "out", None, None)


def test_another_size_of_the_same_name_is_refused(small, first, tmp_path):
    other = tmp_path / "base"
    shutil.copytree(small / "base", other)
    config = AutoConfig.from_pretrained(other)
    config.intermediate_size = 96
    script = SimpleNamespace(init_adapter=str(first), model_name=str(other), commit=None)
    asked = lora_config(empty_model(config), rank=8, alpha=16)
    with pytest.raises(ValueError, match=r"lora_A.weight 8, 48, here 8, 96;"):
        check_init_adapter(script, tmp_path / "out", config, asked)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "of"), WHOSE.items())
def test_every_launcher_starts_from_an_adapter(mode, of, trained, train_file, tmp_path):
    """Experts too; one step over all rows, whose loss is that of the adapter."""
    rows = tmp_path / "rows.jsonl"
    lines = train_file.read_text(encoding="utf-8").splitlines(keepends=True)
    rows.write_text("".join(lines[:16]), encoding="utf-8")
    adapter = trained[of][0]
    before = (adapter / "adapter_model.safetensors").read_bytes()
    flags = ["--init_adapter", adapter, "--max_steps", 1, "--save_steps", 1, "--learning_rate", 0]
    summary = train(mode, tmp_path / "out", rows, *flags)
    assert (summary["steps"], summary["effective_batch_size"]) == (1, 16)
    expected = mean_loss(STUDENT, adapter, rows)
    assert losses(tmp_path / "out", 1) == pytest.approx([expected], abs=1e-3)
    assert expected < mean_loss(STUDENT, None, rows) - 0.5
    kept = load_file(tmp_path / "out" / "adapter_model.safetensors")
    weights = load_file(adapter / "adapter_model.safetensors")
    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[name], weights[name]) for name in kept)  # the rate was 0
    assert (adapter / "adapter_model.safetensors").read_bytes() == before
