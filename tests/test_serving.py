"""A trained adapter gives the same tokens wherever it is loaded: PEFT, merged, vLLM, evaluate.py,
an OpenAI server.
"""

import json
import math
import re
import types

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.tokens import prompt_ids
from helpers import (
    PROGRAMS,
    ROOT,
    STUDENT,
    TEACHER,
    fails,
    in_fork,
    last_json,
    python,
    read_jsonl,
    trace,
)
from small_models import small_model
from vllm_server import server

ROWS = 40
# How far a confidence may be from itself where the same float32 weights are added up in another
# order: in another batch, or with the adapter merged. Step 3 keeps six digits.
ROUNDING = 1e-4
# what the generation_config.json of many models holds
PENALTY = {
    "do_sample": True,
    "repetition_penalty": 1.3,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
}


def ask_vllm(model, prompts, tmp_path):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(prompts))
    return last_json(in_fork(PROGRAMS / "ask_vllm.py", model, file))


def choices_of(client, name, rows, **sampling):
    """What the server makes of the inputs of the report's rows, one after the other."""
    asked = {"model": name, "max_tokens": 64, **sampling}
    replies = (client.chat.completions.create(messages=row["messages"], **asked) for row in rows)
    return [reply.choices[0] for reply in replies]


def ask(client, name, rows, **sampling):
    """The texts of these."""
    return [choice.message.content for choice in choices_of(client, name, rows, **sampling)]


def confidence_of(choice):
    """The probability of all that a server has written, the end of turn included."""
    return math.exp(sum(place.logprob for place in choice.logprobs.content))


def confidences_of(rows):
    """Step 3's, of the report's rows; all answers have come to their end."""
    return [row["student"]["confidence"] for row in rows]


def greedy(model, prompts):
    """Token ids that greedy decoding adds to each prompt, the end of turn included."""
    answers = []
    for ids in prompts:
        output = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
        answers.append(output[0, len(ids) :].tolist())
    return answers


@pytest.fixture(scope="module")
def prompts(pair):
    """Held-out inputs as the student sees them."""
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    lines = (
        (ROOT / "example-data" / "heldout.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()[: 5 * ROWS : 5]
    )
    return [prompt_ids(tokenizer, json.loads(line)["messages"][:-1]) for line in lines]


@pytest.mark.slow
def test_expert_adapter_merged_gives_the_same_tokens(distilled, prompts, tmp_path):
    adapter = distilled[0]
    merged = tmp_path / "merged"
    flags = ["--adapter", adapter, "--output_dir", merged, "--dtype", "float32"]
    assert last_json(python("merge_adapter.py", *flags))["output_dir"] == str(merged)
    assert "exists already" in fails("merge_adapter.py", *flags)
    base = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
    expected = greedy(PeftModel.from_pretrained(base, adapter), prompts)
    assert len({tuple(answer) for answer in expected}) > 5  # it answers, and not always the same
    assert (
        greedy(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), prompts)
        == expected
    )
    assert ask_vllm(merged, prompts, tmp_path) == expected
    assert (
        AutoTokenizer.from_pretrained(merged).chat_template
        == AutoTokenizer.from_pretrained(STUDENT).chat_template
    )


@pytest.mark.slow
def test_vllms_loader_reads_the_expert_adapter_exactly(distilled):
    """Its kernel needs a GPU, its loader does not: the deltas that it would apply are PEFT's."""
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.lora.peft_helper import PEFTHelper

    adapter = str(distilled[0])
    experts = 8
    width = 128
    peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32), adapter
    )
    helper = PEFTHelper.from_local_dir(adapter, 8192)
    modules = {"q_proj", "k_proj", "v_proj", "o_proj", "experts"}
    lora = LoRAModel.from_local_checkpoint(
        adapter, modules, helper, lora_model_id=1, device="cpu", dtype=torch.float32
    )
    for weights in lora.loras.values():
        weights.optimize()
    qwen = types.SimpleNamespace(
        config=types.SimpleNamespace(architectures=["Qwen3MoeForCausalLM"])
    )
    manager = types.SimpleNamespace(
        model=qwen, _get_lora_layer_weights=lambda model, name: model.get_lora(name)
    )
    module = types.SimpleNamespace(local_num_experts=experts, global_num_experts=experts, ep_rank=0)
    for layer in range(2):
        wrapper = peft.base_model.model.model.layers[layer].mlp.experts
        found = {
            wrapper.parameter_name: wrapper,
            wrapper.base_layer.parameter_name: wrapper.base_layer,
        }
        gate_up = found["gate_up_proj"].get_delta_weight("default")
        down = found["down_proj"].get_delta_weight("default")
        name = f"model.layers.{layer}.mlp.experts"
        LoRAModelManager._convert_3d_to_2d_moe_lora(manager, lora, module, name)
        read = lora.get_lora(name)
        gate, read_down, up = (
            torch.bmm(b, a) for a, b in zip(read.lora_a, read.lora_b, strict=True)
        )
        for ours, theirs in (
            (gate, gate_up[:, :width]),
            (up, gate_up[:, width:]),
            (read_down, down),
        ):
            assert theirs.abs().max() > 1e-3
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        for projection in "qkvo":
            layer_name = f"layers.{layer}.self_attn.{projection}_proj"
            weights = lora.get_lora(f"model.{layer_name}")
            theirs = peft.base_model.model.model.get_submodule(layer_name).get_delta_weight(
                "default"
            )
            torch.testing.assert_close(weights.lora_b @ weights.lora_a, theirs, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_server_with_the_merged_student_answers_as_evaluated(evaluated, student_server):
    client, _ = student_server
    rows = read_jsonl(evaluated[0] / "predictions.jsonl")[: 5 * ROWS : 5]
    answers = ask(client, "student", rows, temperature=0)
    unasked = ask(client, "student", rows)  # as its generation_config.json has it
    assert sum(answer == other for answer, other in zip(answers, unasked, strict=True)) >= ROWS - 1
    equal = sum(
        answer == row["student"]["response"] for answer, row in zip(answers, rows, strict=True)
    )
    assert equal >= ROWS - 1  # in bfloat16 a batch may add up a tie differently


@pytest.fixture(scope="module")
def dense(labelled, tmp_path_factory):
    """A dense student in the architecture of Qwen2.5, trained by --model_name alone: (base,
    adapter).
    """
    folder = tmp_path_factory.mktemp("dense")
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    base = folder / "base"
    adapter = folder / "adapter"
    small_model("qwen2", tokenizer).save_pretrained(base)
    tokenizer.save_pretrained(base)
    settings = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**settings, **PENALTY}))
    flags = ["--model_name", base, "--output_dir", adapter, "--train_file", labelled[0]]
    flags += ["--config", ROOT / "configs" / "tiny.yaml", "--max_steps", 120]
    result = python("train_sft_trl.py", *flags, "--lora_rank", 16, "--logging_steps", 1)
    assert re.search(r"LoRA on .*2 gate_proj \(rank 16\).*2 down_proj", result.stderr)
    return base, adapter


@pytest.fixture(scope="module")
def dense_evaluated(dense, tmp_path_factory):
    """Step 3 of the dense student, whose adapter vLLM loads itself, as asked: its JSON line.

    The teacher's answers come from a file, so that it is not asked again.
    """
    base, adapter = dense
    heldout = ROOT / "example-data" / "heldout.jsonl"
    answers = tmp_path_factory.mktemp("answers") / "heldout_answers.jsonl"
    flags = [
        "--model_name",
        TEACHER,
        "--input_file",
        heldout,
        "--output_file",
        answers,
        "--limit",
        ROWS,
    ]
    python("create_data.py", *flags, "--max_tokens", 256, "--min_success_rate", 0)
    flags = [
        "--systems",
        "teacher,student",
        "--teacher_model",
        "not/asked",
        "--teacher_answers",
        answers,
    ]
    flags += [
        "--student_model",
        base,
        "--adapter",
        adapter,
        "--test_file",
        heldout,
        "--limit",
        ROWS,
    ]
    flags += ["--serve_adapter", "lora", "--check_rows", ROWS, "--dtype", "float32"]
    return last_json(python("evaluate.py", *flags))


@pytest.mark.slow
def test_dense_student_is_evaluated_as_it_is(dense, dense_evaluated):
    _, adapter = dense
    metrics = json.loads((adapter / "report" / "metrics.json").read_text())
    assert metrics["served_as"] == "LoRA in vLLM"
    check = metrics["check"]
    # PEFT's greedy tokens
    assert (check["rows"], check["dtype"], check["largest_gap"]) == (ROWS, "float32", 0.0)
    teacher = metrics["systems"]["teacher"]
    student = metrics["systems"]["student"]
    assert teacher["accuracy"] > 0.8 and teacher["tokens"] > 2000 and teacher["latency_s"] is None
    assert "speedup" not in dense_evaluated and student["token_ratio"] > 10
    assert dense_evaluated["student_latency_s"] > 0
    rows = read_jsonl(adapter / "report" / "predictions.jsonl")
    heldout = read_jsonl(ROOT / "example-data" / "heldout.jsonl")[:ROWS]
    assert [row["gold"] for row in rows] == [row["messages"][-1]["content"] for row in heldout]
    # what the report says of the base's own settings
    assert metrics["server_settings"] == {
        key: PENALTY[key] for key in PENALTY if key != "do_sample"
    }
    assert (
        "a server apply repetition_penalty 1.3, " in (adapter / "report" / "report.md").read_text()
    )


@pytest.mark.slow
def test_a_server_answers_as_the_dense_student_was_evaluated(dense, dense_evaluated, tmp_path):
    base, adapter = dense
    rows = read_jsonl(adapter / "report" / "predictions.jsonl")
    expected = [row["student"]["response"] for row in rows]
    assert len(set(expected)) > 1
    lora = [
        "--enable-lora",
        "--max-lora-rank",
        "16",
        "--lora-modules",
        f"student={adapter}",
        "--dtype",
        "float32",
    ]
    with server(tmp_path / "log", base, *lora, "--generation-config", "vllm") as client:
        choices = choices_of(client, "student", rows, temperature=0, logprobs=True)
        assert [choice.message.content for choice in choices] == expected
        # one at a time as in step 3's batch
        alone = [confidence_of(choice) for choice in choices]
        assert alone == pytest.approx(confidences_of(rows), abs=ROUNDING)
        # the base, which does not end its answers
        assert ask(client, str(base), rows[:5], temperature=0) != expected[:5]
        check_the_adapter_is_asked_there(client, rows, base, tmp_path)


def check_the_adapter_is_asked_there(client, rows, base, tmp_path):
    """By predict.py and evaluate.py, with its name beside the base's; as chats, and by token ids.

    The server says how many tokens fit into the base only.
    """
    listed = {model.id: model for model in client.models.list()}
    assert listed["student"].parent == str(base)
    assert listed["student"].max_model_len is None
    expected = [row["student"]["response"] for row in rows]
    at = ["--student_url", client.base_url]
    by_ids = [*at, "--student_tokenizer", base]
    texts = [*(row["messages"][0]["content"] for row in rows), "hola " * 5000]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    flags = ["--input_file", tmp_path / "in.jsonl", "--text_column", "text"]
    flags += ["--task", ROOT / "example-data" / "language_classification.yaml"]
    for name, how in {"chats": at, "ids": by_ids}.items():
        output = tmp_path / f"{name}.jsonl"
        python("predict.py", *flags, *how, "--output_file", output, "--min_success_rate", 0)
        *records, too_long = sorted(trace(output), key=lambda record: record["index"])
        assert [record["attempts"][0]["response"] for record in records] == expected
        assert too_long["reason"] == "input_too_long"
        # by token ids it is known before it is asked
        assert len(too_long["attempts"]) == (name == "chats")
    flags = ["--systems", "student", "--adapter", "/nowhere", "--limit", len(rows)]
    flags += ["--test_file", ROOT / "example-data" / "heldout.jsonl", "--latency_rows", 2]
    python("evaluate.py", *flags, *by_ids, "--report_dir", tmp_path / "report")
    scored = read_jsonl(tmp_path / "report" / "predictions.jsonl")
    assert [row["student"]["response"] for row in scored] == expected


@pytest.mark.slow
def test_a_merged_copy_is_as_sure_as_the_adapter(dense, dense_evaluated, tmp_path):
    """One request at a time, where the adapter was asked with a batch."""
    base, adapter = dense
    flags = ["--systems", "student", "--student_model", base, "--adapter", adapter]
    flags += ["--test_file", ROOT / "example-data" / "heldout.jsonl", "--limit", ROWS]
    flags += ["--serve_adapter", "merged", "--dtype", "float32", "--max_num_seqs", 1]
    flags += ["--check_rows", 0, "--latency_rows", 1, "--report_dir", tmp_path / "report"]
    python("evaluate.py", *flags)
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["served_as"] == "a merged copy"
    rows = read_jsonl(tmp_path / "report" / "predictions.jsonl")
    others = read_jsonl(adapter / "report" / "predictions.jsonl")
    assert confidences_of(rows) == pytest.approx(confidences_of(others), abs=ROUNDING)
    assert len(set(confidences_of(rows))) > ROWS / 2 and min(confidences_of(rows)) < 0.9


@pytest.mark.slow
def test_a_student_that_is_served_differently_from_peft_fails(dense):
    """Here by a flag that changes the model in vLLM alone, without a word from it."""
    base, adapter = dense
    flags = [
        "--systems",
        "student",
        "--student_model",
        base,
        "--adapter",
        adapter,
        "--limit",
        20,
        "--latency_rows",
        1,
    ]
    flags += [
        "--test_file",
        ROOT / "example-data" / "heldout.jsonl",
        "--report_dir",
        adapter / "other",
    ]
    flags += ["--serve_adapter", "lora"]  # asked for, so that no merged copy follows
    result = python(
        "evaluate.py",
        *flags,
        "--dtype",
        "float32",
        "--hf_overrides",
        '{"rms_norm_eps": 9.0}',
        code=1,
    )
    assert re.search(
        r"served as LoRA in vLLM gives other tokens than PEFT on . of 8 rows", result.stderr
    )
    assert result.stdout == "" and not (adapter / "other").exists()
    # vLLM's own error
    result = python("evaluate.py", *flags, "--hf_overrides", '{"rms_norm_eps": "x"}', code=2)
    assert "evaluate.py: student failed: the engine cannot start: " in result.stderr
    assert "rms_norm_eps" in result.stderr.splitlines()[-1]
