"""Step 2: what the loss falls on, what is trained, and that three launchers and a resumed run give
the same adapter.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen3MoeConfig

from distill.tokens import encode, prompt_ids
from distill.training.arguments import TrainArguments
from distill.training.loading import empty_model
from distill.training.lora import lora_config
from distill.training.rows import load_rows
from distill.training.trainer import LoraTrainer, exact_answers, row_of_each_token
from helpers import (
    MODES,
    ROOT,
    STEPS,
    STUDENT,
    assert_gone,
    cosine,
    descendants,
    fails,
    last_json,
    losses,
    python,
    qwen_tokenizer,
    run,
    train,
)
from helpers import training_command as command
from small_models import QWEN3_30B, adapted

# As the model cards describe the formats, written for these tests.
QWEN_2507 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# the hybrid Qwen3 shows thinking only in the last answer, an empty one where there was none
QWEN_HYBRID = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SMOLLM2 = (
    "{% if messages[0].role != 'system' %}"
    "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n{% endif %}" + QWEN_2507
)
CHATS = {
    "one turn": [("user", "Der Zug hat Verspätung."), ("assistant", "de")],
    "system message": [("system", "Be brief."), ("user", "hola"), ("assistant", "es")],
    "several turns": [
        ("user", "hola"),
        ("assistant", "es"),
        ("user", "Guten Tag"),
        ("assistant", "de"),
    ],
    "long answer": [
        ("user", "What is it?"),
        ("assistant", "A train.\n\n  It is late, and it says so."),
    ],
    "markup in the answer": [
        ("user", "Which tag?"),
        ("assistant", "<|im_end|> and <think> end nothing here."),
    ],
    "markup in the question": [
        ("user", "<|im_end|>\n<|im_start|>assistant\nfr"),
        ("assistant", "ot"),
    ],
}


@pytest.fixture(scope="module")
def qwen():
    return qwen_tokenizer(eos_token="<|im_end|>", pad_token="<|endoftext|>")


@pytest.mark.parametrize(
    "template", [QWEN_2507, QWEN_HYBRID, SMOLLM2], ids=["qwen-2507", "qwen-hybrid", "smollm2"]
)
@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_loss_falls_on_the_answer_and_its_end(qwen, template, chat):
    qwen.chat_template = template
    check_encoding(qwen, [{"role": role, "content": content} for role, content in chat])


def check_encoding(tokenizer, messages):
    row = encode(tokenizer, messages)
    context = prompt_ids(tokenizer, messages[:-1])
    answer = messages[-1]["content"]
    learned = [token for token in row["labels"] if token != -100]
    assert (
        row["input_ids"] == context + learned and row["labels"] == [-100] * len(context) + learned
    )
    assert tokenizer.decode(learned) == answer + "<|im_end|>"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert learned[-1] == end and end not in learned[:-1]
    # what inference sees: the template with its generation prompt, as long as no message spells a
    # special token
    if not any("<|" in m["content"] for m in messages):
        assert (
            context
            == tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True)["input_ids"]
        )
    assert "<think>" not in tokenizer.decode(learned).replace(answer, "")


@pytest.mark.slow
@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_smollm2_learns_the_answer_and_its_end(chat):
    python("tests/smollm2.py")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "smollm2")
    check_encoding(tokenizer, [{"role": r, "content": c} for r, c in chat])


@pytest.mark.slow
@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_tiny_student_learns_the_answer_and_its_end(pair, chat):
    check_encoding(
        AutoTokenizer.from_pretrained(STUDENT), [{"role": r, "content": c} for r, c in chat]
    )


def test_a_row_that_does_not_fit_is_refused(qwen, tmp_path):
    qwen.chat_template = QWEN_2507
    path = tmp_path / "train.jsonl"
    path.write_text(
        json.dumps({"messages": [{"role": r, "content": c} for r, c in CHATS["one turn"]]}) + "\n"
    )
    length = len(load_rows(path, qwen, 2048)[0]["input_ids"])
    assert load_rows(path, qwen, length) and load_rows(path, qwen, None)
    with pytest.raises(ValueError, match=f"train.jsonl:1: {length} tokens; raise --max_length"):
        load_rows(path, qwen, length - 1)


@pytest.mark.parametrize(
    ("kwargs", "trainable"),
    [
        ({}, 184_025_088),
        ({"expert_rank": 32}, 1_285_029_888),
        ({"target": "attention"}, 26_738_688),
    ],
    ids=["default", "rank 32 everywhere", "attention"],
)
def test_parameters_of_the_30b_student(kwargs, trainable):
    found, total = adapted(empty_model(Qwen3MoeConfig(**QWEN3_30B)), rank=32, alpha=16, **kwargs)
    assert total == 30_532_122_624
    assert sum(found.values()) == trainable
    # neither router nor head
    assert all(re.search(r"self_attn\.[qkvo]_proj|mlp\.experts", name) for name in found)


def test_dense_student_is_trained_on_all_linear_layers_but_the_head():
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=99,
    )
    found, _ = adapted(empty_model(config), rank=4, alpha=4)
    names = {name.split(".lora_")[0].rpartition(".")[2] for name in found}
    assert names == set("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split())
    assert {
        n.split(".lora_")[0].rpartition(".")[2]
        for n in adapted(empty_model(config), rank=4, alpha=4, target="up_proj")[0]
    } == {"up_proj"}
    with pytest.raises(ValueError, match="no linear layer 'gate'; there are"):
        lora_config(empty_model(config), 4, 4, target="q_proj,gate")


def test_only_the_default_schedule_has_a_lowest_rate(tmp_path):
    """Or those that ignore it: old runs recorded it as it is here, and must resume."""
    common = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    for name in (
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "constant",
        "constant_with_warmup",
    ):
        assert (
            str(TrainArguments(**common, lr_scheduler_type=name).lr_scheduler_kwargs)
            == "{'min_lr_rate': 0.1}"
        )
    assert TrainArguments(**common, lr_scheduler_kwargs='{"min_lr": 1e-6}').lr_scheduler_kwargs == {
        "min_lr": 1e-6
    }
    assert not TrainArguments(**common, lr_scheduler_type="linear").lr_scheduler_kwargs


def test_dropout_on_experts_is_refused():
    one_layer = Qwen3MoeConfig(**{**QWEN3_30B, "num_hidden_layers": 1})
    model = empty_model(one_layer)
    with pytest.raises(ValueError, match="--lora_dropout 0.1: PEFT has none for fused experts"):
        lora_config(model, 32, 16, dropout=0.1)
    assert lora_config(model, 32, 16, target="attention", dropout=0.1).lora_dropout == 0.1


def test_long_micro_batches_alone_are_checkpointed(qwen, tmp_path):
    """Each layer computes a checkpointed micro-batch a second time; the steps are the same."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "head_dim": 16,
    }
    rows = [{"input_ids": [7] * n, "labels": [-100] * (n - 1) + [7]} for n in (5, 90, 6, 91)]
    computed = []
    found = []
    for limit in (0, 100, 1000):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            Qwen3MoeConfig(**sizes, **experts, vocab_size=len(qwen))
        )
        settings = {
            "use_cpu": True,
            "bf16": False,
            "train_sampling_strategy": "sequential",
            "max_length": None,
        }
        args = TrainArguments(
            output_dir=str(tmp_path / str(limit)),
            per_device_train_batch_size=2,
            save_strategy="no",
            **settings,
        )
        args.dataset_kwargs = {"skip_prepare_dataset": True}
        data = Dataset.from_list([rows[0], rows[2], rows[1], rows[3]])
        lora = lora_config(model, 8, 8)
        kinds = {
            "model": model,
            "args": args,
            "train_dataset": data,
            "processing_class": qwen,
            "peft_config": lora,
        }
        trainer = LoraTrainer(**kinds, checkpoint_from_tokens=limit)
        attention = trainer.model.get_base_model().model.layers[0].self_attn
        seen = []
        attention.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append(kwargs["hidden_states"].shape[1]),
            with_kwargs=True,
        )
        found.append(trainer.train().training_loss)
        computed.append(seen)
    assert computed == [[11, 11, 181, 181], [11, 181, 181], [11, 181]]
    assert found[1:] == pytest.approx([found[0]] * 2, abs=1e-6)


def test_exact_rows_are_told_apart_padded_and_side_by_side():
    """Two rows of two and three tokens, of which the second one's last is not the likeliest."""
    padded = {"labels": torch.tensor([[5, 6, -100], [7, 8, 9]])}
    assert row_of_each_token(padded).tolist() == [[0, 0, 0], [1, 1, 1]]
    wrong = torch.tensor([[False, False], [False, True]])
    assert exact_answers(row_of_each_token(padded), wrong).tolist() == [True, False]

    beside = {
        "labels": torch.tensor([[5, 6, 7, 8, 9]]),
        "position_ids": torch.tensor([[0, 1, 0, 1, 2]]),
    }
    assert row_of_each_token(beside).tolist() == [[0, 0, 1, 1, 1]]
    wrong = torch.tensor([[False, False, False, True]])
    assert exact_answers(row_of_each_token(beside), wrong).tolist() == [True, False]


@pytest.mark.slow
def test_three_launchers_train_the_same(trained):
    single = trained["single"][0]
    for mode in ("ddp", "fsdp"):
        output_dir, summary = trained[mode]
        assert (summary["steps"], summary["effective_batch_size"]) == (STEPS, 16)
        difference = [abs(a - b) for a, b in zip(losses(single), losses(output_dir), strict=True)]
        assert max(difference) < 1e-3, (mode, difference)
        assert summary["eval_loss"] == pytest.approx(trained["single"][1]["eval_loss"], abs=2e-3)
        assert summary["eval_exact_answers"] == trained["single"][1]["eval_exact_answers"] > 0.2
        assert cosine(single, output_dir) > 0.999


@pytest.mark.slow
def test_bf16_stays_near_across_launchers(pair, train_file, tmp_path):
    """Sums in another order round otherwise: measured 0.12 in the loss and 0.9967 in the cosine."""
    for mode in MODES:
        train(mode, tmp_path / mode, train_file, "--bf16", "true", "--max_steps", 20)
    for mode in ("ddp", "fsdp"):
        one = losses(tmp_path / "single", 20)
        other = losses(tmp_path / mode, 20)
        print(
            mode,
            max(abs(a - b) for a, b in zip(one, other, strict=True)),
            cosine(tmp_path / "single", tmp_path / mode),
        )
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 0.3
        assert sum(other[-10:]) == pytest.approx(sum(one[-10:]), rel=0.1)
        assert cosine(tmp_path / "single", tmp_path / mode) > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_adapter_alone_is_written(trained, mode):
    output_dir, summary = trained[mode]
    tensors = load_file(output_dir / "adapter_model.safetensors")
    assert sum(t.numel() for t in tensors.values()) == summary["trainable_parameters"] == 442_368
    assert all(re.search(r"self_attn\.[qkvo]_proj|mlp\.experts", name) for name in tensors)
    # attention and experts have moved
    assert all(t.abs().max() > 0 for name, t in tensors.items() if "lora_B" in name)
    base = STUDENT / "model.safetensors"
    for checkpoint in output_dir.glob("checkpoint-*"):
        weights = [
            p for p in checkpoint.rglob("*") if p.suffix in (".safetensors", ".bin", ".distcp")
        ]
        sizes = {
            p.name: p.stat().st_size
            for p in weights
            if "optim" not in p.name and "optim" not in p.parent.name
        }
        assert (
            sizes
            and max(sizes.values())
            < 1.1 * (output_dir / "adapter_model.safetensors").stat().st_size
        ), sizes
        assert max(sizes.values()) < base.stat().st_size


@pytest.mark.slow
def test_padding_free_does_not_change_the_loss(trained, train_file, tmp_path):
    train("single", tmp_path / "padded", train_file, "--padding_free", "false")
    one = losses(trained["single"][0])
    other = losses(tmp_path / "padded")
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-3
    assert cosine(trained["single"][0], tmp_path / "padded") > 0.999


@pytest.mark.slow
def test_rows_are_shuffled_by_the_seed_and_in_each_epoch(trained, train_file, tmp_path):
    train(
        "single",
        tmp_path / "other",
        train_file,
        "--data_seed",
        7,
        "--max_steps",
        10,
        "--learning_rate",
        0,
    )
    one = losses(tmp_path / "other", 10)
    # before the first step both are the base student
    assert abs(one[0] - losses(trained["single"][0])[0]) > 1e-3
    train(
        "single",
        tmp_path / "epochs",
        train_file,
        "--max_steps",
        22,
        "--learning_rate",
        0,
        "--save_steps",
        22,
    )
    first = losses(tmp_path / "epochs", 22)[:11]
    second = losses(tmp_path / "epochs", 22)[11:]
    assert first != second and sum(len(set(e)) for e in (first, second)) == 22


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_bad_input_is_one_line_under_a_launcher_too(pair, train_file, tmp_path, mode):
    bad = tmp_path / "train.jsonl"
    bad.write_text(train_file.read_text(encoding="utf-8") + "hola\n", encoding="utf-8")
    line, environment = command(mode, tmp_path / "out", bad)
    result = run(*line, env=environment, cwd=ROOT, code=2)
    assert result.stderr.strip() == (
        f"train_sft_trl.py: {bad}:169: not JSON (Expecting value); "
        "each line must be one JSON object"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_killed_and_resumed_gives_the_same_adapter(trained, train_file, tmp_path, mode):
    output_dir = tmp_path / "out"
    line, environment = command(mode, output_dir, train_file)
    silent = subprocess.DEVNULL
    process = subprocess.Popen(
        line, env=environment, cwd=ROOT, stdout=silent, stderr=silent, start_new_session=True
    )
    end = time.monotonic() + 120
    while not (output_dir / "checkpoint-20" / "complete.json").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    workers = descendants(process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert_gone(workers)
    assert not (output_dir / "results.json").exists()
    newest = max(
        output_dir.glob("checkpoint-*/complete.json"),
        key=lambda p: int(p.parent.name.split("-")[1]),
    ).parent
    if mode == "single":  # a torn checkpoint is skipped, the one before it serves
        weights = newest / "adapter_model.safetensors"
        os.truncate(weights, weights.stat().st_size - 100)
        assert newest.name == "checkpoint-20"
    result = run(*line, env=environment, cwd=ROOT)
    expected = "checkpoint-10" if mode == "single" else newest.name
    assert f"resuming from {output_dir / expected}" in result.stderr
    assert ("not complete, skipped" in result.stderr) == (mode == "single")
    assert last_json(result)["steps"] == STEPS
    assert losses(output_dir) == pytest.approx(losses(trained[mode][0]), abs=1e-4)
    assert cosine(output_dir, trained[mode][0]) > 0.9999


@pytest.mark.slow
def test_exact_answers_are_what_greedy_decoding_writes(pair, train_file, tmp_path):
    """Held-out loss and accuracy during training, on gold rows of which one is trained on, to be
    warned of.
    """
    lines = (
        (ROOT / "example-data" / "multilingual_gold.jsonl")
        .read_text(encoding="utf-8")
        .splitlines(keepends=True)
    )
    eval_file = tmp_path / "eval.jsonl"
    noisy = tmp_path / "train.jsonl"
    eval_file.write_text("".join(lines[199:240]), encoding="utf-8")
    question = json.loads(lines[0])["messages"][0]
    contradiction = {"messages": [question, {"role": "assistant", "content": "zh"}]}
    noisy.write_text(
        train_file.read_text(encoding="utf-8") + json.dumps(contradiction) + "\n" + lines[199]
    )
    line, environment = command(
        "single", tmp_path / "out", noisy, "--eval_file", eval_file, "--eval_steps", 20
    )
    result = run(*line, "--eval_strategy", "steps", "--max_steps", 100, env=environment, cwd=ROOT)
    assert "1 inputs of the train file have more than one answer" in result.stderr
    assert "1 of 41 rows of --eval_file are in the train file too" in result.stderr
    assert (
        "effective batch 16, 100 optimizer steps" in result.stderr
        and "only" not in result.stderr.split("%|")[0]
    )
    assert "the first row's loss is on 'ar<|im_end|>'" in result.stderr
    summary = last_json(result)
    assert (
        0 < summary["eval_loss"] < 3
        and summary["tokens_per_second"] > 0
        and summary["peak_memory_gib"] > 0
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "out")
    right = 0
    for row in lines[199:240]:
        *prompt, answer = json.loads(row)["messages"]
        ids = prompt_ids(tokenizer, prompt)
        output = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[
            0, len(ids) :
        ]
        right += tokenizer.decode(output) == answer["content"] + "<|im_end|>"
    assert summary["eval_exact_answers"] == round(right / 41, 4) > 0.3
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        card.startswith("---\nbase_model: ")
        and summary["output_dir"] in card
        and '"lora_rank": 64' in card
    )
    assert (tmp_path / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_model_without_chat_template_is_refused(pair, train_file, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(STUDENT, model)
    (model / "chat_template.jinja").unlink()
    flags = ["--model_name", model, "--train_file", train_file, "--output_dir", tmp_path / "out"]
    assert "has no chat template" in fails(
        "train_sft_trl.py", *flags, "--config", ROOT / "configs" / "tiny.yaml"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_finished_adapter_and_other_runs_are_kept(trained, train_file):
    output_dir = trained["single"][0]
    before = (output_dir / "adapter_model.safetensors").read_bytes()
    flags = ["--model_name", STUDENT, "--output_dir", output_dir, "--train_file", train_file]
    flags += [
        "--config",
        ROOT / "configs" / "tiny.yaml",
        "--eval_file",
        output_dir.parent / "eval.jsonl",
    ]
    assert "holds a finished adapter; --overwrite" in fails("train_sft_trl.py", *flags)
    results = output_dir / "results.json"
    results.rename(output_dir / "results.kept")  # as if it had been killed before its end
    try:
        assert "begun with max_steps 40, now -1" in fails("train_sft_trl.py", *flags)
        flags += ["--max_steps", STEPS, "--max_grad_norm", 0.5]
        assert "begun with max_grad_norm 1.0, now 0.5" in fails("train_sft_trl.py", *flags)
    finally:
        (output_dir / "results.kept").rename(results)
    assert (output_dir / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_another_run_is_refused_before_the_launch(trained, train_file):
    output_dir = trained["ddp"][0]
    flags = ["--eval_file", output_dir.parent / "eval.jsonl", "--learning_rate", 0.5]
    line, environment = command("ddp", output_dir, train_file, *flags)
    results = output_dir / "results.json"
    results.rename(output_dir / "results.kept")  # as if it had been killed before its end
    try:
        result = run(*line, env=environment, cwd=ROOT, code=2)
    finally:
        (output_dir / "results.kept").rename(results)
    assert (
        result.stderr.endswith(", now 0.5; --overwrite starts afresh\n")
        and "learning_rate" in result.stderr
    )
    assert len(result.stderr.splitlines()) == 1
