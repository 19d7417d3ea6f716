"""The systems that step 3 compares, what they are called and how each is asked."""

from dataclasses import dataclass

TITLES = {
    "teacher": "teacher, prompt and thinking",
    "base_prompt": "base student, prompt",
    "base": "base student, no prompt",
    "student": "distilled student",
}
# of the student, without the adapter
BASE_SYSTEMS = ("base_prompt", "base")
# One that does not know when to stop takes the whole --max_tokens for every row.
BASE_LATENCY_ROWS = 10
WITHOUT_THINKING = "teacher, prompt"


def title_of(name: str, teacher_thinks: bool = True) -> str:
    """What a system is called in messages and in the report."""
    return WITHOUT_THINKING if name == "teacher" and not teacher_thinks else TITLES[name]


@dataclass(frozen=True)
class System:
    """One system and how it is asked."""

    name: str
    model: str
    prompted: bool  # under the task's prompt
    thinks: bool
    temperature: float
    max_tokens: int
    latency_rows: int  # asked one at a time
    check_rows: int  # whose tokens are kept for the comparison with PEFT
    revision: str | None = None  # of a model on the hub
