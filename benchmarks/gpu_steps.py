"""What gpu.py measures of the student: a step in one of several ways, a profile, and its memory."""

import time
from dataclasses import dataclass
from statistics import median

import torch
from figures import size, spread
from random_student import batch_of, now

from distill.training.student_ops import (
    ATTENTION_IMPLEMENTATION,
    EXPERTS_IMPLEMENTATION,
    use_fewer_kernels,
)

WARM_UP = 2  # steps before the timed ones: kernels are chosen, memory is reserved
LONGEST_S = (
    12  # seconds after which a configuration takes no further step, but for one that is timed
)


@dataclass(frozen=True)
class Way:
    """How a step is computed, by default as in train_sft_trl.py.

    Other experts than those of student_ops.py are those of transformers, with LoRA added to the
    weights by PEFT; what is not here of them needs kernels from the hub.
    """

    padding_free: bool = True
    attention: str = ATTENTION_IMPLEMENTATION
    experts: str = EXPERTS_IMPLEMENTATION
    checkpointing: bool = True
    fewer_kernels: bool = True


WAYS = {
    # for micro-batches of --checkpoint_from_tokens and more; shorter ones are not checkpointed
    "default": Way(),
    "padded": Way(padding_free=False, attention="sdpa"),
    "one mask over all rows": Way(attention="sdpa"),
    "PEFT, grouped_mm": Way(experts="grouped_mm"),
    "PEFT, eager": Way(experts="eager"),
    "PEFT, batched_mm": Way(experts="batched_mm"),
    "no checkpointing": Way(checkpointing=False),
    "norms and casts as they come": Way(fewer_kernels=False),
}


def allocated(device: torch.device, peak: bool = False) -> int | None:
    """Bytes that PyTorch holds on a GPU now, or the most since the last reset.

    None on a CPU, where PyTorch does not count.
    """
    if device.type != "cuda":
        return None
    if peak:
        return torch.cuda.max_memory_allocated(device)
    return torch.cuda.memory_allocated(device)


def step(model, optimizer, batch: dict, device: torch.device) -> float:
    """One optimizer step as Trainer does it; returns the loss and leaves the gradients."""
    optimizer.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        loss = model(**batch, fused_lm_head=True).loss
    loss.backward()
    [group] = optimizer.param_groups
    torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()
    return loss.item()


def choose(model, name: str) -> Way:
    """Let the model compute in one of WAYS; returns it."""
    way = WAYS[name]
    base = model.get_base_model()
    base.set_experts_implementation(way.experts)
    base.set_attn_implementation(way.attention)
    use_fewer_kernels(model, way.fewer_kernels)
    if way.checkpointing:
        model.gradient_checkpointing_enable()
    else:
        model.gradient_checkpointing_disable()
    return way


def timed(model, optimizer, length, rows, way, steps, deadline, device) -> dict:
    """Seconds of the steps and tokens per second without padding.

    From the deadline on, one timed step is enough.
    """
    padding_free = choose(model, way).padding_free
    batch, tokens = batch_of(length, rows, padding_free, model.config.vocab_size, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    losses = []
    deadline = min(deadline, time.perf_counter() + LONGEST_S)
    while len(seconds) < WARM_UP + steps:
        if len(seconds) > WARM_UP and time.perf_counter() >= deadline:
            break
        start = now(device)
        losses.append(step(model, optimizer, batch, device))
        seconds.append(now(device) - start)
    seconds = seconds[WARM_UP:]
    rates = [tokens / one for one in seconds]
    return {
        "tokens": tokens,
        "fed_tokens": batch["input_ids"].numel(),
        "steps": len(seconds),
        "loss": median(losses),
        "seconds": spread(seconds),
        "tokens_per_second": spread(rates),
        "peak_bytes": allocated(device, peak=True),
    }


def profiled(model, optimizer, length: int, rows: int, named: int, device: torch.device) -> dict:
    """Milliseconds of a step, and of what the device works on longest in it.

    These are kernels of a GPU, or operators of a CPU; so many of them are `named`.
    """
    choose(model, "default")
    batch, _ = batch_of(length, rows, True, model.config.vocab_size, device)
    step(model, optimizer, batch, device)
    with torch.profiler.profile() as profile:
        start = now(device)
        step(model, optimizer, batch, device)
        seconds = now(device) - start
    events = [event for event in profile.key_averages() if not event.is_user_annotation]
    spent = {}
    for event in events:
        if device.type != "cuda":
            spent[event.key] = event.self_cpu_time_total / 1000
        elif event.device_type.name == "CUDA":
            spent[event.key] = event.self_device_time_total / 1000
    longest = sorted(spent, key=spent.get, reverse=True)[:named]
    return {
        "length": length,
        "rows": rows,
        "milliseconds": 1000 * seconds,
        "device": sum(spent.values()),
        "spent": {operation: spent[operation] for operation in longest},
    }


def memory_table(model, optimizer, base: int, adapter: int, stages: dict) -> list[dict]:
    """Bytes after each stage: as planned, in the model's tensors, and as a GPU counts them.

    `base` and `adapter` are the bytes planned for the base, and for LoRA with its gradients and
    Adam's states.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    weights = size(frozen)
    lora = size(trained)
    gradients = size(p.grad for p in trained)
    states = 0
    for state in optimizer.state.values():
        # Adam counts its steps in a number for each parameter, which no plan needs
        states += size(value for value in state.values() if value.dim())
    learning = lora + gradients + states

    def line(what: str, planned: int, tensors: int | None, before: str, after: str) -> dict:
        grown = None
        if stages[after] is not None:
            grown = stages[after] - stages[before]
        return {"what": what, "planned": planned, "tensors": tensors, "allocated": grown}

    table = [
        line("base weights", base, weights, "start", "weights"),
        line("LoRA", adapter // 4, lora, "weights", "LoRA"),
    ]
    if optimizer.state:
        whole = base + adapter
        table += [
            line("LoRA, gradients, Adam", adapter, learning, "weights", "step"),
            line("one GPU", whole, weights + learning, "start", "step"),
            # the plan has no activations
            line("peak of the second step", whole, None, "start", "peak"),
        ]
    return table
