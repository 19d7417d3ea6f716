"""What the benchmarks share: inputs of any number, medians with their spread, and how a result is printed."""

import itertools
import json
import multiprocessing
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill.evaluation.apart import in_child  # noqa: E402
from distill.evaluation.report import markdown  # noqa: E402

WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(["torch", "peft.peft_model", "trl.trainer.sft_trainer"])


def write_inputs(path: Path, rows: int) -> Path:
    """`rows` different inputs: the example sentences, numbered from the second round on."""
    lines = (ROOT / "example-data" / "multilingual.txt").read_text(encoding="utf-8").splitlines()
    rounds = (f"{line} {k}" if k else line for k in itertools.count() for line in lines)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in itertools.islice(rounds, rows))
    return path


def spread(values: list[float]) -> dict:
    """Median, lowest and highest of the repeats."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(values: list[float], others: list[float]) -> dict:
    """Spread of the ratios of measurements that were taken side by side, repeat by repeat."""
    return spread([value / other for value, other in zip(values, others, strict=True)])


def show(values: dict, digits: int = 1) -> str:
    """A spread as text: median (lowest to highest)."""
    median, low, high = (f"{values[key]:,.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def size(tensors) -> int:
    """Bytes of some tensors; None counts as nothing."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def apart_warm(function, *arguments):
    """apart.apart() in a process that was forked when the libraries had been imported and nothing else was done."""
    with ProcessPoolExecutor(1, mp_context=WARM) as pool:
        return pool.submit(in_child, function, *arguments).result()


def in_turn(ways: dict, repeats: int) -> dict[str, list]:
    """Call each way `repeats` times, in turn and in alternating order, so that a slow minute hits all alike."""
    found = {name: [] for name in ways}
    for repeat in range(repeats):
        for name in reversed(ways) if repeat % 2 else ways:
            found[name].append(ways[name]())
    return found


def finish(title: str, header: list[str], rows: list[list[str]], notes: list[str], result: dict) -> int:
    """Print the table, what it does not say, and the last line of JSON."""
    print(f"### {title}\n", markdown(header, rows), "", *notes, json.dumps(result), sep="\n")
    return 0
