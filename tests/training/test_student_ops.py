"""The student's operations for training give what transformers and PEFT give.

On a GPU too, where there is one.
"""

from copy import deepcopy

import pytest
import torch
from peft import get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.gpt_oss import GptOssConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from distill.training.lora import lora_config
from distill.training.side_by_side import put_side_by_side
from distill.training.student_ops import (
    ATTENTION_IMPLEMENTATION,
    EXPERTS_IMPLEMENTATION,
    keep_lora_beside_experts,
    use_fewer_kernels,
)

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
    "use_cache": False,
}
MOE = Qwen3MoeConfig(
    **SIZES, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=48, norm_topk_prob=True
)


def model_of(config, device="cpu", dtype=torch.float32):
    torch.manual_seed(0)
    with torch.device(device):
        # which the model would change
        return AutoModelForCausalLM.from_config(deepcopy(config), dtype=dtype)


def with_lora(config, device="cpu", dtype=torch.float32, expert_rank=4):
    """A model with an adapter that does something: lora_B starts at zero otherwise."""
    model = model_of(config, device, dtype)
    model = get_peft_model(model, lora_config(model, 16, 16, expert_rank=expert_rank))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def batch_of(lengths: list[int], device="cpu", padding_free=True):
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(1, 300, (n,), generator=generator).tolist() for n in lengths]
    rows = [{"input_ids": row, "labels": [-100, *row[1:]]} for row in ids]
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=padding_free)(rows)
    return {
        key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()
    }


def loss_and_gradients(model, batch):
    model.zero_grad()
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    return loss.item(), {
        name: p.grad.float() for name, p in model.named_parameters() if p.requires_grad
    }


def far(found: dict, expected: dict) -> float:
    """Largest distance of a gradient from the expected one, as a share of the latter's length."""
    assert found.keys() == expected.keys()
    return max(
        ((found[k] - expected[k]).norm() / expected[k].norm().clamp_min(1e-12)).item()
        for k in expected
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("expert_rank", [4, 16])  # 4 is no multiple of what a GPU's kernel takes
def test_experts_with_lora_beside_them_learn_as_in_peft(device, expert_rank):
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = with_lora(MOE, device, dtype, expert_rank)
    batch = batch_of([30, 17, 9], device)
    loss, gradients = loss_and_gradients(model, batch)
    assert keep_lora_beside_experts(model) == 4
    assert model.config._experts_implementation == EXPERTS_IMPLEMENTATION
    found, ours = loss_and_gradients(model, batch)
    assert found == pytest.approx(loss, rel=1e-6 if device == "cpu" else 1e-2)
    assert far(ours, gradients) < (1e-5 if device == "cpu" else 0.2)
    # LoRA is not lost with another implementation
    model.get_base_model().set_experts_implementation("eager")
    again, theirs = loss_and_gradients(model, batch)
    assert again == pytest.approx(loss, rel=1e-6 if device == "cpu" else 1e-2)
    assert far(theirs, gradients) < (1e-5 if device == "cpu" else 0.2)


def test_experts_without_tokens_get_a_gradient_of_zero():
    many = Qwen3MoeConfig(**SIZES, num_experts=32, num_experts_per_tok=2, moe_intermediate_size=48)
    model = with_lora(many)
    keep_lora_beside_experts(model)
    _, gradients = loss_and_gradients(model, batch_of([3]))
    rows = [
        g.view(32, 4, -1) for name, g in gradients.items() if "experts" in name and "lora_A" in name
    ]
    unused = [(g == 0).all(-1).all(-1).sum().item() for g in rows]
    # 3 tokens choose at most 6 of the 32
    assert len(unused) == 4 and all(26 <= n < 32 for n in unused)
    assert all(torch.isfinite(g).all() for g in gradients.values())


def test_switched_off_taken_off_and_merged():
    model = with_lora(MOE)
    batch = batch_of([20, 5])
    keep_lora_beside_experts(model)
    with torch.no_grad():
        own = model(**batch).logits
        with model.disable_adapter():
            off = model(**batch).logits
        assert not torch.allclose(own, off, atol=1e-3)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(**batch).logits, own, rtol=1e-4, atol=1e-5)


DENSE = {"intermediate_size": 96}
NORMED = {
    "experts": (MOE, 9),
    "qwen3": (Qwen3Config(**SIZES, **DENSE), 9),
    "qwen2": (Qwen2Config(**SIZES, **DENSE), 5),
    "llama": (LlamaConfig(**SIZES, **DENSE), 5),
    "gemma2": (Gemma2Config(**SIZES, **DENSE), 0),  # its norms multiply with the weight + 1
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config, norms", NORMED.values(), ids=NORMED)
def test_fewer_kernels_compute_the_same(config, norms, device):
    model = with_lora(config, device)
    batch = batch_of([30, 17], device)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    loss, gradients = loss_and_gradients(model, batch)
    assert use_fewer_kernels(model) == norms
    found, ours = loss_and_gradients(model, batch)
    assert found == pytest.approx(loss, rel=1e-6) and far(ours, gradients) < 1e-5
    use_fewer_kernels(model, False)
    assert loss_and_gradients(model, batch)[0] == loss


@pytest.mark.parametrize("device", DEVICES)
def test_within_autocast_norms_and_lora_stay_in_bf16(device):
    model = with_lora(MOE, device, torch.bfloat16)
    batch = batch_of([30, 17], device)
    types = []
    loss, gradients = loss_and_gradients(model, batch)
    use_fewer_kernels(model)
    for name, module in model.named_modules():
        if name.endswith(("norm", "lora_A.default")):
            module.register_forward_hook(
                lambda module, args, output: types.append((args[0].dtype, output.dtype))
            )
    found, ours = loss_and_gradients(model, batch)
    assert len(types) == 9 + 2 * 4 and set(types) == {(torch.bfloat16, torch.bfloat16)}
    assert found == pytest.approx(loss, rel=1e-2) and far(ours, gradients) < 0.2


def test_experts_of_another_layout_stay_with_peft():
    config = GptOssConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, intermediate_size=32)
    model = model_of(config)
    model = get_peft_model(model, lora_config(model, 8, 8, expert_rank=2))
    before = model.config._experts_implementation
    assert keep_lora_beside_experts(model) == 0
    assert model.config._experts_implementation == before


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "config", [MOE, Qwen3Config(**SIZES, intermediate_size=96)], ids=["experts", "dense"]
)
def test_rows_side_by_side_see_only_themselves(device, config):
    lengths = [30, 1, 17, 9]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = model_of(config, device, dtype).eval()
    side_by_side = batch_of(lengths, device)
    padded = batch_of(lengths, device, padding_free=False)
    close = {"rtol": 1e-4, "atol": 1e-5} if device == "cpu" else {"rtol": 0.1, "atol": 0.1}
    with torch.no_grad():
        expected = model(
            input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]
        ).logits
        expected = expected[padded["attention_mask"].bool()]
        assert put_side_by_side(model) == ""
        assert model.config._attn_implementation == ATTENTION_IMPLEMENTATION
        torch.testing.assert_close(model(**side_by_side).logits[0], expected, **close)
        # one row, as a batch of one has
        alone = model(input_ids=side_by_side["input_ids"][:, :30]).logits[0]
        torch.testing.assert_close(alone, expected[:30], **close)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_side_by_side_have_the_gradients_of_rows_apart(device):
    lengths = [30, 1, 17, 9]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = with_lora(Qwen3Config(**SIZES, **DENSE), device, dtype)
    loss, gradients = loss_and_gradients(model, batch_of(lengths, device, padding_free=False))
    assert put_side_by_side(model.get_base_model()) == ""
    found, ours = loss_and_gradients(model, batch_of(lengths, device))
    assert found == pytest.approx(loss, rel=1e-5 if device == "cpu" else 1e-2)
    assert far(ours, gradients) < (1e-4 if device == "cpu" else 0.2)
