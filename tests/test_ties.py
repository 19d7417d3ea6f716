"""Rows that rounding decides: which they are, and how the report names them. No model."""

from types import SimpleNamespace

from test_adapter import byte_tokenizer
from ties import LEAST, NAMED, TIE, closest_place, find_ties, ties_sentence, width

A, B, C = byte_tokenizer().convert_tokens_to_ids(["a", "b", "c"])


def places(*pairs):
    """vLLM's logits of the tokens a and b at each place of an answer."""
    return [{A: SimpleNamespace(logprob=best), B: SimpleNamespace(logprob=second)} for best, second in pairs]


def test_how_close_two_logits_are_a_tie():
    assert width(20.0, "bfloat16", 4) == width(-20.0, "bfloat16", 4) == 0.5
    assert width(3.0, "bfloat16", 4) == 0.0625 and width(0.01, "bfloat16", 4) == 0.03125
    assert width(100.0, "bfloat16", 4) == TIE["bfloat16"]  # no more than the check with PEFT lets pass
    assert width(20.0, "float16", 4) == 0.0625
    assert width(20.0, "float32", 4) == LEAST
    assert width(20.0, "bfloat16", 0) == 0.0


def test_the_closest_place_is_found():
    place = closest_place([7, 8], places((20.0, 3.0), (18.5, 18.0)), "bfloat16", 4)
    assert (place.before, place.best, place.second, place.apart, place.within) == ([7], A, B, 0.5, 0.5)
    place = closest_place([7, 8], places((3.0, 2.8), (18.5, 18.1)), "bfloat16", 4)
    assert place.before == [7]  # 0.4 apart, but there 0.5 is rounding
    equal = closest_place([7], places((2.0, 2.0)), "bfloat16", 0)
    assert (equal.best, equal.second, equal.apart, equal.within) == (A, B, 0.0, 0.0)


class Answered:
    """A Stream whose answers are given: (tokens, logits) for each row."""

    tokenizer = byte_tokenizer()

    def __init__(self, given):
        self.given = given

    def run(self, requests):
        for row, _, sampling in reversed(requests):
            assert sampling == {"max_tokens": 2, "logprobs": 2}
            tokens, logits = self.given[row]
            completion = SimpleNamespace(token_ids=tokens, logprobs=logits)
            yield row, SimpleNamespace(outputs=[completion])


def test_tied_rows_are_counted_with_their_two_answers():
    given = {
        0: ([A, C], places((3.0, 1.0), (9.0, 1.0))),
        2: ([A, C], places((3.0, 2.96875), (9.0, 1.0))),
        3: ([C, A], places((9.0, 1.0), (3.0, 3.0))),
        5: ([A, C], places((3.0, 1.0), (9.0, 1.0))),
    }
    requests = [(row, [0], {"max_tokens": 2}) for row in given]
    answers = {0: [A, C], 2: [A, C], 3: [C, A], 5: [B, C]}  # row 5 had another answer the first time
    ties = find_ties(Answered(given), requests, answers, "bfloat16")
    assert (ties["rows"], ties["of"], ties["apart"]) == ([2, 3, 5], 4, [0.03125, 0.0, 2.0])
    assert ties["answers"] == [["ac", "b..."], ["ca", "cb..."], ["bc", "ac"]]
    assert find_ties(Answered(given), requests, answers, "bfloat16", roundings=0)["rows"] == [3, 5]
    said = ties_sentence(ties)
    assert said.startswith("On 3 of 4 rows ")
    assert said.endswith(" (rows 4: 'ca' or 'cb...', 3: 'ac' or 'b...', 6: 'bc' or 'ac').")


def test_ties_are_named():
    old = {"rows": [2, 16], "of": 40, "within": 0.5, "dtype": "bfloat16"}  # as an older evaluate.py kept them
    assert ties_sentence(old).startswith("On 2 of 40 rows ") and ties_sentence(old).endswith("(rows 3, 17).")
    assert ties_sentence(old | {"rows": list(range(NAMED + 5))}).endswith(f" {NAMED} and 5 more).")
    assert ties_sentence(None) == ties_sentence(old | {"rows": []}) == ""
