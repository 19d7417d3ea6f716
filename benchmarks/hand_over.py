"""What handing over buys, over several trainings of the tiny student: medians on the held-out rows.

    python benchmarks/hand_over.py --seeds 5 --hand_over 0.05 0.08

The tiny teacher labels sentences and held-out rows once. For each seed the student is trained with
a share of the labels kept for calibration, calibrated on them and measured, each by the scripts
themselves. The held-out rows choose nothing: threshold and temperature come from the calibration
rows, and the shares are the flag's.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import ROOT, finish, parser_of, show_shares

TEACHER = "models/tiny-thinking"
STUDENT = "models/tiny-instruct"
HELDOUT = ROOT / "example-data" / "heldout.jsonl"


def script(*command) -> None:
    """Run a script of the repository; what it says goes to stderr."""
    words = [str(word) for word in command]
    subprocess.run(words, cwd=ROOT, stdout=sys.stderr, check=True)


def label(inputs: Path | None, output: Path) -> None:
    """Let the tiny teacher label; None: the example's sentences."""
    further = [] if inputs is None else ["--input_file", inputs]
    teacher = ["--model_name", TEACHER, "--max_tokens", 128]
    script(sys.executable, "create_data.py", *teacher, "--output_file", output, *further)


def train(adapter: Path, labels: Path, seed: int, fraction: float) -> None:
    """Train one student."""
    trained = [STUDENT, adapter, labels, "--config", "configs/tiny.yaml"]
    script("bash", "train_trl.sh", *trained, "--seed", seed, "--calibration_fraction", fraction)


def measure(adapter: Path, share: float, test_file: Path, teacher_answers: Path) -> dict:
    """Calibrate and measure one student; returns what metrics.json holds."""
    asked = ["--systems", "teacher,student", "--teacher_answers", teacher_answers]
    models = ["--student_model", STUDENT, "--adapter", adapter, "--test_file", test_file]
    flags = ["--hand_over", share, "--latency_rows", 1, "--check_rows", 0]
    script(sys.executable, "evaluate.py", *asked, *models, *flags)
    return json.loads((adapter / "report" / "metrics.json").read_text("utf-8"))


def figures_of(metrics: dict) -> dict[str, float]:
    """What is compared, by its title."""
    found = metrics["cascade"]
    systems = metrics["systems"]
    return {
        "teacher, right": systems["teacher"]["accuracy"],
        "student alone, right": systems["student"]["accuracy"],
        "student, teacher if unsure, right": systems["cascade"]["accuracy"],
        "the same share at random, right": found["random_accuracy"],
        "handed over": found["share"],
        "student alone agrees": systems["student"]["agreement"],
        "agrees on what it keeps": found["agreement_answered"],
        "tokens, share of the teacher's": 1 / systems["cascade"]["token_ratio"],
        "calibration error before": found["held_out"]["before"]["ece"],
        "calibration error after": found["held_out"]["after"]["ece"],
        "calibration error of right answers": found["held_out"]["gold"]["ece"],
    }


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="trainings, seeds 0, 1, ...")
    fraction = "share of the labels kept away from training"
    parser.add_argument("--calibration_fraction", type=float, default=0.2, help=fraction)
    shares = "shares of the calibration rows for the teacher"
    parser.add_argument("--hand_over", type=float, nargs="+", default=[0.05, 0.08], help=shares)
    args = parser.parse_args()
    found = {share: [] for share in args.hand_over}
    with tempfile.TemporaryDirectory(prefix="hand_over-") as name:
        folder = Path(name)
        labels = folder / "labels.jsonl"
        label(None, labels)
        inputs = folder / "heldout.txt"
        with open(HELDOUT, encoding="utf-8") as file:
            rows = [json.loads(line)["messages"][0]["content"] for line in file]
        inputs.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        teacher_answers = folder / "heldout-labels.jsonl"
        label(inputs, teacher_answers)
        for seed in range(args.seeds):
            adapter = folder / f"seed-{seed}"
            train(adapter, labels, seed, args.calibration_fraction)
            for share in args.hand_over:
                metrics = measure(adapter, share, HELDOUT, teacher_answers)
                found[share].append(figures_of(metrics))
    header = ["figure", *(f"--hand_over {share:g}" for share in args.hand_over)]
    rows = []
    medians = {}
    for title in found[args.hand_over[0]][0]:
        cells = []
        for share in args.hand_over:
            values = [figures[title] for figures in found[share]]
            medians[f"{title}, {share:g}"] = statistics.median(values)
            cells.append(show_shares(values))
        rows.append([title, *cells])
    title = f"The student that hands over, {args.seeds} trainings"
    return finish(title, header, rows, [], {"seeds": args.seeds, **medians})


if __name__ == "__main__":
    sys.exit(main())
