"""LoRA on a student: on which layers, with which ranks."""

import re
from collections import Counter

import torch
from peft import LoraConfig

ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")
EXPERT_PARAMETERS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")  # fused in transformers 5
# PEFT wraps the parameters of one module in each other, and names the inner wrapper base_layer.
EXPERT_MODULES = r"mlp\.experts(\.gate_up_proj|\.down_proj|\.base_layer)*"


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


def lora_of(flags, model) -> LoraConfig:
    """The LoRA that the flags of step 2, ScriptArguments, ask for on `model`, which may be empty.

    Raises ValueError.
    """
    config = lora_config(
        model,
        flags.lora_rank,
        flags.lora_alpha,
        expert_rank=flags.lora_expert_rank,
        target=flags.lora_target,
        dropout=flags.lora_dropout,
    )
    config.revision = flags.revision  # of the student, which the adapter's config names
    return config


def lora_config(
    model,
    rank: int,
    alpha: int,
    *,
    expert_rank: int = 0,
    target: str = "all-linear",
    dropout: float = 0.0,
) -> LoraConfig:
    """LoRA on every linear layer but the head and the router; `model` may be empty.

    Raises ValueError.

    On a multimodal student only the part that reads text gets any.

    Each token passes only num_experts_per_tok of the experts, so the rank is split over the active
    ones, as in Thinking Machines' "LoRA Without Regret" (2025), with the same scale alpha / rank
    everywhere.
    """
    part = text_part(model)
    linear = linear_names(model, part)
    fused = any(name.endswith(EXPERT_PARAMETERS[0]) for name, _ in model.named_parameters())
    per_token = getattr(model.config.get_text_config(), "num_experts_per_tok", None)
    if per_token and not fused and target == "all-linear":
        raise ValueError(
            f"{model.config.model_type}: its experts are not fused parameters; "
            "use --lora_target attention"
        )
    modules = target_modules(target, linear)
    if part:  # PEFT takes a text for a regular expression on whole names
        modules = f"{re.escape(part)}.*({'|'.join(modules)})"
    on_experts = {}
    if fused and target == "all-linear":
        if dropout:
            raise ValueError(
                f"--lora_dropout {dropout}: PEFT has none for fused experts; "
                "use --lora_target attention"
            )
        rank_of_each = expert_rank or max(1, rank // per_token)
        on_experts["target_parameters"] = list(EXPERT_PARAMETERS)
        on_experts["rank_pattern"] = {EXPERT_MODULES: rank_of_each}
        on_experts["alpha_pattern"] = {EXPERT_MODULES: alpha * rank_of_each / rank}
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=modules,
        **on_experts,
    )


def linear_names(model, part: str) -> set[str]:
    """The last names of all linear layers in the part of a model that `part` begins."""
    names = set()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith(part):
            names.add(name.rpartition(".")[2])
    return names


def target_modules(target: str, linear: set[str]) -> list[str]:
    """The layers of `linear` that --lora_target names.

    Raises ValueError for one that is not there.
    """
    found = []
    if target == "all-linear":
        found = sorted(
            name for name in linear if name != "lm_head" and not name.endswith(("gate", "router"))
        )
    if target == "attention":
        found = [name for name in ATTENTION_LAYERS if name in linear]
    if found:
        return found
    names = target.split(",")
    unknown = sorted(set(names) - linear)
    if unknown:
        raise ValueError(
            f"--lora_target {target}: no linear layer {unknown[0]!r}; there are {sorted(linear)}"
        )
    return names


def describe(model) -> str:
    """What is trained: how many modules of which name, and their rank."""
    found = Counter()
    for name, module in model.named_modules():
        rank = getattr(module, "r", None)  # of PEFT's layers, a rank for each adapter
        if isinstance(rank, dict):
            # of the wrapper of a fused parameter
            parameter = getattr(module, "parameter_name", None)
            found[parameter or name.rpartition(".")[2], *rank.values()] += 1
    return ", ".join(f"{count} {name} (rank {rank})" for (name, rank), count in found.items())
