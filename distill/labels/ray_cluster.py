"""The Ray cluster of create_data.py --num_replicas: joined where there is one, else started."""

import contextlib
import logging
import os
import signal
import socket
import warnings
from importlib.util import find_spec
from pathlib import Path

import psutil

from distill.labels.choices import Cluster
from distill.stopping import end_children

log = logging.getLogger("create_data")
ANSWERS_WITHIN = 5.0  # seconds, a cluster on this machine
# Ray gives a process of its own 15 seconds to come up, and fails where the machine is busier or
# its disk slower than that
STARTS = 3
TOO_SLOW = "timed out during startup"  # as Ray says it
LOGS = "Ray's logs say why, usually under /tmp/ray/session_latest/logs on each node"


def connect(cluster: Cluster) -> None:
    """Join the cluster that RAY_ADDRESS names or that runs here, or start one.

    Raises ValueError without Ray or GPUs.
    """
    if not find_spec("ray"):
        raise ValueError("--num_replicas needs Ray; pip install -r requirements/ray.txt")
    set_environment()
    address = address_to_join()
    if address == "local":
        start()
    else:
        join(address)
    check_size(cluster)


def set_environment() -> None:
    """What Ray reads when it is imported; what the user has set stays, but for a token."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would warn of what we do about lost replicas
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # with Ray's 15 a replica's process waits for whatever else runs on the machine
    os.environ.setdefault("RAY_worker_niceness", "0")
    token = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if token or (Path.home() / ".ray" / "auth_token").exists():
        # as `ray start` decides it; a driver would not by itself
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ.get("RAY_ADDRESS"):
        # of 20 attempts each takes 40 s where nothing answers
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    # max_task_retries has no other way
    warnings.filterwarnings("ignore", message=".*ray_remote_args. is deprecated")


def address_to_join() -> str:
    """What Ray is to join: the cluster that RAY_ADDRESS names or that runs here, else "local".

    A cluster that was killed leaves its address behind, and Ray would try for many minutes to
    reach it.
    """
    from ray._private.utils import read_ray_address

    named = os.environ.get("RAY_ADDRESS")
    if named:
        return named
    recorded = read_ray_address()
    if not recorded:
        return "local"
    host, _, port = recorded.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN):
            return recorded
    except (OSError, ValueError):
        return "local"


def join(address: str) -> None:
    """Join a cluster that runs; raises ValueError if it cannot be joined."""
    import ray

    where = f"the Ray cluster at {address}"
    if os.environ.get("RAY_ADDRESS"):
        where = f"RAY_ADDRESS {address}"
    try:
        initialise(address)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        remedy = "start it, or bring its ~/.ray/auth_token here"
        raise ValueError(f"{where}: {last_line(error)}; {remedy}") from error


def start() -> None:
    """Start a cluster on this machine, which ends with this process; raises ValueError."""
    import ray

    for left in reversed(range(STARTS)):
        before = psutil.Process().children(recursive=True)
        try:
            return initialise("local")
        except Exception as error:  # Ray has no class for it
            ray.shutdown()
            end_children(but=before)  # those that did come up
            reason = last_line(error)
            if not left or TOO_SLOW not in reason:
                raise ValueError(
                    f"Ray does not start here: {reason.rstrip('.')}; {LOGS}"
                ) from error
            log.warning("Ray did not start in time, as on a busy machine; it is tried again")


def initialise(address: str) -> None:
    """ray.init(), which says nothing and leaves signals to us.

    Ray's own handler of SIGTERM would end this process without a word.
    """
    import ray

    ray._private.utils.set_sigterm_handler = lambda handler: None
    with silent_stderr():
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)


def check_size(cluster: Cluster) -> None:
    """Raise ValueError unless the cluster has GPUs, or cores, for all replicas."""
    import ray

    kind = "GPU"
    each = cluster.tensor_parallel_size
    other = "; without GPUs pass --cpus_per_replica"
    if cluster.cpus_per_replica:
        kind = "CPU"
        each = cluster.cpus_per_replica
        other = ""
    there = int(ray.cluster_resources().get(kind, 0))
    needed = each * cluster.num_replicas
    if there < needed:
        raise ValueError(
            f"--num_replicas {cluster.num_replicas}: needs {needed} {kind}s, "
            f"the cluster has {there}{other}"
        )
    free = int(ray.available_resources().get(kind, 0))
    if free < needed:
        log.warning(
            "the Ray cluster has %d %ss, others use %d: replicas start as they become free",
            there,
            kind,
            there - free,
        )


def last_line(error: Exception) -> str:
    """Of a message that Ray has put a traceback in front of; the error's name without any."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def silent_stderr():
    """Nothing reaches stderr, from compiled code either, but what the handler of a signal says.

    Ray tells there which log level it uses.
    """
    kept = os.dup(2)
    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):
            handlers[number] = signal.getsignal(number)

    def speak(number: int, frame) -> None:
        os.dup2(kept, 2)
        handlers[number](number, frame)

    for number in handlers:
        signal.signal(number, speak)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        for number, handler in handlers.items():
            signal.signal(number, handler)
