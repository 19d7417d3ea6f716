"""What step 3 says of a run: at its start what it will do, at its end what comes next."""

import logging
from pathlib import Path

from distill.evaluation.systems import title_of
from distill.next_step import merging_command

log = logging.getLogger("evaluate")


def say_start(rows: int, systems: list[str], thinks: bool, report_dir: Path) -> None:
    """Say in one line which systems, by their names, are asked so many rows for which report."""
    titles = "; ".join(title_of(name, thinks) for name in systems)
    log.info("evaluate.py: %s rows, report %s, systems: %s", f"{rows:,}", report_dir, titles)


def say_next(systems: list[str], adapter: str) -> None:
    """Say in one line how to get a model to serve, if the student was evaluated."""
    if "student" in systems:
        line = merging_command(adapter)
        log.info("next, a model to serve (docs/serving.md has other ways): %s", line)
