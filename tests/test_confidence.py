"""How sure a model was of an answer, from the log-probabilities of its tokens. No model."""

import math

import pytest

from distill.confidence import confidence, log_confidence
from distill.teacher.base import Completion

EOS = 9


def completion(*places, finish_reason="stop"):
    """One whose tokens had these (token, log-probability), the end of turn included."""
    tokens = [token for token, _ in places]
    logprobs = [{token: value} for token, value in places]
    return Completion("", finish_reason, tokens, logprobs=logprobs)


def test_it_is_the_product_over_all_tokens_and_the_end_of_turn():
    answer = completion((1, math.log(0.5)), (2, math.log(0.8)), (EOS, math.log(0.9)))
    assert confidence(log_confidence(answer)) == pytest.approx(0.5 * 0.8 * 0.9)
    # an end of turn that was in doubt counts as much as a word
    assert confidence(log_confidence(completion((1, 0.0), (EOS, math.log(0.1))))) == (
        pytest.approx(0.1)
    )


def test_other_tokens_that_are_reported_do_not_count():
    answer = completion((1, math.log(0.3)), (EOS, 0.0))
    answer.logprobs[0][4] = math.log(0.6)  # the likelier one, as sampling may have it
    assert confidence(log_confidence(answer)) == pytest.approx(0.3)


@pytest.mark.parametrize("reason", ["length", "repetition"])
def test_a_cut_answer_has_none(reason):
    cut = completion((1, -0.1), (2, -0.1), finish_reason=reason)
    assert log_confidence(cut) is None and confidence(None) is None


def test_an_empty_answer_is_as_sure_as_its_end():
    assert confidence(log_confidence(completion((EOS, math.log(0.25))))) == pytest.approx(0.25)


def test_it_is_never_above_one_and_may_be_very_small():
    assert confidence(log_confidence(completion((1, 1e-7), (EOS, 0.0)))) == 1.0
    long = completion(*[(1, -3.0)] * 1000, (EOS, 0.0))
    assert log_confidence(long) == pytest.approx(-3000) and confidence(-3000.0) == 0.0


def test_tokens_without_log_probabilities_are_no_certainty():
    """A server that leaves out the end of turn, or a teacher that was not asked for them."""
    without_end = completion((1, -0.1), (EOS, -0.1))
    without_end.logprobs.pop()
    for answer in (without_end, Completion("de", "stop", [1, EOS])):
        with pytest.raises(ValueError, match="are not all there"):
            log_confidence(answer)
    other = completion((1, -0.1), (EOS, -0.1))
    other.logprobs[0] = {5: -0.1}
    with pytest.raises(ValueError, match="chosen token 1"):
        log_confidence(other)
