"""The log-probabilities of an answer's tokens in a server's reply, where all of them are there.

The end of turn has to be among them: without it an answer is the beginning of many, and its
probability would be theirs together. vLLM's server has it there, many others leave it out.
"""

UNKNOWN = -9999.0  # what servers write for a token whose log-probability they do not know


def of_chat(logprobs: dict, token_ids: object, content: str) -> list[float] | None:
    """Those in a reply of /chat/completions, in nats; None where one is missing.

    `logprobs` are those of its choice, `token_ids` what vLLM's server gives beside them, and
    `content` is the answer.
    """
    places = logprobs.get("content")
    if not isinstance(places, list) or not places:
        return None
    if not all(isinstance(place, dict) for place in places):
        return None
    if isinstance(token_ids, list):
        is_whole = len(places) == len(token_ids)
    else:
        is_whole = ends_beyond(places, content)
    return numbers_of([place.get("logprob") for place in places]) if is_whole else None


def of_text(logprobs: dict, token_ids: list[int]) -> list[float] | None:
    """The same of a reply of vLLM's /completions, whose `token_ids` hold the end of turn."""
    values = logprobs.get("token_logprobs")
    if not isinstance(values, list) or len(values) != len(token_ids):
        return None
    return numbers_of(values)


def ends_beyond(places: list[dict], content: str) -> bool:
    """Whether there is one token more than the answer has, which is then its end of turn."""
    spelled = b""
    for place in places[:-1]:
        part = bytes_of(place)
        if part is None:
            return False
        spelled += part
    return spelled == content.encode("utf-8", "surrogatepass")


def bytes_of(place: dict) -> bytes | None:
    """What a token spells, a part of a character too; None where the server does not say it."""
    given = place.get("bytes")
    if given is None:
        token = place.get("token")
        return token.encode("utf-8", "surrogatepass") if isinstance(token, str) else None
    try:
        return bytes(given)
    except (TypeError, ValueError):
        return None


def numbers_of(values: list) -> list[float] | None:
    """Log-probabilities; None if one of them is none."""
    found = []
    for value in values:
        # NaN is not above it either
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > UNKNOWN:
            return None
        found.append(float(value))
    return found
