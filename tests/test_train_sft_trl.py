"""Step 2 as a user runs it: launchers and a resumed run give the same adapter."""

import json
import os
import re
import shutil
import signal
import sys
import time

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.calibration import CALIBRATION_ROWS
from distill.tokens import prompt_ids
from helpers import (
    HANGS,
    MODES,
    ROOT,
    STEPS,
    STUDENT,
    assert_gone,
    cosine,
    descendants,
    fails,
    last_json,
    losses,
    run,
    start_training,
    train,
    training,
)
from helpers import training_command as command


@pytest.mark.slow
def test_three_launchers_train_the_same(trained):
    single = trained["single"][0]
    for mode in ("ddp", "fsdp"):
        output_dir, summary = trained[mode]
        assert (summary["steps"], summary["effective_batch_size"]) == (STEPS, 16)
        difference = [abs(a - b) for a, b in zip(losses(single), losses(output_dir), strict=True)]
        assert max(difference) < 1e-3, (mode, difference)
        assert summary["eval_loss"] == pytest.approx(trained["single"][1]["eval_loss"], abs=2e-3)
        assert summary["eval_exact_answers"] == trained["single"][1]["eval_exact_answers"] > 0.2
        assert cosine(single, output_dir) > 0.999


@pytest.mark.slow
def test_bf16_stays_near_across_launchers(pair, train_file, tmp_path):
    """Sums in another order round otherwise: measured 0.01 in the loss and 0.9999 in the cosine.

    With FSDP, where accelerate has its own way of bf16; DDP's processes compute as one does. Both
    keep the same rows away from training.
    """
    flags = ["--bf16", "true", "--max_steps", 10, "--calibration_fraction", 0.15]
    for mode in ("single", "fsdp"):
        assert train(mode, tmp_path / mode, train_file, *flags)["calibration_rows"] == 25
    kept = (tmp_path / "single" / CALIBRATION_ROWS).read_bytes()
    assert (tmp_path / "fsdp" / CALIBRATION_ROWS).read_bytes() == kept
    one = losses(tmp_path / "single", 10)
    other = losses(tmp_path / "fsdp", 10)
    difference = max(abs(a - b) for a, b in zip(one, other, strict=True))
    near = cosine(tmp_path / "single", tmp_path / "fsdp")
    print(difference, near)
    assert difference < 0.1
    assert sum(other) == pytest.approx(sum(one), rel=0.1)
    assert near > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_adapter_alone_is_written(trained, mode):
    output_dir, summary = trained[mode]
    tensors = load_file(output_dir / "adapter_model.safetensors")
    assert sum(t.numel() for t in tensors.values()) == summary["trainable_parameters"] == 442_368
    assert all(re.search(r"self_attn\.[qkvo]_proj|mlp\.experts", name) for name in tensors)
    # attention and experts have moved
    assert all(t.abs().max() > 0 for name, t in tensors.items() if "lora_B" in name)
    base = STUDENT / "model.safetensors"
    for checkpoint in output_dir.glob("checkpoint-*"):
        weights = [
            p for p in checkpoint.rglob("*") if p.suffix in (".safetensors", ".bin", ".distcp")
        ]
        sizes = {
            p.name: p.stat().st_size
            for p in weights
            if "optim" not in p.name and "optim" not in p.parent.name
        }
        assert (
            sizes
            and max(sizes.values())
            < 1.1 * (output_dir / "adapter_model.safetensors").stat().st_size
        ), sizes
        assert max(sizes.values()) < base.stat().st_size


@pytest.mark.slow
def test_padding_free_does_not_change_the_loss(trained, train_file, tmp_path):
    train("single", tmp_path / "padded", train_file, "--padding_free", "false")
    one = losses(trained["single"][0])
    other = losses(tmp_path / "padded")
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-3
    assert cosine(trained["single"][0], tmp_path / "padded") > 0.999


@pytest.mark.slow
def test_rows_are_shuffled_by_the_seed_and_in_each_epoch(trained, train_file, tmp_path):
    train(
        "single",
        tmp_path / "other",
        train_file,
        "--data_seed",
        7,
        "--max_steps",
        10,
        "--learning_rate",
        0,
    )
    one = losses(tmp_path / "other", 10)
    # before the first step both are the base student
    assert abs(one[0] - losses(trained["single"][0])[0]) > 1e-3
    train(
        "single",
        tmp_path / "epochs",
        train_file,
        "--max_steps",
        22,
        "--learning_rate",
        0,
        "--save_steps",
        22,
    )
    first = losses(tmp_path / "epochs", 22)[:11]
    second = losses(tmp_path / "epochs", 22)[11:]
    assert first != second and sum(len(set(e)) for e in (first, second)) == 22


@pytest.mark.slow
def test_bad_input_is_one_line_under_a_launcher_too(pair, train_file, tmp_path):
    bad = tmp_path / "train.jsonl"
    bad.write_text(train_file.read_text(encoding="utf-8") + "hola\n", encoding="utf-8")
    result = training("ddp", tmp_path / "out", bad, code=2)
    assert result.stderr.strip() == (
        f"train_sft_trl.py: {bad}:169: not JSON (Expecting value); "
        "each line must be one JSON object"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["single", "fsdp"])
def test_killed_and_resumed_gives_the_same_adapter(trained, train_file, tmp_path, mode):
    """With DDP a node is killed, in test_train_trl_multi_gpu.py."""
    output_dir = tmp_path / "out"
    saved = output_dir / "checkpoint-20" / "complete.json"
    settings = {"folder": tmp_path, "session": True}
    process = start_training(mode, output_dir, train_file, until=saved, **settings)
    end = time.monotonic() + HANGS
    while not saved.exists():
        assert time.monotonic() < end
        if not process.is_alive():
            pytest.fail((tmp_path / "stderr").read_text()[-3000:])
        time.sleep(0.01)
    workers = descendants(process)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    assert_gone(workers)
    assert not (output_dir / "results.json").exists()
    newest = max(
        output_dir.glob("checkpoint-*/complete.json"),
        key=lambda p: int(p.parent.name.split("-")[1]),
    ).parent
    if mode == "single":  # a torn checkpoint is skipped, the one before it serves
        weights = newest / "adapter_model.safetensors"
        os.truncate(weights, weights.stat().st_size - 100)
        assert newest.name == "checkpoint-20"
    result = training(mode, output_dir, train_file)
    expected = "checkpoint-10" if mode == "single" else newest.name
    assert f"resuming from {output_dir / expected}" in result.stderr
    assert ("not complete, skipped" in result.stderr) == (mode == "single")
    assert last_json(result)["steps"] == STEPS
    assert losses(output_dir) == pytest.approx(losses(trained[mode][0]), abs=1e-4)
    assert cosine(output_dir, trained[mode][0]) > 0.9999


@pytest.fixture(scope="module")
def watched(pair, train_file, tmp_path_factory):
    """A run with held-out loss and accuracy, on gold rows of which one is trained on: (output
    directory, process, held-out lines).
    """
    folder = tmp_path_factory.mktemp("watched")
    lines = (
        (ROOT / "example-data" / "multilingual_gold.jsonl")
        .read_text(encoding="utf-8")
        .splitlines(keepends=True)
    )
    eval_file = folder / "eval.jsonl"
    noisy = folder / "train.jsonl"
    eval_file.write_text("".join(lines[199:240]), encoding="utf-8")
    question = json.loads(lines[0])["messages"][0]
    contradiction = {"messages": [question, {"role": "assistant", "content": "zh"}]}
    noisy.write_text(
        train_file.read_text(encoding="utf-8") + json.dumps(contradiction) + "\n" + lines[199]
    )
    flags = ["--eval_file", eval_file, "--eval_steps", 20, "--eval_strategy", "steps"]
    result = training("single", folder / "out", noisy, *flags, "--max_steps", 60)
    return folder / "out", result, lines[199:240]


@pytest.mark.slow
def test_what_is_odd_in_the_rows_is_said_at_the_start(watched):
    _, result, _ = watched
    assert "1 inputs of the train file have more than one answer" in result.stderr
    assert "1 of 41 rows of --eval_file are in the train file too" in result.stderr
    assert (
        "effective batch 16, 60 optimizer steps" in result.stderr
        and "only" not in result.stderr.split("%|")[0]
    )
    assert "the first row's loss is on 'ar<|im_end|>'" in result.stderr


@pytest.mark.slow
def test_exact_answers_are_what_greedy_decoding_writes(watched):
    output_dir, result, held_out = watched
    summary = last_json(result)
    assert (
        0 < summary["eval_loss"] < 3
        and summary["tokens_per_second"] > 0
        and summary["peak_memory_gib"] > 0
    )
    tokenizer = AutoTokenizer.from_pretrained(output_dir)
    base = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, output_dir)
    right = 0
    for row in held_out:
        *prompt, answer = json.loads(row)["messages"]
        ids = prompt_ids(tokenizer, prompt)
        output = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[
            0, len(ids) :
        ]
        right += tokenizer.decode(output) == answer["content"] + "<|im_end|>"
    assert summary["eval_exact_answers"] == round(right / 41, 4) > 0.3


@pytest.mark.slow
def test_card_and_loss_curve_are_written(watched):
    output_dir, result, _ = watched
    summary = last_json(result)
    card = (output_dir / "README.md").read_text()
    assert (
        card.startswith("---\nbase_model: ")
        and summary["output_dir"] in card
        and '"lora_rank": 64' in card
    )
    assert (output_dir / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_model_without_chat_template_is_refused(pair, train_file, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(STUDENT, model)
    (model / "chat_template.jinja").unlink()
    flags = ["--model_name", model, "--train_file", train_file, "--output_dir", tmp_path / "out"]
    assert "has no chat template" in fails(
        "train_sft_trl.py", *flags, "--config", ROOT / "configs" / "tiny.yaml"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_finished_adapter_and_other_runs_are_kept(trained, train_file):
    output_dir = trained["single"][0]
    before = (output_dir / "adapter_model.safetensors").read_bytes()
    flags = ["--model_name", STUDENT, "--output_dir", output_dir, "--train_file", train_file]
    flags += [
        "--config",
        ROOT / "configs" / "tiny.yaml",
        "--eval_file",
        output_dir.parent / "eval.jsonl",
    ]
    assert "holds a finished adapter; --overwrite" in fails("train_sft_trl.py", *flags)
    results = output_dir / "results.json"
    results.rename(output_dir / "results.kept")  # as if it had been killed before its end
    try:
        assert "begun with max_steps 40, now -1" in fails("train_sft_trl.py", *flags)
        flags += ["--max_steps", STEPS, "--max_grad_norm", 0.5]
        assert "begun with max_grad_norm 1.0, now 0.5" in fails("train_sft_trl.py", *flags)
    finally:
        (output_dir / "results.kept").rename(results)
    assert (output_dir / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_finished_adapter_is_nothing_to_do(trained, train_file):
    """With --skip_finished, as cron calls it: from another directory, with no Python in PATH."""
    output_dir = trained["single"][0]
    before = (output_dir / "adapter_model.safetensors").read_bytes()
    flags = ["--eval_file", output_dir.parent / "eval.jsonl", "--skip_finished"]
    line, _ = command("single", output_dir, train_file, *flags)
    bare = {"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"], "PYTHON": sys.executable}
    again = run(*line, env=bare, cwd="/")
    results = json.loads((output_dir / "results.json").read_text())
    assert last_json(again) == {**results, "skipped": True} and "skipped" not in results
    assert f"{output_dir} is finished, nothing to train" in again.stderr
    assert (output_dir / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_another_run_is_refused_before_the_launch(trained, train_file):
    output_dir = trained["ddp"][0]
    flags = ["--eval_file", output_dir.parent / "eval.jsonl", "--learning_rate", 0.5]
    results = output_dir / "results.json"
    results.rename(output_dir / "results.kept")  # as if it had been killed before its end
    try:
        result = training("ddp", output_dir, train_file, *flags, code=2)
    finally:
        (output_dir / "results.kept").rename(results)
    assert (
        result.stderr.endswith(", now 0.5; --overwrite starts afresh\n")
        and "learning_rate" in result.stderr
    )
    assert len(result.stderr.splitlines()) == 1
