"""Host memory of each process of step 2 until training begins, in copies of the student.

    python benchmarks/host_memory.py --processes 2 4 --before
    python benchmarks/host_memory.py --processes 1 8 --qwen3_30b    # on a machine with 8 GPUs

A random student is saved, and train_sft_trl.py's trainer loads it: one process as train_trl.sh,
several with FSDP, on GPUs if there are any, otherwise on the CPU through gloo. Counted is anonymous
memory (RssAnon of /proc/PID/status, the most that was seen, every few milliseconds), less that of
the same run with a student of next to nothing, less the rank's own shard where that stays in host
memory. --before loads as transformers does by itself, on each rank.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from figures import ROOT, finish, parser_of, size
from sizes import GIB, Model

STUDENT = Model(
    hidden=512,
    layers=70,
    heads=8,
    kv_heads=2,
    head_dim=64,
    experts=8,
    per_token=2,
    expert_size=256,
    vocabulary=4096,
)
NOTHING = Model(
    hidden=16,
    layers=1,
    heads=1,
    kv_heads=1,
    head_dim=16,
    experts=2,
    per_token=1,
    expert_size=16,
    vocabulary=64,
)
INTERVAL = 0.003  # seconds between two looks at the memory
WORDS = 32  # of the tokenizer, which nothing is encoded with
ROW = {"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]}
OURS = "loading.py"
BEFORE = "transformers by itself"


@dataclass
class Rank:
    """What one process took, in bytes."""

    rank: int
    peak: int  # the most anonymous memory
    shard: int  # of the student, in host memory
    gpu: int  # the most that PyTorch held on a GPU


def save_student(plan: Model, dtype: str, folder: Path) -> int:
    """Write a student with random weights, and a tokenizer; returns the bytes of its weights."""
    import torch
    from random_student import configuration
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    vocabulary = {f"w{number}": number for number in range(WORDS)}
    words = Tokenizer(WordLevel(vocabulary, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w2")
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_config(configuration(plan), dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    return size(model.parameters())


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory of a process; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def launch(student: Path, processes: int, before: bool, dtype: str, folder: Path) -> list[Rank]:
    """Let `processes` ranks load the student, and shard it if they are several."""
    command = [sys.executable]
    if processes > 1:
        fsdp = ROOT / "accelerate_configs" / "fsdp.yaml"
        command += ["-m", "accelerate.commands.launch", "--quiet", "--config_file", str(fsdp)]
        command += ["--num_processes", str(processes)]
    command += [str(Path(__file__).resolve()), "--as_rank", str(student), str(folder), dtype]
    if before:
        command.append("--before")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=sys.stderr, env=environment)
    peaks = [0] * processes
    while process.poll() is None:
        for rank in range(processes):
            file = folder / f"{rank}.pid"
            if file.exists():
                peaks[rank] = max(peaks[rank], anonymous(int(file.read_text())))
        time.sleep(INTERVAL)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}")
    ranks = []
    for rank in range(processes):
        told = json.loads((folder / f"{rank}.json").read_text())
        ranks.append(Rank(rank, peaks[rank], **told))
    return ranks


def as_rank(student: str, folder: Path, dtype: str, before: bool) -> None:
    """One process of the launch: make the trainer and let it train up to its first step."""
    rank = os.environ.get("RANK", "0")
    started = folder / f"{rank}.starting"
    started.write_text(str(os.getpid()))
    started.rename(folder / f"{rank}.pid")  # whole, or not there
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    from distill.training import build
    from distill.training.arguments import OneLineParser, TrainArguments
    from distill.training.loading import empty_model
    from distill.training.lora import lora_of
    from distill.training.recipe import ScriptArguments

    on_gpu = dtype == "bfloat16"
    if not on_gpu and "LOCAL_RANK" in os.environ:
        sys.path.insert(0, str(ROOT / "tests"))
        import cpu_fsdp  # noqa: F401 -- accelerate is told to shard on a CPU

    class Loaded(TrainerCallback):
        """Ends the process when the student is where training needs it."""

        def on_train_begin(self, args, state, control, model, **kwargs):
            parts = [p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()]
            shard = size(part for part in parts if part.device.type == "cpu")
            gpu = torch.cuda.max_memory_allocated() if on_gpu else 0
            (folder / f"{rank}.json").write_text(json.dumps({"shard": shard, "gpu": gpu}))
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            os._exit(0)

    if before:
        build.load_student = lambda name, dtype, **_: AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype
        )
    flags = {
        "model_name": student,
        "train_file": __file__,  # has to be a file; the rows are ROW
        "output_dir": folder / "adapter",
        "lora_rank": 2,
        "lora_alpha": 2,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
    }
    sys.argv = [sys.argv[0], *(f"--{name}={value}" for name, value in flags.items())]
    script, args = OneLineParser((ScriptArguments, TrainArguments)).parse()
    lora = lora_of(script, empty_model(AutoConfig.from_pretrained(student)))
    tokenizer = AutoTokenizer.from_pretrained(student)
    trainer = build.make_trainer(script, args, tokenizer, lora, [ROW] * 64, None)
    trainer.add_callback(Loaded())
    trainer.train()


@dataclass
class Line:
    """A rank of a launch, as the table and the last line have it; sizes in bytes."""

    way: str
    processes: int
    rank: int
    peak: int
    shard: int
    gpu: int
    nothing: int  # the most anonymous memory of the same rank without a student
    copies: float  # of the student

    def cells(self) -> list[str]:
        sizes = [f"{count / GIB:.3f}" for count in (self.peak, self.nothing, self.shard, self.gpu)]
        return [self.way, str(self.processes), str(self.rank), *sizes, f"{self.copies:.3f}"]


def measured(
    plan: Model, dtype: str, processes: list[int], ways: dict[str, bool], folder: Path
) -> tuple[list[Line], int]:
    """Each rank of each way and number of processes; and the student's bytes."""
    weights = save_student(plan, dtype, folder / "student")
    save_student(NOTHING, dtype, folder / "nothing")

    def launched(name: str, count: int, before: bool) -> list[Rank]:
        scratch = Path(tempfile.mkdtemp(dir=folder))
        return launch(folder / name, count, before, dtype, scratch)

    found = []
    for way, before in ways.items():
        for count in processes:
            ranks = launched("student", count, before)
            without = launched("nothing", count, before)
            for rank, nothing in zip(ranks, without, strict=True):
                copies = (rank.peak - rank.shard - nothing.peak) / weights
                line = Line(way, count, **asdict(rank), nothing=nothing.peak, copies=copies)
                found.append(line)
    return found, weights


def parse_args():
    parser = parser_of(__doc__)
    flag = parser.add_argument
    processes_help = "numbers of ranks; several: FSDP"
    layers_help = "of the small student: 15 MiB each in fp32"
    flag("--processes", type=int, nargs="+", default=[2, 4], help=processes_help)
    flag("--layers", type=int, default=STUDENT.layers, help=layers_help)
    flag("--qwen3_30b", action="store_true", help="of its size: 57 GiB in memory and on disk")
    flag("--before", action="store_true", help="also as transformers loads on each rank")
    as_rank_of = ("STUDENT", "FOLDER", "DTYPE")
    flag("--as_rank", nargs=3, metavar=as_rank_of, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    if args.as_rank:
        student, folder, dtype = args.as_rank
        as_rank(student, Path(folder), dtype, args.before)
        return 0
    import torch

    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    plan = Model() if args.qwen3_30b else replace(STUDENT, layers=args.layers)
    ways = {OURS: False}
    if args.before:
        ways = {BEFORE: True, OURS: False}
    with tempfile.TemporaryDirectory() as folder:
        found, weights = measured(plan, dtype, args.processes, ways, Path(folder))
    header = [
        "loading",
        "processes",
        "rank",
        "most GiB",
        "with no student",
        "own shard",
        "on a GPU",
        "copies",
    ]
    rows = [line.cells() for line in found]
    note = f"The student: {weights / GIB:.3f} GiB in {dtype}, {plan.layers} layers."
    result = {"student": weights, "ranks": [asdict(line) for line in found]}
    return finish("Host memory", header, rows, [note], {"host_memory": result})


if __name__ == "__main__":
    sys.exit(main())
