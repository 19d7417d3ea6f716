"""What a server means by refusing a request, read from openai's APIStatusError."""

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# parameters that every request has, or every retry
SENT = ("model", "temperature", "max_tokens", "max_completion_tokens", "response_format")
# What servers say of a request that is longer than their context, which has no code of its own.
LONGER = re.compile(r"context.{0,20}(length|window|size)|maximum.{0,20}context|prompt is too long")
# of such a message: the context, and the prompt's part of what was asked for
IN_THE_PROMPT = re.compile(r"context length is (\d+).*?(\d+) in the (?:messages|prompt)", re.DOTALL)
OUT_OF_QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")


def message_of(error) -> str:
    """What a server says of a request that it refuses, as one text."""
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)


def is_out_of_quota(error) -> bool:
    """Whether a refusal is one that does not go away by waiting, and is no row's fault."""
    body = error.body if isinstance(error.body, dict) else {}
    return bool({str(body.get("code")), str(body.get("type"))} & set(OUT_OF_QUOTA))


def parameter_of(error) -> str | None:
    """Which parameter of a request a server does not take, if it says so."""
    body = error.body if isinstance(error.body, dict) else {}
    found = body.get("param")
    return found if isinstance(found, str) else None


def refuses_logprobs(error) -> bool:
    """Whether a server gives no log-probabilities, as of models that keep them secret."""
    if error.status_code not in (400, 403, 422):
        return False
    return "logprobs" in (parameter_of(error) or message_of(error))


def is_too_long(error) -> bool:
    """Whether a row is longer than the context.

    Servers count the tokens that were asked for too. Where the prompt alone would fit, no row
    would, so that it is not the row's fault.
    """
    said = message_of(error)
    if not LONGER.search(said.lower()):
        return False
    counted = IN_THE_PROMPT.search(said)
    return not counted or int(counted[2]) >= int(counted[1])


def seconds_asked_for(headers) -> float | None:
    """How long a server wants to be left alone; None where it does not say.

    It says it in seconds, or as the time at which it may be asked again; some vendors have a header
    of their own, in milliseconds, which is finer.
    """
    milliseconds = number_of(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    said = headers.get("retry-after")
    seconds = number_of(said)
    if seconds is None:
        again = date_of(said)
        if again is None:
            return None
        # by the server's clock, which may differ from ours
        now = date_of(headers.get("date")) or datetime.now(UTC)
        seconds = (again - now).total_seconds()
    return max(0.0, seconds)


def number_of(text: str | None) -> float | None:
    """A header's number; None for what is none."""
    try:
        found = float(text or "")
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def date_of(text: str | None) -> datetime | None:
    """A header's date; None for what is none. HTTP has no other time zone than UTC."""
    try:
        found = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
