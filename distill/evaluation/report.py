"""How step 3's figures are shown: report.md, report.html and PNGs."""

import base64
import json
from pathlib import Path

from distill.evaluation.plots import draw
from distill.evaluation.systems import TITLES, title_of
from distill.evaluation.ties import ties_sentence
from distill.files import Replacing
from distill.same_text import comparable
from distill.server_settings import server_sentence

UNREADABLE = 0.1  # a larger share of the teacher's answers that cannot be read is reported
SHOWN_ROWS = 500  # of the predictions on the page; all are in predictions.jsonl
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Prompt distillation: evaluation</title>
<style>
body { font: 15px/1.45 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; max-width: 1100px; margin: 2em auto; }
body { padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto; }
th, td { border: 1px solid #ccc; padding: .3em .6em; text-align: start; vertical-align: top; }
th { background: #f3f3f3; }
td.text { min-width: 20em; white-space: pre-wrap; overflow-wrap: anywhere; }
td.wrong { background: #fde8e8; }
img { max-width: 100%; }
</style>
</head>
<body>
<h1>Is the student as good as the teacher, and what did it save?</h1>
{% for sentence in sentences %}<p>{{ sentence }}</p>
{% endfor %}
{% for title, header, rows in tables %}<h2>{{ title }}</h2>
<table>
<tr>{% for cell in header %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td dir="auto">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}
{% for name, data in images %}<h2>{{ name }}</h2>
<img alt="{{ name }}" src="data:image/png;base64,{{ data }}">
{% endfor %}
<h2>Rows</h2>
<p>{{ shown | length }} of {{ total }} rows, first those that teacher or student get wrong. All are in
predictions.jsonl.</p>
<table id="rows">
<tr><th>input</th><th>gold</th>{% for name in systems %}<th>{{ titles[name] }}</th>{% endfor %}</tr>
{% for row in shown %}<tr><td class="text" dir="auto">{{ row.messages[-1].content }}</td>
<td dir="auto">{{ row.gold if row.gold is not none else "–" }}</td>
{% for name in systems %}{% set answer = row[name].answer %}
<td dir="auto"{% if is_wrong(row, name) %} class="wrong"{% endif %}>
{{ answer if answer is not none else "unreadable" }}</td>{% endfor %}</tr>
{% endfor %}</table>
</body>
</html>
"""


def show(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def titles_of(metrics: dict) -> dict[str, str]:
    """What the systems are called in the report of `metrics`; old figures are those of a teacher that thinks."""
    return {name: title_of(name, metrics.get("teacher_thinks", True)) for name in TITLES}


def rate(value: float | None) -> str:
    """Rows a second: whole ones, and of few rows two digits."""
    return show(value, ".0f" if value is None or value >= 10 else ".2g")


def accuracy(m: dict) -> str:
    low, high = m["accuracy_interval"]
    return f"{m['accuracy']:.1%} ({m['correct']} of {m['rows']}; {low:.1%} to {high:.1%})"


def tables(metrics: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """Every table as (title, header, rows of cells)."""
    systems, found = metrics["systems"], []
    titles = titles_of(metrics)
    labelled = all("macro_f1" in m for m in systems.values())
    header = ["system", "accuracy on gold (rows; 95 % interval)", *(["macro-F1"] if labelled else [])]
    header += [*([] if labelled else ["exact match", "token-F1"]), "agrees with teacher", "unreadable"]
    header += ["tokens per request (prompt + output)", "of these cached", "times fewer than the teacher"]
    header += ["seconds per request (median, p95)", "speed-up", "rows/s in a batch"]
    rows = []
    for name, m in systems.items():
        row = [titles[name], accuracy(m)]
        row += [f"{m['macro_f1']:.3f}"] if labelled else [f"{m['exact_match']:.1%}", f"{m['token_f1']:.3f}"]
        row += [show(m.get("agreement"), ".1%"), str(m["unreadable"])]
        parts = f" ({show(m['prompt_tokens'], '.1f')} + {show(m['output_tokens'], '.1f')})"
        row += [show(m["tokens"], ".1f") + parts, show(m["cached_tokens"], ".1f"), show(m.get("token_ratio"), ".1f")]
        row += [f"{show(m['latency_s'], '.4f')}, {show(m['latency_p95_s'], '.4f')}", show(m.get("speedup"), ".1f")]
        rows.append([*row, rate(m["rows_per_second"])])
    found.append((f"Systems on {metrics['rows']} held-out rows", header, rows))
    if any(m.get("cost_per_million") for m in systems.values()):
        rows = [[titles[name], show(m.get("cost_per_million"), ",.2f")] for name, m in systems.items()]
        found.append(("Cost of a million requests, in the currency of the prices given", ["system", "cost"], rows))
    if metrics["kinds"]:
        rows = [[titles[n], *(accuracy(of[n]) for of in metrics["kinds"].values())] for n in systems]
        found.append(("By kind of row", ["system", *metrics["kinds"]], rows))
    if metrics["without_gold"]:
        rows = [
            [titles[name], str(m["rows"]), show(m.get("agreement"), ".1%"), str(m["unreadable"])]
            for name, m in metrics["without_gold"].items()
        ]
        found.append(("Inputs without gold", ["system", "rows", "agrees with teacher", "unreadable"], rows))
    names = [name for name in systems if name in metrics["confusion"]]
    if names:
        header = ["label", "rows", *(f"{n}: {what}" for n in names for what in ("precision", "recall", "F1"))]
        rows = []
        for label, m in systems[names[0]]["per_label"].items():
            values = [systems[n]["per_label"][label][key] for n in names for key in ("precision", "recall", "f1")]
            rows.append([label, f"{m['rows']:.0f}", *(f"{value:.3f}" for value in values)])
        found.append(("Labels", header, rows))
    return found


def sentences(metrics: dict) -> list[str]:
    """What the tables do not say."""
    found, test, check = [], metrics["mcnemar"], metrics.get("check")
    titles = titles_of(metrics)
    if test:
        found.append(
            f"Right where the other is wrong: student {test['only_student']} rows, teacher {test['only_teacher']} "
            f"(McNemar's exact test: p = {test['p_value']:.3f})."
        )
    if metrics.get("served_as"):
        found.append(f"The adapter was served as {metrics['served_as']} for every figure of the distilled student.")
    if metrics.get("instead_of"):
        found.append(f"--serve_adapter auto fell back on it: {metrics['instead_of'].rstrip('.')}.")
    if check:
        ties = f", but for a tie on {check['ties']} of these rows" if check.get("ties") else ""
        found.append(
            f"On {check['rows']} rows ({check['tokens']} tokens, {check['dtype']}) the served tokens are PEFT's greedy "
            f"ones{ties} (largest distance in log-probability {check['largest_gap']:.4f})."
        )
    for name, reason in metrics.get("left_out", {}).items():
        found.append(f"Left out: {titles[name]} ({reason}).")
    for model in metrics.get("dated_templates", []):
        found.append(f"The chat template of {model} writes the date: on another day its tokens are others.")
    further = [ties_sentence(metrics.get("ties")), server_sentence(metrics.get("server_settings"))]
    further += [not_thinking(metrics), labels_not_shown(metrics)]
    found += [sentence for sentence in further if sentence]
    for name, measured in metrics.get("taken_over", {}).items():
        found.append(f"Taken over from an earlier run of the same command: {titles[name]} ({origin(measured)}).")
    return [*found, *([f"Measured on {origin(metrics)}."] if origin(metrics) else [])]


def not_thinking(metrics: dict) -> str:
    """That many of the teacher's answers cannot be read, and what may help; empty if they can."""
    teacher = metrics.get("systems", {}).get("teacher")
    if not teacher or teacher["unreadable"] <= UNREADABLE * teacher["rows"]:
        return ""
    unfinished = metrics.get("unfinished_thinking")
    text = f"The teacher's answer cannot be read on {teacher['unreadable']} of {teacher['rows']} rows"
    if unfinished:
        text += (
            f", on {unfinished} rows because its thinking does not end: raise --max_tokens, or pass --reasoning_parser "
            "none for a teacher that does not think"
        )
    return text + "."


def labels_not_shown(metrics: dict) -> str:
    """What the confusion matrices of a task with many labels do not show; empty if they show all labels."""
    parts = []
    for name, found in metrics.get("confusion", {}).items():
        rest = found.get("left_out")
        if rest:
            parts.append(f"{name} {rest['wrong']} of {rest['rows']} rows")
    if not parts:
        return ""
    shown = len(found["labels"])
    return (
        f"Confusion matrices and bars show {shown} of {rest['labels'] + shown} labels, those that are confused most; "
        f"wrong with the others: {', '.join(parts)}."
    )


def origin(measured: dict) -> str:
    """Where, when and with which commit figures were measured, as far as it is known."""
    return ", ".join(str(measured[key]) for key in ("machine", "date", "commit") if measured.get(key))


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in line) + " |" for line in lines)


def write_report(folder: Path, metrics: dict, predictions: list[dict]) -> None:
    """report/: metrics.json, predictions.jsonl, report.md, the PNGs, and report.html, which needs no other file."""
    import jinja2

    folder.mkdir(parents=True, exist_ok=True)
    with Replacing(folder / "metrics.json") as file:
        file.write(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    with Replacing(folder / "predictions.jsonl") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions)
    images = draw(metrics, titles_of(metrics), folder)
    with Replacing(folder / "report.md") as file:
        file.write("# Is the student as good as the teacher, and what did it save?\n\n")
        file.write("\n\n".join(sentences(metrics)) + "\n")
        for title, header, rows in tables(metrics):
            file.write(f"\n## {title}\n\n{markdown(header, rows)}\n")
        for title, path in images:
            file.write(f"\n## {title}\n\n![{title}]({path.name})\n")
    systems = list(metrics["systems"])
    judged = [name for name in ("teacher", "student") if name in systems]
    wrong = [any(is_wrong(row, name) for name in judged) for row in predictions]
    shown = sorted(range(len(predictions)), key=lambda i: (predictions[i]["gold"] is None, not wrong[i]))[:SHOWN_ROWS]
    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
    with Replacing(folder / "report.html") as file:
        file.write(
            page.render(
                sentences=sentences(metrics),
                tables=tables(metrics),
                images=[(title, base64.b64encode(path.read_bytes()).decode()) for title, path in images],
                shown=[predictions[i] for i in shown],
                total=len(predictions),
                systems=systems,
                titles=titles_of(metrics),
                is_wrong=is_wrong,
            )
        )


def is_wrong(row: dict, name: str) -> bool:
    """Whether a system's answer is another one than gold; False without gold."""
    answer = row[name]["answer"]
    if row["gold"] is None:
        return False
    return answer is None or comparable(answer) != comparable(row["gold"])
