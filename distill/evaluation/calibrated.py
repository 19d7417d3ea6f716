"""The calibration of a student in step 3: fitted on its rows, and kept beside its adapter."""

import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from distill.adapter_files import adapter_identity
from distill.calibration import CALIBRATION, Calibration, write_calibration
from distill.cli import ADAPTER, on_one_line
from distill.confidence import confidence
from distill.evaluation.calibrate import (
    Judged,
    NotShown,
    choose_by_share,
    choose_by_target,
    fit_temperature,
)
from distill.evaluation.calibration_rows import CalibrationRows
from distill.evaluation.choices import HandingOver
from distill.evaluation.reliability import reliability, ways_compared
from distill.evaluation.scores import in_one_form
from distill.task import Task

log = logging.getLogger("evaluate")
DIGITS = 6  # of a confidence in files


@dataclass(frozen=True)
class Calibrated:
    """A calibration, and what else its rows show."""

    calibration: Calibration
    rows: Judged
    answers: list[str | None]  # the student's
    self_agreement: dict | None  # of the teacher; None: not measured

    @cached_property
    def figures(self) -> dict:
        """What calibration.json and metrics.json hold of it."""
        answered = self.rows.answered()
        temperature = self.calibration.temperature
        labels = [
            answer
            for answer, sure in zip(self.answers, self.rows.log_confidence, strict=True)
            if sure is not None
        ]
        return {
            **asdict(self.calibration),
            "reliability": {
                "before": reliability(answered.confidences(1.0), answered.agrees),
                "after": reliability(answered.confidences(temperature), answered.agrees),
            },
            "ways": ways_compared(answered, labels),
            "self_agreement": self.self_agreement,
        }


def sure_of(result: dict) -> list[float | None]:
    """How sure a student's result says it is of each row; None where there is no answer.

    The logarithm of a probability.
    """
    found = []
    for answer, sure in zip(result["answers"], result["log_confidence"], strict=True):
        found.append(None if answer is None else sure)
    return found


def calibrate(
    rows: CalibrationRows,
    results: dict[str, dict],
    handing_over: HandingOver,
    task: Task,
    task_file: str,
    adapter: str,
) -> Calibrated | None:
    """Fit and choose; None, and a warning, where the rows do not show what is wanted.

    Also where a result that was kept by an older version has no confidence.
    """
    found = results.get("student", {}).get("calibration")
    if found is None:
        return None
    answers = in_one_form(found["answers"])
    agrees = [
        answer == right for answer, right in zip(answers, in_one_form(rows.answers), strict=True)
    ]
    judged = Judged(sure_of(found), agrees)
    if not judged.answered().agrees:
        log.warning("evaluate.py: nothing says how sure the student is, so it is not calibrated")
        return None
    temperature = fit_temperature(judged)
    try:
        if handing_over.target_agreement is None:
            chosen_by = "hand_over"
            wanted = handing_over.share
            choice = choose_by_share(judged, temperature, wanted)
        else:
            chosen_by = "target_agreement"
            wanted = handing_over.target_agreement
            choice = choose_by_target(judged, temperature, wanted)
    except NotShown as error:
        log.warning("evaluate.py: --target_agreement %g: %s; %s", wanted, error, left_as(adapter))
        return None
    calibration = Calibration(
        temperature=temperature,
        threshold=choice.threshold,
        chosen_by=chosen_by,
        wanted=wanted,
        rows=len(agrees),
        handed_over=choice.handed_over,
        agreed=choice.agreed,
        agreement_bound=choice.bound,
        task_file=task_file,
        task_hash=task.hash,
        adapter=adapter_identity(adapter),
    )
    pairs = results.get("teacher", {}).get("asked_again")
    return Calibrated(calibration, judged, found["answers"], self_agreement(pairs))


def left_as(adapter: str) -> str:
    """What becomes of calibration.json where nothing could be chosen."""
    if (Path(adapter) / CALIBRATION).exists():
        return f"{adapter}/{CALIBRATION} stays as an earlier run has written it"
    return f"no {CALIBRATION} is written"


def self_agreement(pairs: list[list[str | None]] | None) -> dict | None:
    """How often the teacher gives the same answer twice: nobody can agree with it more often.

    Of the rows that it has answered twice; None if there are none.
    """
    both = []
    for pair in pairs or []:
        if None not in pair:
            first, second = in_one_form(pair)
            both.append(first == second)
    if not both:
        return None
    return {"rows": len(both), "agreed": sum(both), "share": sum(both) / len(both)}


def save(adapter: str, calibrated: Calibrated, is_served: bool) -> None:
    """Write calibration.json beside the adapter; that it cannot be written is a warning.

    Where the student `is_served` by somebody else there may be no adapter. The one of the default
    directory may be another student's then, so it keeps what it has.
    """
    chosen = calibrated.calibration
    log.info(
        "calibration: temperature %.3f, threshold %.4f; %d of its %d rows go to the teacher",
        chosen.temperature,
        chosen.threshold,
        chosen.handed_over,
        chosen.rows,
    )
    try:
        check_adapter(adapter, is_served)
        write_calibration(adapter, chosen, **calibrated.figures)
    except OSError as error:
        log.warning(
            "evaluate.py: %s/%s: not written, the report has its figures: %s",
            adapter,
            CALIBRATION,
            on_one_line(error),
        )


def check_adapter(adapter: str, is_served: bool) -> None:
    """Raise FileNotFoundError if no adapter is known that could be calibrated."""
    if is_served and adapter == ADAPTER:
        raise FileNotFoundError("--adapter does not say which one the server has")
    if not (Path(adapter) / "adapter_config.json").is_file():
        raise FileNotFoundError("there is no adapter")


def add_confidence(student: dict, calibrated: Calibrated | None) -> None:
    """Put "confidence" into a student's result, calibrated where there is a calibration."""
    found = []
    for sure in student.get("log_confidence", []):
        probability = confidence(sure)
        if calibrated:
            probability = calibrated.calibration.confidence(sure)
        found.append(None if probability is None else round(probability, DIGITS))
    if found:
        student["confidence"] = found
