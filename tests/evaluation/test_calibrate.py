"""Temperature and threshold out of rows. No model."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from distill.evaluation.calibrate import (
    Judged,
    NotShown,
    choose_by_share,
    choose_by_target,
    fit_temperature,
    rows_needed,
)
from distill.intervals import at_least


def judged(sure: list[float | None], agrees: list[bool]) -> Judged:
    """Rows by their confidences, 0 to 1."""
    return Judged([None if value is None else math.log(value) for value in sure], agrees)


def drawn(temperature: float, rows: int = 4000, seed: int = 0) -> Judged:
    """Rows whose student is too sure by a temperature: 1 for one that is right."""
    random = np.random.default_rng(seed)
    logits = random.normal(2, 2, rows)
    agrees = random.random(rows) < 1 / (1 + np.exp(-logits / temperature))
    return Judged([-math.log1p(math.exp(-logit)) for logit in logits], agrees.tolist())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_by_which_the_rows_were_drawn_is_found(temperature):
    assert fit_temperature(drawn(temperature)) == pytest.approx(temperature, rel=0.1)


def test_the_temperature_of_few_rows_is_no_extreme():
    assert fit_temperature(judged([], [])) == 1.0
    assert fit_temperature(judged([None, None], [False, False])) == 1.0
    all_agree = fit_temperature(judged([0.9] * 20, [True] * 20))
    # 21 of 22 is what Platt's targets make of it
    assert judged([0.9], [True]).confidences(all_agree)[0] == pytest.approx(21 / 22, abs=1e-3)


def test_rows_without_an_answer_tell_nothing_of_the_temperature():
    rows = drawn(2.0)
    with_none = Judged([*rows.log_confidence, None], [*rows.agrees, False])
    assert fit_temperature(with_none) == fit_temperature(rows)


def test_a_share_is_what_is_handed_over_at_most():
    sure = [0.9, 0.8, 0.7, 0.6, 0.5, 0.99, 0.98, 0.97, 0.96, 0.95]
    agrees = [True, True, True, True, False, True, True, True, True, True]
    choice = choose_by_share(judged(sure, agrees), 1.0, 0.25)
    assert (choice.handed_over, choice.agreed) == (2, 8)
    assert choice.threshold == pytest.approx(0.65)
    assert choice.bound == pytest.approx(0.05 ** (1 / 8))
    of_three = choose_by_share(judged(sure, agrees), 1.0, 0.3)
    assert of_three.handed_over == 3  # 0.3 * 10 is no 2.9999


def test_nothing_and_everything_handed_over():
    rows = judged([0.9, 0.8, 0.7], [True, False, True])
    nothing = choose_by_share(rows, 1.0, 0.0)
    assert (nothing.handed_over, nothing.threshold, nothing.agreed) == (0, 0.0, 2)
    everything = choose_by_share(rows, 1.0, 1.0)
    assert everything.handed_over == 3 and everything.threshold > 1
    assert (everything.agreed, everything.bound) == (0, 0.0)


def test_rows_that_are_equally_sure_are_not_torn_apart():
    choice = choose_by_share(judged([0.9, 0.5, 0.5, 0.5], [True] * 4), 1.0, 0.5)
    assert choice.handed_over == 0
    assert choose_by_share(judged([0.9, 0.5, 0.5, 0.5], [True] * 4), 1.0, 0.75).handed_over == 3


def test_rows_without_an_answer_are_handed_over_first_and_always():
    rows = judged([0.9, None, 0.5, None], [True, False, True, False])
    assert choose_by_share(rows, 1.0, 0.25).handed_over == 2
    assert choose_by_share(rows, 1.0, 0.25).agreed == 2
    assert choose_by_share(rows, 1.0, 0.75).handed_over == 3


def test_the_temperature_changes_the_threshold_and_not_what_is_handed_over():
    rows = judged([0.9, 0.8, 0.7, 0.6], [True] * 4)
    one = choose_by_share(rows, 1.0, 0.5)
    two = choose_by_share(rows, 2.0, 0.5)
    assert one.handed_over == two.handed_over == 2
    assert two.threshold < one.threshold


def test_the_bound_is_that_of_clopper_and_pearson():
    test = binomtest(140, 142, alternative="greater")
    assert at_least(140, 142) == pytest.approx(test.proportion_ci(0.95, method="exact").low)
    assert at_least(142, 142) == pytest.approx(0.05 ** (1 / 142))
    assert at_least(0, 5) == 0


@pytest.mark.parametrize(
    ("target", "errors", "rows"), [(0.98, 0, 149), (0.98, 1, 236), (0.95, 0, 59), (0.5, 0, 5)]
)
def test_so_many_rows_show_a_target(target, errors, rows):
    assert rows_needed(target, errors) == rows
    assert at_least(rows - errors, rows) >= target > at_least(rows - 1 - errors, rows - 1)


def falling(wrong: list[int], rows: int) -> Judged:
    """Rows that are less and less sure, of which those at some places do not agree."""
    sure = [0.999 - 0.5 * row / rows for row in range(rows)]
    return judged(sure, [row not in wrong for row in range(rows)])


def test_a_target_hands_over_as_little_as_the_rows_can_show():
    # one wrong row within 236 and two within 313 may be; the third comes too early
    choice = choose_by_target(falling([200, 300, 320, 330], 400), 1.0, 0.98)
    assert (400 - choice.handed_over, choice.agreed) == (313, 311)
    assert choice.bound >= 0.98
    # it ends at the first test that fails, whatever comes after
    early = choose_by_target(falling([200, 210], 900), 1.0, 0.98)
    assert 900 - early.handed_over == 149


def test_a_target_that_cannot_be_shown_says_what_it_takes():
    with pytest.raises(NotShown) as error:
        choose_by_target(falling([], 100), 1.0, 0.98)
    assert "100 calibration rows cannot show" in str(error.value)
    assert "149 at least" in str(error.value) and "shows 97.0%" in str(error.value)
    with pytest.raises(NotShown) as error:
        choose_by_target(falling([3, 100], 400), 1.0, 0.98)
    assert "of the 149 of which the student is surest the teacher answers 2" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_target_is_seldom_claimed_where_it_is_not_reached():
    """Of students that agree on 97.5 % of the rows, however sure, some 5 % pass for 98 %."""
    random = np.random.default_rng(1)
    claimed = 0
    for _ in range(200):
        agrees = (random.random(300) < 0.975).tolist()
        sure = [0.999 - row / 1000 for row in range(300)]
        try:
            choose_by_target(judged(sure, agrees), 1.0, 0.98)
            claimed += 1
        except NotShown:
            pass
    assert claimed <= 16  # 0.975 ** 149 is 2.3 %
