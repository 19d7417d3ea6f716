"""A model's tokenizer and chat template, loaded and tried before anything larger is.

No torch, no vLLM.
"""

import logging
from pathlib import Path

from distill.probes import check_probes
from distill.task import Task
from distill.templates import TemplateProblem, depends_on_date, render
from distill.tokens import THINK_END, THINK_START, prompt_ids, think_end_id

log = logging.getLogger("models")
PROBE = "A probe of the chat template."


def load_tokenizer(model: str, commit: str | None = None, trust_remote_code: bool = False):
    """The tokenizer of a model on the hub at `commit`, or of a directory; raises ValueError.

    Where Mistral's own format lies beside the usual one, it is the usual one, as in the engines
    that we start.
    """
    from transformers import AutoTokenizer

    try:
        how = {"mistral_format": False, "trust_remote_code": trust_remote_code}
        tokenizer = AutoTokenizer.from_pretrained(model, revision=commit or "main", **how)
    except Exception as error:  # a broken file has many ways to fail
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(": ")
        raise ValueError(f"{model}: no tokenizer that transformers can load ({reason})") from error
    if not tokenizer.chat_template:
        raise ValueError(f"{model}: the tokenizer has no chat template; use an instruct model")
    return tokenizer


def check_prompt(model: str, tokenizer, task: Task) -> None:
    """Raise ValueError unless a chat under the task's prompt shows prompt and input.

    Warn if it shows the day too.
    """
    messages = task.messages(PROBE)
    try:
        prompt_ids(tokenizer, messages, strict=True)
    except TemplateProblem as error:
        remedy = "the task's prompt is its system message, so use a model whose template shows it"
        raise ValueError(f"{model}: its chat template {error}; {remedy}") from error
    warn_of_date(model, tokenizer, messages)


def check_student_tokens(adapter: str, student_model: str, commit: str | None) -> None:
    """Refuse a student whose own tokenizer gives other tokens than the adapter knows.

    Those of the adapter are what it was trained on. Raises ValueError.
    """
    tokenizer = load_tokenizer(student_model, commit)
    if (Path(adapter) / "tokenizer_config.json").is_file():
        # --eos_token of step 2, which step 3 serves it with
        tokenizer.eos_token = load_tokenizer(adapter).eos_token
    try:
        check_probes(adapter, tokenizer)
    except ValueError as error:
        remedy = (
            "--student_revision names the right base, "
            "--serve_adapter merged takes the adapter's own tokenizer"
        )
        raise ValueError(f"{error}; {remedy}") from error


def warn_of_date(model: str, tokenizer, messages: list[dict]) -> bool:
    """Say so if the template writes the day; whether it does."""
    dated = depends_on_date(tokenizer, messages)
    if dated:
        log.warning(
            "%s: its chat template writes the date, "
            "so the same chat has other tokens on another day",
            model,
        )
    return dated


def check_thinking(model: str, tokenizer, thinks: bool, structured_outputs: str) -> bool:
    """Whether vLLM can follow the thoughts of a teacher, which takes a </think> of one token.

    `thinks` says that --reasoning_parser names one. Raises ValueError where a thought would be
    taken for an answer, or guarded as if it were one.
    """
    template = str(tokenizer.chat_template)
    if not thinks:
        try:
            opens = (
                render(tokenizer, [{"role": "user", "content": PROBE}])
                .rstrip()
                .endswith(THINK_START)
            )
        except TemplateProblem:
            opens = False  # it wants a system message, with which check_prompt() tries it
        if opens and structured_outputs != "always":
            raise ValueError(
                f"{model}: its template opens a thought; "
                "--reasoning_parser must name the parser for it"
            )
        return False
    if think_end_id(tokenizer) is not None:
        return True
    if THINK_START not in template and THINK_END not in template:
        raise ValueError(
            f"{model}: has no {THINK_END}; if it does not think add --reasoning_parser none"
        )
    if structured_outputs != "never":
        several = f"its {THINK_END} is several tokens, where no guard can follow"
        raise ValueError(f"{model}: {several}; add --structured_outputs never")
    return False


def ids_or_reason(tokenizer, messages: list[dict], longest: int) -> tuple[list[int], str | None]:
    """A chat's token ids, and why it cannot be asked, if so.

    `longest` is the model's context in tokens.
    """
    try:
        ids = prompt_ids(tokenizer, messages, strict=True)
    except TemplateProblem as error:
        return [], error.reason
    return ids, "input_too_long" if len(ids) >= longest else None
