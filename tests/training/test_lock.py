"""One run in a directory, and checks on several machines."""

import pytest

from distill.locks import lock
from distill.system import TO_LAUNCH
from distill.training.lock import lock_output


def test_checks_on_several_machines_do_not_keep_each_other_out(tmp_path, monkeypatch):
    """Each machine's wrapper checks before the launch; the directory is the same for all."""
    monkeypatch.setenv(TO_LAUNCH, "2")
    with lock(tmp_path / "training.lock"):
        monkeypatch.setenv("NUM_MACHINES", "1")
        with pytest.raises(ValueError, match="another run is writing it"):
            lock_output(str(tmp_path), 0)
        monkeypatch.setenv("NUM_MACHINES", "2")
        lock_output(str(tmp_path), 0)
