"""What the student computes, as training needs it.

Transformers and PEFT compute the same with more work.

experts    LoRA stays beside the experts. PEFT adds it to the weights of all experts of a layer in
           every pass: more than a gigabyte to write on the 30B whatever the batch, and a gradient
           as large to compute for it. A token's weight for an expert is multiplied in before the
           last product, where rows are narrowest.
attention  each row attends to itself alone. The mask that transformers makes of rows side by side
           covers all of them with all, which costs the square of the batch.
kernels    RMSNorm is one kernel instead of six, and LoRA's input is not cast to fp32, where
           autocast takes it back.
"""

from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from transformers import AttentionInterface
from transformers.integrations.moe import ExpertsInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

# The names under which transformers finds what is registered below.
EXPERTS_IMPLEMENTATION = "lora_grouped_mm"
ATTENTION_IMPLEMENTATION = "sdpa_in_rows"
# others may add 1
NORMS = ["LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "Qwen3MoeRMSNorm"]
ALIGNED = 8  # numbers in bf16 that make the 16 bytes to which a GPU's grouped_mm wants rows aligned


class Dispatch(torch.autograd.Function):
    """Copies of tokens in the order of their experts: tokens x hidden -> (tokens * k) x hidden.

    `order` sorts the tokens' k choices by expert and `inverse` undoes it. Its gradient is Combine,
    and the other way round; autograd's own for an index would sort the choices once more.
    """

    @staticmethod
    def forward(ctx, tokens, order, inverse, k):
        ctx.save_for_backward(order, inverse)
        ctx.k = k
        return tokens[order // k]

    @staticmethod
    def backward(ctx, gradient):
        return Combine.apply(gradient, *ctx.saved_tensors, ctx.k), None, None, None


class Combine(torch.autograd.Function):
    """The sum over each token's k copies.

    From (tokens * k) x hidden, in the order of experts, to tokens x hidden.
    """

    @staticmethod
    def forward(ctx, copies, order, inverse, k):
        ctx.save_for_backward(order, inverse)
        ctx.k = k
        return copies[inverse].unflatten(0, (-1, k)).sum(1)

    @staticmethod
    def backward(ctx, gradient):
        return Dispatch.apply(gradient, *ctx.saved_tensors, ctx.k), None, None, None


def grouped_linear(experts, name: str, rows: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Each expert's rows through its weight `name`, and through LoRA where it is active.

    `rows` (rows x in) are sorted by expert, and `ends` (one for each expert) says where an expert's
    rows end. Returns rows x out.
    """
    weight = getattr(experts, name)  # experts x out x in
    rows = rows.to(weight.dtype)  # grouped_mm does not know autocast
    out = F.grouped_mm(rows, weight.transpose(1, 2), offs=ends)
    for b, a, scaling in getattr(experts, "lora", {}).get(name, ()):
        missing = -b.shape[2] % ALIGNED
        down = F.pad(a, (0, 0, 0, missing))  # experts x rank x in
        up = F.pad(b.transpose(1, 2), (0, 0, 0, missing))  # experts x rank x out
        inner = F.grouped_mm(rows, down.transpose(1, 2), offs=ends)
        out += F.grouped_mm(inner * scaling, up.contiguous(), offs=ends)
    return out


def experts_forward(experts, hidden_states, top_k_index, top_k_weights):
    """transformers' grouped_mm with LoRA beside the weights.

    `hidden_states` are tokens x hidden, the chosen experts and their weights tokens x k. Returns
    tokens x hidden.
    """
    k = top_k_index.shape[1]
    chosen, order = torch.sort(top_k_index.flatten())
    inverse = torch.empty_like(order).scatter_(
        0, order, torch.arange(len(order), device=order.device)
    )
    each = torch.arange(experts.num_experts, device=order.device)
    ends = torch.searchsorted(chosen, each, right=True, out_int32=True)
    rows = Dispatch.apply(hidden_states, order, inverse, k)
    weights = Dispatch.apply(top_k_weights.flatten(), order, inverse, 1)
    rows = (
        experts._apply_gate(grouped_linear(experts, "gate_up_proj", rows, ends)) * weights[:, None]
    )
    rows = grouped_linear(experts, "down_proj", rows, ends)
    return Combine.apply(rows, order, inverse, k).to(hidden_states.dtype)


@contextmanager
def hand_over(wrapper: ParamWrapper, adapters: list[str]):
    """Give LoRA's factors to the experts, in place of PEFT's own way.

    PEFT lets the weight be the sum with LoRA.
    """
    experts = wrapper.get_base_layer()
    if experts.config._experts_implementation != EXPERTS_IMPLEMENTATION:
        # another implementation knows nothing of the factors
        with ParamWrapper._activate_lora(wrapper, adapters):
            yield
        return
    own = [name for name in adapters if name in wrapper.lora_A]
    experts.lora[wrapper.parameter_name] = [wrapper.get_delta_factors(name) for name in own]
    try:
        yield
    finally:
        experts.lora.clear()


def keep_lora_beside_experts(model) -> int:
    """Let a PEFT model compute its fused experts so, where their layout is Qwen's.

    Returns the number of parameters.
    """
    wrappers = [m for m in model.modules() if isinstance(m, ParamWrapper) and m.num_experts > 1]
    for wrapper in wrappers:
        experts = wrapper.get_base_layer()
        if getattr(experts, "has_bias", True) or experts.is_transposed or not experts.has_gate:
            return 0
    for wrapper in wrappers:
        wrapper.get_base_layer().lora = {}
        wrapper._activate_lora = partial(hand_over, wrapper)
    if wrappers:
        model.get_base_model().set_experts_implementation(EXPERTS_IMPLEMENTATION)
    return len(wrappers)


def attention_forward(
    module,
    query,
    key,
    value,
    attention_mask,
    dropout=0.0,
    scaling=None,
    cu_seq_lens_q=None,
    max_length_q=None,
    **kwargs,
):
    """Causal attention of rows that lie side by side in one sequence.

    TRL's collator puts them there. `query`, `key` and `value` are 1 x heads x tokens x size.
    `cu_seq_lens_q` are the places where rows start, and the end. Without it there is one row,
    and no padding. Returns 1 x tokens x heads x size, and None for the weights.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, None, dropout=dropout, scaling=scaling, **kwargs
        )
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn  # FlashAttention, as PyTorch ships it

        attended = varlen_attn(
            query[0].transpose(0, 1),  # tokens x heads x size
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=(-1, 0),  # all tokens before, none after: causal
            enable_gqa=True,
        )
        return attended[None], None
    groups = query.shape[1] // key.shape[1]
    lengths = cu_seq_lens_q.diff().tolist()
    queries = query.split(lengths, dim=2)
    keys = repeat_kv(key, groups).split(lengths, dim=2)
    values = repeat_kv(value, groups).split(lengths, dim=2)
    found = []
    for q, k, v in zip(queries, keys, values, strict=True):
        found.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling))
    return torch.cat(found, dim=2).transpose(1, 2), None


def rms_norm(norm, hidden_states):
    """... x size -> the same, in its own type.

    Autocast would let it be fp32, and the attention after it.
    """
    with torch.autocast(hidden_states.device.type, enabled=False):
        return F.rms_norm(hidden_states, norm.weight.shape, norm.weight, norm.variance_epsilon)


def use_fewer_kernels(model, use: bool = True) -> int:
    """Let each RMSNorm of a PEFT model be one kernel, and LoRA take its input as it is.

    Returns the number of norms. For training within autocast, which casts LoRA's input itself.
    `use=False` undoes it.
    """
    norms = [module for module in model.modules() if type(module).__name__ in NORMS]
    for norm in norms:
        vars(norm).pop("forward", None)
        if use:
            norm.forward = partial(rms_norm, norm)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = not use
    return len(norms)


ExpertsInterface.register(EXPERTS_IMPLEMENTATION, experts_forward)
AttentionInterface.register(ATTENTION_IMPLEMENTATION, attention_forward)
