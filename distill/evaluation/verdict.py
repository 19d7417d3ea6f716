"""The answer that the report begins with, in plain words.

It says whether the student is as good as the teacher, and what it saves.

The rule: student and teacher differ if McNemar's exact test on the rows that only one of them gets
right (`metrics["mcnemar"]`) gives p < 5 %. Otherwise the difference is within what so many rows can
tell; below FEW_ROWS rows, which can tell little, the verdict says instead how far the student may
be off on other rows. For free texts the test is on answers that are exactly right. There is no
comparison with a teacher that often cannot be read, however good the student looks beside it.
"""

from distill.evaluation.systems import CASCADE, labels_from_elsewhere, titles_of
from distill.evaluation.tables import free_texts
from distill.wording import duration, part_of, percent

CHANCE = 0.05  # a p-value below it: the systems differ
FEW_ROWS = 100  # with fewer, a 95 % interval spans some 10 points and more
UNREADABLE = 0.1  # a larger share of a system's answers that cannot be read is reported


def verdict(metrics: dict) -> list[str]:
    """The answer in sentences, the most important first; `metrics` are those of metrics.json."""
    systems = metrics["systems"]
    unread = not_thinking(metrics)
    if "student" not in systems:
        found = [unread, without_student(metrics)]
    elif "teacher" not in systems:
        found = [student_alone(metrics), "No teacher was asked."]
    elif unread:
        found = [unread, "So the student cannot be compared with it.", student_alone(metrics)]
    else:
        found = [words_in_common(metrics), right_answers(metrics)]
    if "student" in systems:
        found.append(student_unreadable(metrics))
        if "teacher" in systems and not unread:
            found.append(teacher_mostly_wrong(metrics))
            found.append(savings(metrics))
            found.append(together(metrics))
        else:
            found.append(costs(metrics))
        found.append(base_student(metrics))
    return [sentence for sentence in found if sentence]


def not_thinking(metrics: dict) -> str:
    """That many of the teacher's answers cannot be read, and what may help; empty if they can."""
    teacher = metrics.get("systems", {}).get("teacher")
    if not teacher or teacher["unreadable"] <= UNREADABLE * teacher["rows"]:
        return ""
    unfinished = metrics.get("unfinished_thinking")
    text = (
        f"The teacher's answer cannot be read on {teacher['unreadable']} of {teacher['rows']} rows"
    )
    if unfinished:
        text += (
            f", on {unfinished} rows because its thinking does not end: "
            "raise --max_tokens, or pass --reasoning_parser none for a teacher that does not think"
        )
    return text + "."


def quality(measured: dict) -> float:
    """The figure that tells most of a system: accuracy, or of free texts token-F1; 0 to 1."""
    return measured.get("token_f1", measured["accuracy"])


def without_student(metrics: dict) -> str:
    """What there is to say where the distilled student was not asked."""
    titles = titles_of(metrics)
    parts = []
    for name, measured in metrics["systems"].items():
        parts.append(f"{titles[name]} {percent(quality(measured))}")
    what = "Words in common with gold (token-F1)" if free_texts(metrics) else "Right answers"
    return f"The distilled student was not asked. {what}: {'; '.join(parts)}."


def student_alone(metrics: dict) -> str:
    """How good the student is, beside no teacher."""
    share = percent(quality(metrics["systems"]["student"]))
    if not free_texts(metrics):
        return f"The student gives {share} right answers."
    return f"The student's answers agree with the right ones in {share} of their words (token-F1)."


def words_in_common(metrics: dict) -> str:
    """How near free texts come to the right ones; empty for other answers."""
    if not free_texts(metrics):
        return ""
    student = percent(metrics["systems"]["student"]["token_f1"])
    teacher = percent(metrics["systems"]["teacher"]["token_f1"])
    return (
        f"The student's answers agree with the right ones in {student} of their words where "
        f"the teacher's agree in {teacher} (token-F1)."
    )


def right_answers(metrics: dict) -> str:
    """Student and teacher by their right answers, and whether they differ by more than chance."""
    student = metrics["systems"]["student"]
    teacher = metrics["systems"]["teacher"]
    kind = "exactly right" if free_texts(metrics) else "right"
    if free_texts(metrics) and student["correct"] == teacher["correct"] == 0:
        return "No answer of either is exactly right, so these rows do not tell who is better."
    text = f"The student gives {percent(student['accuracy'])} {kind} answers"
    if student["correct"] == teacher["correct"]:
        text += ", as many as the teacher"
    else:
        text += f" where the teacher gives {percent(teacher['accuracy'])}"
    if metrics["mcnemar"]["p_value"] < CHANCE:
        points = 100 * abs(student["accuracy"] - teacher["accuracy"])
        word = "better" if student["correct"] > teacher["correct"] else "worse"
        text += f": it is {word} by {points:.1f} points, "
        text += f"more than chance explains on {metrics['rows']} rows"
    elif metrics["rows"] < FEW_ROWS:
        text += f", {what_few_rows_tell(student)}"
    elif student["correct"] != teacher["correct"]:
        text += f"; the difference is within what {metrics['rows']} rows can tell"
    return f"{text}."


def what_few_rows_tell(student: dict) -> str:
    """How far the student may be off on rows other than the few that were asked."""
    low, high = student["accuracy_interval"]
    rows = "1 row is" if student["rows"] == 1 else f"{student['rows']} rows are"
    return (
        f"but {rows} few: on others the student's share may well be anything "
        f"from {percent(low)} to {percent(high)}"
    )


def student_unreadable(metrics: dict) -> str:
    """That many of the student's answers cannot be read; empty if they can."""
    student = metrics["systems"]["student"]
    if student["unreadable"] <= UNREADABLE * student["rows"]:
        return ""
    return (
        f"The student's answer cannot be read on {student['unreadable']} of {student['rows']} "
        "rows, which count as wrong."
    )


def teacher_mostly_wrong(metrics: dict) -> str:
    """That there was little to learn; empty if the teacher is right more often than wrong.

    Of free texts it says nothing: how many words they share with gold does not tell it.
    """
    if free_texts(metrics) or quality(metrics["systems"]["teacher"]) >= 0.5:
        return ""
    return (
        "The teacher itself is wrong more often than right: "
        "look at the prompt and at the gold answers first."
    )


def costs(metrics: dict) -> str:
    """What a request to the student takes, beside no teacher; empty if it was not measured."""
    student = metrics["systems"]["student"]
    parts = []
    if student["tokens"] is not None:
        parts.append(f"costs {student['tokens']:.0f} tokens")
    if student["latency_s"] is not None:
        parts.append(f"took {duration(student['latency_s'])}")
    return f"A request {' and '.join(parts)}." if parts else ""


def savings(metrics: dict) -> str:
    """What a request to the student takes of what one to the teacher takes.

    Beside labels from elsewhere what it takes.
    """
    if labels_from_elsewhere(metrics):
        return costs(metrics)
    student = metrics["systems"]["student"]
    fewer = student.get("token_ratio")
    faster = student.get("speedup")
    if fewer and faster:
        text = f"A request costs {part_of(1 / fewer, 'the tokens')}"
        text += f" and took {part_of(1 / faster, 'the time')}"
        if max(fewer, faster) <= 1:
            text += ": nothing is saved"
    elif fewer:
        text = f"A request costs {part_of(1 / fewer, 'the tokens')}; its time was not compared"
    elif faster:
        text = f"A request took {part_of(1 / faster, 'the time')}; its tokens were not compared"
    else:
        return "Tokens and time of a request were not compared."
    return f"{text}."


def together(metrics: dict) -> str:
    """What the student gives that hands over what it is not sure of; empty if not measured."""
    found = metrics.get(CASCADE)
    if not found:
        return ""
    cascade = metrics["systems"][CASCADE]
    text = (
        f"With the {percent(found['share'])} of the requests of which the student is least sure "
        f"handed to the teacher, {percent(cascade['accuracy'])} are right"
    )
    ratio = cascade.get("token_ratio")
    if ratio:
        text += f", for {part_of(1 / ratio, 'the tokens')}"
    return f"{text}."


def base_student(metrics: dict) -> str:
    """What the student could do before it was trained; empty where it was not asked."""
    systems = metrics["systems"]
    student = quality(systems["student"])
    base = systems.get("base")
    prompted = systems.get("base_prompt")
    if base is None and prompted is None:
        return ""
    under_prompt = ""
    if prompted is not None:
        under_prompt = f"{percent(quality(prompted))} under the teacher's prompt"
    if base is None:
        return f"Without the distillation: {under_prompt}."
    text = f"Without the distillation: {percent(quality(base))}"
    if prompted is not None:
        text += f", and {under_prompt}"
    if quality(base) >= student:
        text += "; it has not helped"
    return f"{text}."
