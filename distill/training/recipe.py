"""The flags of step 2 that are ours, and our defaults for TRL's. No torch, no TRL.

The defaults are the OpenAI Cookbook's numbers but where a comment says otherwise.
"""

from dataclasses import dataclass, field
from pathlib import Path

from distill.cli import ADAPTER, LABELS, STUDENT, check_model
from distill.training.train_files import ON_CONFLICT, named_files, with_commas

# of Recipe, where neither a flag nor few_rows.py says otherwise
EPOCHS = 1.0
BATCH = 16  # rows; 16 short ones take a GPU hardly longer than one


def flag(default, help: str):
    """A field of a dataclass whose flag has this default and this line in --help."""
    return field(default=default, metadata={"help": help})


@dataclass
class ScriptArguments:
    """What is ours; everything else is SFTConfig's."""

    model_name: str = flag(STUDENT, "the student")
    revision: str | None = flag(None, "of the student on the hub: a branch, tag or commit")
    # found out, not asked for: which commit that is (None: a directory),
    # and the student's tokens of a few texts
    commit: str | None = field(default=None, init=False)
    probe_tokens: dict | None = field(default=None, init=False)
    train_file: str = flag(LABELS, "chat JSONL from create_data.py; several with commas between")
    on_conflict: str | None = flag(
        None, "of rows that answer one input differently the last or first stays, or none (drop)"
    )
    eval_file: str = flag("", "chat JSONL whose loss and exact answers are logged")
    eval_fraction: float = flag(0.0, "or this share of the train file, left out of training")
    calibration_fraction: float = flag(
        0.0, "this share of the train file is kept away from training, for calibration in step 3"
    )
    # found out: of the rows that are kept away
    calibration_sha256: str | None = field(default=None, init=False)
    lora_rank: int = flag(32, "rank on attention and dense layers")
    lora_alpha: int = flag(16, "the scale is alpha / rank, the same everywhere")
    lora_expert_rank: int = flag(0, "rank on each expert (0: lora_rank // experts per token)")
    lora_dropout: float = flag(0.0, "only with --lora_target attention or a dense student")
    lora_target: str = flag("all-linear", "all-linear (no head or router), attention, or names")
    init_adapter: str | None = flag(
        None, "start a new run from the weights of the adapter in this directory"
    )
    # found out: of its config, weights and tokenizer
    init_adapter_identity: str | None = field(default=None, init=False)
    warmup_ratio: float = flag(0.03, "share of the steps with a rising learning rate")
    # 6.5 MiB a token of the 30B are kept
    checkpoint_from_tokens: int = flag(1536, "shorter micro-batches keep all activations")
    load_in_4bit: bool = flag(False, "refused: fused experts cannot be")
    overwrite: bool = flag(False, "start afresh, also over a finished adapter")
    skip_finished: bool = flag(False, "exit code 0 where the adapter of the same run is finished")
    check_only: bool = flag(False, "stop where training would begin, with exit code 0 or 2")

    def __post_init__(self):
        if self.lora_rank < 1:
            raise ValueError(f"--lora_rank {self.lora_rank}: must be at least 1")
        # bitsandbytes replaces linear layers, and the experts of transformers 5 are none
        if self.load_in_4bit:
            raise ValueError(
                "--load_in_4bit: fused experts cannot be loaded in 4 bits; "
                "shard with train_trl_fsdp.sh"
            )
        if self.overwrite and self.skip_finished:
            raise ValueError("--overwrite and --skip_finished contradict each other")
        if not 0 <= self.eval_fraction < 1 or self.eval_fraction and self.eval_file:
            raise ValueError(
                f"--eval_fraction {self.eval_fraction}: "
                "a share below 1, and not together with --eval_file"
            )
        if not 0 <= self.calibration_fraction < 1:
            raise ValueError(
                f"--calibration_fraction {self.calibration_fraction}: a share of at least 0 and "
                "below 1"
            )
        if isinstance(self.train_file, list):  # as YAML may have them
            self.train_file = with_commas(self.train_file)
        if self.on_conflict not in (None, *ON_CONFLICT):
            raise ValueError(f"--on_conflict {self.on_conflict}: must be last, first or drop")
        named_files(self.train_file)
        if self.init_adapter and not (Path(self.init_adapter) / "adapter_config.json").is_file():
            raise ValueError(
                f"--init_adapter {self.init_adapter}: no adapter here (adapter_config.json is "
                "missing); pass a directory that train_sft_trl.py wrote"
            )
        check_model(self.model_name)


@dataclass
class Recipe:
    """The fields of SFTConfig with another default or another meaning."""

    output_dir: str = flag(ADAPTER, "the adapter goes here")
    # None: EPOCHS and BATCH, or what few_rows.py makes of few rows
    num_train_epochs: float | None = flag(
        None, "passes over the data (default: 1, or up to 10 with fewer than 2,000 rows)"
    )
    learning_rate: float = flag(2e-4, "peak; ten times that of full fine-tuning")
    lr_scheduler_type: str = flag("cosine_with_min_lr", "ends at a tenth of the peak")
    lr_scheduler_kwargs: dict | str | None = flag(None, "of the schedule, as JSON")
    per_device_train_batch_size: int | None = flag(
        None, "rows per process and micro-batch (default: 16, or fewer with fewer than 2,000 rows)"
    )
    gradient_accumulation_steps: int = flag(1, "micro-batches per optimizer step")
    max_length: int | None = flag(2048, "tokens; a longer row is refused, not cut")
    bf16: bool = flag(True, "weights and computation in bfloat16")
    gradient_checkpointing: bool = flag(True, "long micro-batches compute activations twice")
    padding_free: bool = flag(True, "no padding between the rows of a batch")
    # the same rows in each optimizer step as at random, none dropped or repeated,
    # dealt out so that no GPU waits
    train_sampling_strategy: str = flag("batch_rebalance", "how rows become batches")
    # TRL turns the load-balancing loss on by default,
    # which would train something the answers do not ask for
    router_aux_loss_coef: float | None = flag(0.0, "load-balancing loss of experts; 0 is off")
    # Trainer's own choice for a PEFT model is true: a search of the graph in each step
    ddp_find_unused_parameters: bool | None = flag(False, "DDP: every LoRA weight is used")
    # with FSDP the others wait while rank 0 reads the student, or downloads it
    ddp_timeout: int = flag(7200, "seconds that a process waits for the others")
    save_strategy: str = flag("epoch", "when checkpoints are written")
    save_total_limit: int | None = flag(2, "checkpoints kept")
    resume_from_checkpoint: str | None = flag(None, "one, or none (default: the last complete)")
    report_to: str = flag("none", "none, or what is installed of wandb, tensorboard, trackio")


# of SFTConfig's other flags those that people change
CHANGED = {
    "config": "a YAML file that sets any flag; the command line wins",
    "max_steps": "optimizer steps, instead of passes over the data",
    "optim": "the optimizer",
    "weight_decay": "of LoRA's weights",
    "max_grad_norm": "a longer gradient is scaled down to this length",
    "seed": "of LoRA's first weights and of the order of rows",
    "logging_steps": "optimizer steps between two lines of the log",
    "eval_strategy": "when the eval rows are scored: no, steps or epoch",
    "eval_steps": "optimizer steps between two evaluations",
    "save_steps": "optimizer steps between two checkpoints",
    "use_cpu": "train without a GPU; goes with --bf16 false",
    "push_to_hub": "push the finished adapter to the hub",
    "hub_model_id": "the repository there (default: the output directory's name)",
}
