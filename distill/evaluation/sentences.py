"""What the report says under "How it was measured": tests, serving, ties, what was left out."""

from distill.evaluation.systems import (
    CASCADE,
    CASCADE_TITLE,
    labels_from_elsewhere,
    titles_of,
)
from distill.evaluation.ties import ties_sentence
from distill.server_settings import server_sentence


def sentences(metrics: dict) -> list[str]:
    """How the figures were measured and what limits them, one sentence each."""
    found = []
    test = metrics["mcnemar"]
    check = metrics.get("check")
    titles = titles_of(metrics)
    if test:
        found.append(
            f"Right where the other is wrong: student {test['only_student']} rows, "
            f"teacher {test['only_teacher']} (McNemar's exact test: {shown_p(test)})."
        )
    found += of_cascade(metrics)
    if labels_from_elsewhere(metrics):
        found.append(
            f"The teacher's answers are labels from elsewhere ({metrics['teacher_answers']}): "
            "what their tokens, time and cost were is not known."
        )
    if metrics.get("teacher_server"):
        found.append(
            f"The teacher was asked at {metrics['teacher_server']}: its seconds are those of that "
            "server and of the network, and its tokens as the server counts them."
        )
    if metrics.get("student_server"):
        found.append(
            f"The distilled student was asked at {metrics['student_server']} as "
            f"{metrics['student_name']}, greedily, without prompt and thinking: its seconds are "
            "those of that server and of the network, and its tokens as the server counts them. "
            "They were not compared with PEFT's, and no ties were looked for."
        )
    if metrics.get("served_as"):
        found.append(
            f"The adapter was served as {metrics['served_as']} "
            "for every figure of the distilled student."
        )
    if metrics.get("instead_of"):
        found.append(f"--serve_adapter auto fell back on it: {metrics['instead_of'].rstrip('.')}.")
    if check:
        ties = f", but for a tie on {check['ties']} of these rows" if check.get("ties") else ""
        found.append(
            f"On {check['rows']} rows ({check['tokens']} tokens, {check['dtype']}) "
            f"the served tokens are PEFT's greedy ones{ties} "
            f"(largest distance in log-probability {check['largest_gap']:.4f})."
        )
    for name, reason in metrics.get("left_out", {}).items():
        found.append(f"Left out: {titles[name]} ({reason}).")
    for model in metrics.get("dated_templates", []):
        found.append(
            f"The chat template of {model} writes the date: on another day its tokens are others."
        )
    further = [ties_sentence(metrics.get("ties")), server_sentence(metrics.get("server_settings"))]
    further.append(labels_not_shown(metrics))
    found += [sentence for sentence in further if sentence]
    for name, measured in metrics.get("taken_over", {}).items():
        found.append(
            "Taken over from an earlier run of the same command: "
            f"{titles[name]} ({origin(measured)})."
        )
    if measured_on(metrics):
        found.append(measured_on(metrics))
    return found


def of_cascade(metrics: dict) -> list[str]:
    """What is to be known of the cascade's figures; none without one."""
    found = metrics.get(CASCADE)
    if not found:
        return []
    test = found["mcnemar"]
    return [
        f"Right where the other is wrong: {CASCADE_TITLE} {test['only_student']} rows, teacher "
        f"{test['only_teacher']} (McNemar's exact test: {shown_p(test)}).",
        f"The cascade's temperature and threshold are those of {found['rows']} calibration rows, "
        "which were neither trained on nor among the held-out ones. Its answers are those that "
        "student and teacher have given here; its time is the student's mean and, for the share "
        "that is handed over, the teacher's.",
    ]


def shown_p(test: dict) -> str:
    """A test's p-value."""
    return "p < 0.001" if test["p_value"] < 0.001 else f"p = {test['p_value']:.3f}"


def measured_on(metrics: dict) -> str:
    """The sentence of where and when; empty if it is not known."""
    found = origin(metrics)
    return f"Measured on {found}." if found else ""


def labels_not_shown(metrics: dict) -> str:
    """What the confusion matrices of a task with many labels do not show.

    Empty if they show all labels.
    """
    titles = titles_of(metrics)
    parts = []
    for name, found in metrics.get("confusion", {}).items():
        rest = found.get("left_out")
        if rest:
            parts.append(f"{titles[name]} {rest['wrong']} of {rest['rows']} rows")
    if not parts:
        return ""
    shown = len(found["labels"])
    return (
        f"Confusion matrices and bars show {shown} of {rest['labels'] + shown} labels, "
        f"those that are confused most; wrong with the others: {', '.join(parts)}."
    )


def origin(measured: dict) -> str:
    """Where, when and with which commit figures were measured, as far as it is known."""
    return ", ".join(
        str(measured[key]) for key in ("machine", "date", "commit") if measured.get(key)
    )
