"""Step 2: the student learns the teacher's answers without the prompt, through LoRA with TRL's SFTTrainer.

    bash train_trl.sh Qwen/Qwen3-30B-A3B-Instruct-2507 models/my_adapter data/prompt_distillation_lang.jsonl

Every SFTConfig flag is accepted, and --config FILE.yaml sets any of them. The loss falls on the answer and its end of
turn, in exactly the context that inference sees. The same command again resumes from the last complete checkpoint.
"""

if __name__ == "__main__":
    from distill import early_stop  # noqa: F401

import atexit
import json
import logging
import os
import sys
import time
import warnings
from copy import copy, deepcopy
from math import ceil
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from datasets import Dataset
from transformers import AutoConfig, IntervalStrategy, set_seed
from transformers.integrations import is_fsdp_enabled
from transformers.training_args import ParallelMode

from distill.answer_end import check_answer_end, eos_in_generation_config, set_eos_token, stop_tokens
from distill.input_files import first_sha256
from distill.model_tokenizer import PROBE, load_tokenizer, warn_of_date
from distill.probes import probe_tokens
from distill.revisions import check_loaded, resolve
from distill.stopping import end_at_signals
from distill.streams import lasting_streams
from distill.system import end_with_parent
from distill.training.arguments import OneLineParser, ScriptArguments, TrainArguments
from distill.training.hub import PushError, Repository, open_repository, push
from distill.training.loading import allocate_trained, check_fsdp, check_types, empty_model, fsdp_settings, load_student
from distill.training.lock import lock_output
from distill.training.lora import describe, lora_of
from distill.training.rows import check_fraction, load_rows, warn_about_rows
from distill.training.run_directory import (
    CompleteCheckpoint,
    begun_with_commit,
    evaluation_figures,
    is_finished,
    prepare_output,
    steps_of,
    write_report,
)
from distill.training.side_by_side import put_side_by_side
from distill.training.trainer import LoraTrainer

log = logging.getLogger("train_sft_trl")


def make_trainer(
    script, args, tokenizer, lora, rows: list[dict], eval_rows: list[dict] | None, model=None
) -> LoraTrainer:
    """Load the student, put LoRA on it and give it its rows; completes `args` where defaults depend on others.

    `model` takes the student's place, and nothing is loaded.
    """
    set_seed(args.seed)
    train_data, eval_data = Dataset.from_list(rows), Dataset.from_list(eval_rows) if eval_rows else None
    if script.eval_fraction:
        train_data, eval_data = train_data.train_test_split(script.eval_fraction, seed=args.seed).values()
    if eval_data is not None and args.eval_strategy == "no":
        args.eval_strategy = IntervalStrategy.EPOCH
    args.warmup_steps = args.warmup_steps or script.warmup_ratio  # below 1 transformers reads it as a ratio
    args.padding_free = args.padding_free and args.per_device_train_batch_size > 1  # one row has no padding
    args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
    load = model is None
    if load:
        dtype = torch.bfloat16 if args.bf16 else torch.float32
        fsdp = parse_flag_from_env("ACCELERATE_USE_FSDP") or bool(args.fsdp)
        model = load_student(
            script.model_name,
            dtype,
            device=args.device,
            rank=args.process_index,
            fsdp=fsdp,
            broadcast=is_fsdp_enabled(),  # and fsdp_cpu_ram_efficient_loading
            commit=script.commit,
        )
        check_loaded(script.model_name, script.commit, model.config)
        if Path(script.model_name).is_dir():
            model.name_or_path = os.path.abspath(script.model_name)  # as the adapter's config will say it
    model.config.use_cache = False
    if args.padding_free:
        one_process = load and args.parallel_mode != ParallelMode.DISTRIBUTED
        obstacle = put_side_by_side(model, train_data["input_ids"][:2] if one_process else None)
        if obstacle and load:
            log.info("batches are padded: %s", obstacle)
        args.padding_free = not obstacle
    if args.padding_free and args.pad_to_multiple_of:  # what is padded would count as rows of its own
        raise ValueError("--pad_to_multiple_of: rows side by side have no padding; add --padding_free false")
    if args.padding_free:
        args.max_length = None  # load_rows has refused longer rows; TRL cannot enforce it without padding
    trainer = LoraTrainer(
        model=model,
        args=args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        processing_class=tokenizer,
        peft_config=lora,
        checkpoint_from_tokens=script.checkpoint_from_tokens,
        callbacks=[CompleteCheckpoint()],
    )
    if load:
        allocate_trained(trainer.model)
    return trainer


def check_trainer(script, args, tokenizer, lora, empty, rows: list[dict], eval_rows: list[dict] | None) -> None:
    """Let Trainer and SFTTrainer refuse flags before the student is loaded: make one for `empty`.

    `empty` is the student without weights. Nothing is written. Raises ValueError.
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
    args.push_to_hub = False
    empty.hf_device_map = {"": "meta"}  # where Trainer then leaves it
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.device("meta"):
        args.output_dir = folder
        warnings.simplefilter("ignore")  # they come again with the student
        try:
            trainer = make_trainer(script, args, tokenizer, lora, first_rows, first_eval_rows, empty)
            trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
            trainer.create_scheduler(num_training_steps=10, optimizer=optimizer)
        except RuntimeError:
            return  # it may need weights; with them it either goes well or says why not
        except Exception as error:
            raise ValueError(f"Trainer takes no such flags: {type(error).__name__}: {error}") from error


def finish(output_dir: Path, summary: dict, repository: Repository | None, tokenizer) -> int:
    """Push a finished run if it has a repository, print the last line; returns 1 where only the push failed."""
    code = 0
    line = dict(summary)
    if repository is not None:
        try:
            push(repository, output_dir, tokenizer)
            line["hub_url"] = repository.url
        except PushError as error:
            print(f"train_sft_trl.py: {error}", file=sys.stderr)
            code = 1
    print(json.dumps(line))
    return code


def leave(code: int) -> int:
    """Wait for the other processes, if there are any, and end with `code`."""
    if torch.distributed.is_initialized():
        PartialState().wait_for_everyone()
        # gloo's destructor joins a thread that may wait for the GIL, and then a finished process never ends
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)
    return code


def main() -> int:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()  # the launcher puts its processes into sessions of their own, where its death leaves them
    end_at_signals()
    lasting_streams()
    logging.basicConfig(format="%(message)s")
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    log.setLevel(level)
    logging.getLogger("models").setLevel(level)
    # PEFT looks for the experts' rank among the modules, where they are not; tests pin the rank they get
    warnings.filterwarnings("ignore", message=".*_pattern keys did not match")
    try:
        script, args = OneLineParser((ScriptArguments, TrainArguments)).parse()
        lock_output(args.output_dir, args.process_index)
        begun = None
        if not script.overwrite:  # a run goes on with its commit, should the branch have moved since
            begun = begun_with_commit(Path(args.output_dir), script.model_name, script.revision)
        script.commit = resolve(script.model_name, begun or script.revision)
        revision = script.commit or "main"
        config = AutoConfig.from_pretrained(script.model_name, revision=revision)
        tokenizer = load_tokenizer(script.model_name, script.commit)
        if args.eos_token:
            set_eos_token(tokenizer, args.eos_token)
        script.probe_tokens = probe_tokens(tokenizer)
        warn_of_date(script.model_name, tokenizer, [{"role": "user", "content": PROBE}])
        first_sha256(script.train_file)
        rows = load_rows(script.train_file, tokenizer, args.max_length)
        check_fraction(script.eval_fraction, len(rows))
        stops = stop_tokens(eos_in_generation_config(script.model_name, config, revision), tokenizer)
        check_answer_end(script.model_name, tokenizer, stops, rows[0]["labels"][-1])
        eval_rows = load_rows(script.eval_file, tokenizer, args.max_length) if script.eval_file else None
        empty = empty_model(config)
        lora = lora_of(script, empty)
        fsdp = fsdp_settings()
        if fsdp:
            check_fsdp(fsdp, args.save_only_model, args.load_best_model_at_end)
            check_types(empty, torch.bfloat16 if args.bf16 else torch.float32)
        if args.parallel_mode != ParallelMode.DISTRIBUTED:  # a launch has been checked by one process
            check_trainer(script, args, tokenizer, lora, empty, rows, eval_rows)
        repository = None
        if args.push_to_hub and args.process_index == 0:
            repository = open_repository(args)  # before prepare_output deletes what --overwrite replaces
        checkpoint = prepare_output(script, args)
    except (ValueError, OSError) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"train_sft_trl.py: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    if script.check_only:
        return 0
    output_dir = Path(args.output_dir)
    # prepare_output lets it pass for --push_to_hub alone; a network's file system may still show what it deleted
    if is_finished(output_dir) and not script.overwrite:
        code = 0
        if args.process_index == 0:
            summary = json.loads((output_dir / "results.json").read_text())
            code = finish(output_dir, summary, repository, tokenizer)
        return leave(code)

    args.push_to_hub = False  # Trainer would push the whole folder, with TRL's card; finish does
    args.hub_token = None  # Trainer would write it into training_args.bin
    trainer = make_trainer(script, args, tokenizer, lora, rows, eval_rows)
    is_main, train_data = args.process_index == 0, trainer.train_dataset
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in trainer.model.parameters())
    effective = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = args.max_steps if args.max_steps > 0 else ceil(len(train_data) / effective) * args.num_train_epochs
    if is_main:
        warn_about_rows(rows, eval_rows)
        learned = [t for t in rows[0]["labels"] if t != -100]
        log.info("LoRA on %s", describe(trainer.model))
        log.info("trainable parameters %s of %s (%.2f %%)", f"{trainable:,}", f"{total:,}", 100 * trainable / total)
        log.info("%d rows, effective batch %d, %d optimizer steps", len(train_data), effective, steps)
        log.info("the first row's loss is on %r", tokenizer.decode(learned))
        if steps < 100:
            log.warning("only %d optimizer steps; more come from --num_train_epochs or a smaller batch", steps)

    resumed = steps_of(checkpoint) if checkpoint else 0  # read now: training deletes old checkpoints
    start = time.perf_counter()
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    code = 0
    if is_main:
        steps = trainer.state.global_step
        seconds = time.perf_counter() - start
        tokens = sum(map(len, train_data["input_ids"])) * trainer.state.epoch
        peak = (
            torch.cuda.max_memory_allocated() if torch.cuda.is_available() else getrusage(RUSAGE_SELF).ru_maxrss * 1024
        )
        summary = {
            "output_dir": args.output_dir,
            "steps": steps,
            "rows": len(train_data),
            "tokens": round(tokens),
            "effective_batch_size": effective,
            "train_loss": round(result.training_loss, 4),
            **evaluation_figures(trainer.state.log_history if trainer.eval_dataset else []),
            "trainable_parameters": trainable,
            "seconds": round(seconds, 1),
            "tokens_per_second": round(tokens * (1 - resumed / steps) / seconds, 1),
            "peak_memory_gib": round(peak / 2**30, 2),
        }
        write_report(output_dir, trainer.state.log_history, summary)
        code = finish(output_dir, summary, repository, tokenizer)
    return leave(code)


if __name__ == "__main__":
    sys.exit(main())
