"""What step 3 says of a run: at its start what it will do, at its end what comes next."""

import contextlib
import logging
from pathlib import Path

from distill.adapter_files import Base
from distill.calibration import CALIBRATION
from distill.evaluation.choices import Choices
from distill.evaluation.models import revisions_of
from distill.evaluation.systems import CASCADE
from distill.next_step import SAMPLING, cascade_command, merging_command, prediction_command
from distill.system import visible_gpus
from distill.teacher.engine_flags import further_gpus
from distill.teacher.server import Server

log = logging.getLogger("evaluate")


def say_start(rows: int, titles: list[str], report_dir: Path) -> None:
    """Say in one line which systems are compared on so many rows for which report."""
    systems = "; ".join(titles)
    log.info("evaluate.py: %s rows, report %s, systems: %s", f"{rows:,}", report_dir, systems)


def say_served(server: Server) -> None:
    """Say in one line how a student that a server has is asked."""
    log.info(
        "evaluate.py: the student is %s at %s: asked as it is served, without the comparison with "
        "PEFT (--check_rows) and without a search for ties",
        server.model,
        server.url,
    )


def say_next(choices: Choices, systems: list[str]) -> None:
    """Say in a line each how the student, if it was evaluated, is put to work.

    `systems` are those of the report. With a teacher that was asked here, and a calibration, both
    can be served as one.
    """
    if "student" not in systems:
        return
    adapter = choices.adapter
    task_file = choices.task_file
    revisions = revisions_of(choices)
    base = Base(choices.student_model, revisions.student)
    line = prediction_command(adapter, base, task_file, choices.student_max_tokens)
    log.info("next, its answer for every row of a file: %s", line)
    log.info(
        "next, a model to serve (docs/serving.md has other ways): %s", merging_command(adapter)
    )
    if CASCADE in systems and choices.asks_teacher and (Path(adapter) / CALIBRATION).is_file():
        asked_with = {name: getattr(choices, name) for name in SAMPLING}
        split = []
        if choices.tensor_parallel_size > 1:
            split = ["--tensor-parallel-size", str(choices.tensor_parallel_size)]
        gpus = []
        with contextlib.suppress(OSError):  # nvidia-smi fails, and the models have been served
            gpus = visible_gpus()
        line = cascade_command(
            adapter,
            task_file,
            choices.teacher_model,
            revisions.teacher,
            asked_with,
            [*split, *choices.engine_flags],
            gpus,
            choices.tensor_parallel_size * further_gpus(choices.engine_flags),
        )
        log.info("next, that model with its teacher where it is unsure: %s", line)
