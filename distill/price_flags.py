"""The flags of prices, and what they say."""

from argparse import Namespace

from distill.cli import Parser
from distill.prices import Prices, TokenPrices, own_prices

PAID_TOKENS = ("input", "cached", "output")


def add_token_prices(parser: Parser) -> None:
    """The flags of what a million tokens cost."""
    parser.add("price_input", 0.0, "of input tokens", at_least=0)
    meaning = "of cached input tokens (default: as the others)"
    parser.add("price_cached", None, meaning, at_least=0, kind=float)
    parser.add("price_output", 0.0, "of output tokens", at_least=0)


def token_prices_of(args: Namespace) -> TokenPrices:
    """What these flags say. Whoever names no price of cached tokens bills them as others."""
    cached = args.price_cached
    if cached is None:
        cached = args.price_input
    return TokenPrices(args.price_input, cached, args.price_output)


def add_price_flags(parser: Parser, systems: tuple[str, ...] = ()) -> None:
    """The flags of prices, and those of `systems` that may have prices of their own."""
    parser.group("what a million tokens cost, or else an hour of a GPU")
    add_token_prices(parser)
    for system in systems:
        for what in PAID_TOKENS:
            meaning = f"the {system}'s own, instead of --price_{what}"
            parser.add(f"{system}_price_{what}", None, meaning, at_least=0, kind=float)
    others = "for systems without own prices" if systems else "instead of prices of tokens"
    parser.add("gpu_price_per_hour", 0.0, f"of one, {others}", at_least=0)


def prices_of(
    args: Namespace,
    gpus: int,
    systems: tuple[str, ...] = (),
    teacher_asked: bool = True,
    student_asked: bool = True,
) -> Prices:
    """What the flags say; raises ValueError where they contradict each other.

    `gpus` are those on which a system's throughput is measured, if an engine of ours is asked.
    """
    default = token_prices_of(args)
    if args.gpu_price_per_hour and default != TokenPrices():
        remedy = "drop one of them"
        if systems:
            flags = " and ".join(f"--{system}_price_*" for system in systems)
            remedy = f"for one system beside it there are {flags}"
        raise ValueError(f"--gpu_price_per_hour takes the place of --price_*; {remedy}")
    own = {}
    for system in systems:
        given = [getattr(args, f"{system}_price_{what}") for what in PAID_TOKENS]
        own[system] = own_prices(*given, default, args.price_cached)
    return Prices(
        input=default.input,
        cached=default.cached,
        output=default.output,
        teacher=own.get("teacher"),
        student=own.get("student"),
        gpu_per_hour=args.gpu_price_per_hour,
        gpus=gpus,
        teacher_asked=teacher_asked,
        student_asked=student_asked,
    )
