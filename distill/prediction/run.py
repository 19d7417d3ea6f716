"""One run of predict.py: what is checked first, how the student starts, and what is asked."""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from distill.adapter import check_plan
from distill.cli import check_writable
from distill.labels.inputs import Inputs, scan_inputs
from distill.labels.journal import Journal
from distill.labels.ray_cluster import connect
from distill.labels.replicas import label_on_replicas
from distill.locks import OutputLock, open_journal, own_journal
from distill.next_step import manifest_of
from distill.old_values import first_difference
from distill.outputs import beside, check_apart, parse
from distill.prediction.asking import record_predictions
from distill.prediction.calibrated import (
    Used,
    find_calibration,
    same_calibration,
    say_calibration,
)
from distill.prediction.choices import Choices
from distill.prediction.console import say_start, warn_of_lost_columns
from distill.prediction.engine import FLAG, Plan, Started, StudentWork, plan_student
from distill.prediction.rows import columns_of
from distill.prediction.served import Served, ServedWork, open_student
from distill.prediction.student import Student, find_student
from distill.prediction.table_files import check_ending
from distill.staging import Staging
from distill.system import versions

MARK_TEXT = (
    "predict.py merges the student's adapter here for its engine, which reads it once.\n"
    "The directory may be deleted when no predict.py is at work.\n"
)
# of an output that no run is known to have finished
UNKNOWN = "no manifest says how it was made; --overwrite replaces it"
OTHERWISE_CALIBRATED = (
    "written with another calibration, or without one; remove it, and the same command writes it "
    "anew from its journal"
)
# what differs between a journal and the run that would continue it, in words, by the header's key
DIFFERENCES = {
    "model": "another base model",
    "revision": "another revision of the model",
    "student": "another student: it was trained again, or its files have changed",
    "base": "other weights of the base model: its files have changed",
    "server": "a student at another host, or on this machine",
    "labels": "a task with other labels",
    "schema": "a task with another schema",
    "max_tokens": "another --max_tokens",
    "inputs": "other inputs (--limit counts too)",
}


class PredictionJournal(Journal):
    """The journal of predictions, in the form of step 1's."""

    def compare(self, path: Path, run: dict) -> None:
        """Raise ValueError if what `path` holds is of another `run`, by its header."""
        if "student" not in run:
            raise ValueError(
                f"{path}: is a journal of create_data.py; choose another --output_file"
            )
        found = first_difference(run, self.run, {})
        if found:
            what = DIFFERENCES.get(found.key, f"another {found.key}")
            raise ValueError(f"{path}: made with {what}; --overwrite starts afresh")


@dataclass(frozen=True)
class Run:
    """One call of predict.py, as far as it was checked without a model."""

    choices: Choices
    student: Student
    inputs: Inputs
    columns: list[str]  # of the input file
    journal: PredictionJournal
    calibration: Used | None  # of the confidence
    missing: np.ndarray  # which inputs are to be asked
    finished: bool  # the output is there and stays, so that nothing is to be done

    @property
    def asked(self) -> int:
        """How many inputs are to be asked."""
        return int(self.missing.sum())

    def details(self, commit: str | None) -> dict:
        """What journal and manifest say of this call without deciding whether it continues."""
        engine_flags = self.choices.engine_flags
        found = {"versions": versions(), "engine_flags": engine_flags, "commit": commit}
        server = self.choices.server
        if server:
            found["student_url"] = server.url  # which holds no key, see server.check_url()
            found["student_api_key_env"] = server.api_key_env
            found["student_tokenizer"] = server.tokenizer
            found["served_by"] = self.journal.served_by
        return found


def begun_with_commit(output: Path) -> str | None:
    """The commit of a student on the hub with which a run was begun that wrote to `output`.

    None where there was no such run: one that had an adapter is not told by its commit.
    """
    begun = {}
    with open_journal(own_journal(output)) as file:
        for line in file:
            record = parse(line)
            if record and "run" in record:
                begun = {**record["run"], "commit": record.get("commit")}
                break
    begun = begun or manifest_of(str(output))
    commit = begun.get("commit")
    return commit if commit == begun.get("student") else None


def header_of(
    choices: Choices, student: Student, inputs: Inputs, begun_with: str | None = None
) -> dict:
    """What decides the answers, as the journal's header has it.

    `begun_with` is the commit with which an earlier call has begun, of a student on the hub.
    """
    return {
        "model": student.model,
        "revision": student.revision,
        "student": student.identity(begun_with),
        "base": student.base_identity(),
        # None, as in an older journal: an engine of ours
        "server": student.server.host if student.server else None,
        # of the task, nothing else decides how a student's answer is read
        "labels": list(student.task.labels),
        "schema": student.task.schema,
        "max_tokens": choices.max_tokens,
        "inputs": inputs.sha256,
    }


def begin(choices: Choices, at_end: contextlib.ExitStack) -> Run:
    """Check everything that needs no model, and find what is to be asked.

    Takes the output's lock until `at_end`. Raises ValueError or OSError, and then nothing was
    changed.
    """
    output = Path(choices.output_file)
    check_ending(output)
    student = find_student(choices)
    calibration = find_calibration(choices, student)
    check_writable(output)
    check_apart(output, choices.input_file, student.task_file)
    if calibration:
        check_apart(output, calibration.file)
    at_end.enter_context(OutputLock(output))
    stays = output.exists() and not choices.overwrite
    finished = stays and beside(output, "manifest.json").exists()
    if finished and not choices.skip_finished:
        if not same_calibration(choices.output_file, calibration):
            raise ValueError(f"{output}: is finished and was {OTHERWISE_CALIBRATED}")
        raise ValueError(f"{output}: exists and is finished; --overwrite replaces it")
    inputs = scan_inputs(choices.input_file, choices.limit, choices.columns)
    begun_with = None if choices.overwrite else begun_with_commit(output)
    header = header_of(choices, student, inputs, begun_with)
    journal = PredictionJournal(output, header, inputs)
    journal.open(choices.overwrite)
    missing = journal.missing()
    # a run that was killed before it wrote the manifest has all answers in its journal, from which
    # both are written again
    if stays and not finished and missing.any():
        raise ValueError(f"{output}: {UNKNOWN}")
    columns = columns_of(inputs)
    if not finished:
        warn_of_lost_columns(choices.input_file)
        say_calibration(calibration)
    return Run(choices, student, inputs, columns, journal, calibration, missing, finished)


def plan_run(run: Run) -> Plan:
    """Check the student as far as that needs no engine. Raises ValueError or OSError."""
    if run.choices.server:  # it is checked when it is asked
        return Plan(commit=None, ways=[])
    return plan_student(run.choices, run.student, run.inputs.roles, run.journal.commit)


def start(run: Run, plan: Plan):
    """Start the student's engine, unless replicas on a cluster start theirs or a server has it.

    Returns the StudentWork, and what it has Started or None; or ServedWork and Served. Raises
    ValueError or OSError, or ServerEnded.
    """
    choices = run.choices
    if choices.server:
        return start_served(run, plan)
    replicas = choices.cluster.num_replicas
    work = StudentWork(
        model=run.student.model,
        plan=plan,
        adapter=run.student.adapter,
        engine_flags=choices.engine_flags,
        tensor_parallel_size=choices.cluster.tensor_parallel_size,
        on_replica=bool(replicas),
        task=run.student.task,
        max_tokens=choices.max_tokens,
    )
    if replicas:
        connect(choices.cluster)
    say_start(choices, run.student, len(run.inputs), run.asked, plan.served_as)
    if replicas:
        return work, None
    if not plan.may_merge:
        return work, work.start()
    folder = Path(f"{choices.output_file}.unfinished")
    with Staging(folder, "predict.py", FLAG, MARK_TEXT) as staging:
        check_plan(plan.ways, folder, "predict.py", FLAG)
        return work, work.start(staging.merged)


def start_served(run: Run, plan: Plan) -> tuple[ServedWork, Served]:
    """Find the student behind its URL, and try it. Raises ValueError or ServerEnded."""
    choices = run.choices
    student = open_student(
        choices.server, run.inputs.roles, choices.max_tokens, run.journal.served_by
    )
    say_start(choices, run.student, len(run.inputs), run.asked, plan.served_as)
    return ServedWork(plan, run.student.task, choices.max_tokens), Served(student)


def predict(run: Run, work: StudentWork | ServedWork, started: Started | Served | None) -> None:
    """Ask for what is missing, and journal it. Raises TeacherEnded or ReplicasFailed.

    `started` is None where replicas answer.
    """
    choices = run.choices
    if choices.overwrite:
        run.journal.clear()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    run.journal.start(**run.details(work.plan.commit), started=now)
    if started is None:
        decided = label_on_replicas(choices.cluster, work, run.inputs, run.missing)
    else:
        decided = work.asking(started).label(run.inputs.read(run.missing))
    record_predictions(decided, run.journal, run.asked, run.inputs.unique() - run.asked)
