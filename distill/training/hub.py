"""What --push_to_hub true puts on the Hugging Face hub: the files named here, in one commit.

Trainer's own push comes before card and figures exist, writes TRL's card and uploads the whole
folder, so train_sft_trl.py turns it off. What is pushed names no path of this machine: texts that
would are pushed as cleaned copies, and the files in the output directory stay as they are.
"""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, RepoCard, get_token
from transformers.trainer_utils import HubStrategy

from distill.card import model_card, public_name
from distill.card_figures import CARD, our_entries, read_card, with_entries
from distill.cli import on_one_line

log = logging.getLogger("train_sft_trl")
UNCHANGED = ("adapter_model.safetensors", "loss.png")
CLEANED = ("run.json", "results.json", "adapter_config.json")
# The tokenizer's class names its vocabulary files.
# Which of all these it has written depends on the model.
TOKENIZER = (
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
)


class PushError(Exception):
    """A finished run could not be pushed; the message says why, and how to push it."""


@dataclass
class Repository:
    """A repository on the hub that may be written to."""

    api: HfApi
    name: str  # with its owner
    url: str
    revision: str | None  # branch; None: main


def open_repository(args) -> Repository:
    """Create the repository that --hub_model_id and the other hub flags name, unless it exists.

    It is called before the student is loaded, so that hours of training do not end at a token that
    may only read. Raises ValueError with one line.
    """
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        asked = f"--hub_strategy {args.hub_strategy.value}"
        raise ValueError(f"{asked}: checkpoints are not pushed, only the finished adapter; use end")
    if not args.hub_token and not get_token():
        raise ValueError(
            "--push_to_hub: no token; run `hf auth login`, set HF_TOKEN or pass --hub_token"
        )
    api = HfApi(token=args.hub_token)
    name = args.hub_model_id or Path(os.path.abspath(args.output_dir)).name
    try:
        url = api.create_repo(name, private=args.hub_private_repo, exist_ok=True)
        # create_repo is content with reading where there is one
        api.auth_check(url.repo_id, write=True)
        if args.hub_revision and not api.revision_exists(url.repo_id, args.hub_revision):
            api.create_branch(url.repo_id, branch=args.hub_revision)
    # errors of the network, of the hub and of bad names have no common class
    except Exception as error:
        message = f"--push_to_hub: cannot write to {name} on {api.endpoint}: {on_one_line(error)}"
        raise ValueError(message) from error
    return Repository(api, url.repo_id, str(url), args.hub_revision)


def push(repository: Repository, output_dir: Path, tokenizer) -> None:
    """Put a finished run into the repository in one commit; raises PushError."""
    try:
        repository.api.create_commit(
            repository.name,
            commit_files(repository, output_dir, tokenizer),
            commit_message="Adapter of train_sft_trl.py",
            revision=repository.revision,
        )
    except Exception as error:  # as above; whatever it is, the run itself is finished
        message = (
            f"{output_dir}: finished, but not pushed to {repository.url}: {on_one_line(error)}"
        )
        raise PushError(f"{message}; the same command without --overwrite pushes it") from error


def commit_files(repository: Repository, output_dir: Path, tokenizer) -> list[CommitOperationAdd]:
    """The files of the commit. Raises OSError or ValueError where one is missing."""
    texts = {}
    for name in CLEANED:
        values = json.loads((output_dir / name).read_text(encoding="utf-8"))
        texts[name] = without_paths(values)
    card = model_card(
        texts["run.json"], texts["results.json"], repository.name, repository.revision
    )
    card = with_evaluation(card, output_dir, repository.name)

    files = [CommitOperationAdd(CARD, card.encode())]
    for name, values in texts.items():
        files.append(CommitOperationAdd(name, json.dumps(values, indent=2).encode()))
    for name in UNCHANGED:
        files.append(CommitOperationAdd(name, output_dir / name))
    for name in [*TOKENIZER, *tokenizer.vocab_files_names.values()]:
        if (output_dir / name).is_file():
            files.append(CommitOperationAdd(name, output_dir / name))
    return files


def with_evaluation(card: str, output_dir: Path, name: str) -> str:
    """The card with the figures of step 3 that the one in the output directory holds, if any."""
    try:
        evaluated = read_card(output_dir)
        entries = our_entries(evaluated) if evaluated else []
        return with_entries(RepoCard(card), entries, name) if entries else card
    except (OSError, ValueError) as error:
        problem = on_one_line(error)
        log.warning("%s: pushed without an evaluation's figures: %s", output_dir / CARD, problem)
        return card


def without_paths(values: dict) -> dict:
    """A copy in which models, files and the output directory are names only.

    Models are those that were loaded from a directory.
    """
    clean = dict(values)
    for key in ("model_name", "base_model_name_or_path"):
        if clean.get(key):
            clean[key] = public_name(clean[key])
    for key in ("eval_file", "output_dir", "task_file", "init_adapter"):
        if clean.get(key):
            clean[key] = Path(os.path.abspath(clean[key])).name
    if clean.get("train_files"):
        clean["train_files"] = told_apart(clean["train_files"])
    return clean


def told_apart(files: list[str]) -> list[str]:
    """The names of several files without their directories.

    Where two have the same name, each has its place among them, which is that of its hash in
    train_sha256 too.
    """
    names = [Path(os.path.abspath(path)).name for path in files]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({place})" for place, name in enumerate(names, start=1)]
