"""The 30B pair on paper: memory per GPU, KV cache, and the most that GPUs could generate, from the configuration.

    python benchmarks/plan.py --gpu h100 --num_gpus 8

Every line prints its formula. Sizes are exact for the architecture (Qwen3-MoE); rates are roofline bounds, which no
program passes: the slower of reading the weights and the cache once per step, and computing.
"""

import argparse
import json
import sys
from dataclasses import dataclass

GIB = 2**30
# Memory in bytes, its bandwidth in bytes/s and dense bf16 FLOP/s, from NVIDIA's data sheets of the SXM modules
GPUS = {
    "a100": (80e9, 2.039e12, 312e12),
    "h100": (80e9, 3.35e12, 989e12),
    "h200": (141e9, 4.8e12, 989e12),
    "b200": (180e9, 8.0e12, 2250e12),
}


@dataclass(frozen=True)
class Model:
    """A Qwen3-MoE configuration; the defaults are those of Qwen3-30B-A3B (Thinking and Instruct, 2507)."""

    hidden: int = 2048
    layers: int = 48
    heads: int = 32
    kv_heads: int = 4
    head_dim: int = 128
    experts: int = 128
    per_token: int = 8  # active experts
    expert_size: int = 768  # moe_intermediate_size
    vocabulary: int = 151936
    tied: bool = False  # input and output embedding are one

    @classmethod
    def of(cls, config):
        """From a transformers configuration."""
        return cls(
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            experts=config.num_experts,
            per_token=config.num_experts_per_tok,
            expert_size=config.moe_intermediate_size,
            vocabulary=config.vocab_size,
            tied=config.tie_word_embeddings,
        )

    @property
    def attention(self) -> int:
        """Parameters of a layer's attention: q, k, v, o, and the norms of q and k."""
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads) + 2 * self.head_dim

    @property
    def expert(self) -> int:
        """Parameters of one expert: gate, up and down."""
        return 3 * self.hidden * self.expert_size

    @property
    def layer(self) -> int:
        """Parameters of a layer: attention, router, experts, two norms."""
        return self.attention + self.hidden * self.experts + self.experts * self.expert + 2 * self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.vocabulary * self.hidden + self.looked_up + self.hidden

    @property
    def looked_up(self) -> int:
        """Parameters of an input embedding that is not the output's too; a token reads one row of it."""
        return 0 if self.tied else self.vocabulary * self.hidden

    @property
    def active(self) -> int:
        """Parameters that one token passes; but for the embedding that it looks up."""
        idle = self.layers * (self.experts - self.per_token) * self.expert
        return self.parameters - idle - self.looked_up

    def lora(self, rank: int, expert_rank: int) -> int:
        """Trainable parameters of LoRA on attention and experts; a matrix of n x m has rank * (n + m)."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = rank * (2 * (self.hidden + wide) + 2 * (self.hidden + narrow))
        experts = self.experts * expert_rank * (self.hidden + 2 * self.expert_size + self.expert_size + self.hidden)
        return self.layers * (attention + experts)

    def kv_bytes(self, tensor_parallel: int = 1) -> int:
        """Bytes of KV cache per token on each GPU, in bf16; beyond kv_heads GPUs a head is repeated."""
        return 2 * self.layers * max(1, self.kv_heads // tensor_parallel) * self.head_dim * 2

    def read_bytes(self, batch: int) -> float:
        """Bytes of bf16 weights that a step of `batch` tokens reads: of the experts those that any token chose."""
        touched = self.experts * (1 - (1 - self.per_token / self.experts) ** batch)  # with an even router
        rest = self.parameters - self.looked_up - self.layers * self.experts * self.expert
        return 2 * (rest + self.layers * touched * self.expert)


def training(model: Model, gpus: int, rank: int, expert_rank: int) -> list[tuple[str, float, str]]:
    """Bytes per GPU before activations as (what, bytes, formula)."""
    base, adapter = 2 * model.parameters, 16 * model.lora(rank, expert_rank)
    gathered = 2 * 2 * model.layer
    return [
        ("base weights", base, f"2 bytes x {model.parameters:,} parameters"),
        ("LoRA, gradients, Adam", adapter, f"16 bytes x {model.lora(rank, expert_rank):,} trainable parameters (fp32)"),
        ("single GPU, DDP", base + adapter, "base + LoRA on every GPU"),
        (f"FSDP2 over {gpus}", (base + adapter) / gpus + gathered, f"(base + LoRA) / {gpus} + two gathered layers"),
    ]


def serving(model: Model, gpu: str, tensor_parallel: int, replicas: int, load: argparse.Namespace) -> dict:
    """The most that `replicas` engines on `tensor_parallel` GPUs each could label, and what bounds it."""
    memory, bandwidth, flops = GPUS[gpu]
    free = load.utilization * memory - 2 * model.parameters / tensor_parallel
    cache = free / model.kv_bytes(tensor_parallel)  # tokens, each GPU of an engine holding its heads of all of them
    context = load.input_tokens + load.output_tokens / 2  # mean length of what is not shared
    batch = int(min(load.max_num_seqs, max(cache - load.prompt_tokens, 0) / (load.input_tokens + load.output_tokens)))
    if batch < 1:
        return {"tensor_parallel": tensor_parallel, "replicas": replicas, "cache_tokens": int(cache), "batch": 0}
    kv = batch * context + load.prompt_tokens  # the shared prompt's cache, read once for all rows
    read = model.read_bytes(batch) / tensor_parallel + kv * model.kv_bytes(tensor_parallel)
    attention = 4 * model.layers * model.heads * model.head_dim * (context + load.prompt_tokens)
    compute = batch * (2 * model.active + attention) / tensor_parallel
    step = max(read / bandwidth, compute / flops)
    prefill = load.input_tokens * (2 * model.active + attention) / tensor_parallel / flops
    rows = 3600 * replicas / (step * load.output_tokens / batch + prefill)
    return {
        "tensor_parallel": tensor_parallel,
        "replicas": replicas,
        "cache_tokens": int(cache),
        "batch": batch,
        "step_ms": round(1000 * step, 2),
        "bound": "memory" if read / bandwidth > compute / flops else "compute",
        "bytes_per_token": round(read / batch * tensor_parallel),
        "flops_per_token": round(compute / batch * tensor_parallel),
        "rows_per_hour": round(rows),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="h100", choices=GPUS, help="which data sheet")
    parser.add_argument("--num_gpus", type=int, default=8, help="in one machine")
    parser.add_argument("--model", default="", help="a model directory or hub name (default: the 30B pair's numbers)")
    parser.add_argument("--lora_rank", type=int, default=32, help="on attention")
    parser.add_argument("--lora_expert_rank", type=int, default=0, help="on each expert (0: rank // active experts)")
    parser.add_argument("--prompt_tokens", type=int, default=2300, help="of the shared prompt")
    parser.add_argument("--input_tokens", type=int, default=50, help="of a row")
    parser.add_argument("--output_tokens", type=int, default=700, help="of a row, thinking included; an assumption")
    parser.add_argument("--max_num_seqs", type=int, default=1024, help="rows that an engine runs at once")
    parser.add_argument("--utilization", type=float, default=0.9, help="share of the memory that vLLM takes")
    args = parser.parse_args()
    model = Model()
    if args.model:
        from transformers import AutoConfig

        model = Model.of(AutoConfig.from_pretrained(args.model))
    expert_rank = args.lora_expert_rank or max(1, args.lora_rank // model.per_token)

    sizes = training(model, args.num_gpus, args.lora_rank, expert_rank)
    print("| training, per GPU before activations | GiB | formula |\n|---|---|---|")
    for name, size, formula in sizes:
        print(f"| {name} | {size / GIB:.1f} | {formula} |")
    print("\n| generation | KV cache, tokens | rows at once | ms per step | bound by | rows/hour at most |")
    print("|---|---|---|---|---|---|")
    plans = []
    for tensor_parallel in (8, 4, 2, 1):
        if args.num_gpus % tensor_parallel == 0:
            plans.append(serving(model, args.gpu, tensor_parallel, args.num_gpus // tensor_parallel, args))
            m = plans[-1]
            row = [f"{m['replicas']} x TP{tensor_parallel}", f"{m['cache_tokens']:,}", str(m["batch"])]
            row += [str(m.get("step_ms", "-")), m.get("bound", "does not fit"), f"{m.get('rows_per_hour', 0):,}"]
            print(f"| {' | '.join(row)} |")
    print(f"\nKV cache per token: 2 x {model.layers} layers x {model.kv_heads} heads x {model.head_dim} x 2 bytes")
    print("Step: max(bytes / bandwidth, FLOPs / peak); bytes: weights touched / TP + KV cache, the shared prompt once;")
    print("FLOPs: 2 x active parameters + 4 x layers x heads x head_dim x context, for each row.")
    print(
        json.dumps(
            {
                "parameters": model.parameters,
                "active": model.active,
                "training": {n: s for n, s, _ in sizes},
                "generation": plans,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
