"""What a million requests to a system cost: by their tokens, or by the hours of a GPU.

By tokens as a provider bills them. By hours as a machine of one's own does: a system that answers
so many rows a second needs so long for a million.
"""

from dataclasses import dataclass

SECONDS_PER_HOUR = 3600
MILLION = 1_000_000


@dataclass(frozen=True)
class TokenPrices:
    """Of a million tokens, in one currency."""

    input: float = 0.0  # tokens of a prompt that are not cached
    cached: float = 0.0
    output: float = 0.0

    def of_million(self, measured: dict) -> float | None:
        """What a million requests cost; None where their tokens are not known.

        `measured` holds the mean tokens of a request, and prices are for a million of them.
        """
        if measured["prompt_tokens"] is None:
            return None
        computed = measured["prompt_tokens"] - measured["cached_tokens"]
        return (
            computed * self.input
            + measured["cached_tokens"] * self.cached
            + measured["output_tokens"] * self.output
        )

    def of_tokens(self, counted: dict) -> float:
        """What so many tokens cost, by the names in TOKEN_COUNTS."""
        return self.of_million(counted) / MILLION


@dataclass(frozen=True)
class Prices(TokenPrices):
    """Of all systems: the prices of tokens for those that have none of their own, and the others.

    The base student and the distilled one are the same model, and cost the same.
    """

    teacher: TokenPrices | None = None  # its own
    student: TokenPrices | None = None
    gpu_per_hour: float = 0.0  # of one; 0: prices are those of tokens
    gpus: int = 1  # on which the throughput of a system was measured
    # else its throughput is that of step 1, on nobody knows how many GPUs
    teacher_asked: bool = True
    student_asked: bool = True  # by an engine of ours; else on nobody knows how many GPUs either

    def by_tokens(self, system: str) -> TokenPrices | None:
        """The prices of a system's tokens; None where it is paid by the hour."""
        own = self.teacher if system == "teacher" else self.student
        if own is not None:
            return own
        if self.gpu_per_hour:
            return None
        return TokenPrices(self.input, self.cached, self.output)

    def of_system(self, system: str, measured: dict) -> float | None:
        """What a million requests to a system cost; None where that cannot be known."""
        prices = self.by_tokens(system)
        if prices is not None:
            return prices.of_million(measured)
        rows_per_second = measured["rows_per_second"]
        asked_here = {"teacher": self.teacher_asked, "student": self.student_asked}
        if not rows_per_second or not asked_here.get(system, True):
            return None
        hours = MILLION / rows_per_second / SECONDS_PER_HOUR
        return hours * self.gpu_per_hour * self.gpus

    def basis(self, system: str) -> dict:
        """By what a system is paid, as metrics.json has it."""
        prices = self.by_tokens(system)
        if prices is None:
            return {"gpu_per_hour": self.gpu_per_hour, "gpus": self.gpus}
        return {"input": prices.input, "cached": prices.cached, "output": prices.output}


def own_prices(
    input: float | None,
    cached: float | None,
    output: float | None,
    default: TokenPrices,
    default_cached: float | None,
) -> TokenPrices | None:
    """A system's own prices; None where none of them is given.

    What is not given is that of `default`. Cached tokens cost as others do where neither `cached`
    nor `default_cached` is given.
    """
    if input is None and cached is None and output is None:
        return None
    if input is None:
        input = default.input
    if cached is None:
        cached = input if default_cached is None else default_cached
    if output is None:
        output = default.output
    return TokenPrices(input, cached, output)


def basis_text(basis: dict, rows_per_second: float | None) -> str:
    """By what a system is paid, in words."""
    if "gpu_per_hour" in basis:
        machines = "a GPU" if basis["gpus"] == 1 else f"each of {basis['gpus']} GPUs"
        text = f"{basis['gpu_per_hour']:g} an hour for {machines}"
        if rows_per_second:
            text += f", at the measured {rows_per_second:.3g} rows/s"
        return text
    return (
        f"{basis['input']:g} for a million tokens of input, {basis['cached']:g} cached, "
        f"{basis['output']:g} of output"
    )
