"""Replicas of the teacher on a Ray cluster, on one machine and over two nodes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from create_data import parse_args
from distill.columns import Columns
from distill.labels import ray_cluster, replicas
from distill.locks import own_journal
from forks import start_in_fork
from helpers import (
    ENDS,
    HANGS,
    ROOT,
    SENTENCES,
    STUDENT,
    TEACHER,
    assert_gone,
    descendants,
    fails,
    in_fork,
    last_json,
    program,
    python,
    read_jsonl,
    run,
    trace,
)
from hub_cache import commit_of, make_hub_cache
from nodes import NODES, kill_node, on_node
from rest import go_on, rests_at, wait_for_rest

ROWS = 240
EARLIER = 20  # of them, decided in an earlier round
# few rows at once, so that what is killed is at work
ON_CPU = ["--num_replicas", 2, "--cpus_per_replica", 1, "--max_num_seqs", 4]


def label_flags(output, *flags, model=TEACHER):
    common = [
        "--model_name",
        model,
        "--input_file",
        SENTENCES,
        "--limit",
        ROWS,
        "--max_tokens",
        128,
    ]
    return [*common, "--temperature", 0, "--output_file", output, *flags]


def replicas_of(process):
    """Ray's workers that hold a replica, below a driver; a worker that ends meanwhile is none."""
    found = []
    for child in descendants(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child] * ("Replica" in " ".join(child.cmdline()))
    return found


def starts(replica):
    """Whether a replica's engine is still starting.

    Ray titles a process by the method that it runs.
    """
    return "Replica)).__init__" in " ".join(replica.cmdline())


@pytest.fixture(scope="module")
def on_one_engine(pair, tmp_path_factory):
    output = tmp_path_factory.mktemp("one") / "out.jsonl"
    python("create_data.py", *label_flags(output))
    return output


def earlier_round(of, output, rows, **changed):
    """Put a journal beside `output` as of an earlier round: another's first rows and its header.

    `changed` is what the header says otherwise.
    """
    first, *records = of.with_name(f"{of.name}.trace.jsonl").read_text().splitlines(keepends=True)
    header = {"run": {**json.loads(first)["run"], **changed}}
    lines = [json.dumps(header) + "\n", *records[:rows]]
    output.with_name(f"{output.name}.trace.jsonl").write_text("".join(lines))


@pytest.mark.slow
def test_a_replica_and_then_the_run_are_ended_and_nothing_is_lost(on_one_engine, tmp_path):
    """The only one, so that another must take its place; below, the other one of two finishes.

    After a round with another temperature, none of whose answers holds; one engine ends it.
    """
    output = tmp_path / "out.jsonl"
    earlier_round(on_one_engine, output, EARLIER, temperature=0.6)
    flags = label_flags(output, "--reuse", "changed")
    # the engines in processes of their own, as on GPUs, which must end with their replica
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    # the driver stops when rows of the new round are there, and when more are than the first
    # replica can have decided before it is killed
    environment.update(rests_at(own_journal(output), EARLIER + 10, ROWS * 2 // 3))
    settings = {"folder": tmp_path, "environment": environment, "session": True}
    with_replica = [*ON_CPU, "--num_replicas", 1, "--max_num_seqs", 2]
    process = start_in_fork(ROOT / "create_data.py", *flags, *with_replica, **settings)
    wait_for_rest(process)
    [victim] = replicas_of(process)
    before = len(trace(output))
    engine = descendants(victim)
    assert engine and before < ROWS
    victim.kill()
    assert_gone(engine)
    go_on(process)
    wait_for_rest(process)
    assert "a replica was lost;" in (tmp_path / "stderr").read_text()
    tree = descendants(process)
    assert replicas_of(process) not in ([], [victim])
    os.killpg(process.pid, signal.SIGINT)
    go_on(process)
    process.join(ENDS)
    assert process.exitcode == 130
    assert_gone(tree)
    kept = trace(output)
    assert before < len(kept) < ROWS and not output.exists()
    summary = last_json(python("create_data.py", *flags))
    assert summary["asked"] == ROWS - len(kept) and trace(output)[: len(kept)] == kept
    assert (summary["rows"], summary["compared"], summary["changed"]) == (ROWS, EARLIER, 0)
    assert Counter(record["index"] for record in trace(output)) == Counter(range(ROWS))
    for ending in ("", ".rejected.jsonl"):
        name = output.name + ending
        assert read_jsonl(output.with_name(name)) == read_jsonl(on_one_engine.with_name(name)), (
            ending
        )


@pytest.fixture(scope="module")
def other_node(tmp_path_factory):
    """What the environment of a driver has that joins a cluster with two cores and no GPU.

    Its nodes' cache of the hub lacks the revision v2.
    """
    folder = tmp_path_factory.mktemp("other")
    cache = make_hub_cache(folder / "hub", "team/teacher", {"main": TEACHER})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "start", "--head", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--block"]
    command += [f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    command += ["--disable-usage-stats"]
    said = folder / "ray.log"
    # a folder of its own, so that nobody else finds it and joins; short, as names of sockets are
    with tempfile.TemporaryDirectory(prefix="ray") as own, open(said, "w") as log:
        own = {"RAY_TMPDIR": own}
        environment = {**cache, **own, "RAY_worker_niceness": "0"}
        node = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while "Ray runtime started" not in said.read_text() and node.poll() is None:
            time.sleep(0.1)
        yield {**own, "RAY_ADDRESS": address}
        kill_node(node)


@pytest.mark.slow
def test_replicas_that_cannot_start(pair, other_node, tmp_path):
    flags = label_flags(tmp_path / "out.jsonl", *ON_CPU, "--max_model_len", 999999)
    flags += ["--num_replicas", 1]
    environment = {**os.environ, **other_node}
    said = in_fork(ROOT / "create_data.py", *flags, code=2, environment=environment).stderr
    assert f"no replica could decide any of {ROWS} inputs" in said
    assert "max_model_len (999999)" in said
    assert "the engine cannot start: User-specified" in said


@pytest.mark.slow
def test_replicas_whose_node_has_another_revision_are_refused(pair, other_node, tmp_path):
    cache = make_hub_cache(tmp_path / "hub", "team/teacher", {"main": STUDENT, "v2": TEACHER})
    flags = label_flags(tmp_path / "out.jsonl", *ON_CPU, "--revision", "v2", model="team/teacher")
    flags += ["--num_replicas", 1]
    environment = {**cache, **other_node}
    said = in_fork(ROOT / "create_data.py", *flags, code=2, environment=environment).stderr
    [_, line] = [line for line in said.splitlines() if "create_data.py: " in line]
    assert (
        f"team/teacher: --revision {commit_of('v2')} is neither on the hub nor in its cache" in line
    )
    assert f"no replica could decide any of {ROWS} inputs" in line
    assert not trace(tmp_path / "out.jsonl")


@pytest.mark.slow
def test_what_is_missing_is_said_in_one_line(pair, other_node, tmp_path, monkeypatch):
    flags = label_flags(tmp_path / "out.jsonl", "--num_replicas", 2)
    environment = {**os.environ, **other_node}
    said = in_fork(ROOT / "create_data.py", *flags, code=2, environment=environment).stderr
    assert "needs 2 GPUs, the cluster has 0; without GPUs pass --cpus_per_replica" in said
    assert "drop --shard" in fails("create_data.py", *flags, "--shard", "0/2")
    assert "drop --num_replicas" in fails("create_data.py", *flags, "--pipeline_parallel_size", 2)
    environment = {"RAY_ADDRESS": "127.0.0.1:6399", "RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    joining = program("connect_to_cluster.py", 1)
    said = run(*joining, code=1, env={**os.environ, **environment}).stderr
    assert "RAY_ADDRESS 127.0.0.1:6399: Token authentication is enabled but no" in said
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -r requirements/ray.txt"):
        ray_cluster.connect(parse_args([str(flag) for flag in flags]).cluster)


def test_replicas_are_given_the_rows_of_a_table(tmp_path):
    (tmp_path / "in.csv").write_text("id,text\n1,a\n2,b\n3,c\n")
    columns = Columns(text_column="text", id_column="id")
    missing = np.array([True, False, True])
    source = replicas.chunks_of(str(tmp_path / "in.csv"), columns, missing)
    (task,) = source.get_read_tasks(1)
    (chunk,) = task()
    rows = json.loads(chunk["inputs"][0].as_py())
    texts = [(index, messages[0]["content"]) for index, messages in rows]
    assert texts == [(0, "a"), (2, "c")]


@pytest.mark.parametrize("named", ["", "10.0.0.1:6379", "local"])
def test_the_address_of_a_cluster_that_is_gone_is_not_tried(named, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", named)
    assert ray_cluster.address_to_join() == (named or "local")
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        assert ray_cluster.address_to_join() == (named or address)
    assert ray_cluster.address_to_join() == (named or "local")


SLOW = "The current node timed out during startup. This could happen because some of the"


@pytest.mark.parametrize("failures", [1, ray_cluster.STARTS])
def test_a_cluster_that_comes_up_too_slowly_is_started_again(failures, monkeypatch, caplog):
    """What came up of one that failed is gone before the next one is started."""
    parts = []

    def start_slowly(address, **_):
        assert address == "local" and all(part.poll() is not None for part in parts)
        if len(parts) < failures:
            parts.append(subprocess.Popen(["sleep", "100"]))
            raise Exception(f"{SLOW} raylet failed to startup.")

    monkeypatch.setattr("ray.init", start_slowly)
    if failures < ray_cluster.STARTS:
        ray_cluster.start()
    else:
        with pytest.raises(ValueError, match="Ray does not start here: The current node timed"):
            ray_cluster.start()
    assert len(parts) == failures and all(part.poll() is not None for part in parts)
    assert caplog.text.count("it is tried again") == min(failures, ray_cluster.STARTS - 1)


@pytest.fixture
def ray_nodes(nodes, tmp_path, request, monkeypatch):
    """A Ray cluster over both, a core on each: the processes, the driver's node first."""
    address = f"{NODES[nodes[0]]}:6399"
    ray = Path(sys.executable).with_name("ray")
    how = {
        nodes[0]: ["--head", "--port=6399", "--include-dashboard=false"],
        nodes[1]: [f"--address={address}"],
    }
    token = tmp_path / "token"
    token.write_text("a" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_ADDRESS", address)
    started = []
    request.addfinalizer(lambda: [kill_node(node) for node in started])
    for count, name in enumerate(nodes, 1):
        flags = [
            f"--node-ip-address={NODES[name]}",
            "--num-cpus=1",
            "--disable-usage-stats",
            "--block",
        ]
        line = on_node(name, tmp_path, ray, "start", *how[name], *flags)
        environment = {"RAY_AUTH_MODE": "token", "RAY_worker_niceness": "0"}
        with open(tmp_path / f"{name}.log", "w") as log:
            started.append(
                subprocess.Popen(line, stdout=log, stderr=log, env={**os.environ, **environment})
            )
        line = on_node(nodes[0], tmp_path, *program("connect_to_cluster.py", count))
        end = time.monotonic() + HANGS
        while subprocess.run(line, cwd=ROOT, capture_output=True).returncode:
            assert started[-1].poll() is None and time.monotonic() < end, (
                tmp_path / f"{name}.log"
            ).read_text()
    return started


def serving(node):
    """Whether its replica's engine has started."""
    return any(not starts(replica) for replica in replicas_of(node))


@pytest.mark.slow
def test_a_node_of_the_cluster_is_killed_and_the_other_finishes(
    on_one_engine, nodes, ray_nodes, tmp_path
):
    output = tmp_path / "out.jsonl"
    # few rows at once: the engine that starts first must not have finished before the other one is
    # given any
    command = [
        sys.executable,
        ROOT / "create_data.py",
        *label_flags(output, *ON_CPU, "--max_num_seqs", 2),
    ]
    with open(tmp_path / "log.txt", "w") as log:
        line = on_node(nodes[0], tmp_path, *command)
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, text=True, cwd="/")
        while (
            not (len(trace(output)) >= 40 and all(map(serving, ray_nodes)))
            and process.poll() is None
        ):
            time.sleep(0.1)
        assert [len(replicas_of(node)) for node in ray_nodes] == [1, 1]
        before = len(trace(output))
        kill_node(ray_nodes[1])
        out, _ = process.communicate(timeout=HANGS)
    said = (tmp_path / "log.txt").read_text()
    assert process.returncode == 0 and json.loads(out.splitlines()[-1])["rows"] == ROWS, said[
        -3000:
    ]
    assert 40 <= before < ROWS and "a replica was lost;" in said
    assert Counter(record["index"] for record in trace(output)) == Counter(range(ROWS))
    assert read_jsonl(output) == read_jsonl(on_one_engine)
