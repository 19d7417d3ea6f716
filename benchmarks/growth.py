"""How step 1 and step 2 grow: with the rows, and with the processes.

    python benchmarks/growth.py --rows 1000 10000 100000

Step 1 is create_data.py as users call it, with a model that does not think, a short prompt and answers of one word, so
that what is done for each row beside the engine weighs most: reading, tokenising, journal, outputs. Then the same
command runs again without the output, which reads the whole journal and asks nothing. Step 2 runs on one thread for
each process: in one, in two that share its batch, in two that have a batch each, and with the most rows as two runs
that know nothing of each other, which is as much as the machine can do. A slope is a straight line's through the
points; their largest distance from it is given as a share of the largest value.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from figures import ROOT, finish, in_turn, ratios, show, spread, write_inputs

MIB = 2**20
BATCH = 16  # rows in a step of one process
TASK = 'prompt: Which language is it?\nlabels: ["en", "de"]\n'  # each one token of the tiny pair's


def driven(command: list[str]) -> tuple[dict, float, float]:
    """Run a script: (its JSON line, seconds, the largest resident memory of its process in MiB)."""
    start, peak = time.perf_counter(), 0
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.1)
    out, _ = process.communicate()
    assert process.returncode == 0, command
    return json.loads(out.splitlines()[-1]), time.perf_counter() - start, peak / MIB


def labelled(model: str, rows: int, folder: Path) -> dict:
    """Step 1 over `rows` inputs, then again when all of them are in the journal."""
    inputs, output, task = write_inputs(folder / f"{rows}.txt", rows), folder / f"{rows}.jsonl", folder / "task.yaml"
    task.write_text(TASK)
    command = [sys.executable, str(ROOT / "create_data.py"), "--model_name", model, "--task", str(task)]
    command += ["--input_file", str(inputs), "--output_file", str(output), "--reasoning_parser", "none"]
    command += ["--max_tokens", "8", "--temperature", "0", "--structured_outputs", "always"]
    command += ["--num_gpu_blocks_override", "2048"]  # a small KV cache, full before the fewest rows are done
    summary, _, peak = driven(command)
    output.unlink()
    again, replayed, resumed_peak = driven(command)
    assert again["asked"] == 0 and again["rows"] == rows
    found = {"rows": rows, "seconds": summary["seconds"], "memory_mib": peak}
    journal = output.with_name(f"{rows}.jsonl.trace.jsonl").stat().st_size
    return found | {"resume_seconds": replayed, "resume_mib": resumed_peak, "journal_bytes_per_row": journal / rows}


def trained(student: str, train_file: str, config: str, rows: int, folder: Path, processes=1, batch=BATCH) -> dict:
    """Step 2 with `batch` rows in a step of each process, which has one thread."""
    chats = Path(train_file).read_text(encoding="utf-8").splitlines()[:rows]
    folder.mkdir(exist_ok=True)
    data = folder / f"train-{rows}.jsonl"
    data.write_text("\n".join(chats) + "\n", encoding="utf-8")
    settings = {"NUM_PROCESSES": str(processes), "BATCH_PER_GPU": str(batch), "OMP_NUM_THREADS": "1"}
    command = ["bash", str(ROOT / "train_trl_multi_gpu.sh"), student, str(folder / "adapter"), str(data)]
    command += ["--config", config, "--num_train_epochs", "1", "--save_strategy", "no", "--overwrite", "true"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **settings})
    found = json.loads(result.stdout.splitlines()[-1])
    return {key: found[key] for key in ("rows", "tokens", "seconds", "tokens_per_second")}


def side_by_side(*files, rows: int, folder: Path) -> dict:
    """Two runs at once that share nothing but the machine: what two processes could do if they never had to wait."""
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(trained, *files, rows, folder / name) for name in ("one", "other")]
        runs = [run.result() for run in runs]
    added = {key: sum(run[key] for run in runs) for key in ("rows", "tokens", "tokens_per_second")}
    return {**added, "seconds": max(run["seconds"] for run in runs)}


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Slope of the straight line through the points by least squares, and their largest distance from it to max(y)."""
    slope, start = np.polyfit(x, y, 1)
    return float(slope), float(np.abs(np.polyval([slope, start], x) - y).max() / max(y))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "models" / "tiny-instruct"), help="labels and is trained")
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 10000, 100000], help="inputs of step 1")
    parser.add_argument("--train_rows", type=int, nargs="+", default=[512, 1024, 2048], help="rows of step 2")
    parser.add_argument("--train_file", default=str(ROOT / "example-data" / "multilingual_gold.jsonl"), help="its rows")
    parser.add_argument("--config", default=str(ROOT / "configs" / "tiny.yaml"), help="hyperparameters of step 2")
    parser.add_argument("--repeats", type=int, default=1, help="of step 2")
    mine = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [labelled(mine.model, rows, Path(folder)) for rows in mine.rows]
        files = (mine.model, mine.train_file, mine.config)
        trainings = {}
        for rows in sorted(mine.train_rows):
            step2 = partial(trained, *files, rows, Path(folder))
            ways = {"one process": step2, "two, as many rows in a step": partial(step2, processes=2, batch=BATCH // 2)}
            ways["two, twice as many"] = partial(step2, processes=2)
            if rows == max(mine.train_rows):
                ways["two runs side by side"] = partial(side_by_side, *files, rows=rows, folder=Path(folder))
            trainings[rows] = in_turn(ways, mine.repeats)
    table, rows, notes, lines = [], [run["rows"] for run in runs], [], {}
    for run in runs:
        row = [f"{run['seconds']:.1f} s", f"{run['memory_mib']:,.0f} MiB", f"{run['resume_seconds']:.1f} s"]
        row += [f"{run['resume_mib']:,.0f} MiB", f"{run['journal_bytes_per_row']:.0f} bytes"]
        table.append([f"{run['rows']:,} rows", *row])
    if len(runs) > 1:
        lines = {key: line(rows, [run[key] for run in runs]) for key in runs[0] if key != "rows"}
        slope = {key: found[0] for key, found in lines.items()}
        notes = [
            f"A further row takes {1000 * slope['seconds']:.2f} ms and {MIB * slope['memory_mib']:.0f} bytes of "
            f"memory, the engine's included; on resuming {1e6 * slope['resume_seconds']:.0f} microseconds and "
            f"{MIB * slope['resume_mib']:.0f} bytes. The start of the engine is left out, that of Python is not. "
            f"From a straight line the seconds are away by {lines['seconds'][1]:.1%} of the largest, on resuming by "
            f"{lines['resume_seconds'][1]:.1%}."
        ]
    notes += ["", "| step 2 | rows | tokens/s | to one process |", "| --- | --- | --- | --- |"]
    for rows, found in trainings.items():
        rates = {way: [run["tokens_per_second"] for run in found[way]] for way in found}
        for way, rate in rates.items():
            ratio = ratios(rate, rates["one process"])
            notes.append(f"| {way} | {rows:,} | {show(spread(rate), 0)} | {show(ratio, 2)} |")
    if len(trainings) > 1:
        compared = list(trainings[min(mine.train_rows)])
        for way in compared:
            points = [(run["tokens"], run["seconds"]) for found in trainings.values() for run in found[way]]
            lines[way] = line(*zip(*points, strict=True))
        further = ", ".join(f"{way} {1e6 * lines[way][0]:.0f} ({lines[way][1]:.1%})" for way in compared)
        notes += ["", f"Microseconds for a further training token (distance from a straight line): {further}."]
    header = ["step 1", "labelling", "its memory", "resuming, nothing left", "its memory", "journal per row"]
    return finish("Growth", header, table, notes, {"growth": {"step1": runs, "step2": trainings, "lines": lines}})


if __name__ == "__main__":
    sys.exit(main())
