"""Room for a merged copy is checked before anything is loaded."""

import json
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distill.adapter import (
    LORA,
    MERGED,
    Serving,
    check_plan,
    check_room,
    plan_serving,
    weight_bytes,
)
from helpers import fails


def test_room_for_the_copy_is_checked(tmp_path, caplog):
    free = shutil.disk_usage(tmp_path).free
    check_room(tmp_path, 0)
    with pytest.raises(
        ValueError, match=r"needs \d+\.\d GiB there and \d+\.\d GiB are free; choose a --report_dir"
    ):
        check_room(tmp_path, free + 2**40)
    too_large = Serving(MERGED, {}, "bfloat16", free + 2**40)
    with pytest.raises(ValueError, match="a merged copy"):
        check_plan([too_large], tmp_path)
    lora = Serving(LORA, {}, "bfloat16", free + 2**40)
    check_plan([lora], tmp_path)
    assert caplog.text == ""
    check_plan([lora, too_large], tmp_path)  # which may never be needed
    assert "should vLLM fail to serve the adapter, this will end" in caplog.text


CONFIG = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2}
CONFIG = {**CONFIG, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.mark.parametrize("tied", [True, False])
def test_size_of_the_copy_is_that_of_its_weights(tied, tmp_path):
    config = LlamaConfig(**CONFIG, tie_word_embeddings=tied)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    written = (tmp_path / "model.safetensors").stat().st_size
    assert weight_bytes(config, "bfloat16") == pytest.approx(written, abs=8000)  # its header
    assert weight_bytes(config, "float32") == 2 * weight_bytes(config, "bfloat16")


def test_on_a_cpu_the_copy_is_served_unless_lora_is_asked_for(tmp_path):
    """A dense student's too; vLLM here is the build for CPUs."""
    LlamaConfig(**CONFIG).save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8}))
    for choice, served_as in (("auto", MERGED), ("merged", MERGED), ("lora", LORA)):
        ways = plan_serving(choice, str(tmp_path), str(tmp_path), [], 1)
        assert [way.served_as for way in ways] == [served_as]


def test_a_copy_without_room_is_refused_before_anything_is_loaded(tmp_path):
    """There are no weights that could be loaded."""
    LlamaConfig(**{**CONFIG, "hidden_size": 2**22, "intermediate_size": 2**24}).save_pretrained(
        tmp_path / "base"
    )
    (tmp_path / "adapter").mkdir()
    config = {"base_model_name_or_path": "base", "r": 8, "peft_type": "LORA"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    row = {
        "messages": [{"role": "user", "content": "hola"}, {"role": "assistant", "content": "es"}]
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    flags = [
        "--student_model",
        tmp_path / "base",
        "--adapter",
        tmp_path / "adapter",
        "--systems",
        "base,student",
    ]
    line = fails(
        "evaluate.py", *flags, "--test_file", tmp_path / "rows.jsonl", "--serve_adapter", "merged"
    )
    assert f"{tmp_path}/adapter/report/unfinished: a merged copy of the student needs" in line
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["adapter_config.json"]
