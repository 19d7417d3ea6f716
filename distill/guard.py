"""The guard of an answer: the expression that a guarded attempt has to follow.

And examples of what it lets through. xgrammar, which guides vLLM, reads a regular expression
otherwise than Python, which finds the answer. So an expression that finds every label in what
people write may find none in what the guard writes.
"""

import re
from re import _constants as part  # Python has no public view of the parts of an expression
from re import _parser

LABEL = "\ue000"  # a private-use character: it stands for the label in what the guard writes
# what the guard may put where an expression takes many characters:
# what separates words, and else what they consist of
SEPARATORS = " \n.-"
IN_WORDS = "x0_"
# an escape, a character class, the start of a group that does not capture, or any one character
TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?!P<).|.", re.DOTALL)


def guard(answer: str, labels: tuple[str, ...]) -> str:
    """The expression of what may follow the thinking.

    It is the text around the group of `answer`, with one of the labels.
    """
    label = (
        "(" + "|".join(re.sub(r"([\\.^$*+?{}\[\]()|])", r"\\\1", label) for label in labels) + ")"
    )
    # the guard's dot takes the end of a line too, which the reader's does not
    start, _, end = around_group(answer, LABEL).partition(LABEL)
    expression = without_dots(start) + label + without_dots(end)
    # an alternative of the whole expression begins after the empty lines too
    return r"\n{0,2}" + (f"(?:{expression})" if "|" in answer else expression)


def is_guarded(structured_outputs: str, tries: int) -> bool:
    """Whether an attempt at a row is guarded after `tries` failed ones.

    `structured_outputs` is step 1's flag.
    """
    return structured_outputs == "always" or (structured_outputs == "retry" and tries > 0)


def without_dots(pattern: str) -> str:
    """An expression with what a dot means in Python in the place of each dot."""
    return TOKEN.sub(lambda token: r"[^\n]" if token[0] == "." else token[0], pattern)


def around_group(answer: str, inside: str) -> str:
    """The expression `answer` with `inside` in the place of its group.

    All of it where there is no expression.
    """
    if not answer:
        return inside
    start, end = group_span(answer)
    return answer[:start] + inside + answer[end:]


def group_span(pattern: str) -> tuple[int, int]:
    """Where the one capturing group of a regular expression starts and ends."""
    open_groups = []
    for token in TOKEN.finditer(pattern):
        if token[0].startswith("("):
            open_groups.append(None if token[0].startswith("(?") else token.start())
        elif token[0] == ")" and open_groups:
            start = open_groups.pop()
            if start is not None:
                return start, token.end()
    raise ValueError(f"{pattern}: no group")


def written_shapes(answer: str) -> list[str]:
    """Examples of what the guard lets through, the shortest first.

    Each has LABEL where a label stands. Each repetition, alternative and kind of character is
    shown at least once, one at a time. Empty where that cannot be told, as of a look-ahead,
    which the guard refuses anyway.
    """
    try:
        texts = texts_of(_parser.parse(around_group(answer, f"({LABEL})")))
    except (CannotTell, re.error):
        return []
    shapes = [text for text in texts if LABEL in text]
    # the guard's own start, two empty lines at most
    return [*shapes[:1], *(f"\n\n{shape}" for shape in shapes)]


class CannotTell(Exception):
    """A part of an expression of which no example can be given by itself."""


def texts_of(parts) -> list[str]:
    """Examples of a sequence of parts.

    The first example of each, and then one part at a time in its other ones.
    """
    options = [texts_of_part(operation, argument) for operation, argument in parts]
    first = [texts[0] for texts in options]
    found = ["".join(first)]
    for place, texts in enumerate(options):
        for text in texts[1:]:
            found.append("".join([*first[:place], text, *first[place + 1 :]]))
    return found


def texts_of_part(operation, argument) -> list[str]:
    """Examples of one part of an expression as the guard reads it; raises CannotTell."""
    if operation is part.LITERAL:
        return [chr(argument)]
    if operation is part.ANY:
        return list(SEPARATORS.replace("\n", ""))
    if operation is part.NOT_LITERAL:
        return [kind for kind in SEPARATORS if kind != chr(argument)]
    if operation is part.IN:
        return texts_of_class(argument)
    if operation is part.BRANCH:
        _, alternatives = argument
        return [text for alternative in alternatives for text in texts_of(alternative)]
    if operation is part.SUBPATTERN:
        return texts_of(argument[-1])
    if operation in (part.MAX_REPEAT, part.MIN_REPEAT):
        return texts_of_repeat(*argument)
    if operation is part.AT:
        return [SPELT.get(argument, "")]
    raise CannotTell


# what the guard writes for the start and the end of a text, \A and \Z, which it does not know
SPELT = {part.AT_BEGINNING_STRING: "A", part.AT_END_STRING: "Z"}


def texts_of_repeat(least: int, most: int, repeated) -> list[str]:
    """Examples of a repetition: as often as it must be, and once more."""
    texts = texts_of(repeated)
    if least == 0:
        return ["", *texts]
    found = [texts[0] * (least - 1) + text for text in texts]
    if most > least:
        found.append(texts[0] * (least + 1))
    return found


def texts_of_class(items) -> list[str]:
    """Examples of a character class.

    What it names, or else one character of each kind that it takes.
    """
    named = [chr(value) for operation, value in items if operation is part.LITERAL]
    named += [chr(value[0]) for operation, value in items if operation is part.RANGE]
    negated = items[0][0] is part.NEGATE
    found = [] if negated else named
    for kinds in (SEPARATORS, IN_WORDS):
        if not found:
            found = [kind for kind in kinds if in_class(kind, items) != negated]
    if not found:
        raise CannotTell
    return found


def in_class(character: str, items) -> bool:
    """Whether one of the items of a character class takes a character of ASCII."""
    for operation, value in items:
        if operation is part.LITERAL and character == chr(value):
            return True
        if operation is part.RANGE and value[0] <= ord(character) <= value[1]:
            return True
        if operation is part.CATEGORY and re.fullmatch(CATEGORIES[value], character):
            return True
    return False


CATEGORIES = {
    part.CATEGORY_DIGIT: r"\d",
    part.CATEGORY_NOT_DIGIT: r"\D",
    part.CATEGORY_SPACE: r"\s",
    part.CATEGORY_NOT_SPACE: r"\S",
    part.CATEGORY_WORD: r"\w",
    part.CATEGORY_NOT_WORD: r"\W",
}
