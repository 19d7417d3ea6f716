"""Step 1: the teacher labels every input once, with its long prompt and its thinking.

    python create_data.py --input_file example-data/multilingual.txt --output_file data/prompt_distillation_lang.jsonl

Every flag of vLLM's engine is accepted too, for example --max_model_len 8192 --gpu_memory_utilization 0.95.
Beside OUTPUT (chat JSONL in input order, without the prompt) it writes
    OUTPUT.trace.jsonl     one line per finished input, as it finishes: all responses, answer or reason, tokens
    OUTPUT.rejected.jsonl  the inputs that never got a valid answer, with the reason
    OUTPUT.manifest.json   model, task, sampling, versions, counts, tokens, seconds
The same command again continues where it was stopped.
"""

import argparse
import hashlib
import json
import logging
import os
import sys
import time
from array import array
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from task import NoAnswer, check_model, load_task, prompt_ids, read_chat, read_lines

log = logging.getLogger("create_data")
ROOT = Path(__file__).resolve().parent
WINDOW = 512  # requests inside the engine at a time; more gains nothing, and memory stays constant
# What Qwen3's thinking model card recommends; a row that failed is asked again with it.
RETRY_SAMPLING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}


class Parser(argparse.ArgumentParser):
    """Accepts --a_b and --a-b alike; an error is one line."""

    def add(self, name: str, **kwargs):
        self.add_argument(f"--{name}", *([f"--{name.replace('_', '-')}"] if "_" in name else []), **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse_args(argv=None):
    """Our flags, and the rest for vLLM."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    # what is labelled
    parser.add(
        "input_file", default="./example-data/multilingual.txt", help="one input a line, or .jsonl (text or messages)"
    )
    parser.add("output_file", default="./data/prompt_distillation_lang.jsonl", help="chat JSONL for train_sft_trl.py")
    parser.add("task", default=str(ROOT / "example-data/language_classification.yaml"), help="prompt, labels, answer")
    parser.add("limit", type=int, default=0, help="only the first N inputs (0: all)")
    parser.add("shard", default="0/1", help="i/n: only the i-th of n contiguous shares, journalled apart")
    # the teacher
    parser.add("model_name", default="Qwen/Qwen3-30B-A3B-Thinking-2507", help="the teacher, a thinking model")
    parser.add("temperature", type=float, default=0.15, help="of the first attempt; retries are warmer")
    parser.add("max_tokens", type=int, default=4096, help="thinking and answer together, in tokens")
    parser.add("max_retries", type=int, default=3, help="further attempts for a row without a valid answer")
    parser.add("tensor_parallel_size", type=int, default=1, help="GPUs the teacher is split over")
    # the run
    parser.add("min_success_rate", type=float, default=0.95, help="exit code 1 below this share of labelled rows")
    parser.add("overwrite", action="store_true", help="start afresh, also over a finished output")
    args, engine_flags = parser.parse_known_args(argv)
    try:
        args.shard_index, args.num_shards = (int(x) for x in args.shard.split("/"))
        assert 0 <= args.shard_index < args.num_shards
    except (ValueError, AssertionError):
        parser.error(f"--shard {args.shard}: expected i/n with 0 <= i < n, such as 0/2")
    for name, least in (("max_tokens", 1), ("max_retries", 0), ("temperature", 0), ("limit", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: must be at least {least}")
    return args, engine_flags


# ---- inputs


def read_inputs(path: str):
    """Yield (line number, messages) for each input; raises ValueError that names file and line."""
    if str(path).endswith(".jsonl"):
        yield from read_chat(path, last_role="user")
    else:
        for number, text in read_lines(path):
            yield number, [{"role": "user", "content": text}]


def scan_inputs(path: str, limit: int) -> tuple[array, str]:
    """First pass: for each input the index of its first occurrence, and the sha256 of all inputs."""
    first, seen, digest = array("Q"), {}, hashlib.sha256()
    for index, (_, messages) in enumerate(read_inputs(path)):
        if limit and index == limit:
            break
        row = hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode()).digest()
        digest.update(row)
        first.append(seen.setdefault(row[:12], index))
    if not first:
        raise ValueError(f"{path}: no inputs; the file is empty or holds only blank lines")
    return first, digest.hexdigest()


# ---- the journal


def journal_paths(output: Path) -> list[Path]:
    """All journals of this output: the single one and those of shards."""
    return sorted(output.parent.glob(output.name + ".trace*.jsonl"))


def replay(paths: list[Path], run: dict, rows: int, own: Path) -> dict[int, tuple[Path, int]]:
    """Where each finished row is recorded; refuses another run's journal.

    A half-written last line is dropped, from the file only in our own journal: another shard may be at work on it.
    """
    places = {}
    for path in paths:
        with open(path, "rb+") as file:
            offset = 0
            for line in file:
                try:
                    record = json.loads(line) if line.endswith(b"\n") else None
                except json.JSONDecodeError:
                    record = None
                if record is None:
                    if path == own:
                        file.truncate(offset)  # the run was killed while it wrote this line
                    break
                if "run" in record:
                    for key, value in run.items():
                        if record["run"].get(key) != value:
                            old = record["run"].get(key)
                            raise ValueError(f"{path}: made with {key} {old}, now {value}; --overwrite starts afresh")
                elif record["index"] < rows:
                    places[record["index"]] = (path, offset)
                offset += len(line)
    return places


def write_outputs(output: Path, input_file: str, first: array, places: dict, run: dict, seconds: float) -> dict:
    """The final files from the journal, each written beside its place and renamed; returns the manifest."""
    files = {path: open(path, "rb") for path in {p for p, _ in places.values()}}  # noqa: SIM115
    rejected_path = output.with_name(output.name + ".rejected.jsonl")
    labels, totals, attempts = Counter(), Counter(), Counter()
    rows = unique = 0
    with Replacing(output) as good, Replacing(rejected_path) as bad:
        for index, (_, messages) in zip(range(len(first)), read_inputs(input_file), strict=False):
            path, offset = places[first[index]]
            files[path].seek(offset)
            record = json.loads(files[path].readline())
            rows += 1
            if first[index] == index:
                unique += 1
                attempts[len(record["attempts"])] += 1
                for attempt in record["attempts"]:
                    for key in ("prompt_tokens", "cached_tokens", "output_tokens"):
                        totals[key] += attempt[key]
            if record["answer"] is None:
                row = {"index": index, "messages": messages, "reason": record["reason"]}
                row["responses"] = [a["response"] for a in record["attempts"]]
                bad.write(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                labels[record["answer"]] += 1
                answer = {"role": "assistant", "content": record["answer"]}
                good.write(json.dumps({"messages": [*messages, answer]}, ensure_ascii=False) + "\n")
    for file in files.values():
        file.close()
    accepted = labels.total()
    manifest = {
        **run,
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "rows": rows,
        "unique_rows": unique,
        "accepted": accepted,
        "rejected": rows - accepted,
        "success_rate": accepted / rows,
        "labels": dict(labels.most_common(100)),
        "attempts": {str(k): v for k, v in sorted(attempts.items())},
        **totals,
        "seconds": round(seconds, 1),
    }
    with Replacing(output.with_name(output.name + ".manifest.json")) as file:
        file.write(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return manifest


class Replacing:
    """A text file that appears under its name only when it is complete."""

    def __init__(self, path: Path):
        self.path, self.temporary = path, path.with_name(path.name + ".tmp")

    def __enter__(self):
        self.file = open(self.temporary, "w", encoding="utf-8")  # noqa: SIM115
        return self.file

    def __exit__(self, error, *_):
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if error is None:
            os.replace(self.temporary, self.path)


# ---- the engine


def engine_arguments(model_name: str, engine_flags: list[str] = (), **settings):
    """vLLM's EngineArgs from its own command-line flags; one that it does not know ends with exit code 2."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for the result
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; only read on a machine without a GPU
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    logging.getLogger("vllm.triton_utils").setLevel(logging.ERROR)  # a CPU has none, which is no news
    from vllm import EngineArgs
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class OneLineParser(FlexibleArgumentParser):
        def error(self, message):
            self.exit(2, f"{Path(sys.argv[0]).name}: {message} (see --help)\n")

    parser = EngineArgs.add_cli_args(OneLineParser())
    engine_args = EngineArgs.from_cli_args(parser.parse_args([*engine_flags, "--model", model_name]))
    for name, value in settings.items():
        setattr(engine_args, name, value)
    if current_platform.is_cpu():
        engine_args.enforce_eager = True  # compiling takes longer than a small model's whole run
    return engine_args


def start_engine(engine_args):
    """vLLM's engine; whoever starts it calls engine.engine_core.shutdown(), or its process may outlive this one."""
    from vllm import LLMEngine
    from vllm.usage.usage_lib import UsageContext

    return LLMEngine.from_engine_args(engine_args, usage_context=UsageContext.LLM_CLASS)


class Stream:
    """One continuous batch: requests go in while others are still running, results come out as they finish."""

    def __init__(self, engine):
        self.engine, self.running, self.count = engine, {}, 0

    def add(self, job, token_ids: list[int], sampling: dict, lora_request=None):
        """Queue one request; `job` comes back with its result."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self.count += 1
        self.running[str(self.count)] = job
        params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **sampling)
        prompt = {"prompt_token_ids": token_ids}
        self.engine.add_request(str(self.count), prompt, params, lora_request=lora_request)

    def run(self, requests=()):
        """Feed `requests`, add()'s arguments, through a window; yield (job, vLLM RequestOutput) as they finish.

        Whoever reads the results may add() to the running batch meanwhile.
        """
        requests = iter(requests)
        while True:
            while len(self.running) < WINDOW and (request := next(requests, None)) is not None:
                self.add(*request)
            if not self.running:
                return
            for output in self.engine.step():
                if output.finished:
                    yield self.running.pop(output.request_id), output


def label_inputs(args, engine, task, jobs, total: int, journal):
    """Ask for every (index, messages) in `jobs`, and append one journal line per input that is decided."""
    from tqdm import tqdm

    tokenizer, longest = engine.get_tokenizer(), engine.model_config.max_model_len
    stream, counts = Stream(engine), Counter()
    bar = tqdm(total=total, desc="labelling", unit="row", mininterval=1)

    def request(job):
        sampling = {"temperature": args.temperature}
        if job["attempts"]:
            sampling = {**RETRY_SAMPLING, "temperature": max(args.temperature, RETRY_SAMPLING["temperature"])}
        job["sampling"] = {**sampling, "max_tokens": min(args.max_tokens, longest - len(job["ids"]))}
        return job, job["ids"], job["sampling"]

    def decide(job, answer, reason):
        record = {"index": job["index"], "answer": answer, "reason": reason, "attempts": job["attempts"]}
        journal.write(json.dumps(record, ensure_ascii=False) + "\n")
        journal.flush()
        counts["rejected"] += answer is None
        bar.update()

    def requests():
        for index, messages in jobs:
            job = {"index": index, "ids": prompt_ids(tokenizer, task.messages(messages)), "attempts": []}
            if len(job["ids"]) >= longest:
                decide(job, None, "input_too_long")
            else:
                yield request(job)

    for job, output in stream.run(requests()):
        completion = output.outputs[0]
        answer, reason = None, None
        try:
            answer = task.read_answer(completion.text, completion.finish_reason)
        except NoAnswer as error:
            reason = error.reason
        attempt = {"response": completion.text, "finish_reason": completion.finish_reason, "reason": reason}
        attempt["sampling"] = job["sampling"]
        attempt["prompt_tokens"] = len(job["ids"])
        attempt["cached_tokens"] = output.num_cached_tokens or 0
        attempt["output_tokens"] = len(completion.token_ids)
        job["attempts"].append(attempt)
        for key in ("prompt_tokens", "cached_tokens", "output_tokens"):
            counts[key] += attempt[key]
        if answer is None and len(job["attempts"]) <= args.max_retries:
            stream.add(*request(job))
        else:
            decide(job, answer, reason)
        rate = counts["output_tokens"] / max(bar.format_dict["elapsed"], 1e-9)
        cached = counts["cached_tokens"] / counts["prompt_tokens"]
        bar.set_postfix_str(f"rejected {counts['rejected']}, {rate:.0f} tok/s, cached {cached:.1%}", refresh=False)
    bar.close()


def main() -> int:
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    args, engine_flags = parse_args()
    output = Path(args.output_file)
    start = time.perf_counter()
    try:
        task = load_task(args.task)
        check_model(args.model_name)
        first, input_hash = scan_inputs(args.input_file, args.limit)
        run = {"model": args.model_name, "task": task.hash, "inputs": input_hash}
        run |= {"temperature": args.temperature, "max_tokens": args.max_tokens, "max_retries": args.max_retries}
        if args.overwrite and args.num_shards > 1:
            raise ValueError("--overwrite does not go with --shard; remove the output and its journals instead")
        if output.exists() and not args.overwrite:
            raise ValueError(f"{output}: exists and is finished; --overwrite replaces it")
        if engine_flags:
            engine_arguments(args.model_name, engine_flags)  # refuses a bad flag before anything is deleted
        if args.overwrite:
            for path in (output, *journal_paths(output)):
                path.unlink(missing_ok=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        suffix = ".trace.jsonl" if args.num_shards == 1 else f".trace-{args.shard_index}of{args.num_shards}.jsonl"
        own = output.with_name(output.name + suffix)
        places = replay(journal_paths(output), run, len(first), own)
    except (ValueError, OSError) as error:
        print(f"create_data.py: {error}", file=sys.stderr)
        return 2

    share = range(*(len(first) * (args.shard_index + k) // args.num_shards for k in (0, 1)))
    missing = bytearray(i in share and first[i] == i and i not in places for i in range(len(first)))
    if places:
        log.info("resuming: %d inputs are finished, %d are missing", len(places), sum(missing))
    if any(missing):
        engine_args = engine_arguments(args.model_name, engine_flags, tensor_parallel_size=args.tensor_parallel_size)
        engine = start_engine(engine_args)
        with open(own, "a", encoding="utf-8") as journal:
            if journal.tell() == 0:
                journal.write(json.dumps({"run": run}) + "\n")
            jobs = (
                (i, m) for i, (_, m) in zip(range(len(first)), read_inputs(args.input_file), strict=False) if missing[i]
            )
            label_inputs(args, engine, task, jobs, sum(missing), journal)
        engine.engine_core.shutdown()
        places = replay(journal_paths(output), run, len(first), own)
    if args.num_shards > 1:
        print(
            json.dumps({"shard": args.shard, "asked": sum(missing), "seconds": round(time.perf_counter() - start, 1)})
        )
        return 0
    manifest = write_outputs(output, args.input_file, first, places, run, time.perf_counter() - start)
    summary = {k: manifest[k] for k in ("rows", "accepted", "rejected", "success_rate", "seconds")}
    print(json.dumps({"output_file": str(output), **summary}))
    if manifest["success_rate"] < args.min_success_rate:
        log.error("only %.1f %% of the rows got a label; see %s.rejected.jsonl", 100 * manifest["success_rate"], output)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
