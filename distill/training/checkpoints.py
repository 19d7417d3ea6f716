"""Checkpoints of step 2: which are complete, and which is the last of them.

Each checkpoint-N holds complete.json, the sizes of its files, so that a torn one is not resumed
from, and a copy of the run.json that it belongs to.
"""

import json
import logging
import shutil
from pathlib import Path

from accelerate import PartialState
from transformers import TrainerCallback

from distill.files import Replacing

log = logging.getLogger("train_sft_trl")
COMPLETE = "complete.json"
# How what holds an optimizer's state begins: on one process, with DDP and FSDP; with DeepSpeed.
OF_OPTIMIZER = ("optimizer", "global_step")


class CompleteCheckpoint(TrainerCallback):
    """Marks a checkpoint as complete with the sizes of its files.

    By then all processes have written theirs.
    """

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            run = Path(args.output_dir) / "run.json"
            if run.is_file():
                shutil.copy(run, folder)  # whose checkpoint it is
            with Replacing(folder / COMPLETE) as file:
                json.dump(file_sizes(folder), file)


def file_sizes(folder: Path) -> dict[str, int]:
    """The bytes of each file below a folder, by its path there, without complete.json itself."""
    sizes = {}
    for path in folder.rglob("*"):
        # and without the file that Replacing writes first
        if path.is_file() and not path.name.startswith(COMPLETE):
            sizes[str(path.relative_to(folder))] = path.stat().st_size
    return sizes


def number_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoints(output_dir: Path) -> list[Path]:
    """All checkpoints of an output directory, complete or not, in no order."""
    found = []
    for path in output_dir.glob("checkpoint-*"):
        if path.name.rpartition("-")[2].isdigit():
            found.append(path)
    return found


def is_complete(checkpoint: Path) -> bool:
    """Whether all files are there with the sizes that they had when the checkpoint was finished."""
    try:
        sizes = json.loads((checkpoint / COMPLETE).read_text())
        return sizes == file_sizes(checkpoint)
    except (OSError, ValueError):  # no complete.json, or a torn one
        return False


def newest_complete(output_dir: Path) -> Path | None:
    """The newest complete checkpoint, without a word about others."""
    complete = [folder for folder in checkpoints(output_dir) if is_complete(folder)]
    return max(complete, key=number_of, default=None)


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest complete checkpoint; a torn one is skipped with a warning."""
    newest = newest_complete(output_dir)
    for folder in sorted(checkpoints(output_dir), key=number_of, reverse=True):
        if folder == newest:
            break
        log.warning("%s: not complete, skipped", folder)
    return newest


def steps_of(checkpoint: Path | str) -> int:
    """Optimizer steps that a checkpoint holds; raises OSError or ValueError if it is none."""
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
    return state["global_step"]


def refuse_without_optimizer(checkpoint: Path, remedy: str) -> None:
    """Raise ValueError for a checkpoint of --save_only_model, which holds the adapter alone.

    Trainer would resume from it without a word, with a new optimizer and a schedule from its start.
    """
    if not any(path.name.startswith(OF_OPTIMIZER) for path in checkpoint.iterdir()):
        raise ValueError(
            f"{checkpoint}: holds no optimizer (--save_only_model), so no run can go on from it; "
            f"{remedy}"
        )
