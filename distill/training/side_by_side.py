"""Which students may read the rows of a batch side by side in one sequence.

Then no padding is needed. Only those whose layers are known to be plain causal attention and
nothing else. In others rows would leak into each other, without an error: linear attention and
Mamba carry a state over the border of two rows, and the attention of student_ops knows no sliding
window. What a configuration does not say proves nothing, so architectures are named.
"""

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from distill.training.student_ops import ATTENTION_IMPLEMENTATION

# model_type of the student's config; each is tested in tests/training/test_side_by_side.py
PLAIN = [
    "gemma",
    "granite",
    "llama",
    "ministral3",
    "mistral",
    "mixtral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "smollm3",
]
PROBED = 32  # tokens of a row that the check on the loaded student reads
# tokens of the second row that are compared: what leaks into a row does so most at its start
FIRST = 4
# mean distance of their logits, in standard deviations; rounding to bf16 makes about 0.02
FAR = 0.1


def find_obstacle(config) -> str:
    """Why rows side by side would not stay apart in a student of this config; empty if they do."""
    if config.model_type not in PLAIN:
        return f"rows side by side are not known to stay apart in {config.model_type}"
    layers = set(getattr(config, "layer_types", None) or [])
    if layers - {"full_attention"}:
        return f"{config.model_type} with layers of {', '.join(sorted(layers))}"
    if getattr(config, "sliding_window", None):
        return f"{config.model_type} with a sliding window of {config.sliding_window} tokens"
    if getattr(config, "attention_dropout", 0):
        return f"{config.model_type} with attention_dropout {config.attention_dropout}"
    if config._attn_implementation != "sdpa":
        return f"{config.model_type} with the attention {config._attn_implementation}"
    return ""


def put_side_by_side(model, rows: list[list[int]] | None = None) -> str:
    """Let a model attend within the rows of batches without padding.

    Returns why not, and leaves it as it was then. `rows` are token ids. With them it is also
    checked that the model, with its weights, gives rows side by side the logits that each has
    alone.
    """
    obstacle = find_obstacle(model.config)
    if obstacle:
        return obstacle
    before = model.config._attn_implementation
    if rows is None:
        model.set_attn_implementation(ATTENTION_IMPLEMENTATION)
        return ""
    first = rows[0][:PROBED]
    second = rows[-1][:PROBED]
    alone = logits_of(model, [second])[:FIRST]
    model.set_attn_implementation(ATTENTION_IMPLEMENTATION)
    beside = logits_of(model, [first, second])[len(first) :][:FIRST]
    distance = distance_between(beside, alone)
    if distance <= FAR:
        return ""
    model.set_attn_implementation(before)
    return (
        f"rows side by side leak into each other in this {model.config.model_type} "
        f"(by {distance:.2f})"
    )


def logits_of(model, rows: list[list[int]]) -> torch.Tensor:
    """Logits of rows side by side in one batch without padding, tokens x vocabulary."""
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collate([{"input_ids": row, "labels": row} for row in rows])
    del batch["labels"]
    if len(rows) == 1:
        # as a batch of one row comes, which knows no rows
        batch = {"input_ids": batch["input_ids"]}
    on_device = {
        key: value.to(model.device) if torch.is_tensor(value) else value
        for key, value in batch.items()
    }
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(**on_device, use_cache=False).logits[0]
    model.train(training)
    return logits.float()


def distance_between(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Mean distance, in standard deviations of what is expected."""
    return float((logits - expected).abs().mean() / expected.std())
