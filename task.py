"""The task: the teacher's prompt, the labels and how an answer is read. Pure Python, no torch.

A task is a YAML file such as example-data/language_classification.yaml with three keys:
    prompt   the teacher's system message; the input follows as the user message
    labels   the allowed answers; an empty list makes the task free-form
    answer   a regular expression with one group that finds the answer; empty: the whole text after the thinking
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

THINK_END = "</think>"
MARKUP = " \t\r\n*_`\"'“”.,;:!()[]{}<>$\\"  # what models like to put around an answer


class NoAnswer(ValueError):
    """A response without a valid answer; `reason` is unfinished_thinking, no_answer or not_a_label."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True)
class Task:
    """One task, as load_task reads it."""

    prompt: str
    labels: tuple[str, ...]
    answer: str
    hash: str  # sha256 of the file, so that data made under another prompt is told apart

    def messages(self, input: str | list[dict]) -> list[dict]:
        """The teacher's chat: the prompt as system message, then the input (a text, or chat messages)."""
        turns = [{"role": "user", "content": input}] if isinstance(input, str) else list(input)
        return [{"role": "system", "content": self.prompt}, *turns]

    def read_answer(self, response: str, finish_reason: str = "stop") -> str:
        """The answer in a response whose thinking starts in the prompt; raises NoAnswer.

        Only what follows the last </think> counts: reasoning quotes rules and labels, so nothing is read from it.
        """
        thinking, closing_tag, content = response.rpartition(THINK_END)
        if finish_reason == "length":
            raise NoAnswer("no_answer" if closing_tag else "unfinished_thinking", "cut at the token limit")
        if not closing_tag:
            raise NoAnswer("unfinished_thinking", f"no {THINK_END}")
        return self.read_content(content)

    def read_content(self, content: str) -> str:
        """The answer in text without thinking; raises NoAnswer. With several answers they must all agree."""
        if self.answer:
            found = [m if isinstance(m, str) else m[0] for m in re.findall(self.answer, content, re.IGNORECASE)]
        else:
            found = [content]
        found = [text.strip(MARKUP) if self.labels else text.strip() for text in found]
        if not any(found):
            raise NoAnswer("no_answer")
        if not self.labels:
            return found[-1]
        by_folded = {label.casefold(): label for label in self.labels}
        answers = {by_folded.get(text.casefold()) for text in found}
        if len(answers) != 1 or None in answers:
            raise NoAnswer("not_a_label", " and ".join(dict.fromkeys(found))[:100])
        return answers.pop()


def load_task(path: str | Path) -> Task:
    """Read a task file; raises ValueError that names the file and the key."""
    path = Path(path)
    try:
        raw = path.read_bytes()
        data = yaml.safe_load(raw.decode("utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; pass an existing task file with --task") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; save the task file as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}:{where} not valid YAML; see example-data/language_classification.yaml") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected the keys prompt, labels and answer")
    if unknown := set(data) - {"prompt", "labels", "answer"}:
        raise ValueError(f"{path}: unknown key {sorted(map(str, unknown))[0]!r}; allowed are prompt, labels and answer")
    prompt, labels, answer = data.get("prompt"), data.get("labels") or [], data.get("answer") or ""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{path}: key 'prompt' must be a text that is not empty")
    # YAML reads an unquoted no or off as a boolean, so anything but text is refused
    if not isinstance(labels, list) or not all(isinstance(x, str) and x.strip() for x in labels):
        raise ValueError(f"{path}: key 'labels' must be a list of texts; quote labels such as \"no\" and \"1\"")
    if len({x.casefold() for x in labels}) != len(labels):
        raise ValueError(f"{path}: key 'labels' lists a label twice (upper and lower case count as the same)")
    if not isinstance(answer, str):
        raise ValueError(f"{path}: key 'answer' must be a regular expression in quotes")
    try:
        groups = re.compile(answer).groups
    except re.error as error:
        raise ValueError(f"{path}: key 'answer' is not a regular expression ({error})") from error
    if answer and groups != 1:
        raise ValueError(f"{path}: key 'answer' must have exactly one group, the answer; it has {groups}")
    return Task(prompt.strip(), tuple(labels), answer, hashlib.sha256(raw).hexdigest())
