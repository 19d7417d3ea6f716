"""Small dense models with random weights, made in a moment: no test that uses one needs the tiny
pair.
"""

import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from distill.training.lora import lora_config


def small_model(kind, tokenizer):
    """A model of an architecture that transformers knows as `kind`, such as llama, for a tokenizer.

    Always the same.
    """
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


QWEN3_30B = dict(
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=6144,
    moe_intermediate_size=768,
    num_hidden_layers=48,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=128,
    num_experts=128,
    num_experts_per_tok=8,
    tie_word_embeddings=False,
)


def adapted(model, **kwargs):
    """The model with LoRA on it, without weights: (trainable parameters by name, all
    parameters).
    """
    before = sum(p.numel() for p in model.parameters())
    with torch.device("meta"):
        peft = get_peft_model(model, lora_config(model, **kwargs), low_cpu_mem_usage=True)
    return {name: p.numel() for name, p in peft.named_parameters() if p.requires_grad}, before
