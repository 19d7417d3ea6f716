"""One run of step 1: what is checked first, how the teacher starts, and what is asked."""

import argparse
import contextlib
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from distill.cli import check_model, check_writable
from distill.labels.console import say_start
from distill.labels.inputs import Inputs, scan_inputs
from distill.labels.journal import Journal
from distill.labels.labelling import Labelling, Settings, record_rows
from distill.labels.replicas import connect, label_on_replicas
from distill.locks import OutputLock
from distill.outputs import check_apart
from distill.stopping import UnwindAtSignals
from distill.system import versions
from distill.task import Task, load_task
from distill.teacher.check import check_guard, check_teacher
from distill.teacher.engine import start_engine
from distill.teacher.vllm_engine import VLLMTeacher


def settings_of(args) -> Settings:
    """How rows are asked under the flags."""
    return Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})


def header_of(args, task: Task, inputs: Inputs) -> dict:
    """What decides the labels, as the journal's header has it."""
    return {
        "model": args.model_name,
        "revision": args.revision,
        "task": task.hash,
        "inputs": inputs.sha256,
        **asdict(settings_of(args)),
    }


@dataclass
class Run:
    """One call of this script, as far as it was checked without a model."""

    args: argparse.Namespace
    engine_flags: list[str]
    settings: Settings
    task: Task
    inputs: Inputs
    journal: Journal
    missing: np.ndarray  # which inputs are to be asked

    @property
    def asked(self) -> int:
        """How many inputs are to be asked."""
        return int(self.missing.sum())

    def details(self) -> dict:
        """What the journal and the manifest say of this call, and what does not decide whether it
        continues.
        """
        # what was begun goes on with its commit; without a question nothing was loaded
        commit = self.args.revision if self.asked else self.journal.commit
        return {"versions": versions(), "engine_flags": self.engine_flags, "commit": commit}


def begin(args, engine_flags: list[str], at_end: contextlib.ExitStack) -> Run:
    """Check everything that needs no model.

    Take the output's lock until `at_end`, and find what is to be asked. Raises ValueError or
    OSError, and then nothing was changed.
    """
    output = Path(args.output_file)
    task = load_task(args.task)
    check_model(args.model_name)
    check_writable(output)
    check_apart(output, args.input_file, args.task)
    if args.overwrite and args.num_shards > 1:
        raise ValueError(
            "--overwrite does not go with --shard; remove the output and its journals instead"
        )
    at_end.enter_context(OutputLock(output, args.shard_index, args.num_shards))
    if output.exists() and not args.overwrite:
        raise ValueError(f"{output}: exists and is finished; --overwrite replaces it")
    inputs = scan_inputs(args.input_file, args.limit)
    journal = Journal(
        output, header_of(args, task, inputs), inputs, args.shard_index, args.num_shards
    )
    journal.open(args.overwrite)
    return Run(args, engine_flags, settings_of(args), task, inputs, journal, journal.missing())


def start_teacher(run: Run, stop: UnwindAtSignals):
    """Check the teacher and start its engine; None where replicas on a cluster start theirs.

    Raises ValueError or OSError.
    """
    args = run.args
    check_guard(args, run.task)
    # what was begun goes on with its commit, should the branch have moved since;
    # replicas load it too
    args.revision = run.journal.commit or args.revision
    engine_args = check_teacher(args, run.engine_flags, run.task, run.inputs.roles)
    args.revision = engine_args.revision
    if not args.num_replicas:
        say_start(len(run.inputs), run.asked, args.model_name, args.output_file, args.shard)
        return start_engine(engine_args)
    if engine_args.pipeline_parallel_size > 1:
        raise ValueError(
            "--pipeline_parallel_size spans nodes, a replica does not; drop --num_replicas"
        )
    connect(args)
    stop.listen()  # Ray has put its own handler of SIGTERM in the place
    replicas = args.num_replicas
    say_start(len(run.inputs), run.asked, args.model_name, args.output_file, replicas=replicas)
    return None


def label(run: Run, engine) -> None:
    """Ask for what is missing, and journal it. Raises TeacherEnded or ReplicasFailed."""
    if run.args.overwrite:
        run.journal.clear()
    run.journal.start(**run.details(), started=datetime.now(UTC).isoformat(timespec="seconds"))
    if engine is None:
        decided = label_on_replicas(
            run.args, run.settings, run.engine_flags, run.task, run.inputs, run.missing
        )
    else:
        teacher = VLLMTeacher(engine, run.settings.thinks)
        decided = Labelling(teacher, run.task, run.settings).label(run.inputs.read(run.missing))
    done = run.inputs.unique() - run.asked if run.args.num_shards == 1 else 0
    record_rows(decided, run.journal, run.asked, done)
