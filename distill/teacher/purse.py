"""What the requests to a server cost, and a budget that is not exceeded.

What an answer will cost is known when it is there. Until then the most that it can cost is set
aside: its prompt has no more tokens than bytes, and its completion no more than max_tokens. A
request goes out only if all that is spent and set aside stays within the budget.
"""

from dataclasses import dataclass, field

from distill.prices import MILLION, TokenPrices
from distill.teacher.base import Completion, Request

# tokens that a chat template puts around each message, at most
AROUND = 64


@dataclass
class Purse:
    """The costs of one run, in the currency of its prices."""

    prices: TokenPrices = field(default_factory=TokenPrices)
    budget: float = 0.0  # 0: no end
    spent: float = 0.0  # earlier runs of the same output included
    set_aside: float = 0.0  # for requests that are on their way

    def may_send(self, request: Request) -> bool:
        """Whether one more request stays within the budget, whatever is answered."""
        if not self.budget:
            return True
        return self.spent + self.set_aside + self.most(request) <= self.budget

    def send(self, request: Request) -> None:
        """Set aside what a request may cost."""
        self.set_aside += self.most(request)

    def back(self, request: Request, completion: Completion | None) -> None:
        """Take in what a request has cost; None: it was not answered, and is not billed.

        Where the server does not count its tokens it has cost what was set aside.
        """
        most = self.most(request)
        self.set_aside = max(0.0, self.set_aside - most)
        if completion is None or completion.problem and completion.prompt_tokens is None:
            return
        if completion.prompt_tokens is None or not completion.output_tokens:
            completion.charged = most
            self.spent += most
            return
        self.spent += self.cost(
            completion.prompt_tokens, completion.cached_tokens, completion.output_tokens
        )

    def most(self, request: Request) -> float:
        """The most that a request can cost."""
        price = max(self.prices.input, self.prices.cached)
        prompt_tokens = request.prompt.tokens or most_tokens(request.prompt.content)
        return (prompt_tokens * price + request.sampling.max_tokens * self.prices.output) / MILLION

    def cost(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        """What so many tokens cost."""
        tokens = {
            "prompt_tokens": prompt_tokens,
            "cached_tokens": cached_tokens,
            "output_tokens": output_tokens,
        }
        return self.prices.of_tokens(tokens)

    def used_up(self, request: Request) -> str:
        """Why the next request is not sent, in one line."""
        return (
            f"--budget {self.budget:g}: {self.spent:.4g} are spent, and the next request may cost "
            f"up to {self.most(request):.2g}; a higher one goes on"
        )


def most_tokens(chat: list[dict]) -> int:
    """No tokenizer makes more tokens of a chat: its bytes, and what a template puts around it."""
    found = 0
    for message in chat:
        found += len(message["content"].encode("utf-8", "surrogatepass")) + AROUND
    return found
