"""Whether a teacher can be asked as the flags say, found out before its engine starts."""

import logging
from collections import Counter
from dataclasses import dataclass

from distill.model_tokenizer import check_prompt, check_thinking, load_tokenizer
from distill.revisions import resolve
from distill.task import Task, guard_problem
from distill.teacher.engine import engine_arguments, parse_engine_flags
from distill.unfit_rows import describe_unfit_rows, find_unfit_rows

log = logging.getLogger("create_data")


@dataclass(frozen=True)
class TeacherModel:
    """The model that step 1 asks, and how vLLM runs it."""

    model_name: str  # a directory, or a name on the hub
    revision: str | None  # on the hub: a branch, tag or commit; None: main
    tensor_parallel_size: int  # GPUs it is split over
    reasoning_parser: str  # vLLM's for its thinking; none: it does not think
    engine_flags: list[str]  # further ones, vLLM's own


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
    """Refuse a teacher that cannot be asked.

    Or that cannot close a thought which its reader would wait for. `commit` is the one of a
    model on the hub. Raises ValueError.
    """
    engine_args = engine_arguments(model, engine_flags, revision=commit)
    check_reasoning_parser(reasoning_parser, engine_args.reasoning_parser_plugin)
    tokenizer = tokenizer_of_engine(model, commit, engine_args)
    check_thinking(model, tokenizer, reasoning_parser != "none", structured_outputs="never")


def check_guard(task_file: str, task: Task, guards: str) -> None:
    """Refuse a task whose labels a guard would write otherwise than they are read.

    `guards` says which attempts are guarded: retry, always or never. Raises ValueError. Where none
    is it is only a warning: the teacher may still write an answer in that way.
    """
    problem = guard_problem(task_file, task)
    if not problem:
        return
    if guards != "never":
        raise ValueError(problem)
    log.warning(
        "create_data.py: %s; no attempt is guarded, it matters where the teacher answers so",
        problem,
    )


def refuse_empty_guard(task_file: str, task: Task, guards: str) -> None:
    """Raise ValueError where every attempt is to be guarded and any text may be an answer.

    Where only retries are, a task without labels has always been taken: they are asked again as
    they are.
    """
    if guards == "always" and not task.labels and not task.schema:
        raise ValueError(
            f"--structured_outputs always: {task_file} has neither labels nor a schema, so nothing "
            "can be guarded; leave the flag out, or list the allowed answers under 'labels'"
        )


def check_teacher(
    teacher: TeacherModel, task_file: str, task: Task, guards: str, roles: Counter | None = None
):
    """vLLM's arguments for the teacher.

    Refuses a flag, tokenizer or task that cannot work before anything loads. `guards` says which
    attempts are guarded: retry, always or never. `roles` counts the inputs by
    unfit_rows.roles_of(); those that the template does not show are warned of. Raises ValueError.
    """
    import xgrammar

    name = teacher.model_name
    # refuses an unknown one before the hub is asked
    flags = parse_engine_flags(name, teacher.engine_flags)
    settings = {
        "tensor_parallel_size": teacher.tensor_parallel_size,
        "revision": resolve(name, teacher.revision),
    }
    tokenizer = tokenizer_of_engine(name, settings["revision"], flags)
    if check_thinking(name, tokenizer, teacher.reasoning_parser != "none", guards):
        settings["reasoning_parser"] = teacher.reasoning_parser
    check_prompt(name, tokenizer, task)
    if roles:
        unfit = find_unfit_rows(tokenizer, roles, prompted=True)
        line = describe_unfit_rows(name, unfit, "are rejected")
        if line:
            log.warning("%s", line)
    if guards != "never" and task.labels:
        try:
            xgrammar.Grammar.from_regex(task.constraint())
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"{task_file}: 'answer' cannot guide ({reason}); --structured_outputs never"
            ) from error
    if guards != "never" and task.schema:
        problem = schema_problem(task.schema)
        if problem:
            raise ValueError(
                f"{task_file}: 'schema' cannot guide ({problem}); --structured_outputs never"
            )
    engine_args = engine_arguments(name, teacher.engine_flags, **settings)
    check_reasoning_parser(teacher.reasoning_parser, engine_args.reasoning_parser_plugin)
    return engine_args


def schema_problem(schema: str) -> str:
    """Why none of vLLM's guides takes a schema, given as JSON text; empty if one does.

    vLLM asks them in this order, when it gets a guarded request.
    """
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.structured_output.backend_guidance import validate_guidance_grammar
    from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

    params = SamplingParams(structured_outputs=StructuredOutputsParams(json=schema))
    problem = ""
    for check in (validate_xgrammar_grammar, validate_guidance_grammar):
        try:
            check(params)
            return ""
        except VLLMValidationError as error:
            problem = str(error).strip().splitlines()[-1]
    return problem


def tokenizer_of_engine(model: str, commit: str | None, flags):
    """The tokenizer that an engine under these flags of vLLM's loads; raises ValueError."""
    if flags.tokenizer and flags.tokenizer != model:
        return load_tokenizer(flags.tokenizer, flags.tokenizer_revision, flags.trust_remote_code)
    return load_tokenizer(model, flags.tokenizer_revision or commit, flags.trust_remote_code)
