"""Rows per second of step 1 against the bare engine, which gets the same tokens with the same sampling.

    python benchmarks/generation.py --rows 2000 20000 --repeats 3

One engine asks both ways in turn, each time with an empty prefix cache. Ours is everything that create_data.py does for
a row: reading, tokenising, the sliding window, reading the answer, the journal, the progress bar and the outputs. The
bare loop gets its tokens ready, hands all requests over at once and counts what comes out. Decoding is greedy, so that
both produce the same tokens. The ratio is that of the medians; the spread is the lowest and the highest repeat.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import create_data  # noqa: E402
from journal import Journal, scan_inputs  # noqa: E402
from task import load_task, prompt_ids  # noqa: E402


def write_inputs(path: Path, rows: int) -> Path:
    """`rows` different inputs: the example sentences, numbered from the second round on."""
    lines = (ROOT / "example-data" / "multilingual.txt").read_text(encoding="utf-8").splitlines()
    rounds = (f"{line} {k}" if k else line for k in range(rows // len(lines) + 1) for line in lines)
    path.write_text("\n".join(line for line, _ in zip(rounds, range(rows), strict=False)), encoding="utf-8")
    return path


def ours(args, engine, task, inputs, folder: Path) -> dict:
    """Step 1 from the first read to the written outputs; seconds and what the manifest counts."""
    engine.reset_prefix_cache()
    journal = Journal(Path(tempfile.mkdtemp(dir=folder)) / "out.jsonl", {"run": 1}, inputs)
    start = time.perf_counter()
    journal.open()
    journal.start()
    create_data.label_inputs(args, engine, task, inputs, journal.missing(), journal)
    journal.replay()
    manifest = journal.write_outputs(bool(task.labels))
    journal.file.close()
    seconds = time.perf_counter() - start
    counts = {key: manifest[key] for key in ("rows", "accepted", "prompt_tokens", "cached_tokens", "output_tokens")}
    return {"seconds": seconds, **counts, "attempts": manifest["attempts"]}


def bare(args, engine, prompts: list[list[int]]) -> dict:
    """The engine's own loop over the same requests."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    engine.reset_prefix_cache()
    sampling = {"temperature": args.temperature, "max_tokens": args.max_tokens}
    params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **sampling)
    tokens, start = 0, time.perf_counter()
    for i, ids in enumerate(prompts):
        engine.add_request(f"bare-{i}", tokens_input(ids), params)
    while engine.has_unfinished_requests():
        for output in engine.step():
            tokens += len(output.outputs[0].token_ids)
    return {"seconds": time.perf_counter() - start, "output_tokens": tokens}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default=str(ROOT / "models" / "tiny-thinking"), help="the teacher")
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 20000], help="inputs of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="of each way, taken in turn")
    parser.add_argument("--max_tokens", type=int, default=256, help="thinking and answer together")
    mine, engine_flags = parser.parse_known_args()
    flags = ["--model_name", mine.model_name, "--max_tokens", str(mine.max_tokens), "--temperature", "0"]
    args, engine_flags = create_data.parse_args([*flags, *engine_flags])
    task = load_task(args.task)
    engine = create_data.start_engine(create_data.check_teacher(args, engine_flags, task))
    tokenizer, results = engine.get_tokenizer(), {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            for rows in mine.rows:
                inputs = scan_inputs(write_inputs(folder / "inputs.txt", rows))
                prompts = [prompt_ids(tokenizer, task.messages(messages)) for _, messages in inputs.read()]
                found = {"ours": [], "bare": []}
                for repeat in range(mine.repeats):
                    for way in ("ours", "bare") if repeat % 2 else ("bare", "ours"):
                        found[way].append(
                            ours(args, engine, task, inputs, folder) if way == "ours" else bare(args, engine, prompts)
                        )
                rates = {way: [rows / result["seconds"] for result in found[way]] for way in found}
                last = found["ours"][-1]
                results[rows] = {
                    **{f"{way}_rows_per_second": round(statistics.median(rates[way]), 1) for way in rates},
                    **{f"{way}_spread": [round(min(rates[way]), 1), round(max(rates[way]), 1)] for way in rates},
                    "ratio": round(statistics.median(rates["ours"]) / statistics.median(rates["bare"]), 3),
                    "cached_share": round(last["cached_tokens"] / last["prompt_tokens"], 4),
                    "accepted": last["accepted"],
                    "attempts": last["attempts"],
                    "output_tokens": [last["output_tokens"], found["bare"][-1]["output_tokens"]],
                }
    finally:
        create_data.stop_engine(engine)
    print("| rows | create_data.py, rows/s | bare engine, rows/s | ratio | prompt tokens from the cache |")
    print("|---|---|---|---|---|")
    for rows, m in results.items():
        spread = {
            way: "{} ({} to {})".format(m[f"{way}_rows_per_second"], *m[f"{way}_spread"]) for way in ("ours", "bare")
        }
        print(f"| {rows} | {spread['ours']} | {spread['bare']} | {m['ratio']} | {m['cached_share']:.1%} |")
    print(json.dumps({"generation": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
