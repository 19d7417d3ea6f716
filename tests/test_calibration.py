"""The calibration of a student: what it says of a confidence, and whose it is. No model."""

import json
import math

import pytest

from calibrations import MADE
from distill.calibration import (
    CALIBRATION,
    Calibration,
    read_calibration,
    tempered,
    write_calibration,
)
from distill.task import load_task

SETTINGS = '{"r": 8, "base_model_name_or_path": "base"}'


@pytest.fixture
def adapter(tmp_path):
    (tmp_path / "adapter_config.json").write_text(SETTINGS)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    return tmp_path


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("labels: [de, en]\nprompt: Which language?\n")
    return load_task(str(path))


def made(adapter, task) -> Calibration:
    from distill.adapter_files import adapter_identity

    return Calibration(**MADE, task_hash=task.hash, adapter=adapter_identity(str(adapter)))


@pytest.mark.parametrize("probability", [0.01, 0.5, 0.9, 0.999])
def test_a_temperature_of_1_changes_nothing_and_a_higher_one_makes_less_sure(probability):
    assert tempered(math.log(probability), 1.0) == pytest.approx(probability)
    assert abs(tempered(math.log(probability), 2.0) - 0.5) <= abs(probability - 0.5)
    odds = probability / (1 - probability)
    assert tempered(math.log(probability), 2.0) == pytest.approx(odds**0.5 / (1 + odds**0.5))


def test_the_ends_are_finite():
    assert 0.99 < tempered(0.0, 2.0) < 1
    assert 0 < tempered(-1e9, 2.0) < 0.01
    assert (tempered(-1e9, 0.01), tempered(0.0, 0.01)) == (0.0, 1.0)


def test_what_is_handed_over(adapter, task):
    calibration = made(adapter, task)
    assert calibration.answered == 190
    assert calibration.confidence(None) is None and calibration.hands_over(None)
    # sigmoid(logit(p) / 2) is 0.8 where the odds are 16
    assert not calibration.hands_over(math.log(16 / 17) + 1e-9)
    assert calibration.hands_over(math.log(16 / 17) - 1e-6)


def test_it_is_read_back(adapter, task):
    calibration = made(adapter, task)
    write_calibration(adapter, calibration, ece=0.01)
    assert read_calibration(adapter, task) == calibration
    assert json.loads((adapter / CALIBRATION).read_text())["ece"] == 0.01


def test_another_adapter_or_task_is_refused(adapter, task):
    with pytest.raises(FileNotFoundError):
        read_calibration(adapter, task)
    write_calibration(adapter, made(adapter, task))
    (adapter / "adapter_model.safetensors").write_bytes(b"trained again")
    with pytest.raises(ValueError, match=r"calibration\.json: was made for another adapter"):
        read_calibration(adapter, task)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "task.yaml").write_text("labels: [de, en]\nprompt: Name the language.\n")
    with pytest.raises(ValueError, match=r"another task, or task\.yaml has changed"):
        read_calibration(adapter, load_task(str(adapter / "task.yaml")))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"temperature": 1}'])
def test_another_file_of_that_name_is_refused(adapter, task, text):
    (adapter / CALIBRATION).write_text(text)
    with pytest.raises(ValueError, match="is no calibration of this version"):
        read_calibration(adapter, task)
