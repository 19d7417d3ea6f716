"""What a server of the OpenAI protocol has answered, read as a completion.

Servers differ in where a thought stands: vLLM's has it beside the answer as `reasoning`, older ones
and some vendors as `reasoning_content`, others in the answer itself up to </think>, and some keep
it for themselves and only count its tokens.
"""

import math
from collections.abc import Callable

from distill.teacher.base import Completion
from distill.teacher.server_logprobs import of_chat, of_text
from distill.tokens import THINK_END

# What servers call an end that came too early, and what it is to us. What else they may say, such
# as stop, is an end of its own accord.
CUT = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "repetition": "repetition",
}
# Such a request may go well later.
FAILED = ("abort", "error", "insufficient_system_resource")
REFUSED = "content_filter"


class BadReply(ValueError):
    """A reply that is not what the protocol says, such as half of one."""


def read_chat(body: object, thinks: bool) -> Completion:
    """The completion in a reply of /chat/completions, of which only the first choice counts.

    `thinks`: the teacher does, so that an answer follows its thought. Raises BadReply.
    """
    choice = first_choice(body)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise BadReply("its choice has no message")
    thought = message.get("reasoning") or message.get("reasoning_content") or ""
    content = text_of(message.get("content"))
    usage = dict_at(body, "usage")
    hidden = number_at(dict_at(usage, "completion_tokens_details"), "reasoning_tokens")
    text = content
    if thinks and isinstance(thought, str) and thought:
        # without an answer nobody says whether the thought came to its end
        text = thought + THINK_END + content if content else thought
    elif thinks and content and hidden is not None and THINK_END not in content:
        text = THINK_END + content
    found = completion(choice, text, usage, body)
    found.thinking_tokens = hidden if thinks else None
    logprobs = dict_at(choice, "logprobs")
    found.chosen_logprobs = of_chat(logprobs, choice.get("token_ids"), content)
    return found


def read_text(body: object, spell: Callable[[list[int], str], str]) -> Completion:
    """The completion in a reply of vLLM's /completions, which was asked for token ids.

    `spell` gives their text, of a completion with this finish reason. Raises BadReply.
    """
    choice = first_choice(body)
    token_ids = choice.get("token_ids")
    if not isinstance(token_ids, list):
        raise BadReply("its choice has no token ids")
    text = spell(token_ids, finish_reason_of(choice))
    found = completion(choice, text, dict_at(body, "usage"), body)
    found.token_ids = token_ids
    found.chosen_logprobs = of_text(dict_at(choice, "logprobs"), token_ids)
    return found


def chat_logprobs(choice: dict) -> list[float] | None:
    """The log-probability of each token of a chat's answer; None where they are not all there."""
    places = dict_at(choice, "logprobs").get("content")
    if not isinstance(places, list):
        return None
    return numbers_of([place.get("logprob") for place in places if isinstance(place, dict)])


def numbers_of(values: object) -> list[float] | None:
    """A list of numbers; None for anything else."""
    if not isinstance(values, list):
        return None
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
            return None
    return [float(value) for value in values]


def completion(choice: dict, text: str, usage: dict, body: dict) -> Completion:
    """What a choice and the usage of its reply say."""
    problem = "refused" if said_reason(choice) == REFUSED else None
    cached = number_at(dict_at(usage, "prompt_tokens_details"), "cached_tokens")
    served_by = body.get("model")
    return Completion(
        text=text,
        finish_reason=finish_reason_of(choice),
        token_ids=[],
        cached_tokens=cached or 0,
        prompt_tokens=number_at(usage, "prompt_tokens"),
        counted_tokens=number_at(usage, "completion_tokens"),
        served_by=served_by if isinstance(served_by, str) else None,
        problem=problem,
        from_server=True,
    )


def first_choice(body: object) -> dict:
    """The first choice of a reply. Raises BadReply."""
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadReply("it has no choices")
    if said_reason(choices[0]) in FAILED:  # the server was stopped meanwhile, for example
        raise BadReply(f"it ended for {said_reason(choices[0])}")
    return choices[0]


def finish_reason_of(choice: dict) -> str:
    """Why a completion ended: length, repetition, or stop."""
    return CUT.get(said_reason(choice), "stop")


def said_reason(choice: dict) -> str:
    """Why a completion ended, in the server's word."""
    return str(choice.get("finish_reason"))


def text_of(content: object) -> str:
    """The text of a message, which some servers give in parts."""
    if isinstance(content, str):
        return content
    parts = []
    if isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                parts.append(part["text"])
    return "".join(parts)


def dict_at(value: object, key: str) -> dict:
    """What a dictionary holds under a key, if that is one too; else an empty one."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def number_at(value: dict, key: str) -> int | None:
    """A whole number in a dictionary; None where there is none."""
    found = value.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) else None
