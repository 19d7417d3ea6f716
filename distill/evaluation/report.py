"""How step 3's figures are shown: report.md, report.html and PNGs."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from distill.evaluation.plots import draw
from distill.evaluation.systems import TITLES, title_of
from distill.evaluation.ties import ties_sentence
from distill.files import Replacing
from distill.same_text import comparable
from distill.server_settings import server_sentence

UNREADABLE = 0.1  # a larger share of the teacher's answers that cannot be read is reported
SHOWN_ROWS = 500  # of the predictions on the page; all are in predictions.jsonl
PAGE = Path(__file__).with_name("page.html.j2")  # the template of report.html


def show(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def titles_of(metrics: dict) -> dict[str, str]:
    """What the systems are called in the report of `metrics`.

    Old figures are those of a teacher that thinks.
    """
    return {name: title_of(name, metrics.get("teacher_thinks", True)) for name in TITLES}


def rate(value: float | None) -> str:
    """Rows a second: whole ones, and of few rows two digits."""
    return show(value, ".0f" if value is None or value >= 10 else ".2g")


def accuracy(m: dict) -> str:
    low, high = m["accuracy_interval"]
    return f"{m['accuracy']:.1%} ({m['correct']} of {m['rows']}; {low:.1%} to {high:.1%})"


@dataclass(frozen=True)
class Table:
    """A table of the report."""

    title: str
    header: list[str]
    rows: list[list[str]]  # of cells


def tables(metrics: dict) -> list[Table]:
    """Every table for which there are figures; the first one compares the systems."""
    found = [
        systems_table(metrics),
        cost_table(metrics),
        kinds_table(metrics),
        further_table(metrics),
    ]
    found.append(labels_table(metrics))
    return [table for table in found if table is not None]


def systems_table(metrics: dict) -> Table:
    """The systems on the gold rows."""
    titles = titles_of(metrics)
    labelled = all("macro_f1" in measured for measured in metrics["systems"].values())
    header = [
        "system",
        "accuracy on gold (rows; 95 % interval)",
        *(["macro-F1"] if labelled else ["exact match", "token-F1"]),
        "agrees with teacher",
        "unreadable",
        "tokens per request (prompt + output)",
        "of these cached",
        "times fewer than the teacher",
        "seconds per request (median, p95)",
        "speed-up",
        "rows/s in a batch",
    ]
    rows = []
    for name, measured in metrics["systems"].items():
        if labelled:
            quality = [f"{measured['macro_f1']:.3f}"]
        else:
            quality = [f"{measured['exact_match']:.1%}", f"{measured['token_f1']:.3f}"]
        parts = (
            f"{show(measured['prompt_tokens'], '.1f')} + {show(measured['output_tokens'], '.1f')}"
        )
        rows.append(
            [
                titles[name],
                accuracy(measured),
                *quality,
                show(measured.get("agreement"), ".1%"),
                str(measured["unreadable"]),
                f"{show(measured['tokens'], '.1f')} ({parts})",
                show(measured["cached_tokens"], ".1f"),
                show(measured.get("token_ratio"), ".1f"),
                f"{show(measured['latency_s'], '.4f')}, {show(measured['latency_p95_s'], '.4f')}",
                show(measured.get("speedup"), ".1f"),
                rate(measured["rows_per_second"]),
            ]
        )
    return Table(f"Systems on {metrics['rows']} held-out rows", header, rows)


def cost_table(metrics: dict) -> Table | None:
    """What a million requests cost; None without prices."""
    titles = titles_of(metrics)
    costs = {
        name: measured.get("cost_per_million") for name, measured in metrics["systems"].items()
    }
    if not any(costs.values()):
        return None
    rows = [[titles[name], show(cost, ",.2f")] for name, cost in costs.items()]
    return Table(
        "Cost of a million requests, in the currency of the prices given", ["system", "cost"], rows
    )


def kinds_table(metrics: dict) -> Table | None:
    """Accuracy by kind of row; None where rows have no kind."""
    if not metrics["kinds"]:
        return None
    titles = titles_of(metrics)
    rows = []
    for name in metrics["systems"]:
        of_kinds = [accuracy(of_systems[name]) for of_systems in metrics["kinds"].values()]
        rows.append([titles[name], *of_kinds])
    return Table("By kind of row", ["system", *metrics["kinds"]], rows)


def further_table(metrics: dict) -> Table | None:
    """The inputs without gold; None if there are none."""
    if not metrics["without_gold"]:
        return None
    titles = titles_of(metrics)
    rows = []
    for name, measured in metrics["without_gold"].items():
        agreement = show(measured.get("agreement"), ".1%")
        rows.append([titles[name], str(measured["rows"]), agreement, str(measured["unreadable"])])
    return Table(
        "Inputs without gold", ["system", "rows", "agrees with teacher", "unreadable"], rows
    )


def labels_table(metrics: dict) -> Table | None:
    """Precision, recall and F1 of each label for teacher and student; None for a free-form task."""
    systems = metrics["systems"]
    names = [name for name in systems if name in metrics["confusion"]]
    if not names:
        return None
    header = ["label", "rows"]
    for name in names:
        header += [f"{name}: precision", f"{name}: recall", f"{name}: F1"]
    rows = []
    for label, measured in systems[names[0]]["per_label"].items():
        row = [label, f"{measured['rows']:.0f}"]
        for name in names:
            of_label = systems[name]["per_label"][label]
            row += [f"{of_label[key]:.3f}" for key in ("precision", "recall", "f1")]
        rows.append(row)
    return Table("Labels", header, rows)


def sentences(metrics: dict) -> list[str]:
    """What the tables do not say."""
    found = []
    test = metrics["mcnemar"]
    check = metrics.get("check")
    titles = titles_of(metrics)
    if test:
        found.append(
            f"Right where the other is wrong: student {test['only_student']} rows, "
            f"teacher {test['only_teacher']} (McNemar's exact test: p = {test['p_value']:.3f})."
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
    further += [not_thinking(metrics), labels_not_shown(metrics)]
    found += [sentence for sentence in further if sentence]
    for name, measured in metrics.get("taken_over", {}).items():
        found.append(
            "Taken over from an earlier run of the same command: "
            f"{titles[name]} ({origin(measured)})."
        )
    if origin(metrics):
        found.append(f"Measured on {origin(metrics)}.")
    return found


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


def labels_not_shown(metrics: dict) -> str:
    """What the confusion matrices of a task with many labels do not show.

    Empty if they show all labels.
    """
    parts = []
    for name, found in metrics.get("confusion", {}).items():
        rest = found.get("left_out")
        if rest:
            parts.append(f"{name} {rest['wrong']} of {rest['rows']} rows")
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


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    written = []
    for line in (header, ["---"] * len(header), *rows):
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in line]
        written.append("| " + " | ".join(cells) + " |")
    return "\n".join(written)


def write_report(folder: Path, metrics: dict, predictions: list[dict]) -> None:
    """Write report/: metrics.json, predictions.jsonl, report.md, the PNGs and report.html.

    The last one needs no other file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Replacing(folder / "metrics.json") as file:
        file.write(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    with Replacing(folder / "predictions.jsonl") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions)
    images = draw(metrics, titles_of(metrics), folder)
    with Replacing(folder / "report.md") as file:
        file.write("# Is the student as good as the teacher, and what did it save?\n\n")
        file.write("\n\n".join(sentences(metrics)) + "\n")
        for table in tables(metrics):
            file.write(f"\n## {table.title}\n\n{markdown(table.header, table.rows)}\n")
        for title, path in images:
            file.write(f"\n## {title}\n\n![{title}]({path.name})\n")
    with Replacing(folder / "report.html") as file:
        file.write(page(metrics, predictions, images))


def page(metrics: dict, predictions: list[dict], images: list[tuple[str, Path]]) -> str:
    """report.html, with the PNGs in it.

    Of the rows it shows SHOWN_ROWS, first those that a system gets wrong.
    """
    import jinja2

    systems = list(metrics["systems"])
    judged = [name for name in ("teacher", "student") if name in systems]

    def interest(row: dict) -> tuple[bool, bool]:
        return row["gold"] is None, not any(is_wrong(row, name) for name in judged)

    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
        PAGE.read_text(encoding="utf-8")
    )
    return template.render(
        sentences=sentences(metrics),
        tables=tables(metrics),
        images=[(title, base64.b64encode(path.read_bytes()).decode()) for title, path in images],
        shown=sorted(predictions, key=interest)[:SHOWN_ROWS],
        total=len(predictions),
        systems=systems,
        titles=titles_of(metrics),
        is_wrong=is_wrong,
    )


def is_wrong(row: dict, name: str) -> bool:
    """Whether a system's answer is another one than gold; False without gold."""
    answer = row[name]["answer"]
    if row["gold"] is None:
        return False
    return answer is None or comparable(answer) != comparable(row["gold"])
