"""How step 3's figures are shown: report.md, report.html, PNGs, and the results table of README.md.

python report.py --metrics models/tiny-distilled/report/metrics.json    # writes the table into README.md
"""

import argparse
import base64
import json
import logging
import sys
from pathlib import Path

import numpy as np

from journal import Replacing

TITLES = {
    "teacher": "teacher, prompt and thinking",
    "base_prompt": "base student, prompt",
    "base": "base student, no prompt",
    "student": "distilled student",
}
MARKS = "<!-- quickstart results -->", "<!-- end of quickstart results -->"
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
<td dir="auto"{% if row.gold is not none and answer != row.gold %} class="wrong"{% endif %}>
{{ answer if answer is not none else "unreadable" }}</td>{% endfor %}</tr>
{% endfor %}</table>
</body>
</html>
"""


def show(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def accuracy(m: dict) -> str:
    low, high = m["accuracy_interval"]
    return f"{m['accuracy']:.1%} ({m['correct']} of {m['rows']}; {low:.1%} to {high:.1%})"


def tables(metrics: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """Every table as (title, header, rows of cells)."""
    systems, found = metrics["systems"], []
    labelled = all("macro_f1" in m for m in systems.values())
    header = ["system", "accuracy on gold (rows; 95 % interval)", *(["macro-F1"] if labelled else [])]
    header += [*([] if labelled else ["exact match", "token-F1"]), "agrees with teacher", "unreadable"]
    header += ["tokens per request (prompt + output)", "of these cached", "times fewer than the teacher"]
    header += ["seconds per request (median, p95)", "speed-up", "rows/s in a batch"]
    rows = []
    for name, m in systems.items():
        row = [TITLES[name], accuracy(m)]
        row += [f"{m['macro_f1']:.3f}"] if labelled else [f"{m['exact_match']:.1%}", f"{m['token_f1']:.3f}"]
        row += [show(m.get("agreement"), ".1%"), str(m["unreadable"])]
        parts = f" ({show(m['prompt_tokens'], '.1f')} + {show(m['output_tokens'], '.1f')})"
        row += [show(m["tokens"], ".1f") + parts, show(m["cached_tokens"], ".1f"), show(m.get("token_ratio"), ".1f")]
        row += [f"{show(m['latency_s'], '.4f')}, {show(m['latency_p95_s'], '.4f')}", show(m.get("speedup"), ".1f")]
        rows.append([*row, show(m["rows_per_second"], ".0f")])
    found.append((f"Systems on {metrics['rows']} held-out rows", header, rows))
    if any(m.get("cost_per_million") for m in systems.values()):
        rows = [[TITLES[name], show(m.get("cost_per_million"), ",.2f")] for name, m in systems.items()]
        found.append(("Cost of a million requests, in the currency of the prices given", ["system", "cost"], rows))
    if metrics["kinds"]:
        rows = [[TITLES[n], *(accuracy(of[n]) for of in metrics["kinds"].values())] for n in systems]
        found.append(("By kind of row", ["system", *metrics["kinds"]], rows))
    if metrics["without_gold"]:
        rows = [
            [TITLES[name], str(m["rows"]), show(m.get("agreement"), ".1%"), str(m["unreadable"])]
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
        found.append(
            f"On {check['rows']} rows ({check['tokens']} tokens, {check['dtype']}) the served tokens are PEFT's greedy "
            f"ones (largest distance in log-probability {check['largest_gap']:.4f})."
        )
    for name, reason in metrics.get("left_out", {}).items():
        found.append(f"Left out: {TITLES[name]} ({reason}).")
    for model in metrics.get("dated_templates", []):
        found.append(f"The chat template of {model} writes the date: on another day its tokens are others.")
    for name, measured in metrics.get("taken_over", {}).items():
        found.append(f"Taken over from an earlier run of the same command: {TITLES[name]} ({origin(measured)}).")
    return [*found, *([f"Measured on {origin(metrics)}."] if origin(metrics) else [])]


def origin(measured: dict) -> str:
    """Where, when and with which commit figures were measured, as far as it is known."""
    return ", ".join(str(measured[key]) for key in ("machine", "date", "commit") if measured.get(key))


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in line) + " |" for line in lines)


def draw(metrics: dict, folder: Path) -> list[tuple[str, Path]]:
    """Write the PNGs; returns (title, path) of each."""
    import matplotlib

    matplotlib.use("Agg")
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # of these fonts some are usually missing
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans"]
    from matplotlib import pyplot

    systems, matrices, paths = metrics["systems"], metrics["confusion"], []
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3, "frameon": False}

    def save(title, name):
        pyplot.savefig(folder / name, dpi=110, bbox_inches="tight")
        pyplot.close()
        paths.append((title, folder / name))

    if matrices:
        labels = next(iter(matrices.values()))["labels"]
        side = max(4, 0.42 * len(labels))
        _, axes = pyplot.subplots(1, len(matrices), figsize=(side * len(matrices) + 1, side), squeeze=False)
        for axis, (name, found) in zip(axes[0], matrices.items(), strict=True):
            matrix = np.array(found["matrix"])
            axis.imshow(matrix, cmap="Blues")
            for i, j in np.argwhere(matrix):
                colour = "white" if matrix[i, j] > matrix.max() / 2 else "black"
                axis.text(j, i, matrix[i, j], ha="center", va="center", color=colour, fontsize=8)
            axis.set_xticks(range(len(labels) + 1), [*labels, "other"], rotation=90)
            axis.set_yticks(range(len(labels)), labels)
            axis.set(title=TITLES[name], xlabel="answer", ylabel="gold")
        save("Confusion matrices", "confusion.png")
        _, axis = pyplot.subplots(figsize=(max(6, 0.6 * len(labels)), 3.5))
        for i, name in enumerate(matrices):
            recall = [m["recall"] for m in systems[name]["per_label"].values()]
            axis.bar(np.arange(len(labels)) + 0.4 * i, recall, 0.38, label=TITLES[name])
        axis.set_xticks(np.arange(len(labels)) + 0.2 * (len(matrices) - 1), labels)
        axis.set(ylabel="accuracy", ylim=(0, 1.02))
        axis.legend(**above)
        save("Accuracy per label", "per_label.png")
    timed = {name: m["latencies_s"] for name, m in systems.items() if m["latencies_s"]}
    if timed:
        _, axis = pyplot.subplots(figsize=(7, 3.5))
        for name, latencies in timed.items():
            axis.ecdf(latencies, label=TITLES[name])
        axis.set(xlabel="seconds per request, one at a time", ylabel="share of requests", xscale="log")
        axis.legend(**above)
        save("Latency", "latency.png")
    counted = {name: m for name, m in systems.items() if m["tokens"] is not None}
    if counted:
        _, axis = pyplot.subplots(figsize=(7, 0.6 + 0.6 * len(counted)))
        names, left = [TITLES[name] for name in counted], np.zeros(len(counted))
        for key, label in (("cached_tokens", "prompt, cached"), ("computed", "prompt"), ("output_tokens", "output")):
            of = [m["prompt_tokens"] - m["cached_tokens"] if key == "computed" else m[key] for m in counted.values()]
            axis.barh(names, of, left=left, label=label)
            left += of
        for i, total in enumerate(left):
            axis.text(total, i, f" {total:.0f}", va="center")
        axis.set(xlabel="tokens per request, mean", xlim=(0, 1.15 * max(left)))
        axis.invert_yaxis()
        axis.legend(**above)
        save("Tokens per request", "tokens.png")
    return paths


def write_report(folder: Path, metrics: dict, predictions: list[dict]) -> None:
    """report/: metrics.json, predictions.jsonl, report.md, the PNGs, and report.html, which needs no other file."""
    import jinja2

    folder.mkdir(parents=True, exist_ok=True)
    with Replacing(folder / "metrics.json") as file:
        file.write(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    with Replacing(folder / "predictions.jsonl") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions)
    images = draw(metrics, folder)
    with Replacing(folder / "report.md") as file:
        file.write("# Is the student as good as the teacher, and what did it save?\n\n")
        file.write("\n\n".join(sentences(metrics)) + "\n")
        for title, header, rows in tables(metrics):
            file.write(f"\n## {title}\n\n{markdown(header, rows)}\n")
        for title, path in images:
            file.write(f"\n## {title}\n\n![{title}]({path.name})\n")
    systems = list(metrics["systems"])
    judged = [name for name in ("teacher", "student") if name in systems]
    wrong = [any(row[name]["answer"] != row["gold"] for name in judged) for row in predictions]
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
                titles=TITLES,
            )
        )


def write_between(path: Path, marks: tuple[str, str], text: str) -> None:
    """Replace what stands between two marks in a file; raises ValueError if it does not hold both."""
    before, _, rest = path.read_text("utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        raise ValueError(f"{path}: holds no {marks[0]} ... {marks[1]}")
    with Replacing(path) as file:
        file.write("\n".join([before + marks[0], text, marks[1] + after]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", default="models/tiny-distilled/report/metrics.json", help="what evaluate.py wrote")
    parser.add_argument("--readme", default="README.md", help=f"holds {MARKS[0]} and its end")
    args = parser.parse_args()
    try:
        metrics = json.loads(Path(args.metrics).read_text("utf-8"))
        shown = [table for table in tables(metrics) if table[0] != "Labels"]
        section = [" ".join(sentences(metrics)), *(f"{title}:\n\n{markdown(*cells)}" for title, *cells in shown)]
        write_between(Path(args.readme), MARKS, "\n\n".join(section))
    except (OSError, ValueError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"readme": args.readme, "rows": metrics["rows"], "commit": metrics.get("commit")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
