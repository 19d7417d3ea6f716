"""What step 3 says of a run: at its start what it will do, at its end what comes next."""

import logging
from pathlib import Path

from distill.next_step import merging_command
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


def say_next(systems: list[str], adapter: str) -> None:
    """Say in one line how to get a model to serve, if the student was evaluated."""
    if "student" in systems:
        line = merging_command(adapter)
        log.info("next, a model to serve (docs/serving.md has other ways): %s", line)
