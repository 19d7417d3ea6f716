"""The cascade: the student where it is sure enough, and else the teacher.

It is calibrated on rows of its own (calibrated.py), and here measured as a system beside the
others, out of the answers that student and teacher have given: nobody is asked again.
"""

import numpy as np

from distill.calibration import Calibration
from distill.evaluation.calibrate import Judged
from distill.evaluation.calibrated import Calibrated, sure_of
from distill.evaluation.reliability import reliability
from distill.evaluation.scores import in_one_form, mcnemar
from distill.evaluation.systems import CASCADE
from distill.outputs import TOKEN_COUNTS

POINTS = 100  # of a curve over all shares that could be handed over, at most


def handed_over(student: dict, calibration: Calibration) -> list[bool]:
    """Which rows of a student's result the teacher is to answer."""
    return [calibration.hands_over(sure) for sure in sure_of(student)]


def cascade_result(student: dict, teacher: dict, calibration: Calibration) -> dict:
    """What the two would have done together, as the result of a system.

    Where the teacher's answer cannot be read the student's stays. Tokens are those of both. Rows/s
    are those of one machine that asks one after the other. There are no seconds of each request.
    """
    handed = handed_over(student, calibration)
    answers = []
    responses = []
    for row, to_teacher in enumerate(handed):
        by = teacher if to_teacher and teacher["answers"][row] is not None else student
        answers.append(by["answers"][row])
        responses.append(by["responses"][row])
    found = {"answers": answers, "responses": responses, "handed_over": handed}
    for name in TOKEN_COUNTS:
        if student.get(name) and teacher.get(name):
            taken = zip(student[name], teacher[name], handed, strict=True)
            found[name] = [own + other * to_teacher for own, other, to_teacher in taken]
    if teacher.get("rows_per_second"):
        share = sum(handed) / len(handed)
        seconds = 1 / student["rows_per_second"] + share / teacher["rows_per_second"]
        found["rows_per_second"] = 1 / seconds
    return found


def add_cascade(
    metrics: dict, results: dict[str, dict], gold: list[str], labelled: bool, found: Calibrated
) -> None:
    """Complete the cascade's figures in `metrics`, and put what belongs to it alone beside them.

    `results` and `metrics` have it as a system already. Times and costs of a request are expected
    ones: the student's and, for the share that is handed over, the teacher's.
    """
    rows = len(gold)
    answers = {}
    for name in ("teacher", "student", CASCADE):
        answers[name] = results[name]["answers"][:rows]
        if not labelled:
            answers[name] = in_one_form(answers[name])
    if not labelled:
        gold = in_one_form(gold)
    handed = results[CASCADE]["handed_over"][:rows]
    share = sum(handed) / rows
    systems = metrics["systems"]
    cascade = systems[CASCADE]
    teacher = systems["teacher"]
    student = systems["student"]
    cascade["latency_s"] = expected(
        mean(student["latencies_s"]), mean(teacher["latencies_s"]), share
    )
    if cascade["latency_s"] and teacher["latency_s"]:
        cascade["speedup"] = teacher["latency_s"] / cascade["latency_s"]
    costs = (student["cost_per_million"], teacher["cost_per_million"])
    cascade["cost_per_million"] = expected(*costs, share)
    own = agreeing(answers["student"], answers["teacher"], handed)
    all_handed = instead(answers["student"], answers["teacher"])
    right = sum(answer == label for answer, label in zip(all_handed, gold, strict=True))
    metrics["cascade"] = {
        **found.figures,
        "share": share,
        "rows_handed_over": sum(handed),
        "rows_answered": rows - sum(handed),
        "agreement_answered": own,
        "random_accuracy": (1 - share) * student["accuracy"] + share * right / rows,
        "mcnemar": mcnemar(answers[CASCADE], answers["teacher"], gold),
        "curve": curve(results["student"], answers, gold),
        "held_out": held_out(results["student"], answers, gold, found.calibration.temperature),
        "labels": by_label(results["student"], answers, found.calibration) if labelled else {},
    }


def mean(seconds: list[float]) -> float | None:
    """The mean; None without any."""
    return float(np.mean(seconds)) if seconds else None


def expected(student: float | None, teacher: float | None, share: float) -> float | None:
    """What a request takes if this share goes to the teacher as well; None if it is not known."""
    if student is None or teacher is None:
        return None
    return student + share * teacher


def instead(student: list, teacher: list) -> list:
    """The answers where all is handed over; the student's where the teacher's is unreadable."""
    found = []
    for own, other in zip(student, teacher, strict=True):
        found.append(own if other is None else other)
    return found


def agreeing(student: list, teacher: list, handed: list[bool]) -> float | None:
    """The share of the teacher's answers among those that the student keeps; None if none is."""
    kept = []
    for own, other, to_teacher in zip(student, teacher, handed, strict=True):
        if not to_teacher and other is not None:
            kept.append(own == other)
    return sum(kept) / len(kept) if kept else None


def curve(student: dict, answers: dict[str, list], gold: list[str]) -> dict:
    """Accuracy, and agreement of what the student keeps, over the share that is handed over.

    The least sure rows first, in steps of at least one row.
    """
    rows = len(gold)
    sure = sure_of(student)[:rows]
    order = sorted(range(rows), key=lambda row: float("-inf") if sure[row] is None else sure[row])
    all_handed = instead(answers["student"], answers["teacher"])
    shares = []
    accuracies = []
    agreements = []
    for count in sorted({round(rows * k / POINTS) for k in range(POINTS + 1)}):
        handed = [False] * rows
        for row in order[:count]:
            handed[row] = True
        right = 0
        for row in range(rows):
            answer = all_handed[row] if handed[row] else answers["student"][row]
            right += answer == gold[row]
        shares.append(count / rows)
        accuracies.append(right / rows)
        agreements.append(agreeing(answers["student"], answers["teacher"], handed))
    return {"shares": shares, "accuracy": accuracies, "agreement": agreements}


def held_out(
    student: dict, answers: dict[str, list], gold: list[str], temperature: float
) -> dict[str, dict | None]:
    """How well the confidence tells, on the held-out rows, the teacher's answers and right ones."""
    sure = sure_of(student)[: len(gold)]
    same = []
    for own, other in zip(answers["student"], answers["teacher"], strict=True):
        same.append(own == other)
    right = [own == label for own, label in zip(answers["student"], gold, strict=True)]
    as_teacher = Judged(sure, same).answered()
    as_gold = Judged(sure, right).answered()
    return {
        "before": reliability(as_teacher.confidences(1.0), as_teacher.agrees),
        "after": reliability(as_teacher.confidences(temperature), as_teacher.agrees),
        "gold": reliability(as_gold.confidences(temperature), as_gold.agrees),
    }


def by_label(student: dict, answers: dict[str, list], calibration: Calibration) -> dict[str, dict]:
    """How sure the student is of each label that it answers, and how often the teacher says so."""
    rows = len(answers["student"])
    sure = sure_of(student)[:rows]
    found = {}
    for label in sorted(set(answers["student"]) - {None}):
        of_label = [row for row in range(rows) if answers["student"][row] == label]
        confident = [row for row in of_label if sure[row] is not None]
        same = [answers["teacher"][row] == label for row in confident]
        found[label] = {
            "rows": len(of_label),
            "handed_over": sum(calibration.hands_over(sure[row]) for row in of_label),
            "confidence": mean([calibration.confidence(sure[row]) for row in confident]),
            "agreement": sum(same) / len(same) if same else None,
        }
    return found
