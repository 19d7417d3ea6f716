"""What the flags of step 3 choose, for whoever works by it."""

from dataclasses import dataclass
from pathlib import Path

from distill.columns import Columns
from distill.evaluation.systems import BASE_SYSTEMS
from distill.prices import Prices
from distill.teacher.server import Server


@dataclass(frozen=True)
class HandingOver:
    """When the student is to ask the teacher, and the rows by which that is found out."""

    file: str  # of the rows; empty: those that step 2 has kept, if it has
    share: float  # of the rows that may be handed over
    target_agreement: float | None  # of what is not, in the place of a share
    asked_again: int  # rows that the teacher is asked twice


@dataclass(frozen=True)
class Choices:
    """What one run of step 3 compares, how, and where the report goes."""

    test_file: str
    inputs_without_gold: str  # empty: none
    columns: Columns  # of both
    task_file: str
    limit: int  # only so many rows of each file; 0: all

    systems: list[str]  # names in systems.TITLES, in its order
    teacher_model: str  # a directory, or a name on the hub
    teacher_revision: str | None
    teacher_answers: str  # a file with them; empty: the teacher is asked
    server: Server | None  # where the teacher is a URL; None: an engine of ours
    student_server: Server | None  # where the student is served elsewhere
    reasoning_parser: str  # none: the teacher does not think
    student_model: str
    student_revision: str | None
    revision: str | None  # of both models, where they have none of their own
    adapter: str
    serve_adapter: str  # auto, lora or merged

    temperature: float  # of the teacher
    max_tokens: int  # under the prompt
    student_max_tokens: int  # without it
    latency_rows: int  # asked one at a time
    check_rows: int  # compared with PEFT, of a student that is served here
    tensor_parallel_size: int  # GPUs of a model
    engine_flags: list[str]  # further ones, vLLM's own

    handing_over: HandingOver
    prices: Prices
    report_dir: Path

    labels: str  # compared with `gold`, and nothing else is done; empty: the systems are asked
    gold: str

    @property
    def asks_teacher(self) -> bool:
        """Whether an engine is started for the teacher."""
        return "teacher" in self.systems and not self.teacher_answers and not self.server

    @property
    def servers(self) -> dict[str, Server]:
        """The systems that are asked behind a URL, and where."""
        found = {}
        if "teacher" in self.systems and not self.teacher_answers and self.server:
            found["teacher"] = self.server
        if "student" in self.systems and self.student_server:
            found["student"] = self.student_server
        return found

    @property
    def serves_student(self) -> bool:
        """Whether the student's base with the adapter is served by an engine of ours."""
        return "student" in self.systems and not self.student_server

    @property
    def asks_student(self) -> bool:
        """Whether the student's base is needed, with its adapter or without."""
        return self.serves_student or any(name in self.systems for name in BASE_SYSTEMS)

    @property
    def starts_engine(self) -> bool:
        """Whether an engine of ours is started."""
        return self.asks_teacher or self.asks_student


def systems_of(text: str, titles: dict[str, str]) -> list[str]:
    """The systems that --systems names, in the order of `titles`; raises ValueError."""
    wanted = text.split(",")
    for name in wanted:
        if name not in titles:
            raise ValueError(f"--systems {text}: {name!r} is none of {','.join(titles)}")
    return [name for name in titles if name in wanted]
