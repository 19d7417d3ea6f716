"""The colours of all plots and of the report's page, and what tells them apart without colour.

The colours are those that M. Okabe and K. Ito chose for eyes that confuse red and green
(Color Universal Design, 2008). For prints in grey each style has a hatching for its bars and a
line of its own.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """How one thing looks in every plot."""

    colour: str
    hatch: str  # of a bar, in matplotlib's signs
    line: str | tuple  # matplotlib's name of a line's style, or its dashes
    marker: str  # matplotlib's name of the sign at a point


BLUE = Style("#0072B2", "///", "-", "o")
ORANGE = Style("#E69F00", "", "--", "s")
GREEN = Style("#009E73", "...", "-.", "^")
PURPLE = Style("#CC79A7", "xxx", ":", "D")
VERMILLION = Style("#D55E00", "\\\\\\", (0, (6, 1, 1, 1, 1, 1)), "v")
MATRIX = "Blues"  # matplotlib's colour map of counts: one colour, from light to dark
