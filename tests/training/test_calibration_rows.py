"""Which rows are kept away from training, and that they stay away: in a new run, in one that goes
on, and in one that starts from an adapter.
"""

import json
import random
import shutil
from collections import Counter

import pytest

from distill.adapter_files import adapter_identity
from distill.calibration import CALIBRATION_ROWS
from distill.chats import input_hash
from distill.training.arguments import OneLineParser, TrainArguments
from distill.training.calibration_rows import (
    FEWEST,
    CalibrationRows,
    check_kept,
    choose_inputs,
    inputs_kept_before,
    set_apart,
    write_rows,
)
from distill.training.checks import check_run
from distill.training.recipe import ScriptArguments
from distill.training.train_files import LabelledRow, labelled_rows
from helpers import cosine, fails, last_json, python, read_jsonl

LABELS = {"de": 100, "en": 61, "fr": 30, "is": 4, "ot": 1}  # and how many inputs have each


def labelled(sizes=LABELS):
    """Rows with so many inputs for each label."""
    rows = []
    for label, size in sizes.items():
        for number in range(size):
            rows.append(LabelledRow("a", len(rows) + 1, f"{label} {number}", label))
    return rows


def counted(rows, chosen):
    """How many of the chosen inputs have each label."""
    return Counter(row.answer for row in rows if row.asked in chosen)


def test_each_label_gives_the_same_share_to_one_more_or_less():
    rows = labelled()
    for fraction in (0.01, 0.05, 0.15, 0.5, 0.9):
        for seed in range(20):
            chosen = choose_inputs(rows, fraction, seed, set())
            assert len(chosen) == round(fraction * len(rows))
            found = counted(rows, chosen)
            for label, size in LABELS.items():
                assert abs(found[label] - size * len(chosen) / len(rows)) < 1


def test_each_input_has_the_same_chance():
    """Also of a label whose share is less than one row."""
    rows = labelled()
    drawn = Counter()
    for seed in range(2000):
        drawn.update(counted(rows, choose_inputs(rows, 0.1, seed, set())))
    for label, size in LABELS.items():
        assert drawn[label] / 2000 == pytest.approx(0.1 * size, rel=0.2)


def test_free_answers_are_simply_drawn():
    rows = [LabelledRow("a", n, f"input {n}", f"text {n}") for n in range(200)]
    first = choose_inputs(rows, 0.1, 1, set())
    assert len(first) == 20 and first != choose_inputs(rows, 0.1, 2, set())
    # not every tenth of the answers in alphabetical order
    places = sorted(int(asked.split()[1]) for asked in first)
    assert len({b - a for a, b in zip(places, places[1:], strict=False)}) > 3


def test_the_choice_follows_the_seed_and_not_the_order_of_rows():
    rows = labelled()
    chosen = choose_inputs(rows, 0.1, 7, set())
    shuffled = random.Random(0).sample(rows, len(rows))
    assert choose_inputs(shuffled, 0.1, 7, set()) == chosen != choose_inputs(rows, 0.1, 8, set())
    # a run that was begun under another version of this code or of Python must find the same
    few = labelled({"a": 9, "b": 9})
    assert choose_inputs(few, 0.2, 42, set()) == {"a 1", "a 6", "b 0", "b 2"}


def test_what_was_kept_before_is_kept_first():
    rows = labelled()
    first = choose_inputs(rows, 0.2, 1, set())
    assert not first <= choose_inputs(rows, 0.2, 2, set())
    assert choose_inputs(rows, 0.1, 2, first) < first
    grown = rows + [LabelledRow("a", 1000 + n, f"new {n}", "fr") for n in range(100)]
    assert len(first - choose_inputs(grown, 0.2, 2, first)) <= len(LABELS)
    assert choose_inputs(rows, 0.2, 2, {"gone since"}) == choose_inputs(rows, 0.2, 2, set())


def test_too_few_and_none_left_are_refused():
    check_kept(0.1, FEWEST, FEWEST + 1)
    with pytest.raises(ValueError) as refused:
        check_kept(0.1, 19, 190)
    assert str(refused.value) == (
        "--calibration_fraction 0.1: keeps 19 of 190 rows from training, and a calibration needs "
        "20; raise it, or leave it out"
    )
    with pytest.raises(
        ValueError, match="keeps 30 of 30 rows from training, which leaves none; lo"
    ):
        check_kept(0.99, 30, 30)


def chat(text, answer, **more):
    """A line of chat JSONL."""
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return json.dumps({**more, "messages": messages}, ensure_ascii=False) + "\n"


def test_lines_are_kept_byte_for_byte_and_those_of_one_input_together(tmp_path):
    """Also where they contradict each other."""
    lines = [chat(f"straße  {n}", "de", id=f"{n:03}") for n in range(80)]
    lines += [chat(f"straße  {n}", "en", id=f"again {n}") for n in range(40)]
    lines[3] = lines[3].replace("\n", "\r\n")
    lines[5] = "\n" + lines[5].replace('": "', '":"')
    path = tmp_path / "train.jsonl"
    path.write_bytes(("\ufeff" + "".join(lines).removesuffix("\n")).encode())
    rows = labelled_rows([str(path)])
    left, kept = set_apart(rows, 0.4, 1, None)
    assert len(left) + len(kept.lines) == 120
    bare = [line.removeprefix("\n") for line in lines]
    trained = {bare[rows.index(row)] for row in left}
    assert set(kept.lines) == set(bare) - trained
    inputs = {input_hash(json.loads(line)["messages"][:-1]) for line in trained}
    assert not inputs & {input_hash(json.loads(line)["messages"][:-1]) for line in kept.lines}
    write_rows(tmp_path, kept)
    written = (tmp_path / CALIBRATION_ROWS).read_bytes()
    assert written == "".join(line for line in bare if line in set(kept.lines)).encode()
    write_rows(tmp_path, CalibrationRows())  # training on all of them
    assert [file.name for file in tmp_path.iterdir()] == ["train.jsonl"]
    assert set_apart(rows, 0.0, 1, None) == (rows, CalibrationRows())


# Real runs of a small random student, of 110 inputs with two labels, ten of them twice.


@pytest.fixture(scope="module")
def train_file(small):
    path = small / "labels.jsonl"
    lines = [chat(f"hola {n}", "es" if n % 3 else "de", id=str(n)) for n in range(110)]
    path.write_text("".join([*lines, *lines[:10]]))
    return path


def command(small, train_file, output_dir, *flags):
    """The flags of a run of the small student."""
    line = ["--model_name", small / "base", "--train_file", train_file, "--output_dir", output_dir]
    line += ["--use_cpu", "true", "--bf16", "false", "--lora_rank", 8, "--max_steps", 4]
    return [*line, "--save_strategy", "steps", "--save_steps", 2, *flags]


def checked_run(small, train_file, tmp_path, monkeypatch, *flags):
    """What a run finds out before it loads the student."""
    line = command(small, train_file, tmp_path / "checked", "--check_only", "true", *flags)
    monkeypatch.setattr("sys.argv", [str(part) for part in ["train_sft_trl.py", *line]])
    script, args = OneLineParser((ScriptArguments, TrainArguments)).parse()
    return check_run(script, args)


@pytest.fixture(scope="module")
def first(small, train_file):
    """A run that keeps a fifth of the rows away and evaluates on some of the others."""
    flags = ["--calibration_fraction", 0.2, "--eval_fraction", 0.1]
    result = python("train_sft_trl.py", *command(small, train_file, small / "first", *flags))
    return small / "first", result, flags


def test_what_is_kept_away_is_not_trained_on(small, train_file, first, tmp_path, monkeypatch):
    output_dir, result, flags = first
    kept = (output_dir / CALIBRATION_ROWS).read_text().splitlines(keepends=True)
    lines = train_file.read_text().splitlines(keepends=True)
    assert set(kept) < set(lines) and abs(len(kept) - 24) <= 4
    assert f"{len(kept)} more rows of {train_file} are kept away from training" in result.stderr
    further = [*flags, "--max_steps", -1]
    checked = checked_run(small, train_file, tmp_path, monkeypatch, *further)
    texts = "\n".join(checked.tokenizer.decode(row["input_ids"]) for row in checked.rows)
    inputs = {json.loads(line)["messages"][0]["content"] for line in kept}
    assert inputs and not [text for text in inputs if f"{text}<" in texts]
    results = json.loads((output_dir / "results.json").read_text())
    assert results == last_json(result)
    assert results["calibration_rows"] == len(kept)
    left = len(lines) - len(kept)
    assert results["rows"] == left - -(-left // 10)  # a tenth of them is evaluated on
    assert f"train_sft_trl.py: {left} rows of" in result.stderr
    assert checked.few_rows.startswith(f"{left} rows are fewer than 2,000")  # not all 120


def test_the_adapter_stays_the_same_one_without_its_rows(first, tmp_path):
    copied = shutil.copytree(first[0], tmp_path / "adapter")
    (copied / CALIBRATION_ROWS).unlink()
    assert adapter_identity(copied) == adapter_identity(first[0])


def test_a_stopped_run_keeps_the_same_rows(small, train_file, first, tmp_path):
    """As a kill after the second step leaves it, the calibration rows torn or gone."""
    whole, _, flags = first
    stopped = tmp_path / "stopped"
    shutil.copytree(whole / "checkpoint-2", stopped / "checkpoint-2")
    shutil.copy(whole / "run.json", stopped)
    line = command(small, train_file, stopped, *flags)
    said = fails("train_sft_trl.py", *line, "--calibration_fraction", 0.3)
    assert "begun with calibration_fraction 0.2, now 0.3; --overwrite starts afresh" in said
    result = python("train_sft_trl.py", *line)
    assert f"resuming from {stopped / 'checkpoint-2'}" in result.stderr
    assert (stopped / CALIBRATION_ROWS).read_bytes() == (whole / CALIBRATION_ROWS).read_bytes()
    assert cosine(stopped, whole) > 0.99999
    assert last_json(result)["rows"] == last_json(first[1])["rows"]


def test_a_run_without_the_flag_leaves_no_rows_beside_its_adapter(small, train_file, tmp_path):
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    for name in ("results.json", "calibration.json", CALIBRATION_ROWS):
        (output_dir / name).write_text("{}")
    line = command(small, train_file, output_dir, "--max_steps", 1, "--overwrite", "true")
    result = python("train_sft_trl.py", *line)
    assert last_json(result)["calibration_rows"] == 0
    assert "kept away" not in result.stderr
    assert not list(output_dir.glob("calibration*"))


def test_what_the_first_adapter_has_not_seen_is_kept_away_again(small, train_file, first, tmp_path):
    grown = tmp_path / "grown.jsonl"
    grown.write_text(train_file.read_text() + "".join(chat(f"neu {n}", "de") for n in range(60)))
    flags = ["--calibration_fraction", 0.2, "--seed", 9, "--init_adapter", first[0]]
    line = command(small, grown, tmp_path / "second", *flags, "--max_steps", 1)
    result = python("train_sft_trl.py", *line)
    kept = read_jsonl(tmp_path / "second" / CALIBRATION_ROWS)
    before = read_jsonl(first[0] / CALIBRATION_ROWS)
    again = [row for row in kept if row in before]
    assert len(again) >= len(before) - 2 and len(kept) > len(before)
    assert f"{first[0]} may have been trained on {len(kept) - len(again)} of them" in result.stderr
    # which is also known of a checkpoint
    assert inputs_kept_before(first[0] / "checkpoint-4") == inputs_kept_before(first[0])
    # rows that have changed since then would be other ones in a run that goes on
    (tmp_path / "second" / "results.json").unlink()
    moved = shutil.copytree(first[0], tmp_path / "moved")
    (moved / CALIBRATION_ROWS).unlink()
    line = command(small, grown, tmp_path / "second", *flags, "--max_steps", 1)
    said = fails("train_sft_trl.py", *line, "--init_adapter", moved)
    assert "begun with other rows kept for calibration (" in said


def test_shares_that_cannot_work_are_refused(small, train_file, tmp_path):
    for fraction in ("1", "-0.1", "nan"):
        line = command(small, train_file, tmp_path / "out", "--calibration_fraction", fraction)
        assert "a share of at least 0 and below 1" in fails("train_sft_trl.py", *line)
    line = command(small, train_file, tmp_path / "out", "--calibration_fraction", "0.05")
    assert "of 120 rows from training, and a calibration needs 20" in fails(
        "train_sft_trl.py", *line
    )
    assert not (tmp_path / "out").exists()
