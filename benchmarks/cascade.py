"""What serve.py costs: requests/s and latency beside a bare FastAPI proxy, and its memory.

    python benchmarks/cascade.py

Behind both are stand-ins that answer at once; both use openai's client. Every twentieth request is
handed over. With the student's tokenizer requests go out as token ids, and none is handed over. On
a machine that does something else too, the processor time of each is the steadier figure.
"""

import asyncio
import contextlib
import functools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from cascade_parts import HARD
from figures import ROOT, finish, in_turn, parser_of, ratios, show, spread

PARTS = ROOT / "benchmarks" / "cascade_parts.py"
STUDENT = ROOT / "models" / "tiny-instruct"
STARTS = 60.0  # seconds
EVERY = 20  # one request of so many is handed over


@dataclass(frozen=True)
class Way:
    """One way to answer: a process that listens."""

    title: str
    port: int
    model: str  # that clients ask for
    process: psutil.Process


@dataclass(frozen=True)
class Measured:
    """One measurement of one way."""

    rate: float  # requests/s of many clients
    busy: float  # ms of a core a request, of the way's own process
    latency: float  # ms, the median of one client


@dataclass(frozen=True)
class Memory:
    """Resident, in MiB."""

    before: float
    grown: float


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def request_of(number: int, port: int, model: str) -> bytes:
    """One request as bytes."""
    word = HARD if number % EVERY == 0 else "easy"
    chat = [{"role": "user", "content": f"{word}: the train to Hamburg is late again, {number}"}]
    content = json.dumps({"model": model, "messages": chat, "max_tokens": 64}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def ask(reader, writer, request: bytes) -> None:
    """One request on a kept connection."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(head.decode())
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))


async def load(way: Way, requests: int, clients: int) -> list[float]:
    """Seconds of each request, from so many clients at once."""
    numbers = iter(range(requests))
    seconds = []

    async def client():
        reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
        for number in numbers:
            request = request_of(number, way.port, way.model)
            begun = time.perf_counter()
            await ask(reader, writer, request)
            seconds.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds


def measure(way: Way, requests: int, clients: int) -> Measured:
    """What many clients at once get of one way, and what one client waits."""
    before = seconds_of(way.process)
    begun = time.perf_counter()
    asyncio.run(load(way, requests, clients))
    rate = requests / (time.perf_counter() - begun)
    used = seconds_of(way.process) - before
    alone = asyncio.run(load(way, requests // 4, 1))
    return Measured(rate, 1000 * used / requests, 1000 * statistics.median(alone))


def seconds_of(process: psutil.Process) -> float:
    """Of processor time that a process has used."""
    times = process.cpu_times()
    return times.user + times.system


def measure_memory(way: Way, requests: int, clients: int) -> Memory:
    """What a process has after so many requests, and before them."""
    before = way.process.memory_info().rss
    asyncio.run(load(way, requests, clients))
    return Memory(before / 2**20, (way.process.memory_info().rss - before) / 2**20)


@contextlib.contextmanager
def running(command: list, port: int):
    """A program that listens on a port when it is ready; gives its process."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, *map(str, command)], env=env, stdout=subprocess.DEVNULL
    ) as process:
        try:
            end = time.monotonic() + STARTS
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{command[0]} has not started")
                time.sleep(0.1)
            yield psutil.Process(process.pid)
        finally:
            process.kill()


def cascade_command(port: int, url: str, task: Path, *further) -> list:
    """serve.py in front of the stand-in, which is both servers."""
    flags = ["--student_url", url, "--student_name", "model", "--teacher_url", url]
    flags += ["--teacher_name", "model", "--temperature", 1, "--threshold", 0.9, "--task", task]
    return [ROOT / "serve.py", "--port", port, *flags, *further]


def start_ways(folder: Path, started: contextlib.ExitStack) -> dict[str, Way]:
    """The ways, which `started` ends, and the stand-in behind them."""
    url_port = free_port()
    url = f"http://127.0.0.1:{url_port}/v1"
    task = folder / "task.yaml"
    answer = {"prompt": "Which?", "labels": ["en", "fr"], "answer": "Final Answer: (.+)"}
    task.write_text(json.dumps(answer))
    # any text is an answer where requests go out as ids, whose reply is some token
    free = folder / "free.yaml"
    free.write_text(json.dumps({"prompt": "Which?"}))
    started.enter_context(running([PARTS, "stand_in", url_port], url_port))

    def way(title: str, model: str, command_at) -> Way:
        port = free_port()
        process = started.enter_context(running(command_at(port), port))
        return Way(title, port, model, process)

    tokenizer = ["--student_tokenizer", STUDENT]
    return {
        "bare": way("bare FastAPI proxy", "model", lambda port: [PARTS, "bare", port, url]),
        "cascade": way("serve.py", "cascade", lambda port: cascade_command(port, url, task)),
        "ids": way(
            "serve.py, token ids",
            "cascade",
            lambda port: cascade_command(port, url, free, *tokenizer),
        ),
    }


def beside_bare(runs: list[Measured], bare: list[Measured]) -> dict:
    """Spreads of one way's figures, beside the bare proxy's repeat by repeat."""
    rates = [run.rate for run in runs]
    busy = [run.busy for run in runs]
    more = [one.latency - other.latency for one, other in zip(runs, bare, strict=True)]
    return {
        "rate": spread(rates),
        "ratio": ratios(rates, [run.rate for run in bare]),
        "busy_ms": spread(busy),
        "busy_ratio": ratios([run.busy for run in bare], busy),
        "latency_ms": spread([run.latency for run in runs]),
        "added_ms": spread(more),
    }


def row_of(title: str, figures: dict) -> list[str]:
    """A way's row of the table."""
    return [
        title,
        show(figures["rate"], 0),
        show(figures["ratio"], 2),
        show(figures["busy_ms"], 2),
        show(figures["busy_ratio"], 2),
        show(figures["latency_ms"], 2),
        show(figures["added_ms"], 2),
    ]


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="of each measurement")
    parser.add_argument("--clients", type=int, default=32, help="at once")
    parser.add_argument("--repeats", type=int, default=3, help="of each way, taken in turn")
    parser.add_argument("--memory_requests", type=int, default=20000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as started:
        ways = start_ways(Path(folder), started)
        calls = {}
        for name, way in ways.items():
            measure(way, 200, args.clients)  # the first requests open connections
            calls[name] = functools.partial(measure, way, args.requests, args.clients)
        found = in_turn(calls, args.repeats)
        memory = measure_memory(ways["cascade"], args.memory_requests, args.clients)

    result = {"memory_grown_mib": round(memory.grown, 2), "memory_mib": round(memory.before, 1)}
    rows = []
    for name, way in ways.items():
        result[name] = beside_bare(found[name], found["bare"])
        rows.append(row_of(way.title, result[name]))
    header = ["", "requests/s", "of the proxy's", "ms of a core a request", "the proxy's to that"]
    header += ["median latency, ms", "more than the proxy's, ms"]
    note = (
        f"{args.requests:,} requests from {args.clients} clients, latency of one client, median of "
        f"{args.repeats} (lowest to highest); memory grew by {memory.grown:.1f} MiB over "
        f"{args.memory_requests:,} requests, from {memory.before:.0f}."
    )
    return finish("serve.py beside a bare proxy", header, rows, [note], result)


if __name__ == "__main__":
    sys.exit(main())
