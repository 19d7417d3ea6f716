"""The files that step 1 has written, read back."""

import json
from dataclasses import dataclass
from pathlib import Path

from distill.chats import input_hash, read_chat, read_lines
from distill.input_files import GZIP, STRUCTURED, ending_of
from distill.locks import journals_of, open_journal, own_journal
from distill.same_text import comparable

# what an attempt in a journal, a manifest and a result of step 3 count
TOKEN_COUNTS = ("prompt_tokens", "cached_tokens", "output_tokens")
# ending of the file beside an output that lists changed answers
FLIPS = "flips.jsonl"


@dataclass(frozen=True)
class Finished:
    """A finished output. What is missing beside it is empty."""

    answers: dict[str, str | None]  # by input_hash(); None: rejected
    attempts: dict[str, list[dict]]  # by input_hash(), as the journal has them
    manifest: dict
    from_elsewhere: bool = False  # labels of people or of another labeller, not of step 1


def check_chat_file(output: Path, flag: str) -> None:
    """Raise ValueError for an output of chats whose name says that it is no plain text.

    It would be written all the same, and could not be read by the next step.
    """
    if output.name.lower().endswith(GZIP) or ending_of(output) in STRUCTURED:
        raise ValueError(f"{output}: chats are written as text; choose a {flag} such as x.jsonl")


def read_answers(path: str | Path) -> dict[str, str]:
    """The answers of a chat JSONL by input_hash() of what precedes them.

    Raises ValueError as read_chat(), and for two answers to one input.
    """
    answers = {}
    for number, messages in read_chat(path, "assistant"):
        *asked, answer = messages
        add_answer(answers, input_hash(asked), answer["content"], f"{path}:{number}")
    return answers


def add_answer(answers: dict[str, str], asked: str, answer: str, where: str) -> None:
    """Take in the answer to an input, by its input_hash().

    Raises ValueError that begins with `where` if an earlier row answers it otherwise.
    """
    earlier = answers.setdefault(asked, answer)
    if comparable(earlier) != comparable(answer):
        raise ValueError(
            f"{where}: answers {answer!r} where an earlier row with the same input answers "
            f"{earlier!r}; drop one of the two"
        )


def read_finished(output: Path) -> Finished:
    """Read an output with the files beside it; raises ValueError as read_chat()."""
    answers = read_answers(output)
    rejected = beside(output, "rejected.jsonl")
    has_rejected = rejected.exists()
    if has_rejected:
        for _, line in read_lines(rejected):
            answers[input_hash(json.loads(line)["messages"])] = None
    manifest = {}
    has_manifest = beside(output, "manifest.json").exists()
    if has_manifest:
        manifest = json.loads(beside(output, "manifest.json").read_text("utf-8"))
    attempts = {}
    journals = journals_of(output)
    for path in journals:
        with open_journal(path) as file:
            for line in file:
                record = parse(line) or {}
                if "hash" in record:
                    attempts[record["hash"]] = record["attempts"]
    of_step_1 = has_rejected or has_manifest or bool(journals)
    return Finished(answers, attempts, manifest, from_elsewhere=not of_step_1)


def parse(line: bytes) -> dict | None:
    """A journal line; None if it was torn or damaged, so that its input is asked again."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def first_header(path: Path) -> dict | None:
    """What the first header of a journal says decides its answers; None if there is none."""
    with open(path, "rb") as file:
        for line in file:
            record = parse(line)
            if record and "run" in record:
                return record["run"]
    return None


def beside(output: Path, ending: str) -> Path:
    """OUTPUT.ending, the path of a file beside an output."""
    return output.with_name(f"{output.name}.{ending}")


def check_apart(output: Path, *read: str) -> None:
    """Refuse an output that would replace a file which the run reads."""
    written = [
        output,
        own_journal(output),
        beside(output, "rejected.jsonl"),
        beside(output, "manifest.json"),
        beside(output, FLIPS),
    ]
    for path in written:
        for source in map(Path, read):
            if path.exists() and source.exists() and path.samefile(source):
                raise ValueError(
                    f"{source}: would be replaced by what the run writes; "
                    "choose another --output_file"
                )
