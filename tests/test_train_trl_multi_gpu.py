"""Training over two nodes with addresses of their own."""

import json
import subprocess
import time

import pytest

from helpers import HANGS, ROOT, STEPS, cosine, losses, training_command
from nodes import NODES, kill_node


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
def test_two_nodes_train_what_one_does(nodes, trained, train_file, tmp_path):
    """With FSDP; with DDP it is the next test, whose second launch trains to the end."""
    output_dir = tmp_path / "adapter"
    started = on_nodes(nodes, "fsdp", output_dir, train_file)
    printed = [process.communicate(timeout=HANGS)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    summary = json.loads(printed[0].strip().splitlines()[-1])
    assert (summary["steps"], summary["effective_batch_size"]) == (STEPS, 16)
    one_node = trained["fsdp"][0]
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
    printed = started[0].communicate(timeout=HANGS)[0]
    assert started[0].returncode != 0 and not (output_dir / "results.json").exists(), printed
    started = on_nodes(nodes, "ddp", output_dir, train_file)
    printed = [process.communicate(timeout=HANGS)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    summary = json.loads(printed[0].strip().splitlines()[-1])
    assert (summary["steps"], summary["effective_batch_size"]) == (STEPS, 16)
    one_node = losses(trained["ddp"][0])
    assert max(abs(a - b) for a, b in zip(one_node, losses(output_dir), strict=True)) < 1e-3
    assert cosine(trained["ddp"][0], output_dir) > 0.999
