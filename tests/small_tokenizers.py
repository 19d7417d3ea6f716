"""Small tokenizers that several test files build."""

import json

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from distill.evaluation.systems import System

TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer():
    """One token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": ["<|im_start|>"],
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE, **special)


SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>"]
# the last ones as Gemma has them
ADDED = ["<think>", "</think>", "\n\n", "\n\n\n", "  ", "    ", "<table>", "</h1>"]
TRAINED_ON = [
    "user system assistant probe of think text im_start im_end <|>/\n "
    "0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZ"
]


def byte_level():
    """As Qwen's and Llama 3's."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        TRAINED_ON, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False)
    )
    return words


def metaspace(scheme):
    """As SentencePiece's: a space before the first word of a text (`first`), or of each of its
    pieces (`always`).
    """
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    words.decoder = decoders.Metaspace(prepend_scheme=scheme, split=False)
    words.train_from_iterator(
        TRAINED_ON, trainers.BpeTrainer(special_tokens=["<unk>"], show_progress=False)
    )
    return words


def prepending():
    """As Llama 2's: the space is put there by a normalizer."""
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    words.decoder = decoders.Replace("▁", " ")
    words.train_from_iterator(
        TRAINED_ON, trainers.BpeTrainer(special_tokens=["<unk>"], show_progress=False)
    )
    return words


def unigram():
    """As T5's and XLM-R's; its vocabulary holds the special tokens as pieces of text."""
    words = Tokenizer(models.Unigram())
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    words.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=100,
        special_tokens=SPECIAL,
        unk_token="<unk>",
        show_progress=False,
        initial_alphabet=list("<|>/_ABX"),
    )
    words.train_from_iterator(TRAINED_ON, trainer)
    return words


BACKENDS = {
    "byte level": byte_level,
    "Metaspace, first": lambda: metaspace("first"),
    "Metaspace, always": lambda: metaspace("always"),
    "prepending": prepending,
    "Unigram": unigram,
}


def make_tokenizer(backend, think_is_special=False):
    words = BACKENDS[backend]()
    words.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    words.add_tokens([AddedToken(text, special=False, normalized=False) for text in ADDED[:2]])
    words.add_tokens([AddedToken(text, special=False, normalized=False) for text in ADDED[2:]])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", unk_token="<unk>"
    )


def template(messages="messages", content="m.content", before=""):
    """ChatML, but for what a case changes."""
    return (
        before
        + "{% for m in "
        + messages
        + " %}{{ '<|im_start|>' + m.role + '\\n' + ("
        + content
        + ") + '<|im_end|>\\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
    )


CHATML = template()
DROPS = template(messages="messages | rejectattr('role', 'equalto', 'system')")


def save_model(folder, chat_template, forget=(), backend="byte level"):
    """A directory that looks like a model's up to its weights, without some tokens."""
    tokenizer = make_tokenizer(backend)
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text())
    description["added_tokens"] = [
        t for t in description["added_tokens"] if t["content"] not in forget
    ]
    path.write_text(json.dumps(description))
    (folder / "config.json").write_text('{"model_type": "qwen3_moe"}')
    return folder


def system(name, model):
    prompted = name in ("teacher", "base_prompt")
    return System(name, str(model), prompted, False, 0.0, 8, 1, 0)
