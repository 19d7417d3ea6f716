"""What has changed between two runs of step 1, in words, and what of stored answers still holds."""

from dataclasses import dataclass

from distill.old_values import OLD_HEADER, Difference, differences
from distill.task import same_task

# what a change concerns
INPUTS = "inputs"  # which inputs there are: those that stay keep their answers
READING = "reading"  # how an answer is found in a response, so that responses are read again
ASKING = "asking"  # what the teacher is asked, or which teacher: it may answer otherwise

# keys of a task's meaning
OF_TASK = {
    "prompt": (ASKING, "the prompt has changed"),
    "labels": (READING, "the labels have changed"),
    "answer": (READING, "the expression that finds an answer has changed"),
    "schema": (READING, "the schema has changed"),
}
UNKNOWN = "the task file has changed, in what an older version has not recorded"
# keys of the header that are not named as their flag
FLAGS = {"model": "model_name", "server": "teacher_url"}


@dataclass(frozen=True)
class Change:
    """One thing that differs from an earlier run."""

    kind: str  # INPUTS, READING or ASKING
    words: str


def changes_between(before: dict, now: dict) -> list[Change]:
    """What differs between the header of an earlier run and that of today."""
    found = changes_of_task(before, now)
    for difference in differences(before, now, OLD_HEADER):
        if difference.key not in ("task", "task_meaning"):
            found.append(change_of_key(difference))
    return found


def changes_of_task(before: dict, now: dict) -> list[Change]:
    """What differs in the meaning of the task; nothing if the files differ in comments alone."""
    if same_task(before, now):
        return []
    old = before.get("task_meaning")
    new = now.get("task_meaning")
    if old is None or new is None:
        return [Change(ASKING, UNKNOWN)]
    return [Change(*OF_TASK[key]) for key in OF_TASK if old.get(key) != new.get(key)]


def change_of_key(difference: Difference) -> Change:
    """A key of the header that differs, which is a flag but for inputs and weights."""
    if difference.key == "inputs":
        return Change(INPUTS, "the inputs have changed")
    if difference.key == "weights":
        return Change(ASKING, "the weights in the directory of --model_name have changed")
    flag = FLAGS.get(difference.key, difference.key)
    kind = READING if flag == "min_agreement" else ASKING
    return Change(kind, f"--{flag} was {shown(difference.before)}, is {shown(difference.now)}")


def shown(value: object) -> str:
    """A flag's value as it is typed."""
    return "not given" if value is None else str(value)


def in_words(changes: list[Change]) -> str:
    """All changes as one sentence without its full stop."""
    *before, last = [change.words for change in changes]
    return f"{', '.join(before)} and {last}" if before else last


def has(changes: list[Change], kind: str) -> bool:
    """Whether there is a change of a kind."""
    return any(change.kind == kind for change in changes)
