"""The trainer of step 2.

The student with LoRA on it, its rows, and the arguments that depend on others.
"""

import logging
import os
import warnings
from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate.utils import parse_flag_from_env
from datasets import Dataset
from peft import LoraConfig
from transformers import IntervalStrategy, set_seed
from transformers.integrations import is_fsdp_enabled
from transformers.training_args import ParallelMode

from distill.revisions import check_loaded
from distill.training.checkpoints import CompleteCheckpoint
from distill.training.init_adapter import load_weights
from distill.training.loading import allocate_trained, load_student
from distill.training.side_by_side import put_side_by_side
from distill.training.trainer import LoraTrainer

log = logging.getLogger("train_sft_trl")


@dataclass
class Datasets:
    """The rows that are trained on, and those that are evaluated on, if there are any."""

    training: Dataset
    evaluation: Dataset | None


def make_trainer(
    script,
    args,
    tokenizer,
    lora: LoraConfig,
    rows: list[dict],
    eval_rows: list[dict] | None,
    model=None,
    init_adapter: str | None = None,
) -> LoraTrainer:
    """Load the student, put LoRA on it and give it its rows.

    `script` is ScriptArguments and `args` TrainArguments; the trainer has a copy of its own, in
    which those are completed that depend on others. Rows hold input_ids and labels. `model` takes
    the student's place, and nothing is loaded. Raises ValueError for flags that contradict each
    other.
    """
    args = copy(args)
    args.push_to_hub = False  # Trainer would push the whole folder, with TRL's card; hub.py does
    args.hub_token = None  # Trainer would write it into training_args.bin
    set_seed(args.seed)
    data = split_rows(rows, eval_rows, script.eval_fraction, args.seed)
    complete_arguments(args, script.warmup_ratio, data.evaluation is not None)
    is_loaded = model is None
    if is_loaded:
        model = loaded_student(script, args)
    model.config.use_cache = False
    if args.padding_free:
        # of several processes under FSDP only one has the weights, so they do not look
        look = is_loaded and args.parallel_mode != ParallelMode.DISTRIBUTED
        obstacle = put_side_by_side(model, data.training["input_ids"][:2] if look else None)
        if obstacle and is_loaded:
            log.info("batches are padded: %s", obstacle)
        args.padding_free = not obstacle
    if args.padding_free:
        leave_out_padding(args)
    trainer = LoraTrainer(
        model=model,
        args=args,
        train_dataset=data.training,
        eval_dataset=data.evaluation,
        processing_class=tokenizer,
        peft_config=lora,
        checkpoint_from_tokens=script.checkpoint_from_tokens,
        callbacks=[CompleteCheckpoint()],
    )
    if is_loaded:
        allocate_trained(trainer.model)
    if init_adapter:
        load_weights(trainer.model, init_adapter)
    return trainer


def split_rows(
    rows: list[dict], eval_rows: list[dict] | None, eval_fraction: float, seed: int
) -> Datasets:
    """The rows as data sets.

    With `eval_fraction` this share of them is evaluated on and not trained on.
    """
    training = Dataset.from_list(rows)
    if eval_fraction:
        parts = training.train_test_split(eval_fraction, seed=seed)
        return Datasets(parts["train"], parts["test"])
    evaluation = None
    if eval_rows:
        evaluation = Dataset.from_list(eval_rows)
    return Datasets(training, evaluation)


def complete_arguments(args, warmup_ratio: float, is_evaluated: bool) -> None:
    """Set those of TrainArguments that depend on our own flags, on the rows, or on each other."""
    if is_evaluated and args.eval_strategy == "no":
        args.eval_strategy = IntervalStrategy.EPOCH
    # below 1 transformers reads it as a ratio
    args.warmup_steps = args.warmup_steps or warmup_ratio
    if args.per_device_train_batch_size <= 1:
        args.padding_free = False  # one row has no padding
    args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}


def loaded_student(script, args):
    """The student with its weights, as this process needs it.

    Raises ValueError for another commit than asked for.
    """
    model = load_student(
        script.model_name,
        torch.bfloat16 if args.bf16 else torch.float32,
        device=args.device,
        rank=args.process_index,
        fsdp=parse_flag_from_env("ACCELERATE_USE_FSDP") or bool(args.fsdp),
        broadcast=is_fsdp_enabled(),  # and fsdp_cpu_ram_efficient_loading
        commit=script.commit,
    )
    check_loaded(script.model_name, script.commit, model.config)
    if Path(script.model_name).is_dir():
        # as the adapter's config will say it
        model.name_or_path = os.path.abspath(script.model_name)
    return model


def leave_out_padding(args) -> None:
    """Set what rows side by side need; raises ValueError for a flag that pads."""
    if args.pad_to_multiple_of:  # what is padded would count as rows of its own
        raise ValueError(
            "--pad_to_multiple_of: rows side by side have no padding; add --padding_free false"
        )
    # load_rows has refused longer rows; TRL cannot enforce it without padding
    args.max_length = None


def check_trainer(
    script, args, tokenizer, lora: LoraConfig, empty, rows: list[dict], eval_rows: list[dict] | None
) -> None:
    """Let Trainer and SFTTrainer refuse flags before the student is loaded: make one for `empty`.

    `empty` is the student without weights. Nothing is written, and nothing but `empty` is changed.
    Raises ValueError.
    """
    script = copy(script)
    args = deepcopy(args)
    tokenizer = deepcopy(tokenizer)
    lora = deepcopy(lora)
    first_rows = rows[:1]
    first_eval_rows = eval_rows[:1] if eval_rows else None
    if script.eval_fraction:
        first_eval_rows = first_rows
        script.eval_fraction = 0
    empty.hf_device_map = {"": "meta"}  # where Trainer then leaves it
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.device("meta"):
        args.output_dir = folder
        warnings.simplefilter("ignore")  # they come again with the student
        try:
            trainer = make_trainer(
                script, args, tokenizer, lora, first_rows, first_eval_rows, empty
            )
            trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
            trainer.create_scheduler(num_training_steps=10, optimizer=optimizer)
        except RuntimeError:
            return  # it may need weights; with them it either goes well or says why not
        except Exception as error:
            raise ValueError(
                f"Trainer takes no such flags: {type(error).__name__}: {error}"
            ) from error
