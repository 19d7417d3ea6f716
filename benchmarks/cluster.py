"""Step 1 on replicas: rows/s of one and of two, and what the driver itself costs for each row.

    python benchmarks/cluster.py --rows 2000 --driver_rows 1000000

The first is create_data.py as users call it, timed from the first recorded row to the last, so that
the start of the engines is left out; on a machine with few cores two replicas share what one has.
For the second the engine is left out: a replica answers at once with a record of the usual size,
and what is measured is reading and hashing the inputs, Ray Data's handing out, the journal and the
outputs.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import plan
import psutil
from figures import ROOT, finish, in_turn, parser_of, show, spread, write_inputs
from growth import driven

import create_data
from distill.chats import input_hash
from distill.labels import replicas
from distill.labels.inputs import scan_inputs
from distill.labels.journal import Journal
from distill.labels.labelling import record_rows
from distill.labels.ray_cluster import connect
from distill.labels.replicas import Assignment
from distill.task import load_task
from distill.wording import markdown

ATTEMPT = {
    "response": "Letters: Latin. Step 3. Language: German. " * 4,
    "finish_reason": "stop",
    "answer": "de",
    "reason": None,
    "sampling": {"temperature": 0.15, "max_tokens": 4096},
    "prompt_tokens": 2300,
    "cached_tokens": 2200,
    "output_tokens": 41,
    "thinking_tokens": 30,
    "thinking_cut": False,
}
RECORD = {"answer": "de", "reason": None, "agreement": 1.0, "attempts": [ATTEMPT]}
STARTING = "starting Ray"  # not a cost of rows
READING = "reading and hashing"
HANDING_OUT = "handing out and journal"
WRITING = "replay and outputs"
ENCODING = "encoding"
SHUFFLING = "shuffling"
GPUS = 64  # of the extrapolation, two to an engine
PER_ENGINE = 2


def labelled(model: str, rows: int, count: int, folder: Path) -> float:
    """Rows/s of `count` replicas with a core each, from the first recorded row to the last."""
    inputs = write_inputs(folder / "inputs.txt", rows)
    output = Path(tempfile.mkdtemp(dir=folder)) / "out.jsonl"
    command = [sys.executable, str(ROOT / "create_data.py"), "--model_name", model]
    command += ["--input_file", str(inputs), "--output_file", str(output)]
    command += ["--max_tokens", "256", "--min_success_rate", "0"]
    command += ["--num_replicas", str(count), "--cpus_per_replica", "1"]
    driven(command)
    journal = output.with_name("out.jsonl.trace.jsonl")
    seconds = []
    for line in journal.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "index" in record:
            seconds.append(record["seconds"])
    first = seconds[0]
    later = sum(recorded > first for recorded in seconds)
    return later / (seconds[-1] - first)


class Laps:
    """Seconds of each stage, one after the other."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def end(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self.last
        self.last = now


@dataclass
class Driver:
    """What step 1's driver needed for `rows` inputs without an engine."""

    rows: int
    seconds: dict[str, float]  # of each stage
    cpu_seconds: float  # of handing out and journal, its own
    peak_memory: int  # bytes
    bytes: dict[str, int]  # of the files
    output_file: Path

    def micro(self, stage: str) -> float:
        """Microseconds of a stage for each row."""
        return 1e6 * self.seconds[stage] / self.rows

    def recorded(self) -> dict:
        """What the last line has of it."""
        return {
            "rows": self.rows,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "peak_memory": self.peak_memory,
            "bytes": self.bytes,
        }


def driver_alone(rows: int, folder: Path) -> Driver:
    """Step 1's driver over `rows` inputs, with replicas that answer at once."""

    class Echo:  # a replica without an engine; here, so that Ray sends its code along
        def __init__(self, *_):
            pass

        def __call__(self, batch):
            asked = json.loads(batch["inputs"][0])
            decided = [(index, input_hash(messages), RECORD) for index, messages in asked]
            yield {"records": [json.dumps(decided, ensure_ascii=False)]}

    path = write_inputs(folder / "many.txt", rows)
    output = folder / "many.jsonl"
    flags = ["--num_replicas", "1", "--cpus_per_replica", "1"]
    flags += ["--input_file", str(path), "--output_file", str(output)]
    choices = create_data.parse_args(flags)
    task = load_task(choices.task_file)
    laps = Laps()
    inputs = scan_inputs(str(path))
    journal = Journal(output, {"run": 1}, inputs)
    journal.open()
    laps.end(READING)
    # Ray's workers look beside the script that was called, which is not ours here
    os.environ["PYTHONPATH"] = str(ROOT)
    replicas.Replica = Echo
    connect(choices.cluster)
    laps.end(STARTING)
    cpu = time.process_time()
    journal.start()
    missing = journal.missing()
    assignment = Assignment(choices.teacher, choices.settings, choices.task_file, task)
    decided = replicas.label_on_replicas(choices.cluster, assignment, inputs, missing)
    record_rows(decided, journal, int(missing.sum()), 0)
    laps.end(HANDING_OUT)
    cpu = time.process_time() - cpu
    journal.replay()
    journal.write_outputs(True)
    laps.end(WRITING)
    sizes = {
        "inputs": path.stat().st_size,
        "journal": journal.own.stat().st_size,
        "output": output.stat().st_size,
    }
    peak = getrusage(RUSAGE_SELF).ru_maxrss * 1024
    return Driver(rows, laps.seconds, cpu, peak, sizes, output)


@dataclass
class Prepared:
    """What step 2 needed for its rows before its first step."""

    rows: int
    seconds: dict[str, float]  # of encoding and shuffling
    bytes: dict[str, int]  # of memory

    def row_seconds(self, stage: str) -> float:
        return self.seconds[stage] / self.rows

    def row_bytes(self, stage: str) -> float:
        return self.bytes[stage] / self.rows

    def recorded(self) -> dict:
        """What the last line has of it."""
        return {"rows": self.rows, "seconds": self.seconds, "bytes": self.bytes}


def read_for_training(model: str, path: Path) -> Prepared:
    """What step 2 does with all rows before its first step, encoding and shuffling."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer

    from distill.training.rows import load_rows

    tokenizer = AutoTokenizer.from_pretrained(model)
    process = psutil.Process()
    before = process.memory_info().rss
    laps = Laps()
    rows = load_rows(str(path), tokenizer, None)
    data = Dataset.from_list(rows)
    laps.end(ENCODING)
    encoded = process.memory_info().rss
    laps.last = time.perf_counter()
    order = torch.randperm(len(data)).tolist()  # as a sampler draws it for each epoch
    laps.end(SHUFFLING)
    shuffled = process.memory_info().rss
    memory = {ENCODING: encoded - before, SHUFFLING: shuffled - encoded}
    return Prepared(len(order), laps.seconds, memory)


def extrapolated(rows: int, drivers: list[Driver], training: Prepared) -> list[list[str]]:
    """What `rows` inputs would ask of driver, 64 H100 and step 2: [what, how much, from what]."""
    rows_gib = rows / 2**30  # times bytes of a row
    rows_hours = rows / 3.6e9  # times microseconds of a row
    return [
        *of_driver(rows_gib, rows_hours, drivers),
        *of_gpus(rows),
        *of_training(rows, rows_gib, training),
    ]


def of_driver(rows_gib: float, rows_hours: float, drivers: list[Driver]) -> list[list[str]]:
    few = drivers[0]
    many = drivers[-1]
    memory = (many.peak_memory - few.peak_memory) / (many.rows - few.rows)
    handing = many.micro(HANDING_OUT)
    before_and_after = many.micro(READING) + many.micro(WRITING)
    journal = many.bytes["journal"] / many.rows
    output_tokens = plan.Load().output_tokens
    longer = 4 * output_tokens - len(ATTEMPT["response"])
    return [
        ["memory of the driver", f"{rows_gib * memory:.1f} GiB", f"{memory:.0f} bytes a row"],
        [
            "journal",
            f"{rows_gib * (journal + longer):.0f} GiB",
            f"{journal:.0f} bytes a row + {longer} for a response of {output_tokens} tokens "
            "at 4 bytes",
        ],
        [
            "driver, while it hands out and records",
            f"{rows_hours * handing:.1f} hours",
            f"{handing:.0f} microseconds a row: {1e6 / handing:,.0f} rows/s at most",
        ],
        [
            "driver, before and after",
            f"{rows_hours * before_and_after:.1f} hours",
            f"{before_and_after:.0f} microseconds a row",
        ],
    ]


def of_gpus(rows: int) -> list[list[str]]:
    engines = GPUS // PER_ENGINE
    rates = plan.serving(plan.Model(), "h100", PER_ENGINE, engines, plan.Load()).rates
    best = rates.rows_per_hour
    likely = rates.rows_per_hour_prompt_per_row
    return [
        [
            f"{GPUS} H100 as {engines} x TP{PER_ENGINE}, at least",
            f"{rows / best:.1f} hours",
            f"plan.py: {best:,} rows/hour at most, {best / 3600:,.0f} rows/s",
        ],
        [
            "the same, the prompt read for each row",
            f"{rows / likely:.1f} hours",
            f"plan.py: {likely:,} rows/hour",
        ],
    ]


def of_training(rows: int, rows_gib: float, training: Prepared) -> list[list[str]]:
    encoding = training.row_seconds(ENCODING)
    encoded = training.row_bytes(ENCODING)
    shuffling = training.row_seconds(SHUFFLING)
    shuffled = training.row_bytes(SHUFFLING)
    return [
        [
            "step 2, encoding, in each process",
            f"{rows_gib * encoded:.0f} GiB, {rows * encoding / 3600:.1f} hours",
            f"{encoded:,.0f} bytes and {1e6 * encoding:.0f} microseconds a row",
        ],
        [
            "step 2, an epoch's order",
            f"{rows_gib * shuffled:.1f} GiB, {rows * shuffling:.0f} s",
            f"{shuffled:.0f} bytes and {1e6 * shuffling:.2f} microseconds a row",
        ],
    ]


def driver_note(driver: Driver) -> str:
    stages = [stage for stage in driver.seconds if stage != STARTING]
    parts = ", ".join(f"{stage} {driver.micro(stage):.0f}" for stage in stages)
    sizes = ", ".join(f"{name} {size / driver.rows:.0f}" for name, size in driver.bytes.items())
    cpu = 1e6 * driver.cpu_seconds / driver.rows
    return (
        f"Driver without an engine, {driver.rows:,} rows: microseconds a row: {parts}; "
        f"of handing out and journal {cpu:.0f} are the driver's own CPU. "
        f"Peak memory {driver.peak_memory / 2**20:,.0f} MiB. Bytes a row: {sizes}."
    )


def training_note(training: Prepared) -> str:
    costs = []
    for stage in training.seconds:
        micro = 1e6 * training.row_seconds(stage)
        memory = training.row_bytes(stage)
        costs.append(f"{stage} {micro:.1f} microseconds and {memory:,.0f} bytes of memory")
    return (
        f"Step 2 on {training.rows:,} of these rows, before the first step, a row: "
        f"{', '.join(costs)}."
    )


def measured_drivers(
    driver_rows: list[int], student: str, folder: Path
) -> tuple[list[Driver], Prepared | None]:
    """The driver with each number of rows, and step 2 with the first one."""
    from distill.evaluation.apart import apart

    drivers = []
    training = None
    for rows in driver_rows:
        driver = apart(driver_alone, rows, Path(tempfile.mkdtemp(dir=folder)))
        drivers.append(driver)
        if training is None:
            training = apart(read_for_training, student, driver.output_file)
        shutil.rmtree(driver.output_file.parent)
    return drivers, training


def parse_args():
    parser = parser_of(__doc__)

    def add(name: str, default, help: str, **further) -> None:
        parser.add_argument(name, default=default, help=help, **further)

    add("--model_name", str(ROOT / "models" / "tiny-thinking"), "the teacher")
    add("--student", str(ROOT / "models" / "tiny-instruct"), "whose tokenizer step 2 uses")
    add("--rows", 1000, "labelled by one and by two replicas", type=int)
    add("--driver_rows", [100000, 1000000], "without an engine", type=int, nargs="+")
    add("--extrapolate", 100000000, "to so many rows, from the two last figures", type=int)
    add("--repeats", 3, "of each number of replicas, taken in turn", type=int)
    return parser.parse_args()


def main() -> int:
    mine = parse_args()
    rates = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if mine.rows:
            rate_of = partial(labelled, mine.model_name, mine.rows, folder=folder)
            ways = {"1 replica": partial(rate_of, 1), "2 replicas": partial(rate_of, 2)}
            for way, values in in_turn(ways, mine.repeats).items():
                rates[way] = spread(values)
        drivers, training = measured_drivers(mine.driver_rows, mine.student, folder)
    table = [[way, show(rate)] for way, rate in rates.items()]
    notes = [driver_note(driver) for driver in drivers]
    if training:
        notes.append(training_note(training))
    if len(drivers) > 1:
        header = [f"{mine.extrapolate:,} rows", "", "from"]
        notes += ["", markdown(header, extrapolated(mine.extrapolate, drivers, training))]
    result = {
        "rates": rates,
        "driver": [driver.recorded() for driver in drivers],
        "training": training.recorded() if training else {},
    }
    return finish("Step 1 on replicas", ["", "rows/s"], table, notes, {"cluster": result})


if __name__ == "__main__":
    sys.exit(main())
