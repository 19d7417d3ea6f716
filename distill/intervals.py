"""How sure a share is that was counted in a sample."""


def wilson(count: int, of: int) -> list[float]:
    """The 95 % interval of the share `count` / `of`, Wilson's: both ends, from 0 to 1."""
    from scipy.stats import binomtest

    interval = binomtest(count, of).proportion_ci(method="wilson")
    return [interval.low, interval.high]


def at_least(count: int, of: int) -> float:
    """What the share `count` / `of` reaches with 95 % confidence.

    The one-sided bound of C. Clopper and E. Pearson, Biometrika 26 (1934).
    """
    from scipy.special import betaincinv

    if count == 0:
        return 0.0
    return float(betaincinv(count, of - count + 1, 0.05))
