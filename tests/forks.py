"""Scripts run in forks of a process that has the libraries, whose import takes longest."""

import atexit
import fcntl
import json
import logging
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing import forkserver, util
from pathlib import Path

# what a new Python is told to do: to be a server of forks, or one process that a script spawns
AS_MULTIPROCESSING = ("from multiprocessing.forkserver import main;", "from multiprocessing.spawn ")
STAND_BYS = 3  # for a process: scripts start no more than that of which the import would matter
MESSAGE = 2**20  # bytes, at most: a line of Python and an environment


def begin_as_process(environment) -> None:
    """What a new process has: an environment of its own, which Python's temporary files, PyTorch's
    threads and vLLM's log heed, and at its end nothing to do for what was preloaded.
    """
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    threads = environment.get("OMP_NUM_THREADS")
    if threads and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(threads))
    atexit._clear()
    level = environment.get("VLLM_LOGGING_LEVEL")
    if level:
        logger = logging.getLogger("vllm")
        for each in (logger, *logger.handlers):
            each.setLevel(level)
        for handler in logger.handlers:
            handler.setStream(sys.stderr)  # as distill/teacher/engine.py chooses


def stand_by(requests: socket.socket) -> None:
    """Become a process of the script when it is asked for, which ends this process."""
    message, descriptors, _, _ = socket.recv_fds(requests, MESSAGE, 64)
    requests.close()
    if not message:  # the script has ended without one
        return
    asked = json.loads(message)
    signal.pthread_sigmask(signal.SIG_SETMASK, asked["blocked"])
    begin_as_process(asked["environment"])
    # first out of the way, then to the numbers that the command names
    above = max(asked["descriptors"]) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in descriptors]
    for fd, number in zip(moved, asked["descriptors"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    fork_processes_from_here()
    sys.argv = ["-c", *asked["arguments"]]
    try:
        exec(asked["code"], {})
    except Exception:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        atexit._run_exitfuncs()


def wait_in_fork(others: list[socket.socket]) -> tuple[int, socket.socket]:
    """Fork a process that stands by: its id, and where it is asked.

    It lets go of the `others`, which end when the script does.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for each in (ours, *others):
                each.close()
            stand_by(its)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            os._exit(code)
    its.close()
    return pid, ours


def fork_processes_from_here() -> None:
    """Let the first processes that multiprocessing will start be forks of what this one is now.

    Each does what the command says that a new Python would be given, but has the libraries at once,
    and so have those that it starts.
    """
    owner = os.getpid()
    waiting: list[tuple[int, socket.socket]] = []
    for _ in range(STAND_BYS):
        waiting.append(wait_in_fork([ours for _, ours in waiting]))
    spawn = getattr(util.spawnv_passfds, "real", util.spawnv_passfds)

    def spawn_or_wake(path, args, passfds):
        at = len(args)
        if "-c" in args:
            at = args.index("-c") + 1
        asked_for = at < len(args) and args[at].startswith(AS_MULTIPROCESSING)
        # what a fork of this process starts has another parent; later ones are processes as any
        if not asked_for or os.getpid() != owner or not waiting:
            return spawn(path, args, passfds)
        asked = {
            "code": args[at],
            "arguments": args[at + 1 :],
            "descriptors": list(passfds),
            "environment": dict(os.environ),
            "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        }
        pid, ours = waiting.pop(0)
        socket.send_fds(ours, [json.dumps(asked).encode()], passfds)
        ours.close()
        return pid

    spawn_or_wake.real = spawn
    util.spawnv_passfds = spawn_or_wake


def as_script(path, flags, environment, cwd, folder, session):
    """What `python path flags` does in a directory, with its output in two files of `folder`."""
    if session:
        os.setsid()
    begin_as_process(environment)
    os.chdir(cwd)
    for number, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    fork_processes_from_here()
    sys.argv = [path, *flags]
    sys.path.insert(0, os.path.dirname(path))
    try:
        runpy.run_path(path, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # as a process does that is no fork


def start(target, *arguments):
    """The process of a function, as it begins: a fork of one that has the libraries."""
    warm = multiprocessing.get_context("forkserver")
    warm.set_forkserver_preload(["warm"])
    found_by = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where it finds warm.py
    forkserver.ensure_running()
    del os.environ["PYTHONPATH"]
    if found_by is not None:
        os.environ["PYTHONPATH"] = found_by
    process = warm.Process(target=target, args=arguments)
    process.start()
    return process


def start_in_fork(path, *flags, folder, environment=os.environ, cwd="/", session=False):
    """The process of a script, run as_script(), as it begins; `session`: in a group of its own."""
    arguments = [str(flag) for flag in flags]
    return start(as_script, str(path), arguments, dict(environment), str(cwd), str(folder), session)


def run_in_fork(path, *flags, **settings):
    """The finished process of a script, run as_script()."""
    with tempfile.TemporaryDirectory() as folder:
        process = start_in_fork(path, *flags, folder=folder, **settings)
        process.join()
        stdout, stderr = (Path(folder, name).read_text() for name in ("stdout", "stderr"))
    command = [str(path), *(str(flag) for flag in flags)]
    return subprocess.CompletedProcess(command, process.exitcode, stdout, stderr)
