"""The scripts' own paths that only a GPU takes: each is a command, and what must come of it.

    python benchmarks/gpu_paths.py

gpu.py measures step 2 on one GPU; this is what else a README that speaks of GPUs must see happen
on one. The commands run on the tiny pair (python tests/tiny_pair.py), in a temporary directory; a
few need the 30B student in the hub's cache and its adapter in models/. A path whose libraries,
GPUs, files or models are not there is listed as such. The last line is JSON; the exit code is 1 if
something else came of a path than must.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec

from figures import ROOT, finish, parser_of

TEACHER = "models/tiny-thinking"
STUDENT = "models/tiny-instruct"
SENTENCES = "example-data/multilingual.txt"
GOLD = "example-data/multilingual_gold.jsonl"
LABEL = (
    f"python create_data.py --model_name {TEACHER} --input_file {SENTENCES} "
    "--limit 200 --max_tokens 256"
)
TRAIN = (
    f"bash train_trl.sh {STUDENT} OUT/adapter {GOLD} "
    "--learning_rate 3e-3 --lora_rank 64 --lora_alpha 64"
)
FSDP = "bash train_trl_fsdp.sh"
EVALUATE = f"python evaluate.py --student_model {STUDENT} --adapter OUT/adapter --systems student"

STUDENT_30B = "Qwen/Qwen3-30B-A3B-Instruct-2507"
ADAPTER_30B = "models/prompt_distillation_trl"  # what train_trl.sh writes by default
EVALUATE_30B = f"python evaluate.py --adapter {ADAPTER_30B} --systems student --dtype bfloat16"
# SIGTERM after so many seconds, in which a run is at work; the exit code is the command's
TERMINATED = "timeout --preserve-status"
STOPPED = "stopped; the same command goes on from the last complete checkpoint"

NOT_RUN = "not run yet"
# What can come of a path; anything else is a failure.
AS_IT_MUST = "as it must"
NOT_THERE = "not there"  # followed by the library, file or model, or the number of GPUs
NOT_REACHED = "not reached"
SHARED_MEMORY = "/dev/shm"
PRINTED = 3000  # characters of what a path printed that are shown


@dataclass
class GpuPath:
    """One command, run from the repository's directory.

    OUT in it is a temporary directory that all share.
    """

    shows: str
    command: str
    exit_code: int = 0
    says: str = ""  # must be somewhere in what it prints
    libraries: tuple[str, ...] = ()
    gpus: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()  # that must be there, below the repository's directory
    models: tuple[str, ...] = ()  # that must be in the hub's cache
    seen: str = NOT_RUN  # where and when it has been run


PATHS = [
    GpuPath(
        shows="one process trains on the first of eight GPUs, seven of them on paper",
        command=f"{TRAIN} --num_train_epochs 2",
        says="8 GPUs are visible, one is used",
        environment={"TRAIN_SCRIPT": "tests/fake_gpus.py", "FAKE_GPUS": "8"},
    ),
    GpuPath(
        shows="the student's weights go straight to the GPU",
        command="python benchmarks/host_memory.py --processes 1 --before",
    ),
    GpuPath(
        shows="the student's weights go straight to the GPU, at the size of the 30B",
        command="python benchmarks/host_memory.py --processes 1 --qwen3_30b",
    ),
    GpuPath(
        shows="an engine that cannot start says why in one line",
        command=f"{LABEL} --output_file OUT/none.jsonl --gpu_memory_utilization 0.001",
        exit_code=2,
        says="the engine cannot start",
        libraries=("vllm",),
    ),
    GpuPath(
        shows="step 1, with or without nvcc",
        command=f"{LABEL} --output_file OUT/labels.jsonl",
        says='"rows": 200',
        libraries=("vllm",),
    ),
    GpuPath(
        shows="step 3, the adapter on experts served by vLLM, or the merged copy and why",
        command=EVALUATE,
        says="student_accuracy",
        libraries=("vllm",),
    ),
    GpuPath(
        shows=(
            "step 3 with a merged copy in bfloat16, "
            "where the report names the rows that hang on a tie"
        ),
        command=f"{EVALUATE} --serve_adapter merged --report_dir OUT/merged",
        says="student_accuracy",
        libraries=("vllm",),
    ),
    GpuPath(
        shows="raw logits come from the GPU's runner, and ties are named as on a CPU",
        command="python -m pytest -q tests/evaluation/test_ties.py",
        says=" passed",
        libraries=("vllm", "pytest"),
    ),
    GpuPath(
        shows="ties of the 30B student in bfloat16, its adapter served by vLLM",
        command=f"{EVALUATE_30B} --serve_adapter lora --report_dir OUT/ties_lora",
        says="student_accuracy",
        libraries=("vllm",),
        files=(f"{ADAPTER_30B}/adapter_config.json",),
        models=(STUDENT_30B,),
    ),
    GpuPath(
        shows="ties of the 30B student in bfloat16, as a merged copy",
        command=f"{EVALUATE_30B} --serve_adapter merged --report_dir OUT/ties_merged",
        says="student_accuracy",
        libraries=("vllm",),
        files=(f"{ADAPTER_30B}/adapter_config.json",),
        models=(STUDENT_30B,),
    ),
    GpuPath(
        shows="SIGTERM ends merging of the 30B student in one line, and nothing of it is left",
        command=(
            f"{TERMINATED} 60 python merge_adapter.py --adapter {ADAPTER_30B} "
            "--output_dir OUT/merged_30b"
        ),
        exit_code=143,
        says="nothing is left of the merged model",
        files=(f"{ADAPTER_30B}/adapter_config.json",),
        models=(STUDENT_30B,),
    ),
    GpuPath(
        shows="an engine over two GPUs, which leaves nothing in /dev/shm",
        command=f"{LABEL} --output_file OUT/two.jsonl --tensor_parallel_size 2",
        says='"rows": 200',
        libraries=("vllm",),
        gpus=2,
    ),
    GpuPath(
        shows="DDP over two GPUs",
        command=f"bash train_trl_multi_gpu.sh {STUDENT} OUT/ddp {GOLD} --max_steps 20",
        says='"steps": 20',
        gpus=2,
        environment={"NUM_PROCESSES": "2"},
    ),
    GpuPath(
        shows="FSDP2 over two GPUs",
        command=f"{FSDP} {STUDENT} OUT/fsdp {GOLD} --max_steps 20",
        says='"steps": 20',
        gpus=2,
        environment={"NUM_PROCESSES": "2"},
    ),
    GpuPath(
        shows="FSDP2 over two GPUs saves checkpoints and the adapter, and in how much memory",
        command=(
            f"{FSDP} {STUDENT} OUT/saved {GOLD} --max_steps 20 "
            "--save_strategy steps --save_steps 10"
        ),
        says='"peak_memory_gib"',
        gpus=2,
        environment={"NUM_PROCESSES": "2"},
    ),
    GpuPath(
        shows="FSDP2 over eight GPUs saves the 30B student's adapter, and in how much memory",
        command=(
            f"{FSDP} {STUDENT_30B} OUT/saved_30b {GOLD} --max_steps 4 "
            "--save_strategy steps --save_steps 2"
        ),
        says='"peak_memory_gib"',
        gpus=8,
        models=(STUDENT_30B,),
    ),
    GpuPath(
        shows="SIGTERM ends two ranks of FSDP2 over NCCL in one line",
        command=f"{TERMINATED} 120 {FSDP} {STUDENT} OUT/term {GOLD} --max_steps 1000000",
        exit_code=143,
        says=STOPPED,
        gpus=2,
        environment={"NUM_PROCESSES": "2"},
    ),
    GpuPath(
        shows="SIGTERM ends two ranks of DDP over NCCL in one line",
        command=(
            f"{TERMINATED} 120 bash train_trl_multi_gpu.sh {STUDENT} OUT/term_ddp {GOLD} "
            "--max_steps 1000000"
        ),
        exit_code=143,
        says=STOPPED,
        gpus=2,
        environment={"NUM_PROCESSES": "2"},
    ),
    GpuPath(
        shows="eight ranks of FSDP2 hold one copy of the 30B student on the host",
        command="python benchmarks/host_memory.py --processes 8 --qwen3_30b",
        gpus=8,
    ),
    GpuPath(
        shows="loops that are looked for and retries that are gathered, in rows/s",
        command="python benchmarks/generation.py --rows 2000 --repeats 3",
        libraries=("vllm",),
    ),
    GpuPath(
        shows="a token's cost beside the model",
        command="python benchmarks/front_end.py",
        libraries=("vllm",),
    ),
]


@dataclass
class Outcome:
    """What came of a path: "as it must", "not there: ...", "not reached", or what was wrong."""

    shows: str
    found: str
    seconds: float
    printed: str  # the end of it
    before: str = NOT_RUN  # where the path had been run until now


def count_gpus() -> int:
    """GPUs of this machine, asked without PyTorch, which would take some of their memory."""
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def pieces_of_shared_memory() -> set[str]:
    """What lies where processes of one engine exchange data."""
    return set(os.listdir(SHARED_MEMORY))


def missing_for(path: GpuPath, gpus: int) -> list[str]:
    """What a path needs and a machine with `gpus` GPUs does not have."""
    from huggingface_hub import try_to_load_from_cache

    missing = [name for name in path.libraries if not find_spec(name)]
    if gpus < path.gpus:
        missing.append(f"{path.gpus} GPUs")
    missing += [name for name in path.files if not (ROOT / name).exists()]
    for name in path.models:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            missing.append(name)
    return missing


def walk(path: GpuPath, folder: str, timeout: float, gpus: int) -> Outcome:
    """Run one path for at most `timeout` seconds on a machine with `gpus` GPUs."""
    missing = missing_for(path, gpus)
    if missing:
        return Outcome(path.shows, f"{NOT_THERE}: {missing[0]}", 0.0, "")
    if timeout <= 0:
        return Outcome(path.shows, NOT_REACHED, 0.0, "")
    command = path.command.replace("OUT", folder).split()
    command = [sys.executable if word == "python" else word for word in command]
    environment = {**os.environ, **path.environment}
    before = pieces_of_shared_memory()
    start = time.perf_counter()
    try:
        result = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return Outcome(path.shows, f"not finished after {timeout:.0f} s", timeout, "")
    seconds = time.perf_counter() - start
    left = pieces_of_shared_memory() - before
    found = AS_IT_MUST
    if result.returncode != path.exit_code:
        found = f"exit code {result.returncode} instead of {path.exit_code}"
    elif path.says not in result.stdout:
        found = f"does not say {path.says!r}"
    elif left:
        found = f"leaves {len(left)} files in {SHARED_MEMORY}"
    return Outcome(path.shows, found, seconds, result.stdout[-PRINTED:])


def walk_all(seconds: float) -> list[Outcome]:
    """Run the paths one after the other while there is time; say each on stderr at once."""
    end = time.perf_counter() + seconds
    gpus = count_gpus()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for path in PATHS:
            outcome = walk(path, folder, end - time.perf_counter(), gpus)
            outcome.before = path.seen
            outcomes.append(outcome)
            said = f"{outcome.shows}: {outcome.found}, {outcome.seconds:.0f} s"
            print(said, outcome.printed, sep="\n", file=sys.stderr, flush=True)
    return outcomes


def failed(outcomes: list[Outcome]) -> bool:
    """Whether something else came of a path than must; what could not be run is no failure."""
    fine = (AS_IT_MUST, NOT_THERE, NOT_REACHED)
    return not all(outcome.found.startswith(fine) for outcome in outcomes)


def table(outcomes: list[Outcome]) -> list[list[str]]:
    rows = []
    for outcome in outcomes:
        rows.append([outcome.shows, outcome.before, outcome.found, f"{outcome.seconds:.0f}"])
    return rows


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--budget_s", type=float, default=540, help="seconds for all paths together"
    )
    args = parser.parse_args()
    outcomes = walk_all(args.budget_s)
    result = {"gpu_paths": [asdict(outcome) for outcome in outcomes]}
    header = ["shows", "before", "found now", "s"]
    finish("Paths that only a GPU takes", header, table(outcomes), [], result)
    return 1 if failed(outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
