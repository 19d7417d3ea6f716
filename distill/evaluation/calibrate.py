"""From where on the teacher is to be asked: one temperature and one threshold, out of rows.

Each row says how sure the student was of its answer and whether that is the teacher's. No model.
"""

import math
from dataclasses import dataclass

import numpy as np

from distill.calibration import tempered
from distill.intervals import at_least

TEMPERATURES = (0.05, 20.0)  # between which one is looked for
CHANCE = 0.05  # of saying that a target is reached where it is not


@dataclass(frozen=True)
class Judged:
    """Rows that a student has answered, in one order.

    `log_confidence` is None where it has not: it was cut, or cannot be read. Such a row is always
    handed over.
    """

    log_confidence: list[float | None]
    agrees: list[bool]  # with the teacher, or with gold

    def answered(self) -> "Judged":
        """The rows that have an answer."""
        sure = []
        agrees = []
        for log_probability, is_same in zip(self.log_confidence, self.agrees, strict=True):
            if log_probability is not None:
                sure.append(log_probability)
                agrees.append(is_same)
        return Judged(sure, agrees)

    def confidences(self, temperature: float) -> list[float]:
        """Calibrated, 0 to 1; below 0, so below each threshold, where there is no answer."""
        found = []
        for log_probability in self.log_confidence:
            if log_probability is None:
                found.append(-1.0)
            else:
                found.append(tempered(log_probability, temperature))
        return found

    def surest_first(self, temperature: float) -> list[int]:
        """The rows' indexes, those of which the student is surest first."""
        sure = self.confidences(temperature)
        return sorted(range(len(sure)), key=lambda row: -sure[row])


def fit_temperature(judged: Judged) -> float:
    """The temperature under which what the rows show is likeliest.

    C. Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599), section 4.2. The
    targets are J. Platt's (1999): a little away from 0 and 1, so that rows which all agree do not
    make it infinitely sure. Without rows it is 1.
    """
    from scipy.optimize import minimize_scalar

    rows = judged.answered()
    if not rows.agrees:
        return 1.0
    agreeing = sum(rows.agrees)
    others = len(rows.agrees) - agreeing
    high = (agreeing + 1) / (agreeing + 2)
    low = 1 / (others + 2)
    targets = np.where(rows.agrees, high, low)

    def surprise(log_temperature: float) -> float:
        sure = np.array(rows.confidences(math.exp(log_temperature)))
        return log_loss(sure, targets)

    bounds = [math.log(bound) for bound in TEMPERATURES]
    return math.exp(minimize_scalar(surprise, bounds=bounds, method="bounded").x)


def log_loss(sure: np.ndarray, targets: np.ndarray) -> float:
    """The mean negative log-likelihood of targets, 0 to 1, under probabilities, in nats."""
    kept = np.clip(sure, 1e-12, 1 - 1e-12)
    return float(-np.mean(targets * np.log(kept) + (1 - targets) * np.log(1 - kept)))


@dataclass(frozen=True)
class Choice:
    """A threshold, and what the calibration rows show of it."""

    threshold: float  # a calibrated confidence
    handed_over: int
    agreed: int  # of the rows that the student answers
    bound: float  # which the agreement on these reaches with 95 % confidence


class NotShown(ValueError):
    """The rows cannot show the agreement that is wanted, and what they do show, in one line."""


def choose_by_share(judged: Judged, temperature: float, share: float) -> Choice:
    """Hand over at most this share of the rows, the least sure ones.

    Rows that are equally sure are handed over together or not at all.
    """
    order = judged.surest_first(temperature)
    answered = len(order) - math.floor(share * len(order) + 1e-9)
    return choice_at(judged, temperature, answered)


def choice_at(judged: Judged, temperature: float, answered: int) -> Choice:
    """The student answers this many of the rows, and those that are as sure as the last of them.

    Rows without an answer are never among them.
    """
    sure = judged.confidences(temperature)
    order = judged.surest_first(temperature)
    threshold = threshold_between(sure, order, answered)
    kept = [row for row in order if sure[row] >= threshold and sure[row] >= 0]
    agreed = sum(judged.agrees[row] for row in kept)
    bound = at_least(agreed, len(kept)) if kept else 0.0
    return Choice(threshold, len(order) - len(kept), agreed, bound)


def threshold_between(sure: list[float], order: list[int], answered: int) -> float:
    """Half-way between the last confidence that is answered and the next one below it.

    So that rounding, which is another one in a merged copy or in another batch, moves nothing. Just
    above 1 where nothing is answered, and 0 where nothing that is sure at all is handed over.
    """
    if answered == 0:
        return math.nextafter(1.0, 2.0)
    last = sure[order[answered - 1]]
    below = [other for other in sure if 0 <= other < last]
    if not below:
        return 0.0
    return (last + max(below)) / 2


def rows_needed(target: float, errors: int) -> int:
    """The least number of rows of which so many may disagree and `target` still be shown.

    149 for 98 % without any.
    """
    rows = errors + 1
    step = 1
    while at_least(rows - errors, rows) < target:
        rows += step
        step *= 2
    low = max(errors + 1, rows - step // 2)
    while low < rows:
        middle = (low + rows) // 2
        if at_least(middle - errors, middle) >= target:
            rows = middle
        else:
            low = middle + 1
    return rows


def choose_by_target(judged: Judged, temperature: float, target: float) -> Choice:
    """Hand over as little as the rows can show to keep the agreement on the rest at `target`.

    Thresholds are tested in an order that is fixed before the first one: with the 149 surest rows
    (for 98 %), of which none may disagree, then with as many as may hold one that does, and so on.
    It ends at the first one that fails, so that the chance of a false claim is that of one test
    (fixed-sequence testing, A. Angelopoulos et al., Learn then Test, arXiv 2110.01052). Raises
    NotShown.
    """
    rows = len(judged.answered().agrees)
    found = None
    failed = None
    errors = 0
    while True:
        answered = rows_needed(target, errors)
        if answered > rows:
            break
        choice = choice_at(judged, temperature, answered)
        if choice.bound < target:
            failed = choice
            break
        found = choice
        errors += 1
    if found is None:
        raise NotShown(not_shown(judged, rows, target, failed))
    return found


def not_shown(judged: Judged, rows: int, target: float, failed: Choice | None) -> str:
    """Why a target cannot be shown, how many rows it takes, and what these show.

    `failed` is the first choice that was tested, with at least as many rows as it takes; None:
    there are fewer.
    """
    least = rows_needed(target, 0)
    if failed is None:
        agreed = sum(judged.answered().agrees)
        shown = at_least(agreed, rows) if rows else 0.0
        return (
            f"{rows} calibration rows cannot show an agreement of {target:.1%}, for which it takes "
            f"{least} at least; {agreed} of them agree, which shows {shown:.1%}"
        )
    kept = len(judged.agrees) - failed.handed_over
    return (
        f"the calibration rows do not show an agreement of {target:.1%}: of the {kept} of which "
        f"the student is surest the teacher answers {kept - failed.agreed} otherwise, which shows "
        f"{failed.bound:.1%}; more rows may show more"
    )
