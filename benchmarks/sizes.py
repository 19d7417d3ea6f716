"""Parameters, FLOPs and bytes of a Qwen3-MoE model and its LoRA, counted from its configuration."""

from dataclasses import dataclass
from typing import NamedTuple

GIB = 2**30
WEIGHT_BYTES = 2  # of a weight in bf16


@dataclass(frozen=True)
class Model:
    """A Qwen3-MoE configuration.

    The defaults are those of Qwen3-30B-A3B (Thinking and Instruct, 2507).
    """

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
        kind = config.model_type
        if kind != "qwen3_moe" or config.mlp_only_layers or config.decoder_sparse_step != 1:
            raise ValueError(f"{kind}: not a Qwen3-MoE model with experts in every layer")
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
            context=config.max_position_embeddings,
        )

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
        """Parameters of an input embedding of its own; a token reads one row of it."""
        return 0 if self.tied else self.head

    def layer(self, tensor_parallel: int = 1, experts: float | None = None) -> float:
        """Parameters of a layer on each GPU, with `experts` of its experts, or with all of them.

        Norms and router are on every GPU.
        """
        if experts is None:
            experts = self.experts
        # Query and output are split over the GPUs; key and value are repeated beyond kv_heads GPUs.
        heads = self.heads // tensor_parallel + self.kv_heads_held(tensor_parallel)
        attention = 2 * self.hidden * self.head_dim * heads
        split = experts * self.expert / tensor_parallel
        router = self.hidden * self.experts
        norms = 2 * self.head_dim + 2 * self.hidden
        return attention + split + router + norms

    def kv_heads_held(self, tensor_parallel: int) -> int:
        """Heads of keys and values on each GPU; beyond kv_heads GPUs a head is repeated."""
        return max(1, self.kv_heads // tensor_parallel)

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
        """FLOPs of one token that looks at `context` tokens."""
        attended = 4 * self.layers * self.heads * self.head_dim * context  # scores and weighted sum
        return 2 * self.active + attended

    def lora(self, rank: int, expert_rank: int) -> int:
        """Trainable parameters of LoRA; a matrix of n x m has rank * (n + m)."""
        wide = self.heads * self.head_dim  # of query and output
        narrow = self.kv_heads * self.head_dim  # of key and value
        attention = rank * (2 * (self.hidden + wide) + 2 * (self.hidden + narrow))
        gate_and_up = self.hidden + 2 * self.expert_size  # they are one matrix
        down = self.expert_size + self.hidden
        experts = self.experts * expert_rank * (gate_and_up + down)
        return self.layers * (attention + experts)

    def kv_bytes(self, tensor_parallel: int = 1) -> int:
        """Bytes of KV cache per token on each GPU, in bf16."""
        values = 2 * self.layers * self.kv_heads_held(tensor_parallel) * self.head_dim
        return values * WEIGHT_BYTES

    def read_bytes(self, batch: int, tensor_parallel: int = 1) -> float:
        """Bytes of bf16 weights that a step of `batch` tokens reads on each GPU.

        Of the experts it reads those that any token chose, on average if the router chooses evenly.
        """
        untouched = (1 - self.per_token / self.experts) ** batch  # share of the experts
        touched = self.experts * (1 - untouched)
        read = self.held(tensor_parallel, touched) - self.looked_up / tensor_parallel
        return WEIGHT_BYTES * read


class Planned(NamedTuple):
    """A part of the training's memory."""

    what: str
    bytes: float  # on each GPU
    formula: str


def default_expert_rank(model: Model, rank: int) -> int:
    """The rank of LoRA on each expert that train_sft_trl.py takes where none is given."""
    return max(1, rank // model.per_token)


def training(
    model: Model, gpus: int, rank: int, expert_rank: int, weight_bytes: int = WEIGHT_BYTES
) -> list[Planned]:
    """Bytes per GPU before activations; FSDP2 has two layers and the head gathered."""
    trainable = model.lora(rank, expert_rank)
    base = weight_bytes * model.parameters
    adapter = 16 * trainable
    layer = model.layer() + trainable / model.layers
    gathered = weight_bytes * (2 * layer + model.head)
    return [
        Planned("base weights", base, f"{weight_bytes} bytes x parameters"),
        Planned(
            "LoRA, gradients, Adam",
            adapter,
            "16 bytes x trainable: weight, gradient and two states of Adam in fp32",
        ),
        Planned("one GPU", base + adapter, "base + LoRA"),
        Planned(
            f"DDP over {gpus}",
            base + adapter + 4 * trainable,
            "base + LoRA + 4 bytes x trainable: buckets of gradients",
        ),
        Planned(
            f"FSDP2 over {gpus}",
            (base + adapter) / gpus + gathered,
            f"(base + LoRA) / {gpus} + two layers and the head",
        ),
    ]
