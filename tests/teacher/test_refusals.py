"""What a server means by refusing a request: no server."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate

import httpx
import pytest

from distill.teacher.refusals import seconds_asked_for

NOW = datetime(2031, 5, 4, 10, 0, 0, tzinfo=UTC)


def at(when: datetime) -> str:
    """A time as HTTP writes it."""
    return format_datetime(when, usegmt=True)


SAID = {
    "seconds": ({"Retry-After": "2.5"}, 2.5),
    "milliseconds": ({"retry-after-ms": "1500"}, 1.5),
    "milliseconds are finer than seconds": ({"retry-after-ms": "300", "Retry-After": "1"}, 0.3),
    "a date, by the server's clock": (
        {"Retry-After": at(NOW + timedelta(seconds=90)), "Date": at(NOW)},
        90.0,
    ),
    "a date that is over": (
        {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT", "Date": at(NOW)},
        0.0,
    ),
    "a date without a time zone": (
        {"Retry-After": "Sun, 04 May 2031 10:01:00 -0000", "Date": at(NOW)},
        60.0,
    ),
    "less than nothing": ({"Retry-After": "-3"}, 0.0),
    "nothing": ({}, None),
    "no time": ({"Retry-After": "soon"}, None),
    "no number": ({"Retry-After": "nan"}, None),
    "no milliseconds, but seconds": ({"retry-after-ms": "soon", "Retry-After": "4"}, 4.0),
}


@pytest.mark.parametrize(("headers", "seconds"), SAID.values(), ids=SAID)
def test_how_long_a_server_wants_to_be_left_alone(headers, seconds):
    assert seconds_asked_for(httpx.Headers(headers)) == seconds


def test_a_date_without_the_servers_clock_is_by_ours():
    later = datetime.now(UTC).timestamp() + 100
    found = seconds_asked_for(httpx.Headers({"Retry-After": formatdate(later, usegmt=True)}))
    assert 95 < found <= 100
