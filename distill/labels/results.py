"""The end of a run of step 1: its outputs, the last line and the exit code."""

import json
import logging

from distill.labels.console import say_next
from distill.labels.forced import Forced
from distill.labels.run import Run
from distill.labels.shown_rows import show_rows

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
    summary = {"asked": run.asked, "seconds": round(seconds, 1)}
    if choices.shard.count > 1:
        journal.forced.warn(mode)
        print(json.dumps({"shard": choices.shard.text, **summary, **journal.forced.counts()}))
        return 0
    if not run.asked:
        commit = journal.commit  # without a question nothing was loaded
    journal.replay()
    left = int(journal.missing().sum())
    if left:
        log.error("create_data.py: %d inputs are not decided; the same command asks them", left)
        return 1
    files = {"task_file": choices.task_file, "input_file": choices.input_file}
    manifest = journal.write_outputs(bool(run.task.labels), **files, **run.details(commit))
    Forced(
        answers=manifest["answers"],
        guarded=manifest["guarded_answers"],
        cut=manifest["cut_thoughts"],
    ).warn(mode)
    for key in SHOWN:
        summary[key] = manifest[key]
    if choices.show:
        show_rows(run)
    enough = manifest["success_rate"] >= choices.min_success_rate
    if enough:
        say_next(choices.output_file, choices.teacher.model_name)
    print(json.dumps({"output_file": choices.output_file, **summary}))
    if not enough:
        share = 100 * manifest["success_rate"]
        rejected = f"{choices.output_file}.rejected.jsonl"
        log.error("only %.1f %% of the rows got a label; see %s", share, rejected)
        return 1
    return 0
