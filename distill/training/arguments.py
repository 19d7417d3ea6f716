"""The arguments of step 2: our flags, and TRL's SFTConfig with the defaults of this recipe."""

import os
import sys
from dataclasses import dataclass

import torch
from transformers.integrations import get_available_reporting_integrations
from trl import SFTConfig, TrlParser

from distill.system import TO_LAUNCH, driver_problem, nvidia_driver
from distill.training.config_file import read_config, take_config
from distill.training.few_rows import FOLLOW_ROWS, batch_of_each
from distill.training.flags import refuse_flags
from distill.training.loading import choose_gpus
from distill.training.recipe import BATCH, EPOCHS, Recipe
from distill.training.run_directory import processes_of

# In this one a wrapper says that the rows of an optimizer step are shared among all processes.
# A preset's batch, which is for one process, does not count then.
SHARE_BATCH = "SHARE_BATCH"

# the schedules that take a lowest rate, or ignore it: runs of all of them were begun with it
KNOW_LOWEST_RATE = [
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "constant",
    "constant_with_warmup",
]


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
class TrainArguments(Recipe, SFTConfig):
    """SFTConfig, with the fields of Recipe in the place of its own."""

    def __post_init__(self):
        refuse_flags(self)
        self._set_recipe()
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

    def _set_recipe(self) -> None:
        """Set the recipe's epochs and batch where they were left out, and remember that.

        The rows, which are not known yet, may change them: few_rows.py.
        """
        self.not_given = [name for name in FOLLOW_ROWS if getattr(self, name) is None]
        if self.num_train_epochs is None:
            self.num_train_epochs = EPOCHS
        if self.per_device_train_batch_size is None:
            self.per_device_train_batch_size = BATCH
            if SHARE_BATCH in os.environ:
                processes = processes_of(int(os.environ.get("WORLD_SIZE", 1)))
                self.per_device_train_batch_size = batch_of_each(BATCH, processes)


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
            if SHARE_BATCH in os.environ:
                settings.pop("per_device_train_batch_size", None)
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
