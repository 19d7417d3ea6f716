"""The systems that step 3 compares: their names, how they look in plots, how each is asked."""

from dataclasses import dataclass

from distill.palette import BLUE, GREEN, ORANGE, PURPLE, VERMILLION

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
CASCADE = "cascade"  # no system that is asked: student and teacher together
CASCADE_TITLE = "student, teacher if unsure"
WITHOUT_THINKING = "teacher, prompt"
FROM_ELSEWHERE = "labels from elsewhere"  # take the teacher's place in a comparison
STYLES = {
    "teacher": BLUE,
    "base_prompt": GREEN,
    "base": PURPLE,
    "student": ORANGE,
    CASCADE: VERMILLION,
}


def title_of(name: str, teacher_thinks: bool = True, from_elsewhere: bool = False) -> str:
    """What a system is called in messages and in the report."""
    if name == "teacher" and from_elsewhere:
        return FROM_ELSEWHERE
    return WITHOUT_THINKING if name == "teacher" and not teacher_thinks else TITLES[name]


def titles_of(metrics: dict) -> dict[str, str]:
    """What the systems are called in the report of `metrics`.

    Old figures are those of a teacher that thinks.
    """
    thinks = metrics.get("teacher_thinks", True)
    titles = {name: title_of(name, thinks, labels_from_elsewhere(metrics)) for name in TITLES}
    titles[CASCADE] = CASCADE_TITLE
    return titles


def labels_from_elsewhere(metrics: dict) -> bool:
    """Whether the teacher's answers are labels of people or of another labeller.

    Their tokens, times and costs are not known. Old figures have none.
    """
    return metrics.get("labels_from_elsewhere", False)


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
    server: str | None = None  # the host that has it; None: an engine of ours
    logprobs: int | None = None  # as of Sampling; None: nobody wants its confidence
