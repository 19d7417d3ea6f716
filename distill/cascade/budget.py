"""The share of requests that may be handed over, over a sliding window of them."""

from collections import deque

WINDOW = 1000  # requests


class Budget:
    """Of any WINDOW requests in a row, at most `share` of them are handed over.

    Before the first request the window is full of such that were not, so that a start allows no
    more than any other moment.
    """

    def __init__(self, share: float):
        self.most = int(share * WINDOW + 1e-9)  # requests of a window
        self.window = deque([False] * WINDOW, maxlen=WINDOW)
        self.handed_over = 0  # of the window

    def take(self) -> bool:
        """Whether this request may be handed over; it then counts as one that is."""
        leaves = self.window[0]
        allowed = self.handed_over - leaves < self.most
        self._append(allowed)
        return allowed

    def keep(self) -> None:
        """Count a request that stays with the student."""
        self._append(False)

    def _append(self, handed_over: bool) -> None:
        self.handed_over += handed_over - self.window[0]
        self.window.append(handed_over)
