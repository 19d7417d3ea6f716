"""A tokenizer that is there at once, for a run that only counts tokens and loads no model.

To import transformers alone takes a second. What it does with the files of most models is little:
the library `tokenizers` reads tokenizer.json, and jinja2 renders the chat template. Files that ask
for more are left to transformers.
"""

import json
from datetime import datetime
from functools import cached_property
from pathlib import Path

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

# classes whose tokens are those of tokenizer.json as it is, as the tests compare them
PLAIN_CLASSES = (
    "TokenizersBackend",
    "PreTrainedTokenizerFast",
    "Qwen2Tokenizer",
    "Qwen2TokenizerFast",
)
# what changes the tokens, where a configuration sets it
CHANGES_TOKENS = ("add_prefix_space", "split_special_tokens", "auto_map", "fix_mistral_regex")


class QuickTokenizer:
    """As much of a transformers tokenizer as it takes to render a chat and to count its tokens."""

    def __init__(self, backend: Tokenizer, named_tokens: dict[str, str], chat_template: str):
        """`named_tokens` are the texts of eos_token and the like, by their names.

        Raises jinja2's TemplateError for a template that takes transformers' own extensions.
        """
        self.backend_tokenizer = backend
        self.added_tokens_decoder = backend.get_added_tokens_decoder()
        self.named_tokens = named_tokens
        self.eos_token = named_tokens.get("eos_token")
        self.chat_template = chat_template
        self.template = template_environment().from_string(chat_template)

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        encoding = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": encoding.ids}

    def apply_chat_template(
        self, messages: list[dict], tokenize: bool, add_generation_prompt: bool, **variables
    ) -> str:
        """The text of a chat, never its tokens; raises what the template raises."""
        if tokenize:
            raise ValueError("only the text of a chat can be had here")
        return self.template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **{**self.named_tokens, **variables},
        )

    def get_vocab(self) -> dict[str, int]:
        return self.vocab

    @cached_property
    def vocab(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)


def load_quickly(folder: Path) -> QuickTokenizer | None:
    """The tokenizer of a model's directory; None where transformers must load it.

    That is so wherever anything is unusual, which also holds for files that are not complete:
    transformers says what is wrong with them.
    """
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        chat_template = template_of(folder, config)
        if not chat_template or not is_plain(config):
            return None
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.no_truncation()
        backend.no_padding()
        named_tokens = named_tokens_of(config)
        if not knows_all(backend, named_tokens, config):
            return None
        return QuickTokenizer(backend, named_tokens, chat_template)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, TemplateError):
        return None
    except Exception as error:
        if type(error) is Exception:  # which is how `tokenizers` says that a file is broken
            return None
        raise


def template_of(folder: Path, config: dict) -> str | None:
    """The chat template; None where there is none, or where there are several."""
    if (folder / "additional_chat_templates").exists():
        return None
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    template = config.get("chat_template")
    return template if isinstance(template, str) else None


def is_plain(config: dict) -> bool:
    """Whether the tokens are those of tokenizer.json, as tokenizer_config.json says."""
    if config.get("tokenizer_class") not in PLAIN_CLASSES:
        return False
    return not any(config.get(key) for key in CHANGES_TOKENS)


def named_tokens_of(config: dict) -> dict[str, str]:
    """The tokens with a name, such as eos_token, which a template may write."""
    named = {}
    for name, token in config.items():
        if isinstance(token, dict):  # an added token with its properties
            token = token.get("content")
        if name.endswith("_token") and isinstance(token, str):
            named[name] = token
    return named


def knows_all(backend: Tokenizer, named_tokens: dict[str, str], config: dict) -> bool:
    """Whether tokenizer.json has every token that the configuration would add."""
    is_special = {}
    for token in backend.get_added_tokens_decoder().values():
        is_special[token.content] = token.special
    further = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    special = [*named_tokens.values(), *further]
    if not all(isinstance(token, str) and is_special.get(token) for token in special):
        return False
    for token in config.get("added_tokens_decoder", {}).values():
        if is_special.get(token["content"]) != token["special"]:
            return False
    return True


def template_environment() -> ImmutableSandboxedEnvironment:
    """What a chat template may use, as model authors expect it of whoever renders one.

    Described in transformers' guide to writing chat templates.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """JSON without jinja2's escapes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def raise_exception(message: str):
    """A template's way to refuse a chat."""
    raise TemplateError(message)


def strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
