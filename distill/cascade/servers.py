"""The processes of serve.sh: two servers of vLLM and serve.py, started, watched and ended."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from distill.teacher.engine import CACHE_ON_CPU, CACHE_VARIABLE
from distill.teacher.engine_flags import FITTING, SHARE_OF_TWO, SPLITTING, further_gpus, given

# prompts are cached by blocks of 32 tokens, as our engine does on a CPU
ON_CPU = ["--enforce-eager", "--block-size", "32"]
LOOK_EVERY = 0.1  # seconds
SHOWN_LINES = 30  # of the log of a server that has ended


@dataclass(frozen=True)
class Model:
    """A model that gets a server."""

    name: str  # student or teacher, as the server calls it
    path: str
    port: str
    gpus: str  # such as 0,1; empty: all that are visible
    flags: list[str]  # vLLM's

    def flags_of_serve(self) -> list[str]:
        """What serve.py is told of it."""
        url = f"http://127.0.0.1:{self.port}/v1"
        said = [f"--{self.name}_url", url, f"--{self.name}_name", self.name]
        return [*said, f"--{self.name}_tokenizer", self.path]

    def split(self) -> list[str]:
        """vLLM's flag that splits the model over its GPUs, unless `flags` say how."""
        said = any(given(self.flags, name) for name in SPLITTING)
        count = len(self.listed())
        return [] if said or count < 2 else ["--tensor-parallel-size", str(count)]

    def listed(self) -> list[str]:
        """The GPUs that it was given."""
        return [gpu.strip() for gpu in self.gpus.split(",") if gpu.strip()]

    def placed_by_vllm(self) -> bool:
        """Whether its flags do not tell on how many GPUs of this machine it is."""
        elsewhere = given(self.flags, "distributed_executor_backend") == "ray"
        return elsewhere or given(self.flags, "config") is not None

    def needs(self) -> int:
        """How many GPUs its flags split it over."""
        split = given(self.flags, "tensor_parallel_size") or ""
        return (int(split) if split.isdecimal() else 1) * further_gpus(self.flags)


def on_gpus_of_its_own(both: list[Model], visible: list[str]) -> list[Model]:
    """Student and teacher, where nobody has said which GPUs are whose: those `visible`, in turn.

    vLLM would put both onto the first one, which each fills. Raises ValueError where there are too
    few, unless the flags of both say how much of a GPU's memory each takes, and where one has GPUs
    by other names than those `visible`.
    """
    unnamed = [model for model in both if not model.gpus]
    if not visible or not unnamed or any(model.placed_by_vllm() for model in unnamed):
        return both
    named = [gpu for model in both for gpu in model.listed()]
    unknown = [gpu for gpu in named if gpu not in visible]
    if unknown:
        raise ValueError(
            f"GPU {unknown[0]} is not among those that are visible ({', '.join(visible)}); "
            "name the student's in STUDENT_GPUS and the teacher's in TEACHER_GPUS"
        )
    free = [gpu for gpu in visible if gpu not in named]
    wanted = sum(model.needs() for model in unnamed)
    if len(free) < wanted:
        if all(given(model.flags, "gpu_memory_utilization") for model in both):
            return both
        raise ValueError(
            f"GPUs that student and teacher still need: {wanted}, GPUs that are free: {len(free)}; "
            f"with --gpu-memory-utilization {SHARE_OF_TWO} in STUDENT_FLAGS and TEACHER_FLAGS they "
            "share one, if the weights of each take less than that share of its memory"
        )
    placed = []
    for model in both:
        if not model.gpus:
            count = model.needs()
            model = replace(model, gpus=",".join(free[:count]))
            free = free[count:]
        placed.append(model)
    return placed


@dataclass(frozen=True)
class Started:
    """A process, which leads a group of its own: vLLM's server has processes below it."""

    name: str
    process: subprocess.Popen
    log: Path | None = None  # None: it writes to the terminal


def start_server(python: str, model: Model, on_gpu: bool, log_dir: Path) -> Started:
    """Start vLLM's server of a model in a Python; raises OSError if its log cannot be written."""
    server = [python, "-m", "vllm.entrypoints.openai.api_server"]
    command = [*server, "--model", model.path, "--served-model-name", model.name]
    command += ["--host", "127.0.0.1", "--port", model.port, *FITTING]
    environment = dict(os.environ)
    if model.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = model.gpus
    if on_gpu:
        command += model.split()
    else:
        command += ON_CPU
        if given(model.flags, "kv_cache_memory_bytes"):
            environment.pop(CACHE_VARIABLE, None)  # which vLLM lets win over its flag
        else:
            environment.setdefault(CACHE_VARIABLE, str(CACHE_ON_CPU))
    log = log_dir / f"{model.name}.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*command, *model.flags],
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )
    return Started(model.name, process, log)


def first_to_end(started: list[Started], signals: list[int]) -> Started | None:
    """Wait until one of them has ended, and return it; None: a signal has come."""
    while not signals:
        for each in started:
            if each.process.poll() is not None:
                return each
        time.sleep(LOOK_EVERY)
    return None


def end_all(started: list[Started], within: float) -> None:
    """End them with all processes below; what does not heed SIGTERM `within` seconds is killed.

    vLLM's server does not while it loads a model.
    """
    signal_groups(started, signal.SIGTERM)
    late = time.monotonic() + within
    while any(each.process.poll() is None for each in started) and time.monotonic() < late:
        time.sleep(LOOK_EVERY)
    signal_groups(started, signal.SIGKILL)
    for each in started:
        each.process.wait()


def signal_groups(started: list[Started], number: int) -> None:
    """Send a signal to each process with all below it, as far as they are there."""
    for each in started:
        try:
            os.killpg(each.process.pid, number)
        except ProcessLookupError:
            continue


def ended_lines(server: Started) -> list[str]:
    """What there is to say of a server that has ended: the end of its log, and where that is."""
    lines = server.log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = f"serve.sh: the {server.name}'s server has ended; its log is {server.log}"
    return [*lines[-SHOWN_LINES:], said]
