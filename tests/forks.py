"""Scripts run in forks of a process that has the libraries, whose import takes longest."""

import atexit
import contextlib
import ctypes
import fcntl
import importlib
import json
import logging
import math
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import forkserver, util
from pathlib import Path
from types import SimpleNamespace

import psutil

from rest import begin_to_watch, without_rest

# what a new Python is told to do: to be a server of forks, or one process that a script spawns
AS_MULTIPROCESSING = ("from multiprocessing.forkserver import main;", "from multiprocessing.spawn ")
AS_SCRIPT = "from forks import run; "
STAND_BYS = 3  # for a process: scripts start no more than that of which the import would matter
MESSAGE = 2**20  # bytes, at most: a line of Python and an environment


def begin_as_process(environment) -> None:
    """What a new process has: an environment of its own, which Python's temporary files, PyTorch's
    threads, the hub's client and vLLM's log heed, and at its end nothing to do for what was
    preloaded.
    """
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    threads = environment.get("OMP_NUM_THREADS")
    if threads and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(threads))
    if "huggingface_hub.constants" in sys.modules:
        importlib.reload(sys.modules["huggingface_hub.constants"])  # all that it is told
    atexit._clear()
    begin_to_watch(environment)
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


@dataclass
class StandBys:
    """The forks that stand by for what a process will start: their ids, and where each is asked."""

    owner: int  # a fork of it, whose parent is another, has none
    waiting: list[tuple[int, socket.socket]]

    def wake(self, code: str, arguments, descriptors, environment) -> int | None:
        """Let one run a line of Python; its process id, None where there is none left."""
        if os.getpid() != self.owner or not self.waiting:
            return None
        asked = {
            "code": code,
            "arguments": list(arguments),
            "descriptors": list(descriptors),
            "environment": dict(environment),
            "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        }
        pid, ours = self.waiting.pop(0)
        socket.send_fds(ours, [json.dumps(asked).encode()], descriptors.values())
        ours.close()
        return pid


stand_bys = StandBys(0, [])
spawn = util.spawnv_passfds


def fork_processes_from_here() -> None:
    """Let the first processes that this one will start be forks of what it is now.

    Each does what the command says that a new Python would be given, but has the libraries at once,
    and so have those that it starts. It holds for what multiprocessing starts and for Process.
    """
    stand_bys.owner = os.getpid()
    stand_bys.waiting = []
    for _ in range(STAND_BYS):
        stand_bys.waiting.append(wait_in_fork([ours for _, ours in stand_bys.waiting]))
    util.spawnv_passfds = wake_or_spawn


def wake_or_spawn(path, args, passfds):
    """In place of multiprocessing's function that starts a Python."""
    at = len(args)
    if "-c" in args:
        at = args.index("-c") + 1
    pid = None
    if at < len(args) and args[at].startswith(AS_MULTIPROCESSING):
        same = {number: number for number in passfds}
        pid = stand_bys.wake(args[at], args[at + 1 :], same, without_rest(os.environ))
    return spawn(path, args, passfds) if pid is None else pid


class Process:
    """In place of subprocess.Popen where a script starts a Python with a file."""

    def __init__(self, args, env=None, stdout=None, stderr=None, start_new_session=False):
        _, *words = [word for word in args if word != "-u"]
        numbers = {}
        for number, file in ((1, stdout), (2, stderr)):
            numbers[number] = number if file is None else file.fileno()
        code = AS_SCRIPT + ("import os; os.setsid(); " if start_new_session else "") + "run()"
        self.args = args
        self.returncode = None
        self.pid = stand_bys.wake(code, words, numbers, os.environ if env is None else env)
        assert self.pid, "more processes than stand by"

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout=None):
        end = time.monotonic() + (timeout or math.inf)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run_python(command, **settings):
    """In place of subprocess.run() where a script runs a Python with a file."""
    return subprocess.CompletedProcess(command, Process(command, **settings).wait())


# in place of the module, where a script's own is replaced
SUBPROCESS = SimpleNamespace(run=run_python, CalledProcessError=subprocess.CalledProcessError)


def run():
    """What Python does that is given a file and its flags, which are in sys.argv after `-c`."""
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


CLONE_NEWNET = 0x40000000  # of Linux' sched.h


def enter_node(name: str) -> None:
    """Have the network of a node of tests/nodes.py, as after `ip netns exec`."""
    with open(f"/run/netns/{name}", "rb") as namespace:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network of {name}")


def as_script(path, flags, environment, cwd, folder, session, node):
    """What `python path flags` does in a directory, with its output in two files of `folder`."""
    if session:
        os.setsid()
    if node:
        enter_node(node)
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
    # a test that failed may have left it, and multiprocessing waits for it at our end
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended already
        atexit.register(kill, psutil.Process(process.pid))
    return process


def kill(process: psutil.Process) -> None:
    """End a process and all below it, which may have stopped themselves, if it is still there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def start_in_fork(path, *flags, folder, environment=os.environ, cwd="/", session=False, node=None):
    """The process of a script, run as_script(), as it begins.

    `session`: in a group of its own. `node`: the name of one of tests/nodes.py, on which it is.
    """
    arguments = [str(flag) for flag in flags]
    where = (str(cwd), str(folder), session, node)
    return start(as_script, str(path), arguments, dict(environment), *where)


def run_in_fork(path, *flags, **settings):
    """The finished process of a script, run as_script()."""
    with tempfile.TemporaryDirectory() as folder:
        process = start_in_fork(path, *flags, folder=folder, **settings)
        process.join()
        stdout, stderr = (Path(folder, name).read_text() for name in ("stdout", "stderr"))
    command = [str(path), *(str(flag) for flag in flags)]
    return subprocess.CompletedProcess(command, process.exitcode, stdout, stderr)
