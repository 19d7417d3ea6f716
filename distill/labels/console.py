"""What step 1 says of a run: at its start what it will do, at its end what comes next."""

import logging

from distill.cli import TEACHER
from distill.labels.choices import Shard
from distill.next_step import training_command

log = logging.getLogger("create_data")


def say_start(
    inputs: int,
    asked: int,
    teacher: str,
    output_file: str,
    shard: Shard | None = None,
    replicas: int = 0,
) -> None:
    """Say in one line that so many of the inputs are asked, by whom, and where the labels go.

    Replicas share the inputs out themselves and have no `shard`; `replicas` is 0 for one engine in
    this process.
    """
    share = ""
    if shard and shard.count > 1:
        share = f", share {shard.text} of them"
    others = "" if asked == inputs else " (the others are finished, repeated or not ours)"
    where = ""
    if replicas:
        where = f" on {replicas} replica{'s' if replicas > 1 else ''}"
    log.info(
        "create_data.py: %s inputs%s, %s to ask%s, teacher %s%s, output %s",
        f"{inputs:,}",
        share,
        f"{asked:,}",
        others,
        teacher,
        where,
        output_file,
    )


def say_next(output_file: str, teacher: str) -> None:
    """Say in one line how step 2 is started on what was written."""
    line = training_command(output_file, teacher)
    if teacher == TEACHER:
        log.info("next, step 2: %s", line)
    else:
        log.info("next, step 2, with your student's model for STUDENT: %s", line)
