r"""Step 1: the teacher labels every input once, with its long prompt and its thinking.

    python create_data.py --input_file example-data/multilingual.txt \
        --output_file data/prompt_distillation_lang.jsonl

Every flag of vLLM's engine is accepted too, for example
--max_model_len 8192 --gpu_memory_utilization 0.95.
Beside OUTPUT (chat JSONL in input order, without the prompt) it writes
    OUTPUT.trace.jsonl     one line per decided input, as it finishes: all responses, answer or
                           reason, tokens
    OUTPUT.rejected.jsonl  the inputs that never got a valid answer, with the reason
    OUTPUT.manifest.json   model, task, sampling, versions, counts, tokens, seconds
The same command again continues where it was stopped.
"""

if __name__ == "__main__":
    from distill import early_stop, quiet_start  # noqa: F401

import contextlib
import json
import logging
import re
import signal
import sys
import time

from distill.cli import ROOT, Parser, one_line
from distill.labels.console import say_next
from distill.labels.forced import Forced
from distill.labels.inputs import InputsChanged
from distill.labels.replicas import ReplicasFailed
from distill.labels.run import Run, begin, label, start_teacher
from distill.stopping import UnwindAtSignals
from distill.streams import lasting_streams
from distill.teacher.base import TeacherEnded
from distill.teacher.child import begin_child
from distill.teacher.engine import stop_engine

log = logging.getLogger("create_data")


def parse_args(argv=None):
    """Our flags, and the rest for vLLM."""
    parser = Parser(__doc__)
    # what is labelled
    parser.add(
        "input_file",
        default="./example-data/multilingual.txt",
        help=(
            "one input a line, or JSON lines (.jsonl, .ndjson) with text or chat messages, "
            "whose answer is left out"
        ),
    )
    parser.add(
        "output_file",
        default="./data/prompt_distillation_lang.jsonl",
        help="chat JSONL for step 2: input and answer, no prompt",
    )
    parser.add(
        "task",
        default=str(ROOT / "example-data/language_classification.yaml"),
        help="prompt, labels and how an answer is read",
    )
    parser.add("limit", type=int, default=0, help="only the first N inputs (0: all)")
    parser.add(
        "shard", default="0/1", help="i/n: only the i-th of n contiguous shares, journalled apart"
    )
    # the teacher
    parser.add(
        "model_name",
        default="Qwen/Qwen3-30B-A3B-Thinking-2507",
        help="the teacher, a thinking model",
    )
    parser.add(
        "revision", help="of the teacher on the hub: a branch, tag or commit (default: main)"
    )
    parser.add("tensor_parallel_size", type=int, default=1, help="GPUs the teacher is split over")
    parser.add(
        "reasoning_parser",
        default="qwen3",
        help="vLLM's for this teacher's thinking; none: it does not think",
    )
    parser.add(
        "num_replicas",
        type=int,
        default=0,
        help=(
            "engines on the Ray cluster at RAY_ADDRESS, or on one of its own (0: one engine, here)"
        ),
    )
    parser.add(
        "cpus_per_replica",
        type=int,
        default=0,
        help="cores for each replica instead of GPUs, on machines without",
    )
    # how it is asked
    parser.add(
        "temperature",
        type=float,
        default=0.15,
        help="of the first attempt; retries use at least 0.6, with top_p 0.95 and top_k 20",
    )
    parser.add("max_tokens", type=int, default=4096, help="thinking and answer together, in tokens")
    parser.add(
        "max_retries", type=int, default=3, help="further attempts for a row without a valid answer"
    )
    parser.add(
        "max_repeats",
        type=int,
        default=4,
        help="end a first attempt that loops so many times (0: never)",
    )
    parser.add(
        "structured_outputs",
        default="retry",
        choices=["retry", "always", "never"],
        help="which attempts are guarded, so that only a label can follow the thinking",
    )
    parser.add(
        "thinking_token_budget",
        type=int,
        default=0,
        help=(
            "tokens after which a guarded attempt's thinking is closed "
            "(0: max_tokens less an eighth)"
        ),
    )
    parser.add(
        "num_samples",
        type=int,
        default=1,
        help="ask so many times and take the majority; a tie is rejected",
    )
    parser.add(
        "min_agreement",
        type=float,
        default=0.0,
        help="reject a row whose majority is a smaller share",
    )
    # the run
    parser.add(
        "min_success_rate",
        type=float,
        default=0.95,
        help="exit code 1 below this share of labelled rows",
    )
    parser.add("overwrite", action="store_true", help="start afresh, also over a finished output")
    args, engine_flags = parser.parse_known_args(argv)
    shard = re.fullmatch(r"(\d+)/(\d+)", args.shard, re.ASCII)
    if not shard or int(shard[1]) >= int(shard[2]):
        parser.error(f"--shard {args.shard}: expected i/n with 0 <= i < n, such as 0/2")
    args.shard_index = int(shard[1])
    args.num_shards = int(shard[2])
    least = {"max_tokens": 2, "num_samples": 1, "tensor_parallel_size": 1}
    for name in (
        *least,
        "max_retries",
        "max_repeats",
        "temperature",
        "limit",
        "num_replicas",
        "cpus_per_replica",
    ):
        if not getattr(args, name) >= least.get(name, 0):
            parser.error(f"--{name} {getattr(args, name)}: must be at least {least.get(name, 0)}")
    for name in ("min_agreement", "min_success_rate"):
        if not 0 <= getattr(args, name) <= 1:
            parser.error(f"--{name} {getattr(args, name)}: must be between 0 and 1")
    if not 0 <= args.thinking_token_budget < args.max_tokens:
        parser.error(
            f"--thinking_token_budget {args.thinking_token_budget}: must be below --max_tokens"
        )
    if args.num_replicas and args.num_shards > 1:
        parser.error("--num_replicas shares the inputs out itself; drop --shard")
    if args.max_repeats == 1:
        parser.error("--max_repeats 1: a loop is seen from the second time on; 0 lets it run")
    if args.num_samples > 1 and args.temperature == 0:
        parser.error(
            "--num_samples asks for the same answer again at --temperature 0; raise the temperature"
        )
    # for the answer after the thinking
    room = max(args.max_tokens // 8, min(64, args.max_tokens // 2))
    args.thinking_token_budget = args.thinking_token_budget or args.max_tokens - room
    return args, engine_flags


if __name__ == "__mp_main__":  # an engine's process that was spawned, where vLLM does not fork
    begin_child()


def main() -> int:
    lasting_streams()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    stop = UnwindAtSignals(
        "create_data.py: stopped; what is finished is kept, the same command continues"
    )
    stop.listen()
    args, engine_flags = parse_args()
    with contextlib.ExitStack() as at_end:
        engine = None
        try:
            run = begin(args, engine_flags, at_end)
            if run.asked:
                engine = start_teacher(run, stop)
        except (ValueError, OSError) as error:
            print(f"create_data.py: {one_line(error)}", file=sys.stderr)
            return 2

        start = time.perf_counter()
        if run.asked:
            try:
                label(run, engine)
            except (TeacherEnded, ReplicasFailed) as error:
                log.error(
                    "create_data.py: %s; what is finished is kept, the same command continues",
                    one_line(error),
                )
                if stop.code:  # the signal has reached the engine first
                    return stop.code
                return error.exit_code
            finally:
                if engine:
                    stop_engine(engine)
        return write_results(run, seconds=time.perf_counter() - start)


def write_results(run: Run, seconds: float) -> int:
    """Write the outputs and print the last line; a shard writes no outputs.

    Returns the exit code.
    """
    args = run.args
    journal = run.journal
    summary = {"asked": run.asked, "seconds": round(seconds, 1)}
    if args.num_shards > 1:
        journal.forced.warn(args.structured_outputs)
        print(json.dumps({"shard": args.shard, **summary, **journal.forced.counts()}))
        return 0
    details = run.details()
    journal.replay()
    left = int(journal.missing().sum())
    if left:
        log.error("create_data.py: %d inputs are not decided; the same command asks them", left)
        return 1
    manifest = journal.write_outputs(
        bool(run.task.labels), task_file=args.task, input_file=args.input_file, **details
    )
    forced = Forced(*(manifest[key] for key in Forced().counts()))
    forced.warn(args.structured_outputs)
    for key in ("rows", "accepted", "rejected", "success_rate", *forced.counts(), *forced.shares()):
        summary[key] = manifest[key]
    print(json.dumps({"output_file": args.output_file, **summary}))
    if manifest["success_rate"] < args.min_success_rate:
        share = 100 * manifest["success_rate"]
        log.error(
            "only %.1f %% of the rows got a label; see %s.rejected.jsonl", share, args.output_file
        )
        return 1
    say_next(args.output_file, args.model_name)
    return 0


if __name__ == "__main__":
    try:
        code = main()
    except InputsChanged as changed:
        log.error("create_data.py: %s; what is finished is kept", changed)
        code = 1
    except OSError as full_disk:
        log.error(
            "create_data.py: %s; what is finished is kept, the same command continues", full_disk
        )
        code = 1
    # what the libraries do at the exit takes a second,
    # and a signal would only make them print tracebacks
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(code)
