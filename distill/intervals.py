"""How sure a share is that was counted in a sample."""


def wilson(count: int, of: int) -> list[float]:
    """The 95 % interval of the share `count` / `of`, Wilson's: both ends, from 0 to 1."""
    from scipy.stats import binomtest

    interval = binomtest(count, of).proportion_ci(method="wilson")
    return [interval.low, interval.high]
