"""The share of the traffic that may be handed over. No model, no server."""

import random

import pytest

from distill.cascade.budget import WINDOW, Budget


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 1.0])
def test_no_window_has_more_than_its_share(share):
    budget = Budget(share)
    rng = random.Random(0)
    taken = []
    for _ in range(5 * WINDOW):
        wanted = rng.random() < 0.7
        if not wanted:
            budget.keep()
        taken.append(budget.take() if wanted else False)
    for start in range(len(taken) - WINDOW):
        assert sum(taken[start : start + WINDOW]) <= share * WINDOW
    # and as many as it may have, where more are wanted
    assert sum(taken) >= 5 * min(share, 0.6) * WINDOW * 0.95


def test_all_may_be_handed_over_and_none_may():
    assert all(Budget(1.0).take() for _ in range(3 * WINDOW))
    assert not any(Budget(0.0).take() for _ in range(10))
    budget = Budget(0.002)
    assert [budget.take() for _ in range(4)] == [True, True, False, False]
