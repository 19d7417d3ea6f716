"""The output directory of step 2: whose run it holds, and what of it a new run takes over.

run.json        what decides the result, written at the start; a rerun that differs in it is refused
checkpoint-N/   see checkpoints.py
README.md       model card (distill/card.py), and loss.png
results.json    written last: from then on the adapter counts as finished
"""

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import PartialState

from distill.adapter_files import weights_identity
from distill.calibration import CALIBRATION, CALIBRATION_ROWS
from distill.files import Replacing
from distill.input_files import unchanged_sha256
from distill.system import TO_LAUNCH
from distill.training.checkpoints import (
    checkpoints,
    last_checkpoint,
    newest_complete,
    refuse_without_optimizer,
    steps_of,
)
from distill.training.lock import same_everywhere
from distill.training.same_run import (
    BETWEEN_HASHES,
    refuse_another_run,
    refuse_foreign,
    run_json_of,
)
from distill.training.train_files import named_files

log = logging.getLogger("train_sft_trl")
LAST = "last"  # of what to resume from: the last complete checkpoint
NONE = "none"
# What --overwrite deletes beside the checkpoints.
WRITTEN = (
    "results.json",
    "run.json",
    "adapter_model.safetensors",
    "adapter_config.json",
    "report",
    CALIBRATION,
    CALIBRATION_ROWS,
)
# Of SFTConfig, what changes the result; all of our own flags but the following are compared too.
COMPARED = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "seed",
    "data_seed",
    "train_sampling_strategy",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "bf16",
    "fp16",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "loss_type",
    "router_aux_loss_coef",
    "dataloader_drop_last",
    "eos_token",
)
# The train files count by their contents, and the others do not change the result.
NOT_COMPARED = (
    "train_file",
    "overwrite",
    "skip_finished",
    "check_only",
    "checkpoint_from_tokens",
)


@dataclass
class Takeover:
    """What the flags say about an output directory that holds something."""

    overwrite: bool = False
    resume: str = LAST  # or NONE, or a checkpoint's path
    push: bool = False  # a finished adapter is pushed
    skip: bool = False  # a finished adapter of the same run is left as it is, and that is no error
    check_only: bool = False  # nothing is deleted or written


def is_finished(output_dir: Path) -> bool:
    """Whether a run has ended there; results.json is written last of all."""
    return (output_dir / "results.json").exists()


def begun_with_commit(output_dir: Path, model_name: str, revision: str | None) -> str | None:
    """The commit of the student with which a run was begun here, if there is one.

    It counts for a run of the same model and revision.
    """
    recorded = output_dir / "run.json"
    if not recorded.is_file():
        return None
    run = json.loads(recorded.read_text())
    same = run.get("model_name") == model_name and run.get("revision") == revision
    return run.get("commit") if same else None


def continued_run(output_dir: Path, takeover: Takeover) -> dict:
    """What run.json holds of the run that would go on here, or that is finished; empty if none."""
    recorded = None
    if not takeover.overwrite and is_finished(output_dir):
        recorded = output_dir / "run.json"  # with which it is compared, whatever it would resume
    elif takeover.resume not in (LAST, NONE):
        recorded = run_json_of(Path(takeover.resume))
    elif not takeover.overwrite and takeover.resume == LAST:
        newest = newest_complete(output_dir)
        recorded = run_json_of(newest) if newest else None
    if recorded is None or not recorded.is_file():
        return {}
    return json.loads(recorded.read_text())


def processes_of(world_size: int) -> int:
    """How many processes train, over all machines.

    To a check before a launch its wrapper has said it.
    """
    if TO_LAUNCH not in os.environ:
        return world_size
    return int(os.environ[TO_LAUNCH]) * int(os.environ.get("NUM_MACHINES", 1))


def recorded_run(script, args) -> dict:
    """What decides the result, as run.json holds it; settings of SFTConfig are texts.

    All processes call it. Raises ValueError if a file of rows has changed, or if it or the student
    is another one elsewhere.
    """
    run = asdict(script)
    files = named_files(script.train_file)
    train_sha256 = BETWEEN_HASHES.join(unchanged_sha256(path) for path in files)
    # all at once: processes that have found another number of files must not wait for each other
    run["train_sha256"] = same_everywhere(train_sha256, script.train_file)
    run["eval_sha256"] = None
    if script.eval_file:
        eval_sha256 = unchanged_sha256(script.eval_file)
        run["eval_sha256"] = same_everywhere(eval_sha256, script.eval_file)
    for name in COMPARED:
        run[name] = str(getattr(args, name))
    run["world_size"] = str(processes_of(args.world_size))
    for name in NOT_COMPARED:
        del run[name]
    # last, since what decides about these rows is the better reason to name
    del run["calibration_sha256"]
    run["calibration_sha256"] = same_everywhere(script.calibration_sha256, CALIBRATION_ROWS)
    weights = same_everywhere(weights_identity(script.model_name), script.model_name)
    if weights:  # of a student on the hub the commit tells them
        run["weights"] = weights
    if len(files) > 1:  # so that a message can name them; their contents are compared
        names = [Path(path).name for path in files]
        run["train_files"] = names if len(set(names)) == len(names) else files
    return run


def prepare_output(
    output_dir: Path, run: dict, takeover: Takeover, is_main: bool = True
) -> str | None:
    """Make the directory ready for `run` and return the checkpoint to resume from.

    None: the run begins afresh. All processes call it; `is_main` is the one that deletes and
    writes. With takeover.push or takeover.skip a finished adapter of the same run passes: at most
    the push is left to do. Raises ValueError rather than overwrite a finished adapter or continue
    another run, and ValueError or OSError for a checkpoint that is none.
    """
    if not takeover.overwrite:
        refuse_finished(output_dir, takeover.push or takeover.skip)
        if is_finished(output_dir):
            refuse_another_run(output_dir, run)
            return None
    named = None
    if takeover.resume not in (LAST, NONE):
        named = takeover.resume
        check_named(named, output_dir, run, takeover.overwrite)
    if takeover.check_only and takeover.overwrite:
        return None  # what is there now will be gone
    if not takeover.check_only:
        make_room(output_dir, takeover, is_main)
    checkpoint = named
    if takeover.resume == LAST:
        checkpoint = own_checkpoint(output_dir, run)
    if takeover.check_only:
        return None
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)
    PartialState().wait_for_everyone()  # until all have compared run.json, which is now replaced
    if is_main:
        output_dir.mkdir(parents=True, exist_ok=True)
        with Replacing(output_dir / "run.json") as file:
            json.dump(run, file, indent=2)
    return checkpoint


def refuse_finished(output_dir: Path, stays: bool) -> None:
    """Raise ValueError if the directory holds a finished adapter that a new run would replace.

    It may be there where it `stays`, unless nobody knows whose it is.
    """
    adapter = output_dir / "adapter_model.safetensors"
    unknown = adapter.exists() and not (output_dir / "run.json").exists()
    if unknown or (is_finished(output_dir) and not stays):
        raise ValueError(f"{output_dir}: holds a finished adapter; --overwrite replaces it")


def check_named(named: str, output_dir: Path, run: dict, overwrite: bool) -> None:
    """Refuse a --resume_from_checkpoint that cannot be resumed from.

    It names no checkpoint, another run's, one without an optimizer, or one that --overwrite
    deletes. Raises ValueError or OSError.
    """
    checkpoint = Path(named)
    steps_of(checkpoint)  # refuses what is no checkpoint
    if overwrite and checkpoint.resolve().is_relative_to(output_dir.resolve()):
        raise ValueError(
            f"--resume_from_checkpoint {named}: --overwrite deletes it; leave one of them out"
        )
    remedy = f"--init_adapter {named} starts a new run from its weights"
    refuse_foreign(checkpoint, run, remedy)
    refuse_without_optimizer(checkpoint, remedy)


def make_room(output_dir: Path, takeover: Takeover, is_main: bool) -> None:
    """Let one process delete what --overwrite, or starting afresh, replaces."""
    # what is deleted now, another process may still have been looking at
    PartialState().wait_for_everyone()
    if is_main:
        for path in replaced_files(output_dir, takeover):
            delete(path)
    PartialState().wait_for_everyone()


def replaced_files(output_dir: Path, takeover: Takeover) -> list[Path]:
    """The files and directories of an earlier run that a new one replaces.

    Not all of them need be there.
    """
    replaced = []
    if takeover.overwrite or takeover.resume == NONE:
        replaced += checkpoints(output_dir)
    if takeover.overwrite:
        replaced += [output_dir / name for name in WRITTEN]
    return replaced


def delete(path: Path) -> None:
    """Delete a file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def own_checkpoint(output_dir: Path, run: dict) -> str | None:
    """The last complete checkpoint of an output directory, if there is one.

    Raises ValueError for another run's, and for one without an optimizer.
    """
    checkpoint = last_checkpoint(output_dir)
    if checkpoint is None:
        return None
    if (output_dir / "run.json").is_file():
        refuse_another_run(output_dir, run)
    refuse_foreign(checkpoint, run, "remove it, or --overwrite starts afresh")
    refuse_without_optimizer(
        checkpoint,
        "--resume_from_checkpoint none starts afresh, --init_adapter with it and another "
        "--output_dir takes its weights",
    )
    return str(checkpoint)
