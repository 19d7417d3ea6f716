"""The tables of the cascade: what it hands over, and how far the student's confidence is right."""

from distill.evaluation.systems import CASCADE
from distill.wording import duration, percent, show

WAYS = {
    "as it is": "as the student has it",
    "one temperature": "one temperature (this one is served)",
    "one for each label": "one temperature for each label",
    "isotonic": "isotonic",
}


def cascade_rows(metrics: dict) -> list[list[str]]:
    """What was chosen and what it gives: (figure, calibration rows, held-out rows)."""
    found = metrics[CASCADE]
    systems = metrics["systems"]
    of_share = found["chosen_by"] == "hand_over"
    wanted = "share wanted" if of_share else "agreement wanted"
    answered = found["rows"] - found["handed_over"]
    agreed = found["agreed"] / answered if answered else None
    before = found["reliability"]["before"]
    after = found["reliability"]["after"]
    held_out = found["held_out"]
    rows = [
        ["rows", str(found["rows"]), str(metrics["rows"])],
        [wanted, percent(found["wanted"]), ""],
        ["temperature", show(found["temperature"], ".3f"), ""],
        ["threshold", show(found["threshold"], ".4f"), ""],
        [
            "handed over",
            share_text(found["handed_over"], found["rows"]),
            share_text(found["rows_handed_over"], metrics["rows"]),
        ],
        [
            "agrees with the teacher on the rest",
            f"{percent(agreed)} (at least {percent(found['agreement_bound'])} on others)",
            percent(found["agreement_answered"]),
        ],
        ["right answers", "", percent(systems[CASCADE]["accuracy"])],
        ["the same share handed over at random", "", percent(found["random_accuracy"])],
        ["time of a request, expected", "", duration(systems[CASCADE]["latency_s"])],
    ]
    own = found["self_agreement"]
    if own:
        text = f"{percent(own['share'])} ({own['rows']} rows)"
        rows.append(["the teacher agrees with itself, asked twice", text, ""])
    for key, title, form in FIGURES:
        rows.append(
            [f"{title}, before", figure(before, key, form), figure(held_out["before"], key, form)]
        )
        rows.append(
            [f"{title}, after", figure(after, key, form), figure(held_out["after"], key, form)]
        )
    rows.append(["AUROC of the teacher's answers", *both(after, held_out["after"], "auroc")])
    rows.append(["area under risk over coverage", *both(after, held_out["after"], "aurc")])
    rows.append(["AUROC of right answers", "", figure(held_out["gold"], "auroc", ".3f")])
    return rows


FIGURES = (("ece", "calibration error (ECE)", ".4f"), ("brier", "Brier score", ".4f"))


def both(calibration: dict | None, held_out: dict | None, key: str) -> list[str]:
    """A figure of the calibration rows and of the held-out ones."""
    return [figure(calibration, key, ".3f"), figure(held_out, key, ".3f")]


def figure(measured: dict | None, key: str, form: str) -> str:
    """A figure of reliability(); a dash where there is none."""
    return show(measured[key] if measured else None, form)


def share_text(count: int, rows: int) -> str:
    """A share of rows, with their number."""
    return f"{percent(count / rows)} ({count})"


def ways_rows(metrics: dict) -> list[list[str]]:
    """Ways to calibrate, compared by cross-validation; empty where they were not."""
    rows = []
    for name, measured in (metrics[CASCADE]["ways"] or {}).items():
        figures = [show(measured[key], ".4f") for key in ("ece", "brier", "log_loss")]
        rows.append([WAYS[name], *figures])
    return rows


def label_rows(metrics: dict) -> list[list[str]]:
    """By the label that the student answers: how sure it is and how often the teacher says so."""
    rows = []
    for label, measured in metrics[CASCADE]["labels"].items():
        rows.append(
            [
                label,
                str(measured["rows"]),
                str(measured["handed_over"]),
                percent(measured["confidence"]),
                percent(measured["agreement"]),
            ]
        )
    return rows
