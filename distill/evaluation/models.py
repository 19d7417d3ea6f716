"""The models of step 3: whether they are there, and which commit of each is asked."""

import json
import logging
from pathlib import Path

from distill.cli import check_model, check_writable
from distill.evaluation.apart import Apart
from distill.revisions import resolve
from distill.teacher.engine import check_engine_flags

log = logging.getLogger("evaluate")


def check_models(args, engine_flags: list[str], process: Apart) -> None:
    """Refuse models, an adapter or flags that cannot work, before anything is loaded.

    `process` imports vLLM. Fills in the revisions and commits of `args`. Raises ValueError.
    """
    asks_teacher = "teacher" in args.systems and not args.teacher_answers
    if asks_teacher:
        check_model(args.teacher_model)
    if args.systems != ["teacher"]:
        check_model(args.student_model)
    if "student" in args.systems:
        check_adapter(args.adapter, args.student_model)
    check_writable(args.report_dir / "report.md")
    choose_revisions(args)
    if engine_flags:  # a bad one is refused before the hub is asked
        if args.systems == ["teacher"]:
            process.call(
                check_engine_flags, args.teacher_model, engine_flags, args.teacher_revision
            )
        else:
            process.call(
                check_engine_flags, args.student_model, engine_flags, args.student_revision
            )
    if asks_teacher:
        args.teacher_commit = resolve(
            args.teacher_model, args.teacher_revision, "--teacher_revision"
        )
    if args.systems != ["teacher"]:
        args.student_commit = resolve(
            args.student_model, args.student_revision, "--student_revision"
        )
    if "student" in args.systems:
        warn_of_another_commit(args.adapter, args.student_model, args.student_commit)


def check_adapter(adapter: str, student_model: str) -> None:
    """Raise ValueError if there is no adapter, or if it is another model's."""
    config = Path(adapter) / "adapter_config.json"
    if not config.is_file():
        raise ValueError(
            f"{adapter}: no adapter here (adapter_config.json is missing); train one first"
        )
    base = json.loads(config.read_text())["base_model_name_or_path"]
    if Path(base).name != Path(student_model).name:
        raise ValueError(f"{adapter}: adapter of {base}, not of --student_model {student_model}")


def choose_revisions(args) -> None:
    """Fill in the revisions of models on the hub: --revision is both's, and an adapter knows its
    base's.
    """
    recorded = None
    if "student" in args.systems:
        recorded = json.loads((Path(args.adapter) / "adapter_config.json").read_text()).get(
            "revision"
        )
    if not Path(args.teacher_model).expanduser().is_dir():
        args.teacher_revision = args.teacher_revision or args.revision
    if not Path(args.student_model).expanduser().is_dir():
        args.student_revision = args.student_revision or args.revision or recorded


def warn_of_another_commit(adapter: str, student_model: str, commit: str | None) -> None:
    """Say so if the adapter was trained on another commit of the student
    than the one that is asked.
    """
    run = Path(adapter) / "run.json"
    if not commit or not run.is_file():
        return
    trained_on = json.loads(run.read_text()).get("commit")
    if trained_on and commit != trained_on:
        remedy = f"--student_revision {trained_on} loads that"
        log.warning("%s: trained on another commit of %s; %s", adapter, student_model, remedy)
