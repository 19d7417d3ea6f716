"""What a run says of itself."""

from distill.training.results import evaluation_figures


def test_figures_are_the_last_evaluations():
    history = [{"loss": 1.0}, {"eval_loss": 2.0, "eval_exact_answers": 0.5}, {"eval_loss": 1.23456}]
    assert evaluation_figures(history) == {"eval_loss": 1.2346, "eval_exact_answers": 0.5}
    assert evaluation_figures([]) == {}
