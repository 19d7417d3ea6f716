"""What step 2 writes and says about a run: its figures, the loss curve, the card."""

import json
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import torch

from distill.card import model_card
from distill.files import Replacing
from distill.palette import BLUE, ORANGE
from distill.training.checkpoints import number_of

CURVES = {"loss": BLUE, "eval_loss": ORANGE}  # of loss.png


@dataclass
class Sizes:
    """How much is trained, and in how many steps."""

    rows: int
    trainable: int  # parameters
    parameters: int  # with those that are not trained
    effective_batch: int  # rows of an optimizer step, over all processes
    steps: int | float  # optimizer steps that are planned


def sizes_of(trainer) -> Sizes:
    """The sizes of a run that is about to begin."""
    args = trainer.args
    rows = len(trainer.train_dataset)
    effective_batch = (
        args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    )
    steps = args.max_steps
    if steps <= 0:
        steps = ceil(rows / effective_batch) * args.num_train_epochs
    parameters = list(trainer.model.parameters())
    return Sizes(
        rows=rows,
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        parameters=sum(p.numel() for p in parameters),
        effective_batch=effective_batch,
        steps=steps,
    )


def peak_memory() -> int:
    """Bytes: the most that PyTorch held on the GPU, or without one that the process held."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return getrusage(RUSAGE_SELF).ru_maxrss * 1024


def stopped_before_its_end(trainer) -> str:
    """What there is to say of a run that something has stopped, as a callback can; empty if none.

    Trainer returns from it as from a finished one. No flag stops a run early on purpose.
    """
    state = trainer.state
    if state.global_step >= state.max_steps:
        return ""
    return (
        f"{trainer.args.output_dir}: training has stopped after {state.global_step} of "
        f"{state.max_steps} steps; the same command goes on from the last complete checkpoint"
    )


def summary_of(trainer, sizes: Sizes, train_loss: float, seconds: float, resumed: int) -> dict:
    """The figures of a run that has ended, as results.json holds them.

    `train_loss` is the mean of the steps that this process did, and `seconds` how long they took,
    after `resumed` steps of an earlier process.
    """
    steps = trainer.state.global_step
    if resumed:
        train_loss = resumed_loss(trainer.state.log_history, train_loss, steps, resumed)
    tokens_of_an_epoch = sum(len(row) for row in trainer.train_dataset["input_ids"])
    tokens = tokens_of_an_epoch * trainer.state.epoch
    summary = {
        "output_dir": trainer.args.output_dir,
        "steps": steps,
        "rows": sizes.rows,
        "tokens": round(tokens),
        "effective_batch_size": sizes.effective_batch,
        "train_loss": None if train_loss is None else round(train_loss, 4),
    }
    if trainer.eval_dataset:
        best = best_step(trainer.args, trainer.state)
        summary.update(evaluation_figures(trainer.state.log_history, best))
        if best is not None:
            summary["best_step"] = best
    summary["trainable_parameters"] = sizes.trainable
    summary["seconds"] = round(seconds, 1)
    summary["tokens_per_second"] = round(tokens * (1 - resumed / steps) / seconds, 1)
    summary["peak_memory_gib"] = round(peak_memory() / 2**30, 2)
    return summary


def resumed_loss(
    history: list[dict], trainers_loss: float, steps: int, resumed: int
) -> float | None:
    """The mean training loss of a run of `steps`, of which an earlier process did `resumed`.

    Where none was logged, it is Trainer's, the mean of this process's steps; None without any.
    """
    logged = mean_loss(history)
    if logged is None and steps > resumed:
        return trainers_loss
    return logged


def mean_loss(history: list[dict]) -> float | None:
    """The mean training loss of all steps up to the last that was logged; None if none was.

    Each entry is the mean of the steps since the one before.
    """
    total = 0.0
    counted = 0
    for entry in history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - counted)
            counted = entry["step"]
    return total / counted if counted else None


def best_step(args, state) -> int | None:
    """The step whose adapter is saved in the place of the last one's (--load_best_model_at_end).

    None where the last one's is, as where no checkpoint was written, or the best one is gone.
    """
    best = state.best_model_checkpoint
    if not args.load_best_model_at_end or best is None or not Path(best).is_dir():
        return None
    return number_of(Path(best))


def evaluation_figures(history: list[dict], step: int | None = None) -> dict[str, float]:
    """The loss and share of exact answers after a step, or else the last ones; empty if none."""
    figures = {}
    for entry in history:
        if step is not None and entry.get("step") != step:
            continue
        for key in ("eval_loss", "eval_exact_answers"):
            if key in entry:
                figures[key] = round(entry[key], 4)
    return figures


def draw_losses(history: list[dict], path: Path) -> None:
    """The loss curve of training, and of evaluation where there was one, as an image."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for key, style in CURVES.items():
        entries = [entry for entry in history if key in entry]
        if entries:
            axes.plot(
                [entry["step"] for entry in entries],
                [entry[key] for entry in entries],
                label=key,
                color=style.colour,
                linestyle=style.line,
                # evaluations are few, and a single one is no line
                marker=style.marker if key == "eval_loss" else "",
            )
    axes.set(xlabel="optimizer step", ylabel="cross-entropy per answer token", yscale="log")
    if axes.lines:  # a short run may have logged nothing
        axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def write_results(output_dir: Path, history: list[dict], summary: dict) -> None:
    """Write model card, loss curve and, last of all, results.json.

    From then on the adapter counts as finished.
    """
    draw_losses(history, output_dir / "loss.png")
    run = json.loads((output_dir / "run.json").read_text())
    with Replacing(output_dir / "README.md") as file:
        file.write(model_card(run, summary, summary["output_dir"]))
    with Replacing(output_dir / "results.json") as file:
        json.dump(summary, file, indent=2)
