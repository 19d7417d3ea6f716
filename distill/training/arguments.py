"""The flags of step 2: ours, and TRL's SFTConfig with the defaults of this recipe."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.integrations import get_available_reporting_integrations
from trl import SFTConfig, TrlParser

from distill.cli import check_model
from distill.system import TO_LAUNCH, driver_problem, nvidia_driver
from distill.training.config_file import read_config, take_config
from distill.training.flags import refuse_flags
from distill.training.loading import choose_gpus

# the schedules that take a lowest rate, or ignore it: runs of all of them were begun with it
KNOW_LOWEST_RATE = [
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "constant",
    "constant_with_warmup",
]


@dataclass
class ScriptArguments:
    """What is ours; everything else is SFTConfig's."""

    model_name: str = field(
        default="Qwen/Qwen3-30B-A3B-Instruct-2507", metadata={"help": "the student"}
    )
    revision: str | None = field(
        default=None,
        metadata={"help": "of the student on the hub: a branch, tag or commit (default: main)"},
    )
    # found out, not asked for: which commit that is (None: a directory),
    # and the student's tokens of a few texts
    commit: str | None = field(default=None, init=False)
    probe_tokens: dict | None = field(default=None, init=False)
    train_file: str = field(
        default="./data/prompt_distillation_lang.jsonl",
        metadata={"help": "chat JSONL from create_data.py"},
    )
    eval_file: str = field(
        default="", metadata={"help": "chat JSONL whose loss and exact answers are logged"}
    )
    eval_fraction: float = field(
        default=0.0, metadata={"help": "or this share of the train file, left out of training"}
    )
    lora_rank: int = field(default=32, metadata={"help": "rank on attention and dense layers"})
    lora_alpha: int = field(
        default=16, metadata={"help": "the scale is alpha / rank, the same everywhere"}
    )
    lora_expert_rank: int = field(
        default=0, metadata={"help": "rank on each expert (0: lora_rank // experts per token)"}
    )
    lora_dropout: float = field(
        default=0.0, metadata={"help": "only with --lora_target attention or a dense student"}
    )
    lora_target: str = field(
        default="all-linear",
        metadata={"help": "all-linear (never head or router), attention, or names with commas"},
    )
    warmup_ratio: float = field(
        default=0.03, metadata={"help": "share of the steps with a rising learning rate"}
    )
    checkpoint_from_tokens: int = field(
        default=1536,
        metadata={
            "help": "micro-batches with fewer keep all activations: 6.5 MiB a token of the 30B"
        },
    )
    load_in_4bit: bool = field(default=False, metadata={"help": "refused: fused experts cannot be"})
    overwrite: bool = field(
        default=False, metadata={"help": "start afresh, also over a finished adapter"}
    )
    check_only: bool = field(
        default=False, metadata={"help": "stop where training would begin, with exit code 0 or 2"}
    )

    def __post_init__(self):
        if self.lora_rank < 1:
            raise ValueError(f"--lora_rank {self.lora_rank}: must be at least 1")
        # bitsandbytes replaces linear layers, and the experts of transformers 5 are none
        if self.load_in_4bit:
            raise ValueError(
                "--load_in_4bit: fused experts cannot be loaded in 4 bits; "
                "shard with train_trl_fsdp.sh"
            )
        if not 0 <= self.eval_fraction < 1 or self.eval_fraction and self.eval_file:
            raise ValueError(
                f"--eval_fraction {self.eval_fraction}: "
                "a share below 1, and not together with --eval_file"
            )
        if not Path(self.train_file).exists():
            raise ValueError(
                f"{self.train_file}: no such file; run create_data.py first or pass --train_file"
            )
        check_model(self.model_name)


def reporters(report_to: str | list[str]) -> list[str]:
    """The names in --report_to, which are separated by commas.

    Raises ValueError for what is not installed.
    """
    names = report_to.split(",") if isinstance(report_to, str) else report_to
    installed = get_available_reporting_integrations()
    asked = []
    for name in names:
        name = name.strip()
        if name not in ("none", "all") and name not in installed:
            raise ValueError(f"--report_to {name}: not installed; pip install {name}")
        asked.append(name)
    if len(asked) > 1 and "none" in asked:
        raise ValueError(f"--report_to {','.join(asked)}: none stands alone")
    return asked


@dataclass
class TrainArguments(SFTConfig):
    """SFTConfig with the defaults of this recipe (the OpenAI Cookbook's numbers)."""

    output_dir: str = field(
        default="./models/prompt_distillation_trl", metadata={"help": "the adapter goes here"}
    )
    learning_rate: float = field(
        default=2e-4, metadata={"help": "peak; ten times that of full fine-tuning"}
    )
    lr_scheduler_type: str = field(
        default="cosine_with_min_lr", metadata={"help": "the default ends at a tenth of the peak"}
    )
    lr_scheduler_kwargs: dict | str | None = field(
        default=None,
        metadata={"help": "of the schedule (cosine_with_min_lr: ends at a tenth of the peak)"},
    )
    # 16 short rows take a GPU hardly longer than one
    per_device_train_batch_size: int = field(
        default=16, metadata={"help": "rows per process and micro-batch"}
    )
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "micro-batches per optimizer step"}
    )
    max_length: int | None = field(
        default=2048, metadata={"help": "tokens; a longer row is refused, not cut"}
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "passes over the data"})
    gradient_checkpointing: bool = field(
        default=True,
        metadata={"help": "long micro-batches compute activations twice instead of keeping them"},
    )
    padding_free: bool = field(
        default=True, metadata={"help": "no padding between the rows of a batch"}
    )
    # the same rows in each optimizer step as at random, none dropped or repeated,
    # dealt out so that no GPU waits
    train_sampling_strategy: str = field(
        default="batch_rebalance", metadata={"help": "how rows become batches"}
    )
    # Trainer's own choice for a PEFT model is true: a search of the graph in each step
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "DDP: every LoRA weight is used"}
    )
    bf16: bool = field(default=True, metadata={"help": "weights and computation in bfloat16"})
    # TRL turns the load-balancing loss on by default,
    # which would train something the answers do not ask for
    router_aux_loss_coef: float | None = field(
        default=0.0, metadata={"help": "load-balancing loss of a mixture of experts; 0 is off"}
    )
    report_to: str = field(
        default="none",
        metadata={"help": "none, or what is installed of wandb, tensorboard, trackio, with commas"},
    )
    save_strategy: str = field(default="epoch", metadata={"help": "when checkpoints are written"})
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "a checkpoint, or none to start afresh (default: the last complete one)"},
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})
    # with FSDP the others wait while rank 0 reads the student, or downloads it
    ddp_timeout: int = field(
        default=7200, metadata={"help": "seconds that a process waits for the others"}
    )

    def __post_init__(self):
        refuse_flags(self)
        processes = int(os.environ.get(TO_LAUNCH, 1))
        if not self.use_cpu:
            problem = driver_problem(torch.version.cuda, nvidia_driver())
            if problem:
                raise ValueError(problem)
            choose_gpus(processes)
        self.report_to = reporters(self.report_to)
        if self.lr_scheduler_type in KNOW_LOWEST_RATE and self.lr_scheduler_kwargs is None:
            self.lr_scheduler_kwargs = {"min_lr_rate": 0.1}
        super().__post_init__()
        if self.n_gpu > 1 and processes == 1:  # CUDA was initialised before choose_gpus()
            raise ValueError(
                f"{self.n_gpu} GPUs are visible to one process; set CUDA_VISIBLE_DEVICES=0"
            )


class OneLineParser(TrlParser):
    """TrlParser whose errors are one line, an unknown flag before anything else."""

    def parse(self):
        """Both sets of arguments, from the command line and the file of --config.

        Raises ValueError.
        """
        config, arguments = take_config(sys.argv[1:])
        unknown = [flag for flag in self.parse_known_args(arguments)[1] if flag.startswith("-")]
        if unknown:
            self.error(f"unknown flag {unknown[0]}")
        if config is not None:
            settings = read_config(config)
            os.environ.update(environment_of(settings))
            remaining = self.set_defaults_with_config(**settings)
            if remaining:
                self.error(f"{config}: unknown flag {remaining[0].removeprefix('--')}")
        return self.parse_args_into_dataclasses(arguments)

    def error(self, message):
        raise ValueError(f"{message} (see --help)")


def environment_of(settings: dict) -> dict[str, str]:
    """What the key env of a config sets, as in TRL's own; it is taken out of `settings`.

    Raises ValueError.
    """
    variables = settings.pop("env", None) or {}
    if not isinstance(variables, dict):
        raise ValueError("--config: env must name variables of the environment with their values")
    return {name: str(value) for name, value in variables.items()}
