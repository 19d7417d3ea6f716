"""The rows of step 2: encoded, and what is odd about them."""

import logging
from math import floor

from distill.input_files import unchanged_sha256
from distill.progress import bar
from distill.templates import TemplateProblem
from distill.tokens import encode
from distill.training.train_files import LabelledRow, read_rows

log = logging.getLogger("train_sft_trl")


def load_rows(path: str, tokenizer, max_length: int | None) -> list[dict]:
    """Encode chat JSONL as rows of input_ids and labels.

    Each of both is a list with a number for each token. Raises ValueError that names file and
    line, also for a row of more than `max_length` tokens (None: any).
    """
    rows = []
    what = {"desc": "tokenising the rows", "unit": "row"}
    for number, messages in bar(read_rows(path), later=True, of_first=True, **what):
        try:
            row = encode(tokenizer, messages)
        except TemplateProblem as error:
            raise ValueError(
                f"{path}:{number}: the chat template {error}; drop the row or change it"
            ) from error
        length = len(row["input_ids"])
        if max_length and length > max_length:
            raise ValueError(
                f"{path}:{number}: {length} tokens; raise --max_length or drop the row"
            )
        rows.append(row)
    return rows


def load_some(
    of_all: list[LabelledRow], wanted: list[LabelledRow], tokenizer, max_length: int | None
) -> list[dict]:
    """Encode the `wanted` rows `of_all` that the train files hold, in their order.

    The others are encoded too: one that does not fit is refused, whatever becomes of it. Raises
    ValueError as load_rows(), and for a file that has changed since its rows were read.
    """
    encoded = []
    for path in dict.fromkeys(row.path for row in of_all):
        encoded += load_rows(path, tokenizer, max_length)
        unchanged_sha256(path)
    places = {(row.path, row.number) for row in wanted}
    found = []
    for row, tokens in zip(of_all, encoded, strict=True):
        if (row.path, row.number) in places:
            found.append(tokens)
    return found


def warn_about_rows(rows: list[dict], eval_rows: list[dict] | None) -> None:
    """Count what is allowed but rarely meant.

    That is one question with two answers, and evaluation rows in the train file.
    """
    answers = {}  # those of each question
    for row in rows:
        answers.setdefault(question_of(row), set()).add(answer_of(row))
    contradictory = sum(len(found) > 1 for found in answers.values())
    if contradictory:
        log.warning("%d inputs of the train file have more than one answer", contradictory)
    if eval_rows is None:
        return
    shared = sum(question_of(row) in answers for row in eval_rows)
    if shared:
        log.warning(
            "%d of %d rows of --eval_file are in the train file too", shared, len(eval_rows)
        )


def question_of(row: dict) -> tuple[int, ...]:
    """The tokens before the answer, on which there is no loss."""
    return tuple(row["input_ids"][: row["labels"].count(-100)])


def answer_of(row: dict) -> tuple[int, ...]:
    """The tokens of the answer and its end of turn."""
    return tuple(row["input_ids"][row["labels"].count(-100) :])


def check_fraction(eval_fraction: float, rows: int) -> None:
    """Raise ValueError if --eval_fraction of so many rows leaves none to train on.

    It takes at least one.
    """
    left = floor((1 - eval_fraction) * rows)
    if eval_fraction and left < 1:
        raise ValueError(
            f"--eval_fraction {eval_fraction}: leaves none of {rows} rows to train on; lower it"
        )
