"""Whether an output directory or a checkpoint is of the run of today, and in words what differs."""

import json
from pathlib import Path

from distill.old_values import OLD_RUN, Difference, first_difference

# Keys of run.json whose values say nothing to a reader; a hash is shown by its first characters.
IN_WORDS = {
    "train_sha256": "other rows in --train_file",
    "eval_sha256": "other rows in --eval_file",
    "calibration_sha256": "other rows kept for calibration",
    "commit": "another commit of the student",
    "probe_tokens": "a tokenizer or chat template that gives other tokens",
    "init_adapter_identity": "another --init_adapter, or one of two without any",
}
SHOWN = 12  # characters of a hash
# It may lie elsewhere by now; its identity is compared.
NOT_COMPARED_PATHS = ("init_adapter",)


def in_words(found: Difference) -> str:
    """What a run was begun with, and what it would go on with."""
    if found.key not in IN_WORDS:
        return f"begun with {found.key} {found.before}, now {found.now}"
    values = ""
    if not isinstance(found.before, dict):  # token ids of several texts
        values = f" ({str(found.before)[:SHOWN]}, now {str(found.now)[:SHOWN]})"
    return f"begun with {IN_WORDS[found.key]}{values}"


def difference_from(recorded: Path, run: dict) -> str:
    """What decides the result and is another in `run` than was recorded; empty if nothing is."""
    before = json.loads(recorded.read_text())
    now = dict(run)
    for name in NOT_COMPARED_PATHS:
        before.pop(name, None)
        now.pop(name, None)
    found = first_difference(before, now, OLD_RUN)
    return "" if found is None else in_words(found)


def refuse_another_run(output_dir: Path, run: dict) -> None:
    """Raise ValueError if an output directory was begun with something else than `run`."""
    difference = difference_from(output_dir / "run.json", run)
    if difference:
        raise ValueError(f"{output_dir}: {difference}; --overwrite starts afresh")


def run_json_of(checkpoint: Path) -> Path | None:
    """The file that says whose checkpoint it is; None if there is none."""
    for recorded in (checkpoint / "run.json", checkpoint.parent / "run.json"):
        if recorded.is_file():  # older checkpoints hold none of their own
            return recorded
    return None


def refuse_foreign(checkpoint: Path, run: dict, remedy: str) -> None:
    """Raise ValueError if a checkpoint is not one of `run`, or if no one knows whose it is.

    Its optimizer, schedule, steps and losses would become those of this run.
    """
    recorded = run_json_of(checkpoint)
    if recorded is None:
        raise ValueError(f"{checkpoint}: no run.json says whose checkpoint it is; {remedy}")
    difference = difference_from(recorded, run)
    if difference:
        raise ValueError(f"{checkpoint}: a checkpoint of another run, {difference}; {remedy}")
