"""How many of the teacher's answers were forced.

A success rate of 1.0 says little if the guard wrote the answers. A guarded attempt can only end in
a label, whatever the teacher thought, and a thought that was cut has not come to its end. Both are
counted over all answers that were read, so that counts of shards and of continued runs add up.
"""

import logging
from dataclasses import dataclass

log = logging.getLogger("create_data")
MANY = 0.1  # share of all answers above which it is a warning


@dataclass
class Forced:
    """Counts over answers: each attempt at an input that gave one."""

    answers: int = 0
    guarded: int = 0  # in an attempt that was guarded because an earlier one had failed
    cut: int = 0  # after a thought that the budget closed

    def count(self, attempts: list[dict], mode: str) -> None:
        """Take in the attempts at one input, as the journal has them.

        `mode` is --structured_outputs.
        """
        for attempt in attempts:
            if attempt.get("answer") is None:
                continue
            self.answers += 1
            if mode == "retry" and "structured_outputs" in attempt.get("sampling", {}):
                self.guarded += 1
            if attempt.get("thinking_cut"):
                self.cut += 1

    def counts(self) -> dict[str, int]:
        """The counts under their names in the manifest and in the last line."""
        return {"answers": self.answers, "guarded_answers": self.guarded, "cut_thoughts": self.cut}

    def shares(self) -> dict[str, float]:
        """Guarded answers and cut thoughts as shares of all answers."""
        return {"guarded_share": self._share(self.guarded), "cut_share": self._share(self.cut)}

    def shown(self) -> str:
        """Both shares for the progress bar."""
        return f"guarded {self._share(self.guarded):.1%}, cut {self._share(self.cut):.1%}"

    def warnings(self, mode: str) -> list[str]:
        """What to tell the user.

        Nothing under --structured_outputs always, which asks for guarded answers.
        """
        found = []
        if mode == "always":
            return found
        if self._share(self.guarded) > MANY:
            found.append(
                f"{self.guarded} of {self.answers} answers were guarded after a failed attempt, "
                "so that only a valid answer could follow; "
                "compare some with gold, and see why first attempts fail in the trace"
            )
        if self._share(self.cut) > MANY:
            found.append(
                f"{self.cut} of {self.answers} answers followed a thought that was cut; "
                "raise --max_tokens, or --thinking_token_budget if it is set"
            )
        return found

    def warn(self, mode: str) -> None:
        """Log the warnings, if there are any."""
        for text in self.warnings(mode):
            log.warning("create_data.py: %s", text)

    def _share(self, count: int) -> float:
        return round(count / self.answers, 4) if self.answers else 0.0
