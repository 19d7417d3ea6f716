"""The task: the teacher's prompt, the labels and how an answer is read. Pure Python, no torch.

A task is a YAML file such as example-data/language_classification.yaml with these keys:
    prompt   the teacher's system message; the input follows as the user message
    labels   the allowed answers; an empty list makes the task free-form
    schema   instead of labels: the JSON Schema of answers that are JSON
    answer   a regular expression with one group that finds the answer;
             empty: the whole text after the thinking
"""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distill.guard import LABEL, guard, written_shapes
from distill.input_files import check_regular
from distill.json_answers import parse_json, violation, written
from distill.json_schema import schema_text
from distill.same_text import bare, folded
from distill.tokens import THINK_END
from distill.yaml_file import read_yaml, whole_characters

# what helps where an expression does not read back what the guard writes
WIDER_GROUP = "a group such as (.+) finds a whole line"
KEYS = ("prompt", "labels", "schema", "answer")
NO_ANCHORS = r"leave out \A and \Z, which the guard spells as letters"


# why a response has no valid answer; where an answer is JSON the last two take the third's place
NOT_READ = ("unfinished_thinking", "no_answer", "not_a_label", "not_json", "not_in_schema")


class NoAnswer(ValueError):
    """A response without a valid answer; `reason` is one of NOT_READ."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Task:
    """One task, as load_task reads it."""

    prompt: str
    labels: tuple[str, ...]
    answer: str
    hash: str  # sha256 of the file, so that data made under another prompt is told apart
    schema: str = ""  # of answers that are JSON, as JSON text

    @cached_property
    def meaning(self) -> dict[str, str]:
        """A digest of each key: what decides how inputs are asked and how answers are read.

        Comments, the order of keys and labels, and how YAML spells a text do not count. The order
        within a schema does: in it the guard writes an answer, and in it answers are kept.
        """
        parts = {
            "prompt": self.prompt,
            "labels": sorted(self.labels),
            "answer": self.answer,
            "schema": self.schema,
        }
        digests = {}
        for key, part in parts.items():
            text = json.dumps(part, ensure_ascii=False)
            digests[key] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return digests

    def named(self) -> dict:
        """What headers and manifests say of the task, for same_task()."""
        return {"task": self.hash, "task_meaning": self.meaning}

    def messages(self, input: str | list[dict]) -> list[dict]:
        """The teacher's chat: the prompt as system message, then the input.

        The input is a text, or chat messages.
        """
        turns = [{"role": "user", "content": input}] if isinstance(input, str) else list(input)
        return [{"role": "system", "content": self.prompt}, *turns]

    def read_answer(self, response: str, finish_reason: str = "stop", thinks: bool = True) -> str:
        """The answer in a response whose thinking starts in the prompt; raises NoAnswer.

        Only what follows the last </think> counts: reasoning quotes rules and labels, so nothing is
        read from it. A model that does not think (`thinks` false) answers with the whole response.
        If it writes </think> it does.
        """
        thinks = thinks or THINK_END in response
        thinking, closing_tag, content = (
            response.rpartition(THINK_END) if thinks else ("", THINK_END, response)
        )
        if finish_reason in ("length", "repetition"):
            raise NoAnswer(
                "no_answer" if closing_tag else "unfinished_thinking", f"cut for {finish_reason}"
            )
        if not closing_tag:
            raise NoAnswer("unfinished_thinking", f"no {THINK_END}")
        return self.read_content(content)

    def constraint(self) -> str:
        """Regular expression for what may follow the thinking: one label, as `answer` finds it.

        Empty if free-form, or if the answer is JSON, which `schema` guards.
        """
        return guard(self.answer, self.labels) if self.labels else ""

    @cached_property
    def label_of(self) -> dict[str, str]:
        """Each label by the form in which labels are compared."""
        return {folded(label): label for label in self.labels}

    def as_label(self, text: str) -> str | None:
        """The label that a text is, in whatever case and form of Unicode; None if it is none."""
        return self.label_of.get(folded(text))

    def read_content(self, content: str) -> str:
        """The answer in text without thinking; raises NoAnswer.

        With several answers they must all agree. One that is JSON comes in its one form, see
        json_answers.py.
        """
        if self.schema:
            return self.read_json(content)
        # thinking is followed by empty lines,
        # which an expression that starts with ^ does not expect
        found = self.find(content) or self.find(content.strip())
        if not self.labels:
            if not any(found):
                raise NoAnswer("no_answer")
            return found[-1]
        answers = {self.as_label(text) for text in found}
        if len(answers) == 1 and None not in answers:
            return answers.pop()
        if not any(bare(text) for text in found):
            raise NoAnswer("no_answer")
        raise NoAnswer("not_a_label", " and ".join(dict.fromkeys(map(bare, found)))[:100])

    def read_json(self, content: str) -> str:
        """The answer of a task with a schema, which is the whole text; raises NoAnswer."""
        if not content.strip():
            raise NoAnswer("no_answer")
        try:
            value = parse_json(content)
            problem = violation(value, self.schema)
            answer = written(value, self.schema)
        except ValueError as error:
            raise NoAnswer("not_json", str(error)) from None
        except RecursionError:
            raise NoAnswer("not_json", "too deeply nested") from None
        if problem:
            raise NoAnswer("not_in_schema", problem)
        return answer

    def find(self, content: str) -> list[str]:
        """What the expression `answer` finds in a text without thinking.

        Without an expression that is all of it.
        """
        if not self.answer:
            return [content.strip()]
        matches = re.finditer(self.answer, content, re.IGNORECASE)
        return [(match[1] or "").strip() for match in matches]


def same_task(recorded: dict, now: dict) -> bool:
    """Whether two headers or manifests name the same task: the same file, or one that means it.

    Older ones know only the file's sha256, `task`; later ones its Task.meaning, `task_meaning`.
    """
    if recorded.get("task") == now.get("task"):
        return True
    meaning = recorded.get("task_meaning")
    return meaning is not None and meaning == now.get("task_meaning")


def load_task(path: str | Path) -> Task:
    """Read a task file; raises ValueError that names the file and the key."""
    path = Path(path)
    check_regular(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}; pass an existing task file with --task"
        ) from error
    data = read_yaml(path, raw, example="example-data/language_classification.yaml")
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected the keys {', '.join(KEYS[:-1])} and {KEYS[-1]}")
    unknown = set(data) - set(KEYS)
    if unknown:
        raise ValueError(
            f"{path}: unknown key {sorted(map(str, unknown))[0]!r}; "
            f"allowed are {', '.join(KEYS[:-1])} and {KEYS[-1]}"
        )
    prompt = data.get("prompt")
    labels = [] if data.get("labels") is None else data["labels"]
    answer = "" if data.get("answer") is None else data["answer"]
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{path}: key 'prompt' must be a text that is not empty")
    # YAML reads an unquoted no or off as a boolean, so anything but text is refused
    if not isinstance(labels, list) or not all(isinstance(x, str) and x.strip() for x in labels):
        raise ValueError(
            f'{path}: key \'labels\' must be a list of texts; quote labels such as "no" and "1"'
        )
    if not isinstance(answer, str):
        raise ValueError(f"{path}: key 'answer' must be a regular expression in quotes")
    prompt = read_characters(path, "prompt", prompt)
    labels = [read_characters(path, "labels", label) for label in labels]
    answer = read_characters(path, "answer", answer)
    try:
        groups = re.compile(answer).groups
    except re.error as error:
        raise ValueError(f"{path}: key 'answer' is not a regular expression ({error})") from error
    if answer and groups != 1:
        raise ValueError(
            f"{path}: key 'answer' must have exactly one group, the answer; it has {groups}"
        )
    seen = {}
    for label in labels:
        form = folded(label)
        if form in seen:
            both = f"{seen[form]!r} and {label!r}"
            raise ValueError(
                f"{path}: key 'labels' lists a label twice, {both}; "
                "case, the form in Unicode and outer punctuation do not count"
            )
        seen[form] = label
    schema = read_schema(path, data.get("schema"), labels, answer)
    return Task(prompt.strip(), tuple(labels), answer, hashlib.sha256(raw).hexdigest(), schema)


def read_schema(path: Path, schema: object, labels: list[str], answer: str) -> str:
    """The schema of a task file as JSON text, empty if there is none.

    Raises ValueError that names file and place, also beside labels or an expression.
    """
    if schema is None:
        return ""
    if labels:
        raise ValueError(
            f"{path}: has both 'labels' and 'schema'; an answer is one of them, so leave one out"
        )
    if answer:
        raise ValueError(
            f"{path}: has both 'answer' and 'schema'; an answer that is JSON is all that follows "
            "the thinking, so leave out 'answer'"
        )
    try:
        return schema_text(schema)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_characters(path: Path, key: str, text: str) -> str:
    """A text of the task file in whole characters; raises ValueError that names file and key."""
    try:
        return whole_characters(text)
    except ValueError as error:
        raise ValueError(f"{path}: key {key!r} {error}") from None


def guard_problem(path: str | Path, task: Task) -> str:
    """Why no attempt may be guarded under a task, in one line that names its file and key.

    Empty if nothing is wrong. It matters where a guard writes answers, which is step 1 alone. What
    other teachers and old files have written is read as ever.
    """
    try:
        problem = unreadable_label(task)
    except ValueError as error:
        problem = str(error)
    return f"{path}: key 'answer': {problem}" if problem else ""


def unreadable_label(task: Task) -> str:
    """Which label of a task is read as something else where the guard has written it, and as what.

    Empty if none is. A text of the guard that is read as another label is wrong without a word. One
    that is not read at all is asked again, so that only a label that is never read is at fault.
    """
    if not task.labels:
        return ""
    shapes = written_shapes(task.answer)
    for label in task.labels:
        readings = [read_back(task, shape.replace(LABEL, label)) for shape in shapes]
        wrong = [reading for reading in readings if reading.label not in (None, label)]
        if not any(reading.label == label for reading in readings):
            wrong = readings
        if wrong:
            remedy = NO_ANCHORS if re.search(r"\\[AZz]", task.answer) else WIDER_GROUP
            return (
                f"in {wrong[0].written!r} it finds {wrong[0].found!r} "
                f"and not the label {label!r}; {remedy}"
            )
    return ""


@dataclass(frozen=True)
class Reading:
    """What the reader makes of a text that the guard may write."""

    written: str
    label: str | None  # None: it cannot be read
    found: str  # what the expression found, for a message


def read_back(task: Task, written: str) -> Reading:
    """Read one text that the guard may write."""
    try:
        label = task.read_content(written)
        return Reading(written.strip(), label, label)
    except NoAnswer as error:
        return Reading(written.strip(), None, error.detail or "nothing")
