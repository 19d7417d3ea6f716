"""What a run says of itself."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from distill.training.results import (
    Sizes,
    best_step,
    evaluation_figures,
    mean_loss,
    resumed_loss,
    stopped_before_its_end,
    summary_of,
)
from helpers import PROGRAMS, in_fork, last_json, python


def command(small, output_dir, *flags):
    """The flags of a short training of the small student."""
    common = ["--model_name", small / "base", "--train_file", small / "train.jsonl"]
    settings = ["--use_cpu", "true", "--bf16", "false", "--output_dir", output_dir]
    return [*common, *settings, "--per_device_train_batch_size", 4, *flags]


def test_figures_are_the_last_evaluations():
    history = [{"loss": 1.0}, {"eval_loss": 2.0, "eval_exact_answers": 0.5}, {"eval_loss": 1.23456}]
    assert evaluation_figures(history) == {"eval_loss": 1.2346, "eval_exact_answers": 0.5}
    assert evaluation_figures([]) == {}


def test_figures_are_those_of_the_adapter_that_is_saved(small, tmp_path):
    """Here the one with the greatest loss, which training has from its first evaluation."""
    out = tmp_path / "out"
    flags = command(small, out, "--max_steps", 3, "--eval_file", small / "train.jsonl")
    for what in ("save", "eval"):
        flags += [f"--{what}_strategy", "steps", f"--{what}_steps", 1]
    flags += ["--load_best_model_at_end", "true", "--greater_is_better", "true"]
    flags += ["--learning_rate", 0.01, "--warmup_ratio", 0]
    summary = last_json(python("train_sft_trl.py", *flags))
    best = out / "checkpoint-1"
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (best / name).read_bytes()
    state = json.loads((out / "checkpoint-3" / "trainer_state.json").read_text())
    losses = {e["step"]: e["eval_loss"] for e in state["log_history"] if "eval_loss" in e}
    assert round(losses[1], 4) != round(losses[3], 4)
    assert (summary["best_step"], summary["steps"]) == (1, 3)
    assert summary["eval_loss"] == round(losses[1], 4)
    assert json.loads((out / "results.json").read_text()) == summary
    shown = {
        each.metric_name: each.metric_value
        for each in ModelCard.load(out / "README.md").data.eval_results
    }
    assert shown["eval_loss"] == summary["eval_loss"]


def test_the_last_steps_adapter_is_saved_where_no_better_one_is_loaded(tmp_path):
    best = tmp_path / "checkpoint-4"
    state = SimpleNamespace(best_model_checkpoint=str(best), best_global_step=6)
    asked = SimpleNamespace(load_best_model_at_end=True)
    assert best_step(asked, state) is None  # it is gone
    best.mkdir()
    assert best_step(asked, state) == 4  # the best step of all may have had no checkpoint
    assert best_step(SimpleNamespace(load_best_model_at_end=False), state) is None
    assert best_step(asked, SimpleNamespace(best_model_checkpoint=None)) is None
    history = [{"eval_loss": 1.0, "step": 4}, {"eval_loss": 2.0, "step": 6}]
    assert evaluation_figures(history, 4) == {"eval_loss": 1.0}


def test_a_resumed_run_has_the_mean_loss_of_all_its_steps():
    """Trainer itself counts the steps of its last process alone."""
    history = [{"loss": 3.0, "step": 10}, {"eval_loss": 9.0, "step": 10}, {"loss": 1.0, "step": 15}]
    assert mean_loss(history) == pytest.approx((10 * 3.0 + 5 * 1.0) / 15)
    assert mean_loss([{"train_loss": 1.0, "step": 3}]) is None


def test_a_resumed_run_that_logged_nothing_has_the_loss_of_its_own_steps():
    assert resumed_loss([], 2.0, steps=8, resumed=4) == 2.0
    assert resumed_loss([{"loss": 3.0, "step": 8}], 1.0, steps=8, resumed=4) == 3.0
    assert resumed_loss([], 0.0, steps=8, resumed=8) is None  # it was killed after its last step


def test_a_summary_without_a_loss_says_none():
    state = SimpleNamespace(log_history=[], global_step=8, epoch=2.0)
    trainer = SimpleNamespace(
        state=state,
        train_dataset={"input_ids": [[1, 2, 3]] * 4},
        eval_dataset=None,
        args=SimpleNamespace(output_dir="out"),
    )
    sizes = Sizes(rows=4, trainable=1, parameters=2, effective_batch=1, steps=8)
    assert summary_of(trainer, sizes, 0.0, seconds=1.0, resumed=8)["train_loss"] is None
    assert summary_of(trainer, sizes, 1.0, seconds=1.0, resumed=4)["train_loss"] == 1.0
    assert summary_of(trainer, sizes, 1.0, seconds=1.0, resumed=0)["train_loss"] == 1.0


def test_a_run_that_was_stopped_is_not_finished(small, tmp_path):
    """Trainer returns from one as from a finished run; the same command goes on."""
    out = tmp_path / "out"
    flags = command(small, out, "--max_steps", 4, "--save_strategy", "steps", "--save_steps", 1)
    stopped = in_fork(PROGRAMS / "stop_training.py", *flags, code=1)
    assert stopped.stderr.splitlines()[-1] == (
        f"train_sft_trl.py: {out}: training has stopped after 2 of 4 steps; the same command goes "
        "on from the last complete checkpoint"
    )
    assert stopped.stdout == ""
    assert not (out / "results.json").exists() and not (out / "adapter_config.json").exists()
    again = python("train_sft_trl.py", *flags)
    assert f"resuming from {out / 'checkpoint-2'}" in again.stderr
    assert (out / "results.json").exists()


def test_a_run_is_stopped_before_its_last_step_alone():
    args = SimpleNamespace(output_dir="out")
    for step, said in ((4, ""), (5, ""), (3, "out: training has stopped after 3 of 4 steps; the")):
        state = SimpleNamespace(global_step=step, max_steps=4)
        found = stopped_before_its_end(SimpleNamespace(args=args, state=state))
        assert found.startswith(said) and bool(found) == bool(said)
