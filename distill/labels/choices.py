"""What the flags of step 1 choose, for whoever works by it."""

import re
from dataclasses import dataclass

from distill.columns import Columns
from distill.labels.labelling import Settings
from distill.prices import TokenPrices
from distill.teacher.check import TeacherModel
from distill.teacher.server import Server


@dataclass(frozen=True)
class Shard:
    """The contiguous share of the inputs that one process labels: the i-th of n."""

    text: str  # as it was given, i/n
    index: int
    count: int  # 1: all inputs, and this process writes the outputs


@dataclass(frozen=True)
class Cluster:
    """The engines on a Ray cluster that share the inputs."""

    num_replicas: int  # 0: one engine on this machine, without Ray
    tensor_parallel_size: int  # GPUs of each
    cpus_per_replica: int  # cores of each instead of GPUs; 0: GPUs


@dataclass(frozen=True)
class Choices:
    """What one run of step 1 labels, with whom, and where it writes."""

    input_file: str
    output_file: str
    task_file: str
    columns: Columns  # of the input file
    limit: int  # only so many inputs from the beginning; 0: all
    shard: Shard
    teacher: TeacherModel
    server: Server | None  # where the teacher is a URL; None: an engine of ours
    prices: TokenPrices  # of a million tokens
    expected_output_tokens: int  # of a request, for an estimate of what the run costs
    budget: float  # in the prices' currency, earlier runs included; 0: no end
    cluster: Cluster
    settings: Settings
    min_success_rate: float  # share of labelled rows below which the run has failed
    overwrite: bool
    reuse: str  # same or changed: what may differ from the run before; empty: nothing
    skip_finished: bool  # a finished output of the same run is no error
    show: bool  # the rows are printed in full at the end
    dry_run: bool  # nobody is asked and nothing is written


def shard_of(text: str) -> Shard:
    """The share that --shard i/n names; raises ValueError."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if not numbers or int(numbers[1]) >= int(numbers[2]):
        raise ValueError(f"--shard {text}: expected i/n with 0 <= i < n, such as 0/2")
    return Shard(text, index=int(numbers[1]), count=int(numbers[2]))
