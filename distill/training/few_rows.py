"""Epochs and batch where neither a flag nor --config sets them. No torch, no TRL.

From ENOUGH_ROWS on they are the recipe's. Fewer rows would make too few optimizer steps of them to
learn anything, so there both follow the number of rows. A run that goes on keeps its own.
"""

from math import ceil

from distill.training.recipe import BATCH, EPOCHS

FOLLOW_ROWS = ("num_train_epochs", "per_device_train_batch_size")  # the flags
ENOUGH_ROWS = 2000
STEPS = 150  # optimizer steps, about
MOST_EPOCHS = 10


def batch_of_each(step_rows: int, micro_batches: int) -> int:
    """Rows of each micro-batch where an optimizer step takes `step_rows`.

    `micro_batches` are those of one step, over all processes.
    """
    return max(1, step_rows // micro_batches)


def fitting_batch(rows: int, epochs: float, micro_batches: int) -> int:
    """Rows of each micro-batch: the recipe's for an optimizer step, halved until there are enough.

    Enough are STEPS optimizer steps in so many `epochs`; a micro-batch keeps at least one row.
    """
    step_rows = BATCH
    while step_rows > micro_batches:
        together = batch_of_each(step_rows, micro_batches) * micro_batches
        if ceil(rows / together) * epochs >= STEPS:
            break
        step_rows //= 2
    return batch_of_each(step_rows, micro_batches)


def fitting_epochs(rows: int, step_rows: int) -> float:
    """Epochs that come to about STEPS optimizer steps of `step_rows`.

    At least the recipe's and at most MOST_EPOCHS.
    """
    steps_of_an_epoch = ceil(rows / step_rows)
    epochs = round(STEPS / steps_of_an_epoch)
    return float(min(max(epochs, EPOCHS), MOST_EPOCHS))


def follow_rows(args, rows: int, processes: int, begun: dict) -> str:
    """Set epochs and batch of TrainArguments, as far as no flag has, and return what to say of it.

    `rows` are those of the train file, before any are left out for evaluation. `begun` is run.json
    of the run that goes on, empty for a new one. Nothing is said of the recipe's own values.
    """
    if not args.not_given:
        return ""
    if all(name in begun for name in args.not_given):
        return keep_begun(args, begun)
    if rows >= ENOUGH_ROWS or args.max_steps > 0:  # of which there are as many as were asked for
        return ""
    micro_batches = processes * args.gradient_accumulation_steps
    if "per_device_train_batch_size" in args.not_given:
        epochs = args.num_train_epochs
        if "num_train_epochs" in args.not_given:
            epochs = MOST_EPOCHS
        args.per_device_train_batch_size = fitting_batch(rows, epochs, micro_batches)
    step_rows = args.per_device_train_batch_size * micro_batches
    if "num_train_epochs" in args.not_given:
        args.num_train_epochs = fitting_epochs(rows, step_rows)
    flags = " and ".join(f"--{name}" for name in args.not_given)
    return (
        f"{rows:,} rows are fewer than {ENOUGH_ROWS:,}: to come near {STEPS} optimizer steps, "
        f"{args.num_train_epochs:g} epochs with a batch of {step_rows}; {flags} override"
    )


def keep_begun(args, begun: dict) -> str:
    """Take what no flag has set from `begun`, run.json of the run that goes on."""
    kept = []
    for name in args.not_given:
        value = as_number(begun[name])
        if value != getattr(args, name):
            kept.append(f"--{name} {value:g}")
        setattr(args, name, value)
    if not kept:
        return ""
    return f"as the run was begun: {' '.join(kept)}"


def as_number(text: str) -> int | float:
    """The number that run.json holds as a text, so that it becomes the same text again."""
    return int(text) if text.isdigit() else float(text)
