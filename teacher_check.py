"""Whether a teacher can be asked as the flags say, found out before its engine starts."""

from engine import engine_arguments, one_line
from task import THINK_END


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


def check_teacher_model(
    model: str, reasoning_parser: str, engine_flags: list[str], revision: str | None = None
) -> None:
    """Refuse a teacher that cannot be asked, or that cannot close a thought which its reader would wait for.

    Raises ValueError.
    """
    plugin = engine_arguments(model, engine_flags).reasoning_parser_plugin
    check_reasoning_parser(reasoning_parser, plugin)
    tokenizer = load_tokenizer(model, revision)
    if not tokenizer.chat_template:
        raise ValueError(f"{model}: its tokenizer has no chat template; pass a chat model as --teacher_model")
    if reasoning_parser != "none" and THINK_END not in tokenizer.get_vocab():
        raise ValueError(f"{model}: has no {THINK_END}; if it does not think add --reasoning_parser none")


def load_tokenizer(model: str, revision: str | None = None):
    """A model's tokenizer; raises ValueError, in one line, if transformers cannot load it."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, revision=revision)
    except (ValueError, OSError) as error:
        raise ValueError(f"{model}: no tokenizer that transformers can load ({one_line(error)})") from None
