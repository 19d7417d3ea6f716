"""What step 3 keeps until its report is complete. No torch, no vLLM.

The same command goes on from it after a failure.

It lies in REPORT_DIR/unfinished/, on the disk that the user chose for the report:
    made-by-evaluate.txt   marks the directory as ours; the run that is at work holds a lock on it
    teacher.json ...       what a system answered, written as soon as it has been scored, and under
                           what (its key)
    merged/                a merged copy of the student while vLLM loads it; never continued,
                           always made afresh
"""

import json
import logging
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from distill.adapter_files import adapter_identity, model_identity
from distill.chats import digest
from distill.evaluation.systems import TITLES, title_of
from distill.files import Replacing
from distill.staging import Staging
from distill.system import versions

log = logging.getLogger("evaluate")
MARK_TEXT = (
    "evaluate.py keeps here what it has scored until its report is complete; "
    "the same command goes on from it.\n"
    "The directory may be deleted when no evaluate.py is at work.\n"
)


@dataclass(frozen=True)
class Scored:
    """The results of the systems that have been scored, one file each."""

    folder: Path
    keys: dict[str, dict]  # by system: all that decides its result, in JSON's own types

    def write(self, name: str, result: dict) -> None:
        """Keep what a system answered; the file appears complete or not at all."""
        with Replacing(self.path(name)) as file:
            file.write(
                json.dumps({"key": self.keys[name], "result": result}, ensure_ascii=False) + "\n"
            )

    def take_over(self) -> dict[str, dict]:
        """The kept results that were scored under the same key as today's.

        Says which, and why not the others.
        """
        found = {}
        for name in self.keys:
            record = self.read(name)
            if record is None:
                continue
            differing = differences(record["key"], self.keys[name])
            if differing:
                log.info(
                    "%s: scored before with another %s; scored again",
                    self.title(name),
                    ", ".join(differing),
                )
                continue
            found[name] = record["result"]
            log.info(
                "%s: taken over from the run of %s", self.title(name), record["result"]["date"]
            )
        return found

    def read(self, name: str) -> dict | None:
        """A system's kept result with its key, {"key": ..., "result": ...}.

        None if there is none.
        """
        try:
            return json.loads(self.path(name).read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            log.warning("%s: damaged; scored again", self.path(name))
            return None

    def drop(self, name: str) -> None:
        """Forget a system whose answers turned out to be of no use."""
        self.path(name).unlink(missing_ok=True)

    def what_is_kept(self) -> str:
        """The end of an error message: what the same command will take over.

        Empty if that is nothing.
        """
        records = {name: self.read(name) for name in self.keys}
        names = [
            name for name, record in records.items() if record and record["key"] == self.keys[name]
        ]
        if not names:
            return ""
        kept = ", ".join(self.title(name) for name in names)
        return f"; what was scored is kept ({kept}), the same command goes on from there"

    def title(self, name: str) -> str:
        """How a message names a system."""
        return title_of(name, self.keys[name].get("thinks", True))

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


class Unfinished(Staging):
    """REPORT_DIR/unfinished/ while one run is at work in it; a failed run's results stay there."""

    def __init__(self, report_dir: Path):
        super().__init__(report_dir / "unfinished", "evaluate.py", "--report_dir", MARK_TEXT)

    def remove_scored(self) -> None:
        """Remove the kept results, since the report is complete.

        The same command then measures everything again.
        """
        for name in TITLES:
            # with what a killed run had half written
            for path in self.folder.glob(f"{name}.json*"):
                path.unlink()


def common_key(
    task, chats: list[list[dict]], engine_flags: list[str], tensor_parallel_size: int, machine: str
) -> dict:
    """What decides the results of all systems alike; seconds of another machine do not compare."""
    return {
        "task": task.hash,
        "rows": digest(chats).hex(),
        "engine_flags": engine_flags,
        "tensor_parallel_size": tensor_parallel_size,
        "machine": machine,
        **versions(),
    }


def key_of(system, common: dict, adapter: str, serve_adapter: str) -> dict:
    """All that decides a system's result.

    A kept one is taken over only where a new one would be equal. `system` is evaluate.py's
    System, `common` what is the same for all systems.
    """
    weights = system.server  # nobody sees those of a server
    if not system.server:
        weights = model_identity(system.model, system.revision)
    key = {**common, **asdict(system), "weights": weights}
    if system.name == "student" and not system.server:
        key["adapter"] = adapter_identity(adapter)
        key["serve_adapter"] = serve_adapter
        key["peft"] = version("peft")
    return key


def differences(before: dict, now: dict) -> list[str]:
    """The names whose values differ between two keys."""
    names = sorted({*before, *now})
    return [name for name in names if before.get(name) != now.get(name)]
