"""How predict.py starts its student, here or on a replica, and what is tried before that."""

import logging
import tempfile
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from distill.adapter import LORA, MERGED, Serving, check_room, plan_serving
from distill.cli import on_one_line
from distill.model_tokenizer import PROBE, check_student_tokens, load_tokenizer, warn_of_date
from distill.prediction.asking import Predicting
from distill.prediction.choices import Choices
from distill.prediction.student import Student
from distill.revisions import resolve
from distill.serving import start_student
from distill.task import Task
from distill.teacher.check import tokenizer_of_engine
from distill.teacher.engine import EngineFailed, parse_engine_flags, stop_engine
from distill.teacher.engine_flags import given
from distill.teacher.vllm_engine import LOGPROBS, VLLMTeacher
from distill.templates import TemplateProblem
from distill.tokens import prompt_ids
from distill.unfit_rows import describe_unfit_rows, find_unfit_rows

log = logging.getLogger("predict")
LONGEST = 250  # characters of a library's reason, which may name every layer
FLAG = "--output_file"  # which chooses the disk for a merged copy


@dataclass(frozen=True)
class Plan:
    """A student that was checked, and the ways to serve it in their order."""

    commit: str | None  # of the model, if it is on the hub
    ways: list[Serving]  # empty: it has no adapter

    @property
    def served_as(self) -> str:
        """How vLLM gets the adapter at first; empty without one."""
        return self.ways[0].served_as if self.ways else ""

    @property
    def may_merge(self) -> bool:
        """Whether a merged copy may be made."""
        return any(way.served_as == MERGED for way in self.ways)


def plan_student(
    choices: Choices, student: Student, roles: Counter, begun_with: str | None
) -> Plan:
    """Refuse a student that cannot be asked, before anything large is loaded.

    `roles` counts the inputs by unfit_rows.roles_of(); those that its template does not show are
    warned of. `begun_with` is the commit with which an earlier call has begun. Raises ValueError.
    """
    model = student.model
    flags = parse_engine_flags(model, choices.engine_flags)  # before the hub is asked
    if choices.cluster.num_replicas and flags.pipeline_parallel_size > 1:
        raise ValueError(
            "--pipeline_parallel_size spans nodes, a replica does not; drop --num_replicas"
        )
    commit = resolve(model, begun_with or student.revision)
    if student.adapter and (Path(student.adapter) / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(student.adapter, trust_remote_code=flags.trust_remote_code)
    else:
        tokenizer = tokenizer_of_engine(model, commit, flags)
    check_template(student.shown(), tokenizer, roles)
    ways = []
    if student.adapter:
        parallel = choices.cluster.tensor_parallel_size
        ways = plan_serving(
            choices.serve_adapter, student.adapter, model, choices.engine_flags, parallel, commit
        )
        if ways[0].served_as == LORA:  # a merged copy has the adapter's own tokenizer
            check_student_tokens(student.adapter, model, commit)
    return Plan(commit, ways)


def check_template(shown: str, tokenizer, roles: Counter) -> None:
    """Raise ValueError if a chat template shows an input wrongly, or none of them. Warn for some.

    `shown` is how messages name the student.
    """
    messages = [{"role": "user", "content": PROBE}]
    try:
        prompt_ids(tokenizer, messages, strict=True)
    except TemplateProblem as error:
        raise ValueError(f"{shown}: its chat template {error}") from error
    unfit = find_unfit_rows(tokenizer, roles, prompted=False)
    line = describe_unfit_rows(shown, unfit, "get no answer")
    if line:
        log.warning("%s", line)
    warn_of_date(shown, tokenizer, messages)


@dataclass(frozen=True)
class Started:
    """A student that answers, in this process."""

    engine: object  # vLLM's
    lora_request: object | None
    served_as: str

    def close(self) -> None:
        """End the engine."""
        stop_engine(self.engine)


@dataclass(frozen=True)
class StudentWork:
    """What an engine of the student does, here or on a replica, as labels/replicas.py has it."""

    model: str
    plan: Plan
    adapter: str
    engine_flags: list[str]
    tensor_parallel_size: int
    on_replica: bool
    task: Task
    max_tokens: int

    def start(self, merged: Path | None = None) -> Started:
        """Start the engine, in the first of the ways that works.

        A merged copy goes to `merged`, or else to a temporary directory. Raises EngineFailed,
        ValueError or OSError.
        """
        ways = self.plan.ways or [None]
        with tempfile.TemporaryDirectory(prefix="predict-") as own:
            for way in ways:
                try:
                    return self._start(way, merged or Path(own) / "merged")
                except EngineFailed as error:
                    if way is ways[-1]:
                        raise
                    log.warning(
                        "predict.py: %s: %s; going on with %s", way.served_as, error, MERGED
                    )

    def asking(self, started: Started) -> Predicting:
        """What asks a started student."""
        teacher = VLLMTeacher(started.engine, lora_request=started.lora_request)
        return Predicting(teacher, self.task, self.max_tokens)

    def _start(self, way: Serving | None, merged: Path) -> Started:
        settings = {"tensor_parallel_size": self.tensor_parallel_size, **LOGPROBS}
        backend = "distributed_executor_backend"
        if self.on_replica and self.tensor_parallel_size > 1:
            settings[backend] = given(self.engine_flags, backend) or "mp"
        if way and way.served_as == MERGED:
            check_room(merged.parent, way.copy_bytes, FLAG)
        try:
            engine, lora_request = start_student(
                self.model,
                self.plan.commit,
                self.adapter,
                way,
                str(merged),
                self.engine_flags,
                **settings,
            )
        except (SafetensorError, RuntimeError, KeyError) as error:  # of weights that do not fit
            reason = textwrap.shorten(f"{type(error).__name__}: {on_one_line(error)}", LONGEST)
            raise ValueError(f"{self.adapter}: cannot be put on {self.model} ({reason})") from error
        return Started(engine, lora_request, way.served_as if way else "")
