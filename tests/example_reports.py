"""Reports on answers that are made up: one of labels and one of free texts, without an engine."""

from distill.calibration import Calibration
from distill.evaluation.calibrate import Judged, choose_by_share, fit_temperature
from distill.evaluation.calibrated import Calibrated
from distill.evaluation.cascade import add_cascade, cascade_result
from distill.evaluation.report import write_report
from distill.evaluation.scores import measure
from distill.evaluation.systems import CASCADE
from distill.prices import Prices
from helpers import ROOT, read_jsonl


def predictions_of(texts, gold, results):
    """The lines of predictions.jsonl."""
    rows = []
    for i, text in enumerate(texts):
        row = {"messages": [{"role": "user", "content": text}], "gold": gold[i]}
        for name, result in results.items():
            row[name] = {"answer": result["answers"][i], "response": ""}
        rows.append(row)
    return rows


def costs(rows, prompt, output, latency):
    """What every request of a system took, with some spread."""
    return {
        "prompt_tokens": [prompt] * rows,
        "cached_tokens": [prompt // 2] * rows,
        "output_tokens": [output] * rows,
        "latencies": [latency * (1 + 0.1 * (i % 5)) for i in range(20)],
        "rows_per_second": 3 / latency,
    }


def another(label, labels):
    """The label after this one."""
    return labels[(labels.index(label) + 1) % len(labels)]


def calibration_of(student, teacher):
    """Make a student less sure where it answers otherwise, and calibrate it on the same rows."""
    answers = student["answers"]
    agrees = [own == other for own, other in zip(answers, teacher, strict=True)]
    sure = []
    for i, agreeing in enumerate(agrees):
        doubt = 0.001 + 0.3 * (i % 7 == 0) if agreeing else 0.05 + 0.4 * (i % 3)
        sure.append(-doubt)
    student["log_confidence"] = sure
    judged = Judged(sure, agrees)
    temperature = fit_temperature(judged)
    choice = choose_by_share(judged, temperature, 0.05)
    calibration = Calibration(
        temperature=temperature,
        threshold=choice.threshold,
        chosen_by="hand_over",
        wanted=0.05,
        rows=len(agrees),
        handed_over=choice.handed_over,
        agreed=choice.agreed,
        agreement_bound=choice.bound,
        task_file="example-data/language_classification.yaml",
        task_hash="",
        adapter="",
    )
    again = {"rows": 100, "agreed": 97, "share": 0.97}
    return Calibrated(calibration, judged, answers, again)


def write_large(folder):
    """The example's 420 rows and 13 labels, with four systems; returns report.html."""
    rows = read_jsonl(ROOT / "example-data" / "heldout.jsonl")
    texts = [row["messages"][0]["content"] for row in rows]
    gold = [row["messages"][1]["content"] for row in rows]
    labels = sorted(set(gold))
    teacher = list(gold)
    student = list(gold)
    for i in range(0, 420, 26):
        teacher[i] = another(gold[i], labels) if i % 4 else None
    for i in range(7, 420, 32):
        student[i] = another(gold[i], labels)
    results = {
        "teacher": {"answers": teacher, **costs(420, 2333, 41, 0.16)},
        "base_prompt": {"answers": [None] * 420, **costs(420, 2331, 256, 0.88)},
        "base": {"answers": [labels[i % 13] for i in range(420)], **costs(420, 44, 12, 0.045)},
        "student": {"answers": student, **costs(420, 44, 2, 0.0077)},
    }
    kinds = [row["kind"] for row in rows]
    prices = Prices(1.0, 0.1, 4.0)
    for result in results.values():
        result["responses"] = [""] * 420
    calibrated = calibration_of(results["student"], teacher)
    calibration = calibrated.calibration
    results[CASCADE] = cascade_result(results["student"], results["teacher"], calibration)
    metrics = measure(results, gold, kinds, True, prices)
    metrics["prices"] = {name: prices.basis(name) for name in results}
    add_cascade(metrics, results, gold, True, calibrated)
    metrics.update(machine="2 cores of X", date="2026-01-31", commit="abc1234")
    write_report(folder, metrics, predictions_of(texts, gold, results))
    return folder / "report.html"


def write_free(folder):
    """Free texts as answers, of several lines, with a word that does not break; returns
    report.html.
    """
    notice = "on the matter of fees " * 8
    texts = [f"Rewrite in plain words: notice {i}, {notice}" for i in range(30)]
    gold = [f"You have to pay fee {i}.\nThe office tells you when." for i in range(30)]
    texts[3] = "https://example.com/" + "path/" * 60
    teacher = list(gold)
    teacher[4] = None
    student = [text.replace("has to", "must").replace("tells", "writes to") for text in gold]
    student[5] = gold[5]
    results = {
        "teacher": {"answers": teacher, **costs(30, 900, 160, 1.6)},
        "student": {"answers": student, **costs(30, 60, 24, 0.3)},
    }
    metrics = measure(results, gold, [None] * 30, False, Prices())
    metrics.update(machine="2 cores of X", date="2026-01-31", commit="abc1234")
    write_report(folder, metrics, predictions_of(texts, gold, results))
    return folder / "report.html"
