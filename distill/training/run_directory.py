"""The output directory of step 2: what makes a run resumable, and what is written about it.

run.json        what decides the result, written at the start; a rerun that differs in it is refused
checkpoint-N/   each with complete.json, the sizes of its files, so that a torn one is not resumed from
README.md       model card, and loss.png
results.json    written last: from then on the adapter counts as finished
"""

import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState
from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import TrainerCallback

from distill.files import Replacing
from distill.input_files import unchanged_sha256
from distill.old_values import OLD_RUN, first_difference
from distill.training.loading import TO_LAUNCH
from distill.training.lock import same_everywhere

log = logging.getLogger("train_sft_trl")
WRITTEN = ["results.json", "run.json", "adapter_model.safetensors", "adapter_config.json", "report"]
# Of SFTConfig, what changes the result; all of our own flags are compared too.
COMPARED = (
    "learning_rate num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps world_size seed "
    "data_seed train_sampling_strategy lr_scheduler_type lr_scheduler_kwargs warmup_steps bf16 fp16 optim optim_args "
    "weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor neftune_noise_alpha "
    "loss_type router_aux_loss_coef dataloader_drop_last eos_token"
)
CARD = """---
{metadata}
---
# LoRA adapter of a distilled prompt

A student of `{student}` that gives a prompted, thinking teacher's answers without the prompt and without thinking.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({adapter})
student = AutoModelForCausalLM.from_pretrained({base}, dtype="auto")
model = PeftModel.from_pretrained(student, {adapter})
```

The user's message is the input alone. Training data: sha256 `{train_sha256}`, {rows} rows.

## Training

```json
{run}
```

## Results

```json
{results}
```
"""


class CompleteCheckpoint(TrainerCallback):
    """Marks a checkpoint as complete with the sizes of its files, so that a torn one is not resumed from."""

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            run = Path(args.output_dir) / "run.json"
            if run.is_file():
                shutil.copy(run, folder)  # whose checkpoint it is
            with Replacing(folder / "complete.json") as file:
                json.dump(file_sizes(folder), file)


def file_sizes(folder: Path) -> dict[str, int]:
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("complete.json"))
    return {str(p.relative_to(folder)): p.stat().st_size for p in files}


def checkpoints(output_dir: Path) -> list[Path]:
    return [p for p in output_dir.glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest complete checkpoint; a torn one is skipped with a warning."""
    for folder in sorted(checkpoints(output_dir), key=lambda p: -int(p.name.rpartition("-")[2])):
        try:
            if json.loads((folder / "complete.json").read_text()) == file_sizes(folder):
                return folder
        except (OSError, ValueError):
            pass
        log.warning("%s: not complete, skipped", folder)
    return None


def steps_of(checkpoint: Path | str) -> int:
    """Optimizer steps that a checkpoint holds; raises OSError or ValueError if it is none."""
    return json.loads((Path(checkpoint) / "trainer_state.json").read_text())["global_step"]


def begun_with_commit(output_dir: Path, model_name: str, revision: str | None) -> str | None:
    """The commit of the student with which a run of the same model and revision was begun here, if there is one."""
    recorded = output_dir / "run.json"
    if not recorded.is_file():
        return None
    run = json.loads(recorded.read_text())
    same = run.get("model_name") == model_name and run.get("revision") == revision
    return run.get("commit") if same else None


def is_finished(output_dir: Path) -> bool:
    return (output_dir / "results.json").exists()


def processes_of(args) -> int:
    """How many processes train, over all machines; to a check before a launch its wrapper has said it."""
    if TO_LAUNCH not in os.environ:
        return args.world_size
    return int(os.environ[TO_LAUNCH]) * int(os.environ.get("NUM_MACHINES", 1))


def recorded_run(script, args) -> dict:
    """What decides the result, as run.json holds it."""
    data = same_everywhere(unchanged_sha256(script.train_file), script.train_file)
    run = {**asdict(script), "train_sha256": data, **{name: str(getattr(args, name)) for name in COMPARED.split()}}
    run["world_size"] = str(processes_of(args))
    for key in ("train_file", "overwrite", "check_only", "checkpoint_from_tokens"):
        del run[key]
    return run


def refuse_another_run(begun: Path, run: dict) -> None:
    """Raise ValueError if `begun`, an output directory or a checkpoint, was begun with something else than `run`."""
    difference = difference_from(begun / "run.json", run)
    if difference:
        raise ValueError(f"{begun}: {difference}; --overwrite starts afresh")


def difference_from(recorded: Path, run: dict) -> str:
    """What decides the result and is another in `run` than was recorded; empty if nothing is."""
    found = first_difference(json.loads(recorded.read_text()), run, OLD_RUN)
    return f"begun with {found.key} {found.before}, now {found.now}" if found else ""


def warn_of_another_run(checkpoint: Path, run: dict) -> None:
    """Say so if a checkpoint that --resume_from_checkpoint names is another run's than `run`, or no one knows whose."""
    for recorded in (checkpoint / "run.json", checkpoint.parent / "run.json"):  # older ones hold none
        if recorded.is_file():
            difference = difference_from(recorded, run)
            if difference:
                log.warning("%s: a checkpoint of another run, %s", checkpoint, difference)
            return
    log.warning("%s: a checkpoint of an unknown run, without run.json", checkpoint)


def prepare_output(script, args) -> str | None:
    """Where to resume from. Refuses to overwrite a finished adapter or to continue another run; ValueError says why.

    With --push_to_hub a finished adapter of the same run passes: only the push is left to do.
    """
    output_dir, resume = Path(args.output_dir), args.resume_from_checkpoint or "last"
    begun = output_dir / "run.json"
    adapter = output_dir / "adapter_model.safetensors"
    finished = is_finished(output_dir) and not script.overwrite
    unknown = adapter.exists() and not begun.exists() and not script.overwrite
    if unknown or (finished and not args.push_to_hub):
        raise ValueError(f"{output_dir}: holds a finished adapter; --overwrite replaces it")
    if finished:
        refuse_another_run(output_dir, recorded_run(script, args))
        return None
    run = recorded_run(script, args)
    checkpoint = None if resume in ("last", "none") else resume
    if checkpoint:
        steps_of(checkpoint)  # refuses what is no checkpoint
        if script.overwrite and Path(checkpoint).resolve().is_relative_to(output_dir.resolve()):
            raise ValueError(f"--resume_from_checkpoint {checkpoint}: --overwrite deletes it; leave one of them out")
        warn_of_another_run(Path(checkpoint), run)
    if script.check_only and script.overwrite:
        return None
    PartialState().wait_for_everyone()  # what is deleted now, another process may still have been looking at
    if args.process_index == 0 and not script.check_only and (script.overwrite or resume == "none"):
        for path in checkpoints(output_dir) + [output_dir / name for name in WRITTEN if script.overwrite]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    PartialState().wait_for_everyone()
    if resume == "last" and (checkpoint := last_checkpoint(output_dir)):
        refuse_another_run(output_dir, run)
        if (checkpoint / "run.json").is_file():  # older ones hold none
            refuse_another_run(checkpoint, run)
    if script.check_only:
        return None
    if checkpoint:
        log.info("resuming from %s", checkpoint)
    PartialState().wait_for_everyone()
    if args.process_index == 0:
        output_dir.mkdir(parents=True, exist_ok=True)
        with Replacing(begun) as file:
            json.dump(run, file, indent=2)
    return str(checkpoint) if checkpoint else None


def evaluation_figures(history: list[dict]) -> dict[str, float]:
    """The last evaluation's loss and share of exact answers, as far as there are any."""
    figures = {}
    for entry in history:
        for key in ("eval_loss", "eval_exact_answers"):
            if key in entry:
                figures[key] = round(entry[key], 4)
    return figures


def public_name(model: str) -> str:
    """A model's name for others: the hub's, or the last part of the directory that it was loaded from."""
    path = Path(model).expanduser()
    return Path(os.path.abspath(path)).name if path.is_absolute() or path.is_dir() else model


def model_card(run: dict, results: dict, adapter: str, revision: str | None = None) -> str:
    """The README of an adapter that is loaded from `adapter`, a directory or a repository on the hub."""
    base = public_name(run["model_name"])
    try:
        validate_repo_id(base)
    except HFValidationError:  # a directory's name that no model can have there; the hub refuses a card with it
        base = None
    tags = ["lora", "prompt-distillation", "trl"]
    metadata = ModelCardData(base_model=base, library_name="peft", pipeline_tag="text-generation", tags=tags)
    return CARD.format(
        metadata=metadata.to_yaml(),
        student=run["model_name"],
        base=at_revision(run["model_name"], run.get("revision")),
        adapter=at_revision(adapter, revision),
        train_sha256=run["train_sha256"],
        rows=results["rows"],
        run=json.dumps(run, indent=2),
        results=json.dumps(results, indent=2),
    )


def at_revision(name: str, revision: str | None) -> str:
    """The arguments of from_pretrained that load a model at a revision."""
    return f'"{name}", revision="{revision}"' if revision else f'"{name}"'


def write_report(output_dir: Path, history: list[dict], summary: dict) -> None:
    """Model card, loss curve and, last of all, results.json: from then on the adapter counts as finished."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for key, style in (("loss", "-"), ("eval_loss", "o--")):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=key)
    axes.set(xlabel="optimizer step", ylabel="cross-entropy per answer token", yscale="log")
    if axes.lines:  # a short run may have logged nothing
        axes.legend()
    figure.savefig(output_dir / "loss.png", dpi=120, bbox_inches="tight")
    run = json.loads((output_dir / "run.json").read_text())
    with Replacing(output_dir / "README.md") as file:
        file.write(model_card(run, summary, summary["output_dir"]))
    with Replacing(output_dir / "results.json") as file:
        json.dump(summary, file, indent=2)
