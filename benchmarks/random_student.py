"""The 30B student with random weights under train_sft_trl.py's LoRA, and its adapter's check."""

import gc
import tempfile
import time
from dataclasses import replace

import torch
from peft import PeftModel, get_peft_model
from sizes import Model
from transformers import AutoModelForCausalLM, Qwen3MoeConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import add_fused_lm_head

from distill.training.lora import lora_config
from distill.training.student_ops import (
    EXPERTS_IMPLEMENTATION,
    keep_lora_beside_experts,
    use_fewer_kernels,
)

SMALL = Model(
    hidden=128,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=32,
    experts=8,
    per_token=2,
    expert_size=64,
    vocabulary=4096,
)
ALPHA = 16  # default of --lora_alpha
SPREAD_B = 0.02  # standard deviation of lora_B in the comparisons
COMPARED_ROWS = 4
EXACT_LAYERS = 4  # of the model whose adapter is compared in fp32, where all layers would not fit


def configuration(plan: Model) -> Qwen3MoeConfig:
    """The transformers configuration of a plan.

    What plan.py does not count is as in Qwen3-30B-A3B, 2507.
    """
    return Qwen3MoeConfig(
        hidden_size=plan.hidden,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.kv_heads,
        head_dim=plan.head_dim,
        num_experts=plan.experts,
        num_experts_per_tok=plan.per_token,
        moe_intermediate_size=plan.expert_size,
        vocab_size=plan.vocabulary,
        tie_word_embeddings=plan.tied,
        norm_topk_prob=True,
        max_position_embeddings=plan.context,
        rope_parameters={"rope_type": "default", "rope_theta": 1e7},
        use_cache=False,
    )


def now(device: torch.device) -> float:
    """Seconds, after all that the device has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def build(plan: Model, dtype: torch.dtype, device: torch.device) -> dict:
    """The model with random weights, made where they stay; and the seconds."""
    start = now(device)
    with device:
        model = AutoModelForCausalLM.from_config(configuration(plan), dtype=dtype)
    return {"model": model, "seconds": now(device) - start}


def adapted(model, rank: int, expert_rank: int, device: torch.device) -> dict:
    """The model as SFTTrainer trains it.

    LoRA in fp32, checkpointing, and the head on the labelled tokens alone.
    """
    start = now(device)
    model = get_peft_model(model, lora_config(model, rank, ALPHA, expert_rank=expert_rank))
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    keep_lora_beside_experts(model)
    use_fewer_kernels(model)
    add_fused_lm_head(model.get_base_model(), outputs=("log_probs", "entropy", "is_top1"))
    return {"model": model.train(), "seconds": now(device) - start}


def fill(model) -> None:
    """Let the adapter change the logits: random numbers in place of the zeros of lora_B."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=SPREAD_B)


def batch_of(
    length: int, rows: int, padding_free: bool, vocabulary: int, device: torch.device
) -> tuple[dict, int]:
    """Rows of half to full length as the trainer's collator joins them, and their tokens.

    Each has three labelled tokens.
    """
    generator = torch.Generator().manual_seed(0)
    examples = []
    tokens = 0
    for index in range(rows):
        shorter = length // 2 * index // max(1, rows - 1)
        size = (length - shorter,)
        ids = torch.randint(1, vocabulary, size, generator=generator).tolist()
        labels = [-100] * (len(ids) - 3) + ids[-3:]
        examples.append({"input_ids": ids, "labels": labels})
        tokens += len(ids)
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=padding_free)
    batch = {}
    for key, value in collator(examples).items():
        batch[key] = value.to(device) if torch.is_tensor(value) else value
    return batch, tokens


def logits(model, batch: dict) -> torch.Tensor:
    """Logits in fp32 of all tokens that are no padding: tokens x vocabulary."""
    mask = batch["attention_mask"]
    with torch.no_grad():
        found = model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False).logits
    return found[mask.bool()].float()


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two logits."""
    return (one - other).abs().max().item()


def same_token(one: torch.Tensor, other: torch.Tensor) -> float:
    """The share of tokens whose likeliest next one is the same."""
    return (one.argmax(-1) == other.argmax(-1)).float().mean().item()


def check_adapter(model, length: int, device: torch.device) -> dict:
    """The adapter saved, taken off, loaded, merged.

    Found are largest differences of logits and shares of equal likeliest tokens.
    """
    batch, _ = batch_of(length, COMPARED_ROWS, False, model.config.vocab_size, device)
    model.get_base_model().set_experts_implementation(EXPERTS_IMPLEMENTATION)
    model.get_base_model().set_attn_implementation("sdpa")  # rows apart are compared
    use_fewer_kernels(model, False)  # there is no autocast here
    model.eval()
    own = logits(model, batch)
    again = logits(model, batch)
    with model.disable_adapter():
        without = logits(model, batch)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        base = model.unload()  # the weights are those of `model`, there is no second copy
        bare = logits(base, batch)
        model = PeftModel.from_pretrained(base, folder, torch_device=str(device)).eval()
    model.get_base_model().set_experts_implementation("grouped_mm")
    in_weights = logits(model, batch)
    keep_lora_beside_experts(model)
    loaded = logits(model, batch)
    merged = logits(model.merge_and_unload(), batch)
    effect = (own - without).abs().mean()
    merging = (own - merged).abs().mean()
    return {
        "repeated": largest(own, again),
        "adapter": largest(own, without),
        "taken_off": largest(without, bare),
        "reloaded": largest(own, loaded),
        "in_weights": largest(own, in_weights),
        "merged": largest(own, merged),
        "merged_to_adapter": (merging / effect).item(),
        "merged_same_token": same_token(own, merged),
        "adapter_same_token": same_token(own, without),
    }


def check_in_fp32(
    plan: Model, length: int, rank: int, expert_rank: int, device: torch.device
) -> dict:
    """check_adapter() where rounding is small: in fp32, on a model as wide with few layers."""
    gc.collect()  # the model in bf16, which refers to itself
    plan = replace(plan, layers=min(EXACT_LAYERS, plan.layers))
    base = build(plan, torch.float32, device)["model"]
    model = adapted(base, rank, expert_rank, device)["model"]
    del base  # it is part of the model, and no name may keep it
    fill(model)
    return {"layers": plan.layers, **check_adapter(model, length, device)}
