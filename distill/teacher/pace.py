"""How fast a server is asked: how many requests run at once, and how long a failed one waits.

The window grows by one for each window of requests that went well, and is halved when the server
says that there are too many, as TCP does it (Jacobson 1988, Congestion Avoidance and Control). The
waits double with each failure in a row and are spread at random, so that requests which failed
together do not come back together.
"""

import random
from dataclasses import dataclass, field

FIRST_WAIT = 0.5  # seconds
LONGEST_WAIT = 60.0
OUTAGE = 5.0  # seconds without an answer, after which the next one says that a server is back


@dataclass
class Pace:
    """The window of one server."""

    most: int  # requests at once
    window: float = 0.0
    halved_at: float = float("-inf")  # seconds, of the clock that the caller uses
    chance: random.Random = field(default_factory=random.Random)
    first_wait: float = FIRST_WAIT
    outage: float = OUTAGE

    def __post_init__(self):
        self.window = float(self.most)

    @property
    def at_once(self) -> int:
        """How many requests may run now."""
        return max(1, int(self.window))

    def went_well(self) -> None:
        """A request was answered."""
        self.window = min(self.most, self.window + 1 / self.window)

    def was_too_much(self, started: float, now: float) -> None:
        """A request that had been sent at `started` was refused since there were too many.

        All that were sent before the window was halved may be refused for the same reason, so they
        halve it once.
        """
        if started > self.halved_at:
            self.window = max(1.0, self.window / 2)
            self.halved_at = now

    def wait_after(self, failures: int, asked_for: float | None) -> float:
        """Seconds to wait after so many failures of a request in a row.

        `asked_for` is what the server has asked for, which is the least.
        """
        longest = min(LONGEST_WAIT, self.first_wait * 2 ** (failures - 1))
        wait = longest * self.chance.uniform(0.5, 1.0)
        if asked_for is not None:
            # those that were told the same time do not come at the same moment
            wait = max(wait, asked_for * self.chance.uniform(1.0, 1.1))
        return wait
