"""The tables of step 3's report, and how a table is written as text.

The first one compares the systems, the others go into detail.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from distill.evaluation.cascade_tables import cascade_rows, label_rows, ways_rows
from distill.evaluation.systems import CASCADE, CASCADE_TITLE, labels_from_elsewhere, titles_of
from distill.prices import basis_text
from distill.wording import MISSING, NOT_KNOWN, money, percent, rate, seconds, show


@dataclass(frozen=True)
class Table:
    """A table of the report."""

    title: str
    header: list[str]
    rows: list[list[str]]  # of cells


@dataclass(frozen=True)
class Column:
    """A figure of quality beside accuracy: its key in metrics.json and how it is shown."""

    key: str
    title: str
    form: Callable[[float | None], str]


def three_digits(value: float | None) -> str:
    """A figure from 0 to 1 that is no share of rows."""
    return show(value, ".3f")


NOTHING = re.compile(f"[{MISSING} (),+]+")  # a cell in which no figure was measured

# which of them there are depends on what the answers are
QUALITY = (
    Column("macro_f1", "macro-F1", three_digits),
    Column("field_accuracy", "fields right (mean)", percent),
    Column("exact_match", "exact match", percent),
    Column("token_f1", "token-F1", three_digits),
    Column("chrf", "chrF", three_digits),
)


def labelled(metrics: dict) -> bool:
    """Whether the answers are labels."""
    return all("macro_f1" in measured for measured in metrics["systems"].values())


def free_texts(metrics: dict) -> bool:
    """Whether the answers are free texts; labels and JSON are right or wrong as a whole."""
    return any("token_f1" in measured for measured in metrics["systems"].values())


def accuracy(measured: dict) -> str:
    low, high = measured["accuracy_interval"]
    rows = f"{measured['correct']} of {measured['rows']}"
    return f"{percent(measured['accuracy'])} ({rows}; {percent(low)} to {percent(high)})"


def overview(metrics: dict) -> Table:
    """The systems in six columns that fit into 100 characters, for the terminal and the README.

    A free text is seldom equal to gold, and two are seldom equal, so there token-F1 takes the place
    of agreement. With prices, costs take the place of the speed-up, which the seconds beside it
    show too.
    """
    priced = has_costs(metrics)
    titles = titles_of(metrics)
    of_texts = free_texts(metrics)
    header = [
        "system",
        "exact (95 % CI)" if of_texts else "accuracy (95 % CI)",
        "token-F1" if of_texts else "agreement",
        "tokens/request",
        "s/request",
        "cost/1M" if priced else "speed-up",
    ]
    rows = []
    for name, measured in metrics["systems"].items():
        low, high = measured["accuracy_interval"]
        if of_texts:
            likeness = show(measured["token_f1"], ".3f")
        else:
            likeness = percent(measured.get("agreement"))
        last = times(measured.get("speedup"))
        if priced:
            last = money(measured.get("cost_per_million"))
        cells = [
            titles[name],
            f"{percent(measured['accuracy'])} ({100 * low:.1f}–{100 * high:.1f})",
            likeness,
            show(measured["tokens"], ".1f"),
            seconds(measured["latency_s"]),
            last,
        ]
        rows.append(told_unknown(metrics, name, cells))
    title = f"Systems on {metrics['rows']} held-out rows"
    if priced:
        title += ", and what a million requests cost"
    return Table(title, header, rows)


def told_unknown(metrics: dict, name: str, cells: list[str]) -> list[str]:
    """The cells of a system; of labels from elsewhere those without a figure say why."""
    if name != "teacher" or not labels_from_elsewhere(metrics):
        return cells
    return [NOT_KNOWN if NOTHING.fullmatch(cell) else cell for cell in cells]


def has_costs(metrics: dict) -> bool:
    """Whether prices were given, with which some system costs something."""
    return any(measured.get("cost_per_million") for measured in metrics["systems"].values())


def times(factor: float | None) -> str:
    """How many times as fast, or fewer, with the digits that such a factor is worth."""
    if factor is None:
        return MISSING
    if factor < 1:
        return f"{factor:.2g}"
    return f"{factor:.1f}" if factor < 100 else f"{factor:.0f}"


def tables(metrics: dict) -> list[Table]:
    """Every table for which there are figures; the first one compares the systems."""
    found = [
        systems_table(metrics),
        cost_table(metrics),
        kinds_table(metrics),
        further_table(metrics),
    ]
    found.append(fields_table(metrics))
    found.append(labels_table(metrics))
    if CASCADE in metrics:
        found += cascade_tables(metrics)
    return [table for table in found if table is not None]


def systems_table(metrics: dict) -> Table:
    """The systems on the gold rows."""
    titles = titles_of(metrics)
    columns = [column for column in QUALITY if has_figure(metrics, column.key)]
    header = [
        "system",
        "accuracy on gold (rows; 95 % interval)",
        *(column.title for column in columns),
        "agrees with teacher",
        "unreadable",
        "tokens per request (prompt + output)",
        "of these cached",
        "times fewer than the teacher",
        "seconds per request (median, p95)",
        "speed-up",
        "rows/s in a batch",
    ]
    rows = []
    for name, measured in metrics["systems"].items():
        quality = [column.form(measured.get(column.key)) for column in columns]
        parts = (
            f"{show(measured['prompt_tokens'], '.1f')} + {show(measured['output_tokens'], '.1f')}"
        )
        cells = [
            titles[name],
            accuracy(measured),
            *quality,
            percent(measured.get("agreement")),
            str(measured["unreadable"]),
            f"{show(measured['tokens'], '.1f')} ({parts})",
            show(measured["cached_tokens"], ".1f"),
            times(measured.get("token_ratio")),
            f"{seconds(measured['latency_s'])}, {seconds(measured['latency_p95_s'])}",
            times(measured.get("speedup")),
            rate(measured["rows_per_second"]),
        ]
        rows.append(told_unknown(metrics, name, cells))
    return Table(f"Systems on {metrics['rows']} held-out rows", header, rows)


def has_figure(metrics: dict, key: str) -> bool:
    """Whether a system has this figure of quality."""
    return any(measured.get(key) is not None for measured in metrics["systems"].values())


def cost_table(metrics: dict) -> Table | None:
    """What a million requests cost; None without prices.

    Old metrics do not say by what.
    """
    if not has_costs(metrics):
        return None
    titles = titles_of(metrics)
    prices = metrics.get("prices", {})
    header = ["system", "cost"]
    if prices:
        header.append("paid by")
    rows = []
    for name, measured in metrics["systems"].items():
        row = [titles[name], money(measured.get("cost_per_million"))]
        if prices:
            row.append(basis_of(metrics, name))
        rows.append(told_unknown(metrics, name, row))
    return Table("Cost of a million requests, in the currency of the prices given", header, rows)


def basis_of(metrics: dict, name: str) -> str:
    """By what a system is paid; labels from elsewhere were not paid by what the prices say."""
    if name == "teacher" and labels_from_elsewhere(metrics):
        return NOT_KNOWN
    if name == CASCADE:
        return "the student's price, and the teacher's for what is handed over"
    return basis_text(metrics["prices"][name], metrics["systems"][name]["rows_per_second"])


def kinds_table(metrics: dict) -> Table | None:
    """Accuracy by kind of row; None where rows have no kind."""
    if not metrics["kinds"]:
        return None
    titles = titles_of(metrics)
    rows = []
    for name in metrics["systems"]:
        of_kinds = [accuracy(of_systems[name]) for of_systems in metrics["kinds"].values()]
        rows.append([titles[name], *of_kinds])
    return Table("By kind of row", ["system", *metrics["kinds"]], rows)


def further_table(metrics: dict) -> Table | None:
    """The inputs without gold; None if there are none."""
    if not metrics["without_gold"]:
        return None
    titles = titles_of(metrics)
    rows = []
    for name, measured in metrics["without_gold"].items():
        agreement = percent(measured.get("agreement"))
        rows.append([titles[name], str(measured["rows"]), agreement, str(measured["unreadable"])])
    return Table(
        "Inputs without gold", ["system", "rows", "agrees with teacher", "unreadable"], rows
    )


def fields_table(metrics: dict) -> Table | None:
    """Accuracy of each top-level field; None unless answers are JSON objects."""
    systems = metrics["systems"]
    per_field = {name: measured.get("per_field") for name, measured in systems.items()}
    if not any(per_field.values()):
        return None
    titles = titles_of(metrics)
    rows = []
    for field in next(iter(per_field.values())):
        of_systems = [accuracy(of_fields[field]) for of_fields in per_field.values()]
        rows.append([field, *of_systems])
    return Table("Fields", ["field", *(titles[name] for name in systems)], rows)


def cascade_tables(metrics: dict) -> list[Table]:
    """What the cascade alone has figures for."""
    title = CASCADE_TITLE[0].upper() + CASCADE_TITLE[1:]
    header = ["figure", "calibration rows", "held-out rows"]
    found = [Table(title, header, cascade_rows(metrics))]
    ways = ways_rows(metrics)
    if ways:
        header = ["way", "calibration error (ECE)", "Brier score", "log-loss"]
        title = "Ways to calibrate, each tried on calibration rows that it was not fitted on"
        found.append(Table(title, header, ways))
    labels = label_rows(metrics)
    if labels:
        header = ["student's answer", "rows", "handed over", "confidence", "is the teacher's"]
        found.append(Table("How sure the student is, by its answer", header, labels))
    return found


def labels_table(metrics: dict) -> Table | None:
    """Precision, recall and F1 of each label for teacher and student; None for a free-form task."""
    systems = metrics["systems"]
    names = [name for name in systems if name in metrics["confusion"]]
    if not names:
        return None
    titles = titles_of(metrics)
    header = ["label", "rows"]
    for name in names:
        header += [f"{titles[name]}: {figure}" for figure in ("precision", "recall", "F1")]
    rows = []
    for label, measured in systems[names[0]]["per_label"].items():
        row = [label, f"{measured['rows']:.0f}"]
        for name in names:
            of_label = systems[name]["per_label"][label]
            row += [f"{of_label[key]:.3f}" for key in ("precision", "recall", "f1")]
        rows.append(row)
    return Table("Labels", header, rows)


def aligned(header: list[str], rows: list[list[str]]) -> str:
    """A table as plain text: the first column from the left, figures from the right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    written = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        for cell, width in zip(line[1:], widths[1:], strict=True):
            cells.append(cell.rjust(width))
        written.append("  ".join(cells))
    written.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(written)
