"""LoRA on a student: on which layers, with which ranks."""

import re
from collections import Counter

import torch
from peft import LoraConfig

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]  # fused parameters in transformers 5


def text_part(model) -> str:
    """The name, and a dot, of the part of a student that reads text; empty where it is all of it.

    A multimodal student also has towers for images and sounds, which no row reaches.
    """
    decoder = model.get_decoder()
    if decoder is model.base_model:
        return ""
    for name, module in model.named_modules():
        if module is decoder:
            return f"{name}."
    return ""


def lora_config(model, rank, alpha, expert_rank=0, target="all-linear", dropout=0.0) -> LoraConfig:
    """LoRA on every linear layer but the head and the router; `model` may be empty. Raises ValueError.

    On a multimodal student only the part that reads text gets any.

    Each token passes only num_experts_per_tok of the experts, so the rank is split over the active ones, as in Thinking
    Machines' "LoRA Without Regret" (2025), with the same scale alpha / rank everywhere.
    """
    part = text_part(model)
    linear = set()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith(part):
            linear.add(name.rpartition(".")[2])
    fused = any(name.endswith(EXPERTS[0]) for name, _ in model.named_parameters())
    per_token = getattr(model.config.get_text_config(), "num_experts_per_tok", None)
    if per_token and not fused and target == "all-linear":
        raise ValueError(
            f"{model.config.model_type}: its experts are not fused parameters; use --lora_target attention"
        )
    modules = {
        "all-linear": sorted(n for n in linear if n != "lm_head" and not n.endswith(("gate", "router"))),
        "attention": [name for name in ATTENTION if name in linear],
    }.get(target) or target.split(",")
    if unknown := set(modules) - linear:
        raise ValueError(f"--lora_target {target}: no linear layer {sorted(unknown)[0]!r}; there are {sorted(linear)}")
    if part:
        modules = f"{re.escape(part)}.*({'|'.join(modules)})"
    settings = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": modules}
    if fused and target == "all-linear":
        if dropout:
            raise ValueError(f"--lora_dropout {dropout}: PEFT has none for fused experts; use --lora_target attention")
        expert_rank = expert_rank or max(1, rank // per_token)
        experts = r"mlp\.experts(\.gate_up_proj|\.down_proj|\.base_layer)*"
        settings |= {"target_parameters": EXPERTS, "rank_pattern": {experts: expert_rank}}
        settings["alpha_pattern"] = {experts: alpha * expert_rank / rank}
    return LoraConfig(task_type="CAUSAL_LM", **settings)


def describe(model) -> str:
    """What is trained: how many modules of which name, and their rank."""
    found = Counter()
    for name, module in model.named_modules():
        rank = getattr(module, "r", None)  # of PEFT's layers, a rank for each adapter
        if isinstance(rank, dict):
            parameter = getattr(module, "parameter_name", None)  # of the wrapper of a fused parameter
            found[parameter or name.rpartition(".")[2], *rank.values()] += 1
    return ", ".join(f"{count} {name} (rank {rank})" for (name, rank), count in found.items())
