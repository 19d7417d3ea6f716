"""What step 3 keeps until its report is complete, so that the same command goes on after a failure. No torch, no vLLM.

It lies in REPORT_DIR/unfinished/, on the disk that the user chose for the report:
    made-by-evaluate.txt   marks the directory as ours; the run that is at work holds a lock on it
    teacher.json ...       what a system answered, written as soon as it has been scored, and under what (its key)
    merged/                a merged copy of the student while vLLM loads it; never continued, always made afresh
"""

import hashlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from create_data import versions
from journal import Replacing, digest
from locks import lock
from report import TITLES, title_of
from revisions import resolve

log = logging.getLogger("evaluate")
MARK = "made-by-evaluate.txt"
MARK_TEXT = (
    "evaluate.py keeps here what it has scored until its report is complete; the same command goes on from it.\n"
    "The directory may be deleted when no evaluate.py is at work.\n"
)
# What of an adapter's directory decides its answers; a merged copy takes the tokenizer from there.
ADAPTER_FILES = ("adapter_*", "tokenizer*", "chat_template*", "special_tokens*", "added_tokens*", "vocab*", "merges*")


@dataclass(frozen=True)
class Scored:
    """The results of the systems that have been scored, one file each."""

    folder: Path
    keys: dict[str, dict]  # by system: all that decides its result, in JSON's own types

    def write(self, name: str, result: dict) -> None:
        """Keep what a system answered; the file appears complete or not at all."""
        with Replacing(self.path(name)) as file:
            file.write(json.dumps({"key": self.keys[name], "result": result}, ensure_ascii=False) + "\n")

    def take_over(self) -> dict[str, dict]:
        """The kept results that were scored under the same key as today's; says which, and why not the others."""
        found = {}
        for name in self.keys:
            record = self.read(name)
            if record is None:
                continue
            differing = differences(record["key"], self.keys[name])
            if differing:
                log.info("%s: scored before with another %s; scored again", self.title(name), ", ".join(differing))
                continue
            found[name] = record["result"]
            log.info("%s: taken over from the run of %s", self.title(name), record["result"]["date"])
        return found

    def read(self, name: str) -> dict | None:
        """A system's kept result with its key, {"key": ..., "result": ...}; None if there is none."""
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
        """The end of an error message: what the same command will take over; empty if that is nothing."""
        records = {name: self.read(name) for name in self.keys}
        names = [name for name, record in records.items() if record and record["key"] == self.keys[name]]
        if not names:
            return ""
        kept = ", ".join(self.title(name) for name in names)
        return f"; what was scored is kept ({kept}), the same command goes on from there"

    def title(self, name: str) -> str:
        """How a message names a system."""
        return title_of(name, self.keys[name].get("thinks", True))

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


class Unfinished:
    """REPORT_DIR/unfinished/ while one run is at work in it, as a context manager.

    Raises ValueError if the directory is not ours or another run is at work. A merged copy that a killed run left is
    removed at the start. At the end nothing stays but the results of a run that failed.
    """

    def __init__(self, report_dir: Path):
        self.report_dir = report_dir
        self.folder = report_dir / "unfinished"
        self.mark = self.folder / MARK
        self.merged = self.folder / "merged"

    def __enter__(self):
        self.is_first = not self.report_dir.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.mark.exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder}: is not evaluate.py's; move it away or choose another --report_dir")
        self.lock = lock(self.mark)
        if not self.mark.stat().st_size:
            self.mark.write_text(MARK_TEXT, encoding="utf-8")
        if self.merged.exists():
            log.info("%s: removing the merged copy that a stopped run left", self.merged)
            self.remove_merged()
        return self

    def __exit__(self, *_):
        self.remove_merged()
        if list(self.folder.iterdir()) == [self.mark]:  # the mark goes last: what is left is never without it
            self.mark.unlink()
            self.folder.rmdir()
            if self.is_first and not any(self.report_dir.iterdir()):
                self.report_dir.rmdir()
        self.lock.close()

    def remove_merged(self) -> None:
        """Remove the merged copy, if there is one."""
        if self.merged.exists():
            shutil.rmtree(self.merged)

    def remove_scored(self) -> None:
        """Remove the kept results, since the report is complete: the same command then measures everything again."""
        for name in TITLES:
            for path in self.folder.glob(f"{name}.json*"):  # with what a killed run had half written
                path.unlink()


def common_key(task, chats: list[list[dict]], engine_flags: list[str], tensor_parallel_size: int, machine: str) -> dict:
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
    """All that decides a system's result, so that a kept one is taken over only where a new one would be equal.

    `system` is evaluate.py's System, `common` what is the same for all systems.
    """
    key = {**common, **asdict(system), "weights": model_identity(system.model, system.revision)}
    if system.name == "student":
        key["adapter"] = adapter_identity(adapter)
        key["serve_adapter"] = serve_adapter
        key["peft"] = version("peft")
    return key


def differences(before: dict, now: dict) -> list[str]:
    """The names whose values differ between two keys."""
    names = sorted(before.keys() | now.keys())
    return [name for name in names if before.get(name) != now.get(name)]


def model_identity(model: str, revision: str | None = None) -> str:
    """What notices changed weights: of a directory its files' names, sizes and times; of a hub name the commit."""
    folder = Path(model)
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.is_file())
        # reading 57 GiB would take minutes; new weights have another size or another time of change
        found = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        return digest(found).hex()
    return hub_commit(model, revision)


@lru_cache
def hub_commit(model: str, revision: str | None) -> str:
    """The commit of a model on the hub, or in its cache without a network; "unknown" if it is in neither."""
    try:
        return resolve(model, revision)
    except ValueError:
        return "unknown"  # vLLM will say why it cannot load it


def adapter_identity(adapter: str) -> str:
    """sha256 of the contents of an adapter's config, weights and tokenizer."""
    total = hashlib.sha256()
    paths = {path for pattern in ADAPTER_FILES for path in Path(adapter).glob(pattern) if path.is_file()}
    for path in sorted(paths):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {content}\n".encode())
    return total.hexdigest()
