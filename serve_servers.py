"""The student's server, the teacher's, and serve.py in front of both, in one command.

`serve.sh` starts it.

    python serve_servers.py [any flag of serve.py]

The environment variables STUDENT (a merged model) and TEACHER name the models, STUDENT_GPUS and
TEACHER_GPUS their GPUs, such as 0 and 1,2; without a GPU both run on the CPU. STUDENT_PORT,
TEACHER_PORT, STUDENT_FLAGS and TEACHER_FLAGS are for vLLM's servers, LOG_DIR says where their logs
go, and PYTHON in which Python they run (else in that of this script). When one of the three ends,
or at Ctrl-C, all end: within ENDS_WITHIN seconds, or they are killed.
"""

if __name__ == "__main__":
    from distill import early_stop  # noqa: F401

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from distill.cli import HELP_ALL, REASONING_PARSER, TEACHER
from distill.stopping import exit_code

PYTHON = os.environ.get("PYTHON") or sys.executable
SERVE = [PYTHON, str(Path(__file__).resolve().parent / "serve.py")]
SERVER = [PYTHON, "-m", "vllm.entrypoints.openai.api_server"]
# prompts are cached by blocks of 32 tokens, as our engine does on a CPU
ON_CPU = ["--enforce-eager", "--block-size", "32"]
CACHE_ON_CPU = "2"  # GiB, for keys and values
LOADED_WITHIN = 3600  # seconds, which serve.py waits for the servers
LOOK_EVERY = 0.1  # seconds
SHOWN_LINES = 30  # of the log of a server that has ended


def setting(name: str, default: str) -> str:
    """An environment variable, or the default where it is not set or empty."""
    return os.environ.get(name) or default


@dataclass(frozen=True)
class Model:
    """A model that gets a server."""

    name: str  # student or teacher, as the server calls it
    path: str
    port: str
    gpus: str  # such as 0,1; empty: all that are visible
    flags: list[str]  # vLLM's

    def flags_of_serve(self) -> list[str]:
        """What serve.py is told of it."""
        url = f"http://127.0.0.1:{self.port}/v1"
        said = [f"--{self.name}_url", url, f"--{self.name}_name", self.name]
        return [*said, f"--{self.name}_tokenizer", self.path]


@dataclass(frozen=True)
class Started:
    """A process, which leads a group of its own: vLLM's server has processes below it."""

    name: str
    process: subprocess.Popen
    log: Path | None = None  # None: it writes to the terminal


def models() -> list[Model]:
    """Student and teacher, as the environment variables have them."""
    parser = f"--reasoning-parser {REASONING_PARSER}"
    student = Model(
        name="student",
        path=setting("STUDENT", "models/merged"),
        port=setting("STUDENT_PORT", "8001"),
        gpus=setting("STUDENT_GPUS", ""),
        flags=shlex.split(setting("STUDENT_FLAGS", "")),
    )
    teacher = Model(
        name="teacher",
        path=setting("TEACHER", TEACHER),
        port=setting("TEACHER_PORT", "8002"),
        gpus=setting("TEACHER_GPUS", ""),
        flags=shlex.split(setting("TEACHER_FLAGS", parser)),
    )
    return [student, teacher]


def has_gpu() -> bool:
    """Whether NVIDIA's driver answers."""
    if not shutil.which("nvidia-smi"):
        return False
    return subprocess.run(["nvidia-smi"], capture_output=True).returncode == 0


def start_server(model: Model, on_gpu: bool, log_dir: Path) -> Started:
    """Start vLLM's server of a model."""
    command = [*SERVER, "--model", model.path, "--served-model-name", model.name]
    command += ["--host", "127.0.0.1", "--port", model.port]
    environment = dict(os.environ)
    if model.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = model.gpus
    if not on_gpu:
        command += ON_CPU
        environment["VLLM_CPU_KVCACHE_SPACE"] = setting("VLLM_CPU_KVCACHE_SPACE", CACHE_ON_CPU)
    log = log_dir / f"{model.name}.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*command, *model.flags],
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )
    return Started(model.name, process, log)


def first_to_end(started: list[Started], signals: list[int]) -> Started | None:
    """Wait until one of them has ended, and return it; None: a signal has come."""
    while not signals:
        for each in started:
            if each.process.poll() is not None:
                return each
        time.sleep(LOOK_EVERY)
    return None


def end_all(started: list[Started]) -> None:
    """End them with all processes below; what does not heed SIGTERM is killed.

    vLLM's server does not while it loads a model.
    """
    signal_groups(started, signal.SIGTERM)
    late = time.monotonic() + float(setting("ENDS_WITHIN", "15"))
    while any(each.process.poll() is None for each in started) and time.monotonic() < late:
        time.sleep(LOOK_EVERY)
    signal_groups(started, signal.SIGKILL)
    for each in started:
        each.process.wait()


def signal_groups(started: list[Started], number: int) -> None:
    """Send a signal to each process with all below it, as far as they are there."""
    for each in started:
        try:
            os.killpg(each.process.pid, number)
        except ProcessLookupError:
            continue


def say_ended(server: Started) -> None:
    """Say that a server has ended, below the end of its log."""
    lines = server.log.read_text(encoding="utf-8", errors="replace").splitlines()
    print("\n".join(lines[-SHOWN_LINES:]), file=sys.stderr)
    print(
        f"serve.sh: the {server.name}'s server has ended; its log is {server.log}",
        file=sys.stderr,
    )


def main() -> int:
    flags = sys.argv[1:]
    for flag in flags:  # help needs no server
        if flag in ("-h", "--help", *HELP_ALL):
            os.execvp(SERVE[0], [*SERVE, flag])
    signals = []  # that have come
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    student, teacher = models()
    log_dir = Path(setting("LOG_DIR", "") or tempfile.mkdtemp())
    log_dir.mkdir(parents=True, exist_ok=True)
    # first: wrong flags end all at once, before a model is loaded
    command = [*SERVE, *student.flags_of_serve(), *teacher.flags_of_serve()]
    command += ["--wait_for_servers", str(LOADED_WITHIN), *flags]
    front = Started("serve.py", subprocess.Popen(command, start_new_session=True))
    started = [front]
    on_gpu = has_gpu()
    for model in (student, teacher):
        started.append(start_server(model, on_gpu, log_dir))
    print(
        f"serve.sh: student {student.path} and teacher {teacher.path} start; "
        f"their logs are in {log_dir}",
        file=sys.stderr,
    )
    ended = first_to_end(started, signals)
    end_all(started)
    if ended is None:
        return 128 + signals[0]
    if ended is front:
        return exit_code(front.process.returncode)
    say_ended(ended)
    return 1


if __name__ == "__main__":
    sys.exit(main())
