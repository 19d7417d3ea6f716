"""An output directory of step 2 as a run leaves it, for tests: begun, with checkpoints."""

import json
from types import SimpleNamespace

from distill.training.checkpoints import CompleteCheckpoint

RUN = {"learning_rate": "0.1", "train_sha256": "abc"}


def begin(folder, run=RUN, step=10, optimizer="optimizer.pt"):
    """An output directory that was begun, with a complete checkpoint.

    The optimizer's file has another name with FSDP, and with --save_only_model there is none.
    """
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if optimizer:
        (checkpoint / optimizer).write_text("state")
    args = SimpleNamespace(output_dir=str(folder))
    CompleteCheckpoint().on_save(
        args, SimpleNamespace(is_world_process_zero=True, global_step=step), None
    )
    return checkpoint


def torn(checkpoint):
    """As a kill during writing leaves it: complete.json says more bytes than are there."""
    (checkpoint / "trainer_state.json").write_text("{")


def contents(folder):
    """The bytes of all files below a folder, by their paths."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
