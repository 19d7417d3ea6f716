"""The plots of step 3's report, one PNG each.

Their size is bounded, whatever the number and length of the labels. Each system looks the same in
all of them (STYLES in systems.py), and can be told in a grey print by hatching or line.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.evaluation.cascade_plots import cascade_figures
from distill.evaluation.systems import STYLES
from distill.palette import MATRIX

CONFUSION = "confusion.png"
LONGEST = 40  # characters of a label in a plot
TICKS = (1, 2, 5)  # of seconds, times a power of ten
MARGIN = 1.6  # times the longest; squared it is more than two ticks are apart, so that one is seen
OTHER = "(none of these)"  # the last column of a confusion matrix
# the legend's place, above the plot
ABOVE = {"loc": "outside upper left", "ncols": 3, "frameon": False}
SETTINGS = {
    "backend": "Agg",
    "font.family": ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans"],
    "text.parse_math": False,  # a label may hold two dollars
    "hatch.linewidth": 0.6,
}


def draw(metrics: dict, titles: dict[str, str], folder: Path) -> list[tuple[str, Path]]:
    """Write the PNGs; returns (title, path) of each.

    `titles` are the systems' names by their keys.
    """
    import matplotlib

    # of these fonts some are usually missing
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with matplotlib.rc_context(SETTINGS):
        figures = figures_of(metrics, titles)
        paths = []
        for title, name, figure in figures:
            figure.savefig(folder / name, dpi=110, bbox_inches="tight")
            paths.append((title, folder / name))
    return paths


def figures_of(metrics: dict, titles: dict[str, str]) -> list[tuple]:
    """(title, file name, matplotlib's Figure) of each plot for which there are figures."""
    systems = metrics["systems"]
    found = []
    if metrics["confusion"]:
        found.append(
            (
                "Confusion matrices",
                CONFUSION,
                confusion_matrices(metrics["confusion"], titles),
            )
        )
        recalls = {name: systems[name]["per_label"] for name in metrics["confusion"]}
        labels = next(iter(metrics["confusion"].values()))["labels"]
        found.append(
            ("Accuracy per label", "per_label.png", accuracy_bars(recalls, labels, titles))
        )
    timed = {name: m["latencies_s"] for name, m in systems.items() if m["latencies_s"]}
    if timed:
        found.append(("Latency", "latency.png", latency_curves(timed, titles)))
    counted = {name: m for name, m in systems.items() if m["tokens"] is not None}
    if counted:
        found.append(("Tokens per request", "tokens.png", token_bars(counted, titles)))
    return found + cascade_figures(metrics, new_figure, ABOVE)


def shortened(labels: list[str]) -> list[str]:
    """Labels that fit beside a plot, no two alike.

    Each is on one line, a long one without its middle.
    """
    half = LONGEST // 2
    short = []
    for label in labels:
        line = " ".join(label.split())
        short.append(line if len(line) <= LONGEST else f"{line[:half]}…{line[1 - half :]}")
    seen = Counter()
    found = []
    for label in short:
        seen[label] += 1
        found.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return found


def new_figure(width: float, height: float):
    """An empty figure, in inches, that makes room for all its texts.

    It is nobody's current one, to be closed.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def confusion_matrices(matrices: dict[str, dict], titles: dict[str, str]):
    """Gold labels by answers, one matrix for each system side by side."""
    labels = shortened(next(iter(matrices.values()))["labels"])
    beside = 0.1 * max(map(len, labels))  # inches that the longest label takes
    side = max(4, 0.42 * len(labels)) + beside
    figure = new_figure(side * len(matrices) + 1, side)
    for axis, (name, found) in zip(
        figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True
    ):
        matrix = np.array(found["matrix"])
        axis.imshow(matrix, cmap=MATRIX)
        for i, j in np.argwhere(matrix):
            colour = "white" if matrix[i, j] > matrix.max() / 2 else "black"
            axis.text(j, i, matrix[i, j], ha="center", va="center", color=colour, fontsize=8)
        axis.set_xticks(range(len(labels) + 1), [*labels, OTHER], rotation=90)
        axis.set_yticks(range(len(labels)), labels)
        axis.set(title=titles[name], xlabel="answer", ylabel="gold")
    return figure


def accuracy_bars(per_label: dict[str, dict], labels: list[str], titles: dict[str, str]):
    """The share of each label's rows that a system gets right.

    Bars begin at the left, so that long labels have room.
    """
    places = np.arange(len(labels))
    figure = new_figure(
        7 + 0.1 * max(map(len, shortened(labels))), max(2.5, 0.35 * len(labels) + 1)
    )
    axis = figure.subplots()
    for i, name in enumerate(per_label):
        style = STYLES[name]
        recall = [per_label[name][label]["recall"] for label in labels]
        axis.barh(
            places + 0.4 * i,
            recall,
            0.38,
            label=titles[name],
            color=style.colour,
            hatch=style.hatch,
            edgecolor="white",
        )
    axis.set_yticks(places + 0.2 * (len(per_label) - 1), shortened(labels))
    axis.set(xlabel="accuracy", xlim=(0, 1.02))
    axis.invert_yaxis()
    figure.legend(**ABOVE)
    return figure


def latency_curves(timed: dict[str, list[float]], titles: dict[str, str]):
    """The share of requests that took at most so many seconds."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = new_figure(7, 3.5)
    axis = figure.subplots()
    for name, latencies in timed.items():
        style = STYLES[name]
        axis.ecdf(
            latencies,
            label=titles[name],
            color=style.colour,
            linestyle=style.line,
            linewidth=2,
        )
    axis.set(xlabel="seconds per request, one at a time", ylabel="share of requests", xscale="log")
    # matplotlib writes powers of ten in its markup, which SETTINGS turn off
    shortest = min(min(latencies) for latencies in timed.values())
    longest = max(max(latencies) for latencies in timed.values())
    axis.set_xlim(shortest / MARGIN, longest * MARGIN)
    axis.xaxis.set_major_locator(LogLocator(subs=TICKS))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(**ABOVE)
    return figure


@dataclass(frozen=True)
class Part:
    """A part of a request's tokens: how its share of a bar looks, in the system's own colour."""

    name: str
    opacity: float
    hatch: str


PARTS = [Part("prompt, cached", 0.15, "///"), Part("prompt", 0.45, ""), Part("output", 1.0, "")]


def parts_of(measured: dict) -> list[float]:
    """The mean tokens of each of PARTS."""
    computed = measured["prompt_tokens"] - measured["cached_tokens"]
    return [measured["cached_tokens"], computed, measured["output_tokens"]]


def token_bars(counted: dict[str, dict], titles: dict[str, str]):
    """The mean request's tokens: cached, computed and written."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    figure = new_figure(7, 0.9 + 0.6 * len(counted))
    axis = figure.subplots()
    most = max(sum(parts_of(measured)) for measured in counted.values())
    for name, measured in counted.items():
        colour = STYLES[name].colour
        left = 0.0
        for part, tokens in zip(PARTS, parts_of(measured), strict=True):
            axis.barh(
                titles[name],
                tokens,
                left=left,
                facecolor=to_rgba(colour, part.opacity),
                hatch=part.hatch,
                edgecolor=colour,
            )
            left += tokens
        axis.text(left, titles[name], f" {left:.0f}", va="center")
    axis.set(xlabel="tokens per request, mean", xlim=(0, 1.15 * most))
    axis.invert_yaxis()
    legend = []
    for part in PARTS:
        legend.append(
            Patch(
                label=part.name,
                facecolor=to_rgba("black", 0.6 * part.opacity),
                hatch=part.hatch,
                edgecolor="black",
            )
        )
    figure.legend(handles=legend, **ABOVE)
    return figure
