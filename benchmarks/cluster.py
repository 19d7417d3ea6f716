"""Step 1 on replicas: rows/s of one and of two, and what the driver itself costs for each row when it has very many.

    python benchmarks/cluster.py --rows 2000 --driver_rows 1000000

The first is create_data.py as users call it, timed from the first recorded row to the last, so that the start of the
engines is left out; on a machine with few cores two replicas share what one has. For the second the engine is left out:
a replica answers at once with a record of the usual size, and what is measured is reading and hashing the inputs, Ray
Data's handing out, the journal and the outputs.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import plan
import psutil
from figures import ROOT, finish, in_turn, show, spread, write_inputs
from growth import driven

import create_data
from distill.chats import input_hash
from distill.evaluation.report import markdown
from distill.labels import replicas
from distill.labels.inputs import scan_inputs
from distill.labels.journal import Journal
from distill.labels.labelling import record_rows
from distill.task import load_task

ATTEMPT = {"response": "Letters: Latin. Step 3. Language: German. " * 4, "finish_reason": "stop", "answer": "de"}
ATTEMPT |= {"reason": None, "sampling": {"temperature": 0.15, "max_tokens": 4096}, "prompt_tokens": 2300}
ATTEMPT |= {"cached_tokens": 2200, "output_tokens": 41, "thinking_tokens": 30, "thinking_cut": False}
STEP2 = ("encoding", "shuffling")
RECORD = {"answer": "de", "reason": None, "agreement": 1.0, "attempts": [ATTEMPT]}


def labelled(model: str, rows: int, count: int, folder: Path) -> float:
    """Rows/s of `count` replicas, each with one core, between the first recorded row and the last."""
    inputs = write_inputs(folder / "inputs.txt", rows)
    output = Path(tempfile.mkdtemp(dir=folder)) / "out.jsonl"
    command = [sys.executable, str(ROOT / "create_data.py"), "--model_name", model, "--input_file", str(inputs)]
    command += ["--output_file", str(output), "--max_tokens", "256", "--min_success_rate", "0"]
    driven([*command, "--num_replicas", str(count), "--cpus_per_replica", "1"])
    lines = output.with_name("out.jsonl.trace.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = [record["seconds"] for record in map(json.loads, lines) if "index" in record]
    return sum(s > seconds[0] for s in seconds) / (seconds[-1] - seconds[0])


def driver_alone(rows: int, folder: Path) -> dict:
    """Step 1's driver over `rows` inputs, with replicas that answer at once: seconds of each part, memory, sizes."""

    class Echo:  # a replica without an engine; here, so that Ray sends its code along
        def __init__(self, *_):
            pass

        def __call__(self, batch):
            rows = json.loads(batch["inputs"][0])
            decided = [(index, input_hash(messages), RECORD) for index, messages in rows]
            yield {"records": [json.dumps(decided, ensure_ascii=False)]}

    path, output = write_inputs(folder / "many.txt", rows), folder / "many.jsonl"
    flags = ["--num_replicas", "1", "--cpus_per_replica", "1", "--input_file", str(path), "--output_file", str(output)]
    args, _ = create_data.parse_args(flags)
    task, stages = load_task(args.task), {"start": time.perf_counter()}
    inputs = scan_inputs(str(path))
    journal = Journal(output, {"run": 1}, inputs)
    journal.open()
    stages["reading and hashing"] = time.perf_counter()
    os.environ["PYTHONPATH"] = str(ROOT)  # Ray's workers look beside the script that was called, which is not ours here
    replicas.Replica = Echo
    replicas.connect(args)
    stages["starting Ray"], cpu = time.perf_counter(), time.process_time()
    journal.start()
    missing = journal.missing()
    decided = replicas.label_on_replicas(args, create_data.settings_of(args), [], task, inputs, missing)
    record_rows(decided, journal, int(missing.sum()), 0)
    stages["handing out and journal"], cpu = time.perf_counter(), time.process_time() - cpu
    journal.replay()
    journal.write_outputs(True)
    stages["replay and outputs"] = time.perf_counter()
    names = list(stages)
    found = {name: stages[name] - stages[before] for before, name in zip(names, names[1:], strict=False)}
    sizes = {"inputs": path.stat().st_size, "journal": journal.own.stat().st_size, "output": output.stat().st_size}
    peak = getrusage(RUSAGE_SELF).ru_maxrss * 1024
    found = {"rows": rows, "seconds": found, "cpu_seconds": cpu, "peak_memory": peak, "bytes": sizes}
    return found | {"output_file": output}


def read_for_training(model: str, path: Path) -> dict:
    """What step 2 does with all rows before its first step, encoding and shuffling: seconds and bytes of memory."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer

    from distill.training.rows import load_rows

    tokenizer, process = AutoTokenizer.from_pretrained(model), psutil.Process()
    memory, start = [process.memory_info().rss], [time.perf_counter()]

    def lap():
        memory.append(process.memory_info().rss)
        start.append(time.perf_counter())

    rows = load_rows(str(path), tokenizer, None)
    data = Dataset.from_list(rows)
    lap()
    order = torch.randperm(len(data)).tolist()  # as a sampler draws it for each epoch
    lap()
    found = {"rows": len(order), "seconds": {"encoding": start[1] - start[0], "shuffling": start[2] - start[1]}}
    return found | {"bytes": {"encoding": memory[1] - memory[0], "shuffling": memory[2] - memory[1]}}


def extrapolated(rows: int, drivers: list[dict], training: dict) -> list[list[str]]:
    """What `rows` inputs would ask of the driver, of 64 H100 and of step 2: [what, how much, from what]."""
    load, few, many = plan.parse_args([]), drivers[0], drivers[-1]
    memory = (many["peak_memory"] - few["peak_memory"]) / (many["rows"] - few["rows"])
    micro = {name: 1e6 * seconds / many["rows"] for name, seconds in many["seconds"].items()}
    handing, written = micro["handing out and journal"], micro["reading and hashing"] + micro["replay and outputs"]
    journal = many["bytes"]["journal"] / many["rows"]
    longer = 4 * load.output_tokens - len(ATTEMPT["response"])
    teachers = plan.serving(plan.Model(), "h100", 2, 32, load)
    best, likely = teachers["rows_per_hour"], teachers["rows_per_hour_prompt_per_row"]
    gib, hour = rows / 2**30, rows / 3.6e9
    encoding, shuffling = (
        {key: training[key][name] / training["rows"] for key in ("seconds", "bytes")} for name in STEP2
    )
    return [
        ["memory of the driver", f"{gib * memory:.1f} GiB", f"{memory:.0f} bytes a row"],
        [
            "journal",
            f"{gib * (journal + longer):.0f} GiB",
            f"{journal:.0f} bytes a row + {longer} for a response of {load.output_tokens} tokens at 4 bytes",
        ],
        [
            "driver, while it hands out and records",
            f"{hour * handing:.1f} hours",
            f"{handing:.0f} microseconds a row: {1e6 / handing:,.0f} rows/s at most",
        ],
        ["driver, before and after", f"{hour * written:.1f} hours", f"{written:.0f} microseconds a row"],
        [
            "64 H100 as 32 x TP2, at least",
            f"{rows / best:.1f} hours",
            f"plan.py: {best:,} rows/hour at most, {best / 3600:,.0f} rows/s",
        ],
        ["the same, the prompt read for each row", f"{rows / likely:.1f} hours", f"plan.py: {likely:,} rows/hour"],
        [
            "step 2, encoding, in each process",
            f"{gib * encoding['bytes']:.0f} GiB, {rows * encoding['seconds'] / 3600:.1f} hours",
            f"{encoding['bytes']:,.0f} bytes and {1e6 * encoding['seconds']:.0f} microseconds a row",
        ],
        [
            "step 2, an epoch's order",
            f"{gib * shuffling['bytes']:.1f} GiB, {rows * shuffling['seconds']:.0f} s",
            f"{shuffling['bytes']:.0f} bytes and {1e6 * shuffling['seconds']:.2f} microseconds a row",
        ],
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default=str(ROOT / "models" / "tiny-thinking"), help="the teacher")
    parser.add_argument("--student", default=str(ROOT / "models" / "tiny-instruct"), help="whose tokenizer step 2 uses")
    parser.add_argument("--rows", type=int, default=1000, help="labelled by one and by two replicas")
    parser.add_argument("--driver_rows", type=int, nargs="+", default=[100000, 1000000], help="without an engine")
    parser.add_argument("--extrapolate", type=int, default=100000000, help="to so many rows, from the two last figures")
    parser.add_argument("--repeats", type=int, default=3, help="of each number of replicas, taken in turn")
    mine = parser.parse_args()
    from distill.evaluation.apart import apart

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        ways = {
            f"{n} replica{'s' * (n > 1)}": (lambda n=n: labelled(mine.model_name, mine.rows, n, folder)) for n in (1, 2)
        }
        rates = {way: spread(values) for way, values in in_turn(ways, mine.repeats).items()} if mine.rows else {}
        drivers, training = [], {}
        for rows in mine.driver_rows:
            drivers.append(apart(driver_alone, rows, Path(tempfile.mkdtemp(dir=folder))))
            output = drivers[-1].pop("output_file")
            training = training or apart(read_for_training, mine.student, output)  # of the first number alone
            shutil.rmtree(output.parent)
    table = [[way, show(rate)] for way, rate in rates.items()]
    notes = []
    for found in drivers:
        per_row = {name: 1e6 * s / found["rows"] for name, s in found["seconds"].items() if name != "starting Ray"}
        parts = ", ".join(f"{name} {micro:.0f}" for name, micro in per_row.items())
        sizes = ", ".join(f"{name} {size / found['rows']:.0f}" for name, size in found["bytes"].items())
        notes.append(
            f"Driver without an engine, {found['rows']:,} rows: microseconds a row: {parts}; of handing out and "
            f"journal {1e6 * found['cpu_seconds'] / found['rows']:.0f} are the driver's own CPU. Peak memory "
            f"{found['peak_memory'] / 2**20:,.0f} MiB. Bytes a row: {sizes}."
        )
    if training:
        costs = (
            f"{name} {1e6 * training['seconds'][name] / training['rows']:.1f} microseconds and "
            f"{training['bytes'][name] / training['rows']:,.0f} bytes of memory"
            for name in training["seconds"]
        )
        notes.append(f"Step 2 on {training['rows']:,} of these rows, before the first step, a row: {', '.join(costs)}.")
    if len(drivers) > 1:
        header = [f"{mine.extrapolate:,} rows", "", "from"]
        notes += ["", markdown(header, extrapolated(mine.extrapolate, drivers, training))]
    result = {"rates": rates, "driver": drivers, "training": training}
    return finish("Step 1 on replicas", ["", "rows/s"], table, notes, {"cluster": result})


if __name__ == "__main__":
    sys.exit(main())
