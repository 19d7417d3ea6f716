"""How sure the student is of a row, as the report and serve.py mean it: by its calibration.json.

The journal keeps the probability that the student gave to its answer, and only what is written out
of it is calibrated, so that another calibration costs no model. No torch, no vLLM.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from distill.calibration import CALIBRATION, Threshold, read_calibration_file
from distill.confidence import confidence
from distill.next_step import manifest_of
from distill.prediction.choices import Choices
from distill.prediction.student import Student

log = logging.getLogger("predict")
NONE = "none"  # of --calibration: the one beside the adapter is left out
KEY = "calibration"  # in the manifest


@dataclass(frozen=True)
class Used:
    """A calibration, and the file in which it stands."""

    file: str
    threshold: Threshold
    checked: bool  # whether it is known to be of the student that answers

    def shown(self) -> dict:
        """What the manifest and the last line say of it."""
        return {
            "file": self.file,
            "temperature": self.threshold.temperature,
            "threshold": self.threshold.threshold,
        }


def find_calibration(choices: Choices, student: Student) -> Used | None:
    """The calibration that --calibration names, or else the adapter's; None: there is none.

    Raises ValueError if it is of another adapter or task, or not there although it is named.
    """
    if choices.calibration == NONE:
        return None
    named = choices.calibration
    path = Path(named or Path(student.adapter) / CALIBRATION)
    if not named and not (student.adapter and path.is_file()):
        return None
    try:
        found = read_calibration_file(path, student.task, student.adapter or adapter_at(path))
    except FileNotFoundError:
        raise ValueError(f"--calibration {path}: is not there; evaluate.py makes it") from None
    except ValueError as error:
        raise ValueError(f"{error}; --calibration {NONE} does without it") from None
    threshold = Threshold(found.temperature, found.threshold)
    return Used(str(path), threshold, checked=bool(student.adapter))


def adapter_at(calibration: Path) -> Path | None:
    """The directory of a calibration if an adapter is there, whose it must be; else None."""
    folder = calibration.parent
    return folder if (folder / "adapter_config.json").is_file() else None


def say_calibration(used: Used | None) -> None:
    """Say in one line which calibration is used, if one is, and what of it nobody has checked."""
    if not used:
        return
    unchecked = ""
    if not used.checked:
        unchecked = "; that it is this student's cannot be seen, only that it is this task's"
    log.info(
        "predict.py: confidence by %s (temperature %.3f), unsure below %.4f%s",
        used.file,
        used.threshold.temperature,
        used.threshold.threshold,
        unchecked,
    )


def same_calibration(output: str, used: Used | None) -> bool:
    """Whether a finished output was written with this calibration, as its manifest says."""
    made = manifest_of(output).get(KEY)
    if made is None or used is None:
        return made is None and used is None
    shown = used.shown()
    return all(made.get(key) == shown[key] for key in ("temperature", "threshold"))


def confidence_of(record: dict, used: Used | None) -> float | None:
    """How sure the student was of a row, 0 to 1; None for an answer that was cut, or is none.

    `record` is the row's line of the journal.
    """
    if used is None:
        return confidence(record["log_confidence"])
    return used.threshold.confidence(record["log_confidence"])


def is_unsure(record: dict, used: Used) -> bool:
    """Whether the row would be handed over: also where there is no valid answer, as in step 3."""
    return record["answer"] is None or used.threshold.hands_over(record["log_confidence"])
