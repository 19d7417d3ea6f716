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
    "weights": "other weights in the directory of --model_name",
    "probe_tokens": "a tokenizer or chat template that gives other tokens",
    "init_adapter_identity": "another --init_adapter, or one of two without any",
}
SHOWN = 12  # characters of a hash
BETWEEN_HASHES = ","  # of several train files, in their order
# They may lie elsewhere by now; their identities are compared.
NOT_COMPARED_PATHS = ("init_adapter", "train_files")


def in_words(found: Difference, files: list[str] | None = None) -> str:
    """What a run was begun with, and what it would go on with.

    `files` are the names of the train files of today, if there are several.
    """
    if found.key not in IN_WORDS:
        return f"begun with {found.key} {found.before}, now {found.now}"
    what = IN_WORDS[found.key]
    if found.key == "train_sha256":
        what = changed_files(hashes_of(found.before), hashes_of(found.now), files) or what
    values = ""
    if not isinstance(found.before, dict):  # token ids of several texts
        values = f" ({shortened(found.before)}, now {shortened(found.now)})"
    return f"begun with {what}{values}"


def hashes_of(value) -> list[str]:
    """Of each train file, as run.json holds them."""
    return str(value).split(BETWEEN_HASHES)


def shortened(value) -> str:
    """A hash, or those of several files, by the first characters."""
    return BETWEEN_HASHES.join(each[:SHOWN] for each in hashes_of(value))


def changed_files(before: list[str], now: list[str], files: list[str] | None) -> str:
    """What is another in the train files of today, whose names are `files`; empty for one file."""
    if len(before) != len(now):
        return "another number of files in --train_file"
    if not files:
        return ""
    if sorted(before) == sorted(now):
        return "the files of --train_file in another order"
    changed = []
    for old, new, name in zip(before, now, files, strict=True):
        if old != new:
            changed.append(name)
    return f"other rows in {' and '.join(changed)} of --train_file"


def difference_from(recorded: Path, run: dict) -> str:
    """What decides the result and is another in `run` than was recorded; empty if nothing is."""
    before = json.loads(recorded.read_text())
    now = dict(run)
    for name in NOT_COMPARED_PATHS:
        before.pop(name, None)
        now.pop(name, None)
    found = first_difference(before, now, OLD_RUN)
    return "" if found is None else in_words(found, run.get("train_files"))


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
