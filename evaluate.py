r"""Step 3: is the student as good as the teacher, and what did it save?

Scores four systems on held-out gold rows: the teacher with its prompt and its thinking, the base
student with and without the prompt, and the distilled student without prompt.

    python evaluate.py --test_file example-data/heldout.jsonl \
        --adapter models/prompt_distillation_trl

Every flag of vLLM's engine is accepted too.
Writes report/ beside the adapter: report.md and report.html, metrics.json, predictions.jsonl (every
row, every system) and plots.
"""

if __name__ == "__main__":
    from distill import early_stop, quiet_start  # noqa: F401

import contextlib
import json
import logging
import sys
import time
from pathlib import Path

from distill.cli import (
    ADAPTER,
    ANSWER_TOKENS,
    HELDOUT,
    MAX_TOKENS,
    REASONING_PARSER,
    STUDENT,
    TASK,
    TEACHER,
    TEMPERATURE,
    Parser,
    from_flags,
    one_line,
)
from distill.columns import Columns, add_column_flags
from distill.evaluation.apart import end_at_signals
from distill.evaluation.ask import SystemFailed
from distill.evaluation.calibration_flags import add_calibration_flags, handing_over_of
from distill.evaluation.choices import Choices, systems_of
from distill.evaluation.console import say_next, say_served, say_start
from distill.evaluation.provenance import shown_summary
from distill.evaluation.report import on_terminal
from distill.evaluation.rows import label_quality
from distill.evaluation.run import prepare, score
from distill.evaluation.systems import BASE_LATENCY_ROWS, TITLES
from distill.price_flags import add_price_flags, prices_of
from distill.streams import lasting_streams
from distill.task import load_task
from distill.teacher.child import begin_child
from distill.teacher.engine_flags import (
    ENGINE,
    ENGINE_FLAGS,
    ENGINE_TITLE,
    further_gpus,
    print_engine_flags,
    refuse_ours,
)
from distill.teacher.server import (
    FlagNames,
    add_pace_flags,
    add_teacher_flags,
    refuse_engine_flags,
    server_of,
)
from distill.teacher.student_server import add_student_flags, student_server_of

log = logging.getLogger("evaluate")
ALONE = f"rows asked one by one for the latency (base systems: {BASE_LATENCY_ROWS} at most)"
WAYS = ["auto", "lora", "merged"]
PAID_SYSTEMS = ("teacher", "student")
FLAGS = FlagNames(model="--teacher_model", script="evaluate.py")  # of a teacher behind a URL


def parse_args(argv: list[str] | None = None) -> Choices:
    """Our flags, and the rest for vLLM."""
    parser = Parser(__doc__)
    parser.group("what is asked")
    parser.add("test_file", HELDOUT, "chat JSONL, or a table with --label_column")
    parser.add("inputs_without_gold", "", "further inputs, as in step 1, for agreement only")
    add_column_flags(parser, gold=True)
    parser.add("task", TASK, "as in create_data.py")
    parser.add("limit", 0, "only the first N rows of each file (0: all)", at_least=0)
    parser.group("who is asked")
    parser.add("systems", ",".join(TITLES), "which of them are compared, with commas")
    parser.add("teacher_model", TEACHER, "asked with its prompt and thinking")
    parser.add("teacher_revision", None, "of the teacher on the hub", rare=True)
    parser.add(
        "teacher_answers",
        "",
        "instead of asking it: what step 1 wrote for these rows, or other labels",
    )
    parser.add("reasoning_parser", REASONING_PARSER, "none: the teacher does not think")
    parser.add("student_model", STUDENT, "the student's base")
    parser.add("student_revision", None, "of it (default: as it was trained on)", rare=True)
    parser.add("revision", None, "of all models on the hub, unless the two above say otherwise")
    parser.add("adapter", ADAPTER, "what train_sft_trl.py wrote")
    how = "by vLLM, or a merged copy; auto: what works"
    parser.add("serve_adapter", "auto", how, choices=WAYS)
    parser.group("or servers that have the teacher, the student, or both")
    add_teacher_flags(parser)
    add_student_flags(parser)
    add_pace_flags(parser)
    parser.group("how it is asked")
    parser.add("temperature", TEMPERATURE, "of the teacher; students answer greedily", at_least=0)
    parser.add("max_tokens", MAX_TOKENS, "under the prompt, thinking included", at_least=1)
    parser.add("student_max_tokens", ANSWER_TOKENS, "of the students without prompt", at_least=1)
    parser.add("latency_rows", 50, ALONE, at_least=1)
    parser.add("check_rows", 8, "rows whose tokens must be PEFT's (0: no check)", at_least=0)
    parser.add("tensor_parallel_size", 1, "GPUs a model is split over", at_least=1)
    add_price_flags(parser, PAID_SYSTEMS)
    add_calibration_flags(parser)
    parser.group("the report, or labels of step 1 against gold without any model")
    parser.add("report_dir", "", "where the report goes (default: report/ in the adapter)")
    parser.add("labels", "", "without any model: what create_data.py wrote, against --gold")
    parser.add("gold", "", "the right answers for the same inputs, a file like --test_file")
    parser.mention(ENGINE_TITLE, ENGINE_FLAGS)
    parser.help_all(print_engine_flags, whose=ENGINE)
    args, engine_flags = parser.parse_known_args(argv)
    try:
        refuse_ours(engine_flags, "--teacher_model or --student_model")
        systems = systems_of(args.systems, TITLES)
        if args.teacher_answers and "teacher" not in systems:
            raise ValueError("--teacher_answers: --systems leaves the teacher out")
        if args.student_url and "student" not in systems:
            raise ValueError("--student_url: --systems leaves the student out")
        if bool(args.labels) != bool(args.gold):
            raise ValueError("--labels and --gold go together")
        columns = from_flags(Columns, args)
        if columns.names_text and not columns.label_column and not args.inputs_without_gold:
            raise ValueError("--text_column, --text_template: name that of gold, --label_column")
        gpus = args.tensor_parallel_size * further_gpus(engine_flags)
        asked_here = not args.teacher_answers and not args.teacher_url
        prices = prices_of(args, gpus, PAID_SYSTEMS, asked_here, not args.student_url)
        choices = from_flags(
            Choices,
            args,
            columns=columns,
            task_file=args.task,
            systems=systems,
            engine_flags=engine_flags,
            server=server_of(args, args.teacher_model, flags=FLAGS),
            student_server=student_server_of(args, "evaluate.py", {"serve_adapter": "auto"}),
            handing_over=handing_over_of(args, systems),
            prices=prices,
            report_dir=Path(args.report_dir or Path(args.adapter) / "report"),
        )
        for server in choices.servers.values():
            if not choices.starts_engine:
                refuse_engine_flags(engine_flags, server.flags)
    except ValueError as error:
        parser.error(str(error))
    return choices


def main() -> int:
    lasting_streams()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    end_at_signals()
    choices = parse_args()
    start = time.perf_counter()
    with contextlib.ExitStack() as at_end:
        try:
            task = load_task(choices.task_file)
            if choices.labels:
                quality = label_quality(
                    choices.labels, choices.gold, choices.limit, task, choices.columns
                )
                print(json.dumps(quality))
                return 0
            plan = prepare(choices, task, at_end)
        except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
            print(f"evaluate.py: {one_line(error)}", file=sys.stderr)
            return 2
        say_start(len(plan.rows.chats), plan.titles(), choices.report_dir)
        if choices.student_server:
            say_served(choices.student_server)
        try:
            metrics = score(plan)
        except SystemFailed as error:  # it is said
            return error.exit_code
    print(on_terminal(metrics))
    print(f"Report: {choices.report_dir / 'report.html'}")
    if choices.serves_student:
        say_next(choices, list(metrics["systems"]))
    print(json.dumps(shown_summary(metrics, time.perf_counter() - start)))
    return 0


if __name__ == "__mp_main__":  # one system's process, or its engine's
    begin_child()
if __name__ == "__main__":
    sys.exit(main())
