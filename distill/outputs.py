"""The files that step 1 has written, read back."""

import json
from pathlib import Path

from distill.chats import input_hash, read_chat, read_lines
from distill.locks import journals_of, own_journal


def read_answers(path: str | Path) -> dict[str, str]:
    """The answers of a chat JSONL by input_hash() of what precedes them; raises ValueError as read_chat()."""
    return {input_hash(messages[:-1]): messages[-1]["content"] for _, messages in read_chat(path, "assistant")}


def read_finished(output: Path) -> tuple[dict, dict, dict]:
    """A finished output as (answers, attempts, manifest), the first two by input_hash(); a rejected answer is None.

    Attempts and manifest are empty where the files beside the output are missing.
    """
    answers, manifest, attempts, rejected = read_answers(output), {}, {}, beside(output, "rejected.jsonl")
    if rejected.exists():
        answers |= {input_hash(json.loads(line)["messages"]): None for _, line in read_lines(rejected)}
    if beside(output, "manifest.json").exists():
        manifest = json.loads(beside(output, "manifest.json").read_text("utf-8"))
    for path in journals_of(output):
        with open(path, "rb") as file:
            attempts |= {record["hash"]: record["attempts"] for line in file if "hash" in (record := parse(line) or {})}
    return answers, attempts, manifest


def parse(line: bytes) -> dict | None:
    """A journal line; None if it was torn or damaged, so that its input is asked again."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def beside(output: Path, ending: str) -> Path:
    """OUTPUT.ending"""
    return output.with_name(f"{output.name}.{ending}")


def check_apart(output: Path, *read: str) -> None:
    """Refuse an output that would replace a file which the run reads."""
    written = [output, own_journal(output), beside(output, "rejected.jsonl"), beside(output, "manifest.json")]
    for path in written:
        for source in map(Path, read):
            if path.exists() and source.exists() and path.samefile(source):
                raise ValueError(f"{source}: would be replaced by what the run writes; choose another --output_file")
