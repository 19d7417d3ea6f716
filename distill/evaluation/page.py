"""report.html: everything on one page that needs no other file.

Its parts are page.html.j2, page.css and page.js. Texts of rows come from anywhere, so Jinja escapes
every value, and the script reads and moves elements without writing markup.
"""

import base64
from dataclasses import dataclass
from pathlib import Path

from distill.evaluation.cascade_plots import HANDING_OVER
from distill.evaluation.headlines import headlines
from distill.evaluation.plots import CONFUSION
from distill.evaluation.sentences import sentences
from distill.evaluation.systems import STYLES, titles_of
from distill.evaluation.tables import labelled, tables
from distill.evaluation.verdict import verdict
from distill.same_text import comparable
from distill.wording import MISSING, unbroken

# of the predictions on the page; all are in predictions.jsonl
SHOWN_ROWS = 2000
SHOWN_CHARACTERS = 2_000_000  # of their inputs, so that long ones do not make a page that is slow
JUDGED = ("teacher", "student")


@dataclass(frozen=True)
class ShownImage:
    """A plot."""

    title: str
    data: str  # the PNG in base64
    wide: bool  # over the page's whole width


@dataclass(frozen=True)
class Cell:
    """One system's answer in the table of rows."""

    text: str
    wrong: bool


@dataclass(frozen=True)
class Turn:
    """One message of a row's input."""

    role: str
    text: str


@dataclass(frozen=True)
class ShownRow:
    """One line of the table of rows."""

    number: int  # its line in predictions.jsonl
    id: str | None  # as the file of inputs has it
    turns: list[Turn]  # the whole chat of its input
    gold: str | None
    cells: list[Cell]
    wrong: list[str]  # the systems that are
    differs: bool  # student from teacher


def page(metrics: dict, predictions: list[dict], images: list[tuple[str, Path]]) -> str:
    """The page, with the PNGs in it.

    Of the rows it shows those that fit, first those that teacher or student get wrong.
    """
    import jinja2

    systems = list(metrics["systems"])
    rows = rows_that_fit([shown_row(i, row, systems) for i, row in enumerate(predictions, 1)])
    of_labels = labelled(metrics)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    environment.filters["unbroken"] = unbroken
    return environment.get_template("page.html.j2").render(
        verdict=verdict(metrics),
        headlines=headlines(metrics),
        images=[shown_image(title, path) for title, path in images],
        tables=tables(metrics),
        sentences=sentences(metrics),
        rows=rows,
        has_ids=any(row.id is not None for row in rows),
        total=len(predictions),
        free_texts=not of_labels,
        labels=labels_of(rows) if of_labels else [],
        systems=systems,
        judged=[name for name in JUDGED if name in systems],
        titles=titles_of(metrics),
        styles=STYLES,
        missing=MISSING,
    )


def shown_image(title: str, path: Path) -> ShownImage:
    """A plot as the page holds it; one of two parts side by side needs room."""
    data = base64.b64encode(path.read_bytes()).decode()
    return ShownImage(title, data, path.name in (CONFUSION, HANDING_OVER))


def is_wrong(row: dict, name: str) -> bool:
    """Whether a system's answer is another one than gold; False without gold."""
    if row["gold"] is None:
        return False
    return not same(row[name]["answer"], row["gold"])


def same(one: str | None, other: str | None) -> bool:
    """Whether two answers are equal; None (unreadable) equals only itself."""
    if one is None or other is None:
        return one is other
    return comparable(one) == comparable(other)


def shown_row(number: int, row: dict, systems: list[str]) -> ShownRow:
    """A line of predictions.jsonl as the page shows it."""
    cells = []
    wrong = []
    for name in systems:
        answer = row[name]["answer"]
        cell = Cell("unreadable" if answer is None else answer, is_wrong(row, name))
        cells.append(cell)
        if cell.wrong:
            wrong.append(name)
    differs = False
    if "teacher" in systems and "student" in systems:
        differs = not same(row["teacher"]["answer"], row["student"]["answer"])
    turns = [Turn(message["role"], message["content"]) for message in row["messages"]]
    return ShownRow(number, row.get("id"), turns, row["gold"], cells, wrong, differs)


def interest(row: ShownRow) -> tuple[bool, bool]:
    """Sorts rows that teacher or student get wrong to the front, those without gold to the end."""
    judged_wrong = any(name in row.wrong for name in JUDGED)
    return row.gold is None, not judged_wrong


def rows_that_fit(rows: list[ShownRow]) -> list[ShownRow]:
    """The most interesting rows, as many as the page is to hold."""
    shown = []
    characters = 0
    for row in sorted(rows, key=interest)[:SHOWN_ROWS]:
        characters += sum(len(turn.text) for turn in row.turns)
        if shown and characters > SHOWN_CHARACTERS:
            break
        shown.append(row)
    return shown


def labels_of(rows: list[ShownRow]) -> list[str]:
    """The gold labels by which these rows can be filtered."""
    return sorted({row.gold for row in rows if row.gold is not None})
