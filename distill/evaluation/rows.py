"""The rows of step 3.

Inputs with gold, a teacher's answers that are there already, and labels compared with gold.
"""

from dataclasses import dataclass
from pathlib import Path

from distill.chats import NO_COLUMNS, has_columns, input_hash, read_gold, read_input_rows
from distill.columns import Columns
from distill.evaluation.fields import fields_of
from distill.evaluation.scores import in_one_form, quality
from distill.outputs import TOKEN_COUNTS, add_answer, read_finished
from distill.task import NoAnswer, Task, same_task


@dataclass(frozen=True)
class Rows:
    """What the systems are asked. The gold rows come first, those without gold last."""

    chats: list[list[dict]]  # of all rows, without their answers
    gold: list[str]  # of the gold rows
    kinds: list[str | None]  # of the gold rows, where they have one
    ids: list[str | None]  # of all rows, where they have one


def read_rows(
    test_file: str,
    inputs_without_gold: str,
    limit: int,
    task: Task,
    columns: Columns = NO_COLUMNS,
) -> Rows:
    """Read the first `limit` rows of each file (0: all).

    Raises ValueError that names file and line.
    """
    chats = []
    gold = []
    kinds = []
    ids = []
    for row in read_gold(test_file, columns):
        where = f"{test_file}:{row.number}"
        chats.append(row.chat)
        gold.append(known_answer(task, row.gold, f"{where}: gold answer"))
        kinds.append(row.kind)
        ids.append(row.id)
        if not isinstance(row.kind, str | None):
            raise ValueError(f"{where}: 'kind' must be a text such as \"edge\"")
        if len(chats) == limit:
            break
    if not chats:
        raise ValueError(f"{test_file}: no rows")
    if inputs_without_gold:
        further = list(
            read_input_rows(inputs_without_gold, columns_of(inputs_without_gold, columns))
        )
        if not further:
            raise ValueError(f"{inputs_without_gold}: no inputs")
        for row in further[: limit or None]:
            chats.append(row.messages)
            ids.append(row.id)
    return Rows(chats, gold, kinds, ids)


def columns_of(path: str, columns: Columns) -> Columns:
    """The columns of inputs without gold: those of the test file, but plain lines have none.

    Flags that could only be meant for the plain lines stay, and are refused.
    """
    of_test_file = columns.label_column or not columns.names_text
    if of_test_file and not has_columns(path):
        return Columns(encoding=columns.encoding)
    return columns


def known_answer(task: Task, text: str, where: str) -> str:
    """An answer that a file gives, as the task spells it.

    Raises ValueError that begins with `where` if it is no label. Case, the form in Unicode and
    punctuation around a label do not count. Where the task has a schema, it is read as JSON.
    Without both each text is an answer.
    """
    if task.schema:
        return known_json(task, text, where)
    if not task.labels:
        return text
    label = task.as_label(text)
    if label is None:
        raise ValueError(
            f"{where} {text!r} is none of the task's labels; pass its own task with --task"
        )
    return label


def known_json(task: Task, text: str, where: str) -> str:
    """A JSON answer that a file gives, in its one form; raises ValueError as known_answer()."""
    try:
        return task.read_content(text)
    except NoAnswer as error:
        raise ValueError(
            f"{where} is not what the task's schema allows ({error.detail or 'it is empty'}); "
            "mend it, or pass its own task with --task"
        ) from None


def read_teacher(path: Path, chats: list[list[dict]], task: Task) -> dict:
    """The teacher's results from what create_data.py wrote, or from labels from elsewhere.

    Tokens and responses if its journal lies beside it. Tokens are those of all attempts at a row.
    Labels from elsewhere have nothing beside them, and may be in any order. Raises ValueError if
    the file was made under another task or lacks a row.
    """
    finished = read_finished(path)
    manifest = finished.manifest
    if "task" in manifest and not same_task(manifest, task.named()):
        raise ValueError(
            f"{path}: made under another task ({manifest.get('task_file')}); "
            "pass that one with --task"
        )
    hashes = [input_hash(chat) for chat in chats]
    answers = []
    for chat, key in zip(chats, hashes, strict=True):
        if key not in finished.answers:
            text = chat[-1]["content"][:60]
            raise ValueError(
                f"{path}: has no answer for {text!r}; label these rows with create_data.py first, "
                "or add the label"
            )
        answers.append(finished.answers[key])
    results = {
        "answers": [
            None if text is None else known_answer(task, text, f"{path}: answer")
            for text in answers
        ],
        "responses": [text or "" for text in answers],
    }
    if finished.from_elsewhere:
        results["from_elsewhere"] = True
        results["thinks"] = False
        results["model"] = None
        results["revision"] = None
    if "model" in manifest:
        results["model"] = manifest["model"]
        results["revision"] = manifest.get("revision")
    if "reasoning_parser" in manifest:
        results["thinks"] = manifest["reasoning_parser"] != "none"
    if all(finished.attempts.get(key) for key in hashes):
        attempts = [finished.attempts[key] for key in hashes]
        results["responses"] = [of_row[-1]["response"] for of_row in attempts]
        for name in TOKEN_COUNTS:
            results[name] = [sum(attempt[name] for attempt in of_row) for of_row in attempts]
        results["rows_per_second"] = manifest.get("rows_per_second")
    return results


def label_quality(
    labels_file: str, gold_file: str, limit: int, task: Task, columns: Columns = NO_COLUMNS
) -> dict:
    """The teacher's training labels against gold, matched by input.

    An input without a label counts as wrong.
    """
    labels = {}
    for asked, answer in read_known_answers(labels_file, task):
        add_answer(labels, asked, answer, labels_file)
    gold = read_known_answers(gold_file, task, columns)[: limit or None]
    if not any(key in labels for key, _ in gold):
        raise ValueError(
            f"{labels_file}: has no input of {gold_file}; pass the gold answers of the same inputs"
        )
    answers = [labels.get(key) for key, _ in gold]
    right = [answer for _, answer in gold]
    if task.labels:
        return quality(answers, right)
    fields = fields_of(task.schema, right)
    return quality(in_one_form(answers), in_one_form(right), labelled=False, fields=fields)


def read_known_answers(
    path: str, task: Task, columns: Columns = NO_COLUMNS
) -> list[tuple[str, str]]:
    """Each row of a file as (input_hash() of its input, answer).

    Raises ValueError that names file and line.
    """
    found = []
    for row in read_gold(path, columns):
        answer = known_answer(task, row.gold, f"{path}:{row.number}: answer")
        found.append((input_hash(row.chat), answer))
    return found
