"""Scripts run in forks of a process that has the libraries, whose import takes longest."""

import atexit
import fcntl
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing import util
from pathlib import Path

LIBRARIES = [
    "peft.peft_model",
    "trl.trainer.sft_trainer",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
]
SERVER_OF_FORKS = "from multiprocessing.forkserver import main;"
MESSAGE = 2**20  # bytes, at most: a line of Python and an environment


def begin_as_process(environment) -> None:
    """What a new process has: an environment of its own, and at its end nothing to do for what was
    preloaded.
    """
    os.environ.clear()
    os.environ.update(environment)
    atexit._clear()


def stand_by(requests: socket.socket) -> None:
    """Become the script's own server of forks when it is asked for, which ends this process."""
    message, descriptors, _, _ = socket.recv_fds(requests, MESSAGE, 16)
    requests.close()
    if not message:  # the script has ended without one
        return
    asked = json.loads(message)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    begin_as_process(asked["environment"])
    # first out of the way, then to the numbers that the command names
    above = max(asked["descriptors"]) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in descriptors]
    for fd, number in zip(moved, asked["descriptors"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    exec(asked["code"], {})


def fork_server_from_here() -> None:
    """Let a server of forks that this process will start be a fork of what it is now.

    It does what the command says that a new Python would be given, but has the libraries at once.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ours.close()
            stand_by(its)
            code = 0
        finally:
            os._exit(code)
    its.close()
    spawn = util.spawnv_passfds

    def spawn_or_wake(path, args, passfds):
        if not args[-1].startswith(SERVER_OF_FORKS):
            return spawn(path, args, passfds)
        asked = {"code": args[-1], "descriptors": list(passfds), "environment": dict(os.environ)}
        socket.send_fds(ours, [json.dumps(asked).encode()], passfds)
        util.spawnv_passfds = spawn  # another one would be a process as any
        ours.close()
        return pid

    util.spawnv_passfds = spawn_or_wake


def as_script(path, flags, environment, cwd, folder):
    """What `python path flags` does in a directory, with its output in two files of `folder`."""
    begin_as_process(environment)
    os.chdir(cwd)
    for number, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    fork_server_from_here()
    sys.argv = [path, *flags]
    sys.path.insert(0, os.path.dirname(path))
    try:
        runpy.run_path(path, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # as a process does that is no fork


def run_in_fork(path, *flags, environment=os.environ, cwd="/"):
    """The finished process of a script, run as_script()."""
    arguments = [str(flag) for flag in flags]
    warm = multiprocessing.get_context("forkserver")
    warm.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory() as folder:
        asked = (str(path), arguments, dict(environment), str(cwd), folder)
        process = warm.Process(target=as_script, args=asked)
        process.start()
        process.join()
        stdout, stderr = (Path(folder, name).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess([str(path), *arguments], process.exitcode, stdout, stderr)
