"""The chat templates of step 3's systems, tried before an engine starts.

And the tokenizer that an engine will load for a model.
"""

import logging
from collections import Counter
from pathlib import Path

from distill.model_tokenizer import PROBE, load_tokenizer, warn_of_date
from distill.task import Task
from distill.teacher.check import tokenizer_of_engine
from distill.teacher.engine import parse_engine_flags
from distill.templates import TemplateProblem
from distill.tokens import prompt_ids
from distill.unfit_rows import describe_unfit_rows, find_unfit_rows

log = logging.getLogger("models")


def tokenizer_of_system(system, adapter: str, engine_flags: list[str]):
    """The tokenizer with which one of step 3's systems is asked; raises ValueError.

    The student brings the one that it was trained with, beside its adapter, which --tokenizer does
    not replace.
    """
    flags = parse_engine_flags(system.model, engine_flags)
    if system.name == "student" and (Path(adapter) / "tokenizer_config.json").is_file():
        return load_tokenizer(adapter, trust_remote_code=flags.trust_remote_code)
    return tokenizer_of_engine(system.model, system.revision, flags)


def try_templates(
    systems: list, task: Task, roles: Counter, adapter: str, engine_flags: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Try the chat templates of step 3's systems.

    Says what keeps which of them from being asked, and who writes the date. `roles` counts the
    rows by unfit_rows.roles_of(); those that a template does not show are warned of. Only the
    base student under the prompt may be left out: a student's template needs no system message
    otherwise. Raises ValueError for the others.
    """
    left_out = {}
    dated = []
    for system in systems:
        tokenizer = tokenizer_of_system(system, adapter, engine_flags)
        messages = task.messages(PROBE) if system.prompted else [{"role": "user", "content": PROBE}]
        try:
            try_template(system, tokenizer, messages, roles)
        except ValueError as error:
            if system.name != "base_prompt":
                raise
            left_out[system.name] = str(error)
            continue
        if system.model not in dated and warn_of_date(system.model, tokenizer, messages):
            dated.append(system.model)
    return left_out, dated


def try_template(system, tokenizer, messages: list[dict], roles: Counter) -> None:
    """Raise ValueError if a system's template shows a single turn, `messages`, or all rows wrongly.

    Warn for some.
    """
    try:
        prompt_ids(tokenizer, messages, strict=True)
    except TemplateProblem as error:
        raise ValueError(f"{system.model}: its chat template {error}") from error
    unfit = find_unfit_rows(tokenizer, roles, system.prompted)
    line = describe_unfit_rows(system.model, unfit, f"count as unreadable ({system.name})")
    if line:
        log.warning("%s", line)
