"""Two nodes on one machine, for tests: network namespaces with addresses of their own."""

import contextlib
import os
import tempfile
from pathlib import Path

import psutil

from helpers import descendants

OURS = "pd-" + os.environ.get("PYTEST_XDIST_WORKER", "alone")  # of this process of the tests
NODES = {f"{OURS}-node-0": "10.77.0.1", f"{OURS}-node-1": "10.77.0.2"}


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


def kill_node(process):
    """All processes of a node at once."""
    for victim in [*descendants(process), process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
