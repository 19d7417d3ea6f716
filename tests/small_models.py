"""Small dense models with random weights, made in a moment: no test that uses one needs the tiny pair."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def small_model(kind, tokenizer):
    """A model of an architecture that transformers knows as `kind`, such as llama, for a tokenizer; always the same."""
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # of 32; vLLM on a CPU has no smaller head
        num_key_value_heads=1,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)
