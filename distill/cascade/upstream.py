"""One question to one of the two servers, and what became of it."""

from distill.teacher.base import Completion, Prompt, Sampling
from distill.teacher.exchange import Exchange
from distill.teacher.refusals import is_too_long, message_of, seconds_asked_for
from distill.teacher.reply import BadReply
from distill.teacher.server import reason_of

# why a server has given no answer
TIMEOUT = "timeout"
UNREACHABLE = "unreachable"
BUSY = "busy"
TOO_LONG = "input_too_long"
REFUSED = "refused"
UNREADABLE = "unreadable"
LONGEST = 300  # characters of what a server says


class UpstreamFailed(Exception):
    """A server has not answered: `reason` is one of those above, and the message what it said.

    `asked_for` is for how many seconds it wants to be left alone, where it has said so.
    """

    def __init__(self, reason: str, said: str, asked_for: float | None = None):
        super().__init__(said)
        self.reason = reason
        self.asked_for = asked_for


async def ask_upstream(exchange: Exchange, prompt: Prompt, sampling: Sampling) -> Completion:
    """One completion. Raises UpstreamFailed.

    A server may have closed a connection that was kept, so a connection that fails is tried once
    more, on a new one.
    """
    import openai

    tried = False
    while True:
        sent_as = exchange.settings_sent()
        try:
            return await exchange.ask(prompt, sampling)
        except openai.APITimeoutError:
            raise UpstreamFailed(TIMEOUT, "no answer in time") from None
        except openai.APIConnectionError as error:
            if tried:
                raise UpstreamFailed(UNREACHABLE, exchange.without_key(reason_of(error))) from None
            tried = True
        except openai.APIStatusError as error:
            if exchange.learned_from(error, sent_as):
                continue
            raise failed_with(exchange, error) from None
        except BadReply as error:
            raise UpstreamFailed(UNREADABLE, str(error)) from None
        except ValueError as error:  # no JSON
            raise UpstreamFailed(UNREADABLE, f"no JSON ({error})") from None


def failed_with(exchange: Exchange, error) -> UpstreamFailed:
    """What a status of a server means, from openai's APIStatusError."""
    status = error.status_code
    said = f"{status}: {exchange.without_key(message_of(error))[:LONGEST]}"
    asked_for = seconds_asked_for(error.response.headers)
    if status == 413 or status in (400, 422) and is_too_long(error):
        return UpstreamFailed(TOO_LONG, said)
    if status == 429 or status == 503 and asked_for is not None:
        return UpstreamFailed(BUSY, said, asked_for)
    if status in (502, 503, 504):
        return UpstreamFailed(UNREACHABLE, said)
    return UpstreamFailed(REFUSED, said)
