"""Whether a teacher can be asked as the flags say, found out before its engine starts."""

import logging
from collections import Counter

from distill.guard import is_guarded
from distill.model_tokenizer import check_prompt, check_thinking, load_tokenizer
from distill.revisions import resolve
from distill.task import Task, guard_problem
from distill.teacher.engine import engine_arguments, parse_engine_flags
from distill.unfit_rows import describe_unfit_rows, find_unfit_rows

log = logging.getLogger("create_data")


def check_reasoning_parser(name: str, plugin: str | None = None) -> None:
    """Refuse a reasoning parser that vLLM does not have.

    `plugin` is a file of the user's that brings more of them. Raises ValueError that names the
    known ones.
    """
    if name == "none":
        return
    from vllm.reasoning import ReasoningParserManager

    if plugin:
        ReasoningParserManager.import_reasoning_parser(plugin)
    known = ReasoningParserManager.list_registered()
    if name not in known:
        raise ValueError(
            f"--reasoning_parser {name}: vLLM has none of this name; "
            f"it knows {', '.join(known)}, and none is for a teacher that does not think"
        )


def check_teacher_model(
    model: str, commit: str | None, reasoning_parser: str, engine_flags: list[str]
) -> None:
    """Refuse a teacher that cannot be asked,
    or that cannot close a thought which its reader would wait for.

    `commit` is the one of a model on the hub. Raises ValueError.
    """
    engine_args = engine_arguments(model, engine_flags, revision=commit)
    check_reasoning_parser(reasoning_parser, engine_args.reasoning_parser_plugin)
    tokenizer = tokenizer_of_engine(model, commit, engine_args)
    check_thinking(model, tokenizer, reasoning_parser != "none", structured_outputs="never")


def check_guard(args, task: Task) -> None:
    """Refuse a task whose labels a guard would write otherwise than they are read.

    Raises ValueError. Where no attempt is guarded it is only a warning: the teacher may still write
    an answer in that way.
    """
    problem = guard_problem(args.task, task)
    if not problem:
        return
    if is_guarded(args.structured_outputs, args.max_retries):  # the last attempt is, if any is
        raise ValueError(problem)
    log.warning(
        "create_data.py: %s; no attempt is guarded, it matters where the teacher answers so",
        problem,
    )


def check_teacher(args, engine_flags: list[str], task: Task, roles: Counter | None = None):
    """vLLM's arguments for the teacher.

    Refuses a flag, tokenizer or task that cannot work before anything loads. `roles` counts the
    inputs by unfit_rows.roles_of(); those that the template does not show are warned of.
    """
    import xgrammar

    # refuses an unknown one before the hub is asked
    flags = parse_engine_flags(args.model_name, engine_flags)
    settings = {
        "tensor_parallel_size": args.tensor_parallel_size,
        "revision": resolve(args.model_name, args.revision),
    }
    tokenizer = tokenizer_of_engine(args.model_name, settings["revision"], flags)
    thinks = args.reasoning_parser != "none"
    guards = is_guarded(args.structured_outputs, args.max_retries)  # the last attempt is, if any is
    if check_thinking(
        args.model_name, tokenizer, thinks, args.structured_outputs if guards else "never"
    ):
        settings["reasoning_parser"] = args.reasoning_parser
    check_prompt(args.model_name, tokenizer, task)
    if roles:
        line = describe_unfit_rows(
            args.model_name, find_unfit_rows(tokenizer, roles, prompted=True), "are rejected"
        )
        if line:
            log.warning("%s", line)
    if guards and task.labels:
        try:
            xgrammar.Grammar.from_regex(task.constraint())
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"{args.task}: 'answer' cannot guide ({reason}); --structured_outputs never"
            ) from error
    engine_args = engine_arguments(args.model_name, engine_flags, **settings)
    check_reasoning_parser(args.reasoning_parser, engine_args.reasoning_parser_plugin)
    return engine_args


def tokenizer_of_engine(model: str, commit: str | None, flags):
    """The tokenizer that an engine under these flags of vLLM's loads; raises ValueError."""
    if flags.tokenizer and flags.tokenizer != model:
        return load_tokenizer(flags.tokenizer, flags.tokenizer_revision, flags.trust_remote_code)
    return load_tokenizer(model, flags.tokenizer_revision or commit, flags.trust_remote_code)
