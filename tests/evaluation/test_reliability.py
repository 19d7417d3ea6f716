"""How well a confidence tells right answers from wrong ones. No model."""

import math

import numpy as np
import pytest

from distill.evaluation.calibrate import Judged
from distill.evaluation.reliability import bins_of, calibration_error, reliability, ways_compared


def test_bins_of_equal_width_and_their_error():
    bins = bins_of([0.05, 0.95, 0.97, 1.0], [False, True, True, False])
    assert [found.rows for found in bins] == [1, 3]
    assert bins[1].right == pytest.approx(2 / 3)
    by_hand = (0.05 + 3 * abs((0.95 + 0.97 + 1) / 3 - 2 / 3)) / 4
    assert calibration_error(bins) == pytest.approx(by_hand)


def test_figures_by_hand():
    found = reliability([0.9, 0.8, 0.6, 0.4], [True, True, False, True])
    assert found["rows"] == 4
    assert found["brier"] == pytest.approx((0.01 + 0.04 + 0.36 + 0.36) / 4)
    assert found["auroc"] == pytest.approx(2 / 3)
    assert found["aurc"] == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)


def test_rows_that_are_all_alike_and_none_at_all():
    assert reliability([0.9, 0.8], [True, True])["auroc"] is None
    assert reliability([], []) is None
    assert ways_compared(Judged([-0.1] * 9, [True] * 9), ["de"] * 9) is None
    assert ways_compared(Judged([-0.1], [True]), ["de"]) is None


def test_ways_to_calibrate_are_compared_on_rows_they_have_not_seen():
    """A student that is too sure, and of one label more than of the others."""
    random = np.random.default_rng(0)
    logits = random.normal(2, 2, 1500)
    labels = ["de", "en", "other"] * 500
    temperatures = np.array([1.0, 1.0, 6.0] * 500)
    agrees = random.random(1500) < 1 / (1 + np.exp(-logits / temperatures))
    judged = Judged([-math.log1p(math.exp(-logit)) for logit in logits], agrees.tolist())
    ways = ways_compared(judged, labels)
    assert ways["one for each label"]["log_loss"] < ways["one temperature"]["log_loss"] - 0.01
    assert ways["one temperature"]["log_loss"] < ways["as it is"]["log_loss"] - 0.01
    assert 0.95 < ways["isotonic"]["brier"] / ways["one temperature"]["brier"] < 1.05
