"""What requests cost, and a budget that is never exceeded: no server."""

from distill.prices import TokenPrices
from distill.teacher.base import Completion, Prompt, Request, Sampling
from distill.teacher.purse import AROUND, Purse, most_tokens

PRICES = TokenPrices(input=1.0, cached=0.1, output=2.0)
# at most 1,000 tokens of prompt and 100 of answer: 1,200 millionths
REQUEST = Request(0, Prompt([1] * 1000, tokens=1000), Sampling(temperature=0, max_tokens=100))


def answered(prompt_tokens=1000, cached_tokens=900, output_tokens=10):
    return Completion("", "stop", [], cached_tokens, None, None, prompt_tokens, output_tokens)


def test_what_an_answer_costs_is_what_its_server_counts():
    purse = Purse(PRICES)
    purse.send(REQUEST)
    purse.back(REQUEST, answered())
    assert round(purse.spent * 1e6, 6) == 100 * 1.0 + 900 * 0.1 + 10 * 2.0
    assert purse.set_aside == 0


def test_requests_on_their_way_count_with_the_most_they_can_cost():
    purse = Purse(PRICES, budget=3e-3)
    for _ in range(2):
        assert purse.may_send(REQUEST)
        purse.send(REQUEST)
    assert not purse.may_send(REQUEST)
    purse.back(REQUEST, answered())  # 210 millionths instead of 1,200
    assert purse.may_send(REQUEST)
    assert purse.spent + purse.set_aside + purse.most(REQUEST) <= purse.budget


def test_what_was_not_answered_is_not_billed_and_what_nobody_counts_is_billed_in_full():
    purse = Purse(PRICES)
    for completion in (None, Completion("", "refused", [], problem="refused")):
        purse.send(REQUEST)
        purse.back(REQUEST, completion)
    assert purse.spent == purse.set_aside == 0
    purse.send(REQUEST)
    purse.back(REQUEST, Completion("en", "stop", []))
    assert purse.spent == purse.most(REQUEST)


def test_without_a_budget_all_may_be_sent():
    assert Purse().may_send(REQUEST) and Purse(PRICES).may_send(REQUEST)


def test_no_chat_has_more_tokens_than_bytes():
    assert most_tokens([{"role": "user", "content": "ไม่"}]) == 9 + AROUND
