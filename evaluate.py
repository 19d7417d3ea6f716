"""Step 3: is the student as good as the teacher, and what did it save? Scores four systems on held-out gold rows.

    python evaluate.py --test_file example-data/heldout.jsonl --adapter models/prompt_distillation_trl

The systems are the teacher with its prompt and its thinking, the base student with and without the prompt, and the
distilled student without prompt. Every flag of vLLM's engine is accepted too. Writes report/ beside the adapter:
report.md and report.html, metrics.json, predictions.jsonl (every row, every system) and plots.
"""

if __name__ == "__main__":
    from distill import early_stop  # noqa: F401

import argparse
import contextlib
import json
import logging
import multiprocessing
import signal
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from distill.adapter import LORA, check_plan, plan_serving
from distill.cli import ROOT, Parser, check_model, check_writable, one_line
from distill.evaluation.apart import Apart
from distill.evaluation.ask import Asking, SystemFailed, score_systems
from distill.evaluation.report import markdown, not_thinking, sentences, tables, write_report
from distill.evaluation.rows import label_quality, read_rows, read_teacher
from distill.evaluation.scored import Scored, Unfinished, common_key, key_of
from distill.evaluation.scores import Prices, measure
from distill.evaluation.systems import TITLES, System
from distill.evaluation.templates import try_templates
from distill.model_tokenizer import check_student_tokens
from distill.revisions import resolve
from distill.streams import lasting_streams
from distill.system import commit, cpu_name, versions
from distill.task import Task, guard_problem, load_task
from distill.teacher.check import check_teacher_model
from distill.teacher.child import begin_child
from distill.teacher.engine import check_engine_flags
from distill.tokens import THINK_END
from distill.unfit_rows import roles_of

log = logging.getLogger("evaluate")
ENDS = 10  # seconds in which a killed process is gone


def parse_args(argv=None):
    """Our flags, and the rest for vLLM."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    # what is asked
    parser.add("test_file", default="./example-data/heldout.jsonl", help="chat JSONL; the answers are gold")
    parser.add("inputs_without_gold", default="", help="further inputs, as in create_data.py, for agreement only")
    parser.add("task", default=str(ROOT / "example-data/language_classification.yaml"), help="as in create_data.py")
    parser.add("limit", type=int, default=0, help="only the first N rows of each file (0: all)")
    # who is asked
    parser.add("systems", default=",".join(TITLES), help="which of them are compared, with commas")
    parser.add("teacher_model", default="Qwen/Qwen3-30B-A3B-Thinking-2507", help="asked with its prompt and thinking")
    parser.add("teacher_revision", help="of the teacher on the hub: a branch, tag or commit (default: main)")
    parser.add("teacher_answers", default="", help="instead of asking it: what create_data.py wrote for these rows")
    parser.add("reasoning_parser", default="qwen3", help="none: the teacher does not think")
    parser.add(
        "student_model",
        default="Qwen/Qwen3-30B-A3B-Instruct-2507",
        help="the student's base, which the adapter was trained on",
    )
    parser.add("student_revision", help="of the student's base (default: what the adapter was trained on)")
    parser.add("revision", help="of all models on the hub, unless the two above say otherwise")
    parser.add("adapter", default="./models/prompt_distillation_trl", help="what train_sft_trl.py wrote")
    parser.add(
        "serve_adapter",
        default="auto",
        choices=["auto", "lora", "merged"],
        help="by vLLM, or as a merged copy; auto: by vLLM, then a merged copy should that fail",
    )
    # how it is asked
    parser.add("temperature", type=float, default=0.15, help="of the teacher; students answer greedily")
    parser.add("max_tokens", type=int, default=4096, help="under the prompt, thinking included")
    parser.add("student_max_tokens", type=int, default=64, help="of the students without prompt")
    parser.add(
        "latency_rows",
        type=int,
        default=50,
        help="rows asked one at a time for the latency, after three for warming up",
    )
    parser.add("check_rows", type=int, default=8, help="rows whose served tokens must be PEFT's (0: no check)")
    parser.add("tensor_parallel_size", type=int, default=1, help="GPUs a model is split over")
    # prices for the cost of a million requests
    parser.add("price_input", type=float, default=0.0, help="of a million input tokens that are not cached")
    parser.add("price_cached", type=float, default=0.0, help="of a million cached input tokens")
    parser.add("price_output", type=float, default=0.0, help="of a million output tokens")
    parser.add("report_dir", default="", help="where the report goes (default: report/ in the adapter)")
    # instead: the labels of step 1 against gold, without any model
    parser.add("labels", default="", help="without any model: what create_data.py wrote, against --gold")
    parser.add("gold", default="", help="the right answers for the same inputs, chat JSONL")
    args, engine_flags = parser.parse_known_args(argv)
    for name, least in {
        "latency_rows": 1,
        "limit": 0,
        "check_rows": 0,
        "max_tokens": 1,
        "student_max_tokens": 1,
    }.items():
        if getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: must be at least {least}")
    wanted = args.systems.split(",")
    if unknown := [name for name in wanted if name not in TITLES]:
        parser.error(f"--systems {args.systems}: {unknown[0]!r} is none of {','.join(TITLES)}")
    args.systems = [name for name in TITLES if name in wanted]  # in our order
    if args.teacher_answers and "teacher" not in args.systems:
        parser.error("--teacher_answers: --systems leaves the teacher out")
    if bool(args.labels) != bool(args.gold):
        parser.error("--labels and --gold go together")
    args.report_dir = Path(args.report_dir or Path(args.adapter) / "report")
    args.teacher_commit = None  # what check_revisions() finds
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
        max_tokens=args.max_tokens if prompted else args.student_max_tokens,  # who may think aloud gets room for it
        latency_rows=args.latency_rows,
        check_rows=min(args.check_rows, rows) if name == "student" else 0,
    )


def check_models(args, engine_flags: list[str], process: Apart) -> None:
    """Refuse models, an adapter or flags that cannot work, before anything is loaded; `process` imports vLLM."""
    if "teacher" in args.systems and not args.teacher_answers:
        check_model(args.teacher_model)
    if args.systems != ["teacher"]:
        check_model(args.student_model)
    if "student" in args.systems:
        config_path = Path(args.adapter) / "adapter_config.json"
        if not config_path.is_file():
            raise ValueError(f"{args.adapter}: no adapter here (adapter_config.json is missing); train one first")
        base = json.loads(config_path.read_text())["base_model_name_or_path"]
        if Path(base).name != Path(args.student_model).name:
            raise ValueError(f"{args.adapter}: adapter of {base}, not of --student_model {args.student_model}")
    check_writable(args.report_dir / "report.md")
    choose_revisions(args)
    if engine_flags:  # a bad one is refused before the hub is asked
        asked = describe(args.systems[-1], args, rows=0)
        revision = args.teacher_revision if asked.name == "teacher" else args.student_revision
        process.call(check_engine_flags, asked.model, engine_flags, revision)
    check_revisions(args)


def choose_revisions(args) -> None:
    """Fill in the revisions of models on the hub: --revision is both's, and an adapter knows its base's."""
    recorded = None
    if "student" in args.systems:
        recorded = json.loads((Path(args.adapter) / "adapter_config.json").read_text()).get("revision")
    if not Path(args.teacher_model).expanduser().is_dir():
        args.teacher_revision = args.teacher_revision or args.revision
    if not Path(args.student_model).expanduser().is_dir():
        args.student_revision = args.student_revision or args.revision or recorded


def check_revisions(args) -> None:
    """Find the commits of models on the hub, once, so that a branch that moves meanwhile changes nothing.

    Raises ValueError for a revision that there is not. Warns if the adapter was trained on another commit.
    """
    if "teacher" in args.systems and not args.teacher_answers:
        args.teacher_commit = resolve(args.teacher_model, args.teacher_revision, "--teacher_revision")
    if args.systems == ["teacher"]:
        return
    commit = resolve(args.student_model, args.student_revision, "--student_revision")
    args.student_commit = commit
    run = Path(args.adapter) / "run.json"
    trained_on = json.loads(run.read_text()).get("commit") if "student" in args.systems and run.is_file() else None
    if commit and trained_on and commit != trained_on:
        remedy = f"--student_revision {trained_on} loads that"
        log.warning("%s: trained on another commit of %s; %s", args.adapter, args.student_model, remedy)


def origin(args, task: Task, results: dict) -> dict:
    """Where and with what the figures were measured."""
    machines = [result["machine"] for result in results.values() if "machine" in result]
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machines[-1] if machines else cpu_name(),  # the last one is the least likely to be taken over
        "versions": versions(),
        "task_hash": task.hash,
    }
    names = ["teacher_model", "teacher_revision", "student_model", "student_revision", "adapter", "test_file"]
    names += ["temperature", "max_tokens"]
    return {**found, **{name: getattr(args, name) for name in names}}


def how_measured(results: dict[str, dict], check: dict | None, taken_over: dict[str, dict]) -> dict:
    """How the student was served for its figures, instead of what, and which figures an earlier run has measured."""
    student = results.get("student", {})
    earlier = {}
    for name, result in taken_over.items():
        if results[name] is result:  # a student that was taken over may have been served again
            earlier[name] = {key: result[key] for key in ("machine", "date", "commit")}
    return {
        "served_as": student.get("served_as"),
        "instead_of": student.get("instead_of") or None,
        "check": check,
        "ties": student.get("ties"),
        "server_settings": student.get("server_settings"),
        "taken_over": earlier,
    }


def thinking(teacher: dict, args, rows: int) -> dict:
    """Whether the teacher thinks, and how many of its responses to the gold rows lack the end of a thought."""
    thinks = teacher.get("thinks", args.reasoning_parser != "none")
    unfinished = None
    if thinks and not args.teacher_answers:  # the responses of a file may be answers alone
        unfinished = sum(THINK_END not in response for response in teacher["responses"][:rows])
    return {"teacher_thinks": thinks, "unfinished_thinking": unfinished}


def predictions(chats: list[list[dict]], gold: list[str], results: dict[str, dict]) -> list[dict]:
    """The lines of predictions.jsonl; inputs without gold come last."""
    rows = []
    tied = {name: set(result.get("ties", {}).get("rows", [])) for name, result in results.items()}
    for i, chat in enumerate(chats):
        row = {"messages": chat, "gold": gold[i] if i < len(gold) else None}
        for name, result in results.items():
            row[name] = {"answer": result["answers"][i], "response": result["responses"][i]}
            if i in tied[name]:
                row[name]["tie"] = True  # see ties.py
        rows.append(row)
    return rows


def shown_summary(metrics: dict, seconds: float) -> dict:
    """The last line of stdout."""
    summary = {f"{name}_accuracy": round(m["accuracy"], 4) for name, m in metrics["systems"].items()}
    for name in ("teacher", "student"):
        for key, digits in (("latency_s", 4), ("tokens", 1)):
            if (value := metrics["systems"].get(name, {}).get(key)) is not None:
                summary[f"{name}_{key}"] = round(value, digits)
    if speedup := metrics["systems"].get("student", {}).get("speedup"):
        summary["speedup"] = round(speedup, 1)
    return {**summary, "rows": metrics["rows"], "seconds": round(seconds, 1)}


def stop(number, _):
    """End at a signal, and with us the processes of the systems; what was scored is kept."""
    processes = multiprocessing.active_children()
    for process in processes:
        process.kill()  # its engine ends with it
    for process in processes:
        process.join(ENDS)  # what it was writing is removed at our end
    log.error("evaluate.py: stopped; what was scored is kept, the same command goes on from there")
    sys.exit(128 + number)


def main() -> int:
    lasting_streams()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    args, engine_flags = parse_args()
    start, results = time.perf_counter(), {}
    with contextlib.ExitStack() as at_end:
        try:
            task = load_task(args.task)
            if args.labels:
                print(json.dumps(label_quality(args.labels, args.gold, args.limit, task)))
                return 0
            chats, gold, kinds = read_rows(args, task)
            problem = guard_problem(args.task, task)
            if problem and {"teacher", "base_prompt"}.intersection(args.systems):  # whose answers it reads
                log.warning("evaluate.py: %s; nothing is guarded here, it matters where a model answers so", problem)
            if args.teacher_answers:
                results["teacher"] = read_teacher(Path(args.teacher_answers), chats, task)
            process = at_end.enter_context(Apart())
            check_models(args, engine_flags, process)
            unfinished = at_end.enter_context(Unfinished(args.report_dir))
            if "teacher" in args.systems and not args.teacher_answers:
                teacher = (args.teacher_model, args.teacher_commit)
                process.call(check_teacher_model, *teacher, args.reasoning_parser, engine_flags)
            ways = []
            if "student" in args.systems:  # the first system runs in the process that has made this plan
                student = (args.serve_adapter, args.adapter, args.student_model)
                commit = args.student_commit
                ways = process.call(plan_serving, *student, engine_flags, args.tensor_parallel_size, commit)
                check_plan(ways, unfinished.folder)
                if ways[0].served_as == LORA:  # a merged copy has the adapter's own tokenizer
                    process.call(check_student_tokens, args.adapter, args.student_model, commit)
            systems = [describe(name, args, len(chats)) for name in args.systems if name not in results]
            left_out, dated = {}, []
            if systems:
                roles = Counter(map(roles_of, chats))
                left_out, dated = process.call(try_templates, systems, task, roles, args.adapter, engine_flags)
            for name, reason in left_out.items():
                log.warning("%s is left out: %s", TITLES[name], reason)
            systems = [system for system in systems if system.name not in left_out]
            if not systems and not results:
                raise ValueError("no system is left to be asked")
        except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
            print(f"evaluate.py: {one_line(error)}", file=sys.stderr)
            return 2

        engine = (engine_flags, args.tensor_parallel_size)
        common = common_key(task, chats, *engine, cpu_name())
        keys = {system.name: key_of(system, common, args.adapter, args.serve_adapter) for system in systems}
        scored = Scored(unfinished.folder, keys)
        taken_over = scored.take_over()
        asking = Asking(task, chats, *engine, args.adapter, str(unfinished.merged), scored)
        try:
            found, check = score_systems(process, systems, ways, asking, taken_over)
        except SystemFailed as error:
            log.error("evaluate.py: %s%s", error, scored.what_is_kept())
            return error.exit_code
        results.update(found)

        prices = Prices(args.price_input, args.price_cached, args.price_output)
        metrics = measure(results, gold, kinds, bool(task.labels), prices) | origin(args, task, results)
        metrics.update(how_measured(results, check, taken_over))
        metrics.update(left_out=left_out, dated_templates=dated)
        if "teacher" in results:
            metrics.update(thinking(results["teacher"], args, len(gold)))
        if not_thinking(metrics):
            log.warning("evaluate.py: %s", not_thinking(metrics))
        write_report(args.report_dir, metrics, predictions(chats, gold, results))
        unfinished.remove_scored()

    compared = tables(metrics)[0]
    print(markdown(compared.header, compared.rows))
    for sentence in sentences(metrics):
        print(sentence)
    print(f"Report: {args.report_dir / 'report.html'}")
    print(json.dumps(shown_summary(metrics, time.perf_counter() - start)))
    return 0


if __name__ == "__mp_main__":  # one system's process, or its engine's
    begin_child()
if __name__ == "__main__":
    sys.exit(main())
