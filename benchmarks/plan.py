"""The 30B pair on paper: memory per GPU, KV cache, and the most that GPUs could generate, from the configuration.

    python benchmarks/plan.py --gpu h100 --num_gpus 8
    python benchmarks/plan.py --readme    # writes the memory table into docs/memory.md

Every number is printed with its formula. Sizes are exact for the architecture (Qwen3-MoE). Rates are bounds, which no
program passes: the slower of reading what must be read from memory and computing what must be computed.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from figures import ROOT, markdown

from distill.files import write_between

GIB = 2**30
MARKS = "<!-- plan -->", "<!-- /plan -->"
# Memory in bytes as torch reports it; bandwidth in bytes/s and dense bf16 FLOP/s from NVIDIA's data sheets (SXM)
GPUS = {
    "a100": (79.1 * GIB, 2.039e12, 312e12),
    "h100": (79.1 * GIB, 3.35e12, 989e12),
    "h200": (139.8 * GIB, 4.8e12, 989e12),
    "b200": (178.3 * GIB, 8.0e12, 2250e12),
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
    context: int = 262144  # tokens

    @classmethod
    def of(cls, config):
        """From a transformers configuration; raises ValueError for another architecture."""
        if config.model_type != "qwen3_moe" or config.mlp_only_layers or config.decoder_sparse_step != 1:
            raise ValueError(f"{config.model_type}: not a Qwen3-MoE model with experts in every layer")
        names = "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim num_experts "
        names += "num_experts_per_tok moe_intermediate_size vocab_size tie_word_embeddings max_position_embeddings"
        return cls(*(getattr(config, name) for name in names.split()))  # in the order of the fields above

    @property
    def expert(self) -> int:
        """Parameters of one expert: gate, up and down."""
        return 3 * self.hidden * self.expert_size

    @property
    def head(self) -> int:
        """Parameters of the output embedding."""
        return self.vocabulary * self.hidden

    @property
    def looked_up(self) -> int:
        """Parameters of an input embedding that is not the output's too; a token reads one row of it."""
        return 0 if self.tied else self.head

    def layer(self, tensor_parallel: int = 1, experts: float | None = None) -> float:
        """Parameters of a layer on each GPU, with `experts` of its experts; norms and router are on every GPU."""
        heads = self.heads // tensor_parallel + max(1, self.kv_heads // tensor_parallel)  # k and v are repeated
        split = (self.experts if experts is None else experts) * self.expert / tensor_parallel
        whole = 2 * self.head_dim + self.hidden * self.experts + 2 * self.hidden
        return 2 * self.hidden * self.head_dim * heads + split + whole

    def held(self, tensor_parallel: int = 1, experts: float | None = None) -> float:
        """Parameters on each GPU: layers, both embeddings, which are split, and the last norm."""
        vocabulary = (self.head + self.looked_up) / tensor_parallel
        return self.layers * self.layer(tensor_parallel, experts) + vocabulary + self.hidden

    @property
    def parameters(self) -> int:
        return int(self.held())

    @property
    def active(self) -> int:
        """Parameters that one token passes; but for the embedding that it looks up."""
        return int(self.held(experts=self.per_token)) - self.looked_up

    def flops(self, context: float) -> float:
        """FLOPs of one token that looks at `context` tokens: active parameters, scores, and their weighted sum."""
        return 2 * self.active + 4 * self.layers * self.heads * self.head_dim * context

    def lora(self, rank: int, expert_rank: int) -> int:
        """Trainable parameters of LoRA on attention and experts; a matrix of n x m has rank * (n + m)."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = rank * (2 * (self.hidden + wide) + 2 * (self.hidden + narrow))
        experts = self.experts * expert_rank * (self.hidden + 2 * self.expert_size + self.expert_size + self.hidden)
        return self.layers * (attention + experts)

    def kv_bytes(self, tensor_parallel: int = 1) -> int:
        """Bytes of KV cache per token on each GPU, in bf16; beyond kv_heads GPUs a head is repeated."""
        return 2 * self.layers * max(1, self.kv_heads // tensor_parallel) * self.head_dim * 2

    def read_bytes(self, batch: int, tensor_parallel: int = 1) -> float:
        """Bytes of bf16 weights that a step of `batch` tokens reads on each GPU: of the experts those that any token
        chose, on average if the router chooses evenly."""
        touched = self.experts * (1 - (1 - self.per_token / self.experts) ** batch)
        return 2 * (self.held(tensor_parallel, touched) - self.looked_up / tensor_parallel)


def training(model: Model, gpus: int, rank: int, expert_rank: int, weight_bytes: int = 2) -> list:
    """Bytes per GPU before activations as (what, bytes, formula); FSDP2 has two layers and the head gathered."""
    trainable, size = model.lora(rank, expert_rank), weight_bytes
    base, adapter = size * model.parameters, 16 * trainable
    gathered = size * (2 * (model.layer() + trainable / model.layers) + model.head)
    return [
        ("base weights", base, f"{size} bytes x parameters"),
        ("LoRA, gradients, Adam", adapter, "16 bytes x trainable: weight, gradient and two states of Adam in fp32"),
        ("one GPU", base + adapter, "base + LoRA"),
        (f"DDP over {gpus}", base + adapter + 4 * trainable, "base + LoRA + 4 bytes x trainable: buckets of gradients"),
        (f"FSDP2 over {gpus}", (base + adapter) / gpus + gathered, f"(base + LoRA) / {gpus} + two layers and the head"),
    ]


def memory_table(model: Model, gpus: int, rank: int, expert_rank: int) -> str:
    """Training with `expert_rank` and with one rank everywhere, and the KV cache, as Markdown."""
    ranks, total = (expert_rank, rank), f"{model.parameters:,}"
    layers = f"{model.layers} layers x {int(model.layer()):,} + embeddings {model.head + model.looked_up:,} + norm"
    rows = [["parameters", total, total, f"{layers} {model.hidden:,}"]]
    rows += [["trainable", *(f"{model.lora(rank, r):,}" for r in ranks), "rank x (rows + columns) of each matrix"]]
    for (name, size, formula), (_, wide, _) in zip(*(training(model, gpus, rank, r) for r in ranks), strict=True):
        rows.append([name, f"{size / GIB:,.1f} GiB", f"{wide / GIB:,.1f} GiB", formula])
    token, kv = model.kv_bytes(), f"2 x {model.layers} layers x {model.kv_heads} heads x {model.head_dim} x 2 bytes"
    rows.append(["KV cache of a token", *[f"{token / 1024:.0f} KiB"] * 2, kv])
    size, of = f"{token * model.context / GIB:,.1f} GiB", f"the same x {model.context:,}"
    rows.append([f"KV cache of {model.context:,} tokens", size, size, of])
    return markdown(["", f"LoRA rank {rank}, {expert_rank} on experts", f"rank {rank} everywhere", "formula"], rows)


def serving(model: Model, gpu: str, tensor_parallel: int, replicas: int, load: argparse.Namespace) -> dict:
    """The most that `replicas` engines on `tensor_parallel` GPUs each could label, and what bounds it."""
    memory, bandwidth, flops = GPUS[gpu]
    weights, kv = 2 * model.held(tensor_parallel), model.kv_bytes(tensor_parallel)
    cache = max(0, (load.utilization * memory - weights) / kv)  # tokens; each GPU holds its heads of all of them
    prompt, own = load.prompt_tokens, load.input_tokens + load.output_tokens / 2  # own: on average, while it is written
    batch = int(min(load.max_num_seqs, max(0, cache - prompt) / own))
    found = {"tensor_parallel": tensor_parallel, "replicas": replicas, "weights_gib": round(weights / GIB, 2)}
    found |= {"cache_tokens": int(cache), "batch": batch}
    if batch < 1:
        return found
    once = model.read_bytes(batch, tensor_parallel) + (batch * own + prompt) * kv  # bytes that each GPU reads in a step
    repeated = once + (batch - 1) * prompt * kv  # with the prompt's cache once for each row
    token = model.flops(prompt + own)
    prefill = load.input_tokens * (model.flops(prompt + load.input_tokens / 2) - 2 * model.head)
    steps = load.output_tokens - 1  # the first token comes with the input
    compute = (prefill + 2 * model.head + steps * token) / tensor_parallel / flops  # seconds of a row
    labelled = [3600 * replicas / max(steps * read / batch / bandwidth, compute) for read in (once, repeated)]
    return found | {
        "step_ms": round(1000 * max(once / bandwidth, batch * token / tensor_parallel / flops), 2),
        "bound": "memory" if steps * once / batch / bandwidth > compute else "compute",
        "bytes_per_token": round(once / batch * tensor_parallel),
        "flops_per_token": round(token),
        "rows_per_hour": round(labelled[0]),
        "rows_per_hour_prompt_per_row": round(labelled[1]),
    }


def generation_table(plans: list[dict]) -> str:
    """What serving() found for each division of the GPUs, as Markdown."""
    header = "engines|weights per GPU|KV cache, tokens|rows at once|MB/token|GFLOPs/token|ms/step|bound by"
    rows = []
    for m in plans:
        sizes = [f"{m['replicas']} x TP{m['tensor_parallel']}", f"{m['weights_gib']} GiB"]
        rates = [*[""] * 3, "does not fit", "", ""]
        if m["batch"]:
            rates = [f"{m['bytes_per_token'] / 1e6:,.1f}", f"{m['flops_per_token'] / 1e9:.2f}", str(m["step_ms"])]
            rates += [m["bound"], f"{m['rows_per_hour']:,}", f"{m['rows_per_hour_prompt_per_row']:,}"]
        rows.append([*sizes, f"{m['cache_tokens']:,}", f"{m['batch']:,}", *rates])
    return markdown([*header.split("|"), "rows/hour at most", "with the prompt read for each row"], rows)


def formulas(model: Model, gpu: str, load: argparse.Namespace) -> str:
    """How serving() gets its numbers."""
    memory, bandwidth, flops = GPUS[gpu]
    return f"""\
row: {load.prompt_tokens} tokens of the shared prompt, {load.input_tokens} of input, {load.output_tokens} of output
weights per GPU: 2 bytes x (q, o, k, v, experts and embeddings / TP + router and norms); a head of k and v stays whole
KV cache: ({load.utilization} x {memory / GIB:.1f} GiB - weights) / bytes of a token; activations, CUDA graphs left out
rows at once: min({load.max_num_seqs}, (KV cache - prompt) / (input + output / 2)): on average a row is half written
MB/token: (weights that a step reads + KV cache of the prompt and of every row's input + output / 2) / rows at once, on
    all GPUs of an engine; of the experts 1 - (1 - {model.per_token}/{model.experts})^rows, if the router chooses evenly
GFLOPs/token: 2 x {model.active:,} active parameters + 4 x {model.layers} x {model.heads} x {model.head_dim} x context
ms/step: max(bytes / {bandwidth / 1e12} TB/s, FLOPs / {flops / 1e12:.0f} TFLOP/s) of a token for each row
rows/hour: 3600 s x engines / max(bytes / bandwidth, FLOPs / peak) of a row; its input shares a step's bytes and passes
    the head with its last token alone; communication between GPUs is left out
with the prompt read for each row: as vLLM 0.32 does, which has no cascade attention; hits in the L2 cache cost less"""


def parse_args(argv=None):
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
    parser.add_argument("--utilization", type=float, default=0.92, help="share of the memory that vLLM takes")
    page = str(ROOT / "docs" / "memory.md")
    parser.add_argument("--readme", nargs="?", const=page, help=f"write the memory table to {MARKS} of a page")
    return parser.parse_args(argv)


def main() -> int:
    args = parse_args()
    model = Model()
    try:
        if args.model:
            from transformers import AutoConfig

            model = Model.of(AutoConfig.from_pretrained(args.model))
        expert_rank = args.lora_expert_rank or max(1, args.lora_rank // model.per_token)
        table = memory_table(model, args.num_gpus, args.lora_rank, expert_rank)
        if args.readme:
            write_between(Path(args.readme), MARKS, table)
    except (OSError, ValueError) as error:
        print(f"plan.py: {error}", file=sys.stderr)
        return 2

    splits = [n for n in (8, 4, 2, 1) if args.num_gpus % n == 0 and model.heads % n == 0]
    plans = [serving(model, args.gpu, n, args.num_gpus // n, args) for n in splits]
    print(table, generation_table(plans), formulas(model, args.gpu, args), sep="\n\n")
    sizes = {name: size for name, size, _ in training(model, args.num_gpus, args.lora_rank, expert_rank)}
    print(json.dumps({"parameters": model.parameters, "active": model.active, "training": sizes, "generation": plans}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
