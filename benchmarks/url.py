"""Rows per second of step 1 with a teacher behind a URL, against a bare async client.

    python benchmarks/url.py --rows 1000 --repeats 5

One server of vLLM has the tiny teacher. The bare client hands it all rows over, so many at once as
create_data.py does, with the same messages and sampling, and counts what comes back. create_data.py
asks for each row once, as the bare client does. The local engine labels the same rows. All ask
greedily and take turns, after a round of the bare client that fills the prefix cache. Rows per
second are those from the first request to the last answer; what a process does before, such as
importing, does not count.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import openai
from figures import ROOT, finish, in_turn, parser_of, ratios, show, spread, write_inputs

from distill.task import load_task
from distill.teacher.engine import CACHE_ON_CPU, CACHE_VARIABLE

TEACHER = ROOT / "models" / "tiny-thinking"
TASK = ROOT / "example-data" / "language_classification.yaml"
NAME = "teacher"
PORT = 8765
AT_ONCE = 64  # requests, as --concurrency has it
MAX_TOKENS = 128
ONCE = ["--max_retries", 0, "--max_repeats", 0]  # one request a row, ended by nothing but its end
STARTS = 300.0  # seconds


@contextlib.contextmanager
def server(log: Path):
    """vLLM's server of the tiny teacher; gives its URL."""
    environment = {**os.environ, CACHE_VARIABLE: str(CACHE_ON_CPU)}
    module = "vllm.entrypoints.openai.api_server"
    flags = ["--model", TEACHER, "--served-model-name", NAME, "--port", PORT, "--enforce-eager"]
    flags += ["--reasoning-parser", "qwen3", "--block-size", 32]  # as our engine on a CPU
    command = [str(word) for word in (sys.executable, "-m", module, *flags)]
    url = f"http://127.0.0.1:{PORT}/v1"
    with open(log, "w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        end = time.monotonic() + STARTS
        while True:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(log.read_text()[-2000:])
            with contextlib.suppress(openai.OpenAIError):
                client.models.list()
                break
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


def step_1(folder: Path, inputs: Path, *teacher) -> float:
    """Rows/s of create_data.py, from the first request to the last answer."""
    output = folder / "out.jsonl"
    flags = ["--input_file", inputs, "--output_file", output, "--temperature", 0, "--overwrite"]
    flags += ["--max_tokens", MAX_TOKENS, *ONCE, "--min_success_rate", 0, *teacher]
    command = [str(word) for word in (sys.executable, ROOT / "create_data.py", *flags)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    manifest = json.loads(output.with_name("out.jsonl.manifest.json").read_text("utf-8"))
    return manifest["rows_per_second"]


def bare(url: str, texts: list[str]) -> float:
    """Rows/s of openai's client alone."""
    task = load_task(str(TASK))
    chats = [task.messages([{"role": "user", "content": text}]) for text in texts]

    async def ask_all() -> float:
        free = asyncio.Semaphore(AT_ONCE)
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

            async def ask(chat) -> None:
                settings = {"model": NAME, "temperature": 0, "max_tokens": MAX_TOKENS}
                async with free:
                    await client.chat.completions.create(messages=chat, **settings)

            start = time.perf_counter()
            await asyncio.gather(*(ask(chat) for chat in chats))
            return time.perf_counter() - start

    return len(texts) / asyncio.run(ask_all())


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="url-") as name:
        folder = Path(name)
        inputs = write_inputs(folder / "inputs.txt", args.rows)
        texts = inputs.read_text("utf-8").splitlines()
        with server(folder / "log") as url:
            at_url = ["--teacher_url", url, "--model_name", NAME, "--concurrency", AT_ONCE]
            ways = {
                "ours": lambda: step_1(folder, inputs, *at_url),
                "bare": lambda: bare(url, texts),
                "local": lambda: step_1(folder, inputs, "--model_name", TEACHER),
            }
            bare(url, texts)
            found = in_turn(ways, args.repeats)
    to_bare = ratios(found["ours"], found["bare"])
    to_local = ratios(found["ours"], found["local"])
    local_to_bare = ratios(found["local"], found["bare"])
    rows = [
        ["bare async client", show(spread(found["bare"])), "1.000"],
        ["create_data.py --teacher_url", show(spread(found["ours"])), show(to_bare, 3)],
        ["create_data.py, local engine", show(spread(found["local"])), show(local_to_bare, 3)],
    ]
    header = ["way", "rows/s", "to the bare client"]
    result = {"rows": args.rows, "to_bare": to_bare, "to_local": to_local, "rows_per_second": found}
    title = f"A teacher behind a URL, {args.rows:,} rows"
    notes = [f"create_data.py --teacher_url to the local engine: {show(to_local, 3)}."]
    return finish(title, header, rows, notes, result)


if __name__ == "__main__":
    sys.exit(main())
