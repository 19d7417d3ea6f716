"""Step 3's figures: how good answers are, what they cost, and how two systems compare.

No model, no vLLM.
"""

import statistics
from collections import Counter

import numpy as np

from distill.evaluation.fields import right_by_field
from distill.intervals import wilson
from distill.outputs import TOKEN_COUNTS
from distill.prices import Prices
from distill.same_text import comparable

SHOWN_LABELS = 40  # in a confusion matrix, whose cost grows with their square
# in a confusion matrix, an answer that is no shown label; a private-use character, so no label
ELSEWHERE = "\ue000"


def quality(
    answers: list[str | None],
    gold: list[str],
    labelled: bool = True,
    fields: list[str] | None = None,
) -> dict:
    """How good answers are on gold; None (unreadable) counts as wrong.

    Of labels, figures of each. Of JSON, whose top-level `fields` are given, figures of each field.
    Of other texts, measures of how near they come.
    """
    correct = sum(answer == right for answer, right in zip(answers, gold, strict=True))
    found = {**share_of(correct, len(gold)), "unreadable": answers.count(None)}
    if labelled:
        found.update(of_labels(answers, gold))
    elif fields is not None:
        found.update(of_fields(answers, gold, fields))
    else:
        found.update(of_texts(answers, gold))
    return found


def share_of(correct: int, rows: int) -> dict:
    """How many rows are right, and what share of all that is, with its interval."""
    return {
        "rows": rows,
        "correct": correct,
        "accuracy": correct / rows,
        "accuracy_interval": wilson(correct, rows),
    }


def of_labels(answers: list[str | None], gold: list[str]) -> dict:
    """Precision, recall and F1 of each label that gold has, and the mean F1."""
    from sklearn.metrics import precision_recall_fscore_support

    labels = sorted(set(gold))
    readable = [answer or "" for answer in answers]
    columns = precision_recall_fscore_support(gold, readable, labels=labels, zero_division=0)
    per_label = {}
    for label, precision, recall, f1, rows in zip(labels, *columns, strict=True):
        per_label[label] = {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "rows": float(rows),
        }
    return {"macro_f1": float(columns[2].mean()), "per_label": per_label}


def of_fields(answers: list[str | None], gold: list[str], fields: list[str]) -> dict:
    """The share of right rows of each top-level field of JSON, and the mean of these shares."""
    per_field = {}
    for field, correct in right_by_field(answers, gold, fields).items():
        per_field[field] = share_of(correct, len(gold))
    shares = [of_field["accuracy"] for of_field in per_field.values()]
    return {"field_accuracy": statistics.mean(shares) if shares else None, "per_field": per_field}


def of_texts(answers: list[str | None], gold: list[str]) -> dict:
    """How near free texts come to gold, each figure from 0 to 1.

    SQuAD's exact match and token F1, without regard to case, punctuation and articles. And chrF,
    sacrebleu's F-score of character n-grams over all rows, to which a word in another form is near.
    """
    from torchmetrics.functional.text import squad

    unreadable = "\ue000"  # a private-use character, which no gold answer equals
    predictions = []
    targets = []
    for i, (answer, right) in enumerate(zip(answers, gold, strict=True)):
        predictions.append(
            {"prediction_text": unreadable if answer is None else answer, "id": str(i)}
        )
        targets.append({"answers": {"answer_start": [0], "text": [right]}, "id": str(i)})
    percent = squad(predictions, targets)
    chrf = chrf_metric().corpus_score([answer or "" for answer in answers], [gold])
    return {
        "exact_match": float(percent["exact_match"]) / 100,
        "token_f1": float(percent["f1"]) / 100,
        "chrf": chrf.score / 100,
    }


def chrf_metric():
    """sacrebleu's chrF; raises ImportError in an environment that was made before it was needed."""
    try:
        from sacrebleu.metrics import CHRF
    except ImportError:
        raise ImportError(
            "sacrebleu is missing, with which free texts are compared; "
            "install the requirements again, in which it is new"
        ) from None
    return CHRF()


def in_one_form(texts: list[str | None]) -> list[str | None]:
    """Free texts in the form in which they are compared, see same_text.py.

    None (unreadable) stays.
    """
    return [None if text is None else comparable(text) for text in texts]


def agreement(answers: list[str | None], teacher: list[str | None]) -> float | None:
    """Share of equal answers among the rows that the teacher answered; None if there are none."""
    equal = [
        answer == other for answer, other in zip(answers, teacher, strict=True) if other is not None
    ]
    return sum(equal) / len(equal) if equal else None


def cost(result: dict, rows: int) -> dict:
    """Tokens (means of the first `rows` requests) and seconds of one system.

    None where not measured.
    """
    found = {}
    for key in TOKEN_COUNTS:
        found[key] = statistics.mean(result[key][:rows]) if result.get(key) else None
    found["tokens"] = None
    if found["prompt_tokens"] is not None:
        found["tokens"] = found["prompt_tokens"] + found["output_tokens"]
    latencies = result.get("latencies", [])
    found["latency_s"] = float(np.percentile(latencies, 50)) if latencies else None
    found["latency_p95_s"] = float(np.percentile(latencies, 95)) if latencies else None
    found["latencies_s"] = latencies
    found["rows_per_second"] = result.get("rows_per_second")
    return found


def mcnemar(one: list, other: list, gold: list[str]) -> dict:
    """Exact test of whether two systems differ in accuracy.

    It counts the rows that only one of them answers correctly. Q. McNemar, Psychometrika 12
    (1947), in its exact binomial form.
    """
    from scipy.stats import binomtest

    only_one = 0
    only_other = 0
    for first, second, right in zip(one, other, gold, strict=True):
        if first == right and second != right:
            only_one += 1
        if second == right and first != right:
            only_other += 1
    p_value = 1.0
    if only_one + only_other:
        p_value = float(binomtest(only_one, only_one + only_other).pvalue)
    return {"only_student": only_one, "only_teacher": only_other, "p_value": p_value}


def most_confused(answers: list[list[str | None]], gold: list[str]) -> list[str]:
    """The labels that confusion matrices show.

    All, or the SHOWN_LABELS that most wrong rows of all systems concern. A wrong row concerns
    its gold label and the label that was answered. `answers` are those of each system.
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
    """Rows by gold label (matrix rows) and answer (columns).

    A last column holds other and unreadable answers. Only `labels` are shown; how many others
    there are, and how many of their rows are wrong, is "left_out".
    """
    from sklearn.metrics import confusion_matrix

    known = set(labels)
    shown_gold = []
    shown_answers = []
    others = Counter()
    wrong = 0
    for answer, label in zip(answers, gold, strict=True):
        if label in known:
            shown_gold.append(label)
            shown_answers.append(answer if answer in known else ELSEWHERE)
        else:
            others[label] += 1
            wrong += answer != label
    matrix = confusion_matrix(shown_gold, shown_answers, labels=[*labels, ELSEWHERE])
    found = {"labels": labels, "matrix": matrix[:-1].tolist()}  # no gold label is elsewhere
    if others:
        found["left_out"] = {"labels": len(others), "rows": others.total(), "wrong": wrong}
    return found


def by_kind(
    answers: list[str | None],
    gold: list[str],
    kinds: list[str | None],
    labelled: bool,
    fields: list[str] | None,
) -> dict[str, dict]:
    """What quality() finds on the rows of each kind."""
    found = {}
    for kind in sorted(set(kinds) - {None}):
        rows = [row for row, of_row in enumerate(kinds) if of_row == kind]
        of_kind = [answers[row] for row in rows]
        found[kind] = quality(of_kind, [gold[row] for row in rows], labelled, fields)
    return found


def times_fewer(teacher: float | None, system: float | None) -> float | None:
    """How many times a system's figure fits into the teacher's; None where one was not measured."""
    return teacher / system if teacher and system else None


def measure(
    results: dict[str, dict],
    gold: list[str],
    kinds: list[str | None],
    labelled: bool,
    prices: Prices,
    fields: list[str] | None = None,
) -> dict:
    """The figures of every system, by kind of row and in all.

    They are those of the gold rows and of the inputs without gold, which follow the gold rows.
    `results` holds for each system answers (None: unreadable) and, where measured, tokens per
    request, seconds per request (latencies) and rows_per_second. `fields` are the top-level ones of
    answers that are JSON; None where they are not.
    """
    answers = {name: result["answers"] for name, result in results.items()}
    if not labelled:
        gold = in_one_form(gold)
        answers = {name: in_one_form(of_system) for name, of_system in answers.items()}
    rows = len(gold)
    on_gold = {name: of_system[:rows] for name, of_system in answers.items()}
    further = {name: of_system[rows:] for name, of_system in answers.items()}
    metrics = {
        "rows": rows,
        "systems": {},
        "kinds": {},
        "without_gold": {},
        "confusion": {},
        "mcnemar": None,
    }
    for name, result in results.items():
        found = {**quality(on_gold[name], gold, labelled, fields), **cost(result, rows)}
        found["cost_per_million"] = prices.of_system(name, found)
        metrics["systems"][name] = found
        for kind, of_kind in by_kind(on_gold[name], gold, kinds, labelled, fields).items():
            metrics["kinds"].setdefault(kind, {})[name] = of_kind
        if further[name]:
            metrics["without_gold"][name] = {
                "rows": len(further[name]),
                "unreadable": further[name].count(None),
            }
        if "teacher" in results:
            found["agreement"] = agreement(on_gold[name], on_gold["teacher"])
            if further[name]:
                metrics["without_gold"][name]["agreement"] = agreement(
                    further[name], further["teacher"]
                )
            teacher = metrics["systems"]["teacher"]  # it is the first
            found["speedup"] = times_fewer(teacher["latency_s"], found["latency_s"])
            found["token_ratio"] = times_fewer(teacher["tokens"], found["tokens"])
    judged = {}
    if labelled:
        judged = {name: on_gold[name] for name in ("teacher", "student") if name in results}
    labels = most_confused(list(judged.values()), gold)
    for name, of_system in judged.items():
        metrics["confusion"][name] = confusion(of_system, gold, labels)
    if "teacher" in results and "student" in results:
        metrics["mcnemar"] = mcnemar(on_gold["student"], on_gold["teacher"], gold)
    return metrics
