"""Answers that rounding decides: where a model's two best tokens are nearly equal, another batch may take the other."""

from dataclasses import asdict, dataclass

# How far below the best token another one may be, in nats: two ways of adding up differ by so much.
TIE = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
NAMED = 10  # rows that the report names


@dataclass(frozen=True)
class Ties:
    """The rows of one system on which a tie decides a token."""

    rows: list[int]  # indexes
    of: int  # rows that were looked at
    within: float  # nats
    dtype: str


def is_tie(logprobs: list[dict], within: float) -> bool:
    """Whether two tokens are that close, at any place of an answer; `logprobs` are vLLM's, two for each place."""
    for place in logprobs:
        second, best = sorted(token.logprob for token in place.values())[-2:]
        if best - second <= within:
            return True
    return False


def find_ties(stream, requests: list[tuple], answers: dict[int, list[int]], dtype: str, within: float) -> dict:
    """Ask the rows of `requests`, Stream.add()'s arguments, once more; which of them hold a tie, as Ties in a dict.

    `answers` are the tokens that they got the first time: a row that now gets others is one too. `within` is how close
    two tokens must be, in nats.
    """
    again = []
    for row, ids, sampling, *lora in requests:
        again.append((row, ids, {**sampling, "logprobs": 2}, *lora))
    rows = []
    for row, output in stream.run(again):
        completion = output.outputs[0]
        if list(completion.token_ids) != answers[row] or is_tie(completion.logprobs, within):
            rows.append(row)
    return asdict(Ties(sorted(rows), len(again), within, dtype))


def ties_sentence(ties: dict | None) -> str:
    """What the report says of them; empty if there are none."""
    if not ties or not ties["rows"]:
        return ""
    named = ", ".join(str(row + 1) for row in ties["rows"][:NAMED])
    further = len(ties["rows"]) - NAMED
    more = f" and {further} more" if further > 0 else ""
    if not ties["within"]:
        near = "give other tokens when they are asked again, or have two tokens that are exactly as good"
        return f"{len(ties['rows'])} of {ties['of']} rows of the distilled student {near} (rows {named}{more})."
    rows = "row" if len(ties["rows"]) == 1 else "rows"
    return (
        f"On {len(ties['rows'])} of {ties['of']} rows the distilled student's two best tokens are within "
        f"{ties['within']:g} in log-probability somewhere in the answer ({ties['dtype']}): there LoRA, a merged copy "
        f"or another batch may answer otherwise ({rows} {named}{more})."
    )
