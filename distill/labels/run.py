"""One run of step 1: what is checked first, how the teacher starts, and what is asked."""

import contextlib
import logging
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from distill.adapter_files import weights_identity
from distill.cli import check_model, check_writable
from distill.labels.choices import Choices
from distill.labels.console import say_start
from distill.labels.inputs import Inputs, scan_inputs
from distill.labels.journal import Journal
from distill.labels.labelling import Labelling, record_rows
from distill.labels.ray_cluster import connect
from distill.labels.replicas import Assignment, label_on_replicas
from distill.labels.reuse import Beginning
from distill.labels.sizes import Sizes, measure_inputs
from distill.locks import OutputLock
from distill.model_tokenizer import check_prompt, load_tokenizer
from distill.outputs import check_apart, check_chat_file
from distill.prices import TokenPrices
from distill.system import versions
from distill.task import Task, load_task
from distill.teacher.check import (
    TeacherModel,
    check_guard,
    check_teacher,
    refuse_empty_guard,
)
from distill.teacher.engine import start_engine, stop_engine
from distill.teacher.http import HTTPTeacher
from distill.teacher.purse import Purse
from distill.teacher.server import VLLM, Server, ask_about
from distill.teacher.vllm_engine import VLLMTeacher

log = logging.getLogger("create_data")


@dataclass(frozen=True)
class Run:
    """One call of create_data.py, as far as it was checked without a model."""

    choices: Choices
    task: Task
    inputs: Inputs
    journal: Journal
    missing: np.ndarray  # which inputs are to be asked
    reused: int  # inputs that differ and are decided already
    beginning: Beginning  # what has changed since the run before, and what of it holds
    finished: bool = False  # the output is there and stays, so that nothing is to be done

    @property
    def asked(self) -> int:
        """How many inputs are to be asked."""
        return int(self.missing.sum())

    def details(self, commit: str | None) -> dict:
        """What journal and manifest say of this call without deciding whether it continues.

        `commit` is that of a teacher on the hub.
        """
        engine_flags = self.choices.teacher.engine_flags
        found = {"versions": versions(), "engine_flags": engine_flags, "commit": commit}
        server = self.choices.server
        if server:
            found["teacher_url"] = server.url  # which holds no key, see server.check_url()
            found["api_key_env"] = server.api_key_env
            found["teacher_tokenizer"] = server.tokenizer
            found["served_by"] = self.journal.served_by
        return found


@dataclass(frozen=True)
class Started:
    """A teacher that can be asked."""

    model: TeacherModel  # its revision is now the commit that was loaded
    engine: object | None  # vLLM's; None where replicas on a cluster start theirs
    server: HTTPTeacher | None = None  # where the teacher is a URL

    def close(self) -> None:
        """End the engine, or the connections."""
        if self.engine:
            stop_engine(self.engine)
        if self.server:
            self.server.close()


def header_of(choices: Choices, task: Task, inputs: Inputs) -> dict:
    """What decides the labels, as the journal's header has it."""
    header = {
        "model": choices.teacher.model_name,
        "revision": choices.teacher.revision,
        **task.named(),
        "inputs": inputs.sha256,
        **asdict(choices.settings),
    }
    # None, as in an older journal: an engine of ours
    header["server"] = choices.server.host if choices.server else None
    weights = None if choices.server else weights_identity(choices.teacher.model_name)
    if weights:  # of a model on the hub it is the commit that a run goes on with
        header["weights"] = weights
    return header


def begin(choices: Choices, at_end: contextlib.ExitStack) -> Run:
    """Check everything that needs no model, and find what is to be asked.

    Takes the output's lock until `at_end`, which a dry run does not need, for it only looks.
    Raises ValueError or OSError, and then nothing was changed.
    """
    output = Path(choices.output_file)
    shard = choices.shard
    task = load_task(choices.task_file)
    if not choices.server:  # which calls its models as it likes
        check_model(choices.teacher.model_name)
    check_chat_file(output, "--output_file")
    check_writable(output)
    check_apart(output, choices.input_file, choices.task_file)
    if choices.overwrite and shard.count > 1:
        raise ValueError(
            "--overwrite does not go with --shard; remove the output and its journals instead"
        )
    lock = OutputLock(output, shard.index, shard.count)
    in_turn = bool(choices.reuse) and shard.count > 1
    if not choices.dry_run and not in_turn:
        at_end.enter_context(lock)
    inputs = scan_inputs(choices.input_file, choices.limit, choices.columns)
    header = header_of(choices, task, inputs)
    journal = Journal(output, header, inputs, shard.index, shard.count)
    beginning = Beginning(journal, task, choices.settings, choices.reuse, choices.skip_finished)
    finished = False
    if choices.overwrite:
        journal.open(overwrite=True)
    elif in_turn and not choices.dry_run:
        finished = beginning.open_in_turn(lambda: at_end.enter_context(lock))
    else:
        finished = beginning.open(None if choices.dry_run else lock)
    reused = int((journal.places >= 0).sum())
    return Run(choices, task, inputs, journal, journal.missing(), reused, beginning, finished)


def check_guards(run: Run) -> None:
    """Refuse a task that cannot be guarded as the flags say. Raises ValueError."""
    choices = run.choices
    check_guard(choices.task_file, run.task, choices.settings.guards)
    if not run.journal.begun():  # what older code has begun goes on
        refuse_empty_guard(choices.task_file, run.task, choices.settings.guards)


def start_teacher(run: Run) -> Started:
    """Check the teacher and start its engine, unless replicas on a cluster start theirs.

    Raises ValueError or OSError.
    """
    choices = run.choices
    guards = choices.settings.guards
    check_guards(run)
    if choices.server:
        teacher = open_server(choices.server, run)
        say_start(len(run.inputs), run.asked, where_of(choices), choices.output_file, choices.shard)
        return Started(choices.teacher, None, teacher)
    # what was begun goes on with its commit, should the branch have moved since
    model = replace(choices.teacher, revision=run.journal.commit or choices.teacher.revision)
    engine_args = check_teacher(model, choices.task_file, run.task, guards, run.inputs.roles)
    model = replace(model, revision=engine_args.revision)  # replicas load it too
    asked = (len(run.inputs), run.asked, model.model_name, choices.output_file)
    if not choices.cluster.num_replicas:
        say_start(*asked, choices.shard)
        return Started(model, start_engine(engine_args))
    if engine_args.pipeline_parallel_size > 1:
        raise ValueError(
            "--pipeline_parallel_size spans nodes, a replica does not; drop --num_replicas"
        )
    connect(choices.cluster)
    say_start(*asked, replicas=choices.cluster.num_replicas)
    return Started(model, None)


def open_server(server: Server, run: Run) -> HTTPTeacher:
    """The teacher behind a URL, asked about itself first. Raises ValueError."""
    about = ask_about(server)
    choices = run.choices
    if choices.settings.guards == "always" and run.task.labels and about.kind != VLLM:
        raise ValueError(
            "--structured_outputs always: this server guards no labels, which vLLM's does; "
            "leave the flag out"
        )
    tokenizer = None
    if server.tokenizer:
        tokenizer = load_tokenizer(server.tokenizer)
        check_prompt(server.tokenizer, tokenizer, run.task)
    if choices.prices != TokenPrices():
        sizes = measure_inputs(run.task, run.inputs, run.missing, tokenizer)
        log.info("create_data.py: %s", estimate_of(run, sizes))
    purse = Purse(choices.prices, choices.budget)
    purse.spent = run.journal.spent(choices.prices)
    return HTTPTeacher(
        server, about, choices.settings.thinks, tokenizer, run.journal.served_by, purse=purse
    )


def estimate_of(run: Run, sizes: Sizes) -> str:
    """What the requests of a run are expected to cost, in one line; empty without prices."""
    choices = run.choices
    if choices.prices == TokenPrices():
        return ""
    requests = run.asked * choices.settings.num_samples
    prompt_tokens = round(requests * (sizes.prompt + sizes.mean_input))
    output_tokens = requests * choices.expected_output_tokens
    cost = Purse(choices.prices).cost(prompt_tokens, 0, output_tokens)
    return (
        f"about {cost:.4g} for {requests:,} requests, {prompt_tokens:,} tokens of prompts and "
        f"{output_tokens:,} of answers (--expected_output_tokens {choices.expected_output_tokens})"
        ", if nothing is cached and no row is asked again"
    )


def where_of(choices: Choices) -> str:
    """The teacher behind a URL, as a message names it."""
    return f"{choices.teacher.model_name} at {choices.server.url}"


def label(run: Run, started: Started) -> None:
    """Ask for what is missing, and journal it. Raises TeacherEnded or ReplicasFailed."""
    choices = run.choices
    settings = choices.settings
    if choices.overwrite:
        run.journal.clear()
    run.beginning.take_over()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    run.journal.start(**run.details(started.model.revision), started=now)
    if started.server:
        labelling = Labelling(started.server, run.task, settings)
        decided = labelling.label(run.inputs.read(run.missing))
    elif started.engine is None:
        assignment = Assignment(started.model, settings, choices.task_file, run.task)
        decided = label_on_replicas(choices.cluster, assignment, run.inputs, run.missing)
    else:
        teacher = VLLMTeacher(started.engine, settings.thinks)
        decided = Labelling(teacher, run.task, settings).label(run.inputs.read(run.missing))
    done = run.inputs.unique() - run.asked if choices.shard.count == 1 else 0
    try:
        record_rows(decided, run.journal, run.asked, done, choices.prices)
    finally:
        if started.server:
            # attempts at rows that are not decided are in no line, and have cost money all the same
            unrecorded = started.server.purse.spent - run.journal.spent(choices.prices)
            if unrecorded > 1e-9:
                run.journal.charge(unrecorded)
