"""predict.py with calibration.json: what it writes then, and which one it takes. No model."""

import json
import math

import pytest

from calibrations import MADE
from distill.adapter_files import adapter_identity
from distill.calibration import CALIBRATION, Calibration, tempered, write_calibration
from distill.task import load_task
from list_student import ListStudent
from predictions import ANSWERS, choices, last_line, make_folder, rows, run_once

FITTED = {**MADE, "threshold": 0.6}


@pytest.fixture
def folder(tmp_path):
    """Where a student, its adapter, task and inputs are, as far as files say so."""
    make_folder(tmp_path)
    (tmp_path / "adapter").mkdir()
    recorded = {"base_model_name_or_path": str(tmp_path / "merged")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(recorded))
    return tmp_path


def with_adapter(folder, *flags):
    return choices(folder, "--adapter", folder / "adapter", "--model_name", "", *flags)


def calibrate(folder, **changed):
    """Write the adapter's calibration.json, as step 3 does."""
    found = Calibration(
        **{**FITTED, **changed},
        task_hash=load_task(folder / "task.yaml").hash,
        adapter=adapter_identity(folder / "adapter"),
    )
    write_calibration(folder / "adapter", found)
    return folder / "adapter" / CALIBRATION


def calibrated(probability):
    return tempered(math.log(probability), FITTED["temperature"])


def test_another_calibration_only_writes_the_output_anew(folder, capsys, caplog):
    caplog.set_level("INFO", "predict")
    output = folder / "out.csv"
    assert run_once(with_adapter(folder), ListStudent(ANSWERS)) == 0
    raw = output.read_bytes()
    journal = (folder / "out.csv.trace.jsonl").read_bytes()
    line = last_line(capsys)
    assert "unsure" not in rows(output)[0] and "calibration" not in line
    assert "unsure below" not in caplog.text

    file = calibrate(folder)
    for flags in ([], ["--skip_finished"]):
        with pytest.raises(ValueError, match="written with another calibration, or without one"):
            run_once(with_adapter(folder, *flags), None)
    output.unlink()
    assert run_once(with_adapter(folder), None) == 0
    found = rows(output)
    sure = [calibrated(share) for share in (0.9, 0.5, 0.9, 0.25)]
    assert [float(row["confidence"]) for row in found[:4]] == pytest.approx(sure, abs=1e-6)
    # 0.9 is 0.75 by a temperature of 2; the last three have no valid answer
    assert [row["unsure"] for row in found] == ["false", "true", "false", "true", "true", "true"]
    assert [row["confidence"] for row in found[4:]] == ["", ""]
    line = last_line(capsys)
    assert line["calibration"] == {"file": str(file), "temperature": 2.0, "threshold": 0.6}
    assert (line["unsure"], line["unsure_share"]) == (4, round(4 / 6, 6))
    assert line["mean_confidence"] == pytest.approx(sum(sure) / 4, abs=1e-6)
    assert f"confidence by {file} (temperature 2.000), unsure below 0.6000\n" in caplog.text
    assert run_once(with_adapter(folder, "--skip_finished"), None) == 0

    calibrate(folder, threshold=0.8)
    output.unlink()
    assert run_once(with_adapter(folder), None) == 0
    assert {row["unsure"] for row in rows(output)} == {"true"}
    output.unlink()
    assert run_once(with_adapter(folder, "--calibration", "none"), None) == 0
    assert output.read_bytes() == raw
    assert (folder / "out.csv.trace.jsonl").read_bytes() == journal


def test_a_calibration_of_another_adapter_or_task_is_refused(folder):
    calibrate(folder)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"trained again")
    with pytest.raises(ValueError, match="for another adapter .* --calibration none does without"):
        run_once(with_adapter(folder), None)
    calibrate(folder)
    (folder / "task.yaml").write_text((folder / "task.yaml").read_text().replace("?", "!"))
    with pytest.raises(ValueError, match="for another task, or task.yaml has changed since"):
        run_once(with_adapter(folder), None)
    assert not list(folder.glob("out.csv*"))
    assert run_once(with_adapter(folder, "--calibration", "none"), ListStudent(ANSWERS)) == 0


def test_a_merged_model_is_calibrated_by_a_file_that_is_named(folder, caplog):
    """Of which only the task can be checked: the model does not say whose adapter is in it."""
    caplog.set_level("INFO", "predict")
    nowhere = folder / "nowhere.json"
    with pytest.raises(ValueError, match=f"--calibration {nowhere}: is not there"):
        run_once(choices(folder, "--calibration", nowhere), None)
    with pytest.raises(ValueError, match="is no calibration of this version"):
        run_once(choices(folder, "--calibration", folder / "merged" / "config.json"), None)
    flags = ["--calibration", calibrate(folder)]
    weights = folder / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(b"trained again")
    with pytest.raises(ValueError, match="for another adapter than is there now"):
        run_once(choices(folder, *flags), None)
    weights.unlink()
    assert run_once(choices(folder, *flags), ListStudent(ANSWERS)) == 0
    assert "that it is this student's cannot be seen, only that it is this task's" in caplog.text
    assert rows(folder / "out.csv")[0]["unsure"] == "false"


def test_the_calibration_is_never_the_output(folder):
    file = calibrate(folder)
    with pytest.raises(ValueError, match="calibration.json: would be replaced"):
        run_once(with_adapter(folder, "--overwrite", "--output_file", file), None)
