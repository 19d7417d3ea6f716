"""A tokenizer that is there at once, for a run that only counts tokens and loads no model.

To import transformers alone takes a second. What it does with the files of most models is little:
the library `tokenizers` reads tokenizer.json, and jinja2 renders the chat template. Files that ask
for more are left to transformers.
"""

import json
from datetime import datetime
from pathlib import Path

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

# The models of whose classes the tests have compared the tokens; of others transformers may make
# something else than tokenizer.json says.
MODEL_TYPES = ("qwen3", "qwen3_moe")
# takes tokenizer.json as it is
PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")
# builds its own around the vocabulary, which is the same where tokenizer.json is Qwen's
QWEN2 = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
# how Qwen2 and Qwen3 cut a text into words, as their tokenizer.json has it
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# what changes the tokens, where a configuration sets it
CHANGES_TOKENS = (
    "add_prefix_space",
    "auto_map",
    "fast_tokenizer_files",
    "fix_mistral_regex",
    "split_special_tokens",
)
# files of older formats, which may change them too
OLD_FILES = ("special_tokens_map.json", "added_tokens.json", "additional_chat_templates")
PROPERTIES = ("content", "lstrip", "rstrip", "normalized", "single_word", "special")


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
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)


def load_quickly(folder: Path) -> QuickTokenizer | None:
    """The tokenizer of a model's directory; None where transformers must load it.

    That is so wherever anything is unusual, which also holds for files that are not complete:
    transformers says what is wrong with them.
    """
    try:
        return usual_tokenizer(folder)
    except Exception:  # broken files have many ways to fail
        return None


def usual_tokenizer(folder: Path) -> QuickTokenizer | None:
    """As load_quickly(), but raises whatever broken files lead to."""
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    model_type = json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
    chat_template = template_of(folder, config)
    if model_type not in MODEL_TYPES or not chat_template:
        return None
    if any((folder / name).exists() for name in OLD_FILES):
        return None
    if any(config.get(key) for key in CHANGES_TOKENS):
        return None
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    class_name = config.get("tokenizer_class")
    if class_name not in PLAIN and not (class_name in QWEN2 and is_qwen2(backend, config)):
        return None
    named_tokens = named_tokens_of(config)
    if not knows_all(backend, named_tokens, config):
        return None
    return QuickTokenizer(backend, named_tokens, chat_template)


def template_of(folder: Path, config: dict) -> str | None:
    """The chat template; None where there is none, or where there are several."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    template = config.get("chat_template")
    return template if isinstance(template, str) else None


def is_qwen2(backend: Tokenizer, config: dict) -> bool:
    """Whether tokenizer.json is what the class would build, and all that it adds is given."""
    normalizer = json.loads(backend.normalizer.__getstate__())
    split, byte_level = json.loads(backend.pre_tokenizer.__getstate__())["pretokenizers"]
    words = (split["pattern"], split["behavior"], split["invert"])
    pieces = (byte_level["type"], byte_level["add_prefix_space"], byte_level["use_regex"])
    return (
        normalizer == {"type": "NFC"}
        and words == ({"Regex": QWEN2_WORDS}, "Isolated", False)
        and pieces == ("ByteLevel", False, False)
        and not backend.model.ignore_merges
        and not backend.model.byte_fallback
        and {"eos_token", "pad_token", "unk_token", "added_tokens_decoder"} <= config.keys()
    )


def named_tokens_of(config: dict) -> dict[str, str]:
    """The tokens with a name, such as eos_token, which a template may write.

    Raises ValueError for one that is no text.
    """
    named = {}
    for name, token in config.items():
        if isinstance(token, dict):  # an added token with its properties
            token = token.get("content")
        if not name.endswith("_token") or token is None or isinstance(token, bool):
            continue  # such as add_bos_token
        if not isinstance(token, str):
            raise ValueError(f"{name} is no text")
        named[name] = token
    return named


def knows_all(backend: Tokenizer, named_tokens: dict[str, str], config: dict) -> bool:
    """Whether tokenizer.json has every token that the configuration would add, as it would be."""
    added = {}
    for token in backend.get_added_tokens_decoder().values():
        properties = token.__getstate__()
        added[token.content] = [properties[name] for name in PROPERTIES]
    special = list(named_tokens.values())
    for key in ("additional_special_tokens", "extra_special_tokens"):
        further = config.get(key) or []
        if not isinstance(further, list):
            return False
        special += further
    if not all(token in added and added[token][-1] for token in special):
        return False
    if "added_tokens_decoder" not in config:
        return True
    described = {}
    for token in config["added_tokens_decoder"].values():
        described[token["content"]] = [token[name] for name in PROPERTIES]
    return described == added


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
