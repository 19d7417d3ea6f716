"""Inputs whose turns a chat template does not show as they are, counted before an engine starts.

No torch, no vLLM.

Some templates write the system message into the last turn, so that a chat of several turns has the
prompt behind its first ones; some refuse two turns of one role. A row like that is rejected when it
is asked, which would be late news.
"""

from collections import Counter
from dataclasses import dataclass

from distill.templates import TemplateProblem, check_roles

REMEDY = (
    "drop them, write each as one message, or pass a tokenizer with another template (--tokenizer)"
)


@dataclass(frozen=True)
class UnfitRows:
    """How many of the rows a template does not show.

    And what it does to the most frequent kind of them.
    """

    count: int
    of: int
    does: str


def roles_of(messages: list[dict]) -> tuple[str, ...]:
    """The roles of a chat, which decide whether a template shows it."""
    return tuple(message["role"] for message in messages)


def find_unfit_rows(tokenizer, roles: Counter, prompted: bool) -> UnfitRows:
    """Count the rows that the tokenizer's template does not show.

    `roles` counts the rows by roles_of(). `prompted` says that they follow the task's prompt, a
    system message.
    """
    template = str(tokenizer.chat_template)
    count = 0
    does = ""
    for row, times in roles.most_common():
        chat = ("system", *row) if prompted else row
        try:
            check_roles(tokenizer, template, chat)
        except TemplateProblem as problem:
            count += times
            does = does or f"{problem} in a chat of {', '.join(chat)}"
    return UnfitRows(count, roles.total(), does)


def describe_unfit_rows(model: str, unfit: UnfitRows, fate: str) -> str:
    """One line about the rows that a template does not show; `fate` is what becomes of them.

    Empty if there are none. Raises ValueError with the line if no row is left.
    """
    if not unfit.count:
        return ""
    if unfit.count == unfit.of:
        raise ValueError(
            f"{model}: its chat template {unfit.does}; "
            f"none of the {unfit.of} rows can be asked; {REMEDY}"
        )
    rows = f"{unfit.count} of {unfit.of} rows"
    return f"{model}: its chat template {unfit.does}; {rows} cannot be asked and {fate}; {REMEDY}"
