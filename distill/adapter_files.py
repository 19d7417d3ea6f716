"""What of the directory of an adapter, or of a model, decides its answers. No torch, no vLLM."""

import contextlib
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from distill.chats import digest
from distill.revisions import resolve

# a merged copy takes the tokenizer from there
ADAPTER_FILES = (
    "adapter_*",
    "tokenizer*",
    "chat_template*",
    "special_tokens*",
    "added_tokens*",
    "vocab*",
    "merges*",
)


def adapter_identity(adapter: str | Path) -> str:
    """sha256 of the contents of an adapter's config, weights and tokenizer."""
    total = hashlib.sha256()
    paths = {
        path for pattern in ADAPTER_FILES for path in Path(adapter).glob(pattern) if path.is_file()
    }
    for path in sorted(paths):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {content}\n".encode())
    return total.hexdigest()


# of a model's directory without an index, what holds its weights: the first that is there; an
# adapter that lies there is none of them
WEIGHTS = ("model.safetensors", "*.safetensors", "pytorch_model*.bin")
PARTS = 128  # that are read of a file of weights, evenly spread
PART = 1024  # bytes of each


@dataclass(frozen=True)
class Base:
    """The model that an adapter was trained on, as its config records it."""

    name: str  # a directory, or a name on the hub
    revision: str | None  # on the hub; None: main


def recorded_base(adapter: str) -> Base:
    """The model that an adapter was trained on; raises ValueError where there is no adapter."""
    config = Path(adapter) / "adapter_config.json"
    if not config.is_file():
        raise ValueError(f"{adapter}: no adapter here (adapter_config.json is missing)")
    said = f"{config}: does not name the model of the adapter; set base_model_name_or_path there"
    try:
        recorded = json.loads(config.read_text("utf-8"))
        base = Base(recorded["base_model_name_or_path"], recorded.get("revision"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(said) from error
    if not base.name or not isinstance(base.name, str):  # PEFT writes null where it knows none
        raise ValueError(said)
    return base


def model_identity(model: str, revision: str | None = None) -> str:
    """What notices changed weights.

    Of a directory its files' names, sizes and times; of a hub name the commit.
    """
    folder = Path(model)
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.is_file())
        # reading 57 GiB would take minutes; new weights have another size or another time of change
        found = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        return digest(found).hex()
    return hub_commit(model, revision)


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a model's directory that are loaded.

    The same weights may lie there in another format too, which people remove to save room.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        with contextlib.suppress(ValueError, KeyError, AttributeError, TypeError):
            names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            return sorted(path for path in map(folder.joinpath, names) if path.is_file())
    for pattern in WEIGHTS:
        found = [path for path in folder.glob(pattern) if path.is_file()]
        found = [path for path in found if not path.name.startswith("adapter_")]
        if found:
            return sorted(found)
    return []


def weights_identity(model: str) -> str | None:
    """What tells the weights in a directory from others that were put in their place.

    None for a name on the hub, whose commit tells that, and for a directory without weights.

    It takes the sizes of the files and parts of their contents, since to read 57 GiB would take
    minutes. A copy has the same, on another machine too, which times of change would not say.
    """
    paths = weight_files(Path(model).expanduser())
    if not paths:
        return None
    total = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        total.update(f"{path.name} {size}\n".encode())
        # without a buffer, which network file systems make as large as all that is left out
        with open(path, "rb", buffering=0) as file:
            for start in range(0, size, max(PART, size // PARTS)):
                file.seek(start)
                total.update(file.read(PART))
            file.seek(max(0, size - PART))
            total.update(file.read(PART))
    return total.hexdigest()


@lru_cache
def hub_commit(model: str, revision: str | None) -> str:
    """The commit of a model on the hub, or in its cache without a network.

    "unknown" if it is in neither.
    """
    try:
        return resolve(model, revision)
    except ValueError:
        return "unknown"  # vLLM will say why it cannot load it
