"""What a run says of itself."""

from types import SimpleNamespace

import pytest

from distill.training.results import (
    Sizes,
    evaluation_figures,
    mean_loss,
    resumed_loss,
    summary_of,
)


def test_figures_are_the_last_evaluations():
    history = [{"loss": 1.0}, {"eval_loss": 2.0, "eval_exact_answers": 0.5}, {"eval_loss": 1.23456}]
    assert evaluation_figures(history) == {"eval_loss": 1.2346, "eval_exact_answers": 0.5}
    assert evaluation_figures([]) == {}


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
