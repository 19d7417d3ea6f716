"""The end of a run of step 1: its outputs, the last line and the exit code."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

from distill.labels.choices import Choices
from distill.labels.console import say_next
from distill.labels.flips import Flips, say_flips, write_flips
from distill.labels.forced import Forced
from distill.labels.run import Run
from distill.labels.shown_rows import show_rows
from distill.next_step import manifest_of
from distill.outputs import FLIPS, beside
from distill.prices import TokenPrices

log = logging.getLogger("create_data")
# what the last line has of the manifest
SHOWN = ("rows", "accepted", "rejected", "success_rate", *Forced().counts(), *Forced().shares())


def write_results(run: Run, commit: str | None, seconds: float) -> int:
    """Write the outputs and print the last line; a shard writes no outputs.

    `commit` is that of the teacher that was asked, on the hub. Returns the exit code.
    """
    choices = run.choices
    journal = run.journal
    mode = choices.settings.structured_outputs
    if choices.shard.count > 1:
        journal.forced.warn(mode)
        counts = {**asked_in(run, seconds), **journal.forced.counts()}
        print(json.dumps({"shard": choices.shard.text, **counts}))
        return 0
    if not run.asked:
        run.beginning.take_over()
        commit = journal.commit  # without a question nothing was loaded
    journal.replay()
    left = int(journal.missing().sum())
    if left:
        log.error("create_data.py: %d inputs are not decided; the same command asks them", left)
        return 1
    flips = compare_with_earlier(run)  # first: with its manifest an output is finished
    details = {**origin_of(run, flips), **run.details(commit)}
    manifest = journal.write_outputs(bool(run.task.labels), **details)
    Forced(
        answers=manifest["answers"],
        guarded=manifest["guarded_answers"],
        cut=manifest["cut_thoughts"],
    ).warn(mode)
    if choices.show:
        show_rows(run)
    if flips:
        say_flips(flips)
    if manifest["success_rate"] >= choices.min_success_rate:
        say_next(choices.output_file, choices.teacher.model_name)
    print(json.dumps(last_line(run, manifest, flips, seconds)))
    return code_of(manifest["success_rate"], choices)


def asked_in(run: Run, seconds: float) -> dict:
    """How many inputs were asked, and in which time."""
    return {"asked": run.asked, "seconds": round(seconds, 1)}


def origin_of(run: Run, flips: Flips | None) -> dict:
    """What the manifest has of the files that were read, the earlier run and the prices."""
    choices = run.choices
    found = {"task_file": choices.task_file, "input_file": choices.input_file}
    if choices.columns.given():
        found["input_columns"] = choices.columns.given()
    if run.inputs.ids is not None:
        found["ids"] = run.inputs.ids_sha256()
    if flips:
        found["compared_with"] = run.journal.compared_with
        found.update(flips.counts())
    if choices.prices != TokenPrices():
        found["prices"] = asdict(choices.prices)
        found["cost"] = round(run.journal.spent(choices.prices), 6)
    return found


def last_line(run: Run, manifest: dict, flips: Flips | None, seconds: float) -> dict:
    """The result that is printed on stdout."""
    found = {"output_file": run.choices.output_file, **asked_in(run, seconds)}
    for key in SHOWN:
        found[key] = manifest[key]
    if "cost" in manifest:
        found["cost"] = manifest["cost"]
    if run.choices.reuse:
        found["reused"] = run.reused
    if flips:
        found.update(flips.counts())
    return found


def compare_with_earlier(run: Run) -> Flips | None:
    """List what has changed since the run that this one replaces; None if there is none."""
    journal = run.journal
    if journal.compared_with is None:
        return None
    previous = journal.output.with_name(journal.compared_with)
    if not previous.exists():
        log.warning(
            "create_data.py: %s is gone, so nothing says which labels have changed", previous
        )
        beside(journal.output, FLIPS).unlink(missing_ok=True)  # those of an earlier round
        return None
    return write_flips(journal, previous, run.task)


def leave_finished(run: Run) -> int:
    """Print the last line for an output that an earlier call has finished; returns its exit code.

    Raises ValueError if it was made otherwise than the flags say, or nobody knows how.
    """
    choices = run.choices
    manifest = manifest_of(choices.output_file)
    if "success_rate" not in manifest:
        raise ValueError(
            f"{choices.output_file}: no manifest says how it was made; --overwrite replaces it"
        )
    made = {key: manifest[key] for key in run.journal.run if key in manifest}
    run.journal.compare(Path(f"{choices.output_file}.manifest.json"), made)
    if manifest.get("ids") != run.inputs.ids_sha256():
        raise ValueError(
            f"{choices.output_file}: was written with other ids than those of the inputs; "
            "--reuse same writes it anew from its journal"
        )
    log.info("create_data.py: %s is finished, nothing to do", choices.output_file)
    summary = {"output_file": choices.output_file, "skipped": True, "asked": 0, "seconds": 0.0}
    for key in SHOWN:
        if key in manifest:  # older ones do not count forced answers
            summary[key] = manifest[key]
    print(json.dumps(summary))
    if choices.shard.count > 1:  # whoever started the shards calls once more
        return 0
    return code_of(manifest["success_rate"], choices)


def code_of(success_rate: float, choices: Choices) -> int:
    """The exit code of a finished output; says it where too few rows got a label."""
    if success_rate >= choices.min_success_rate:
        return 0
    rejected = f"{choices.output_file}.rejected.jsonl"
    log.error("only %.1f %% of the rows got a label; see %s", 100 * success_rate, rejected)
    return 1
