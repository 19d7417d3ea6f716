"""Which commit of a model on the hub is loaded.

It is asked for once, and then every load takes that one.
"""

import contextlib
from pathlib import Path

from distill.cli import on_one_line


def resolve(model: str, revision: str | None = None, flag: str = "--revision") -> str | None:
    """The commit that `revision` (a branch, tag or commit; None: main) of a model on the hub is.

    None for a directory. Without a network, or with HF_HUB_OFFLINE=1, it is what the cache holds.
    Raises ValueError, which names `flag`, for the revision of a directory, and if there is no such
    commit.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RevisionNotFoundError

    if Path(model).expanduser().is_dir():
        if revision:
            raise ValueError(
                f"{flag} {revision}: {model} is a directory; only a model on the hub has revisions"
            )
        return None
    try:
        if constants.HF_HUB_OFFLINE:
            return commit_in_cache(model, revision)
        return HfApi().resolve_revision(model, revision=revision).resolved
    except Exception as error:  # those of the hub, of the network and of names have no common class
        if not isinstance(error, RevisionNotFoundError):
            # a token that has expired, or too many requests: the cache may do
            with contextlib.suppress(Exception):
                return commit_in_cache(model, revision)
        reason = on_one_line(error)
        asked = f"{flag} {revision}" if revision else "main"
        raise ValueError(
            f"{model}: {asked} is neither on the hub nor in its cache ({reason})"
        ) from error


def commit_in_cache(model: str, revision: str | None) -> str:
    """The commit of a model that the hub's cache on this machine holds.

    Raises OSError or the hub's errors.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    commit = HfApi().resolve_revision(model, revision=revision, local_files_only=True).resolved
    # what looks like a commit passes for one unseen
    if not isinstance(try_to_load_from_cache(model, "config.json", revision=commit), str):
        raise FileNotFoundError(f"no config.json of {commit}")
    return commit


def check_loaded(model: str, commit: str | None, config) -> None:
    """Raise ValueError unless `config`, a loaded model's, is of the commit that was asked for."""
    loaded = getattr(config, "_commit_hash", None)
    if commit and loaded and loaded != commit:
        raise ValueError(
            f"{model}: commit {loaded} was loaded, not {commit}; "
            "clear its folder in the hub's cache"
        )
