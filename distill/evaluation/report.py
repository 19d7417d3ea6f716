"""How step 3's figures are shown: the files of report/, and what the terminal and the README say.

Each begins with the verdict (verdict.py).
"""

import json
import textwrap
from pathlib import Path

from distill.evaluation.page import page
from distill.evaluation.plots import draw
from distill.evaluation.sentences import measured_on, sentences
from distill.evaluation.systems import titles_of
from distill.evaluation.tables import aligned, overview, tables
from distill.evaluation.verdict import verdict
from distill.files import Replacing
from distill.terminal import WIDTH
from distill.wording import NO_BREAK, markdown, unbroken


def write_report(folder: Path, metrics: dict, predictions: list[dict]) -> None:
    """Write report/: metrics.json, predictions.jsonl, report.md, the PNGs and report.html.

    The last one needs no other file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Replacing(folder / "metrics.json") as file:
        file.write(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    with Replacing(folder / "predictions.jsonl") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions)
    images = draw(metrics, titles_of(metrics), folder)
    with Replacing(folder / "report.md") as file:
        file.write(in_markdown(metrics, images))
    with Replacing(folder / "report.html") as file:
        file.write(page(metrics, predictions, images))


def in_markdown(metrics: dict, images: list[tuple[str, Path]]) -> str:
    """report.md: what the page holds, without the rows."""
    parts = ["# Is the student as good as the teacher, and what did it save?"]
    parts.append(" ".join(verdict(metrics)))
    for title, path in images:
        parts.append(f"## {title}\n\n![{title}]({path.name})")
    for table in tables(metrics):
        parts.append(f"## {table.title}\n\n{markdown(table.header, table.rows)}")
    how = sentences(metrics)
    if how:
        parts += ["## How it was measured", *how]
    return "\n\n".join(parts) + "\n"


def on_terminal(metrics: dict) -> str:
    """Verdict and table, in lines of at most WIDTH characters; the rest is in the report."""
    table = overview(metrics)
    wrapped = textwrap.fill(unbroken(" ".join(verdict(metrics))), WIDTH)
    text = wrapped.replace(NO_BREAK, " ")
    return f"{text}\n\n{table.title}:\n\n{aligned(table.header, table.rows)}\n"


def in_readme(metrics: dict) -> str:
    """The same for a README, with where and when it was measured."""
    table = overview(metrics)
    parts = [
        " ".join(verdict(metrics)),
        f"{table.title}:",
        markdown(table.header, table.rows),
        measured_on(metrics),
    ]
    return "\n\n".join(part for part in parts if part)
