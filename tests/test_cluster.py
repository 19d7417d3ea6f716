"""Past one machine: replicas on Ray, training over two nodes with addresses of their own, and the
Slurm files.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from create_data import parse_args
from distill.labels import replicas
from distill.labels.choices import Cluster
from distill.task import load_task
from distill.teacher.check import check_teacher
from helpers import (
    ROOT,
    SENTENCES,
    STEPS,
    STUDENT,
    TEACHER,
    assert_gone,
    cosine,
    descendants,
    fails,
    last_json,
    losses,
    program,
    read_jsonl,
    run,
    trace,
    training_command,
)
from hub_cache import commit_of, make_hub_cache

ROWS = 400
# few rows at once, so that what is killed is at work
ON_CPU = ["--num_replicas", 2, "--cpus_per_replica", 1, "--max_num_seqs", 16]


def label_flags(output, *flags, model=TEACHER):
    common = [
        "--model_name",
        model,
        "--input_file",
        SENTENCES,
        "--limit",
        ROWS,
        "--max_tokens",
        256,
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
    run(sys.executable, ROOT / "create_data.py", *label_flags(output))
    return output


@pytest.mark.slow
def test_a_replica_is_killed_and_nothing_is_lost(on_one_engine, tmp_path):
    output = tmp_path / "out.jsonl"
    command = [sys.executable, ROOT / "create_data.py", *label_flags(output, *ON_CPU)]
    with open(tmp_path / "log.txt", "w") as log:
        # the engines in processes of their own, as on GPUs, which must end with their replica
        environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        command = [str(c) for c in command]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd="/", env=environment
        )
        while not trace(output) and process.poll() is None:
            time.sleep(0.1)
        tree = descendants(process)
        actors = replicas_of(process)
        before = len(trace(output))
        assert len(actors) == 2
        # another one may hold nothing yet
        victim = next(actor for actor in actors if not starts(actor))
        engine = descendants(victim)
        assert engine and before < ROWS
        victim.kill()
        assert_gone(engine)
        out, _ = process.communicate(timeout=300)
    said = (tmp_path / "log.txt").read_text()
    assert process.returncode == 0 and json.loads(out.splitlines()[-1])["rows"] == ROWS, said[
        -3000:
    ]
    assert "a replica was lost;" in said
    assert Counter(record["index"] for record in trace(output)) == Counter(range(ROWS))
    for ending in ("", ".rejected.jsonl"):
        name = output.name + ending
        assert read_jsonl(output.with_name(name)) == read_jsonl(on_one_engine.with_name(name)), (
            ending
        )
    assert_gone(tree)


@pytest.mark.slow
def test_stopped_by_ctrl_c_and_resumed_on_one_engine(on_one_engine, tmp_path):
    output = tmp_path / "out.jsonl"
    command = [sys.executable, ROOT / "create_data.py", *label_flags(output, *ON_CPU)]
    process = subprocess.Popen(
        [str(c) for c in command], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not trace(output) and process.poll() is None:
        time.sleep(0.1)
    tree = descendants(process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert_gone(tree)
    kept = trace(output)
    assert 0 < len(kept) < ROWS and not output.exists()
    summary = last_json(run(sys.executable, ROOT / "create_data.py", *label_flags(output)))
    assert summary["asked"] == ROWS - len(kept) and trace(output)[: len(kept)] == kept
    assert read_jsonl(output) == read_jsonl(on_one_engine)


@pytest.mark.slow
def test_replicas_that_cannot_start(pair, tmp_path):
    flags = label_flags(tmp_path / "out.jsonl", *ON_CPU, "--max_model_len", 999999)
    said = run(sys.executable, ROOT / "create_data.py", *flags, code=2).stderr
    assert "no replica could decide any of 400 inputs" in said and "max_model_len (999999)" in said
    assert "the engine cannot start: User-specified" in said


@pytest.fixture
def other_node(tmp_path):
    """The address of a cluster with two cores, whose nodes' cache of the hub lacks the revision
    v2.
    """
    cache = make_hub_cache(tmp_path / "other", "team/teacher", {"main": TEACHER})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        Path(sys.executable).with_name("ray"),
        "start",
        "--head",
        "--node-ip-address=127.0.0.1",
    ]
    command += [f"--port={address.split(':')[1]}", "--num-cpus=2", "--include-dashboard=false"]
    command += ["--disable-usage-stats", "--block"]
    said = tmp_path / "ray.log"
    with open(said, "w") as log:
        node = subprocess.Popen(command, env=cache, stdout=log, stderr=log)
    while "Ray runtime started" not in said.read_text() and node.poll() is None:
        time.sleep(0.1)
    yield address
    kill_node(node)


@pytest.mark.slow
def test_replicas_whose_node_has_another_revision_are_refused(pair, other_node, tmp_path):
    cache = make_hub_cache(tmp_path / "hub", "team/teacher", {"main": STUDENT, "v2": TEACHER})
    environment = {**cache, "RAY_ADDRESS": other_node}
    flags = label_flags(tmp_path / "out.jsonl", *ON_CPU, "--revision", "v2", model="team/teacher")
    said = run(sys.executable, ROOT / "create_data.py", *flags, code=2, env=environment).stderr
    [line] = [line for line in said.splitlines() if "create_data.py: " in line]
    assert (
        f"team/teacher: --revision {commit_of('v2')} is neither on the hub nor in its cache" in line
    )
    assert "no replica could decide any of 400 inputs" in line and not trace(tmp_path / "out.jsonl")


@pytest.mark.slow
def test_what_is_missing_is_said_in_one_line(pair, tmp_path, monkeypatch):
    flags = label_flags(tmp_path / "out.jsonl", "--num_replicas", 2)
    assert "needs 2 GPUs, the cluster has 0; without GPUs pass --cpus_per_replica" in fails(
        "create_data.py", *flags
    )
    assert "drop --shard" in fails("create_data.py", *flags, "--shard", "0/2")
    assert "drop --num_replicas" in fails("create_data.py", *flags, "--pipeline_parallel_size", 2)
    for name, value in {
        "RAY_ADDRESS": "127.0.0.1:6399",
        "RAY_AUTH_MODE": "token",
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    assert "RAY_ADDRESS 127.0.0.1:6399: Token authentication is enabled but no" in fails(
        "create_data.py", *flags
    )
    monkeypatch.setattr(replicas, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -r requirements/ray.txt"):
        replicas.connect(parse_args([str(flag) for flag in flags]).cluster)


@pytest.mark.parametrize("named", ["", "10.0.0.1:6379"])
def test_the_address_of_a_cluster_that_is_gone_is_not_tried(named, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", named)
    assert replicas.address_to_join() is None
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        assert replicas.address_to_join() is None
    assert replicas.address_to_join() == (None if named else "local")


@pytest.mark.slow
def test_a_teacher_over_nodes_is_vllms_affair(pair):
    flags = [
        "--model_name",
        str(TEACHER),
        "--tensor_parallel_size",
        "8",
        "--pipeline_parallel_size",
        "2",
    ]
    choices = parse_args([*flags, "--distributed_executor_backend", "ray"])
    task = load_task(choices.task_file)
    asked = check_teacher(choices.teacher, choices.task_file, task, choices.settings.guards)
    assert (asked.tensor_parallel_size, asked.pipeline_parallel_size) == (8, 2)
    assert asked.distributed_executor_backend == "ray"


# Two nodes are two network namespaces, joined by a cable of their own

NODES = {"pd-node-0": "10.77.0.1", "pd-node-1": "10.77.0.2"}


@pytest.fixture(scope="module")
def nodes():
    """Names of the namespaces; skipped where the kernel does not let us make them."""

    def ip(*command, check=True):
        return subprocess.run(["ip", *command], capture_output=True, text=True, check=check)

    try:
        for name in NODES:
            ip("netns", "delete", name, check=False)
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            "pd0",
            "netns",
            "pd-node-0",
            "type",
            "veth",
            "peer",
            "name",
            "pd1",
            "netns",
            "pd-node-1",
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")
    for number, (name, address) in enumerate(NODES.items()):
        ip("-n", name, "address", "add", f"{address}/24", "dev", f"pd{number}")
        ip("-n", name, "link", "set", f"pd{number}", "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield list(NODES)
    for name in NODES:
        ip("netns", "delete", name)


def on_node(name, folder, *command):
    """A command line that runs on a node, with Ray's files under `folder`, not where nodes would
    share them.
    """
    files = Path(tempfile.gettempdir()) / "ray"
    mount = f'mkdir -p {files} {folder}/{name} && mount --bind {folder}/{name} {files} && exec "$@"'
    return [
        "ip",
        "netns",
        "exec",
        name,
        "unshare",
        "--mount",
        "bash",
        "-c",
        mount,
        "-",
        *map(str, command),
    ]


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
        environment = {"RAY_AUTH_MODE": "token"}
        with open(tmp_path / f"{name}.log", "w") as log:
            started.append(
                subprocess.Popen(line, stdout=log, stderr=log, env={**os.environ, **environment})
            )
        line = on_node(nodes[0], tmp_path, *program("connect_to_cluster.py", count))
        end = time.monotonic() + 60
        while subprocess.run(line, cwd=ROOT, capture_output=True).returncode:
            assert started[-1].poll() is None and time.monotonic() < end, (
                tmp_path / f"{name}.log"
            ).read_text()
    return started


def serving(node):
    """Whether its replica's engine has started."""
    return any(not starts(replica) for replica in replicas_of(node))


def kill_node(process):
    """All processes of a node at once."""
    for victim in [*descendants(process), process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()


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
        out, _ = process.communicate(timeout=300)
    said = (tmp_path / "log.txt").read_text()
    assert process.returncode == 0 and json.loads(out.splitlines()[-1])["rows"] == ROWS, said[
        -3000:
    ]
    assert 40 <= before < ROWS and "a replica was lost;" in said
    assert Counter(record["index"] for record in trace(output)) == Counter(range(ROWS))
    assert read_jsonl(output) == read_jsonl(on_one_engine)


def on_nodes(nodes, mode, output_dir, train_file, *flags):
    """The wrapper on both nodes, one process on each; returns the processes."""
    command, environment = training_command(mode, output_dir, train_file, *flags)
    started = []
    for rank, node in enumerate(nodes):
        where = {"NUM_MACHINES": "2", "MACHINE_RANK": str(rank), "MAIN_PROCESS_IP": NODES[nodes[0]]}
        where.update(MAIN_PROCESS_PORT="29511", GLOO_SOCKET_IFNAME=f"pd{rank}")
        process = subprocess.Popen(
            ["ip", "netns", "exec", node, *command],
            env={**environment, **where},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
    return started


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_nodes_train_what_one_does(mode, nodes, trained, train_file, tmp_path):
    output_dir = tmp_path / "adapter"
    started = on_nodes(nodes, mode, output_dir, train_file)
    printed = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    summary = json.loads(printed[0].strip().splitlines()[-1])
    assert (summary["steps"], summary["effective_batch_size"]) == (STEPS, 16)
    one_node = trained[mode][0]
    assert max(abs(a - b) for a, b in zip(losses(one_node), losses(output_dir), strict=True)) < 1e-3
    assert cosine(one_node, output_dir) > 0.999


@pytest.mark.slow
def test_a_node_is_killed_and_the_job_resumed(nodes, trained, train_file, tmp_path):
    output_dir = tmp_path / "adapter"
    started = on_nodes(nodes, "ddp", output_dir, train_file)
    while not (output_dir / "checkpoint-10" / "complete.json").exists():
        assert all(process.poll() is None for process in started)
        time.sleep(0.05)
    kill_node(started[1])
    printed = started[0].communicate(timeout=300)[0]
    assert started[0].returncode != 0 and not (output_dir / "results.json").exists(), printed
    started = on_nodes(nodes, "ddp", output_dir, train_file)
    printed = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert cosine(trained["ddp"][0], output_dir) > 0.999


# Slurm, of which only the commands are looked at


@pytest.fixture
def slurm(tmp_path):
    """An environment in which scontrol names two nodes and srun prints what it would run on one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "ray": "true",
        "scontrol": "printf 'node-a\\nnode-b\\n'",
        "srun": 'printf "%s\\n" "$@"',
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    variables = {
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_GPUS_ON_NODE": "8",
    }
    variables["SLURM_CPUS_ON_NODE"] = "96"
    return {**os.environ, **variables, "PATH": f"{folder}:{os.environ['PATH']}"}


def test_slurm_files(slurm):
    flags = ["--input_file", "my inputs.txt"]
    words = run(
        "bash", ROOT / "slurm" / "create_data.sbatch", *flags, env=slurm
    ).stdout.splitlines()
    whole_nodes = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=96", "--mem=0"]
    assert words[:4] == whole_nodes and "node-a:6379" in words
    asked = words[words.index("create_data.py") + 1 :]
    choices = parse_args(asked)
    assert choices.cluster == Cluster(8, tensor_parallel_size=2, cpus_per_replica=0)
    assert choices.input_file == "my inputs.txt"
    assert not choices.teacher.engine_flags
    words = run(
        "bash", ROOT / "slurm" / "train_fsdp.sbatch", "a model", "out", env=slurm
    ).stdout.splitlines()
    assert (
        words[-3:] == ["train_trl_fsdp.sh", "a model", "out"]
        and "MACHINE_RANK=$SLURM_NODEID" in words[-4]
    )
    assert words[:4] == whole_nodes
    for name in ("create_data", "train_fsdp"):  # sbatch reads the lines before the first command
        asked = re.findall(
            "^#SBATCH (.*)$", (ROOT / "slurm" / f"{name}.sbatch").read_text(), re.MULTILINE
        )
        assert {"--exclusive", "--mem=0", "--gpus-per-node=8"} <= set(" ".join(asked).split())
