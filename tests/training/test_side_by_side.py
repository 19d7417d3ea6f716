"""Rows side by side stay apart in the architectures that are said to keep them so.

Others get padded batches.
"""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from distill.training.lora import lora_config
from distill.training.side_by_side import (
    PLAIN,
    distance_between,
    find_obstacle,
    logits_of,
    put_side_by_side,
)
from distill.training.student_ops import ATTENTION_IMPLEMENTATION

WINDOW = 8  # shorter than the rows
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERT_SIZES = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
SHARED = {"shared_expert_intermediate_size": 48}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_hidden_layers": 4,  # the last of four is attention
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16}
FURTHER = {
    "ministral3": {},
    "mistral": {"sliding_window": None},
    "mixtral": {"num_local_experts": 4},
    "phi3": {"sliding_window": None},
    "qwen2_moe": {**EXPERT_SIZES, **SHARED},
    "qwen3_moe": EXPERT_SIZES,
}
OTHERS = {
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "gemma2": {"sliding_window": WINDOW},
    "gemma3_text": {"sliding_window": WINDOW},
    "gpt_oss": {"sliding_window": WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_next": {**LINEAR, **EXPERT_SIZES, **SHARED},
    "qwen3_5_text": LINEAR,
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 128},
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
}
# The same as OTHERS that attend over what student_ops computes, so that what it gets wrong can be
# seen.
TAKE_OUR_ATTENTION = [name for name in OTHERS if name != "gpt_oss"]


def student(model_type, further):
    """A small student with random weights, which are large enough for each token to count."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SIZES, **further})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def some_rows():
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(3, 300, (length,), generator=generator).tolist() for length in (30, 17, 9)
    ]


@pytest.mark.parametrize("model_type", PLAIN)
def test_rows_side_by_side_are_as_each_alone(model_type):
    model = student(model_type, FURTHER.get(model_type, {}))
    rows = some_rows()
    alone = torch.cat([logits_of(model, [row]) for row in rows])
    assert put_side_by_side(model, rows) == ""
    assert model.config._attn_implementation == ATTENTION_IMPLEMENTATION
    assert distance_between(logits_of(model, rows), alone) < 1e-5


@pytest.mark.parametrize("model_type", OTHERS)
def test_other_students_get_padded_batches(model_type):
    """In which each row is as it is alone.

    How far it would be beside others is what the check at the start sees.
    """
    model = student(model_type, OTHERS[model_type])
    before = model.config._attn_implementation
    assert model_type in put_side_by_side(model, some_rows())
    assert model.config._attn_implementation == before
    rows = some_rows()
    padded = DataCollatorForLanguageModeling(pad_token_id=0)(
        [{"input_ids": row, "labels": row} for row in rows]
    )
    with torch.no_grad():
        together = model(
            input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], use_cache=False
        ).logits
        for number, row in enumerate(rows):
            alone = model(input_ids=torch.tensor([row]), use_cache=False).logits[0]
            torch.testing.assert_close(together[number, : len(row)], alone, rtol=1e-3, atol=1e-4)
    if model_type in TAKE_OUR_ATTENTION:  # a thousand times what rounding makes
        alone = torch.cat([logits_of(model, [row]) for row in rows])
        model.set_attn_implementation(ATTENTION_IMPLEMENTATION)
        assert distance_between(logits_of(model, rows), alone) > 1e-2


@pytest.mark.parametrize("model_type", ["falcon_h1", "qwen3_5_text"])
def test_a_loaded_student_whose_rows_leak_gets_padded_batches(model_type, monkeypatch):
    """As an architecture would that is said to be plain, and in a later version of transformers is
    not.
    """
    monkeypatch.setattr("distill.training.side_by_side.find_obstacle", lambda config: "")
    model = student(model_type, OTHERS[model_type])
    before = model.config._attn_implementation
    assert f"leak into each other in this {model_type}" in put_side_by_side(model, some_rows())
    assert model.config._attn_implementation == before
    assert put_side_by_side(model) == ""  # which only a look at the weights shows


def test_dropout_and_other_attention_are_obstacles():
    config = student("llama", {}).config
    assert find_obstacle(config) == ""
    config.attention_dropout = 0.1
    assert find_obstacle(config) == "llama with attention_dropout 0.1"
    config.attention_dropout = 0.0
    config._attn_implementation = "eager"
    assert find_obstacle(config) == "llama with the attention eager"


def multimodal():
    """A small Gemma3, whose window stands in text_config, with its tower for images."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    parts = {
        "text_config": {**SIZES, "sliding_window": WINDOW},
        "vision_config": {**vision, "image_size": 16, "patch_size": 8},
        "mm_tokens_per_image": 4,
    }
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gemma3", **parts), dtype=torch.float32
    )


def test_a_multimodal_student_is_trained_in_its_language_model_alone():
    """DDP ends at a trained weight that no row reaches, as in the tower for images."""
    model = multimodal()
    assert "gemma3" in put_side_by_side(model)
    model = get_peft_model(model, lora_config(model, 4, 4))
    rows = [{"input_ids": row, "labels": row} for row in some_rows()]
    model(**DataCollatorForLanguageModeling(pad_token_id=0)(rows)).loss.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 7
    assert all(".language_model." in name and grad is not None for name, grad in trained.items())
    with pytest.raises(ValueError, match="no linear layer 'fc1'"):
        lora_config(multimodal(), 4, 4, target="fc1")
