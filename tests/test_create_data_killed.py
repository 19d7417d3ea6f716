"""Step 1 killed at any moment and resumed, on one engine and on several. Real vLLM."""

import contextlib
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

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

ROWS = 200
# rows at once: a kill finds the engine at work even where others on its cores keep the test
# waiting, which took six seconds
SLOWLY = ["--max_num_seqs", 2]
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


def wait_for_rows(output, count, process, seconds=HANGS):
    """Wait until the journals hold `count` finished inputs, or the process has ended."""
    begin = polled = time.monotonic()
    # the longest time without a look at the journal; a busy machine can keep this process waiting
    pause = 0.0
    while len(trace(output)) < count and process.is_alive():
        assert time.monotonic() < begin + seconds
        time.sleep(0.05)
        pause = max(pause, time.monotonic() - polled)
        polled = time.monotonic()
    found = trace(output)
    print(
        f"waited {polled - begin:.1f} s for {count} rows, {len(found)} there, "
        f"exit code {process.exitcode};"
    )
    print(
        f"longest pause {pause:.1f} s, the last rows were recorded at "
        f"{[r['seconds'] for r in found[-200::40]]} s"
    )
    if not process.is_alive():
        print(process.stderr.read_text()[-3000:])


def ended(process, seconds=ENDS):
    """The exit code of a process that is about to end."""
    process.join(seconds)
    return process.exitcode


def at_work(processes):
    """Those that have begun: they have forks that stand by for what they may start, which have
    none.
    """
    return [process for process in processes if process.children()]


@contextlib.contextmanager
def at_rest(processes):
    """The processes hold what they hold, locks too, and do nothing meanwhile."""
    begin = time.monotonic()
    for process in processes:
        process.suspend()
    stopped = time.monotonic()
    yield
    resumed = time.monotonic()
    for process in processes:
        process.resume()
    print(
        f"stopped within {stopped - begin:.1f} s, for {resumed - stopped:.1f} s, "
        f"went on within {time.monotonic() - resumed:.1f} s"
    )


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
    assert ended(process) == -signal.SIGKILL


def kill_engine(process, children):
    """All processes of a run but its driver, which says so."""
    for child in children:
        if child.status() == psutil.STATUS_ZOMBIE:  # what a library asked when it was imported
            continue
        # it tidies up /dev/shm behind the others
        if "resource_tracker" not in " ".join(child.cmdline()):
            child.kill()
    assert ended(process) == 1
    said = process.stderr.read_text()
    assert "the engine has ended: one of its processes ended without saying why" in said


def press_ctrl_c(process, children):
    """A terminal sends it to all processes. Test_engine.py has it with an engine of its own."""
    os.killpg(process.pid, signal.SIGINT)
    assert ended(process) == 130


@pytest.mark.slow
def test_ended_at_any_moment_and_resumed(pair, source, tmp_path):
    path, texts = source
    output = tmp_path / "out.jsonl"
    flags = ["--model_name", TEACHER, "--max_tokens", 128]
    flags += ["--input_file", path, "--output_file", output]
    rng = random.Random(0)
    kept = []
    for end, where in ((kill, ENGINE_APART), (kill_engine, ENGINE_APART), (press_ctrl_c, {})):
        process = start(ROOT / "create_data.py", *flags, *SLOWLY, folder=tmp_path, **where)
        wait_for_rows(output, len(kept) + rng.randrange(1, 20), process)
        children = descendants(process)
        assert len(at_work(children)) >= 2 * len(where)  # the engine and its worker
        assert process.is_alive() and not output.exists()
        if end is kill:  # the same command at the same time takes nothing from it
            # a busy machine takes long for these two
            with at_rest([psutil.Process(process.pid), *children]):
                for more in ([], ["--overwrite"]):
                    said = fails("create_data.py", *flags, *more)
                    assert "another run is writing it" in said
            assert process.is_alive()
        end(process, children)
        assert_gone(children)
        records = trace(output)
        assert records[: len(kept)] == kept and len(records) > len(kept), end
        assert not output.exists()
        kept = records
    assert len(kept) < ROWS
    journal = output.with_name("out.jsonl.trace.jsonl")
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
    environment = {
        "LOG_DIR": str(tmp_path / "logs of instances"),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    # one instance is killed; the other one finishes its share
    twice_as_fast = ["--max_num_seqs", 4]
    process = start(
        in_forks, *flags, *twice_as_fast, folder=tmp_path, **environment, **ENGINE_APART
    )
    wait_for_rows(output, rng.randrange(1, 20), process)
    drivers = at_work(psutil.Process(process.pid).children())
    assert len(drivers) == 2
    victim = rng.choice(drivers)
    children = victim.children(recursive=True)
    assert len(at_work(children)) >= 2
    victim.kill()
    assert_gone(children)
    assert ended(process, HANGS) == 128 + signal.SIGKILL and not output.exists()
    kept = trace(output)
    assert ROWS / 2 <= len(kept) < ROWS
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
    process = start(in_forks, *flags, *SLOWLY, folder=tmp_path, **environment, **ENGINE_APART)
    wait_for_rows(output, len(kept) + 1, process)
    children = descendants(process)
    assert len(at_work(children)) >= 3  # of one instance: the other one has finished its share
    process.terminate()
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
