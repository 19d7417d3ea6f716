"""Rows per second of step 1 against the bare engine, which gets the same tokens and sampling.

    python benchmarks/generation.py --rows 2000 20000 --repeats 3

One engine asks all ways in turn, each time with an empty prefix cache. Ours is everything that
create_data.py does for a row: reading, tokenising, the sliding window, reading the answer, the
journal, the progress bar and the outputs. The bare loop gets its tokens ready, hands all requests
over at once and counts what comes out. Decoding is greedy, so that both produce the same tokens.
At the first number of rows it also measures the bare engine without its text, other windows, an
answer that is guarded in every attempt, and rows that fail, asked again in flight or in a second
pass.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from figures import ROOT, finish, in_turn, parser_of, ratios, show, spread, write_inputs

import create_data
from distill.labels.inputs import scan_inputs
from distill.labels.journal import Journal
from distill.labels.labelling import Labelling, Settings, record_rows
from distill.task import load_task
from distill.teacher.check import check_teacher
from distill.teacher.engine import start_engine, stop_engine
from distill.teacher.vllm_engine import VLLMTeacher
from distill.tokens import prompt_ids

FAILS = 20  # of so many rows one is made to fail once: 5 %
CUT = 4  # tokens of an attempt that is cut at once, so that the failure itself costs nothing
BARE = "bare engine"  # what the other ways are compared with


class Stumbling:
    """An engine in which one of `every` first attempts fails.

    It "runs on" to the limit, it "loops", or it is "cut".
    """

    def __init__(self, engine, how: str, every: int = FAILS):
        self.engine = engine
        self.how = how
        self.every = every
        self.first = 0

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def add_request(self, request_id, prompt, params, **kwargs):
        if params.temperature == 0:  # a second attempt is warmer
            self.first += 1
            if self.first % self.every == 0:
                self.make_fail(prompt, params)
        self.engine.add_request(request_id, prompt, params, **kwargs)

    def make_fail(self, prompt, params):
        if self.how == "cut":
            params.max_tokens = CUT
            return
        params.ignore_eos = True
        if self.how == "loops":
            params.allowed_token_ids = prompt["prompt_token_ids"][-1:]
        else:
            params.min_tokens = params.max_tokens


class AtOnce(VLLMTeacher):
    """A teacher that is asked again at once instead of gathering what is to be asked again."""

    def gather(self, request):
        self._add(request)


class SecondPass(VLLMTeacher):
    """A teacher that is asked again only when all first attempts have ended."""

    def ask(self, requests=()):
        self.together = sys.maxsize
        yield from super().ask(requests)

    def _fill(self, requests) -> bool:
        return super()._fill(requests) and not self.running


def ours(
    settings: Settings, engine, task, inputs, folder: Path, teacher=VLLMTeacher, **changes
) -> dict:
    """Step 1 from opening the journal to the written outputs: its manifest, seconds and journal.

    `teacher` makes one of an engine, `changes` replace values of flags.
    """
    settings = replace(settings, **changes)
    engine.reset_prefix_cache()
    path = Path(tempfile.mkdtemp(dir=folder)) / "out.jsonl"
    start = time.perf_counter()
    journal = Journal(path, {"run": 1}, inputs)
    journal.open()
    journal.start()
    missing = journal.missing()
    labelling = Labelling(teacher(engine, settings.thinks), task, settings)
    decided = labelling.label(inputs.read(missing))
    record_rows(decided, journal, int(missing.sum()), 0)
    journal.replay()
    manifest = journal.write_outputs(bool(task.labels))
    journal.file.close()
    return {**manifest, "seconds": time.perf_counter() - start, "journal": journal.own}


def bare(settings: Settings, engine, prompts: list[list[int]], text: bool = True) -> dict:
    """The engine's own loop over the same requests, with or without the `text` it generates."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    engine.reset_prefix_cache()
    params = SamplingParams(
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        detokenize=text,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    tokens = 0
    start = time.perf_counter()
    for i, ids in enumerate(prompts):
        engine.add_request(f"bare-{i}", tokens_input(ids), params)
    while engine.has_unfinished_requests():
        for output in engine.step():
            tokens += len(output.outputs[0].token_ids)
    return {"seconds": time.perf_counter() - start, "output_tokens": tokens}


def start_teacher(model_name: str, max_tokens: int, engine_flags: list[str]):
    """Step 1's settings, decoding greedily, its task and an engine."""
    flags = ["--model_name", model_name, "--max_tokens", str(max_tokens), "--temperature", "0"]
    choices = create_data.parse_args([*flags, *engine_flags])
    settings = choices.settings
    task = load_task(choices.task_file)
    asked = check_teacher(choices.teacher, choices.task_file, task, settings.guards)
    return settings, task, start_engine(asked)


@dataclass(frozen=True)
class Asked:
    """What all ways share: step 1's settings, task, engine, inputs, and where outputs go."""

    settings: Settings
    task: object
    engine: object
    inputs: object
    folder: Path

    def ours(self, engine=None) -> Callable:
        """create_data.py's way, with this engine or with one that fails."""
        asked = (engine or self.engine, self.task, self.inputs, self.folder)
        return partial(ours, self.settings, *asked)

    def bare(self, text: bool = True) -> Callable:
        """The bare engine's way, with its prompts ready."""
        tokenizer = self.engine.get_tokenizer()
        chats = [self.task.messages(messages) for _, messages in self.inputs.read()]
        prompts = [prompt_ids(tokenizer, chat) for chat in chats]
        return partial(bare, self.settings, self.engine, prompts, text=text)


def plain_ways(asked: Asked) -> dict[str, Callable]:
    """The two ways that are compared with any number of rows."""
    return {BARE: asked.bare(), "create_data.py": asked.ours()}


def further_ways(asked: Asked, windows: list[int]) -> dict[str, Callable]:
    """The ways that are measured with the first number of rows only."""
    ways = {"bare engine, tokens only": asked.bare(text=False)}
    step = asked.ours()
    ways.update(windowed(asked, windows))
    ways["guarded in every attempt"] = partial(step, structured_outputs="always")

    run_on = asked.ours(Stumbling(asked.engine, "runs on"))
    ways["5 % run on, asked again in flight"] = run_on
    ways["5 % run on, second pass"] = partial(run_on, teacher=SecondPass)
    loop = asked.ours(Stumbling(asked.engine, "loops"))
    ways["5 % loop, asked again in flight"] = loop
    ways["5 % loop, not noticed"] = partial(loop, max_repeats=0)

    for percent in (1, 5):
        cut = asked.ours(Stumbling(asked.engine, "cut", 100 // percent))
        at_once = partial(cut, teacher=AtOnce)
        again = f"{percent} % asked again"
        ways[f"{again} at once, no grammar"] = partial(at_once, structured_outputs="never")
        ways[f"{again} at once"] = at_once
        ways[f"{again} together, no grammar"] = partial(cut, structured_outputs="never")
        ways[f"{again} together"] = cut
    return ways


def windowed(asked: Asked, windows: list[int]) -> dict[str, Callable]:
    """create_data.py's way with other numbers of requests in the engine than by default."""
    rows = len(asked.inputs)
    default = VLLMTeacher(asked.engine).window
    ways = {}
    for window in windows:
        if min(window, rows) == min(default, rows):
            continue  # the same requests at a time as by default
        name = f"window of {window}" if window < rows else "no window"
        ways[name] = partial(asked.ours(), teacher=partial(VLLMTeacher, window=window))
    return ways


def figures_of_way(rows: int, way: str, runs: list[dict], bare_runs: list[dict]) -> dict:
    """A way's rates, their ratio to the bare engine's, and what the last of its runs counted."""
    rates = [rows / run["seconds"] for run in runs]
    bare_rates = [rows / run["seconds"] for run in bare_runs]
    last = runs[-1]
    cached = None
    if "cached_tokens" in last:
        cached = last["cached_tokens"] / last["prompt_tokens"]
    return {
        "rows": rows,
        "way": way,
        **spread(rates),
        "ratio": ratios(rates, bare_rates),
        "cached_share": cached,
        "output_tokens": last.get("output_tokens"),
        "accepted": last.get("accepted"),
        "attempts": last.get("attempts"),
    }


def table_row(figures: dict) -> list[str]:
    """A way's line of the table."""
    cached = figures["cached_share"]
    share = f"{cached:.1%}" if cached else ""
    ratio = show(figures["ratio"], 3)
    return [f"{figures['rows']:,}", figures["way"], show(figures), ratio, share]


def measured(mine, engine_flags: list[str]) -> list[dict]:
    """The figures of all ways with all numbers of rows, asked of one engine."""
    settings, task, engine = start_teacher(mine.model_name, mine.max_tokens, engine_flags)
    results = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for rows in mine.rows:
                inputs = scan_inputs(write_inputs(Path(folder) / "inputs.txt", rows))
                asked = Asked(settings, task, engine, inputs, Path(folder))
                ways = plain_ways(asked)
                if rows == mine.rows[0] and not mine.plain:
                    ways.update(further_ways(asked, mine.windows))
                found = in_turn(ways, mine.repeats)
                for way, runs in found.items():
                    results.append(figures_of_way(rows, way, runs, found[BARE]))
    finally:
        stop_engine(engine)
    return results


def parse_args():
    """(the flags below, those of the engine)"""
    parser = parser_of(__doc__)
    teacher = str(ROOT / "models" / "tiny-thinking")

    def add(name: str, default, help: str, **further) -> None:
        parser.add_argument(name, default=default, help=help, **further)

    add("--model_name", teacher, "the teacher")
    add("--rows", [2000, 20000], "inputs of each measurement", type=int, nargs="+")
    add("--repeats", 3, "of each way, taken in turn", type=int)
    add("--windows", [128, 1 << 30], "requests in the engine at most", type=int, nargs="*")
    add("--max_tokens", 256, "thinking and answer together", type=int)
    parser.add_argument(
        "--plain", action="store_true", help="only the bare engine and create_data.py"
    )
    return parser.parse_known_args()


def main() -> int:
    mine, engine_flags = parse_args()
    results = measured(mine, engine_flags)
    table = [table_row(figures) for figures in results]
    header = ["rows", "way", "rows/s", "to the bare engine", "prompt tokens from the cache"]
    note = (
        f"Median of {mine.repeats} (lowest to highest), taken in turn with one engine; "
        "its start is left out. A ratio is that of one repeat's rates."
    )
    title = "Generation against the bare engine"
    return finish(title, header, table, [note], {"generation": results})


if __name__ == "__main__":
    sys.exit(main())
