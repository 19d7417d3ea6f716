"""What a client asks, read from the body of POST /v1/chat/completions.

Nothing is left out without a word: a parameter that would change the answer, and is not honoured,
is refused. Pure Python.
"""

import json
from dataclasses import dataclass

from distill.cascade.refused import Refused
from distill.columns import check_unicode
from distill.teacher.reply import text_of

READ = ("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens")
# Of no effect where the likeliest token is taken, or only a word about the request.
WITHOUT_EFFECT = (
    "user",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
)
# Values that say what is done anyway; null says the same of all parameters.
AS_IT_IS = {
    "n": (1,),
    "temperature": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "stop": ([],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
# Of a message; the others of an assistant's, as a reply has them, are null or empty.
READ_OF_MESSAGE = ("role", "content")
WITHOUT_EFFECT_OF_MESSAGE = ("name", "reasoning", "reasoning_content")
REMEDIES = {
    "temperature": "answers are greedy; leave it out, or send 0",
    "n": "there is one answer; leave it out, or send 1",
    "response_format": "the form of an answer is the task's; leave it out",
}


@dataclass(frozen=True)
class Limits:
    """What a request may be at most, and who may write a system message."""

    max_body_bytes: int
    max_messages: int
    max_input_tokens: int  # of the student's prompt; 0: what its context takes
    allow_system: bool  # the training rows had system messages, so that clients' are input


@dataclass(frozen=True)
class Asked:
    """One request, checked."""

    messages: list[dict]  # role and content, a text
    max_tokens: int | None  # of the answer; None: as many as the student has
    stream: bool = False
    include_usage: bool = False  # at the end of a stream


def read_asked(raw: bytes, served_name: str, limits: Limits) -> Asked:
    """The request in a body; `served_name` is the model that is served. Raises Refused."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON ({error})", code="invalid_json") from None
    if not isinstance(body, dict):
        raise Refused(400, "the body must be one JSON object", code="invalid_json")
    check_parameters(body)
    model = body.get("model")
    if not isinstance(model, str):
        raise Refused(400, "'model' must name the model", "model")
    if model != served_name:
        raise not_served(model, served_name)
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise Refused(400, "'stream_options' must be an object", "stream_options")
    return Asked(
        messages=read_messages(body.get("messages"), limits),
        max_tokens=read_max_tokens(body),
        stream=read_switch(body, "stream"),
        include_usage=read_switch(options, "include_usage"),
    )


def not_served(model: str, served_name: str) -> Refused:
    """The refusal of another model's name."""
    said = f"the model {model!r} is not served here, but {served_name!r} is"
    return Refused(404, said, "model", "model_not_found")


def check_parameters(body: dict) -> None:
    """Refuse what would change the answer and is not honoured. Raises Refused."""
    for name, value in body.items():
        if name in READ or name in WITHOUT_EFFECT or value is None:
            continue
        if name in AS_IT_IS and is_one_of(value, AS_IT_IS[name]):
            continue
        remedy = REMEDIES.get(name, "leave it out")
        said = f"{name!r} is not supported here with this value: {remedy}"
        raise Refused(400, said, name, "unsupported_parameter")


def is_one_of(value: object, allowed: tuple) -> bool:
    """Whether a value is among those; true and false are no numbers."""
    for other in allowed:
        if value == other and isinstance(value, bool) == isinstance(other, bool):
            return True
    return False


def read_switch(body: dict, name: str) -> bool:
    """A parameter that is true or false; missing and null are false. Raises Refused."""
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise Refused(400, f"{name!r} must be true or false", name)
    return value


def read_max_tokens(body: dict) -> int | None:
    """The client's limit of an answer's tokens, of both names the smaller. Raises Refused."""
    found = []
    for name in ("max_tokens", "max_completion_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Refused(400, f"{name!r} must be a whole number, at least 1", name)
        found.append(value)
    return min(found, default=None)


def read_messages(messages: object, limits: Limits) -> list[dict]:
    """The messages, each a role and a text; the last one is a user's. Raises Refused."""
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "'messages' must be a list that is not empty", "messages")
    if len(messages) > limits.max_messages:
        said = f"{len(messages)} messages are more than the {limits.max_messages} that are read"
        raise Refused(400, said, "messages")
    found = []
    for number, message in enumerate(messages):
        found.append(read_message(message, f"messages.[{number}]", limits.allow_system))
    last = found[-1]
    if last["role"] != "user" or not last["content"].strip():
        raise Refused(400, "the last message must be the user's and not empty", "messages")
    return found


def read_message(message: object, where: str, allow_system: bool) -> dict:
    """One message. Raises Refused that names `where` it stands."""
    if not isinstance(message, dict):
        raise Refused(400, f"{where} must be an object", where)
    check_keys(message, where)
    role = message.get("role")
    if role in ("system", "developer"):
        if not allow_system:
            said = (
                f"{where}: the student was trained without system messages, and the task's prompt "
                "is the teacher's alone; leave it out"
            )
            raise Refused(400, said, f"{where}.role", "unsupported_value")
        role = "system"
    if role not in ("system", "user", "assistant"):
        raise Refused(400, f"{where}: the role must be user or assistant", f"{where}.role")
    content = message.get("content")
    if not is_text(content):
        said = f"{where}: the content must be text, or a list of parts that are text"
        raise Refused(400, said, f"{where}.content")
    text = text_of(content)
    try:
        check_unicode(text, where)
    except ValueError as error:
        raise Refused(400, str(error), f"{where}.content") from None
    return {"role": role, "content": text}


def check_keys(message: dict, where: str) -> None:
    """Refuse what of a message the student cannot be shown, such as calls of tools."""
    for name, value in message.items():
        if name in READ_OF_MESSAGE or name in WITHOUT_EFFECT_OF_MESSAGE or value in (None, []):
            continue
        said = f"{where}: {name!r} is not supported here: leave it out"
        raise Refused(400, said, f"{where}.{name}", "unsupported_parameter")


def is_text(content: object) -> bool:
    """Whether a message's content is text, whole or in parts."""
    if isinstance(content, str):
        return True
    if not isinstance(content, list) or not content:
        return False
    return all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    )
