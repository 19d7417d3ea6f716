"""Flags of step 1 that belong together, and those that do not go together."""

from argparse import Namespace

from distill.cli import Parser
from distill.labels.choices import Shard
from distill.price_flags import add_token_prices, token_prices_of
from distill.prices import TokenPrices

EXPECTED_OUTPUT_TOKENS = 500


def add_cost_flags(parser: Parser) -> None:
    """What the teacher's tokens cost, and how much may be spent."""
    parser.group("what a million of the teacher's tokens cost")
    add_token_prices(parser)
    meaning = "of a request, for the estimate at the start"
    parser.add("expected_output_tokens", EXPECTED_OUTPUT_TOKENS, meaning, at_least=1)
    parser.add("budget", 0.0, "of --teacher_url: end before more is spent (0: none)", at_least=0)


def check_together(args: Namespace, shard: Shard) -> None:
    """Raise ValueError for flags that contradict each other."""
    budget = args.thinking_token_budget
    if not 0 <= budget < args.max_tokens:
        raise ValueError(f"--thinking_token_budget {budget}: must be below --max_tokens")
    if args.num_replicas and shard.count > 1:
        raise ValueError("--num_replicas shares the inputs out itself; drop --shard")
    if args.overwrite and args.skip_finished:
        raise ValueError("--overwrite and --skip_finished contradict each other")
    if args.overwrite and args.reuse:
        raise ValueError("--overwrite and --reuse contradict each other")
    if args.show and shard.count > 1:
        raise ValueError("--show prints the rows of a whole run; drop --shard")
    if args.max_repeats == 1:
        raise ValueError("--max_repeats 1: a loop is seen from the second time on; 0 lets it run")
    if args.num_samples > 1 and args.temperature == 0:
        raise ValueError(
            "--num_samples asks for the same answer again at --temperature 0; raise the temperature"
        )
    if args.budget and token_prices_of(args) == TokenPrices():
        raise ValueError("--budget: needs --price_input and --price_output, to count what is spent")
    if args.budget and not args.teacher_url:
        raise ValueError("--budget: is for --teacher_url; an engine here costs hours, not tokens")
    if args.budget and shard.count > 1:
        raise ValueError("--budget: each share would spend it; drop --shard")
