"""What it costs to keep rows for calibration, and what it gives: a table over shares of the rows.

    python benchmarks/calibration_share.py --fractions 0.05 0.1 0.2 0.3 --seeds 3

The tiny teacher labels the example's sentences. Some of these rows are the development split: no
student is trained or calibrated on them, and on them alone all is measured. Of the others a share
is kept for calibration and the student trained on the rest, for each share and seed. The held-out
rows of the example are not touched, so that the share may be chosen by this table.
"""

import random
import statistics
import sys
import tempfile
from pathlib import Path

from figures import finish, parser_of, show_shares
from hand_over import label, measure, train


def split(labels: Path, development: Path, rest: Path, rows: int) -> None:
    """Write `rows` of the labelled rows, drawn at random, to one file, and the rest to another."""
    lines = labels.read_text("utf-8").splitlines(keepends=True)
    drawn = set(random.Random(0).sample(range(len(lines)), rows))
    with open(development, "w", encoding="utf-8") as file:
        file.writelines(line for number, line in enumerate(lines) if number in drawn)
    with open(rest, "w", encoding="utf-8") as file:
        file.writelines(line for number, line in enumerate(lines) if number not in drawn)


def figures_of(metrics: dict) -> dict[str, float]:
    """What is compared, by its title."""
    found = metrics["cascade"]
    return {
        "student alone agrees": metrics["systems"]["student"]["agreement"],
        "handed over": found["share"],
        "agrees on what it keeps": found["agreement_answered"],
        "calibration error before": found["held_out"]["before"]["ece"],
        "calibration error after": found["held_out"]["after"]["ece"],
    }


def main() -> int:
    parser = parser_of(__doc__)
    add = parser.add_argument
    shares = "of the rows that are not for development, kept for calibration"
    add("--fractions", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3], help=shares)
    add("--seeds", type=int, default=3, help="trainings for each share, seeds 0, 1, ...")
    add("--development_rows", type=int, default=400, help="rows on which all is measured")
    add("--hand_over", type=float, default=0.05, help="share of the calibration rows handed over")
    args = parser.parse_args()
    found = {fraction: [] for fraction in args.fractions}
    with tempfile.TemporaryDirectory(prefix="calibration_share-") as name:
        folder = Path(name)
        labels = folder / "labels.jsonl"
        label(None, labels)
        development = folder / "development.jsonl"
        rest = folder / "rest.jsonl"
        split(labels, development, rest, args.development_rows)
        for seed in range(args.seeds):
            for fraction in args.fractions:
                adapter = folder / f"{fraction:g}-seed-{seed}"
                train(adapter, rest, seed, fraction)
                metrics = measure(adapter, args.hand_over, development, development)
                found[fraction].append(figures_of(metrics))
    titles = list(found[args.fractions[0]][0])
    medians = {}
    table = []
    for fraction, runs in found.items():
        cells = []
        for title in titles:
            values = [figures[title] for figures in runs]
            medians[f"{title}, {fraction:g}"] = statistics.median(values)
            cells.append(show_shares(values))
        table.append([f"{fraction:g}", *cells])
    title = f"The share of the rows kept for calibration, {args.seeds} trainings each"
    header = ["--calibration_fraction", *titles]
    return finish(title, header, table, [], {"seeds": args.seeds, **medians})


if __name__ == "__main__":
    sys.exit(main())
