"""What step 2 says of a run: what it will do, on what it trains, and what comes next."""

import logging
from pathlib import Path

from distill.calibration import CALIBRATION_ROWS
from distill.next_step import GOLD, TASK_FILE, evaluation_command
from distill.training.calibration_rows import CalibrationRows
from distill.training.lora import describe
from distill.training.results import Sizes
from distill.training.train_files import (
    FileRows,
    Settled,
    by_file,
    conflicts_said,
    counted,
    other_task,
)

log = logging.getLogger("train_sft_trl")
FEW_STEPS = 100


def say_start(rows: list[FileRows], student: str, adapter: str, processes: int = 1) -> None:
    """Say in one line on how many rows which student learns, and where its adapter goes."""
    together = f" on {processes} processes" if processes > 1 else ""
    log.info(
        "train_sft_trl.py: %s, student %s%s, adapter %s",
        by_file(rows, "rows"),
        student,
        together,
        adapter,
    )


def say_files(rows: list[FileRows], settled: Settled, on_conflict: str | None) -> None:
    """Say what of the train files contradicts each other, is there twice, or has another task."""
    for line in conflicts_said(settled, on_conflict):
        log.info(line)
    warning = other_task([each.path for each in rows])
    if warning:
        log.warning(warning)


def say_calibration(
    calibration: CalibrationRows, files: list[str], adapter: str, init_adapter: str | None
) -> None:
    """Say in one line how many rows are kept away from training, and where; nothing if none are."""
    kept = len(calibration.lines)
    if not kept:
        return
    rows = [each for each in counted(files, calibration.rows) if each.rows]
    path = Path(adapter) / CALIBRATION_ROWS
    log.info("%s are kept away from training, in %s", by_file(rows, "more rows"), path)
    known = kept - calibration.kept_before
    if init_adapter and known:
        log.warning(
            "%s may have been trained on %s of them, and be surer of those than of new inputs",
            init_adapter,
            f"{known:,}",
        )


def say_sizes(trainer, tokenizer, first_row: dict, sizes: Sizes) -> None:
    """Say what is trained, and on what the first row's loss falls."""
    learned = [token for token in first_row["labels"] if token != -100]
    log.info(
        "LoRA on %s: %s of %s parameters (%.2f %%)",
        describe(trainer.model),
        f"{sizes.trainable:,}",
        f"{sizes.parameters:,}",
        100 * sizes.trainable / sizes.parameters,
    )
    log.info(
        "effective batch %d, %d optimizer steps; the first row's loss is on %r",
        sizes.effective_batch,
        sizes.steps,
        tokenizer.decode(learned),
    )
    if sizes.steps < FEW_STEPS:
        log.warning(
            "only %d optimizer steps; more come from --num_train_epochs or a smaller batch",
            sizes.steps,
        )


def say_next(adapter: str, student: str, train_file: str) -> None:
    """Say in one line how step 3 is started for the adapter."""
    line = evaluation_command(adapter, student, train_file)
    if TASK_FILE in line:
        log.info("next, step 3, with your task and held-out rows for the two files: %s", line)
    elif GOLD in line:
        log.info("next, step 3, with your held-out rows for %s: %s", GOLD, line)
    else:
        log.info("next, step 3: %s", line)
