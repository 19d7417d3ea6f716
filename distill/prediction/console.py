"""What predict.py says of a run: at its start what it will do, at its end what comes next."""

import logging

from distill.input_tables import columns_without_text
from distill.next_step import (
    served_evaluation_command,
    serving_command,
    student_evaluation_command,
)
from distill.prediction.choices import Choices
from distill.prediction.student import Student
from distill.system import engines_on_gpus

log = logging.getLogger("predict")


def say_start(choices: Choices, student: Student, inputs: int, asked: int, served_as: str) -> None:
    """Say in one line that so many of the inputs are asked, of whom, and where the answers go.

    `served_as` says how vLLM has the adapter; empty for a model without one.
    """
    others = "" if asked == inputs else " (the others are finished or repeated)"
    how = f", as {served_as}" if served_as else ""
    where = ""
    replicas = choices.cluster.num_replicas
    if replicas:
        where = f" on {replicas} replica{'s' if replicas > 1 else ''}"
    log.info(
        "predict.py: %s inputs, %s to ask%s, student %s%s%s, output %s",
        f"{inputs:,}",
        f"{asked:,}",
        others,
        student.shown(),
        how,
        where,
        choices.output_file,
    )


def warn_of_lost_columns(input_file: str) -> None:
    """Say which columns of the input the output does not hold; it has all others as text."""
    lost = columns_without_text(input_file)
    if lost:
        log.warning(
            "predict.py: %s: lists, structures and bytes are not kept: the output has no or empty "
            "columns for %s; write them as text there, or join them by an id",
            input_file,
            ", ".join(lost),
        )


def say_next(choices: Choices, student: Student) -> None:
    """Say in one line how the answers are compared with gold, or how a merged model is served."""
    if student.server:
        line = served_evaluation_command(student.server, student.task_file, choices.max_tokens)
        log.info("next, with the right answers to some of such rows, how good they are: %s", line)
    elif student.adapter:
        line = student_evaluation_command(
            student.adapter, student.model, student.task_file, choices.max_tokens
        )
        log.info("next, with the right answers to some of such rows, how good they are: %s", line)
    else:
        log.info("next, a server: %s", serving_command(student.model, engines_on_gpus()))
