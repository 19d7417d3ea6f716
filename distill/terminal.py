"""Texts as a terminal of 100 columns shows them: in lines that fit, without what moves its cursor.

Nothing is left out, so that long texts take many lines.
"""

import textwrap
import unicodedata

WIDTH = 100  # columns of a line
NAMES = 16  # columns for what stands to the left of a text
WIDE = ("W", "F")  # what Unicode calls the letters that take two columns


def field(name: str, text: str, indent: int = 0) -> str:
    """A name and the text that belongs to it, below each other in columns.

    The text keeps its own lines, and those that are too long go on below. `indent` is in columns.
    """
    room = WIDTH - NAMES
    if any(unicodedata.east_asian_width(letter) in WIDE for letter in text):
        room //= 2
    lines = []
    for line in printable(text).split("\n"):
        lines += textwrap.wrap(line, room, replace_whitespace=False) or [""]
    first = f"{'':{indent}}{name}".ljust(NAMES - 1)
    head = f"{first} {lines[0]}".rstrip()
    others = [f"{'':{NAMES}}{line}".rstrip() for line in lines[1:]]
    return "\n".join([head, *others])


def printable(text: str) -> str:
    """A text with escapes in the place of control characters; ends of lines stay."""
    shown = ""
    for letter in text.expandtabs(4):
        is_control = unicodedata.category(letter) in ("Cc", "Cf", "Cs")
        if is_control and letter not in "\n\u200c\u200d":  # joiners are letters of some scripts
            letter = letter.encode("unicode_escape", "surrogatepass").decode("ascii")
        shown += letter
    return shown


def shortened(text: str, lines: int) -> str:
    """A long text without its middle: so many lines from its beginning and from its end."""
    all_lines = text.split("\n")
    left_out = len(all_lines) - 2 * lines
    if left_out <= 1:
        return text
    middle = f"[... {left_out} more lines ...]"
    return "\n".join([*all_lines[:lines], middle, *all_lines[-lines:]])
