"""The student's server, the teacher's, and serve.py in front of both, in one command.

`serve.sh` starts it.

    python serve_servers.py [any flag of serve.py]

The environment variables STUDENT (a merged model) and TEACHER name the models, STUDENT_GPUS and
TEACHER_GPUS their GPUs, such as 0 and 1,2, or else each gets the next ones; without a GPU both run
on the CPU. STUDENT_PORT, TEACHER_PORT, STUDENT_FLAGS and TEACHER_FLAGS are for vLLM's servers,
LOG_DIR says where their logs go, and PYTHON in which Python they run (else in that of this script).
When one of the three ends, or at Ctrl-C, all end: within ENDS_WITHIN seconds, or they are killed.
"""

if __name__ == "__main__":
    from distill import early_stop  # noqa: F401

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from distill.cascade.servers import (
    Model,
    Started,
    end_all,
    ended_lines,
    first_to_end,
    on_gpus_of_its_own,
    start_server,
)
from distill.cli import HELP_ALL, REASONING_PARSER, TEACHER
from distill.stopping import exit_code
from distill.system import engines_on_gpus, visible_gpus
from distill.teacher.engine_flags import given

PYTHON = os.environ.get("PYTHON") or sys.executable
SERVE = [PYTHON, str(Path(__file__).resolve().parent / "serve.py")]
LOADED_WITHIN = 3600  # seconds, which serve.py waits for the servers


def setting(name: str, default: str) -> str:
    """An environment variable, or the default where it is not set or empty."""
    return os.environ.get(name) or default


def words_in(name: str) -> list[str]:
    """The flags in an environment variable. Raises ValueError for a quote that does not end."""
    text = setting(name, "")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{name}={text}: {error}") from error


def teacher_flags(flags: list[str]) -> list[str]:
    """Those of the teacher's server: it reads thoughts as serve.py, whose `flags` these are."""
    found = words_in("TEACHER_FLAGS")
    parser = given(flags, "reasoning_parser") or REASONING_PARSER
    if parser == "none" or given(found, "reasoning_parser"):
        return found
    return ["--reasoning-parser", parser, *found]


def models(flags: list[str]) -> list[Model]:
    """Student and teacher, as the environment variables and serve.py's flags have them.

    Raises ValueError.
    """
    student = Model(
        name="student",
        path=setting("STUDENT", "models/merged"),
        port=setting("STUDENT_PORT", "8001"),
        gpus=setting("STUDENT_GPUS", ""),
        flags=words_in("STUDENT_FLAGS"),
    )
    teacher = Model(
        name="teacher",
        path=setting("TEACHER", TEACHER),
        port=setting("TEACHER_PORT", "8002"),
        gpus=setting("TEACHER_GPUS", ""),
        flags=teacher_flags(flags),
    )
    return [student, teacher]


def seconds_in(name: str, default: str) -> float:
    """The number above 0 in an environment variable. Raises ValueError."""
    text = setting(name, default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name}={text}: must be a number of seconds above 0")
    return seconds


def heard_signals() -> list[int]:
    """The signals that end all, as they come; a terminal that is closed sends one of them."""
    heard = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # which nohup and & have asked for
            signal.signal(number, lambda number, _: heard.append(number))
    return heard


def say(text: str) -> None:
    """Write a line for the user, if there still is a terminal."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def start_all(flags: list[str], both: list[Model], log_dir: Path, started: list[Started]) -> None:
    """Start serve.py and both servers, and put each into `started`. Raises OSError."""
    student, teacher = both
    # first: wrong flags end all at once, before a model is loaded
    command = [*SERVE, *student.flags_of_serve(), *teacher.flags_of_serve()]
    command += ["--wait_for_servers", str(LOADED_WITHIN), *flags]
    started.append(Started("serve.py", subprocess.Popen(command, start_new_session=True)))
    on_gpu = engines_on_gpus()
    for model in (student, teacher):
        started.append(start_server(PYTHON, model, on_gpu, log_dir))
    say(
        f"serve.sh: student {student.path} and teacher {teacher.path} start; "
        f"their logs are in {log_dir}"
    )


def main() -> int:
    flags = sys.argv[1:]
    for flag in flags:  # help needs no server
        if flag in ("-h", "--help", *HELP_ALL):
            os.execvp(SERVE[0], [*SERVE, flag])
    heard = heard_signals()
    started = []
    try:
        within = seconds_in("ENDS_WITHIN", "15")
        both = on_gpus_of_its_own(models(flags), visible_gpus())
        log_dir = Path(setting("LOG_DIR", "") or tempfile.mkdtemp())
        log_dir.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        say(f"serve.sh: {error}")
        return 2
    try:
        start_all(flags, both, log_dir, started)
        ended = first_to_end(started, heard)
    except OSError as error:
        say(f"serve.sh: {error}")
        return 2
    finally:
        end_all(started, within)
    if ended is None:
        return 128 + heard[0]
    if ended.log is None:
        return exit_code(ended.process.returncode)
    for line in ended_lines(ended):
        say(line)
    return 1


if __name__ == "__main__":
    sys.exit(main())
