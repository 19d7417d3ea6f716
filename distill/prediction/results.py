"""The end of a run of predict.py: its output and manifest, the last line and the exit code."""

import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from distill.files import Replacing
from distill.next_step import manifest_of
from distill.outputs import TOKEN_COUNTS, beside
from distill.prediction.calibrated import (
    KEY,
    Used,
    confidence_of,
    is_unsure,
    same_calibration,
)
from distill.prediction.console import say_next
from distill.prediction.rows import cells_of, output_columns
from distill.prediction.run import OTHERWISE_CALIBRATED, UNKNOWN, Run
from distill.prediction.table_files import writing
from distill.prices import MILLION
from distill.progress import bar

log = logging.getLogger("predict")
STUDENT = "student"  # as the prices name it
# what the last line has of the manifest
SHOWN = (
    "rows",
    "accepted",
    "rejected",
    "success_rate",
    "mean_confidence",
    KEY,
    "unsure",
    "unsure_share",
    *TOKEN_COUNTS,
    "rows_per_second",
    "cost",
    "cost_per_million",
)


@dataclass
class Totals:
    """What the manifest counts: tokens of inputs that differ, and the others of all rows."""

    labels: Counter = field(default_factory=Counter)
    reasons: Counter = field(default_factory=Counter)
    tokens: Counter = field(default_factory=Counter)
    requests: int = 0  # that were asked
    confidences: int = 0
    sum_of_confidences: float = 0.0
    unsure: int = 0  # with a calibration

    def count_row(self, record: dict, has_labels: bool, used: Used | None) -> None:
        """Take in a row; free texts are too many to be counted."""
        if record["answer"] is None:
            self.reasons[record["reason"]] += 1
        elif has_labels:
            self.labels[record["answer"]] += 1
        found = confidence_of(record, used)
        if found is not None:
            self.confidences += 1
            self.sum_of_confidences += found
        if used and is_unsure(record, used):
            self.unsure += 1

    def count_request(self, record: dict) -> None:
        """Take in what one input that was asked has taken."""
        for attempt in record["attempts"]:
            self.requests += 1
            for key in TOKEN_COUNTS:
                self.tokens[key] += attempt[key]

    def mean_confidence(self) -> float | None:
        """Over all rows that have one; None if none has."""
        if not self.confidences:
            return None
        return round(self.sum_of_confidences / self.confidences, 6)


def write_results(run: Run, commit: str | None, served_as: str | None, seconds: float) -> int:
    """Write output and manifest and print the last line; returns the exit code.

    `commit` is that of the model that was asked, on the hub, and `served_as` how vLLM had its
    adapter; None: nothing was asked.
    """
    choices = run.choices
    journal = run.journal
    if not run.asked:
        commit = journal.commit
    journal.replay()
    left = int(journal.missing().sum())
    if left:
        log.error("predict.py: %d inputs are not answered; the same command asks them", left)
        return 1
    path = beside(Path(choices.output_file), "manifest.json")
    path.unlink(missing_ok=True)  # an earlier output's, which would say that this one is finished
    totals = write_output(run)
    manifest = manifest_for(run, totals, commit, served_as)
    with Replacing(path) as file:
        file.write(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    code = code_of(manifest, run)
    if code == 0:
        say_next(choices, run.student)
    summary = {"output_file": choices.output_file, "asked": run.asked, "seconds": round(seconds, 1)}
    print_summary(summary, manifest)
    return code


def write_output(run: Run) -> Totals:
    """Write a row for each input, and count them; raises InputsChanged."""
    totals = Totals()
    task = run.student.task
    inputs = run.inputs
    rows = run.journal.decided_rows()
    used = run.calibration
    columns = output_columns(run.columns, task, used)
    with writing(Path(run.choices.output_file), columns) as writer:
        for index, row, record in bar(
            rows, later=True, total=len(inputs), desc="writing the rows", unit="row"
        ):
            if inputs.first[index] == index:
                totals.count_request(record)
            totals.count_row(record, bool(task.labels), used)
            writer.write(cells_of(index, row, record, run.columns, used))
    return totals


def manifest_for(run: Run, totals: Totals, commit: str | None, served_as: str | None) -> dict:
    """What OUTPUT.manifest.json holds."""
    choices = run.choices
    journal = run.journal
    rows = len(run.inputs)
    rejected = sum(totals.reasons.values())
    found = {
        **journal.run,
        "adapter": run.student.adapter or None,
        "served_as": served_as,
        "task": run.student.task.hash,
        "task_file": run.student.task_file,
        "input_file": choices.input_file,
    }
    if choices.columns.given():
        found["input_columns"] = choices.columns.given()
    if run.inputs.ids is not None:
        found["ids"] = run.inputs.ids_sha256()
    found.update(run.details(commit))
    rows_per_second = None
    tokens_per_second = None
    if journal.seconds:
        rows_per_second = round(totals.requests / journal.seconds, 2)
        tokens_per_second = round(totals.tokens["output_tokens"] / journal.seconds, 1)
    found.update(
        rows=rows,
        unique_rows=run.inputs.unique(),
        blank_lines=run.inputs.blank_lines,
        accepted=rows - rejected,
        rejected=rejected,
        success_rate=(rows - rejected) / rows,
        reasons=dict(totals.reasons),
        label_counts=dict(totals.labels.most_common()),
        mean_confidence=totals.mean_confidence(),
    )
    if run.calibration:
        found[KEY] = run.calibration.shown()
        found["unsure"] = totals.unsure
        found["unsure_share"] = round(totals.unsure / rows, 6)
    for key in TOKEN_COUNTS:
        found[key] = totals.tokens[key]
    found.update(
        seconds=round(journal.seconds, 1),
        rows_per_second=rows_per_second,
        output_tokens_per_second=tokens_per_second,
    )
    found.update(costs_of(run, totals))
    return found


def costs_of(run: Run, totals: Totals) -> dict:
    """What the requests have cost and what a million of them would.

    Nothing without prices, and of a server that does not count its tokens.
    """
    prices = run.choices.prices
    if not totals.requests or not totals.tokens["prompt_tokens"]:
        return {}
    measured = {key: totals.tokens[key] / totals.requests for key in TOKEN_COUNTS}
    measured["rows_per_second"] = None
    if run.journal.seconds:
        measured["rows_per_second"] = totals.requests / run.journal.seconds
    per_million = prices.of_system(STUDENT, measured)
    if not per_million:
        return {}
    cost = per_million * totals.requests / MILLION
    return {
        "prices": prices.basis(STUDENT),
        "cost": float(f"{cost:.6g}"),
        "cost_per_million": float(f"{per_million:.6g}"),
    }


def print_summary(summary: dict, manifest: dict) -> None:
    """Print the last line: `summary`, and what of the manifest is shown there."""
    for key in SHOWN:
        if key in manifest:
            summary[key] = manifest[key]
    print(json.dumps(summary, ensure_ascii=False))


def leave_finished(run: Run) -> int:
    """Print the last line for an output that an earlier call has finished; returns its exit code.

    Raises ValueError if it was made otherwise than the flags say, or nobody knows how.
    """
    output = run.choices.output_file
    manifest = manifest_of(output)
    if "mean_confidence" not in manifest:
        raise ValueError(f"{output}: {UNKNOWN}")
    path = beside(Path(output), "manifest.json")
    made = {key: manifest[key] for key in run.journal.run if key in manifest}
    run.journal.compare(path, made)
    if manifest.get("ids") != run.inputs.ids_sha256():
        raise ValueError(
            f"{output}: was written with other ids than those of the inputs; remove it, and the "
            "same command writes it anew from its journal"
        )
    if not same_calibration(output, run.calibration):
        raise ValueError(f"{output}: was {OTHERWISE_CALIBRATED}")
    log.info("predict.py: %s is finished, nothing to do", output)
    summary = {"output_file": output, "skipped": True, "asked": 0, "seconds": 0.0}
    print_summary(summary, manifest)
    return code_of(manifest, run)


def code_of(manifest: dict, run: Run) -> int:
    """The exit code of a finished output; says it where too few rows got a valid answer."""
    choices = run.choices
    if manifest["success_rate"] >= choices.min_success_rate:
        return 0
    log.error(
        "predict.py: only %.1f %% of the rows got a valid answer (%s); column 'reason' of %s",
        100 * manifest["success_rate"],
        ", ".join(f"{count} {reason}" for reason, count in manifest["reasons"].items()),
        choices.output_file,
    )
    return 1
