r"""The student at work: an answer for every row of a backlog, and how sure the student is of it.

    python predict.py --adapter models/my_task --input_file backlog.csv --output_file out.csv

Every flag of vLLM's engine is accepted too. OUTPUT is .csv, .tsv, .jsonl, .json or .parquet, also
.gz, with a row for each input, in order: index, the input's own columns (or its text), and
    answer, valid       the answer; whether it is one, a label where the task has labels
    confidence          the probability that the student gave to the whole answer, calibrated
                        where step 3 has written calibration.json beside the adapter
    unsure              there alone: whether this row were better answered by the teacher
    reason, response    where there is no valid answer: why, and what the student wrote
Beside it: OUTPUT.trace.jsonl, a line for each answered input as it finishes; OUTPUT.manifest.json.
The same command again continues where it was stopped.
"""

if __name__ == "__main__":
    from distill import early_stop, quiet_start  # noqa: F401

import contextlib
import logging
import sys
import time

from distill.cli import ADAPTER, ANSWER_TOKENS, Parser, from_flags, one_line
from distill.columns import Columns, add_column_flags
from distill.labels.choices import Cluster
from distill.labels.ending import end_with
from distill.labels.replicas import ReplicasFailed
from distill.prediction.choices import Choices
from distill.prediction.results import leave_finished, write_results
from distill.prediction.run import begin, plan_run, predict, start
from distill.price_flags import add_price_flags, prices_of
from distill.stopping import UnwindAtSignals
from distill.streams import lasting_streams
from distill.teacher.base import TeacherEnded
from distill.teacher.child import begin_child
from distill.teacher.engine_flags import (
    ENGINE,
    ENGINE_FLAGS,
    ENGINE_TITLE,
    further_gpus,
    print_engine_flags,
    refuse_ours,
)
from distill.teacher.server import add_pace_flags
from distill.teacher.student_server import add_student_flags, student_server_of

log = logging.getLogger("predict")
KEPT = "what is finished is kept, the same command continues"
WAYS = ["auto", "lora", "merged"]
# flags of a student on this machine, and what they are where they are not given
OF_AN_ENGINE = {
    "adapter": ADAPTER,
    "model_name": "",
    "revision": None,
    "serve_adapter": "auto",
    "tensor_parallel_size": 1,
    "num_replicas": 0,
    "cpus_per_replica": 0,
    "gpu_price_per_hour": 0.0,
}


def parse_args(argv: list[str] | None = None) -> Choices:
    """Our flags, and the rest for vLLM."""
    parser = Parser(__doc__)
    parser.group("what is answered")
    parser.add("input_file", None, "as in create_data.py; columns are kept", required=True)
    add_column_flags(parser)
    parser.add("output_file", None, ".csv, .tsv, .jsonl, .json or .parquet; .gz", required=True)
    parser.add("limit", 0, "only the first N inputs (0: all)", at_least=0)
    parser.group("who answers")
    parser.add("adapter", ADAPTER, "what train_sft_trl.py wrote; empty: a model without one")
    parser.add("model_name", "", "a merged model, or where the adapter's base is now")
    parser.add("revision", None, "of that model on the hub (default: as it was trained on)")
    parser.add("task", "", "labels or schema of the answers (default: the adapter's own task)")
    meaning = "calibration.json of step 3 (default: the adapter's, if it has one); none: without"
    parser.add("calibration", "", meaning)
    parser.add("serve_adapter", "auto", "by vLLM, or a merged copy; auto: what works", choices=WAYS)
    parser.add("max_tokens", ANSWER_TOKENS, "of an answer", at_least=1)
    parser.add("tensor_parallel_size", 1, "GPUs the student is split over", at_least=1)
    parser.add("num_replicas", 0, "engines on a Ray cluster (0: one engine, here)", at_least=0)
    parser.add("cpus_per_replica", 0, "cores for each replica instead of GPUs", at_least=0)
    parser.group("or a server that has the student")
    add_student_flags(parser)
    add_pace_flags(parser)
    add_price_flags(parser)
    parser.group("the run")
    parser.add(
        "min_success_rate", 0.95, "exit code 1 if fewer get a valid answer", at_least=0, at_most=1
    )
    parser.switch("overwrite", "start afresh, also over a finished output")
    parser.switch("skip_finished", "exit code 0 where the output of the same run is finished")
    parser.mention(ENGINE_TITLE, ENGINE_FLAGS)
    parser.help_all(print_engine_flags, whose=ENGINE)
    args, engine_flags = parser.parse_known_args(argv)
    try:
        refuse_ours(engine_flags, "--model_name")
        if args.overwrite and args.skip_finished:
            raise ValueError("--overwrite and --skip_finished contradict each other")
        columns = from_flags(Columns, args, label_column="")
        gpus = args.tensor_parallel_size * further_gpus(engine_flags) * max(1, args.num_replicas)
        prices = prices_of(args, gpus)
        server = student_server_of(args, "predict.py", OF_AN_ENGINE, engine_flags)
    except ValueError as error:
        parser.error(str(error))
    return from_flags(
        Choices,
        args,
        task_file=args.task,
        columns=columns,
        server=server,
        engine_flags=engine_flags,
        cluster=from_flags(Cluster, args),
        prices=prices,
    )


if __name__ == "__mp_main__":  # an engine's process that was spawned, where vLLM does not fork
    begin_child()


def main() -> int:
    lasting_streams()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    stop = UnwindAtSignals(f"predict.py: stopped; {KEPT}")
    stop.listen()
    choices = parse_args()
    with contextlib.ExitStack() as at_end:
        work = None
        try:
            run = begin(choices, at_end)
            if run.finished:
                return leave_finished(run)
            if run.asked:
                work, started = start(run, plan_run(run))
        except (ValueError, OSError) as error:
            print(f"predict.py: {one_line(error)}", file=sys.stderr)
            return 2
        except TeacherEnded as error:  # a server, at its first request
            print(f"predict.py: {one_line(error)}", file=sys.stderr)
            return error.exit_code

        begun = time.perf_counter()
        commit = None
        served_as = None
        if work:
            commit = work.plan.commit
            served_as = started.served_as if started else work.plan.served_as
            try:
                predict(run, work, started)
            except (TeacherEnded, ReplicasFailed) as error:
                log.error("predict.py: %s; %s", one_line(error), KEPT)
                if stop.code:  # the signal has reached the engine first
                    return stop.code
                return error.exit_code
            finally:
                if started:
                    started.close()
        return write_results(run, commit, served_as, seconds=time.perf_counter() - begun)


if __name__ == "__main__":
    end_with(main, "predict.py", log)
