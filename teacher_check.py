"""Whether a teacher can be asked as the flags say, found out before its engine starts."""

from engine import engine_arguments
from model_tokenizer import check_thinking, load_tokenizer


def check_reasoning_parser(name: str, plugin: str | None = None) -> None:
    """Refuse a reasoning parser that vLLM does not have; `plugin` is a file of the user's that brings more of them.

    Raises ValueError that names the known ones.
    """
    if name == "none":
        return
    from vllm.reasoning import ReasoningParserManager

    if plugin:
        ReasoningParserManager.import_reasoning_parser(plugin)
    known = ReasoningParserManager.list_registered()
    if name not in known:
        raise ValueError(
            f"--reasoning_parser {name}: vLLM has none of this name; it knows {', '.join(known)}, and none is for a "
            "teacher that does not think"
        )


def check_teacher_model(model: str, commit: str | None, reasoning_parser: str, engine_flags: list[str]) -> None:
    """Refuse a teacher that cannot be asked, or that cannot close a thought which its reader would wait for.

    `commit` is the one of a model on the hub. Raises ValueError.
    """
    plugin = engine_arguments(model, engine_flags, revision=commit).reasoning_parser_plugin
    check_reasoning_parser(reasoning_parser, plugin)
    check_thinking(model, load_tokenizer(model, commit), reasoning_parser != "none", structured_outputs="never")
