"""What a run says of itself."""

import pytest

from distill.training.results import evaluation_figures, mean_loss


def test_figures_are_the_last_evaluations():
    history = [{"loss": 1.0}, {"eval_loss": 2.0, "eval_exact_answers": 0.5}, {"eval_loss": 1.23456}]
    assert evaluation_figures(history) == {"eval_loss": 1.2346, "eval_exact_answers": 0.5}
    assert evaluation_figures([]) == {}


def test_a_resumed_run_has_the_mean_loss_of_all_its_steps():
    """Trainer itself counts the steps of its last process alone."""
    history = [{"loss": 3.0, "step": 10}, {"eval_loss": 9.0, "step": 10}, {"loss": 1.0, "step": 15}]
    assert mean_loss(history) == pytest.approx((10 * 3.0 + 5 * 1.0) / 15)
    assert mean_loss([{"train_loss": 1.0, "step": 3}]) == 0
