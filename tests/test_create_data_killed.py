"""Step 1 killed at any moment and resumed, on one engine and on several. Real vLLM."""

import json
import os
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import pytest

from distill.locks import own_journal
from forks import start_in_fork
from helpers import (
    ENDS,
    HANGS,
    PROGRAMS,
    ROOT,
    SENTENCES,
    TEACHER,
    assert_gone,
    descendants,
    fails,
    in_fork,
    last_json,
    python,
    read_jsonl,
    run,
    trace,
)
from rest import go_on, rests_after, wait_for_rest, wait_until_told

ROWS = 200
FEW_AT_ONCE = ["--max_num_seqs", 8]
# On a CPU the engine runs in the script's own process unless this says otherwise; on a GPU it has
# one of its own.
ENGINE_APART = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}


def assert_complete(output, inputs):
    """Each input once, in order; nothing that was finished before was asked again."""
    answered = [row["messages"][0]["content"] for row in read_jsonl(output)]
    rejected = [
        row["messages"][0]["content"]
        for row in read_jsonl(output.with_name(output.name + ".rejected.jsonl"))
    ]
    assert Counter(answered + rejected) == Counter(inputs)
    assert [t for t in inputs if t in set(answered)] == answered
    records = trace(output)
    assert len(records) == len(inputs) == len({r["index"] for r in records})


def start(script, *flags, folder, **environment):
    """A script in the background, in a fork that has the libraries and a group of its own.

    What it prints is shown by pytest if the test fails.
    """
    folder = Path(tempfile.mkdtemp(dir=folder))
    settings = {"folder": folder, "environment": {**os.environ, **environment}, "session": True}
    process = start_in_fork(script, *flags, **settings)
    process.stderr = folder / "stderr"
    return process


def ended(process, seconds=ENDS):
    """The exit code of a process that is about to end."""
    process.join(seconds)
    return process.exitcode


def at_work(processes):
    """Those that have begun: they have forks that stand by for what they may start, which have
    none.
    """
    return [process for process in processes if process.children()]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Inputs in a directory with a space in its name: (file, texts)."""
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()[:ROWS]
    path = tmp_path_factory.mktemp("some inputs") / "in put.txt"
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path, texts


def kill(process, children):
    """As the kernel does where memory is short."""
    process.kill()
    go_on(process)
    assert ended(process) == -signal.SIGKILL


def kill_engine(process, children):
    """All processes of a run but its driver, which says so."""
    for child in children:
        if child.status() == psutil.STATUS_ZOMBIE:  # what a library asked when it was imported
            continue
        # it tidies up /dev/shm behind the others
        if "resource_tracker" not in " ".join(child.cmdline()):
            child.kill()
    go_on(process)
    assert ended(process) == 1
    said = process.stderr.read_text()
    assert "the engine has ended: one of its processes ended without saying why" in said


def press_ctrl_c(process, children):
    """A terminal sends it to all processes. Test_engine.py has it with an engine of its own."""
    os.killpg(process.pid, signal.SIGINT)
    go_on(process)
    assert ended(process) == 130


@pytest.mark.slow
def test_ended_at_any_moment_and_resumed(pair, source, tmp_path):
    path, texts = source
    output = tmp_path / "out.jsonl"
    flags = ["--model_name", TEACHER, "--max_tokens", 128]
    flags += ["--input_file", path, "--output_file", output]
    journal = own_journal(output)
    rng = random.Random(0)
    kept = []
    for end, where in ((kill, ENGINE_APART), (kill_engine, ENGINE_APART), (press_ctrl_c, {})):
        environment = {**where, **rests_after(journal, rng.randrange(1, 20))}
        process = start(
            ROOT / "create_data.py", *flags, *FEW_AT_ONCE, folder=tmp_path, **environment
        )
        wait_for_rest(process)
        children = descendants(process)
        assert len(at_work(children)) >= 2 * len(where)  # the engine and its worker
        assert not output.exists()
        if end is kill:  # the same command at the same time takes nothing from it
            for more in ([], ["--overwrite"]):
                assert "another run is writing it" in fails("create_data.py", *flags, *more)
        end(process, children)
        assert_gone(children)
        records = trace(output)
        assert records[: len(kept)] == kept and len(records) > len(kept), end
        assert not output.exists()
        kept = records
    assert len(kept) < ROWS
    with open(journal, "ab") as file:
        file.write(b'{"index": 7, "hash": "torn in the mid')
    summary = last_json(python("create_data.py", *flags))
    assert summary["rows"] == len(texts) and summary["asked"] == len(texts) - len(kept)
    assert trace(output)[: len(kept)] == kept
    assert_complete(output, texts)


@pytest.mark.slow
def test_instances_killed_and_resumed(pair, source, tmp_path):
    path, texts = source
    output = tmp_path / "two instances" / "out.jsonl"
    flags = [
        "--model_name",
        TEACHER,
        "--max_tokens",
        128,
        "--input_file",
        path,
        "--output_file",
        output,
    ]
    in_forks = PROGRAMS / "instances_in_forks.py"
    rng = random.Random(1)
    number = rng.randrange(2)
    journal = own_journal(output, number, 2)
    environment = {
        "LOG_DIR": str(tmp_path / "logs of instances"),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        **ENGINE_APART,
    }

    def start_and_rest():
        """The process of both, and that of the one which rests."""
        own = {f"OF_INSTANCE_{number}": json.dumps(rests_after(journal, rng.randrange(1, 20)))}
        process = start(in_forks, *flags, *FEW_AT_ONCE, folder=tmp_path, **environment, **own)
        return process, wait_for_rest(process, psutil.Process(process.pid).children)

    # one instance is killed; the other one finishes its share
    process, victim = start_and_rest()
    children = victim.children(recursive=True)
    assert len(at_work(children)) >= 2
    victim.kill()
    go_on(process)
    assert_gone(children)
    assert ended(process, HANGS) == 128 + signal.SIGKILL and not output.exists()
    kept = trace(output)
    assert ROWS / 2 < len(kept) < ROWS
    failed = run(
        "bash",
        ROOT / "create_data_h100x8.sh",
        "--limit",
        5,
        *flags[:-1],
        tmp_path / "x.jsonl",
        "--task",
        "/nowhere.yaml",
        code=2,
    )
    assert (
        "instance 0 failed with exit code 2" in failed.stderr
        and "/nowhere.yaml: No such file" in failed.stderr
    )
    # TERM ends both and their engines
    process, victim = start_and_rest()
    children = descendants(process)
    assert len(at_work(children)) >= 3  # of one instance: the other one has finished its share
    process.terminate()
    wait_until_told(victim, signal.SIGTERM)
    go_on(process)
    assert ended(process) == 130
    assert_gone(children)
    records = {r["index"]: r for r in trace(output)}
    assert all(records[r["index"]] == r for r in kept) and len(kept) < len(records) < ROWS
    kept = trace(output)
    # what agrees with itself agrees more than half: the responses are read again, by one instance
    # for both, and hold
    again = ["--min_agreement", 0.5, "--reuse", "same"]
    result = in_fork(in_forks, *flags, *again, environment={**os.environ, **environment})
    assert last_json(result)["rows"] == last_json(result)["compared"] + len(texts) - len(kept)
    assert last_json(result)["changed"] == 0 and len(trace(output)) == len(texts)
    assert_complete(output, texts)
    records = {r["index"]: r for r in trace(output)}
    assert all(records[r["index"]] == r for r in kept)
    assert json.loads(output.with_name("out.jsonl.manifest.json").read_text())[
        "accepted"
    ] >= 0.99 * len(texts)
