"""The rows that step 2 keeps away from training, so that step 3 can calibrate the student on them.

Which they are follows from the train files, the share and the seed, through hashes alone: every
process, and a run that goes on under another Python, keeps the same ones.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from distill.calibration import CALIBRATION_ROWS
from distill.chats import input_hash, read_chat
from distill.files import Replacing
from distill.text_lines import text_lines
from distill.training.train_files import LabelledRow

FEWEST = 20  # of which the 5 % that step 3 hands over by default are one


@dataclass(frozen=True)
class CalibrationRows:
    """What is kept away from training."""

    rows: list[LabelledRow] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # as they stand in the train files, with ends
    # of them, those that were kept away from the training of --init_adapter too
    kept_before: int = 0

    @property
    def sha256(self) -> str | None:
        """Of all lines; None if nothing is kept away."""
        if not self.lines:
            return None
        return hashlib.sha256("".join(self.lines).encode()).hexdigest()


def set_apart(
    rows: list[LabelledRow], fraction: float, seed: int, init_adapter: str | None
) -> tuple[list[LabelledRow], CalibrationRows]:
    """What is left to train on of the rows of all train files, and what is kept away.

    Raises ValueError if too few would be kept for a calibration, or none left.
    """
    if not fraction:
        return rows, CalibrationRows()
    before = inputs_kept_before(init_adapter)
    chosen = choose_inputs(rows, fraction, seed, before)
    kept = [row for row in rows if row.asked in chosen]
    check_kept(fraction, len(kept), len(rows))
    left = [row for row in rows if row.asked not in chosen]
    kept_before = sum(row.asked in before for row in kept)
    return left, CalibrationRows(kept, lines_of(kept), kept_before)


def inputs_kept_before(init_adapter: str | None) -> set[str]:
    """The inputs, by input_hash(), that were kept away when an adapter was trained.

    A checkpoint's lie in the directory of its run.
    """
    if init_adapter is None:
        return set()
    adapter = Path(init_adapter)
    for folder in (adapter, adapter.parent):
        if (folder / CALIBRATION_ROWS).is_file():
            return inputs_in(folder / CALIBRATION_ROWS)
    return set()


def inputs_in(path: Path) -> set[str]:
    """The inputs of a chat JSONL by input_hash(); raises ValueError as read_chat()."""
    inputs = set()
    for _, (*asked, _) in read_chat(path, last_role="assistant"):
        inputs.add(input_hash(asked))
    return inputs


def choose_inputs(rows: list[LabelledRow], fraction: float, seed: int, first: set[str]) -> set[str]:
    """The inputs, by input_hash(), whose rows are kept away: `fraction` of all, drawn by the seed.

    All rows of an input are on one side. Of each answer that several inputs have, the same share is
    taken, to one more or less; those that only one has are drawn from together. Inputs in `first`
    are taken before others.
    """
    answers = {}
    for row in rows:
        answers.setdefault(row.asked, row.answer)
    wanted = round(fraction * len(answers))
    # so that each input has the same chance, also where an answer's share is less than one
    start = drawn(seed, "start") % max(len(answers), 1)
    chosen = set()
    earlier = 0  # inputs in the strata before
    for stratum in strata_of(answers):
        until_here = earlier + len(stratum)
        share = (until_here * wanted + start) // len(answers)
        share -= (earlier * wanted + start) // len(answers)
        in_order = sorted(stratum, key=lambda asked: (asked not in first, drawn(seed, asked)))
        chosen.update(in_order[:share])
        earlier = until_here
    return chosen


def strata_of(answers: dict[str, str]) -> list[list[str]]:
    """Inputs by their answer, and last of all those whose answer no other input has."""
    inputs_of = {}
    for asked, answer in answers.items():
        inputs_of.setdefault(answer, []).append(asked)
    strata = []
    single = []
    for answer in sorted(inputs_of):
        if len(inputs_of[answer]) > 1:
            strata.append(inputs_of[answer])
        else:
            single += inputs_of[answer]
    return [*strata, single]


def drawn(seed: int, name: str) -> int:
    """A large number that is as good as random and the same everywhere."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest())


def check_kept(fraction: float, kept: int, rows: int) -> None:
    """Raise ValueError for too few calibration rows, or where no row is left to train on."""
    said = f"--calibration_fraction {fraction}: keeps {kept} of {rows} rows from training"
    if kept == rows:
        raise ValueError(f"{said}, which leaves none; lower it")
    if kept < FEWEST:
        raise ValueError(f"{said}, and a calibration needs {FEWEST}; raise it, or leave it out")


def lines_of(rows: list[LabelledRow]) -> list[str]:
    """The lines of these rows as they stand in their files, each with its end."""
    numbers = {}  # of each file
    for row in rows:
        numbers.setdefault(row.path, set()).add(row.number)
    lines = []
    for path, wanted in numbers.items():
        for number, line in text_lines(path):
            if number in wanted:
                lines.append(line if line.endswith("\n") else f"{line}\n")
    return lines


def write_rows(output_dir: Path, calibration: CalibrationRows) -> None:
    """Write the calibration rows into the directory of an adapter that is about to be trained.

    Where nothing is kept away from its training, what an earlier run has kept is removed: the
    adapter will know it.
    """
    path = output_dir / CALIBRATION_ROWS
    if not calibration.lines:
        path.unlink(missing_ok=True)
        return
    with Replacing(path) as file:
        file.writelines(calibration.lines)
