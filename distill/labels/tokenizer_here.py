"""The teacher's tokenizer as far as it is on this disk, for a run that loads no model.

Most tokenizers are there at once (quick_tokenizer.py), others in a second or two instead of ten:
transformers' need no torch, and nobody asks the hub. A tokenizer that is not here, or that runs
code which a model brings along, is left out.
"""

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from distill.model_tokenizer import load_tokenizer
from distill.revisions import commit_in_cache, resolve
from distill.teacher.check import TeacherModel
from distill.teacher.engine_flags import given


@dataclass(frozen=True)
class Here:
    """What is known of a teacher without loading it."""

    tokenizer: object | None  # transformers', or as much of one as is needed
    why_not: str  # why there is no tokenizer; empty if there is one
    context: int | None  # tokens of prompt and answer together; None: not known


def look(teacher: TeacherModel) -> Here:
    """What this disk holds of a teacher; raises ValueError for a directory that cannot work."""
    named = given(teacher.engine_flags, "tokenizer") or teacher.model_name
    revision = teacher.revision
    if named != teacher.model_name:
        revision = given(teacher.engine_flags, "tokenizer_revision")
    elif revision and Path(named).expanduser().is_dir():
        resolve(named, revision)  # a directory has none, and this says so
    without_torch()
    model_folder = folder_of(teacher.model_name, teacher.revision)
    context = context_of(model_folder, given(teacher.engine_flags, "max_model_len"))
    folder = folder_of(named, revision)
    if folder is None:
        return Here(None, f"the tokenizer of {named} is not on this disk", context)
    if wants_code(teacher.engine_flags):
        return Here(None, f"the tokenizer of {named} may bring code, which is not run", context)
    from distill.labels.quick_tokenizer import load_quickly  # jinja2, for a dry run alone

    quick = load_quickly(folder)
    if quick is not None:
        return Here(quick, "", context)
    try:
        return Here(load_tokenizer(str(folder)), "", context)
    except ValueError as error:
        if isinstance(error.__cause__, ImportError):  # it may be torch
            return Here(None, f"the tokenizer of {named} needs what is left out here", context)
        if Path(named).expanduser().is_dir():  # a real run would refuse it too
            raise
        return Here(None, f"the hub's cache holds no complete tokenizer of {named}", context)


def without_torch() -> None:
    """Let transformers do without torch in this process, which must load no model afterwards.

    To be called before transformers is imported.
    """
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # it would say that there is no torch
    sys.modules.setdefault("torch", None)  # which Python takes for a library that is not there


def folder_of(model: str, revision: str | None) -> Path | None:
    """Where the files of a model lie on this disk; None for one that the hub's cache lacks."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import try_to_load_from_cache

    with contextlib.suppress(Exception):  # those of the hub and of names have no common class
        commit = commit_in_cache(model, revision)
        return Path(try_to_load_from_cache(model, "config.json", revision=commit)).parent
    return None


def context_of(folder: Path | None, max_model_len: str | None) -> int | None:
    """How many tokens prompt and answer may have together.

    As the flag of vLLM says it if it is given as a number, and else the model's configuration.
    """
    if max_model_len and max_model_len.isdecimal():
        return int(max_model_len)
    if max_model_len and max_model_len not in ("-1", "auto"):
        return None  # such as 8k, which is vLLM's to read
    if folder is None:
        return None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        config = json.loads((folder / "config.json").read_text("utf-8"))
        text_config = config.get("text_config", config)  # models that see have it one level below
        return text_config.get("max_position_embeddings")
    return None


def wants_code(engine_flags: list[str]) -> bool:
    """Whether the code that a model brings along is to be run."""
    return bool({"--trust_remote_code", "--trust-remote-code"}.intersection(engine_flags))
