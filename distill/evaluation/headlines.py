"""The four figures below the verdict on the report's page, the student's beside the teacher's."""

from dataclasses import dataclass

from distill.evaluation.systems import labels_from_elsewhere
from distill.evaluation.tables import free_texts
from distill.evaluation.verdict import CHANCE, not_thinking, quality
from distill.wording import MISSING, NOT_KNOWN, duration, part_of, percent, show


@dataclass(frozen=True)
class Headline:
    """One figure of the student and what it stands beside."""

    title: str
    value: str
    beside: str  # the teacher's figure
    change: str  # from one to the other; empty if they cannot be compared
    student_bar: float = 0.0  # the length of its bar, in percent of the place; 0 for none
    teacher_bar: float = 0.0


def headlines(metrics: dict) -> list[Headline]:
    """Accuracy, agreement, tokens and latency; none without a student."""
    systems = metrics["systems"]
    if "student" not in systems:
        return []
    student = systems["student"]
    teacher = systems.get("teacher")
    # a teacher that cannot be read is nothing to be measured by
    fair = teacher is not None and not not_thinking(metrics)
    missing = NOT_KNOWN if labels_from_elsewhere(metrics) else "not measured"
    return [
        right(metrics, student, teacher, fair),
        agreeing(student, teacher),
        taken("Tokens per request", "tokens", show_tokens, student, teacher, fair, missing),
        taken("Time per request", "latency_s", duration, student, teacher, fair, missing),
    ]


def beside(teacher: dict | None, value: str, missing: str = "not measured") -> str:
    """The line with the teacher's figure, or why there is none; `missing` says it of the figure."""
    if teacher is None:
        return "no teacher was asked"
    return f"teacher {missing if value == MISSING else value}"


def right(metrics: dict, student: dict, teacher: dict | None, fair: bool) -> Headline:
    """How good the answers are."""
    title = "Words in common with gold (token-F1)" if free_texts(metrics) else "Right answers"
    of_student = quality(student)
    if teacher is None:
        return Headline(title, percent(of_student), beside(None, ""), "", 100 * of_student)
    of_teacher = quality(teacher)
    change = ""
    if fair:
        change = points(of_student - of_teacher)
        if not free_texts(metrics) and student["correct"] != teacher["correct"]:
            by_chance = metrics["mcnemar"]["p_value"] >= CHANCE
            change += ", within chance" if by_chance else ", more than chance"
    return Headline(
        title=title,
        value=percent(of_student),
        beside=beside(teacher, percent(of_teacher)),
        change=change,
        student_bar=100 * of_student,
        teacher_bar=100 * of_teacher,
    )


def points(difference: float) -> str:
    """The difference of two shares in points."""
    shown = f"{100 * abs(difference):.1f}"
    if shown == "0.0":
        return "no difference"
    return f"{shown} points {'more' if difference > 0 else 'less'}"


def agreeing(student: dict, teacher: dict | None) -> Headline:
    """How often the student says what the teacher says."""
    share = student.get("agreement")
    if teacher is None:
        text = beside(None, "")
    else:
        text = f"of the teacher's {teacher['rows'] - teacher['unreadable']} readable answers"
    return Headline("Agreement", percent(share), text, "", 100 * (share or 0))


def show_tokens(value: float | None) -> str:
    """A mean number of tokens."""
    return show(value, ",.0f")


def taken(
    title: str, key: str, form, student: dict, teacher: dict | None, fair: bool, missing: str
) -> Headline:
    """What a request takes; `form` writes the figure that `key` names."""
    of_student = student[key]
    of_teacher = teacher[key] if teacher else None
    change = ""
    student_bar = 0.0
    teacher_bar = 0.0
    if of_student and of_teacher:
        most = max(of_student, of_teacher)
        student_bar = 100 * of_student / most
        teacher_bar = 100 * of_teacher / most
        if fair:
            change = part_of(of_student / of_teacher, "the teacher's")
    return Headline(
        title=title,
        value=form(of_student),
        beside=beside(teacher, form(of_teacher), missing),
        change=change,
        student_bar=student_bar,
        teacher_bar=teacher_bar,
    )
