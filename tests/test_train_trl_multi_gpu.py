"""Training over two nodes with addresses of their own."""

import json
import time

import pytest

from forks import start_in_fork
from helpers import HANGS, ROOT, STEPS, cosine, losses, of_mode, training_command
from nodes import NODES, kill_node
from rest import rests_at


def on_nodes(nodes, mode, output_dir, train_file, folder, until=None):
    """The wrapper on both nodes, one process on each; returns the launchers' processes.

    Each says in a part of `folder` what it says. The second node stops as soon as there is the file
    `until`.
    """
    command, environment = training_command(mode, output_dir, train_file)
    started = []
    for rank, node in enumerate(nodes):
        where = {"NUM_MACHINES": "2", "MACHINE_RANK": str(rank), "MAIN_PROCESS_IP": NODES[nodes[0]]}
        where.update(MAIN_PROCESS_PORT="29511", GLOO_SOCKET_IFNAME=f"pd{rank}")
        said = folder / node
        said.mkdir(parents=True)
        own = {**environment, **where, **(rests_at(until) if rank and until else {})}
        path, flags, own = of_mode(mode, command, own)
        settings = {"environment": own, "cwd": ROOT, "folder": said, "node": node}
        started.append(start_in_fork(path, *flags, **settings))
    return started


def summary_of(started, nodes, folder):
    """The last line on stdout of the first node, when both have ended well."""
    for process in started:
        process.join(HANGS)
    said = [(folder / node / "stderr").read_text()[-3000:] for node in nodes]
    assert [process.exitcode for process in started] == [0, 0], said
    return json.loads((folder / nodes[0] / "stdout").read_text().splitlines()[-1])


@pytest.mark.slow
def test_two_nodes_train_what_one_does(nodes, trained, train_file, tmp_path):
    """With FSDP; with DDP it is the next test, whose second launch trains to the end."""
    output_dir = tmp_path / "adapter"
    started = on_nodes(nodes, "fsdp", output_dir, train_file, tmp_path)
    summary = summary_of(started, nodes, tmp_path)
    assert (summary["steps"], summary["effective_batch_size"]) == (STEPS, 16)
    one_node = trained["fsdp"][0]
    assert max(abs(a - b) for a, b in zip(losses(one_node), losses(output_dir), strict=True)) < 1e-3
    assert cosine(one_node, output_dir) > 0.999


@pytest.mark.slow
def test_a_node_is_killed_and_the_job_resumed(nodes, trained, train_file, tmp_path):
    output_dir = tmp_path / "adapter"
    saved = output_dir / "checkpoint-10" / "complete.json"
    started = on_nodes(nodes, "ddp", output_dir, train_file, tmp_path / "first", saved)
    while not saved.exists():
        assert all(process.is_alive() for process in started)
        time.sleep(0.05)
    kill_node(started[1])
    started[0].join(HANGS)
    said = (tmp_path / "first" / nodes[0] / "stderr").read_text()
    assert started[0].exitcode not in (None, 0), said
    assert not (output_dir / "results.json").exists()
    started = on_nodes(nodes, "ddp", output_dir, train_file, tmp_path / "second")
    summary = summary_of(started, nodes, tmp_path / "second")
    assert (summary["steps"], summary["effective_batch_size"]) == (STEPS, 16)
    one_node = losses(trained["ddp"][0])
    assert max(abs(a - b) for a, b in zip(one_node, losses(output_dir), strict=True)) < 1e-3
    assert cosine(trained["ddp"][0], output_dir) > 0.999
