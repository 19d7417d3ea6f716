"""What several tests of step 2 share."""

import pytest

from helpers import qwen_tokenizer


@pytest.fixture(scope="module")
def qwen():
    return qwen_tokenizer(eos_token="<|im_end|>", pad_token="<|endoftext|>")
