"""The 30B pair on paper: memory per GPU, KV cache, and the most that GPUs could generate.

    python benchmarks/plan.py --gpu h100 --num_gpus 8
    python benchmarks/plan.py --readme    # writes the memory table into docs/memory.md

All of it follows from the configuration, and every number is printed with its formula. Sizes are
exact for the architecture (Qwen3-MoE). Rates are bounds, which no program passes: the slower of
reading what must be read from memory and computing what must be computed.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from figures import ROOT, markdown, parser_of
from sizes import GIB, WEIGHT_BYTES, Model, default_expert_rank, training

from distill.files import write_between

MARKS = ("<!-- plan -->", "<!-- /plan -->")
SPLITS = (8, 4, 2, 1)  # GPUs that one engine may use


@dataclass(frozen=True)
class Gpu:
    """What a data sheet says of a GPU."""

    memory: float  # bytes, as torch reports them
    bandwidth: float  # bytes/s
    flops: float  # dense, in bf16, in a second


# Bandwidth and FLOPs are from NVIDIA's data sheets of the SXM modules.
GPUS = {
    "a100": Gpu(79.1 * GIB, 2.039e12, 312e12),
    "h100": Gpu(79.1 * GIB, 3.35e12, 989e12),
    "h200": Gpu(139.8 * GIB, 4.8e12, 989e12),
    "b200": Gpu(178.3 * GIB, 8.0e12, 2250e12),
}


@dataclass(frozen=True)
class Load:
    """What the engines are asked to label, and with what settings."""

    prompt_tokens: int = 2300  # of the shared prompt
    input_tokens: int = 50  # of a row
    output_tokens: int = 700  # of a row, thinking included
    max_num_seqs: int = 1024  # rows that an engine runs at once
    utilization: float = 0.92  # share of the memory that vLLM takes

    @property
    def own_tokens(self) -> float:
        """Tokens of a row beside the prompt, on average while it is written: half of the output."""
        return self.input_tokens + self.output_tokens / 2


@dataclass(frozen=True)
class Rates:
    """The most that engines can do, and what bounds it."""

    step_ms: float  # of a token for each row
    bound: str  # memory or compute
    bytes_per_token: int
    flops_per_token: int
    rows_per_hour: int
    rows_per_hour_prompt_per_row: int  # where the prompt's cache is read once for each row


@dataclass(frozen=True)
class Serving:
    """Engines of one size on all GPUs."""

    tensor_parallel: int
    replicas: int
    weights_gib: float
    cache_tokens: int
    batch: int  # rows that an engine runs at once
    rates: Rates | None  # None where not even one row fits

    def recorded(self) -> dict:
        """Its numbers on one level, for the last line."""
        found = asdict(self)
        rates = found.pop("rates")
        return found if rates is None else {**found, **rates}


def memory_table(model: Model, gpus: int, rank: int, expert_rank: int) -> str:
    """Training with `expert_rank` and with one rank everywhere, and the KV cache, as Markdown."""
    total = f"{model.parameters:,}"
    layers = f"{model.layers} layers x {int(model.layer()):,}"
    embeddings = f"embeddings {model.head + model.looked_up:,}"
    rows = [["parameters", total, total, f"{layers} + {embeddings} + norm {model.hidden:,}"]]

    trainable = f"{model.lora(rank, expert_rank):,}"
    trainable_wide = f"{model.lora(rank, rank):,}"
    formula = "rank x (rows + columns) of each matrix"
    rows.append(["trainable", trainable, trainable_wide, formula])

    parts = training(model, gpus, rank, expert_rank)
    wide_parts = training(model, gpus, rank, rank)
    for part, wide in zip(parts, wide_parts, strict=True):
        narrow_size = f"{part.bytes / GIB:,.1f} GiB"
        wide_size = f"{wide.bytes / GIB:,.1f} GiB"
        rows.append([part.what, narrow_size, wide_size, part.formula])

    token = model.kv_bytes()
    of_token = f"{token / 1024:.0f} KiB"
    formula = f"2 x {model.layers} layers x {model.kv_heads} heads x {model.head_dim} x 2 bytes"
    rows.append(["KV cache of a token", of_token, of_token, formula])
    longest = f"{token * model.context / GIB:,.1f} GiB"
    what = f"KV cache of {model.context:,} tokens"
    rows.append([what, longest, longest, f"the same x {model.context:,}"])

    narrow_title = f"LoRA rank {rank}, {expert_rank} on experts"
    return markdown(["", narrow_title, f"rank {rank} everywhere", "formula"], rows)


def serving(model: Model, gpu: str, tensor_parallel: int, replicas: int, load: Load) -> Serving:
    """The most that `replicas` engines on `tensor_parallel` GPUs each could label."""
    weights = WEIGHT_BYTES * model.held(tensor_parallel)
    room = load.utilization * GPUS[gpu].memory - weights
    # In tokens; each GPU holds its heads of all of them.
    cache = max(0, room / model.kv_bytes(tensor_parallel))
    rows_in_cache = max(0, cache - load.prompt_tokens) / load.own_tokens
    batch = int(min(load.max_num_seqs, rows_in_cache))
    rates = None
    if batch > 0:
        rates = rates_of(model, GPUS[gpu], tensor_parallel, replicas, batch, load)
    return Serving(
        tensor_parallel=tensor_parallel,
        replicas=replicas,
        weights_gib=round(weights / GIB, 2),
        cache_tokens=int(cache),
        batch=batch,
        rates=rates,
    )


def rates_of(
    model: Model, gpu: Gpu, tensor_parallel: int, replicas: int, batch: int, load: Load
) -> Rates:
    """What engines with `batch` rows at once could do, bound by reading or by computing."""
    prompt = load.prompt_tokens
    own = load.own_tokens
    kv = model.kv_bytes(tensor_parallel)
    # Bytes that each GPU reads in a step, with the prompt's cache once for all rows or for each.
    weights = model.read_bytes(batch, tensor_parallel)
    once = weights + (batch * own + prompt) * kv
    repeated = once + (batch - 1) * prompt * kv

    token = model.flops(prompt + own)
    # Of the input only the last token passes the head.
    input_token = model.flops(prompt + load.input_tokens / 2) - 2 * model.head
    prefill = load.input_tokens * input_token + 2 * model.head
    steps = load.output_tokens - 1  # the first token comes with the input

    # Seconds of a row.
    computing = (prefill + steps * token) / tensor_parallel / gpu.flops
    reading = steps * once / batch / gpu.bandwidth
    reading_repeated = steps * repeated / batch / gpu.bandwidth

    step_reading = once / gpu.bandwidth
    step_computing = batch * token / tensor_parallel / gpu.flops
    return Rates(
        step_ms=round(1000 * max(step_reading, step_computing), 2),
        bound="memory" if reading > computing else "compute",
        bytes_per_token=round(once / batch * tensor_parallel),
        flops_per_token=round(token),
        rows_per_hour=round(3600 * replicas / max(reading, computing)),
        rows_per_hour_prompt_per_row=round(3600 * replicas / max(reading_repeated, computing)),
    )


def generation_table(plans: list[Serving]) -> str:
    """What serving() found for each division of the GPUs, as Markdown."""
    header = [
        "engines",
        "weights per GPU",
        "KV cache, tokens",
        "rows at once",
        "MB/token",
        "GFLOPs/token",
        "ms/step",
        "bound by",
        "rows/hour at most",
        "with the prompt read for each row",
    ]
    rows = []
    for plan in plans:
        cells = ["", "", "", "does not fit", "", ""]
        rates = plan.rates
        if rates is not None:
            cells = [
                f"{rates.bytes_per_token / 1e6:,.1f}",
                f"{rates.flops_per_token / 1e9:.2f}",
                str(rates.step_ms),
                rates.bound,
                f"{rates.rows_per_hour:,}",
                f"{rates.rows_per_hour_prompt_per_row:,}",
            ]
        rows.append(
            [
                f"{plan.replicas} x TP{plan.tensor_parallel}",
                f"{plan.weights_gib} GiB",
                f"{plan.cache_tokens:,}",
                f"{plan.batch:,}",
                *cells,
            ]
        )
    return markdown(header, rows)


def formulas(model: Model, gpu: Gpu, load: Load) -> str:
    """How serving() gets its numbers."""
    lines = [
        f"row: {load.prompt_tokens} tokens of the shared prompt, {load.input_tokens} of input, "
        f"{load.output_tokens} of output",
        "weights per GPU: 2 bytes x (q, o, k, v, experts and embeddings / TP + router and norms); "
        "a head of k and v stays whole",
        f"KV cache: ({load.utilization} x {gpu.memory / GIB:.1f} GiB - weights) / bytes of a token"
        "; activations, CUDA graphs left out",
        f"rows at once: min({load.max_num_seqs}, (KV cache - prompt) / (input + output / 2)): "
        "on average a row is half written",
        "MB/token: (weights that a step reads + KV cache of the prompt and of every row's "
        "input + output / 2) / rows at once, on",
        "    all GPUs of an engine; of the experts "
        f"1 - (1 - {model.per_token}/{model.experts})^rows, if the router chooses evenly",
        f"GFLOPs/token: 2 x {model.active:,} active parameters + "
        f"4 x {model.layers} x {model.heads} x {model.head_dim} x context",
        f"ms/step: max(bytes / {gpu.bandwidth / 1e12} TB/s, FLOPs / {gpu.flops / 1e12:.0f} TFLOP/s)"
        " of a token for each row",
        "rows/hour: 3600 s x engines / max(bytes / bandwidth, FLOPs / peak) of a row; "
        "its input shares a step's bytes and passes",
        "    the head with its last token alone; communication between GPUs is left out",
        "with the prompt read for each row: as vLLM 0.32 does, which has no cascade attention; "
        "hits in the L2 cache cost less",
    ]
    return "\n".join(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    load = Load()
    page = str(ROOT / "docs" / "memory.md")

    def add(name: str, default, help: str, **further) -> None:
        parser.add_argument(name, type=type(default), default=default, help=help, **further)

    add("--gpu", "h100", "which data sheet", choices=GPUS)
    add("--num_gpus", 8, "in one machine")
    add("--model", "", "a model directory or hub name (default: the 30B pair's numbers)")
    add("--lora_rank", 32, "on attention")
    add("--lora_expert_rank", 0, "on each expert (0: rank // active experts)")
    add("--prompt_tokens", load.prompt_tokens, "of the shared prompt")
    add("--input_tokens", load.input_tokens, "of a row")
    add("--output_tokens", load.output_tokens, "of a row, thinking included; an assumption")
    add("--max_num_seqs", load.max_num_seqs, "rows that an engine runs at once")
    add("--utilization", load.utilization, "share of the memory that vLLM takes")
    readme_help = f"write the memory table to {MARKS} of a page"
    parser.add_argument("--readme", nargs="?", const=page, help=readme_help)
    return parser.parse_args(argv)


def model_of(name: str) -> Model:
    """The model of a directory or of the hub, by default the 30B; raises OSError, ValueError."""
    if not name:
        return Model()
    from transformers import AutoConfig

    return Model.of(AutoConfig.from_pretrained(name))


def divisions(model: Model, num_gpus: int) -> list[int]:
    """The sizes of an engine, in GPUs, that use all GPUs and split all heads."""
    return [n for n in SPLITS if num_gpus % n == 0 and model.heads % n == 0]


def main() -> int:
    args = parse_args()
    try:
        model = model_of(args.model)
        expert_rank = args.lora_expert_rank or default_expert_rank(model, args.lora_rank)
        table = memory_table(model, args.num_gpus, args.lora_rank, expert_rank)
        if args.readme:
            write_between(Path(args.readme), MARKS, table)
    except (OSError, ValueError) as error:
        print(f"plan.py: {error}", file=sys.stderr)
        return 2

    load = Load(
        prompt_tokens=args.prompt_tokens,
        input_tokens=args.input_tokens,
        output_tokens=args.output_tokens,
        max_num_seqs=args.max_num_seqs,
        utilization=args.utilization,
    )
    plans = []
    for tensor_parallel in divisions(model, args.num_gpus):
        replicas = args.num_gpus // tensor_parallel
        plans.append(serving(model, args.gpu, tensor_parallel, replicas, load))
    print(table, generation_table(plans), formulas(model, GPUS[args.gpu], load), sep="\n\n")

    parts = training(model, args.num_gpus, args.lora_rank, expert_rank)
    result = {
        "parameters": model.parameters,
        "active": model.active,
        "training": {part.what: part.bytes for part in parts},
        "generation": [plan.recorded() for plan in plans],
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
