"""Which parameters are trained."""

import re

import pytest
from transformers import LlamaConfig, Qwen3MoeConfig

from distill.training.loading import empty_model
from distill.training.lora import lora_config
from small_models import QWEN3_30B, adapted


@pytest.mark.parametrize(
    ("kwargs", "trainable"),
    [
        ({}, 184_025_088),
        ({"expert_rank": 32}, 1_285_029_888),
        ({"target": "attention"}, 26_738_688),
    ],
    ids=["default", "rank 32 everywhere", "attention"],
)
def test_parameters_of_the_30b_student(kwargs, trainable):
    found, total = adapted(empty_model(Qwen3MoeConfig(**QWEN3_30B)), rank=32, alpha=16, **kwargs)
    assert total == 30_532_122_624
    assert sum(found.values()) == trainable
    # neither router nor head
    assert all(re.search(r"self_attn\.[qkvo]_proj|mlp\.experts", name) for name in found)


def test_dense_student_is_trained_on_all_linear_layers_but_the_head():
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=99,
    )
    found, _ = adapted(empty_model(config), rank=4, alpha=4)
    names = {name.split(".lora_")[0].rpartition(".")[2] for name in found}
    assert names == set("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split())
    assert {
        n.split(".lora_")[0].rpartition(".")[2]
        for n in adapted(empty_model(config), rank=4, alpha=4, target="up_proj")[0]
    } == {"up_proj"}
    with pytest.raises(ValueError, match="no linear layer 'gate'; there are"):
        lora_config(empty_model(config), 4, 4, target="q_proj,gate")


def test_dropout_on_experts_is_refused():
    one_layer = Qwen3MoeConfig(**{**QWEN3_30B, "num_hidden_layers": 1})
    model = empty_model(one_layer)
    with pytest.raises(ValueError, match="--lora_dropout 0.1: PEFT has none for fused experts"):
        lora_config(model, 32, 16, dropout=0.1)
    assert lora_config(model, 32, 16, target="attention", dropout=0.1).lora_dropout == 0.1
