"""What one 80 GB GPU can show of step 2 with the 30B student: memory, speed, and its adapter.

    python benchmarks/gpu.py

Memory is compared with plan.py. The weights are random, made on the device, so that nothing is
downloaded; memory and speed do not depend on them, but for the choice of experts, which is near to
even. LoRA, batches, loss and optimizer are those of train_sft_trl.py. What does not fit is a line
of the table. Without a GPU a small configuration runs in fp32, where the memory that is compared
with plan.py is counted tensor by tensor. The last line is JSON; the exit code is 1 if anything
failed for another reason than memory. What the scripts themselves do on a GPU is gpu_paths.py's
list.
"""

import argparse
import gc
import json
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, field

import peft
import torch
import transformers
from figures import finish, parser_of
from gpu_steps import WARM_UP, WAYS, allocated, choose, memory_table, profiled, step, timed
from gpu_tables import gib, show_figure, show_memory, show_profile, show_runs
from random_student import (
    EXACT_LAYERS,
    SMALL,
    adapted,
    batch_of,
    build,
    check_adapter,
    check_in_fp32,
    fill,
)
from sizes import Model, default_expert_rank, training

from distill.training.lora import describe

LENGTHS = (64, 512, 2048)  # tokens of the longest row
SMALL_LENGTHS = (16, 32, 64)
BATCHES = (
    1,
    4,
    16,
)  # rows of a micro-batch: one, the default, and the whole effective batch at once
USUAL_BATCH = BATCHES[1]


COMPARED = {  # what random_student.check_adapter() finds
    "repeated": "largest difference: computed twice",
    "adapter": "with and without the adapter",
    "taken_off": "switched off and taken off",
    "reloaded": "before it is saved and loaded",
    "in_weights": "beside the experts and in PEFT's sum with them",
    "merged": "before it is merged",
    "merged_to_adapter": "mean difference that merging makes, to the adapter's own",
    "merged_same_token": "share of tokens whose likeliest next one stays, merged",
    "adapter_same_token": "without the adapter",
}
PROFILED = 12  # operations named in the profile of a step
NOT_REACHED = {"error": "not reached"}
OUT_OF_MEMORY = "out of memory"


def attempt(function, *arguments) -> dict:
    """What the function returns, or {"error": reason}; a failed attempt gives its memory back."""
    try:
        return function(*arguments)
    except torch.OutOfMemoryError:
        found = {"error": OUT_OF_MEMORY}
    except Exception as error:
        traceback.print_exc()
        reason = str(error).partition("\n")[0]
        found = {"error": f"{type(error).__name__}: {reason}"}
    gc.collect()  # only here, past the except clause, are the frames gone that hold the tensors
    torch.cuda.empty_cache()
    return found


@dataclass(frozen=True)
class Setting:
    """What is measured, and where."""

    device: torch.device
    small: bool
    plan: Model
    lengths: list[int]
    dtype: torch.dtype
    rank: int
    expert_rank: int  # 0: rank // active experts
    steps: int
    deadline: float  # of profiles and steps
    end: float  # of all, the adapter's check included

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def planned(self) -> tuple[int, int]:
        """Bytes planned for the base, and for LoRA with its gradients and Adam's states."""
        expert_rank = self.expert_rank or default_expert_rank(self.plan, self.rank)
        base, adapter, *_ = training(self.plan, 1, self.rank, expert_rank, self.dtype.itemsize)
        return round(base.bytes), round(adapter.bytes)


@dataclass
class Student:
    """The model under LoRA and its optimizer; without a model nothing further is measured."""

    model: object = None
    optimizer: object = None


@dataclass
class Beginning:
    """What came of making the student and of its first two steps."""

    build_seconds: float | None = None
    lora_seconds: float | None = None
    memory: list[dict] = field(default_factory=list)
    first: dict = field(default_factory=lambda: dict(NOT_REACHED))
    second: dict = field(default_factory=lambda: dict(NOT_REACHED))
    errors: list[str] = field(default_factory=list)  # of making it
    notes: list[str] = field(default_factory=list)


def begin(setting: Setting) -> tuple[Student, Beginning]:
    """Make the student, take two steps, and compare its memory with the plan."""
    device = setting.device
    student = Student()
    beginning = Beginning()
    stages = {"start": allocated(device)}
    found = attempt(build, setting.plan, setting.dtype, device)
    stages["weights"] = allocated(device)
    beginning.build_seconds = found.get("seconds")
    if "error" not in found:
        # popped, so that no other name keeps the model
        found = attempt(adapted, found.pop("model"), setting.rank, setting.expert_rank, device)
        stages["LoRA"] = allocated(device)
        beginning.lora_seconds = found.get("seconds")
    if "error" in found:
        beginning.errors.append(found["error"])
        beginning.notes.append(f"No model: {found['error']}.")
        return student, beginning
    beginning.notes.append(f"LoRA on {describe(found['model'])}.")
    student.model = found.pop("model")
    trained = [p for p in student.model.parameters() if p.requires_grad]
    # at a rate of 0 a step does all its work, and all configurations see the same weights
    student.optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)
    two_steps(setting, student, beginning, stages)
    base, adapter = setting.planned()
    beginning.memory = memory_table(student.model, student.optimizer, base, adapter, stages)
    fill(student.model)
    return student, beginning


def two_steps(setting: Setting, student: Student, beginning: Beginning, stages: dict) -> None:
    """A first step, after which all states are there, and a second one, whose peak is a step's."""
    device = setting.device
    choose(student.model, "default")
    batch, _ = batch_of(setting.lengths[0], 1, True, setting.plan.vocabulary, device)

    def one_step() -> dict:
        return {"loss": step(student.model, student.optimizer, batch, device)}

    beginning.first = attempt(one_step)
    stages["step"] = allocated(device)
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    beginning.second = beginning.first
    if "error" not in beginning.first:
        beginning.second = attempt(one_step)
    stages["peak"] = allocated(device, peak=True)
    if "error" in beginning.second:
        beginning.notes.append(f"A first and a second step: {beginning.second['error']}.")


def profile_steps(setting: Setting, student: Student) -> list[dict]:
    """A step of the shortest and one of the longest rows, each printed at once."""
    profiles = []
    for length in (setting.lengths[0], setting.lengths[-1]):
        found = NOT_REACHED
        if student.model is not None and time.perf_counter() < setting.deadline:
            arguments = (
                student.model,
                student.optimizer,
                length,
                USUAL_BATCH,
                PROFILED,
                setting.device,
            )
            found = attempt(profiled, *arguments)
        profiles.append(found)
        print(show_profile(found), "", sep="\n", flush=True)
    return profiles


def wanted_runs(lengths: list[int]) -> list[tuple[int, int, str]]:
    """The configurations as (tokens of the longest row, rows, way), the most important first."""
    shortest = lengths[0]
    middle = lengths[-2]
    longest = lengths[-1]
    wanted = [(length, rows, "default") for length in lengths for rows in BATCHES]
    for way in ("PEFT, grouped_mm", "no checkpointing"):
        wanted += [(shortest, rows, way) for rows in BATCHES[1:]]
    others = [way for way in WAYS if way not in ("default", "padded")]
    wanted += [(middle, USUAL_BATCH, way) for way in others]
    further = ("one mask over all rows", "PEFT, grouped_mm", "norms and casts as they come")
    wanted += [(longest, USUAL_BATCH, way) for way in further]
    wanted += [(length, rows, "padded") for rows in BATCHES for length in lengths]
    return wanted


def run_all(setting: Setting, student: Student) -> list[dict]:
    """Every configuration, timed while there is time."""
    runs = []
    for length, rows, way in wanted_runs(setting.lengths):
        run = {"length": length, "rows": rows, "way": way}
        if student.model is None or time.perf_counter() >= setting.deadline:
            run.update(NOT_REACHED)
        else:
            model = student.model
            optimizer = student.optimizer
            until = setting.deadline
            arguments = (model, optimizer, length, rows, way, setting.steps, until, setting.device)
            run.update(attempt(timed, *arguments))
            optimizer.zero_grad()
            # not lost if the machine is taken away
            print(json.dumps(run), file=sys.stderr, flush=True)
        runs.append(run)
    return runs


def check_adapters(setting: Setting, student: Student) -> tuple[dict, dict]:
    """The adapter's check on the student itself, and in fp32 on one with few layers."""
    if student.model is None or time.perf_counter() >= setting.end:
        return NOT_REACHED, NOT_REACHED
    student.model.zero_grad()
    student.optimizer.state.clear()
    length = setting.lengths[0]
    check = attempt(check_adapter, student.model, length, setting.device)
    student.model = None  # the next one takes its place
    arguments = (setting.plan, length, setting.rank, setting.expert_rank, setting.device)
    return check, attempt(check_in_fp32, *arguments)


def parse_args() -> argparse.Namespace:
    parser = parser_of(__doc__)

    def add(name: str, default, help: str, **further) -> None:
        parser.add_argument(name, default=default, help=help, **further)

    add("--device", "auto", "auto: a GPU if there is one", choices=["auto", "cuda", "cpu"])
    parser.add_argument(
        "--small", action="store_true", help="the small configuration, also on a GPU"
    )
    add("--lengths", None, "tokens of the longest row, two lengths or more", type=int, nargs="+")
    add("--steps", 5, f"timed ones of each configuration, after {WARM_UP}", type=int)
    add("--lora_rank", 32, "on attention", type=int)
    add("--lora_expert_rank", 0, "on each expert (0: rank // active experts)", type=int)
    add("--budget_s", 540, "a fifth of it is kept for the adapter's check", type=float)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no GPU is visible")
    return args


def setting_of(args: argparse.Namespace, start: float) -> Setting:
    """The small configuration on a CPU or where it is asked for, otherwise the 30B student."""
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    on_gpu = device.type == "cuda"
    small = args.small or not on_gpu
    return Setting(
        device=device,
        small=small,
        plan=SMALL if small else Model(),
        lengths=args.lengths or (SMALL_LENGTHS if small else LENGTHS),
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        rank=args.lora_rank,
        expert_rank=args.lora_expert_rank,
        steps=args.steps,
        deadline=start + 0.8 * args.budget_s,
        end=start + args.budget_s,
    )


def describe_device(device: torch.device) -> tuple[str, int | None]:
    """Name of the device, and bytes of a GPU's memory."""
    if device.type != "cuda":
        return f"CPU, {torch.get_num_threads()} threads", None
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.get_device_name(device), total


def main() -> int:
    start = time.perf_counter()
    args = parse_args()
    setting = setting_of(args, start)
    warnings.filterwarnings("ignore", message=".*_pattern keys did not match")  # as in step 2
    torch.manual_seed(0)

    name, device_bytes = describe_device(setting.device)
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
    parts = [name]
    if setting.on_gpu:
        parts.append(f"{gib(device_bytes)} GiB")
    parts += [f"{library} {version}" for library, version in versions.items()]
    print(", ".join(parts), flush=True)

    student, beginning = begin(setting)
    print("\n### Memory\n", show_memory(beginning.memory), sep="\n", flush=True)
    profiles = profile_steps(setting, student)
    runs = run_all(setting, student)
    print("\n### Training steps\n", show_runs(runs), "", sep="\n", flush=True)
    check, exact = check_adapters(setting, student)

    rows = []
    for key, text in COMPARED.items():
        rows.append([text, show_figure(check, key), show_figure(exact, key)])
    seconds = {
        "build": beginning.build_seconds,
        "LoRA": beginning.lora_seconds,
        "all": time.perf_counter() - start,
    }
    notes = [*beginning.notes, f"{seconds['all']:.0f} s in all."]
    result = {
        "device": name,
        "device_bytes": device_bytes,
        "versions": versions,
        "small": setting.small,
        "seconds": seconds,
        "parameters": setting.plan.parameters,
        "memory": beginning.memory,
        "first_step": beginning.first,
        "second_step": beginning.second,
        "runs": runs,
        "profiles": profiles,
        "adapter": check,
        "adapter_in_fp32": exact,
    }
    layers = setting.plan.layers
    type_name = str(setting.dtype).removeprefix("torch.")
    exact_layers = min(EXACT_LAYERS, layers)
    columns = [f"{layers} layers, {type_name}", f"{exact_layers} layers, float32"]
    finish("Logits of the adapter", ["", *columns], rows, notes, {"gpu": result})
    errors = set(beginning.errors)
    errors.update(one.get("error") for one in (beginning.second, check, exact, *runs, *profiles))
    return 1 if errors - {None, OUT_OF_MEMORY, NOT_REACHED["error"]} else 0


if __name__ == "__main__":
    sys.exit(main())
