"""The code that a model brings for its tokenizer: nobody may run it without --trust_remote_code."""

from transformers import PreTrainedTokenizerFast


class Own(PreTrainedTokenizerFast):
    is_own = True
