"""A trained adapter gives the same tokens wherever it is loaded: PEFT, merged, in vLLM merged, in vLLM as LoRA."""

import json
import re
import types

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from conftest import ROOT, STUDENT, fails, last_json, python, run
from task import prompt_ids

ROWS = 40

# One process for each vLLM engine: it answers with the token ids that greedy decoding gives
ASK_VLLM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from create_data import Stream, engine_arguments, start_engine

if __name__ == "__main__":
    model, adapter, prompts = sys.argv[2], sys.argv[3], json.loads(sys.stdin.read())
    settings, lora = {}, None
    if adapter:
        from vllm.lora.request import LoRARequest
        settings, lora = {"enable_lora": True, "max_lora_rank": 16}, LoRARequest("student", 1, adapter)
    engine = start_engine(engine_arguments(model, ["--dtype", "float32"], **settings))
    sampling = {"temperature": 0.0, "max_tokens": 12}
    outputs = dict(Stream(engine).run((i, ids, sampling, lora) for i, ids in enumerate(prompts)))
    engine.engine_core.shutdown()
    print(json.dumps([list(outputs[i].outputs[0].token_ids) for i in range(len(prompts))]))
"""


def ask_vllm(model, adapter, prompts):
    import subprocess
    import sys

    command = [sys.executable, "-c", ASK_VLLM, str(ROOT), str(model), str(adapter or "")]
    result = subprocess.run(command, input=json.dumps(prompts), capture_output=True, text=True, cwd="/")
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


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
    lines = (ROOT / "example-data" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()[: 5 * ROWS : 5]
    return [prompt_ids(tokenizer, json.loads(line)["messages"][:-1]) for line in lines]


@pytest.mark.slow
def test_expert_adapter_merged_gives_the_same_tokens(distilled, prompts, tmp_path):
    adapter, merged = distilled[0], tmp_path / "merged"
    flags = ["--adapter", adapter, "--output_dir", merged, "--dtype", "float32"]
    assert last_json(python("merge_adapter.py", *flags))["output_dir"] == str(merged)
    assert "exists already" in fails("merge_adapter.py", *flags)
    base = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
    expected = greedy(PeftModel.from_pretrained(base, adapter), prompts)
    assert len({tuple(answer) for answer in expected}) > 5  # it answers, and not always the same
    assert greedy(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), prompts) == expected
    assert ask_vllm(merged, None, prompts) == expected
    assert AutoTokenizer.from_pretrained(merged).chat_template == AutoTokenizer.from_pretrained(STUDENT).chat_template


@pytest.mark.slow
def test_vllms_loader_reads_the_expert_adapter_exactly(distilled):
    """Its kernel needs a GPU, its loader does not: the deltas that it would apply are PEFT's."""
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.lora.peft_helper import PEFTHelper

    adapter, experts, width = str(distilled[0]), 8, 128
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32), adapter)
    helper = PEFTHelper.from_local_dir(adapter, 8192)
    modules = {"q_proj", "k_proj", "v_proj", "o_proj", "experts"}
    lora = LoRAModel.from_local_checkpoint(adapter, modules, helper, lora_model_id=1, device="cpu", dtype=torch.float32)
    for weights in lora.loras.values():
        weights.optimize()
    qwen = types.SimpleNamespace(config=types.SimpleNamespace(architectures=["Qwen3MoeForCausalLM"]))
    manager = types.SimpleNamespace(model=qwen, _get_lora_layer_weights=lambda model, name: model.get_lora(name))
    module = types.SimpleNamespace(local_num_experts=experts, global_num_experts=experts, ep_rank=0)
    for layer in range(2):
        wrapper = peft.base_model.model.model.layers[layer].mlp.experts
        found = {wrapper.parameter_name: wrapper, wrapper.base_layer.parameter_name: wrapper.base_layer}
        gate_up = found["gate_up_proj"].get_delta_weight("default")
        down = found["down_proj"].get_delta_weight("default")
        name = f"model.layers.{layer}.mlp.experts"
        LoRAModelManager._convert_3d_to_2d_moe_lora(manager, lora, module, name)
        read = lora.get_lora(name)
        gate, read_down, up = (torch.bmm(b, a) for a, b in zip(read.lora_a, read.lora_b, strict=True))
        for ours, theirs in ((gate, gate_up[:, :width]), (up, gate_up[:, width:]), (read_down, down)):
            assert theirs.abs().max() > 1e-3
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        for projection in "qkvo":
            layer_name = f"layers.{layer}.self_attn.{projection}_proj"
            weights = lora.get_lora(f"model.{layer_name}")
            theirs = peft.base_model.model.model.get_submodule(layer_name).get_delta_weight("default")
            torch.testing.assert_close(weights.lora_b @ weights.lora_a, theirs, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_dense_student_is_served_by_vllm_as_it_is(labelled, prompts, tmp_path):
    """A dense student by --model_name alone, in the architecture of Qwen2.5; vLLM loads its adapter itself."""
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # of 32; vLLM on a CPU has no smaller head
        num_key_value_heads=1,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    dense, adapter = tmp_path / "dense", tmp_path / "adapter"
    Qwen2ForCausalLM(config).save_pretrained(dense)
    tokenizer.save_pretrained(dense)
    flags = [dense, adapter, labelled[0], "--config", ROOT / "configs" / "tiny.yaml", "--max_steps", 40]
    result = run("bash", ROOT / "train_trl.sh", *flags, "--lora_rank", 16, "--logging_steps", 1)
    assert re.search(r"LoRA on .*2 gate_proj \(rank 16\).*2 down_proj", result.stderr)
    base = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    without = greedy(base, prompts)
    expected = greedy(PeftModel.from_pretrained(base, adapter), prompts)
    assert expected != without
    assert ask_vllm(dense, adapter, prompts) == expected
