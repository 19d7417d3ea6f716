"""What a chat template does with the messages it is given. No torch.

It may drop, move, repeat or refuse them.
"""

from datetime import datetime
from functools import lru_cache

from distill.cli import on_one_line

SWITCHES = ["/no_think", "/think"]
REFUSED = "refused_by_template"
GARBLED = "garbled_by_template"
FIRST_DATE = datetime(2001, 2, 3, 4, 5, 6)
SECOND_DATE = datetime(2012, 11, 20, 18, 30, 40)  # nothing of it is as in the first one


class TemplateProblem(ValueError):
    """A chat template refuses a chat, or does not show its messages as they are.

    `reason` is REFUSED or GARBLED; the message is what follows "the chat template".
    """

    def __init__(self, reason: str, does: str):
        super().__init__(reason, does)  # as it is sent from one process to another
        self.reason = reason
        self.does = does

    def __str__(self):
        return self.does


def render(tokenizer, messages: list[dict], add_generation_prompt: bool = True, **variables) -> str:
    """The text that the tokenizer's chat template makes of a chat.

    Raises TemplateProblem if it refuses.
    """
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, **variables
        )
    except Exception as error:
        # jinja's errors, and Python's where a template adds a text to nothing
        said = on_one_line(error)
        raise TemplateProblem(REFUSED, f"refuses the chat ({said})") from error


def check_shown(tokenizer, messages: list[dict], text: str) -> None:
    """Raise TemplateProblem unless `text`, the rendered chat, shows each message in its place.

    White space around a message, the case of its letters and switches for thinking do not count.
    """
    template = str(tokenizer.chat_template)  # tests, and some users, give a tokenizer another one
    check_roles(tokenizer, template, tuple(message["role"] for message in messages))
    contents = [message["content"].strip() for message in messages]
    if in_order(contents, text):
        return
    if in_order([plain(content) for content in contents], plain(text)):
        return
    raise TemplateProblem(GARBLED, "changes the text of a message")


def plain(text: str) -> str:
    """A text without what templates may change.

    That is the case of letters, and switches for thinking that they take out.
    """
    text = text.casefold()
    for switch in SWITCHES:
        text = text.replace(switch, "")
    return text.strip()


def in_order(contents: list[str], text: str) -> bool:
    """Whether the contents are in the text, one after the other."""
    place = 0
    for content in contents:
        found = text.find(content, place)
        if found < 0:
            return False
        place = found + len(content)
    return True


@lru_cache(maxsize=256)
def check_roles(tokenizer, template: str, roles: tuple[str, ...]) -> None:
    """Refuse a template that does not show each message exactly once and in order.

    `roles` are those of a chat's messages. Raises TemplateProblem. It is tried on texts that
    occur nowhere else, once for each sequence of roles.
    """
    messages = []
    for number, role in enumerate(roles, 1):
        messages.append({"role": role, "content": f"probe {number} of {len(roles)}: zyx"})
    text = render(tokenizer, messages).casefold()
    places = []
    for message in messages:
        count = text.count(message["content"])
        if count == 0:
            raise TemplateProblem(GARBLED, f"drops the {message['role']} message")
        if count > 1:
            raise TemplateProblem(GARBLED, f"repeats the {message['role']} message")
        places.append(text.index(message["content"]))
    if places != sorted(places):
        raise TemplateProblem(GARBLED, "puts the messages in another order")


def depends_on_date(tokenizer, messages: list[dict]) -> bool:
    """Whether the template writes the day, so that the same chat has other tokens tomorrow."""
    texts = [
        render(tokenizer, messages, strftime_now=FIRST_DATE.strftime),
        render(tokenizer, messages, strftime_now=SECOND_DATE.strftime),
    ]
    return texts[0] != texts[1]
