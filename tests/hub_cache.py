"""A cache as huggingface_hub lays it out, with several revisions of a model, for runs without a
network.
"""

import os
import shutil
from hashlib import sha1
from pathlib import Path


def commit_of(revision: str) -> str:
    """The commit that a branch or tag has in such a cache."""
    return sha1(revision.encode()).hexdigest()


def make_hub_cache(folder: Path, model: str, revisions: dict[str, Path]) -> dict[str, str]:
    """Put the files of a directory into the cache for each revision.

    The environment of a process that uses it.
    """
    repository = folder / f"models--{model.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    for revision, source in revisions.items():
        (repository / "refs" / revision).write_text(commit_of(revision))
        shutil.copytree(source, repository / "snapshots" / commit_of(revision))
    return {**os.environ, "HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": "1"}
