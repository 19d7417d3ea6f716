"""The plan on paper against what can be counted and measured: the model without weights, and the
tiny pair on a CPU.
"""

import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoTokenizer,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    TrainerCallback,
)

from distill.training.arguments import OneLineParser, TrainArguments
from distill.training.build import make_trainer
from distill.training.loading import empty_model
from distill.training.lora import lora_of
from distill.training.recipe import ScriptArguments
from distill.training.rows import load_rows
from helpers import PROGRAMS, ROOT, STUDENT, TEACHER, fails, in_fork, last_json, python
from small_models import QWEN3_30B, adapted

sys.path.append(str(ROOT / "benchmarks"))
from plan import GIB, MARKS, Model, training  # noqa: E402

SMALL = dict(
    vocab_size=512,
    hidden_size=256,
    moe_intermediate_size=192,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=32,
    num_experts=8,
    num_experts_per_tok=2,
    tie_word_embeddings=True,
)


def test_defaults_are_the_30b():
    assert Model.of(Qwen3MoeConfig(**QWEN3_30B, max_position_embeddings=262144)) == Model()
    with pytest.raises(
        ValueError, match="qwen3_moe: not a Qwen3-MoE model with experts in every layer"
    ):
        Model.of(Qwen3MoeConfig(**QWEN3_30B, mlp_only_layers=[0]))


@pytest.mark.parametrize("expert_rank", [0, 32], ids=["default", "rank 32 everywhere"])
@pytest.mark.parametrize("config", [QWEN3_30B, SMALL], ids=["30B", "tied embeddings"])
def test_parameters_are_those_of_transformers(config, expert_rank):
    config = Qwen3MoeConfig(**config)
    model = Model.of(config)
    found, total = adapted(empty_model(config), rank=32, alpha=16, expert_rank=expert_rank)
    assert model.parameters == total
    assert model.lora(32, expert_rank or 32 // model.per_token) == sum(found.values())


@pytest.mark.parametrize("tied", [False, True])
def test_flops_of_a_token(tied):
    settings = {**SMALL, "tie_word_embeddings": tied, "attn_implementation": "eager"}
    config = Qwen3MoeConfig(**settings)
    student = Qwen3MoeForCausalLM._from_config(
        config, experts_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        student(torch.tensor([[7]]), use_cache=False)
    # norms are not counted
    assert counter.get_total_flops() == pytest.approx(Model.of(config).flops(1), rel=0.01)


def test_tensor_parallel_copies_what_cannot_be_split():
    model = Model()
    router = 48 * 128 * 2048
    norms = 48 * 2 * (2048 + 128) + 2048
    assert 4 * model.held(4) == model.parameters + 3 * (router + norms)
    # k and v twice
    assert 8 * model.held(8) == model.parameters + 7 * (router + norms) + 48 * 2 * 4 * 128 * 2048
    assert [model.kv_bytes(n) * n // model.kv_bytes() for n in (1, 2, 4, 8)] == [1, 1, 1, 2]
    assert model.read_bytes(1) == 2 * model.active
    assert model.read_bytes(4096) == pytest.approx(2 * (model.parameters - model.looked_up))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bf16", "weight_bytes"), [("false", 4), ("true", 2)], ids=["fp32", "bf16"]
)
def test_memory_of_a_step_on_the_tiny_student(pair, tmp_path, bf16, weight_bytes):
    measured = {}

    class Measure(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model, optimizer, **kwargs):
            trained = [p for p in model.parameters() if p.requires_grad]
            states = [
                s[name]
                for s in optimizer.optimizer.state.values()
                for name in ("exp_avg", "exp_avg_sq")
            ]
            measured["LoRA, gradients, Adam"] = sum(
                t.nbytes for t in [*trained, *(p.grad for p in trained), *states]
            )
            measured["base weights"] = sum(
                p.nbytes for p in model.parameters() if not p.requires_grad
            )

    train_file = tmp_path / "train.jsonl"
    lines = (
        (ROOT / "example-data" / "multilingual_gold.jsonl")
        .read_text(encoding="utf-8")
        .splitlines(keepends=True)
    )
    train_file.write_text("".join(lines[:16]), encoding="utf-8")
    flags = {
        "model_name": STUDENT,
        "train_file": train_file,
        "output_dir": tmp_path / "out",
        "bf16": bf16,
    }
    flags.update(config=ROOT / "configs" / "tiny.yaml", max_steps=1, save_strategy="no")
    flags = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    script, args = OneLineParser((ScriptArguments, TrainArguments)).parse_args_and_config(flags)
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    config = AutoConfig.from_pretrained(STUDENT)
    lora = lora_of(script, empty_model(config))
    rows = load_rows(train_file, tokenizer, None)
    trainer = make_trainer(script, args, tokenizer, lora, rows, None)
    trainer.add_callback(Measure())
    trainer.train()

    plan = {name: size for name, size, _ in training(Model.of(config), 1, 64, 32, weight_bytes)}
    assert measured == {name: plan[name] for name in measured} and len(measured) == 2


@pytest.mark.slow
def test_kv_cache_of_a_real_engine(pair, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    # in one process it starts in a third of the time
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    tokens = last_json(in_fork(PROGRAMS / "count_kv_cache.py", TEACHER))
    expected = GIB / Model.of(AutoConfig.from_pretrained(TEACHER)).kv_bytes()
    assert expected - 32 < tokens <= expected  # whole blocks of 32


def test_plan_as_a_user_runs_it():
    result = python("benchmarks/plan.py", "--gpu", "h100", "--num_gpus", 8)
    table = {
        line.split(" | ")[0].strip("| "): line
        for line in result.stdout.splitlines()
        if line.startswith("|")
    }
    found = last_json(result)
    assert [m["tensor_parallel"] for m in found["generation"]] == [8, 4, 2, 1]
    for m in found["generation"]:
        row = table[f"{8 // m['tensor_parallel']} x TP{m['tensor_parallel']}"]
        assert f"{m['bytes_per_token'] / 1e6:,.1f} | {m['flops_per_token'] / 1e9:.2f}" in row
        assert (
            m["rows_per_hour"] > m["rows_per_hour_prompt_per_row"] > 0
            and f"{m['rows_per_hour']:,}" in row
        )
    assert (
        found["parameters"] == Model().parameters
        and {"one GPU", "DDP over 8", "FSDP2 over 8"} < table.keys()
    )


def test_the_page_on_memory_holds_the_table(tmp_path):
    text = (ROOT / "docs" / "memory.md").read_text("utf-8")
    before = text.partition(MARKS[0])[0]
    after = text.partition(MARKS[1])[2]
    copy = tmp_path / "memory.md"
    copy.write_text("".join([before, *MARKS, after]), "utf-8")
    python("benchmarks/plan.py", "--readme", copy)
    assert copy.read_text("utf-8") == text
    copy.write_text("nothing\n", "utf-8")
    assert "holds no <!-- plan -->" in fails("benchmarks/plan.py", "--readme", copy)
