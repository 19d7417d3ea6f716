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
The same command again continues where it was stopped. --dry_run says what it would do.
"""

if __name__ == "__main__":
    from distill import early_stop, quiet_start  # noqa: F401

import contextlib
import logging
import sys
import time

from distill.cli import (
    LABELS,
    MAX_TOKENS,
    REASONING_PARSER,
    TASK,
    TEACHER,
    TEMPERATURE,
    Parser,
    from_flags,
    one_line,
)
from distill.columns import Columns, add_column_flags
from distill.labels.choices import Choices, Cluster, shard_of
from distill.labels.dry_run import dry_run
from distill.labels.earlier import CHANGED, SAME
from distill.labels.ending import end_with
from distill.labels.flags import add_cost_flags, check_together
from distill.labels.labelling import Settings
from distill.labels.replicas import ReplicasFailed
from distill.labels.results import leave_finished, write_results
from distill.labels.run import begin, label, start_teacher
from distill.price_flags import token_prices_of
from distill.stopping import UnwindAtSignals
from distill.streams import lasting_streams
from distill.teacher.attempts import MAX_REPEATS, MAX_RETRIES, default_thinking_budget
from distill.teacher.base import TeacherEnded
from distill.teacher.check import TeacherModel
from distill.teacher.child import begin_child
from distill.teacher.engine_flags import (
    ENGINE,
    ENGINE_FLAGS,
    ENGINE_TITLE,
    print_engine_flags,
    refuse_ours,
)
from distill.teacher.server import OF_AN_ENGINE, add_server_flags, server_of

log = logging.getLogger("create_data")
INPUTS = "./example-data/multilingual.txt"
GUARDS = ["retry", "always", "never"]
REUSE = [SAME, CHANGED]


def parse_args(argv: list[str] | None = None) -> Choices:
    """Our flags, and the rest for vLLM."""
    parser = Parser(__doc__)
    parser.group("what is labelled")
    parser.add("input_file", INPUTS, ".txt: one a line; .jsonl, .json, .csv, .tsv, .parquet; .gz")
    add_column_flags(parser)
    parser.add("output_file", LABELS, "chat JSONL for step 2: input and answer, no prompt")
    parser.add("task", TASK, "prompt, labels and how an answer is read")
    parser.add("limit", 0, "only the first N inputs (0: all)", at_least=0)
    parser.add("shard", "0/1", "i/n: only the i-th of n contiguous shares, journalled apart")
    parser.group("the teacher")
    parser.add("model_name", TEACHER, "the teacher, a thinking model")
    parser.add("revision", None, "of the teacher on the hub: branch, tag or commit (default: main)")
    parser.add("tensor_parallel_size", 1, "GPUs the teacher is split over", at_least=1)
    parser.add("reasoning_parser", REASONING_PARSER, "vLLM's; none: it does not think")
    parser.add("num_replicas", 0, "engines on a Ray cluster (0: one engine, here)", at_least=0)
    parser.add("cpus_per_replica", 0, "cores for each replica instead of GPUs", at_least=0)
    add_server_flags(parser)
    parser.group("how it is asked")
    parser.add("temperature", TEMPERATURE, "of the first attempt; retries: 0.6", at_least=0)
    parser.add("max_tokens", MAX_TOKENS, "thinking and answer together, in tokens", at_least=2)
    meaning = "further attempts for a row without a valid answer"
    parser.add("max_retries", MAX_RETRIES, meaning, at_least=0)
    meaning = "end a first attempt that loops so often (0: never)"
    parser.add("max_repeats", MAX_REPEATS, meaning, at_least=0)
    parser.add("structured_outputs", "retry", "which attempts are guarded", choices=GUARDS)
    parser.add("thinking_token_budget", 0, "tokens of a guarded thought (0: 7/8 of max_tokens)")
    parser.add("num_samples", 1, "ask so often, take the majority; a tie is rejected", at_least=1)
    parser.add("min_agreement", 0.0, "smallest share of a majority", at_least=0, at_most=1)
    add_cost_flags(parser)
    parser.group("the run")
    parser.add("min_success_rate", 0.95, "exit code 1 if fewer get a label", at_least=0, at_most=1)
    parser.switch("overwrite", "start afresh, also over a finished output")
    parser.add("reuse", "", "another round: keep what holds, or ask all anew", choices=REUSE)
    parser.switch("skip_finished", "exit code 0 where the output of the same run is finished")
    parser.switch("show", "print all rows in full at the end; goes well with --limit 5")
    parser.switch("dry_run", "ask nobody and write nothing: say what would be asked, and how much")
    parser.mention(ENGINE_TITLE, ENGINE_FLAGS)
    parser.help_all(print_engine_flags, whose=ENGINE)
    args, engine_flags = parser.parse_known_args(argv)
    try:
        refuse_ours(engine_flags, "--model_name")
        shard = shard_of(args.shard)
        check_together(args, shard)
        columns = from_flags(Columns, args, label_column="")
        server = server_of(args, args.model_name, OF_AN_ENGINE, engine_flags)
    except ValueError as error:
        parser.error(str(error))
    budget = args.thinking_token_budget or default_thinking_budget(args.max_tokens)
    return from_flags(
        Choices,
        args,
        task_file=args.task,
        columns=columns,
        shard=shard,
        server=server,
        prices=token_prices_of(args),
        teacher=from_flags(TeacherModel, args, engine_flags=engine_flags),
        cluster=from_flags(Cluster, args),
        settings=from_flags(Settings, args, thinking_token_budget=budget),
    )


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
    choices = parse_args()
    with contextlib.ExitStack() as at_end:
        started = None
        try:
            run = begin(choices, at_end)
            if run.finished:
                return leave_finished(run)
            if choices.dry_run:
                return dry_run(run)
            if run.asked:
                started = start_teacher(run)
        except (ValueError, OSError) as error:
            print(f"create_data.py: {one_line(error)}", file=sys.stderr)
            return 2

        start = time.perf_counter()
        commit = None
        if started:
            commit = started.model.revision
            try:
                label(run, started)
            except (TeacherEnded, ReplicasFailed) as error:
                log.error(
                    "create_data.py: %s; what is finished is kept, the same command continues",
                    one_line(error),
                )
                if stop.code:  # the signal has reached the engine first
                    return stop.code
                return error.exit_code
            finally:
                started.close()
        return write_results(run, commit, seconds=time.perf_counter() - start)


if __name__ == "__main__":
    end_with(main, "create_data.py", log)
