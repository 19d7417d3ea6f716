"""The figures of an evaluation go into the adapter's model card, once the report is written."""

import logging
from pathlib import Path

from huggingface_hub import EvalResult

from distill.card import public_name
from distill.card_figures import (
    ACCURACY,
    AGREEMENT,
    CARD,
    CASCADE_ACCURACY,
    CHRF,
    EXACT_MATCH,
    FIELD_ACCURACY,
    MACRO_F1,
    SPEEDUP,
    TOKEN_F1,
    TOKENS,
    figure,
    read_card,
    with_figures,
)
from distill.cli import on_one_line
from distill.evaluation.sentences import origin
from distill.evaluation.systems import CASCADE, labels_from_elsewhere
from distill.files import Replacing
from distill.wording import NOT_KNOWN

log = logging.getLogger("evaluate")
# Keys of a system's figures beside its accuracy, with the hub's name of each metric.
QUALITY = (
    ("macro_f1", "f1", MACRO_F1),
    ("field_accuracy", "accuracy", FIELD_ACCURACY),
    ("exact_match", "exact_match", EXACT_MATCH),
    ("token_f1", "f1", TOKEN_F1),
    ("chrf", "chrf", CHRF),
    ("agreement", "agreement", AGREEMENT),
)


def add_to_card(adapter: str, metrics: dict) -> None:
    """Put the student's figures into the card of its adapter.

    Nothing changes without a student among the systems, and without a card that step 2 has written.
    A card that cannot be changed is a warning: the report has everything.
    """
    if "student" not in metrics["systems"]:
        return
    folder = Path(adapter)
    try:
        card = read_card(folder)
        if card is None:
            return
        text = with_figures(card, figures_of(metrics), public_name(adapter))
        with Replacing(folder / CARD) as file:
            file.write(text)
    except (OSError, ValueError) as error:
        reason = on_one_line(error)
        log.warning(
            "evaluate.py: %s: not given the figures, which are in the report: %s",
            folder / CARD,
            reason,
        )


def figures_of(metrics: dict) -> list[EvalResult]:
    """The student's figures on the gold rows, beside the teacher's where it was asked.

    And what the two give together, where the student was calibrated.

    `metrics` is what metrics.json holds.
    """
    rows = Path(metrics["test_file"]).name
    student = metrics["systems"]["student"]
    teacher = metrics["systems"].get("teacher", {})
    accuracy = rounded(student["accuracy"], 4)
    found = [figure(rows, "accuracy", ACCURACY, accuracy, about_accuracy(metrics))]
    for key, kind, name in QUALITY:
        if student.get(key) is not None:
            found.append(figure(rows, kind, name, rounded(student[key], 4)))
    if student["tokens"] is not None:
        about = {}
        if teacher.get("tokens") is not None:
            about["teacher"] = rounded(teacher["tokens"], 1)
        elif labels_from_elsewhere(metrics):
            about["teacher"] = NOT_KNOWN
        found.append(
            figure(rows, "tokens_per_request", TOKENS, rounded(student["tokens"], 1), about)
        )
    if student.get("speedup") is not None:
        found.append(figure(rows, "speedup", SPEEDUP, rounded(student["speedup"], 1)))
    if CASCADE in metrics["systems"]:
        accuracy = rounded(metrics["systems"][CASCADE]["accuracy"], 4)
        about = about_cascade(metrics[CASCADE])
        found.append(figure(rows, "accuracy", CASCADE_ACCURACY, accuracy, about))
    return found


def about_accuracy(metrics: dict) -> dict:
    """On how many rows accuracy was measured, its 95 % interval, the teacher's, where and when."""
    student = metrics["systems"]["student"]
    low, high = student["accuracy_interval"]
    about = {"rows": student["rows"], "low": rounded(low, 4), "high": rounded(high, 4)}
    if "teacher" in metrics["systems"]:
        about["teacher"] = rounded(metrics["systems"]["teacher"]["accuracy"], 4)
    if origin(metrics):
        about["measured"] = origin(metrics)
    return about


def about_cascade(cascade: dict) -> dict:
    """Which share of the rows is handed over, and by what that is decided."""
    return {
        "handed_over": rounded(cascade["share"], 4),
        "temperature": rounded(cascade["temperature"], 4),
        "threshold": rounded(cascade["threshold"], 6),
    }


def rounded(value: float, digits: int) -> float:
    """A number as YAML can hold it, which numpy's are not."""
    return round(float(value), digits)
