"""The rows by which a student is calibrated: labelled by the teacher, and never trained on."""

import logging
from dataclasses import dataclass
from pathlib import Path

from distill.calibration import CALIBRATION_ROWS
from distill.chats import digest, input_hash, read_gold
from distill.evaluation.rows import known_answer
from distill.task import Task

log = logging.getLogger("evaluate")


@dataclass(frozen=True)
class CalibrationRows:
    """Chats without their answers, and the teacher's answers to them."""

    path: str  # empty: there are none
    chats: list[list[dict]]
    answers: list[str]

    def key(self) -> str:
        """What tells them from other rows."""
        return digest([self.chats, self.answers]).hex()

    def some(self, count: int) -> list[int]:
        """The indexes of at most so many rows, from the whole file."""
        count = min(count, len(self.chats))
        return [len(self.chats) * k // count for k in range(count)]


NONE = CalibrationRows("", [], [])


def read_calibration_rows(
    path: str, adapter: str, gold_chats: list[list[dict]], task: Task
) -> CalibrationRows:
    """Read the calibration rows; NONE where no `path` is given and step 2 has kept none.

    Raises ValueError that names file and line, also for a row that is among the rows with gold:
    then what is chosen by it could not be measured on them.
    """
    if not path:
        path = str(Path(adapter) / CALIBRATION_ROWS)
        if not Path(path).is_file():
            return NONE
    tested = {input_hash(chat) for chat in gold_chats}
    chats = []
    answers = []
    for row in read_gold(path):
        where = f"{path}:{row.number}"
        if input_hash(row.chat) in tested:
            raise ValueError(
                f"{where}: is among the rows with gold too, which are only for measuring; drop it "
                "from one of the two files"
            )
        chats.append(row.chat)
        answers.append(known_answer(task, row.gold, f"{where}: answer"))
    if not chats:
        raise ValueError(f"{path}: no rows")
    return CalibrationRows(path, chats, answers)
