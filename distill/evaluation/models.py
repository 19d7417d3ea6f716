"""The models of step 3: whether they are there, and which commit of each is asked."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from distill.adapter_files import recorded_base
from distill.cli import check_model, check_writable
from distill.evaluation.apart import Apart
from distill.evaluation.choices import Choices
from distill.revisions import resolve
from distill.teacher.engine import check_engine_flags

log = logging.getLogger("evaluate")


@dataclass(frozen=True)
class Revisions:
    """Which branch, tag or commit of each model on the hub is asked for; None: main."""

    teacher: str | None
    student: str | None


@dataclass(frozen=True)
class Models:
    """What was asked for, and the commits that were found; None for a directory."""

    revisions: Revisions
    teacher_commit: str | None
    student_commit: str | None


def check_models(choices: Choices, process: Apart) -> Models:
    """Refuse models, an adapter or flags that cannot work, before anything is loaded.

    `process` imports vLLM. Raises ValueError.
    """
    if choices.asks_teacher:
        check_model(choices.teacher_model)
    if choices.asks_student:
        check_model(choices.student_model)
    if choices.serves_student:
        check_adapter(choices.adapter, choices.student_model)
    check_writable(choices.report_dir / "report.md")
    revisions = revisions_of(choices)
    if choices.engine_flags:  # a bad one is refused before the hub is asked
        model = choices.teacher_model
        revision = revisions.teacher
        if choices.asks_student:
            model = choices.student_model
            revision = revisions.student
        process.call(check_engine_flags, model, choices.engine_flags, revision)
    teacher_commit = None
    if choices.asks_teacher:
        teacher_commit = resolve(choices.teacher_model, revisions.teacher, "--teacher_revision")
    student_commit = None
    if choices.asks_student:
        student_commit = resolve(choices.student_model, revisions.student, "--student_revision")
    if choices.serves_student:
        warn_of_another_commit(choices.adapter, choices.student_model, student_commit)
    return Models(revisions, teacher_commit, student_commit)


def check_adapter(adapter: str, student_model: str) -> None:
    """Raise ValueError if there is no adapter, or if it is another model's."""
    config = Path(adapter) / "adapter_config.json"
    if not config.is_file():
        raise ValueError(
            f"{adapter}: no adapter here (adapter_config.json is missing); train one first"
        )
    base = recorded_base(adapter).name
    if Path(base).name != Path(student_model).name:
        raise ValueError(f"{adapter}: adapter of {base}, not of --student_model {student_model}")


def revisions_of(choices: Choices) -> Revisions:
    """The revisions of models on the hub: --revision is both's, and an adapter knows its base's."""
    recorded = None
    if choices.serves_student:
        recorded = recorded_base(choices.adapter).revision
    teacher = choices.teacher_revision
    if not Path(choices.teacher_model).expanduser().is_dir():
        teacher = teacher or choices.revision
    student = choices.student_revision
    if not Path(choices.student_model).expanduser().is_dir():
        student = student or choices.revision or recorded
    return Revisions(teacher, student)


def warn_of_another_commit(adapter: str, student_model: str, commit: str | None) -> None:
    """Say so if the adapter was trained on another commit of the student than is asked."""
    run = Path(adapter) / "run.json"
    if not commit or not run.is_file():
        return
    trained_on = json.loads(run.read_text()).get("commit")
    if trained_on and commit != trained_on:
        remedy = f"--student_revision {trained_on} loads that"
        log.warning("%s: trained on another commit of %s; %s", adapter, student_model, remedy)
