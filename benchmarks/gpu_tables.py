"""How gpu.py shows what it found: its tables in Markdown."""

from figures import markdown, show
from sizes import GIB

OPERATION = 90  # characters of an operation's name that are shown


def gib(count: int | None) -> str:
    return "-" if count is None else f"{count / GIB:.3f}"


def show_memory(table: list[dict]) -> str:
    """The table of memory in GiB.

    What is compared with the plan is PyTorch's count, on a CPU that of the tensors.
    """
    rows = []
    for line in table:
        measured = line["allocated"]
        if measured is None:
            measured = line["tensors"]
        ratio = "-" if measured is None else f"{measured / line['planned']:.4f}"
        sizes = [gib(line[key]) for key in ("planned", "tensors", "allocated")]
        rows.append([line["what"], *sizes, ratio])
    header = ["GiB after", "planned", "in tensors", "allocated", "measured to planned"]
    return markdown(header, rows)


def show_runs(runs: list[dict]) -> str:
    """The table of speeds, one line for each configuration."""
    rows = []
    for run in runs:
        cells = [run["error"], "-", "-", "-", "-"] if "error" in run else speed_cells(run)
        rows.append([str(run["length"]), str(run["rows"]), run["way"], *cells])
    header = [
        "longest row",
        "rows",
        "computed",
        "tokens/s",
        "s per step",
        "fed to real tokens",
        "loss",
        "peak GiB",
    ]
    return markdown(header, rows)


def speed_cells(run: dict) -> list[str]:
    """What was measured of a configuration."""
    return [
        show(run["tokens_per_second"], 0),
        show(run["seconds"], 3),
        f"{run['fed_tokens'] / run['tokens']:.2f}",
        f"{run['loss']:.4f}",
        gib(run["peak_bytes"]),
    ]


def show_profile(profile: dict) -> str:
    """One profiled step as Markdown."""
    if "error" in profile:
        return f"Profile: {profile['error']}."
    head = (
        f"A step of {profile['rows']} rows of up to {profile['length']} tokens, profiled: "
        f"{profile['milliseconds']:.0f} ms, of which the device works {profile['device']:.0f}"
    )
    rows = []
    for operation, spent in profile["spent"].items():
        share = spent / profile["device"]
        rows.append([operation[:OPERATION], f"{spent:.1f}", f"{share:.1%}"])
    return f"{head}\n\n{markdown(['operation', 'ms', 'share'], rows)}"


def show_figure(found: dict, key: str) -> str:
    """A figure of an attempt, or why there is none."""
    return f"{found[key]:.3g}" if key in found else found["error"]
