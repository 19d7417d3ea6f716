"""The rows of step 3: inputs with gold, a teacher's answers that are there already, and labels compared with gold."""

from pathlib import Path

from distill.chats import input_hash, read_chat, read_chat_rows, read_inputs
from distill.evaluation.scores import in_one_form, quality
from distill.outputs import read_finished
from distill.task import Task


def read_rows(args, task: Task) -> tuple[list[list[dict]], list[str], list[str | None]]:
    """All chats without their answers, those without gold last; the gold answers; and each gold row's `kind`, if any.

    Raises ValueError that names file and line.
    """
    chats, gold, kinds = [], [], []
    for number, messages, row in read_chat_rows(args.test_file, last_role="assistant"):
        *chat, answer = messages
        if not chat:
            raise ValueError(f"{args.test_file}:{number}: an answer without a question")
        chats.append(chat)
        gold.append(known_answer(task, answer["content"], f"{args.test_file}:{number}: gold answer"))
        kinds.append(row.get("kind"))
        if not isinstance(kinds[-1], str | None):
            raise ValueError(f"{args.test_file}:{number}: 'kind' must be a text such as \"edge\"")
        if len(chats) == args.limit:
            break
    if not chats:
        raise ValueError(f"{args.test_file}: no rows")
    if args.inputs_without_gold:
        further = [messages for _, messages in read_inputs(args.inputs_without_gold)]
        if not further:
            raise ValueError(f"{args.inputs_without_gold}: no inputs")
        chats += further[: args.limit or None]
    return chats, gold, kinds


def known_answer(task: Task, text: str, where: str) -> str:
    """An answer that a file gives, as the task spells it; raises ValueError that begins with `where` if it is no label.

    Case, the form in Unicode and punctuation around a label do not count. Without labels each text is an answer.
    """
    if not task.labels:
        return text
    label = task.as_label(text)
    if label is None:
        raise ValueError(f"{where} {text!r} is none of the task's labels; pass its own task with --task")
    return label


def read_teacher(path: Path, chats: list[list[dict]], task: Task) -> dict:
    """The teacher's results from what create_data.py wrote; tokens and responses if its journal lies beside it.

    Tokens are those of all attempts at a row. Raises ValueError if it was made under another task or lacks a row.
    """
    answers, attempts, manifest = read_finished(path)
    if manifest.get("task", task.hash) != task.hash:
        raise ValueError(f"{path}: made under another task ({manifest.get('task_file')}); pass that one with --task")
    hashes = [input_hash(chat) for chat in chats]
    for chat, key in zip(chats, hashes, strict=True):
        if key not in answers:
            text = chat[-1]["content"][:60]
            raise ValueError(f"{path}: has no answer for {text!r}; label these rows with create_data.py first")
    texts = [answers[key] for key in hashes]  # None: rejected
    results = {
        "answers": [None if text is None else known_answer(task, text, f"{path}: answer") for text in texts],
        "responses": [text or "" for text in texts],
    }
    if "reasoning_parser" in manifest:
        results["thinks"] = manifest["reasoning_parser"] != "none"
    if all(attempts.get(key) for key in hashes):
        results["responses"] = [attempts[key][-1]["response"] for key in hashes]
        for name in ("prompt_tokens", "cached_tokens", "output_tokens"):
            results[name] = [sum(attempt[name] for attempt in attempts[key]) for key in hashes]
        results["rows_per_second"] = manifest.get("rows_per_second")
    return results


def label_quality(labels_file: str, gold_file: str, limit: int, task: Task) -> dict:
    """The teacher's training labels against gold, matched by input; an input without a label counts as wrong."""
    labels = read_known_answers(labels_file, task)
    gold = read_known_answers(gold_file, task)
    gold = dict(list(gold.items())[: limit or None])
    if not labels.keys() & gold.keys():
        raise ValueError(f"{labels_file}: has no input of {gold_file}; pass the gold answers of the same inputs")
    answers = [labels.get(key) for key in gold]
    right = list(gold.values())
    if task.labels:
        return quality(answers, right)
    return quality(in_one_form(answers), in_one_form(right), labelled=False)


def read_known_answers(path: str, task: Task) -> dict[str, str]:
    """The answers of a chat JSONL by input_hash() of what precedes them; raises ValueError that names file and line."""
    found = {}
    for number, messages in read_chat(path, last_role="assistant"):
        *chat, answer = messages
        found[input_hash(chat)] = known_answer(task, answer["content"], f"{path}:{number}: answer")
    return found
