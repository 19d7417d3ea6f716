"""Provide the tiny pair: models/tiny-thinking (teacher) and models/tiny-instruct (student).

    python tests/tiny_pair.py [--output_dir models] [--rebuild]

The pair comes with the repository, in tests/pair. It is copied while task and sentences are those
it was trained on, and trained from scratch by tests/train_pair.py where they are others.
"""

import argparse
import hashlib
import json
import shutil
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TASK_FILE = ROOT / "example-data" / "language_classification.yaml"
GOLD_FILE = ROOT / "example-data" / "multilingual_gold.jsonl"
SHIPPED = ROOT / "tests" / "pair"
# It goes up when train_pair.py or tiny_text.py builds other models than before. Formatting them
# rebuilds nothing.
RECIPE = 2
STAMP = "build_hash.txt"
TEACHER_NAME = "tiny-thinking"
STUDENT_NAME = "tiny-instruct"
# A student whose base has read more agrees more with its teacher on what it keeps to itself.
STUDENT_STEPS = 1800  # of its base
TEACHER_STEPS = 600  # of its own base, and again under the prompt


def stamp_of(student_steps: int, teacher_steps: int, seed: int) -> str:
    """What decides a pair's weights, up to the rounding of the machine that trained it."""
    digest = hashlib.sha256()
    for source in (TASK_FILE, GOLD_FILE):
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    steps = f"{student_steps} and {teacher_steps} steps"
    return f"{digest.hexdigest()} recipe {RECIPE}, {steps}, seed {seed}"


def holds(folder: Path, stamp: str) -> bool:
    """Whether both models below `folder` carry this stamp."""
    stamps = [folder / name / STAMP for name in (TEACHER_NAME, STUDENT_NAME)]
    return all(path.exists() and path.read_text() == stamp for path in stamps)


def copy(output_dir: Path) -> None:
    """Put the pair that comes with the repository in its place, each model as a whole."""
    for name in (STUDENT_NAME, TEACHER_NAME):
        temporary = output_dir / f"{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(SHIPPED / name, temporary)
        shutil.rmtree(output_dir / name, ignore_errors=True)
        temporary.rename(output_dir / name)


def provide(
    output_dir: Path,
    student_steps: int = STUDENT_STEPS,
    teacher_steps: int = TEACHER_STEPS,
    seed: int = 0,
    rebuild: bool = False,
) -> str:
    """Provide the pair below output_dir.

    Returns how: it was "there", it was "copied", or it was "built".
    """
    stamp = stamp_of(student_steps, teacher_steps, seed)
    if holds(output_dir, stamp) and not rebuild:
        return "there"
    output_dir.mkdir(parents=True, exist_ok=True)
    if holds(SHIPPED, stamp) and not rebuild:
        copy(output_dir)
        return "copied"
    build(output_dir, stamp, student_steps, teacher_steps, seed)
    return "built"


def build(output_dir: Path, stamp: str, student_steps: int, teacher_steps: int, seed: int) -> None:
    """Train both models from scratch, for which alone torch is loaded."""
    from train_pair import train_pair

    train_pair(output_dir, stamp, TASK_FILE, GOLD_FILE, student_steps, teacher_steps, seed)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "models", help="where the two directories go"
    )
    parser.add_argument("--rebuild", action="store_true", help="train it again, whatever is there")
    args = parser.parse_args()
    start = time.perf_counter()
    how = provide(args.output_dir, rebuild=args.rebuild)
    print(json.dumps({"pair": how, "seconds": round(time.perf_counter() - start, 1)}))


if __name__ == "__main__":
    main()
