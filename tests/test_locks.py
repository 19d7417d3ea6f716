"""Two runs and one output: the second one is refused before anything loads, and takes nothing from
the first.
"""

import errno
import fcntl
import json
import os
import subprocess

import pytest

from distill.labels.inputs import scan_inputs
from distill.labels.journal import Journal
from distill.locks import OutputLock, lock, unlock
from helpers import fails, program

BUSY = "another run is writing it; wait for its end or stop it"


class Holder:
    """Another process that holds an output, as a run or a shard."""

    def __init__(self, output, shard=0, num_shards=1):
        command = program("hold_output.py", output, shard, num_shards)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        assert self.process.stdout.readline() == "held\n"
        return self.process

    def __exit__(self, *_):
        self.process.communicate()
        assert self.process.returncode in (0, -9)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_second_run_is_refused_before_anything_loads(tmp_path):
    """The model has no weights and no tokenizer, so that whatever was loaded would say something
    else.
    """
    (tmp_path / "in.txt").write_text("hola\n")
    (tmp_path / "config.json").write_text("{}")
    output = tmp_path / "new" / "out.jsonl"
    flags = ["--input_file", tmp_path / "in.txt", "--output_file", output, "--model_name", tmp_path]
    with Holder(output):
        for more in ([], ["--overwrite"], ["--shard", "1/2"]):
            assert f"out.jsonl.trace.jsonl: {BUSY}" in fails("create_data.py", *flags, *more)
        assert names(output.parent) == ["out.jsonl.trace.jsonl"]
    assert not output.parent.exists()
    assert "no tokenizer" in fails("create_data.py", *flags)
    assert not output.parent.exists()


def test_the_lock_of_a_killed_run_is_free(tmp_path):
    output = tmp_path / "out.jsonl"
    with Holder(output) as process:
        process.kill()
        process.wait()
        assert names(tmp_path) == ["out.jsonl.trace.jsonl"]
        with OutputLock(output):
            pass
    assert names(tmp_path) == []


def test_shards_work_side_by_side_and_not_beside_a_whole_run(tmp_path):
    output = tmp_path / "out.jsonl"
    with OutputLock(output, 0, 2), Holder(output, 1, 2):
        for shard in ((0, 1), (0, 2), (1, 2)):
            with pytest.raises(ValueError, match=BUSY):
                OutputLock(output, *shard).__enter__()
        assert names(tmp_path) == ["out.jsonl.trace-0of2.jsonl", "out.jsonl.trace-1of2.jsonl"]
    (tmp_path / "out.jsonl.trace.jsonl").write_text('{"run": {}}\n')
    with OutputLock(output, 0, 2), Holder(output, 1, 2), pytest.raises(ValueError, match=BUSY):
        OutputLock(output).__enter__()
    with OutputLock(output), pytest.raises(ValueError, match=BUSY):
        OutputLock(output, 0, 2).__enter__()
    assert names(tmp_path) == ["out.jsonl.trace.jsonl"]


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """Between opening and locking it, the run that held the file ends and removes it, and a third
    one begins.
    """
    path = tmp_path / "file"
    first = lock(path)
    flock = fcntl.flock

    def late(file, operation):
        if not first.closed:
            unlock(path, first)
            path.write_text("the third one's")
        return flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock(path) as file:
        assert os.path.samestat(os.fstat(file.fileno()), path.stat())
        with pytest.raises(ValueError, match=BUSY):
            lock(path)
    assert path.read_text() == "the third one's"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_with_a_remedy(tmp_path, monkeypatch, number):
    def none(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    expected = (
        f"out.jsonl.trace.jsonl: cannot be locked .{os.strerror(number)}.*"
        "choose a place on another file system"
    )
    with pytest.raises(ValueError, match=expected):
        OutputLock(tmp_path / "new" / "out.jsonl").__enter__()


def test_a_second_training_is_refused_before_anything_loads(tmp_path):
    """Its student has a config that says nothing, so that loading it would fail in another way."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "train.jsonl").write_text("no JSON\n")
    output_dir = tmp_path / "adapter"
    flags = [
        "--model_name",
        tmp_path,
        "--train_file",
        tmp_path / "train.jsonl",
        "--output_dir",
        output_dir,
    ]
    flags += ["--use_cpu", "true"]
    output_dir.mkdir()
    with lock(output_dir / "training.lock"):
        for more in ([], ["--overwrite", "true"], ["--check_only", "true"]):
            assert f"training.lock: {BUSY}" in fails("train_sft_trl.py", *flags, *more)
    (output_dir / "training.lock").unlink()
    output_dir.rmdir()
    assert BUSY not in fails("train_sft_trl.py", *flags)
    assert not output_dir.exists()


def test_to_overwrite_keeps_the_lock_and_the_files_of_others(tmp_path):
    (tmp_path / "in.txt").write_text("a\nb\n")
    output = tmp_path / "out.jsonl"
    attempt = {
        "answer": "x",
        "prompt_tokens": 1,
        "cached_tokens": 0,
        "output_tokens": 1,
        "response": "x",
    }
    others = [
        "out.jsonl.trace.jsonl.bak",
        "out.jsonl.traces.jsonl",
        "out.jsonl.trace-new.jsonl",
        "xout.jsonl",
    ]
    for name in [*others, "out.jsonl", "out.jsonl.trace-0of2.jsonl", "out.jsonl.trace.jsonl"]:
        (tmp_path / name).write_text("another\n")
    with OutputLock(output):
        journal = Journal(output, {}, scan_inputs(tmp_path / "in.txt"))
        journal.open(overwrite=True)
        journal.clear()
        assert names(tmp_path) == sorted([*others, "in.txt", "out.jsonl.trace.jsonl"])
        journal.start()
        for index in (0, 1):
            journal.record(index, answer="x", reason=None, seconds=1.0, attempts=[attempt])
        with pytest.raises(ValueError, match=BUSY):
            OutputLock(output).__enter__()
    lines = (tmp_path / "out.jsonl.trace.jsonl").read_text().splitlines()
    assert [json.loads(line).get("index") for line in lines] == [None, 0, 1]


def test_a_journal_is_replaced_under_its_lock(tmp_path):
    """There is no moment in which another run could have it, and what waits for it sees the new."""
    output = tmp_path / "out.jsonl"
    complete = tmp_path / "complete"
    complete.write_text("new\n")
    with OutputLock(output) as held:
        held.replace_own(complete)
        assert (tmp_path / "out.jsonl.trace.jsonl").read_text() == "new\n"
        for shard in ((0, 1), (0, 2)):
            with pytest.raises(ValueError, match=BUSY):
                OutputLock(output, *shard).__enter__()
    assert names(tmp_path) == ["out.jsonl.trace.jsonl"]
    with OutputLock(output):
        pass
