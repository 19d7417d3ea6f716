"""What the flags of serve.py choose, and which threshold holds. No model, no server."""

import pytest

import serve
from distill.calibration import Calibration, write_calibration
from distill.cascade.cascade import Threshold
from distill.cascade.start import check_choices
from distill.task import load_task
from helpers import write_task

URLS = ["--student_url", "http://a/v1", "--student-name", "s", "--teacher-url", "http://b/v1"]


@pytest.fixture
def flags(tmp_path):
    """Of an adapter that is calibrated."""
    path = write_task(tmp_path / "task.yaml", ["en", "fr"], "Answer: (.+)")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    calibration = Calibration(
        temperature=2.0,
        threshold=0.75,
        chosen_by="hand_over",
        wanted=0.05,
        rows=100,
        handed_over=5,
        agreed=94,
        agreement_bound=0.95,
        task_file=str(path),
        task_hash=load_task(path).hash,
        # of a directory without files
        adapter="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    )
    write_calibration(adapter, calibration)
    return [*URLS, "--teacher_name", "t", "--task", str(path), "--adapter", str(adapter)]


def test_the_adapters_threshold_holds_unless_flags_say_another(flags):
    _, threshold = check_choices(serve.parse_args(flags))
    assert threshold == Threshold(temperature=2.0, threshold=0.75)
    _, threshold = check_choices(serve.parse_args([*flags, "--threshold", "0.9"]))
    assert threshold == Threshold(temperature=2.0, threshold=0.9)
    nowhere = [*flags, "--adapter", "nowhere", "--temperature", "1", "--threshold", "0"]
    assert check_choices(serve.parse_args(nowhere))[1] == Threshold(1.0, 0.0)


def test_a_calibration_of_another_adapter_or_task_is_refused(flags, tmp_path):
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="another adapter"):
        check_choices(serve.parse_args(flags))
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    write_task(tmp_path / "task.yaml", ["en", "fr", "de"], "Answer: (.+)")
    with pytest.raises(ValueError, match="another task"):
        check_choices(serve.parse_args(flags))


def test_what_is_handed_over_is_written_as_text(flags):
    with pytest.raises(ValueError, match=r"x.jsonl.gz: chats are .* a --handed_over_file such as"):
        check_choices(serve.parse_args([*flags, "--handed_over_file", "x.jsonl.gz"]))


def test_keys_are_names_of_variables_and_never_said(flags, monkeypatch, capsys):
    monkeypatch.setenv("KEY_OF_STUDENT", "sk-of-the-student")
    choices = serve.parse_args([*flags, "--student_key_env", "KEY_OF_STUDENT"])
    assert choices.student.key == "sk-of-the-student" and choices.teacher.key == "none"
    assert "sk-of" not in repr(choices)
    for flag in ("--student_key_env", "--teacher_key_env", "--api_key_env"):
        with pytest.raises(SystemExit):
            serve.parse_args([*flags, flag, "sk-given-by-mistake"])
        said = capsys.readouterr().err
        assert f"{flag}: there is no environment variable" in said and "sk-given" not in said
    with pytest.raises(SystemExit):
        serve.parse_args([*flags, "--student_url", "http://me:secret@a/v1"])
    said = capsys.readouterr().err
    assert "--student_url: holds a name or a password" in said and "secret" not in said


def test_from_everywhere_the_hosts_must_be_named(flags):
    everywhere = [*flags, "--host", "0.0.0.0"]
    with pytest.raises(ValueError, match="--allowed_hosts"):
        check_choices(serve.parse_args(everywhere))
    named = serve.parse_args([*everywhere, "--allowed_hosts", "a.example, b.example"])
    assert named.allowed_hosts == ["a.example", "b.example"]
    check_choices(named)
