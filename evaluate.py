r"""Step 3: is the student as good as the teacher, and what did it save?

Scores four systems on held-out gold rows.

    python evaluate.py --test_file example-data/heldout.jsonl \
        --adapter models/prompt_distillation_trl

The systems are the teacher with its prompt and its thinking, the base student with and without the
prompt, and the distilled student without prompt. Every flag of vLLM's engine is accepted too.
Writes report/ beside the adapter: report.md and report.html, metrics.json, predictions.jsonl (every
row, every system) and plots.
"""

if __name__ == "__main__":
    from distill import early_stop, quiet_start  # noqa: F401

import argparse
import contextlib
import json
import logging
import multiprocessing
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from distill.adapter import LORA, Serving, check_plan, plan_serving
from distill.cli import ROOT, Parser, one_line
from distill.evaluation.apart import Apart
from distill.evaluation.ask import Asking, SystemFailed, score_systems
from distill.evaluation.console import say_next, say_start
from distill.evaluation.models import check_models
from distill.evaluation.provenance import how_measured, origin, predictions, shown_summary, thinking
from distill.evaluation.report import markdown, not_thinking, sentences, tables, write_report
from distill.evaluation.rows import Rows, label_quality, read_rows, read_teacher
from distill.evaluation.scored import Scored, Unfinished, common_key, key_of
from distill.evaluation.scores import Prices, measure
from distill.evaluation.systems import TITLES, System
from distill.evaluation.templates import try_templates
from distill.model_tokenizer import check_student_tokens
from distill.streams import lasting_streams
from distill.system import cpu_name
from distill.task import Task, guard_problem, load_task
from distill.teacher.check import check_teacher_model
from distill.teacher.child import begin_child
from distill.unfit_rows import roles_of

log = logging.getLogger("evaluate")
ENDS = 10  # seconds in which a killed process is gone


def parse_args(argv=None):
    """Our flags, and the rest for vLLM."""
    parser = Parser(__doc__)
    # what is asked
    parser.add(
        "test_file", default="./example-data/heldout.jsonl", help="chat JSONL; the answers are gold"
    )
    parser.add(
        "inputs_without_gold",
        default="",
        help="further inputs, as in create_data.py, for agreement only",
    )
    parser.add(
        "task",
        default=str(ROOT / "example-data/language_classification.yaml"),
        help="as in create_data.py",
    )
    parser.add("limit", type=int, default=0, help="only the first N rows of each file (0: all)")
    # who is asked
    parser.add("systems", default=",".join(TITLES), help="which of them are compared, with commas")
    parser.add(
        "teacher_model",
        default="Qwen/Qwen3-30B-A3B-Thinking-2507",
        help="asked with its prompt and thinking",
    )
    parser.add(
        "teacher_revision",
        help="of the teacher on the hub: a branch, tag or commit (default: main)",
    )
    parser.add(
        "teacher_answers",
        default="",
        help="instead of asking it: what create_data.py wrote for these rows",
    )
    parser.add("reasoning_parser", default="qwen3", help="none: the teacher does not think")
    parser.add(
        "student_model",
        default="Qwen/Qwen3-30B-A3B-Instruct-2507",
        help="the student's base, which the adapter was trained on",
    )
    parser.add(
        "student_revision", help="of the student's base (default: what the adapter was trained on)"
    )
    parser.add("revision", help="of all models on the hub, unless the two above say otherwise")
    parser.add(
        "adapter", default="./models/prompt_distillation_trl", help="what train_sft_trl.py wrote"
    )
    parser.add(
        "serve_adapter",
        default="auto",
        choices=["auto", "lora", "merged"],
        help="by vLLM, or as a merged copy; auto: by vLLM, then a merged copy should that fail",
    )
    # how it is asked
    parser.add(
        "temperature", type=float, default=0.15, help="of the teacher; students answer greedily"
    )
    parser.add("max_tokens", type=int, default=4096, help="under the prompt, thinking included")
    parser.add("student_max_tokens", type=int, default=64, help="of the students without prompt")
    parser.add(
        "latency_rows",
        type=int,
        default=50,
        help="rows asked one at a time for the latency, after three for warming up",
    )
    parser.add(
        "check_rows",
        type=int,
        default=8,
        help="rows whose served tokens must be PEFT's (0: no check)",
    )
    parser.add("tensor_parallel_size", type=int, default=1, help="GPUs a model is split over")
    # prices for the cost of a million requests
    parser.add(
        "price_input", type=float, default=0.0, help="of a million input tokens that are not cached"
    )
    parser.add("price_cached", type=float, default=0.0, help="of a million cached input tokens")
    parser.add("price_output", type=float, default=0.0, help="of a million output tokens")
    parser.add(
        "report_dir", default="", help="where the report goes (default: report/ in the adapter)"
    )
    # instead: the labels of step 1 against gold, without any model
    parser.add(
        "labels", default="", help="without any model: what create_data.py wrote, against --gold"
    )
    parser.add("gold", default="", help="the right answers for the same inputs, chat JSONL")
    args, engine_flags = parser.parse_known_args(argv)
    at_least = {
        "latency_rows": 1,
        "limit": 0,
        "check_rows": 0,
        "max_tokens": 1,
        "student_max_tokens": 1,
    }
    for name, least in at_least.items():
        if getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: must be at least {least}")
    wanted = args.systems.split(",")
    unknown = [name for name in wanted if name not in TITLES]
    if unknown:
        parser.error(f"--systems {args.systems}: {unknown[0]!r} is none of {','.join(TITLES)}")
    args.systems = [name for name in TITLES if name in wanted]  # in our order
    if args.teacher_answers and "teacher" not in args.systems:
        parser.error("--teacher_answers: --systems leaves the teacher out")
    if bool(args.labels) != bool(args.gold):
        parser.error("--labels and --gold go together")
    args.report_dir = Path(args.report_dir or Path(args.adapter) / "report")
    args.teacher_commit = None  # what check_models() finds
    args.student_commit = None
    return args, engine_flags


def describe(name: str, args, rows: int) -> System:
    """How a system is asked under the flags, for `rows` rows."""
    is_teacher = name == "teacher"
    prompted = name in ("teacher", "base_prompt")
    return System(
        name=name,
        model=args.teacher_model if is_teacher else args.student_model,
        revision=args.teacher_commit if is_teacher else args.student_commit,
        prompted=prompted,
        thinks=is_teacher and args.reasoning_parser != "none",
        temperature=args.temperature if is_teacher else 0.0,
        # who may think aloud gets room for it
        max_tokens=args.max_tokens if prompted else args.student_max_tokens,
        latency_rows=args.latency_rows,
        check_rows=min(args.check_rows, rows) if name == "student" else 0,
    )


def stop(number, _):
    """End at a signal, and with us the processes of the systems; what was scored is kept."""
    processes = multiprocessing.active_children()
    for process in processes:
        process.kill()  # its engine ends with it
    for process in processes:
        process.join(ENDS)  # what it was writing is removed at our end
    log.error("evaluate.py: stopped; what was scored is kept, the same command goes on from there")
    sys.exit(128 + number)


@dataclass
class Plan:
    """What is asked and how, after everything that was checked before an engine starts."""

    args: argparse.Namespace
    engine_flags: list[str]
    task: Task
    rows: Rows
    process: Apart  # in which the first system runs, too
    unfinished: Unfinished
    given: dict[str, dict]  # results that a file holds, by system
    systems: list[System]  # to be asked
    ways: list[Serving]  # to serve the adapter
    left_out: dict[str, str]  # systems that cannot be asked, and why
    dated: list[str]  # models whose chat templates write the date


def prepare(args, engine_flags: list[str], task: Task, at_end: contextlib.ExitStack) -> Plan:
    """Read the rows and refuse what cannot work. Raises what main() says in one line."""
    rows = read_rows(args.test_file, args.inputs_without_gold, args.limit, task)
    problem = guard_problem(args.task, task)
    if problem and {"teacher", "base_prompt"}.intersection(args.systems):  # whose answers it reads
        log.warning(
            "evaluate.py: %s; nothing is guarded here, it matters where a model answers so", problem
        )
    given = {}
    if args.teacher_answers:
        given["teacher"] = read_teacher(Path(args.teacher_answers), rows.chats, task)
    process = at_end.enter_context(Apart())
    check_models(args, engine_flags, process)
    unfinished = at_end.enter_context(Unfinished(args.report_dir))
    if "teacher" in args.systems and not given:
        parser = args.reasoning_parser
        process.call(
            check_teacher_model, args.teacher_model, args.teacher_commit, parser, engine_flags
        )
    ways = (
        plan_student(args, engine_flags, process, unfinished) if "student" in args.systems else []
    )
    systems = [describe(name, args, len(rows.chats)) for name in args.systems if name not in given]
    left_out = {}
    dated = []
    if systems:
        roles = Counter(map(roles_of, rows.chats))
        left_out, dated = process.call(
            try_templates, systems, task, roles, args.adapter, engine_flags
        )
    for name, reason in left_out.items():
        log.warning("%s is left out: %s", TITLES[name], reason)
    systems = [system for system in systems if system.name not in left_out]
    if not systems and not given:
        raise ValueError("no system is left to be asked")
    return Plan(
        args, engine_flags, task, rows, process, unfinished, given, systems, ways, left_out, dated
    )


def plan_student(
    args, engine_flags: list[str], process: Apart, unfinished: Unfinished
) -> list[Serving]:
    """The ways to serve the adapter, for which there is room on the disk. Raises ValueError."""
    ways = process.call(
        plan_serving,
        args.serve_adapter,
        args.adapter,
        args.student_model,
        engine_flags,
        args.tensor_parallel_size,
        args.student_commit,
    )
    check_plan(ways, unfinished.folder)
    if ways[0].served_as == LORA:  # a merged copy has the adapter's own tokenizer
        process.call(check_student_tokens, args.adapter, args.student_model, args.student_commit)
    return ways


def score(plan: Plan) -> dict:
    """Ask the systems and measure them: what metrics.json holds. Writes the report.

    Raises SystemFailed.
    """
    args = plan.args
    chats = plan.rows.chats
    common = common_key(plan.task, chats, plan.engine_flags, args.tensor_parallel_size, cpu_name())
    keys = {}
    for system in plan.systems:
        keys[system.name] = key_of(system, common, args.adapter, args.serve_adapter)
    scored = Scored(plan.unfinished.folder, keys)
    taken_over = scored.take_over()
    asking = Asking(
        task=plan.task,
        chats=chats,
        engine_flags=plan.engine_flags,
        tensor_parallel_size=args.tensor_parallel_size,
        adapter=args.adapter,
        merged=str(plan.unfinished.merged),
        scored=scored,
    )
    try:
        found, check = score_systems(plan.process, plan.systems, plan.ways, asking, taken_over)
    except SystemFailed as error:
        log.error("evaluate.py: %s%s", error, scored.what_is_kept())
        raise
    results = {**plan.given, **found}

    gold = plan.rows.gold
    prices = Prices(args.price_input, args.price_cached, args.price_output)
    metrics = measure(results, gold, plan.rows.kinds, bool(plan.task.labels), prices)
    metrics.update(origin(vars(args), plan.task, results))
    metrics.update(how_measured(results, check, taken_over))
    metrics.update(left_out=plan.left_out, dated_templates=plan.dated)
    if "teacher" in results:
        thinks = args.reasoning_parser != "none"
        metrics.update(thinking(results["teacher"], thinks, bool(args.teacher_answers), len(gold)))
    if not_thinking(metrics):
        log.warning("evaluate.py: %s", not_thinking(metrics))
    write_report(args.report_dir, metrics, predictions(chats, gold, results))
    plan.unfinished.remove_scored()
    return metrics


def main() -> int:
    lasting_streams()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    args, engine_flags = parse_args()
    start = time.perf_counter()
    with contextlib.ExitStack() as at_end:
        try:
            task = load_task(args.task)
            if args.labels:
                print(json.dumps(label_quality(args.labels, args.gold, args.limit, task)))
                return 0
            plan = prepare(args, engine_flags, task, at_end)
        except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
            print(f"evaluate.py: {one_line(error)}", file=sys.stderr)
            return 2
        names = [name for name in args.systems if name not in plan.left_out]
        thinks = args.reasoning_parser != "none"
        say_start(len(plan.rows.chats), names, thinks, args.report_dir)
        try:
            metrics = score(plan)
        except SystemFailed as error:  # it is said
            return error.exit_code
    compared = tables(metrics)[0]
    print(markdown(compared.header, compared.rows))
    for sentence in sentences(metrics):
        print(sentence)
    print(f"Report: {args.report_dir / 'report.html'}")
    print(json.dumps(shown_summary(metrics, time.perf_counter() - start)))
    say_next(names, args.adapter)
    return 0


if __name__ == "__mp_main__":  # one system's process, or its engine's
    begin_child()
if __name__ == "__main__":
    sys.exit(main())
