"""How the figures of step 3 and their tables are written: the same in report, README and card."""

import re

MISSING = "–"  # what was not measured
NOT_KNOWN = "not known"  # what labels from elsewhere took: nobody here could have measured it
UNIT = re.compile(r"(?<=\d) (?=%|s\b|ms\b)")  # the space before one
NO_BREAK = "\u00a0"  # the space at which no line ends
FRACTION = 0.1  # a part that is at most so large is written as 1/n


def show(value: float | None, form: str) -> str:
    """A number in one of Python's forms."""
    return MISSING if value is None else format(value, form)


def percent(value: float | None) -> str:
    """A share, 0.969, as 96.9 %."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def rate(value: float | None) -> str:
    """Rows a second: whole ones, and of few rows two digits."""
    if value is None or value >= 10:
        return show(value, ".0f")
    return show(value, ".2g")


def seconds(value: float | None) -> str:
    """The seconds of a request: short ones to a tenth of a millisecond."""
    if value is None or value < 10:
        return show(value, ".4f")
    return show(value, ".1f")


def money(value: float | None) -> str:
    """A price in whatever currency, in ten characters: large ones in whole units."""
    if value is None or 0.01 <= value < 10_000 or value == 0:
        return show(value, ",.2f")
    if 10_000 <= value < 100_000_000:
        return show(value, ",.0f")
    return show(value, ".2g")


def duration(value: float | None) -> str:
    """The seconds of a request with their unit."""
    if value is None:
        return MISSING
    if value >= 1:
        return f"{value:.1f} s"
    if value >= 0.01:
        return f"{1000 * value:.0f} ms"
    return f"{1000 * value:.1f} ms"


def unbroken(text: str) -> str:
    """A text whose lines do not end between a number and its unit."""
    return UNIT.sub(NO_BREAK, text)


def part_of(ratio: float, whole: str) -> str:
    """How much of something that is: "1/52 of the tokens", "70 % of them", "2.5 times them"."""
    if ratio <= FRACTION:
        return f"1/{1 / ratio:.0f} of {whole}"
    if ratio < 2:
        return f"{100 * ratio:.0f} % of {whole}"
    return f"{ratio:.1f} times {whole}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    written = []
    for line in (header, ["---"] * len(header), *rows):
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in line]
        written.append("| " + " | ".join(cells) + " |")
    return "\n".join(written)
