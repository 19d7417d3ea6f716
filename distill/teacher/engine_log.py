"""What an engine's processes print.

It is passed on to stderr, and searched for the reason when the engine fails. On a GPU vLLM's engine
runs in a process of its own, and with several GPUs in several. Why it cannot start is then said
only in what they print, among tracebacks of everything that failed as a consequence.
"""

import contextlib
import os
import re
import tempfile
import textwrap
import threading
from collections import deque
from dataclasses import dataclass, field

ADDRESS = "PROMPT_DISTILLATION_ENGINE_LOG"  # names the file to a process that an engine starts
EVERY = 0.2  # seconds after which what was printed is passed on
LATELY = 10  # seconds before an engine's end in which it said why
LONGEST_REASON = 400  # characters

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# vLLM's loggers begin a line with "(EngineCore pid=12) ERROR 11-28 02:41:21 [core.py:1510] ", and
# Ray with "(name pid=12, ip=10.0.0.2) ".
PROCESS = re.compile(r"[^(]{0,40}\((\w[\w -]* pid=\d+)(?:, ip=[\d.]+)?\) ?")
LEVEL = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?")
TRACEBACK = "Traceback (most recent call last):"
CRASH = "Fatal Python error: "
KILLED = re.compile(r"Worker proc \S+ died unexpectedly \(exit code: -(\d+)\)")  # a signal's number
LINKS = ("The above exception was the direct cause", "During handling of the above exception")
FRAME = re.compile(r'  File "(?:.*/site-packages/)?(.+)", line (\d+), in (.+)')
# whose messages need no name in front
SELF_EXPLANATORY = ("ValueError", "RuntimeError", "Exception")
# What the others say when one process has failed.
CONSEQUENCES = (
    "root cause",
    "Executor failed",
    "RuntimeError: cancelled",
    "EngineDeadError",
    "EngineCore encountered an issue",
    "onnection closed by peer",
    "onnection reset by peer",
    "Broken pipe",
)
OUT_OF_MEMORY = ("out of memory", "OutOfMemoryError")
LESS_MEMORY = (
    "--tensor_parallel_size splits the model over more GPUs; "
    "--gpu_memory_utilization, --max_model_len and --max_num_seqs decide what is taken beside it"
)


@dataclass
class Raised:
    """One exception in what was printed."""

    line: str  # the first of its message, with its type in front
    place: str = ""  # where it was raised; empty if this is not an exception of Python
    more: list[str] = field(default_factory=list)  # the lines after it
    leads_on: bool = False  # to the next exception of the same process, raised because of it

    def is_consequence(self) -> bool:
        return any(text in self.line for text in CONSEQUENCES)

    def reason(self) -> str:
        """The exception in one line."""
        path, _, message = self.line.partition(": ")
        name = path.rpartition(".")[2].rstrip(":")
        more = [line.strip() for line in self.more if line.strip()]
        if "Last error:" in more[:-1]:  # NCCL's own message comes at the end of PyTorch's
            message = more[more.index("Last error:") + 1]
        elif more and " [type=" in more[0]:  # pydantic's, of several fields together
            message = more[0].partition(" [type=")[0]
        elif len(more) > 1 and " [type=" in more[1]:  # pydantic's, of the field named before
            message = f"{more[0]}: {more[1].partition(' [type=')[0]}"
        elif more and self.line.endswith(":"):
            message = more[0]
        message = message.replace("Value error, ", "")
        if not self.place:
            reason = self.line
        elif not message:
            reason = f"{name} in {self.place}"
        elif name in SELF_EXPLANATORY:
            reason = message
        else:
            reason = f"{name}: {message}"
        return textwrap.shorten(reason, LONGEST_REASON, placeholder=" ...")


def root_cause(said: str) -> str | None:
    """Why an engine failed, in one line, from what its processes have printed.

    None if none of them says it.

    That is the first exception which is not the consequence of another process's. Of exceptions
    that were raised one because of the other it is the last one, which explains the others.
    """
    raised = exceptions_in(said)
    for number, exception in enumerate(raised):
        explained = (
            number + 1 < len(raised)
            and exception.leads_on
            and not raised[number + 1].is_consequence()
        )
        if exception.is_consequence() or explained:
            continue
        reason = exception.reason()
        if any(text in reason for text in OUT_OF_MEMORY):
            return f"{reason}; {LESS_MEMORY}"
        return reason
    return None


def exceptions_in(said: str) -> list[Raised]:
    """All exceptions in the order in which they were printed.

    Those that led to each other are side by side.
    """
    found = []
    for lines in by_process(said):
        found += exceptions_of(lines)
    found.sort(key=lambda numbered: numbered[0])
    return [exception for _, exception in found]


def by_process(said: str) -> list[list[tuple[int, str]]]:
    """For each process its lines with their numbers.

    What vLLM's loggers put in front of them is left out. What was printed without a logger
    counts as one more process.
    """
    processes = {}
    for number, line in enumerate(re.split(r"[\r\n]+", COLOUR.sub("", said))):
        name = ""
        match = PROCESS.match(line)
        while match:  # Ray's workers are named in front of the engine's processes
            name = match[1]
            line = line[match.end() :]
            match = PROCESS.match(line)
        line = LEVEL.sub("", line, count=1)
        processes.setdefault(name, []).append((number, line))
    return list(processes.values())


def exceptions_of(lines: list[tuple[int, str]]) -> list[tuple[int, Raised]]:
    """The exceptions of one process.

    Each has the number of the line where the first that led to it begins.
    """
    found = []
    begin = None  # of the traceback that we are in
    place = ""
    continues = False  # another exception led to the next one
    for number, line in lines:
        killed = KILLED.match(line)
        frame = FRAME.match(line)
        if line.startswith(CRASH):
            found.append((number, Raised(line)))
        elif killed:
            found.append((number, Raised(f"a worker was killed by signal {killed[1]}")))
        elif line.startswith(TRACEBACK):
            begin = found[-1][0] if continues else number
            continues = False
        elif line.startswith(LINKS):
            continues = bool(found)
            if found:
                found[-1][1].leads_on = True
        elif begin is None:
            if found:
                found[-1][1].more.append(line)
        elif frame:
            place = f"{frame[3]} ({frame[1]}, line {frame[2]})"
        elif line and not line[0].isspace():
            found.append((begin, Raised(line, place)))
            begin = None
    return found


class EngineLog:
    """The file that an engine's processes print to.

    It has no name, so that nothing is left however we end. A thread passes on to our stderr what is
    printed. While the engine starts it does so up to the first error: the rest is shown if the
    engine starts all the same (pass_on_everything), and else goes to a file (keep).
    """

    def __init__(self):
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.address = f"/proc/{os.getpid()}/fd/{self.file.fileno()}"
        self.passed_on = 0  # bytes
        # what passed_on was at the last looks
        self.passed_on_lately = deque([0], maxlen=int(LATELY / EVERY))
        self.starting = True
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    @contextlib.contextmanager
    def named_to_children(self):
        """The processes that are started meanwhile print to this file.

        See print_to_engine_log().
        """
        os.environ[ADDRESS] = self.address
        try:
            yield
        finally:
            del os.environ[ADDRESS]

    def follow(self):
        while not self.closing.wait(EVERY):
            self.pass_on()
            self.passed_on_lately.append(self.passed_on)

    def pass_on(self):
        with self.lock:
            new = self.read(self.passed_on)
            if self.starting:
                new = new[: before_an_error(new)]
            self.passed_on += len(new)
            with contextlib.suppress(OSError):  # nobody reads our stderr any more
                while new:
                    new = new[os.write(2, new) :]

    def read(self, offset: int) -> bytes:
        return os.pread(self.file.fileno(), os.fstat(self.file.fileno()).st_size - offset, offset)

    def said(self) -> str:
        """All that was printed."""
        return self.read(0).decode(errors="replace")

    def said_lately(self) -> str:
        """What was printed in the last seconds.

        In days an engine may have survived an error before.
        """
        return self.read(self.passed_on_lately[0]).decode(errors="replace")

    def pass_on_everything(self):
        """The engine has started, or its start was broken off: nothing is held back any more."""
        self.starting = False
        self.pass_on()

    def close(self):
        """The engine has ended."""
        self.closing.set()
        self.thread.join()
        self.pass_on()
        self.file.close()

    def keep(self, further: str) -> str:
        """Write all that was printed, and `further`, to a file that stays; returns its path."""
        with tempfile.NamedTemporaryFile(
            "wb", prefix="engine-", suffix=".log", delete=False
        ) as file:
            file.write(self.read(0) + further.encode())
        return file.name


def before_an_error(new: bytes) -> int:
    """How many bytes of what was printed can be shown while an engine starts.

    Those are whole lines before an error.
    """
    shown = 0
    for line in re.findall(rb"[^\r\n]*[\r\n]+", new):
        text = COLOUR.sub("", line.decode(errors="replace"))
        text = PROCESS.sub("", text, count=1)
        if text.startswith(("ERROR ", "CRITICAL ", TRACEBACK, CRASH, "Process EngineCore")):
            break
        shown += len(line)
    return shown


def print_to_engine_log() -> bool:
    """Let this process print to the engine's log.

    False, and nothing changes, if no engine has started it.
    """
    address = os.environ.get(ADDRESS)
    if not address:
        return False
    with contextlib.suppress(OSError):
        file = os.open(address, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
    return True
