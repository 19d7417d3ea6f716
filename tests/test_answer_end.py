"""A student learns to end its answers where generation stops, or step 2 says why not; and what
merging makes of it.
"""

import json

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from distill.adapter import plan_serving
from distill.answer_end import check_answer_end, set_eos_token, stop_at_eos, stop_tokens
from helpers import ROOT, fails, in_fork, last_json, python
from small_tokenizers import byte_tokenizer

CHAT = (
    '{"messages": [{"role": "user", "content": "hola"}, {"role": "assistant", "content": "es"}]}\n'
)
ON_A_CPU = ["--use_cpu", "true", "--bf16", "false"]
INVALID = {"do_sample": False, "temperature": 0.9, "top_p": 0.6}


@pytest.fixture
def tokenizer():
    """Its template ends answers with <|im_end|>, and its eos is <|endoftext|>, as in many a base
    model.
    """
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    return tokenizer


def test_stops_are_those_of_vllm(tokenizer):
    im_end, end = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert stop_tokens(None, tokenizer) == {end}
    assert stop_tokens(im_end, tokenizer) == {end, im_end}
    assert stop_tokens([im_end, 7], tokenizer) == {end, im_end, 7}


def test_an_answer_that_ends_elsewhere_is_refused(tokenizer):
    im_end, end, letter = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>", "e"])
    check_answer_end("student", tokenizer, {end, im_end}, im_end)
    with pytest.raises(ValueError) as refused:
        check_answer_end("student", tokenizer, {end}, im_end)
    said = "student: answers end with '<|im_end|>', but generation stops at '<|endoftext|>' only; "
    assert str(refused.value) == said + "add --eos_token '<|im_end|>'"
    with pytest.raises(ValueError, match="its chat template must end answers with a special token"):
        check_answer_end("student", tokenizer, {end}, letter)
    with pytest.raises(ValueError, match="stops at no token only"):
        check_answer_end("student", tokenizer, set(), im_end)
    with pytest.raises(
        ValueError, match="--eos_token nope: no special token of the student's tokenizer"
    ):
        set_eos_token(tokenizer, "nope")
    set_eos_token(tokenizer, "<|im_end|>")
    assert tokenizer.eos_token_id == im_end


def test_a_merged_model_stops_at_its_tokenizers_eos(tokenizer):
    end = tokenizer.eos_token_id
    generation = GenerationConfig(eos_token_id=end)
    stop_at_eos(generation, tokenizer)
    assert generation.eos_token_id == end  # as it was
    set_eos_token(tokenizer, "<|im_end|>")
    stop_at_eos(generation, tokenizer)
    assert generation.eos_token_id == sorted([end, tokenizer.eos_token_id])


def served_with(adapter, base):
    """The tokenizer with which vLLM serves an adapter in step 3.

    It is its eos at which vLLM stops.
    """
    return plan_serving("lora", str(adapter), str(base), [], 1)[0].engine_settings["tokenizer"]


def test_a_student_whose_eos_is_another(tokenizer, tmp_path):
    """Refused with the remedy, which works.

    Found by a relative path, and merged from another directory.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "models" / "base: one")
    tokenizer.save_pretrained(tmp_path / "models" / "base: one")
    (tmp_path / "train.jsonl").write_text(CHAT * 4)
    files = ["--train_file", tmp_path / "train.jsonl", "--output_dir", tmp_path / "out", *ON_A_CPU]
    said = fails("train_sft_trl.py", "--model_name", tmp_path / "models" / "base: one", *files)
    assert "generation stops at '<|endoftext|>' only; add --eos_token '<|im_end|>'" in said
    assert not (tmp_path / "out").exists()

    settings = {"eos_token_id": tokenizer.eos_token_id, **INVALID}
    (tmp_path / "models" / "base: one" / "generation_config.json").write_text(json.dumps(settings))
    flags = ["--model_name", "models/base: one", "--eos_token", "<|im_end|>", *files]
    trained = in_fork(ROOT / "train_sft_trl.py", *flags, cwd=tmp_path)
    assert "4 rows are fewer than 2,000: to come near 150 optimizer steps, 10" in trained.stderr
    assert last_json(trained)["steps"] == 40  # with a batch of 1
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["num_train_epochs"], run["per_device_train_batch_size"]) == ("10.0", "1")
    assert '"num_train_epochs": "10.0"' in (tmp_path / "out" / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<|im_end|>"
    assert served_with(tmp_path / "out", tmp_path / "models" / "base: one") == str(tmp_path / "out")
    merging = ["--adapter", tmp_path / "out", "--output_dir", tmp_path / "merged"]
    python("merge_adapter.py", *merging)  # although generation_config.json is invalid
    merged = GenerationConfig.from_pretrained(tmp_path / "merged")
    im_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (
        im_end in merged.eos_token_id
        and AutoTokenizer.from_pretrained(tmp_path / "merged").eos_token_id == im_end
    )

    (tmp_path / "models" / "base: one").rename(tmp_path / "models" / "moved")
    merging[-1] = tmp_path / "again"
    said = fails("merge_adapter.py", *merging)
    assert (
        "base: one: no model here (config.json is missing)" in said
        and "--base_model says where" in said
    )
