"""How many requests run at once, and how long a failed one waits: no server, no clock."""

import random

from distill.teacher.pace import FIRST_WAIT, LONGEST_WAIT, Pace


def test_the_window_is_halved_once_for_all_that_was_on_its_way():
    pace = Pace(64)
    for _ in range(20):
        pace.was_too_much(started=1.0, now=2.0)
    assert pace.at_once == 32
    pace.was_too_much(started=3.0, now=4.0)
    assert pace.at_once == 16


def test_the_window_grows_by_one_for_each_window_that_went_well():
    pace = Pace(64)
    pace.was_too_much(started=1.0, now=2.0)
    for _ in range(33):
        pace.went_well()
    assert pace.at_once == 33
    for _ in range(64 * 64):
        pace.went_well()
    assert pace.at_once == 64


def test_one_request_always_runs():
    pace = Pace(2)
    for number in range(10):
        pace.was_too_much(started=2.0 * number, now=2.0 * number + 1)
    assert pace.at_once == 1


def test_waits_double_and_are_spread_and_have_an_end():
    pace = Pace(8, chance=random.Random(0))
    for failures in range(1, 30):
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (failures - 1))
        waits = [pace.wait_after(failures, None) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_what_the_server_asks_for_is_the_least():
    pace = Pace(8)
    assert 30 <= pace.wait_after(1, 30.0) <= 33
    assert pace.wait_after(8, 0.0) >= 30
