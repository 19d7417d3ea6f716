"""Rows per second of step 1 against the bare engine, which gets the same tokens with the same sampling.

    python benchmarks/generation.py --rows 2000 20000 --repeats 3

One engine asks all ways in turn, each time with an empty prefix cache. Ours is everything that create_data.py does for
a row: reading, tokenising, the sliding window, reading the answer, the journal, the progress bar and the outputs. The
bare loop gets its tokens ready, hands all requests over at once and counts what comes out. Decoding is greedy, so that
both produce the same tokens. At the first number of rows it also measures the bare engine without its text, other
windows, an answer that is guarded in every attempt, and rows that fail, asked again in flight or in a second pass.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from figures import ROOT, finish, in_turn, ratios, show, spread, write_inputs

import create_data
from distill.labels.inputs import scan_inputs
from distill.labels.journal import Journal
from distill.labels.labelling import Labelling, record_rows
from distill.task import load_task
from distill.teacher.check import check_teacher
from distill.teacher.engine import start_engine, stop_engine
from distill.teacher.vllm_engine import VLLMTeacher
from distill.tokens import prompt_ids

FAILS = 20  # of so many rows one is made to fail once: 5 %
CUT = 4  # tokens of an attempt that is cut at once, so that the failure itself costs nothing


class Stumbling:
    """An engine in which one of `every` first attempts fails: it "runs on" to the limit, it "loops", or it is "cut"."""

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


def ours(args, engine, task, inputs, folder: Path, teacher=VLLMTeacher, **changes) -> dict:
    """Step 1 from opening the journal to the written outputs: its manifest, seconds and journal.

    `teacher` makes one of an engine, `changes` replace values of flags.
    """
    settings = replace(create_data.settings_of(args), **changes)
    engine.reset_prefix_cache()
    path = Path(tempfile.mkdtemp(dir=folder)) / "out.jsonl"
    start = time.perf_counter()
    journal = Journal(path, {"run": 1}, inputs)
    journal.open()
    journal.start()
    missing = journal.missing()
    labelling = Labelling(teacher(engine, settings.thinks), task, settings)
    record_rows(labelling.label(inputs.read(missing)), journal, int(missing.sum()), 0)
    journal.replay()
    manifest = journal.write_outputs(bool(task.labels))
    journal.file.close()
    return {**manifest, "seconds": time.perf_counter() - start, "journal": journal.own}


def bare(args, engine, prompts: list[list[int]], text=True) -> dict:
    """The engine's own loop over the same requests, with or without the `text` of what it generates."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    engine.reset_prefix_cache()
    sampling = {"temperature": args.temperature, "max_tokens": args.max_tokens, "detokenize": text}
    params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **sampling)
    tokens, start = 0, time.perf_counter()
    for i, ids in enumerate(prompts):
        engine.add_request(f"bare-{i}", tokens_input(ids), params)
    while engine.has_unfinished_requests():
        for output in engine.step():
            tokens += len(output.outputs[0].token_ids)
    return {"seconds": time.perf_counter() - start, "output_tokens": tokens}


def start_teacher(model_name: str, max_tokens: int, engine_flags: list[str]):
    """(step 1's arguments, decoding greedily; task; engine)"""
    flags = ["--model_name", model_name, "--max_tokens", str(max_tokens), "--temperature", "0"]
    args, engine_flags = create_data.parse_args([*flags, *engine_flags])
    task = load_task(args.task)
    return args, task, start_engine(check_teacher(args, engine_flags, task))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default=str(ROOT / "models" / "tiny-thinking"), help="the teacher")
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 20000], help="inputs of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="of each way, taken in turn")
    parser.add_argument("--windows", type=int, nargs="*", default=[128, 1 << 30], help="requests in the engine at most")
    parser.add_argument("--max_tokens", type=int, default=256, help="thinking and answer together")
    parser.add_argument("--plain", action="store_true", help="only the bare engine and create_data.py")
    mine, engine_flags = parser.parse_known_args()
    args, task, engine = start_teacher(mine.model_name, mine.max_tokens, engine_flags)
    tokenizer, table, results = engine.get_tokenizer(), [], []
    try:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            for rows in mine.rows:
                inputs = scan_inputs(write_inputs(folder / "inputs.txt", rows))
                prompts = [prompt_ids(tokenizer, task.messages(messages)) for _, messages in inputs.read()]
                step = partial(ours, args, engine, task, inputs, folder)
                ways = {"bare engine": partial(bare, args, engine, prompts), "create_data.py": step}
                if rows == mine.rows[0] and not mine.plain:
                    ways["bare engine, tokens only"] = partial(bare, args, engine, prompts, text=False)
                    default = VLLMTeacher(engine).window
                    for window in mine.windows:
                        if min(window, rows) == min(default, rows):
                            continue  # the same requests at a time as by default
                        teacher = partial(VLLMTeacher, window=window)
                        ways[f"window of {window}" if window < rows else "no window"] = partial(step, teacher=teacher)
                    ways["guarded in every attempt"] = partial(step, structured_outputs="always")
                    run_on = partial(ours, args, Stumbling(engine, "runs on"), task, inputs, folder)
                    ways["5 % run on, asked again in flight"] = run_on
                    ways["5 % run on, second pass"] = partial(run_on, teacher=SecondPass)
                    loop = partial(ours, args, Stumbling(engine, "loops"), task, inputs, folder)
                    ways["5 % loop, asked again in flight"] = loop
                    ways["5 % loop, not noticed"] = partial(loop, max_repeats=0)
                    for percent in (1, 5):
                        again = f"{percent} % asked again"
                        cut = partial(ours, args, Stumbling(engine, "cut", 100 // percent), task, inputs, folder)
                        ways[f"{again} at once, no grammar"] = partial(cut, teacher=AtOnce, structured_outputs="never")
                        ways[f"{again} at once"] = partial(cut, teacher=AtOnce)
                        ways[f"{again} together, no grammar"] = partial(cut, structured_outputs="never")
                        ways[f"{again} together"] = cut
                found = in_turn(ways, mine.repeats)
                rates = {way: [rows / run["seconds"] for run in runs] for way, runs in found.items()}
                for way, runs in found.items():
                    last, rate, ratio = runs[-1], spread(rates[way]), ratios(rates[way], rates["bare engine"])
                    cached = last["cached_tokens"] / last["prompt_tokens"] if "cached_tokens" in last else None
                    share = f"{cached:.1%}" if cached else ""
                    table.append([f"{rows:,}", way, show(rate), show(ratio, 3), share])
                    results.append({"rows": rows, "way": way, **rate, "ratio": ratio, "cached_share": cached})
                    results[-1] |= {key: last.get(key) for key in ("output_tokens", "accepted", "attempts")}
    finally:
        stop_engine(engine)
    header = ["rows", "way", "rows/s", "to the bare engine", "prompt tokens from the cache"]
    notes = [
        f"Median of {mine.repeats} (lowest to highest), taken in turn with one engine; its start is left out. "
        "A ratio is that of one repeat's rates."
    ]
    return finish("Generation against the bare engine", header, table, notes, {"generation": results})


if __name__ == "__main__":
    sys.exit(main())
