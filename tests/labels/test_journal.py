"""The journal without an engine: damage, full disks, locks, shards and many inputs."""

import json
import os

import pytest

from distill.labels.changes import FLAGS
from distill.labels.inputs import scan_inputs
from helpers import last_json, program, read_jsonl, run
from journals import RUN, close, decide, opened


@pytest.fixture
def inputs(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("a\nb\na\n\nc\nd\n")
    return scan_inputs(path)


def test_equal_inputs_are_asked_once_and_written_for_each(tmp_path, inputs):
    assert (inputs.first.tolist(), inputs.blank_lines) == ([0, 1, 0, 3, 4], 1)
    journal = opened(tmp_path, inputs)
    assert journal.missing().tolist() == [True, True, False, True, True]
    journal.start()
    decide(journal, 4, 0, 3)
    decide(journal, 1, answer=None)
    journal.replay()
    manifest = journal.write_outputs(True)
    assert [r["messages"][0]["content"] for r in read_jsonl(tmp_path / "out.jsonl")] == [
        "a",
        "a",
        "c",
        "d",
    ]
    assert [r["index"] for r in read_jsonl(tmp_path / "out.jsonl.rejected.jsonl")] == [1]
    counts = {
        key: manifest[key]
        for key in ("rows", "unique_rows", "accepted", "rejected", "output_tokens")
    }
    assert counts == {
        "rows": 5,
        "unique_rows": 4,
        "accepted": 4,
        "rejected": 1,
        "output_tokens": 12,
    }
    assert manifest["label_counts"] == {"en": 4} and manifest["reasons"] == {"no_answer": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "in.txt",
        "out.jsonl",
        "out.jsonl.manifest.json",
        "out.jsonl.rejected.jsonl",
        "out.jsonl.trace.jsonl",
    ]


@pytest.mark.parametrize("cut", range(1, 120, 7))
def test_a_torn_last_line_is_asked_again(tmp_path, inputs, cut):
    journal = opened(tmp_path, inputs)
    journal.start()
    decide(journal, 0, 1)
    close(journal)
    os.truncate(journal.own, journal.own.stat().st_size - cut)
    again = opened(tmp_path, inputs)
    assert again.missing().tolist() == [False, True, False, True, True]
    again.start()
    decide(again, 1)
    assert all(json.loads(line) for line in again.own.read_text().splitlines())


def test_what_was_begun_goes_on_with_its_commit(tmp_path, inputs):
    journal = opened(tmp_path, inputs)
    assert journal.commit is None
    journal.start(commit="abc")
    decide(journal, 0)
    close(journal)
    assert opened(tmp_path, inputs).commit == "abc"


def test_a_damaged_line_costs_only_its_own_row(tmp_path, inputs):
    journal = opened(tmp_path, inputs)
    journal.start()
    decide(journal, 0, 1, 3)
    close(journal)
    lines = journal.own.read_bytes().splitlines(keepends=True)
    journal.own.write_bytes(lines[0] + lines[1] + b"\0" * 30 + b"\n" + lines[3])
    assert opened(tmp_path, inputs).missing().tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("key", RUN)
def test_another_run_is_refused_and_named(tmp_path, inputs, key):
    journal = opened(tmp_path, inputs)
    journal.start()
    close(journal)
    with pytest.raises(
        ValueError,
        match=f"out.jsonl.trace.jsonl: --{FLAGS.get(key, key)} was .*, is 7; --overwrite",
    ):
        opened(tmp_path, inputs, run={**RUN, key: 7})


def test_shards_share_the_work_and_see_each_other(tmp_path, inputs):
    shards = [opened(tmp_path, inputs, i, 2) for i in (0, 1)]
    assert [s.missing().nonzero()[0].tolist() for s in shards] == [[0, 1], [3, 4]]
    for shard in shards:
        shard.start()
        decide(shard, *shard.missing().nonzero()[0].tolist())
    with pytest.raises(ValueError, match="another run is writing it"):
        opened(tmp_path, inputs)
    with pytest.raises(ValueError, match="another run is writing it"):
        opened(tmp_path, inputs, 0, 2)
    for shard in shards:
        close(shard)
    whole = opened(tmp_path, inputs)
    assert not whole.missing().any()
    assert whole.write_outputs(True)["seconds"] == 1.0  # they ran at the same time


def test_a_full_disk_loses_no_finished_row(tmp_path, inputs):
    result = run(*program("fill_disk.py", tmp_path))
    assert "failed: File too large" in result.stdout, result.stderr
    journal = opened(tmp_path, inputs)
    assert journal.missing().tolist() == [False, True, False, True, True]
    assert journal.own.read_bytes().endswith(b"}\n")


@pytest.mark.slow
def test_many_inputs_in_little_memory(tmp_path):
    """Planned, journalled, read back and written, without the engine, whose memory does not depend
    on the rows. To hold these inputs would take 32 MiB more.
    """
    with open(tmp_path / "many.txt", "w") as file:
        file.writelines(
            f"sentence {i % 90_000} of very many, with some words behind it\n"
            for i in range(100_000)
        )
    report = last_json(run(*program("decide_many.py", tmp_path)))
    assert (report["asked"], report["accepted"]) == (90_000, 100_000)
    assert report["megabytes"] < 30
    print(report)
