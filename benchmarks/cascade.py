"""What serve.py costs: requests/s and latency beside a bare FastAPI proxy, and its memory.

    python benchmarks/cascade.py

Behind both are stand-ins that answer at once; both use openai's client. Every twentieth request is
handed over. With the student's tokenizer requests go out as token ids, and none is handed over.
"""

import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from cascade_parts import HARD
from figures import ROOT, finish, in_turn, parser_of, ratios, show, spread

PARTS = ROOT / "benchmarks" / "cascade_parts.py"
STUDENT = ROOT / "models" / "tiny-instruct"
STARTS = 60.0  # seconds
EVERY = 20  # one request of so many is handed over


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


async def load(port: int, model: str, requests: int, clients: int) -> list[float]:
    """Seconds of each request, from so many clients at once."""
    numbers = iter(range(requests))
    seconds = []

    async def client():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            request = request_of(number, port, model)
            begun = time.perf_counter()
            await ask(reader, writer, request)
            seconds.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds


def measure(port: int, model: str, requests: int, clients: int) -> dict:
    """Requests a second of many clients, and the median latency of one, in milliseconds."""
    begun = time.perf_counter()
    asyncio.run(load(port, model, requests, clients))
    rate = requests / (time.perf_counter() - begun)
    alone = asyncio.run(load(port, model, requests // 4, 1))
    return {"rate": rate, "latency": 1000 * statistics.median(alone)}


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


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="of each measurement")
    parser.add_argument("--clients", type=int, default=32, help="at once")
    parser.add_argument("--repeats", type=int, default=3, help="of each way, taken in turn")
    parser.add_argument("--memory_requests", type=int, default=20000)
    args = parser.parse_args()
    ports = {name: free_port() for name in ("stand-in", "bare", "cascade", "ids")}
    url = f"http://127.0.0.1:{ports['stand-in']}/v1"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as started:
        task = Path(folder) / "task.yaml"
        answer = {"prompt": "Which?", "labels": ["en", "fr"], "answer": "Final Answer: (.+)"}
        task.write_text(json.dumps(answer))
        # any text is an answer where requests go out as ids, whose reply is some token
        free = Path(folder) / "free.yaml"
        free.write_text(json.dumps({"prompt": "Which?"}))

        def start(command, name):
            return started.enter_context(running(command, ports[name]))

        start([PARTS, "stand_in", ports["stand-in"]], "stand-in")
        start([PARTS, "bare", ports["bare"], url], "bare")
        server = start(cascade_command(ports["cascade"], url, task), "cascade")
        tokenizer = ["--student_tokenizer", STUDENT]
        start(cascade_command(ports["ids"], url, free, *tokenizer), "ids")
        models = {"bare": "model", "cascade": "cascade", "ids": "cascade"}
        for name, model in models.items():
            measure(ports[name], model, 200, args.clients)

        def way(name):
            return lambda: measure(ports[name], models[name], args.requests, args.clients)

        found = in_turn({name: way(name) for name in models}, args.repeats)
        before = server.memory_info().rss
        asyncio.run(load(ports["cascade"], "cascade", args.memory_requests, args.clients))
        grown = (server.memory_info().rss - before) / 2**20

    titles = {
        "bare": "bare FastAPI proxy",
        "cascade": "serve.py",
        "ids": "serve.py, token ids",
    }
    rows = []
    result = {"memory_grown_mib": round(grown, 2), "memory_mib": round(before / 2**20, 1)}
    rates = {name: [run["rate"] for run in runs] for name, runs in found.items()}
    latencies = {name: [run["latency"] for run in runs] for name, runs in found.items()}
    for name, title in titles.items():
        ratio = ratios(rates[name], rates["bare"])
        more = [one - other for one, other in zip(latencies[name], latencies["bare"], strict=True)]
        rows.append(
            [
                title,
                show(spread(rates[name]), 0),
                show(ratio, 2),
                show(spread(latencies[name]), 2),
                show(spread(more), 2),
            ]
        )
        result[name] = {"rate": spread(rates[name]), "ratio": ratio, "added_ms": spread(more)}
    header = ["", "requests/s", "of the proxy's", "median latency, ms", "more than the proxy's, ms"]
    note = (
        f"{args.requests:,} requests from {args.clients} clients, latency of one client, median of "
        f"{args.repeats} (lowest to highest); memory grew by {grown:.1f} MiB over "
        f"{args.memory_requests:,} requests, from {before / 2**20:.0f}."
    )
    return finish("serve.py beside a bare proxy", header, rows, [note], result)


if __name__ == "__main__":
    sys.exit(main())
