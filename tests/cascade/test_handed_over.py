"""The file of what was handed over: whole lines, each input once, whatever happens to the disk."""

import os

import pytest

from distill.cascade import handed_over
from distill.cascade.cascade import TEACHER, Outcome
from distill.cascade.handed_over import HandedOver
from distill.locks import own_journal
from distill.teacher.attempts import Attempt
from distill.teacher.base import Sampling
from helpers import read_jsonl
from list_teacher import SETTINGS


def outcome(answer="fr"):
    attempt = Attempt("Hm.</think>x", "stop", answer, None, Sampling(0.0, 9), 50, 0, 7, 3)
    return Outcome(TEACHER, answer, "stop", 0.4, why="unsure", handed_over=True, attempts=[attempt])


def chat(text):
    return [{"role": "user", "content": text}]


def test_an_input_is_written_once_however_often_it_comes(tmp_path):
    path = tmp_path / "handed.jsonl"
    for _ in range(2):
        file = HandedOver(path, {"model": "teacher"}, SETTINGS)
        file.add(chat("\u2028 line\nbreaks"), outcome())
        file.add(chat("\u2028 line\nbreaks"), outcome("en"))
        file.close()
    [row] = read_jsonl_lines(path)
    assert row == '{"messages": [{"role": "user", "content": "\u2028 line\\nbreaks"}, ' + (
        '{"role": "assistant", "content": "fr"}]}'
    )


def read_jsonl_lines(path):
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n")


def test_a_file_that_is_readable_by_others_no_longer_is(tmp_path):
    path = tmp_path / "handed.jsonl"
    path.write_text("")
    path.chmod(0o644)
    HandedOver(path, {}, SETTINGS).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_of_something_else_is_refused_and_stays(tmp_path):
    path = tmp_path / "handed.jsonl"
    path.write_text('{"text": "hola"}\n')
    with pytest.raises(ValueError, match="handed.jsonl:1: not chat format"):
        HandedOver(path, {}, SETTINGS)
    assert path.read_text() == '{"text": "hola"}\n'
    assert [each.name for each in tmp_path.iterdir()] == ["handed.jsonl"]


LINE = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def test_where_the_journal_was_removed_the_rows_are_gone_on_with(tmp_path):
    """It holds thoughts about users' texts. Labels of step 1 have a manifest then."""
    path = tmp_path / "handed.jsonl"
    path.write_text(LINE)
    file = HandedOver(path, {}, SETTINGS)
    file.add(chat("a"), outcome())
    file.add(chat("one"), outcome())
    file.close()
    assert [row["messages"][0]["content"] for row in read_jsonl(path)] == ["a", "one"]
    own_journal(path).unlink()
    path.write_text(LINE.rstrip())
    with pytest.raises(ValueError, match="the end of its last line is missing"):
        HandedOver(path, {}, SETTINGS)
    assert path.read_text() == LINE.rstrip()
    path.write_text(LINE)
    (tmp_path / "handed.jsonl.manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="is labels of step 1"):
        HandedOver(path, {}, SETTINGS)


@pytest.mark.parametrize("finished", [True, False])
def test_labels_of_step_1_are_refused_and_stay(finished, tmp_path):
    """Also where it is not finished and so has a journal alone."""
    path = tmp_path / "labels.jsonl"
    journal = own_journal(path)
    journal.write_text('{"run": {"model": "m", "inputs": "a digest"}}\n')
    journal.chmod(0o644)
    if finished:
        path.write_text(LINE)
    before = {each: (each.read_text(), each.stat().st_mode) for each in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="labels.jsonl: is labels of step 1"):
        HandedOver(path, {}, SETTINGS)
    assert before == {each: (each.read_text(), each.stat().st_mode) for each in tmp_path.iterdir()}


def test_a_full_disk_leaves_whole_lines_and_is_said_once(tmp_path, monkeypatch, caplog):
    path = tmp_path / "handed.jsonl"
    file = HandedOver(path, {}, SETTINGS)
    file.add(chat("one"), outcome())
    whole = path.read_bytes()
    write = os.write
    room = [40]  # bytes that are left

    def write_what_fits(descriptor, content):
        if not room[0]:
            raise OSError(28, "No space left on device")
        written = write(descriptor, content[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(handed_over.os, "write", write_what_fits)
    for text in ("two", "three"):
        file.add(chat(text), outcome())
    file.close()
    assert path.read_bytes() == whole
    assert len(read_jsonl(path.with_name("handed.jsonl.trace.jsonl"))) == 2  # header and "one"
    assert caplog.text.count("nothing more is written") == 1
