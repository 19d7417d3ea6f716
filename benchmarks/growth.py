"""How step 1 and step 2 grow: with the rows, and with the processes.

    python benchmarks/growth.py --rows 1000 10000 100000

Step 1 is create_data.py as users call it, with a model that does not think, a short prompt and
answers of one word, so that what is done for each row beside the engine weighs most: reading,
tokenising, journal, outputs. Then the same command runs again without the output, which reads the
whole journal and asks nothing. Step 2 runs on one thread for each process: in one, in two that
share its batch, in two that have a batch each, and with the most rows as two runs that know nothing
of each other, which is as much as the machine can do. A slope is a straight line's through the
points; their largest distance from it is given as a share of the largest value.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from figures import (
    ROOT,
    figures_of,
    finish,
    in_turn,
    markdown,
    parser_of,
    ratios,
    show,
    spread,
    write_inputs,
)

MIB = 2**20
BATCH = 16  # rows in a step of one process
ONE_PROCESS = "one process"  # what the other ways of step 2 are compared with
TASK = 'prompt: Which language is it?\nlabels: ["en", "de"]\n'  # each one token of the tiny pair's


@dataclass
class Driven:
    """What came of a script that was run."""

    summary: dict  # its last line
    seconds: float
    peak_mib: float  # the largest resident memory of its process


def driven(command: list[str]) -> Driven:
    """Run a script; raises RuntimeError if it fails."""
    start = time.perf_counter()
    peak = 0
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.1)
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}")
    summary = json.loads(out.splitlines()[-1])
    return Driven(summary, time.perf_counter() - start, peak / MIB)


def labelled(model: str, rows: int, folder: Path) -> dict:
    """Step 1 over `rows` inputs, then again when all of them are in the journal."""
    inputs = write_inputs(folder / f"{rows}.txt", rows)
    output = folder / f"{rows}.jsonl"
    task = folder / "task.yaml"
    task.write_text(TASK)
    command = [sys.executable, str(ROOT / "create_data.py"), "--model_name", model]
    command += ["--task", str(task), "--input_file", str(inputs), "--output_file", str(output)]
    command += ["--reasoning_parser", "none", "--structured_outputs", "always"]
    command += ["--max_tokens", "8", "--temperature", "0"]
    # a small KV cache, full before the fewest rows are done
    command += ["--num_gpu_blocks_override", "2048"]
    first = driven(command)
    output.unlink()
    again = driven(command)
    if again.summary["asked"] or again.summary["rows"] != rows:
        raise RuntimeError(f"the run that resumes has asked again: {again.summary}")
    journal = output.with_name(f"{rows}.jsonl.trace.jsonl").stat().st_size
    return {
        "rows": rows,
        "seconds": first.summary["seconds"],
        "memory_mib": first.peak_mib,
        "resume_seconds": again.seconds,
        "resume_mib": again.peak_mib,
        "journal_bytes_per_row": journal / rows,
    }


def trained(
    student: str,
    train_file: str,
    config: str,
    rows: int,
    folder: Path,
    processes: int = 1,
    batch: int = BATCH,
) -> dict:
    """Step 2 with `batch` rows in a step of each process, which has one thread."""
    chats = Path(train_file).read_text(encoding="utf-8").splitlines()[:rows]
    folder.mkdir(exist_ok=True)
    data = folder / f"train-{rows}.jsonl"
    data.write_text("\n".join(chats) + "\n", encoding="utf-8")
    environment = {
        **os.environ,
        "NUM_PROCESSES": str(processes),
        "BATCH_PER_GPU": str(batch),
        "OMP_NUM_THREADS": "1",
    }
    launcher = str(ROOT / "train_trl_multi_gpu.sh")
    command = ["bash", launcher, student, str(folder / "adapter"), str(data)]
    command += ["--config", config, "--num_train_epochs", "1"]
    command += ["--save_strategy", "no", "--overwrite", "true"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found = json.loads(result.stdout.splitlines()[-1])
    return {key: found[key] for key in ("rows", "tokens", "seconds", "tokens_per_second")}


def side_by_side(student: str, train_file: str, config: str, rows: int, folder: Path) -> dict:
    """Two runs at once that share nothing but the machine: as much as two processes could do."""
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(trained, student, train_file, config, rows, folder / "one")
        other = pool.submit(trained, student, train_file, config, rows, folder / "other")
        runs = [one.result(), other.result()]
    added = {}
    for key in ("rows", "tokens", "tokens_per_second"):
        added[key] = sum(figures_of(runs, key))
    return {**added, "seconds": max(figures_of(runs, "seconds"))}


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Slope of the straight line through the points by least squares, and their distance from it.

    The distance is the largest one, to max(y).
    """
    slope, start = np.polyfit(x, y, 1)
    distances = np.abs(np.polyval([slope, start], x) - y)
    return float(slope), float(distances.max() / max(y))


def trainings_of(mine, folder: Path) -> dict[int, dict[str, list[dict]]]:
    """Of each number of rows the runs of step 2 in each way."""
    files = (mine.model, mine.train_file, mine.config)
    trainings = {}
    for rows in sorted(mine.train_rows):
        step2 = partial(trained, *files, rows, folder)
        ways = {
            ONE_PROCESS: step2,
            "two, as many rows in a step": partial(step2, processes=2, batch=BATCH // 2),
            "two, twice as many": partial(step2, processes=2),
        }
        if rows == max(mine.train_rows):
            ways["two runs side by side"] = partial(side_by_side, *files, rows, folder)
        trainings[rows] = in_turn(ways, mine.repeats)
    return trainings


def step1_row(run: dict) -> list[str]:
    """The line of a number of rows in the table of step 1."""
    return [
        f"{run['rows']:,} rows",
        f"{run['seconds']:.1f} s",
        f"{run['memory_mib']:,.0f} MiB",
        f"{run['resume_seconds']:.1f} s",
        f"{run['resume_mib']:,.0f} MiB",
        f"{run['journal_bytes_per_row']:.0f} bytes",
    ]


def step1_lines(runs: list[dict]) -> dict[str, tuple[float, float]]:
    """Of each figure of step 1 the straight line over the rows."""
    rows = figures_of(runs, "rows")
    figures = [key for key in runs[0] if key != "rows"]
    return {key: line(rows, figures_of(runs, key)) for key in figures}


def step1_note(lines: dict[str, tuple[float, float]]) -> str:
    """What a further row costs step 1."""
    slope = {key: found[0] for key, found in lines.items()}
    away = {key: found[1] for key, found in lines.items()}
    return (
        f"A further row takes {1000 * slope['seconds']:.2f} ms and "
        f"{MIB * slope['memory_mib']:.0f} bytes of memory, the engine's included; "
        f"on resuming {1e6 * slope['resume_seconds']:.0f} microseconds and "
        f"{MIB * slope['resume_mib']:.0f} bytes. The start of the engine is left out, that of "
        f"Python is not. From a straight line the seconds are away by {away['seconds']:.1%} of "
        f"the largest, on resuming by {away['resume_seconds']:.1%}."
    )


def step2_table(trainings: dict[int, dict[str, list[dict]]]) -> str:
    """Rates of step 2 in each way, and their ratio to one process."""
    table = []
    for rows, found in trainings.items():
        alone = figures_of(found[ONE_PROCESS], "tokens_per_second")
        for way, runs in found.items():
            rates = figures_of(runs, "tokens_per_second")
            ratio = ratios(rates, alone)
            table.append([way, f"{rows:,}", show(spread(rates), 0), show(ratio, 2)])
    return markdown(["step 2", "rows", "tokens/s", "to one process"], table)


def step2_lines(trainings: dict[int, dict[str, list[dict]]]) -> dict[str, tuple[float, float]]:
    """Of each way that all numbers of rows have, the straight line of seconds over tokens."""
    lines = {}
    for way in trainings[min(trainings)]:
        runs = []
        for found in trainings.values():
            runs += found[way]
        lines[way] = line(figures_of(runs, "tokens"), figures_of(runs, "seconds"))
    return lines


def step2_note(lines: dict[str, tuple[float, float]]) -> str:
    """What a further training token costs step 2."""
    parts = []
    for way, (slope, distance) in lines.items():
        parts.append(f"{way} {1e6 * slope:.0f} ({distance:.1%})")
    further = ", ".join(parts)
    return f"Microseconds for a further training token (distance from a straight line): {further}."


def parse_args():
    parser = parser_of(__doc__)
    gold = ROOT / "example-data" / "multilingual_gold.jsonl"

    def add(name: str, default, help: str, **further) -> None:
        parser.add_argument(name, default=default, help=help, **further)

    add("--model", str(ROOT / "models" / "tiny-instruct"), "labels and is trained")
    add("--rows", [1000, 10000, 100000], "inputs of step 1", type=int, nargs="*")
    add("--train_rows", [512, 1024, 2048], "rows of step 2", type=int, nargs="+")
    add("--train_file", str(gold), "its rows")
    add("--config", str(ROOT / "configs" / "tiny.yaml"), "hyperparameters of step 2")
    add("--repeats", 1, "of step 2", type=int)
    return parser.parse_args()


def main() -> int:
    mine = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [labelled(mine.model, rows, Path(folder)) for rows in mine.rows]
        trainings = trainings_of(mine, Path(folder))
    lines = {}
    notes = []
    if len(runs) > 1:
        lines.update(step1_lines(runs))
        notes.append(step1_note(lines))
    notes += ["", step2_table(trainings)]
    if len(trainings) > 1:
        of_step2 = step2_lines(trainings)
        lines.update(of_step2)
        notes += ["", step2_note(of_step2)]
    table = [step1_row(run) for run in runs]
    header = [
        "step 1",
        "labelling",
        "its memory",
        "resuming, nothing left",
        "its memory",
        "journal per row",
    ]
    result = {"step1": runs, "step2": trainings, "lines": lines}
    return finish("Growth", header, table, notes, {"growth": result})


if __name__ == "__main__":
    sys.exit(main())
