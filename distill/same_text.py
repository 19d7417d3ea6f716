"""When two texts are the same answer, whoever typed them.

They are compared in one form of Unicode, without what stands around them.
"""

import unicodedata

# what models like to put around a label
MARKUP = " \t\r\n*_`\"'“”.,;:!()[]{}<>$\\"
# full stops and commas of other scripts: Chinese, Arabic, Urdu, Hindi
STOPS = "。、｡､،؛۔।॥"
# spaces, control and format characters (most are invisible), and quotes and brackets of all scripts
AROUND = {"Zs", "Zl", "Zp", "Cc", "Cf", "Pi", "Pf", "Ps", "Pe"}
ASCII = set(map(chr, range(128)))


def is_typographic(character: str) -> bool:
    """Whether a character is invisible, or a quote, a bracket or a stop of typography.

    The wide form of markup counts too.
    """
    if character in STOPS or unicodedata.category(character) in AROUND:
        return True
    narrow = unicodedata.normalize("NFKC", character)  # an ellipsis is three full stops
    return narrow != character and all(part in MARKUP for part in narrow)


def typographic() -> str:
    """All such characters of Unicode's first plane, where the scripts are.

    ASCII's are left out, which code may begin with.
    """
    plane = map(chr, range(128, 0x10000))
    return "".join(character for character in plane if is_typographic(character))


WHITESPACE = "".join(character for character in sorted(ASCII) if character.isspace())
TYPOGRAPHIC = WHITESPACE + typographic()
OUTER = MARKUP + TYPOGRAPHIC


def comparable(text: str) -> str:
    """The form in which free texts are compared.

    That is NFC, without white space and typographic characters around it.
    """
    composed = unicodedata.normalize("NFC", text)
    return composed.strip(TYPOGRAPHIC) or composed.strip()


def bare(text: str) -> str:
    """A text in NFC without what models and people put around a label.

    Empty if there is nothing else.
    """
    return unicodedata.normalize("NFC", text).strip(OUTER)


def folded(label: str) -> str:
    """The form in which labels are compared, without regard to case.

    One that is all punctuation stays as it is.
    """
    kept = bare(label) or unicodedata.normalize("NFC", label).strip()
    # folding case may leave what is not composed
    return unicodedata.normalize("NFC", kept.casefold())
