"""What configs/small_dense.yaml gives with few rows: learning rates against numbers of rows.

    python example-data/tickets/get_student.py
    python benchmarks/small_dense.py --rows 100 300 1000 --learning_rates 2e-4 1e-3

A small dense student learns to name the language of the example's sentences from the first so many
of them, in an order drawn once, with the labels of example-data/multilingual_gold.jsonl. It is
measured on other sentences of that file, never on the held-out rows: step 2's own evaluation, in
which an answer is exact if each of its tokens is the likeliest one. Half-way and at the end, so
that a rate that merely learns sooner can be told from one that learns more.
"""

import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from figures import ROOT, finish, parser_of

from distill.intervals import wilson
from distill.wording import percent

GOLD = ROOT / "example-data" / "multilingual_gold.jsonl"
CONFIG = "configs/small_dense.yaml"


def split(folder: Path, most: int, development_rows: int) -> tuple[list[str], Path]:
    """The lines to train on, in one random order, and a file of the rows that are measured on."""
    lines = GOLD.read_text("utf-8").splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    if most + development_rows > len(lines):
        raise SystemExit(f"{GOLD}: holds {len(lines)} rows; lower --rows or --development_rows")
    development = folder / "development.jsonl"
    development.write_text("".join(lines[:development_rows]), encoding="utf-8")
    return lines[development_rows:], development


@dataclass(frozen=True)
class Trained:
    """A training, and how it was evaluated half-way and at the end."""

    steps: int
    seconds: float
    evaluations: list[dict]  # eval_loss and eval_exact_answers, as Trainer logs them


def train(student: str, adapter: Path, rows: Path, development: Path, rate: str) -> Trained:
    """Train one student by step 2's script, on a CPU in float32, as the tickets' walk does."""
    words = [student, adapter, rows, "--config", CONFIG, "--learning_rate", rate]
    words += ["--eval_file", development, "--eval_strategy", "steps", "--eval_steps", "0.5"]
    words += ["--use_cpu", "true", "--bf16", "false"]
    command = ["bash", "train_trl.sh", *map(str, words)]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)
    results = json.loads((adapter / "results.json").read_text("utf-8"))
    # the losses of a run stand in its last checkpoint
    state = adapter / f"checkpoint-{results['steps']}" / "trainer_state.json"
    history = json.loads(state.read_text("utf-8"))["log_history"]
    evaluations = [entry for entry in history if "eval_exact_answers" in entry]
    return Trained(results["steps"], results["seconds"], evaluations)


def exact(entry: dict, rows: int) -> str:
    """The share of exact answers with its 95 % interval."""
    share = entry["eval_exact_answers"]
    low, high = wilson(round(share * rows), rows)
    return f"{percent(share)} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> int:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--student", default="models/smollm2", help="a dense student")
    add("--rows", type=int, nargs="+", default=[100, 300, 1000], help="to train on")
    add("--learning_rates", nargs="+", default=["2e-4", "1e-3"], help="of the peak")
    add("--development_rows", type=int, default=200, help="to measure on")
    args = parser.parse_args()
    table = []
    result = {}
    with tempfile.TemporaryDirectory(prefix="small_dense-") as name:
        folder = Path(name)
        lines, development = split(folder, max(args.rows), args.development_rows)
        for count in args.rows:
            rows = folder / f"{count}.jsonl"
            rows.write_text("".join(lines[:count]), encoding="utf-8")
            for rate in args.learning_rates:
                adapter = folder / f"{count}-{rate}"
                trained = train(args.student, adapter, rows, development, rate)
                half, end = trained.evaluations
                cells = [exact(half, args.development_rows), exact(end, args.development_rows)]
                losses = [f"{half['eval_loss']:.3f}", f"{end['eval_loss']:.3f}"]
                seconds = f"{trained.seconds:.0f}"
                table.append([str(count), rate, str(trained.steps), *losses, *cells, seconds])
                result[f"{count} rows, {rate}"] = end["eval_exact_answers"]
    header = ["rows", "learning rate", "steps", "loss half-way", "at the end"]
    header += ["exact half-way (95 % interval)", "at the end", "seconds"]
    return finish("A small dense student on few rows", header, table, [], result)


if __name__ == "__main__":
    sys.exit(main())
