"""Which checkpoint is the last complete one, and how many steps it holds."""

import pytest

from distill.training.checkpoints import last_checkpoint, steps_of
from run_directories import begin, torn


def test_the_last_checkpoint_is_the_newest_complete_one(tmp_path, caplog):
    assert last_checkpoint(tmp_path / "nowhere") is None
    for step in (9, 10, 100):  # which as texts have another order
        begin(tmp_path, step=step)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path).name == "checkpoint-100"
    assert caplog.messages == []
    torn(tmp_path / "checkpoint-100")
    (tmp_path / "checkpoint-10" / "complete.json").unlink()
    assert last_checkpoint(tmp_path).name == "checkpoint-9"
    skipped = [
        f"{tmp_path / name}: not complete, skipped" for name in ("checkpoint-100", "checkpoint-10")
    ]
    assert caplog.messages == skipped
    torn(tmp_path / "checkpoint-9")
    assert last_checkpoint(tmp_path) is None


def test_what_is_no_checkpoint_holds_no_steps(tmp_path):
    assert steps_of(begin(tmp_path, step=7)) == 7
    with pytest.raises(OSError, match="trainer_state.json"):
        steps_of(tmp_path)
    torn(tmp_path / "checkpoint-7")
    with pytest.raises(ValueError, match="Expecting property name"):
        steps_of(tmp_path / "checkpoint-7")
