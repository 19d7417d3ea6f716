"""How sure a model was of an answer: the probability that it gave to what it wrote.

That is the product over all tokens of the answer and its end of turn, from the log-probabilities of
the chosen tokens. They must be the model's own: raw ones, without temperature or penalties, of a
request that nothing guarded, since a guard changes them before they are reported. No torch, no
vLLM.
"""

import math

from distill.teacher.base import Completion

# For Sampling.logprobs: report the chosen token alone, in the pass that writes it.
CHOSEN_TOKEN = 0
NOT_ALL = "the log-probabilities of an answer's tokens are not all there"


def log_confidence(completion: Completion) -> float | None:
    """The natural logarithm of a whole answer's probability, 0 or below.

    None for an answer that was cut or ended for a loop: without its end of turn it is a part of
    many answers, and its probability would be theirs together. None too where a server does not
    report each token. An engine of ours does where Sampling.logprobs asks for it: ValueError is
    raised where it has not.
    """
    if completion.finish_reason != "stop":
        return None
    if not completion.from_server:
        chosen = of_chosen_tokens(completion)
    elif completion.chosen_logprobs is not None:
        chosen = completion.chosen_logprobs
    else:
        return None
    return min(sum(chosen, start=0.0), 0.0)  # rounding may leave a trace above it


def of_chosen_tokens(completion: Completion) -> list[float]:
    """The log-probability of each token that was written, as an engine reports them.

    Raises ValueError where one is not there.
    """
    places = completion.logprobs
    if places is None or len(places) != len(completion.token_ids):
        raise ValueError(NOT_ALL)
    chosen = []
    for token, place in zip(completion.token_ids, places, strict=True):
        if token not in place:
            raise ValueError(f"the log-probability of the chosen token {token} is not there")
        chosen.append(place[token])
    return chosen


def confidence(log_probability: float | None) -> float | None:
    """The probability, from 0 to 1, that belongs to log_confidence(); None stays None."""
    if log_probability is None:
        return None
    return math.exp(log_probability)
