"""What the benchmarks share: inputs, medians with their spread, and how a result is printed."""

import argparse
import json
import multiprocessing
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill.evaluation.apart import in_child  # noqa: E402
from distill.wording import markdown, percent  # noqa: E402

LIBRARIES = ["torch", "peft.peft_model", "trl.trainer.sft_trainer"]


def write_inputs(path: Path, rows: int) -> Path:
    """`rows` different inputs: the example sentences, numbered from the second round on."""
    example = ROOT / "example-data" / "multilingual.txt"
    lines = example.read_text(encoding="utf-8").splitlines()
    with open(path, "w", encoding="utf-8") as file:
        for index in range(rows):
            line = lines[index % len(lines)]
            number = index // len(lines)
            file.write(f"{line} {number}\n" if number else f"{line}\n")
    return path


def spread(values: list[float]) -> dict:
    """Median, lowest and highest of the repeats."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(values: list[float], others: list[float]) -> dict:
    """Spread of the ratios of measurements that were taken side by side, repeat by repeat."""
    return spread([value / other for value, other in zip(values, others, strict=True)])


def show(values: dict, digits: int = 1) -> str:
    """A spread as text: median (lowest to highest)."""
    form = f",.{digits}f"
    median = format(values["median"], form)
    low = format(values["low"], form)
    high = format(values["high"], form)
    return f"{median} ({low} to {high})"


def show_shares(values: list[float]) -> str:
    """Shares as text, in percent: median (lowest to highest)."""
    shown = spread(values)
    least = percent(shown["low"])
    most = percent(shown["high"])
    return f"{percent(shown['median'])} ({least} to {most})"


def size(tensors) -> int:
    """Bytes of some tensors; None counts as nothing."""
    there = [tensor for tensor in tensors if tensor is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in there)


def apart_warm(function, *arguments):
    """apart.apart() in a process forked right after the libraries had been imported."""
    warm = multiprocessing.get_context("forkserver")
    warm.set_forkserver_preload(LIBRARIES)
    with ProcessPoolExecutor(1, mp_context=warm) as pool:
        return pool.submit(in_child, function, *arguments).result()


def in_turn(ways: dict, repeats: int) -> dict[str, list]:
    """Call each way `repeats` times; what each call returned.

    They take turns in alternating order, so that a slow minute hits all alike.
    """
    found = {name: [] for name in ways}
    order = list(ways)
    for _ in range(repeats):
        for name in order:
            found[name].append(ways[name]())
        order.reverse()
    return found


def figures_of(runs: list[dict], key: str) -> list[float]:
    """One figure of every run."""
    return [run[key] for run in runs]


def parser_of(doc: str) -> argparse.ArgumentParser:
    """A parser whose help begins with a benchmark's docstring."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=doc, formatter_class=formatter)


def finish(
    title: str, header: list[str], rows: list[list[str]], notes: list[str], result: dict
) -> int:
    """Print the table, what it does not say, and the last line of JSON."""
    table = markdown(header, rows)
    print(f"### {title}\n", table, "", *notes, json.dumps(result), sep="\n")
    return 0
