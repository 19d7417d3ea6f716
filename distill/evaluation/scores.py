"""Step 3's figures: how good answers are, what they cost, and how two systems compare. No model, no vLLM."""

import statistics
from collections import Counter

import numpy as np

from distill.same_text import comparable

SHOWN_LABELS = 40  # in a confusion matrix, whose cost grows with their square


def quality(answers: list[str | None], gold: list[str], labelled: bool = True) -> dict:
    """How good answers are on gold; None (unreadable) counts as wrong. Without labels, SQuAD's two text measures."""
    from scipy.stats import binomtest

    correct = sum(a == g for a, g in zip(answers, gold, strict=True))
    interval = binomtest(correct, len(gold)).proportion_ci(method="wilson")
    found = {
        "rows": len(gold),
        "correct": correct,
        "accuracy": correct / len(gold),
        "accuracy_interval": [interval.low, interval.high],  # 95 %, Wilson
        "unreadable": answers.count(None),
    }
    if not labelled:
        from torchmetrics.functional.text import squad

        unreadable = "\ue000"  # a private-use character, which no gold answer equals
        answers = [{"prediction_text": unreadable if a is None else a, "id": str(i)} for i, a in enumerate(answers)]
        gold = [{"answers": {"answer_start": [0], "text": [g]}, "id": str(i)} for i, g in enumerate(gold)]
        text = squad(answers, gold)  # in percent, without regard to case, punctuation and articles
        return {**found, "exact_match": float(text["exact_match"]) / 100, "token_f1": float(text["f1"]) / 100}
    from sklearn.metrics import precision_recall_fscore_support

    labels = sorted(set(gold))
    per_label = precision_recall_fscore_support(gold, [a or "" for a in answers], labels=labels, zero_division=0)
    found["macro_f1"] = float(per_label[2].mean())
    found["per_label"] = {
        label: dict(zip(("precision", "recall", "f1", "rows"), map(float, values), strict=True))
        for label, *values in zip(labels, *per_label, strict=True)
    }
    return found


def in_one_form(texts: list[str | None]) -> list[str | None]:
    """Free texts in the form in which they are compared, see same_text.py; None (unreadable) stays."""
    return [None if text is None else comparable(text) for text in texts]


def agreement(answers: list[str | None], teacher: list[str | None]) -> float | None:
    """Share of equal answers among the rows that the teacher answered; None if there are none."""
    pairs = [(a, t) for a, t in zip(answers, teacher, strict=True) if t is not None]
    return sum(a == t for a, t in pairs) / len(pairs) if pairs else None


def cost(result: dict, rows: int, args) -> dict:
    """Tokens (means of the first `rows` requests), seconds and money of one system; None where not measured."""
    keys = ("prompt_tokens", "cached_tokens", "output_tokens")
    prompt, cached, output = (statistics.mean(result[key][:rows]) if result.get(key) else None for key in keys)
    latencies = result.get("latencies", [])
    p50, p95 = map(float, np.percentile(latencies, [50, 95])) if latencies else (None, None)
    found = {"prompt_tokens": prompt, "cached_tokens": cached, "output_tokens": output, "tokens": None}
    if prompt is not None:
        found["tokens"] = prompt + output
        price = (prompt - cached) * args.price_input + cached * args.price_cached + output * args.price_output
        found["cost_per_million"] = price  # requests; prices are for a million tokens
    found |= {"latency_s": p50, "latency_p95_s": p95, "latencies_s": latencies}
    return {**found, "rows_per_second": result.get("rows_per_second")}


def mcnemar(one: list, other: list, gold: list[str]) -> dict:
    """Exact test of whether two systems differ in accuracy, by the rows that only one of them answers correctly.

    Q. McNemar, Psychometrika 12 (1947), in its exact binomial form.
    """
    from scipy.stats import binomtest

    right = [(a == g, b == g) for a, b, g in zip(one, other, gold, strict=True)]
    only_one, only_other = right.count((True, False)), right.count((False, True))
    p_value = binomtest(only_one, only_one + only_other).pvalue if only_one + only_other else 1.0
    return {"only_student": only_one, "only_teacher": only_other, "p_value": float(p_value)}


def most_confused(answers: list[list[str | None]], gold: list[str]) -> list[str]:
    """The labels that confusion matrices show: all, or the SHOWN_LABELS that most wrong rows of all systems concern.

    A wrong row concerns its gold label and the label that was answered. `answers` are those of each system.
    """
    rows = Counter(gold)
    concerned = Counter()
    for of_system in answers:
        for answer, label in zip(of_system, gold, strict=True):
            if answer != label:
                concerned[label] += 1
                if answer in rows:
                    concerned[answer] += 1
    ranked = sorted(rows, key=lambda label: (-concerned[label], -rows[label], label))
    return sorted(ranked[:SHOWN_LABELS])


def confusion(answers: list[str | None], gold: list[str], labels: list[str]) -> dict:
    """Rows by gold label (matrix rows) and answer (columns), with a last column for other and unreadable answers.

    Only `labels` are shown; how many others there are, and how many of their rows are wrong, is "left_out".
    """
    places = {label: place for place, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels) + 1), int)
    others = Counter()
    wrong = 0
    for answer, label in zip(answers, gold, strict=True):
        if label in places:
            matrix[places[label], places.get(answer, -1)] += 1
        else:
            others[label] += 1
            wrong += answer != label
    found = {"labels": labels, "matrix": matrix.tolist()}
    if others:
        found["left_out"] = {"labels": len(others), "rows": others.total(), "wrong": wrong}
    return found


def measure(results: dict, gold: list[str], kinds: list[str | None], labelled: bool, args) -> dict:
    """Every system on the gold rows, by kind of row, and on the inputs without gold, which follow the gold rows.

    `results` holds for each system answers (None: unreadable) and, where measured, tokens per request, seconds per
    request (latencies) and rows_per_second.
    """
    if not labelled:
        gold = in_one_form(gold)
        results = {name: {**result, "answers": in_one_form(result["answers"])} for name, result in results.items()}
    rows, teacher = len(gold), results.get("teacher")
    metrics = {"rows": rows, "systems": {}, "kinds": {}, "without_gold": {}, "confusion": {}, "mcnemar": None}
    for name, result in results.items():
        answers = result["answers"]
        found = metrics["systems"][name] = quality(answers[:rows], gold, labelled) | cost(result, rows, args)
        for kind in sorted(set(kinds) - {None}):
            pairs = [(a, g) for a, g, k in zip(answers[:rows], gold, kinds, strict=True) if k == kind]
            metrics["kinds"].setdefault(kind, {})[name] = quality(*map(list, zip(*pairs, strict=True)), labelled)
        if len(answers) > rows:
            unreadable = answers[rows:].count(None)
            metrics["without_gold"][name] = {"rows": len(answers) - rows, "unreadable": unreadable}
        if teacher:
            found["agreement"] = agreement(answers[:rows], teacher["answers"][:rows])
            if len(answers) > rows:
                metrics["without_gold"][name]["agreement"] = agreement(answers[rows:], teacher["answers"][rows:])
            for key, of in (("speedup", "latency_s"), ("token_ratio", "tokens")):  # how many times the teacher's
                ours, theirs = found[of], metrics["systems"]["teacher"][of]
                found[key] = theirs / ours if ours and theirs else None
    judged = {name: results[name]["answers"][:rows] for name in ("teacher", "student") if labelled and name in results}
    labels = most_confused(list(judged.values()), gold)
    for name, answers in judged.items():
        metrics["confusion"][name] = confusion(answers, gold, labels)
    if teacher and "student" in results:
        metrics["mcnemar"] = mcnemar(results["student"]["answers"][:rows], teacher["answers"][:rows], gold)
    return metrics
