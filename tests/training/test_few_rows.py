"""Epochs and batch that follow the number of rows, and which flags win."""

from math import ceil

import pytest

from distill.system import TO_LAUNCH
from distill.training.arguments import SHARE_BATCH, OneLineParser, TrainArguments
from distill.training.few_rows import (
    ENOUGH_ROWS,
    MOST_EPOCHS,
    STEPS,
    fitting_batch,
    fitting_epochs,
    follow_rows,
)
from distill.training.recipe import ScriptArguments

# rows: epochs and rows of an optimizer step
TABLE = {
    4: (10, 1),
    40: (8, 2),
    110: (5, 4),
    239: (10, 16),
    300: (8, 16),
    1000: (2, 16),
    1999: (1, 16),
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (SHARE_BATCH, TO_LAUNCH, "WORLD_SIZE", "NUM_MACHINES"):
        monkeypatch.delenv(name, raising=False)


def parsed(small, tmp_path, monkeypatch, *flags):
    """TrainArguments of a command line."""
    common = ["--model_name", small / "base", "--train_file", small / "train.jsonl"]
    common += ["--output_dir", tmp_path / "out", "--use_cpu", "true", "--bf16", "false"]
    line = ["train_sft_trl.py", *common, *flags]
    monkeypatch.setattr("sys.argv", [str(part) for part in line])
    return OneLineParser((ScriptArguments, TrainArguments)).parse()[1]


def followed(args, rows, processes=1, begun=None):
    """Epochs and rows per process after the rows are known, and what is said."""
    said = follow_rows(args, rows, processes, begun or {})
    return args.num_train_epochs, args.per_device_train_batch_size, said


@pytest.mark.parametrize("rows", TABLE)
def test_few_rows_make_about_150_steps_in_at_most_10_epochs(rows):
    batch = fitting_batch(rows, MOST_EPOCHS, micro_batches=1)
    assert (fitting_epochs(rows, batch), batch) == TABLE[rows]


def test_steps_stay_near_150_for_any_number_of_rows():
    for rows in range(1, ENOUGH_ROWS):
        batch = fitting_batch(rows, MOST_EPOCHS, micro_batches=1)
        epochs = fitting_epochs(rows, batch)
        steps = ceil(rows / batch) * epochs
        assert 1 <= epochs <= MOST_EPOCHS and 1 <= batch <= 16
        assert steps <= STEPS * 4 / 3
        assert steps >= STEPS * 2 / 3 or (batch, epochs) == (1, MOST_EPOCHS)


def test_what_counts_are_the_rows_of_an_optimizer_step():
    for micro_batches in (1, 2, 4):
        assert fitting_batch(110, MOST_EPOCHS, micro_batches) * micro_batches == 4
    assert fitting_batch(110, MOST_EPOCHS, micro_batches=8) == 1
    assert fitting_batch(1999, MOST_EPOCHS, micro_batches=3) == 5
    assert fitting_batch(1999, MOST_EPOCHS, micro_batches=64) == 1


def test_few_rows_are_followed_and_flags_win_each_by_itself(small, tmp_path, monkeypatch):
    def flags(*given):
        return parsed(small, tmp_path, monkeypatch, *given)

    assert followed(flags(), 110) == (
        5.0,
        4,
        "110 rows are fewer than 2,000: to come near 150 optimizer steps, 5 epochs with a batch "
        "of 4; --num_train_epochs and --per_device_train_batch_size override",
    )
    # the batch that fits the epochs that were asked for
    epochs, batch, said = followed(flags("--num_train_epochs", 3), 110)
    assert (epochs, batch) == (3, 2) and said.endswith("; --per_device_train_batch_size override")
    epochs, batch, said = followed(flags("--per-device-train-batch-size", 16), 110)
    assert (epochs, batch) == (10, 16) and said.endswith("; --num_train_epochs override")
    both = ("--per_device_train_batch_size", 16, "--num_train_epochs", 1)
    assert followed(flags(*both), 110) == (1, 16, "")
    assert followed(flags("--max_steps", 20), 110) == (1, 16, "")  # the steps are given
    assert followed(flags("--gradient_accumulation_steps", 2), 110)[:2] == (5, 2)
    assert followed(flags(), 110, processes=4)[:2] == (5, 1)


def test_from_2000_rows_on_the_recipe_counts(small, tmp_path, monkeypatch):
    args = parsed(small, tmp_path, monkeypatch)
    assert followed(args, ENOUGH_ROWS) == (1, 16, "")
    assert followed(args, ENOUGH_ROWS, processes=8) == (1, 16, "")  # per process


def test_a_preset_wins_too(small, tmp_path, monkeypatch):
    preset = tmp_path / "preset.yaml"
    preset.write_text("num_train_epochs: 4\n")
    args = parsed(small, tmp_path, monkeypatch, "--config", preset)
    assert followed(args, 110)[:2] == (4, 2)
    preset.write_text("num_train_epochs: 1\nper_device_train_batch_size: 16\n")
    args = parsed(small, tmp_path, monkeypatch, "--config", preset)
    assert followed(args, 110) == (1, 16, "")


def test_the_wrappers_for_several_gpus_share_the_recipes_batch(small, tmp_path, monkeypatch):
    """A preset's batch is for one process and does not count there."""
    preset = tmp_path / "preset.yaml"
    preset.write_text("per_device_train_batch_size: 16\n")
    monkeypatch.setenv(SHARE_BATCH, "1")
    monkeypatch.setenv(TO_LAUNCH, "4")  # as in the check before a launch
    for flags in ([], ["--config", preset]):
        args = parsed(small, tmp_path, monkeypatch, *flags)
        assert followed(args, ENOUGH_ROWS, processes=4) == (1, 4, "")
        assert followed(args, 1000, processes=4)[:2] == (2, 4)
    monkeypatch.setenv(TO_LAUNCH, "8")
    monkeypatch.setenv("NUM_MACHINES", "2")
    args = parsed(small, tmp_path, monkeypatch)
    assert followed(args, ENOUGH_ROWS, processes=16) == (1, 1, "")
    args = parsed(small, tmp_path, monkeypatch, "--per_device_train_batch_size", 2)
    assert followed(args, ENOUGH_ROWS, processes=16) == (1, 2, "")


def test_a_run_that_goes_on_keeps_what_it_began_with(small, tmp_path, monkeypatch):
    begun = {"num_train_epochs": "1.0", "per_device_train_batch_size": "16"}  # by older code
    args = parsed(small, tmp_path, monkeypatch)
    assert followed(args, 110, begun=begun) == (1, 16, "")
    assert str(args.num_train_epochs) == "1.0"  # run.json compares texts
    begun = {"num_train_epochs": "3", "per_device_train_batch_size": "4"}
    args = parsed(small, tmp_path, monkeypatch)
    epochs, batch, said = followed(args, 5000, begun=begun)
    assert (str(epochs), str(batch)) == ("3", "4")
    assert said == "as the run was begun: --num_train_epochs 3 --per_device_train_batch_size 4"
    # a flag wins, and the difference is refused as any other
    args = parsed(small, tmp_path, monkeypatch, "--num_train_epochs", 2)
    assert followed(args, 5000, begun=begun)[:2] == (2, 4)
