"""What step 2 finds out and refuses before the student is loaded."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig
from transformers import AutoConfig
from transformers.training_args import ParallelMode

from distill.answer_end import (
    check_answer_end,
    eos_in_generation_config,
    set_eos_token,
    stop_tokens,
)
from distill.input_files import first_sha256
from distill.model_tokenizer import PROBE, load_tokenizer, warn_of_date
from distill.next_step import task_of_rows
from distill.probes import probe_tokens
from distill.revisions import resolve
from distill.training.build import check_trainer
from distill.training.calibration_rows import CalibrationRows, set_apart
from distill.training.few_rows import follow_rows
from distill.training.hub import Repository, open_repository
from distill.training.init_adapter import check_init_adapter
from distill.training.loading import check_fsdp, check_types, empty_model, fsdp_settings
from distill.training.lock import lock_output
from distill.training.lora import lora_of
from distill.training.rows import check_fraction, load_rows, load_some
from distill.training.run_directory import (
    LAST,
    Takeover,
    begun_with_commit,
    continued_run,
    prepare_output,
    processes_of,
    recorded_run,
)
from distill.training.train_files import (
    FileRows,
    Settled,
    counted,
    file_with_task,
    labelled_rows,
    named_files,
    settle,
)


@dataclass
class Checked:
    """What the checks have found, and training goes on with."""

    tokenizer: object
    rows: list[dict]  # input_ids and labels, without those that are kept for calibration
    eval_rows: list[dict] | None = None
    lora: LoraConfig | None = None
    # that a finished run is pushed to, in the process that does
    repository: Repository | None = None
    checkpoint: str | None = None  # to resume from
    few_rows: str = ""  # what there is to say of epochs and batch
    calibration: CalibrationRows = field(default_factory=CalibrationRows)
    task: dict[str, str] = field(default_factory=dict)  # of the rows, as results.json has it
    counts: list[FileRows] = field(default_factory=list)  # rows by train file
    settled: Settled | None = None  # what of them contradicts each other

    def files(self) -> list[str]:
        """The train files, which need not be there any more when training ends."""
        return [each.path for each in self.counts]


def check_run(script, args) -> Checked:
    """Check a run of step 2 up to where the student is loaded, and make its output directory ready.

    `script` is ScriptArguments, which learns what is found out of student and adapter, and `args`
    TrainArguments, which learns epochs and batch. All processes of a run call it. Raises ValueError
    or OSError with what is wrong; nothing has been deleted or written then.
    """
    lock_output(args.output_dir, args.process_index)
    script.commit = commit_of(script, Path(args.output_dir))
    revision = script.commit or "main"
    config = AutoConfig.from_pretrained(script.model_name, revision=revision)
    tokenizer = checked_tokenizer(script, args.eos_token)
    checked = train_rows(script, args.max_length, args.seed, tokenizer)
    rows = checked.rows
    stops = stop_tokens(eos_in_generation_config(script.model_name, config, revision), tokenizer)
    check_answer_end(script.model_name, tokenizer, stops, rows[0]["labels"][-1])
    if script.eval_file:
        first_sha256(script.eval_file)
        checked.eval_rows = load_rows(script.eval_file, tokenizer, args.max_length)
    empty = empty_model(config)
    lora = lora_of(script, empty)
    checked.lora = lora
    if script.init_adapter:
        check_init_adapter(script, Path(args.output_dir), config, lora)
    takeover = Takeover(
        overwrite=script.overwrite,
        resume=args.resume_from_checkpoint or LAST,
        push=args.push_to_hub,
        skip=script.skip_finished,
        check_only=script.check_only,
    )
    begun = continued_run(Path(args.output_dir), takeover)
    checked.few_rows = follow_rows(args, len(rows), processes_of(args.world_size), begun)
    check_sharding(empty, args)
    if args.parallel_mode != ParallelMode.DISTRIBUTED:  # a launch has been checked by one process
        check_trainer(script, args, tokenizer, lora, empty, rows, checked.eval_rows)
    is_main = args.process_index == 0
    if args.push_to_hub and is_main:
        # before prepare_output deletes what --overwrite replaces
        checked.repository = open_repository(args)
    checked.checkpoint = prepare_output(
        Path(args.output_dir), recorded_run(script, args), takeover, is_main
    )
    return checked


def commit_of(script, output_dir: Path) -> str | None:
    """The commit of a student on the hub, None for one in a directory.

    Raises ValueError if there is no such one. A run that has begun goes on with its commit, should
    the branch have moved since.
    """
    begun = None
    if not script.overwrite:
        begun = begun_with_commit(output_dir, script.model_name, script.revision)
    return resolve(script.model_name, begun or script.revision)


def checked_tokenizer(script, eos_token: str | None):
    """The student's tokenizer, whose tokens of the probes go into run.json.

    Raises ValueError for what it cannot do.
    """
    tokenizer = load_tokenizer(script.model_name, script.commit)
    if eos_token:
        set_eos_token(tokenizer, eos_token)
    script.probe_tokens = probe_tokens(tokenizer)
    warn_of_date(script.model_name, tokenizer, [{"role": "user", "content": PROBE}])
    return tokenizer


def train_rows(script, max_length: int | None, seed: int, tokenizer) -> Checked:
    """The encoded rows of the train files, those that are kept away from training, and their task.

    The hashes of both go into run.json. Raises ValueError.
    """
    files = named_files(script.train_file)
    for path in files:
        first_sha256(path)
    of_all = labelled_rows(files)
    settled = settle(of_all, script.on_conflict)
    left, calibration = set_apart(
        settled.rows, script.calibration_fraction, seed, script.init_adapter
    )
    script.calibration_sha256 = calibration.sha256
    check_fraction(script.eval_fraction, len(left))
    return Checked(
        tokenizer,
        load_some(of_all, left, tokenizer, max_length),
        calibration=calibration,
        # now: newer labels may lie there when training ends
        task=task_of_rows(file_with_task(files)),
        counts=counted(files, left),
        settled=settled,
    )


def check_sharding(empty, args) -> None:
    """Raise ValueError, with FSDP, for settings or a student that it cannot shard.

    `empty` has no weights.
    """
    fsdp = fsdp_settings()
    if fsdp:
        check_fsdp(fsdp, args.save_only_model, args.load_best_model_at_end)
        check_types(empty, torch.bfloat16 if args.bf16 else torch.float32)
