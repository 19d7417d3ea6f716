"""How well a confidence tells right answers from wrong ones.

No model, no vLLM. Each function takes confidences, 0 to 1, and whether each answer is right, or is
the teacher's; what has no answer is left out before.
"""

from dataclasses import asdict, dataclass

import numpy as np

from distill.evaluation.calibrate import Judged, fit_temperature, log_loss

BINS = 10  # of equal width
FOLDS = 5  # of the comparison of ways to calibrate
FEW = 20  # rows of a label, with fewer of which it has no temperature of its own


@dataclass(frozen=True)
class Bin:
    """The answers with a confidence in one part of 0 to 1."""

    rows: int
    confidence: float  # mean
    right: float  # share


def bins_of(sure: list[float], right: list[bool]) -> list[Bin]:
    """Bins of equal width, without those that hold nothing."""
    sure = np.array(sure)
    right = np.array(right, bool)
    number = np.minimum((sure * BINS).astype(int), BINS - 1)
    found = []
    for i in range(BINS):
        inside = number == i
        if inside.any():
            mean = float(sure[inside].mean())
            found.append(Bin(int(inside.sum()), mean, float(right[inside].mean())))
    return found


def calibration_error(bins: list[Bin]) -> float:
    """The expected calibration error: the mean distance of confidence and share over all rows.

    M. Naeini et al. (2015), as C. Guo et al. (arXiv 1706.04599) have it.
    """
    rows = sum(found.rows for found in bins)
    return sum(found.rows * abs(found.confidence - found.right) for found in bins) / rows


def reliability(sure: list[float], right: list[bool]) -> dict | None:
    """The figures of confidences; None without rows.

    "ece" as calibration_error(), "brier" the mean squared distance from right (1) and wrong (0),
    "auroc" the probability that a right answer is surer than a wrong one (None if all are alike),
    "aurc" the mean share of wrong answers over all coverages (Y. Geifman and R. El-Yaniv, arXiv
    1705.08500), and "bins".
    """
    from sklearn.metrics import brier_score_loss, roc_auc_score

    if not right:
        return None
    bins = bins_of(sure, right)
    auroc = None
    if len(set(right)) == 2:
        auroc = float(roc_auc_score(right, sure))
    return {
        "rows": len(right),
        "ece": calibration_error(bins),
        "brier": float(brier_score_loss(right, sure, labels=[False, True])),
        "auroc": auroc,
        "aurc": risk_over_coverage(sure, right),
        "bins": [asdict(found) for found in bins],
    }


def risk_over_coverage(sure: list[float], right: list[bool]) -> float:
    """The area under the share of wrong answers among the surest, over how many these are."""
    order = np.argsort(-np.array(sure), kind="stable")
    wrong = ~np.array(right, bool)[order]
    return float(np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1)))


def ways_compared(judged: Judged, labels: list[str]) -> dict[str, dict] | None:
    """Ways to calibrate, each tried on rows that it was not fitted on.

    By way, "ece", "brier" and "log_loss": of the confidences as they are, with one temperature,
    with one for each label that has FEW rows, and isotonic. `labels` are the answers. None
    with fewer rows than FOLDS or where all are alike.
    """
    if len(judged.agrees) < FOLDS or len(set(judged.agrees)) < 2:
        return None
    numbers = np.arange(len(judged.agrees)) % FOLDS
    rows = np.random.default_rng(0).permutation(len(judged.agrees))
    fold_of = np.empty(len(rows), int)
    fold_of[rows] = numbers
    found = {"as it is": judged.confidences(1.0)}
    for name, fit in WAYS.items():
        sure = np.zeros(len(rows))
        for fold in range(FOLDS):
            tried = np.flatnonzero(fold_of == fold)
            fitted = np.flatnonzero(fold_of != fold)
            sure[tried] = fit(judged, labels, fitted, tried)
        found[name] = sure.tolist()
    figures = {}
    for name, sure in found.items():
        measured = reliability(sure, judged.agrees)
        loss = log_loss(np.array(sure), np.array(judged.agrees, float))
        figures[name] = {"ece": measured["ece"], "brier": measured["brier"], "log_loss": loss}
    return figures


def part(judged: Judged, rows) -> Judged:
    """Some of the rows."""
    return Judged(
        [judged.log_confidence[row] for row in rows], [judged.agrees[row] for row in rows]
    )


def by_one_temperature(judged: Judged, _labels: list[str], fitted, tried) -> list[float]:
    """Confidences of the rows `tried`, under the temperature of the rows `fitted`."""
    return part(judged, tried).confidences(fit_temperature(part(judged, fitted)))


def by_label(judged: Judged, labels: list[str], fitted, tried) -> list[float]:
    """The same with a temperature for each label; the common one for a label with few rows."""
    common = fit_temperature(part(judged, fitted))
    temperatures = {}
    for label in set(labels):
        of_label = [row for row in fitted if labels[row] == label]
        if len(of_label) >= FEW:
            temperatures[label] = fit_temperature(part(judged, of_label))
    found = []
    for row in tried:
        temperature = temperatures.get(labels[row], common)
        found += part(judged, [row]).confidences(temperature)
    return found


def isotonic(judged: Judged, _labels: list[str], fitted, tried) -> np.ndarray:
    """The same under the best rising step function."""
    from sklearn.isotonic import IsotonicRegression

    as_it_is = np.array(judged.confidences(1.0))
    curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    curve.fit(as_it_is[fitted], np.array(judged.agrees, float)[fitted])
    return curve.predict(as_it_is[tried])


WAYS = {
    "one temperature": by_one_temperature,
    "one for each label": by_label,
    "isotonic": isotonic,
}
