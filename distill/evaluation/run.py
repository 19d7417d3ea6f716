"""One run of step 3: what is checked first, whom it asks, and what it finds."""

import contextlib
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from distill.adapter import LORA, Serving, check_plan, plan_serving
from distill.confidence import CHOSEN_TOKEN
from distill.evaluation.apart import Apart, Here
from distill.evaluation.ask import Asking, SystemFailed, score_systems
from distill.evaluation.calibrated import add_confidence, calibrate, save
from distill.evaluation.calibration_rows import NONE, CalibrationRows, read_calibration_rows
from distill.evaluation.card import add_to_card
from distill.evaluation.cascade import add_cascade, cascade_result
from distill.evaluation.choices import Choices
from distill.evaluation.fields import fields_of
from distill.evaluation.further import Further
from distill.evaluation.models import Models, check_models
from distill.evaluation.provenance import how_measured, origin, predictions, thinking
from distill.evaluation.report import write_report
from distill.evaluation.rows import Rows, read_rows, read_teacher
from distill.evaluation.scored import Scored, Unfinished, common_key, key_of
from distill.evaluation.scores import chrf_metric, measure
from distill.evaluation.served import BehindURL, find_server, identity_of
from distill.evaluation.systems import (
    BASE_LATENCY_ROWS,
    BASE_SYSTEMS,
    CASCADE,
    TITLES,
    System,
    title_of,
)
from distill.evaluation.templates import try_templates
from distill.evaluation.verdict import not_thinking
from distill.model_tokenizer import check_student_tokens
from distill.system import machine
from distill.task import Task, guard_problem
from distill.teacher.check import check_teacher_model
from distill.unfit_rows import roles_of

log = logging.getLogger("evaluate")


@dataclass(frozen=True)
class Plan:
    """What is asked and how, after everything that was checked before an engine starts."""

    choices: Choices
    task: Task
    rows: Rows
    calibration: CalibrationRows
    models: Models
    process: Apart | Here  # in which the first system runs, too
    unfinished: Unfinished
    given: dict[str, dict]  # results that a file holds, by system
    systems: list[System]  # to be asked
    ways: list[Serving]  # to serve the adapter
    behind_url: dict[str, BehindURL]  # systems that a server has
    left_out: dict[str, str]  # systems that cannot be asked, and why
    dated: list[str]  # models whose chat templates write the date

    def names(self) -> list[str]:
        """The systems that are compared."""
        return [name for name in self.choices.systems if name not in self.left_out]

    def asked_again(self) -> list[int]:
        """Which of the calibration rows the teacher is asked twice."""
        return self.calibration.some(self.choices.handing_over.asked_again)

    def further(self) -> Further:
        """What is asked for the calibration."""
        chats = self.calibration.chats
        return Further(tuple(chats), tuple(chats[row] for row in self.asked_again()))

    def titles(self) -> list[str]:
        """What they are called."""
        teacher = self.given.get("teacher", {})
        thinks = teacher.get("thinks", self.choices.reasoning_parser != "none")
        from_elsewhere = teacher.get("from_elsewhere", False)
        return [title_of(name, thinks, from_elsewhere) for name in self.names()]


def describe(name: str, choices: Choices, models: Models, rows: int) -> System:
    """How a system is asked under the flags, for `rows` rows."""
    is_teacher = name == "teacher"
    prompted = name in ("teacher", "base_prompt")
    latency_rows = choices.latency_rows
    if name in BASE_SYSTEMS:
        latency_rows = min(latency_rows, BASE_LATENCY_ROWS)
    model = choices.teacher_model if is_teacher else choices.student_model
    revision = models.teacher_commit if is_teacher else models.student_commit
    check_rows = min(choices.check_rows, rows) if name == "student" else 0
    server = choices.servers.get(name)
    if server:
        model = server.model
        revision = None
        check_rows = 0  # PEFT has not the adapter that it serves
    return System(
        name=name,
        model=model,
        revision=revision,
        prompted=prompted,
        thinks=is_teacher and choices.reasoning_parser != "none",
        temperature=choices.temperature if is_teacher else 0.0,
        # who may think aloud gets room for it
        max_tokens=choices.max_tokens if prompted else choices.student_max_tokens,
        latency_rows=latency_rows,
        check_rows=check_rows,
        server=server.host if server else None,
        logprobs=CHOSEN_TOKEN if name == "student" else None,
    )


def prepare(choices: Choices, task: Task, at_end: contextlib.ExitStack) -> Plan:
    """Read the rows and refuse what cannot work.

    Processes and locks are held until `at_end`. Raises ValueError, KeyError, OSError, RuntimeError
    or ImportError.
    """
    files = (choices.test_file, choices.inputs_without_gold)
    rows = read_rows(*files, choices.limit, task, choices.columns)
    calibration = rows_for_calibration(choices, rows, task)
    warn_of_guard(choices, task)
    if not task.labels and not task.schema:
        chrf_metric()  # before hours of asking, not behind them
    given = given_answers(choices, rows, task)
    process = at_end.enter_context(Apart(quickly=True) if choices.starts_engine else Here())
    models = check_models(choices, process)
    unfinished = at_end.enter_context(Unfinished(choices.report_dir))
    if choices.asks_teacher:
        teacher = (choices.teacher_model, models.teacher_commit, choices.reasoning_parser)
        process.call(check_teacher_model, *teacher, choices.engine_flags)
    behind_url = {}
    for name, server in choices.servers.items():
        behind_url[name] = process.call(find_server, server)
    ways = []
    if choices.serves_student:
        ways = plan_student(choices, models, process, unfinished)
    asked = []
    for name in choices.systems:
        if name not in given:
            asked.append(describe(name, choices, models, len(rows.chats)))
    fitting = fitting_systems(choices, asked, rows, task, process)
    if not fitting.systems and not given:
        raise ValueError("no system is left to be asked")
    return Plan(
        choices=choices,
        task=task,
        rows=rows,
        calibration=calibration,
        models=models,
        process=process,
        unfinished=unfinished,
        given=given,
        systems=fitting.systems,
        ways=ways,
        behind_url=behind_url,
        left_out=fitting.left_out,
        dated=fitting.dated,
    )


def rows_for_calibration(choices: Choices, rows: Rows, task: Task) -> CalibrationRows:
    """The rows on which the student is calibrated; NONE where it is not. Raises ValueError."""
    # --adapter may be another student's where a server has the student
    is_known = choices.handing_over.file or not choices.student_server
    if "student" not in choices.systems or not is_known:
        return NONE
    held_out = rows.chats[: len(rows.gold)]
    return read_calibration_rows(choices.handing_over.file, choices.adapter, held_out, task)


def given_answers(choices: Choices, rows: Rows, task: Task) -> dict[str, dict]:
    """The results of systems that are not asked, since their answers are there. Raises ValueError.

    At most the teacher is one.
    """
    if not choices.teacher_answers:
        return {}
    return {"teacher": read_teacher(Path(choices.teacher_answers), rows.chats, task)}


@dataclass(frozen=True)
class Fitting:
    """The systems whose chat templates can show the rows."""

    systems: list[System]
    left_out: dict[str, str]  # the others' names, and why
    dated: list[str]  # models whose chat templates write the date


def fitting_systems(
    choices: Choices, asked: list[System], rows: Rows, task: Task, process: Apart | Here
) -> Fitting:
    """Try the chat templates of the systems that an engine here will load, and say what cannot be.

    A server shows its own.
    """
    here = [system for system in asked if not system.server]
    if not here:
        return Fitting(asked, {}, [])
    roles = Counter(map(roles_of, rows.chats))
    left_out, dated = process.call(
        try_templates, here, task, roles, choices.adapter, choices.engine_flags
    )
    for name, reason in left_out.items():
        log.warning("%s is left out: %s", TITLES[name], reason)
    systems = [system for system in asked if system.name not in left_out]
    return Fitting(systems, left_out, dated)


def warn_of_guard(choices: Choices, task: Task) -> None:
    """Say so where a guard would write labels otherwise than they are read."""
    problem = guard_problem(choices.task_file, task)
    if problem and {"teacher", "base_prompt"}.intersection(choices.systems):  # it reads theirs
        log.warning(
            "evaluate.py: %s; nothing is guarded here, it matters where a model answers so", problem
        )


def plan_student(
    choices: Choices, models: Models, process: Apart, unfinished: Unfinished
) -> list[Serving]:
    """The ways to serve the adapter, for which there is room on the disk. Raises ValueError."""
    ways = process.call(
        plan_serving,
        choices.serve_adapter,
        choices.adapter,
        choices.student_model,
        choices.engine_flags,
        choices.tensor_parallel_size,
        models.student_commit,
    )
    check_plan(ways, unfinished.folder)
    if ways[0].served_as == LORA:  # a merged copy has the adapter's own tokenizer
        base = (choices.student_model, models.student_commit)
        process.call(check_student_tokens, choices.adapter, *base)
    return ways


def score(plan: Plan) -> dict:
    """Ask the systems and measure them: what metrics.json holds. Writes the report.

    Raises SystemFailed.
    """
    choices = plan.choices
    scored = scored_before(plan)
    taken_over = scored.take_over()
    asking = Asking(
        task=plan.task,
        chats=plan.rows.chats,
        engine_flags=choices.engine_flags,
        tensor_parallel_size=choices.tensor_parallel_size,
        adapter=choices.adapter,
        merged=str(plan.unfinished.merged),
        behind_url=plan.behind_url,
        scored=scored,
        further=plan.further(),
    )
    try:
        found, check = score_systems(plan.process, plan.systems, plan.ways, asking, taken_over)
    except SystemFailed as error:
        log.error("evaluate.py: %s%s", error, scored.what_is_kept())
        raise
    results = {**plan.given, **found}
    calibrated = calibrate(
        plan.calibration,
        results,
        choices.handing_over,
        plan.task,
        choices.task_file,
        choices.adapter,
    )
    add_confidence(results.get("student", {}), calibrated)
    if calibrated:
        save(choices.adapter, calibrated, is_served=choices.student_server is not None)
        if "teacher" in results:
            calibration = calibrated.calibration
            results[CASCADE] = cascade_result(results["student"], results["teacher"], calibration)
    metrics = metrics_of(plan, results, how_measured(results, check, taken_over))
    if CASCADE in results:
        add_cascade(metrics, results, plan.rows.gold, bool(plan.task.labels), calibrated)
    if not_thinking(metrics):
        log.warning("evaluate.py: %s", not_thinking(metrics))
    lines = predictions(plan.rows.chats, plan.rows.gold, results, plan.rows.ids)
    write_report(choices.report_dir, metrics, lines)
    # a trial on a few rows says too little for the card, and a server may have another adapter
    if not choices.limit and not choices.student_server:
        add_to_card(choices.adapter, metrics)
    plan.unfinished.remove_scored()
    return metrics


def scored_before(plan: Plan) -> Scored:
    """What an earlier run has kept, with the keys under which today's may take it over."""
    choices = plan.choices
    engine = (choices.engine_flags, choices.tensor_parallel_size)
    common = common_key(plan.task, plan.rows.chats, *engine, machine())
    keys = {}
    for system in plan.systems:
        keys[system.name] = key_of(system, common, choices.adapter, choices.serve_adapter)
        if system.server:
            keys[system.name]["server"] = identity_of(choices.servers[system.name])
        if system.name == "student" and plan.calibration.path:
            keys["student"]["calibration"] = plan.calibration.key()
        if system.name == "teacher" and plan.asked_again():
            keys["teacher"]["asked_again"] = [plan.calibration.key(), len(plan.asked_again())]
    return Scored(plan.unfinished.folder, keys)


def metrics_of(plan: Plan, results: dict[str, dict], measured: dict) -> dict:
    """What metrics.json holds; `measured` says how the results came about."""
    choices = plan.choices
    gold = plan.rows.gold
    has_labels = bool(plan.task.labels)
    fields = fields_of(plan.task.schema, gold)
    metrics = measure(results, gold, plan.rows.kinds, has_labels, choices.prices, fields)
    metrics["prices"] = {name: choices.prices.basis(name) for name in results if name != CASCADE}
    metrics.update(origin(choices, plan.models.revisions, plan.task, results))
    metrics.update(measured)
    metrics.update(left_out=plan.left_out, dated_templates=plan.dated)
    if "teacher" in results:
        thinks = choices.reasoning_parser != "none"
        from_file = bool(choices.teacher_answers)
        metrics.update(thinking(results["teacher"], thinks, from_file, len(gold)))
    return metrics
