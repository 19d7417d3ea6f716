"""Which student is asked: what its adapter records of its base and its task.

No torch, no vLLM.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from distill.adapter_files import adapter_identity, model_identity, recorded_base
from distill.cli import check_model
from distill.prediction.choices import Choices
from distill.task import Task, load_task
from distill.teacher.server import Server

log = logging.getLogger("predict")
# Where an adapter's directory says for which task it was made, and by which key.
RESULTS = "results.json"  # of step 2, which has it from the rows of step 1
METRICS = "report/metrics.json"  # of step 3


@dataclass(frozen=True)
class Student:
    """The model that answers, and the task by which its answers are read."""

    # the adapter's base, or a merged model: a directory, or a name on the hub; or what a server
    # calls the student
    model: str
    revision: str | None  # of that on the hub: a branch, tag or commit; None: main
    adapter: str  # empty: the model is asked as it is
    task_file: str
    task: Task
    server: Server | None = None  # that has it; None: an engine of ours

    @property
    def is_on_hub(self) -> bool:
        """Whether it is a model on the hub and nothing else, which its commit tells from others."""
        is_model = not self.server and not self.adapter
        return is_model and not Path(self.model).expanduser().is_dir()

    def identity(self, begun_with: str | None = None) -> str:
        """What tells this student from one that was trained again in the same place.

        Of one behind a URL nobody sees that, so it is its name. Of one on the hub it is its commit,
        that with which a run was begun where its branch has moved since.
        """
        if begun_with and self.is_on_hub:
            return begun_with
        if self.server:
            return self.model
        if self.adapter:
            return adapter_identity(self.adapter)
        return model_identity(self.model, self.revision)

    def base_identity(self) -> str | None:
        """What tells the adapter's base from another one in the same directory.

        None for one on the hub, with whose commit a run goes on, and without an adapter.
        """
        base = Path(self.model).expanduser()
        if not self.adapter or not base.is_dir():
            return None
        return model_identity(str(base))

    def shown(self) -> str:
        """How messages name it."""
        if self.server:
            return f"{self.model} at {self.server.url}"
        return f"{self.adapter} on {self.model}" if self.adapter else self.model


def find_student(choices: Choices) -> Student:
    """The student that the flags name; raises ValueError that names the flag or the file."""
    if choices.server:
        return served_student(choices.server, choices.task_file)
    model = choices.model_name
    revision = choices.revision
    if choices.adapter:
        recorded = recorded_base(choices.adapter)
        model = model or recorded.name
        if Path(model).name != Path(recorded.name).name:  # it may have the adapter merged in
            raise ValueError(
                f"{choices.adapter}: adapter of {recorded.name}, not of --model_name {model}; "
                '--adapter "" asks that model alone'
            )
        if not Path(model).expanduser().is_dir():
            revision = revision or recorded.revision
    if not model:
        raise ValueError("--adapter is empty: name a merged model with --model_name")
    try:
        check_model(model)
    except ValueError as error:
        if choices.model_name:
            raise
        raise ValueError(f"{error}; --model_name says where the adapter's base is") from None
    task_file = choices.task_file or recorded_task(choices.adapter)
    return Student(model, revision, choices.adapter, task_file, load_task(task_file))


def served_student(server: Server, task_file: str) -> Student:
    """The student behind a URL. Raises ValueError."""
    if not task_file:
        raise ValueError("which task? A server does not say it; name its file with --task")
    return Student(server.model, None, "", task_file, load_task(task_file), server)


def recorded_task(adapter: str) -> str:
    """The task file that an adapter was made for; raises ValueError if that is not known here.

    Says so where the file has changed since.
    """
    if not adapter:
        raise ValueError("which task? A merged model does not say it; name its file with --task")
    for name in (RESULTS, METRICS):
        recorded = read_json(Path(adapter) / name)
        task_file = recorded.get("task_file")
        if not task_file:
            continue
        if not Path(task_file).is_file():
            raise ValueError(f"{task_file}: is not there, as {adapter}/{name} says; pass --task")
        if load_task(task_file).hash != recorded.get("task_hash"):
            log.warning(
                "predict.py: %s: has changed since %s was made for it; --task names another one",
                task_file,
                adapter,
            )
        return task_file
    raise ValueError(f"{adapter}: does not say for which task it was made; name it with --task")


def read_json(path: Path) -> dict:
    """What a JSON file holds; empty where there is none or nothing that we have written."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
