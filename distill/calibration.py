"""When a student asks its teacher: calibration.json in an adapter's directory.

Step 3 makes it from rows that the student was not trained on: one temperature, which turns how
probable the student found its answer into how often such answers are the teacher's, and a
threshold, below which a request is handed over. No torch, no vLLM.
"""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from distill.adapter_files import adapter_identity
from distill.files import Replacing
from distill.task import Task

CALIBRATION = "calibration.json"
# beside it: rows with the teacher's answers that step 2 has kept away from training
CALIBRATION_ROWS = "calibration.jsonl"
# Probabilities are kept this far from 0 and 1, where a logit has no end.
EDGE = 1e-12


@dataclass(frozen=True)
class Threshold:
    """When the student is sure enough."""

    temperature: float  # above 1: the student is surer than it is right
    threshold: float  # a calibrated confidence; a request below it is handed over

    def confidence(self, log_probability: float | None) -> float | None:
        """The calibrated confidence, 0 to 1, that belongs to log_confidence(); None stays None."""
        if log_probability is None:
            return None
        return tempered(log_probability, self.temperature)

    def hands_over(self, log_probability: float | None) -> bool:
        """Whether the teacher is to answer: the student is not sure enough, or was cut."""
        found = self.confidence(log_probability)
        return found is None or found < self.threshold


@dataclass(frozen=True)
class Calibration(Threshold):
    """What was fitted and chosen, and the rows on which it rests."""

    chosen_by: str  # "hand_over" or "target_agreement"
    wanted: float  # its value
    rows: int  # calibration rows
    handed_over: int  # of them
    agreed: int  # of the others, whose answer is the teacher's
    agreement_bound: float  # which the agreement on the others reaches with 95 % confidence
    task_file: str
    task_hash: str
    adapter: str  # adapter_identity()

    @property
    def answered(self) -> int:
        """How many of the calibration rows the student answers."""
        return self.rows - self.handed_over


def tempered(log_probability: float, temperature: float) -> float:
    """sigmoid(logit(p) / temperature) of a probability p, given as its natural logarithm."""
    return sigmoid(logit(log_probability) / temperature)


def logit(log_probability: float) -> float:
    """log(p / (1 - p)), finite also where rounding says that p is 0 or 1."""
    log_p = min(max(log_probability, math.log(EDGE)), math.log1p(-EDGE))
    return log_p - math.log(-math.expm1(log_p))


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), also far from 0."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


def write_calibration(folder: str | Path, calibration: Calibration, **more) -> None:
    """Write calibration.json into an adapter's directory, with `more` that nobody reads back."""
    with Replacing(Path(folder) / CALIBRATION) as file:
        json.dump({**asdict(calibration), **more}, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_calibration(folder: str | Path, task: Task) -> Calibration:
    """The calibration of the adapter in a directory, for a task.

    Raises FileNotFoundError if there is none, and ValueError, in one line, if it is not one or was
    made for another adapter or another task.
    """
    return read_calibration_file(Path(folder) / CALIBRATION, task, folder)


def read_calibration_file(path: Path, task: Task, adapter: str | Path | None) -> Calibration:
    """The calibration in a file, for a task and the adapter in a directory.

    None as the `adapter`: whose it is cannot be checked. Raises as read_calibration() does.
    """
    remedy = "evaluate.py makes it anew"
    try:
        held = json.loads(path.read_text("utf-8"))
        found = Calibration(**{field.name: held[field.name] for field in fields(Calibration)})
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path}: is no calibration of this version; {remedy}") from None
    if adapter and found.adapter != adapter_identity(adapter):
        raise ValueError(f"{path}: was made for another adapter than is there now; {remedy}")
    if found.task_hash != task.hash:
        raise ValueError(
            f"{path}: was made for another task, or {found.task_file} has changed since; {remedy}"
        )
    return found
