"""The task: the teacher's prompt, the labels, how an answer is read, and the chat format. Pure Python, no torch.

A task is a YAML file such as example-data/language_classification.yaml with three keys:
    prompt   the teacher's system message; the input follows as the user message
    labels   the allowed answers; an empty list makes the task free-form
    answer   a regular expression with one group that finds the answer; empty: the whole text after the thinking
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
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

    def read_answer(self, response: str, finish_reason: str = "stop", thinks: bool = True) -> str:
        """The answer in a response whose thinking starts in the prompt; raises NoAnswer.

        Only what follows the last </think> counts: reasoning quotes rules and labels, so nothing is read from it.
        A model that does not think (`thinks` false) answers with the whole response.
        """
        thinking, closing_tag, content = response.rpartition(THINK_END) if thinks else ("", THINK_END, response)
        if finish_reason in ("length", "repetition"):
            raise NoAnswer("no_answer" if closing_tag else "unfinished_thinking", f"cut for {finish_reason}")
        if not closing_tag:
            raise NoAnswer("unfinished_thinking", f"no {THINK_END}")
        return self.read_content(content)

    def constraint(self) -> str:
        """Regular expression for what may follow the thinking: one label, as `answer` finds it; empty if free-form."""
        if not self.labels:
            return ""
        label = "(" + "|".join(re.sub(r"([\\.^$*+?{}\[\]()|])", r"\\\1", x) for x in self.labels) + ")"
        start, end = group_span(self.answer) if self.answer else (0, 0)
        return r"\n{0,2}" + self.answer[:start] + label + self.answer[end:]

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
        by_folded = {label.strip(MARKUP).casefold(): label for label in self.labels}
        answers = {by_folded.get(text.casefold()) for text in found}
        if len(answers) != 1 or None in answers:
            raise NoAnswer("not_a_label", " and ".join(dict.fromkeys(found))[:100])
        return answers.pop()


def group_span(pattern: str) -> tuple[int, int]:
    """Where the one capturing group of a regular expression starts and ends."""
    open_groups = []
    # an escape, a character class, the start of a group that does not capture, or any one character
    for token in re.finditer(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?!P<).|.", pattern, re.DOTALL):
        if token[0].startswith("("):
            open_groups.append(None if token[0].startswith("(?") else token.start())
        elif token[0] == ")" and (start := open_groups.pop()) is not None:
            return start, token.end()
    raise ValueError(f"{pattern}: no group")


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
    except ValueError as error:
        raise ValueError(f"{path}: a value that YAML cannot read ({error}); put it in quotes") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected the keys prompt, labels and answer")
    if unknown := set(data) - {"prompt", "labels", "answer"}:
        raise ValueError(f"{path}: unknown key {sorted(map(str, unknown))[0]!r}; allowed are prompt, labels and answer")
    prompt, labels, answer = data.get("prompt"), data.get("labels"), data.get("answer")
    labels, answer = [] if labels is None else labels, "" if answer is None else answer
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{path}: key 'prompt' must be a text that is not empty")
    # YAML reads an unquoted no or off as a boolean, so anything but text is refused
    if not isinstance(labels, list) or not all(isinstance(x, str) and x.strip() for x in labels):
        raise ValueError(f'{path}: key \'labels\' must be a list of texts; quote labels such as "no" and "1"')
    if len({x.strip(MARKUP).casefold() for x in labels} - {""}) != len(labels):
        raise ValueError(
            f"{path}: key 'labels' lists a label twice or an empty one (case and outer punctuation do not count)"
        )
    if not isinstance(answer, str):
        raise ValueError(f"{path}: key 'answer' must be a regular expression in quotes")
    try:
        groups = re.compile(answer).groups
    except re.error as error:
        raise ValueError(f"{path}: key 'answer' is not a regular expression ({error})") from error
    if answer and groups != 1:
        raise ValueError(f"{path}: key 'answer' must have exactly one group, the answer; it has {groups}")
    return Task(prompt.strip(), tuple(labels), answer, hashlib.sha256(raw).hexdigest())


def check_model(name: str) -> str:
    """Refuse a model path that does not exist; a hub name such as Qwen/Qwen3-30B-A3B-Instruct-2507 passes."""
    parts = Path(name).parts
    is_path = name.startswith((".", "/", "~")) or len(parts) != 2 or Path(name).exists() or holds_models(parts[0])
    if is_path and not (Path(name).expanduser() / "config.json").is_file():
        raise ValueError(f"{name}: no model here (config.json is missing); pass a model directory or a hub name")
    return name


def holds_models(folder: str) -> bool:
    """Whether a name below `folder` is meant as a path; a folder that only has an owner's name hides no hub name."""
    return Path(folder).is_dir() and (folder == "models" or any(Path(folder).glob("*/config.json")))


def read_chat(path: str | Path, last_role: str) -> Iterator[tuple[int, list[dict]]]:
    """Yield (line number, messages) of a chat-format JSONL; raises ValueError that names file and line.

    Every conversation must end with a message of `last_role` that is not empty; blank lines are skipped. Where inputs
    are read (`last_role` user), an answer that a row already has is left out.
    """
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise ValueError(f"{where}: not JSON ({reason}); each line must be one JSON object") from error
        if isinstance(row, dict) and isinstance(row.get("text"), str) and last_role == "user":
            row = {"messages": [{"role": "user", "content": row["text"]}]}
        messages = row.get("messages") if isinstance(row, dict) else None
        if not isinstance(messages, list) or not messages:
            raise ValueError(f'{where}: not chat format; expected {{"messages": [{{"role": ..., "content": ...}}]}}')
        for m in messages:
            if not isinstance(m, dict) or not isinstance(m.get("content"), str):
                raise ValueError(f"{where}: not chat format; every message needs a role and a content that is text")
            if m.get("role") not in ("system", "user", "assistant"):
                raise ValueError(f"{where}: unknown role {m.get('role')!r}; use system, user or assistant")
        try:
            "".join(m["content"] for m in messages).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: holds half of a surrogate pair; write the text as UTF-8") from error
        if last_role == "user" and len(messages) > 1 and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        if messages[-1]["role"] != last_role or not messages[-1]["content"].strip():
            raise ValueError(f"{where}: the last message must be from the {last_role} and not empty")
        yield number, [{"role": m["role"], "content": m["content"]} for m in messages]


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the lines that are not blank; raises ValueError on a bad file or bad bytes."""
    number = 0
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text.strip():
                    yield number, text
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; pass an existing file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}:{number}: not UTF-8 (byte {error.start + 1}); convert the file to UTF-8") from error


def prompt_ids(tokenizer, messages: list[dict]) -> list[int]:
    """Token ids of a chat up to where the answer starts.

    Text in a message that spells a special token, such as <|im_end|>, stays text: the template is rendered around
    placeholders, and the messages' own text is tokenised apart, only where it holds such a spelling.
    """
    special = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    mark = "\ue000"  # a private-use character, which no template touches
    while any(mark in message["content"] for message in messages):
        mark += "\ue000"
    contents, marked = {}, []
    for i, message in enumerate(messages):
        if any(token in message["content"] for token in special):
            contents[f"{mark}{i}\ue001"] = message["content"]
            message = {**message, "content": f"{mark}{i}\ue001"}
        marked.append(message)
    text = tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True)
    # what precedes the last message is the same in every row of a task, so it is tokenised once
    last = text.rfind(marked[-1]["content"])
    cut = max(
        (text.rfind(token, 0, last) + len(token) for token in cut_points(tokenizer) if token in text[:last]), default=0
    )
    if any(placeholder in text[:cut] for placeholder in contents):
        cut = 0
    ids, text = list(head_ids(tokenizer, text[:cut])), text[cut:]
    for placeholder, content in contents.items():
        before, _, text = text.partition(placeholder)
        ids += tokenizer(before, add_special_tokens=False)["input_ids"]
        ids += text_ids(tokenizer, content)
    return ids + tokenizer(text, add_special_tokens=False)["input_ids"]


@lru_cache(maxsize=8)
def head_ids(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


@lru_cache(maxsize=8)
def cut_points(tokenizer) -> tuple[str, ...]:
    """Special tokens after which a text may be cut, because what follows is tokenised as it would be alone."""

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    tokens = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    probes = ("user", "\n user", " a")
    return tuple(t for t in tokens if all(ids(f"a{t}{probe}") == ids(f"a{t}") + ids(probe) for probe in probes))


def text_ids(tokenizer, text: str) -> list[int]:
    """Token ids of plain text; what spells an added token, such as <think>, is cut after its first letter."""
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if len(str(token)) > 1]
    inside = "|".join(f"(?<={re.escape(t[0])})(?={re.escape(t[1:])})" for t in special) or "(?!)"
    return [i for piece in re.split(inside, text) for i in tokenizer(piece, add_special_tokens=False)["input_ids"]]


def encode(tokenizer, messages: list[dict]) -> dict[str, list[int]]:
    """input_ids and labels of one training row; labels are -100 but on the answer and its end of turn.

    The context is what inference sees, prompt_ids() of the messages before the answer.
    """
    *prompt, answer = messages
    context = prompt_ids(tokenizer, prompt)
    mark = "\ue002"  # a private-use character, which no template touches
    probe = [*prompt, {"role": "assistant", "content": mark}]
    rendered = tokenizer.apply_chat_template(probe, tokenize=False)
    # what the template writes after an answer, without the newline that inference never generates
    ending = rendered.rpartition(mark)[2].rstrip() or tokenizer.eos_token
    target = text_ids(tokenizer, answer["content"])
    target += tokenizer(ending, add_special_tokens=False)["input_ids"]
    return {"input_ids": context + target, "labels": [-100] * len(context) + target}
