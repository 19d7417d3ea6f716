"""What is changed in TRL's trainer."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from distill.training.arguments import TrainArguments
from distill.training.lora import lora_config
from distill.training.trainer import LoraTrainer, exact_answers, row_of_each_token


def test_long_micro_batches_alone_are_checkpointed(qwen, tmp_path):
    """Each layer computes a checkpointed micro-batch a second time; the steps are the same.

    Also where the model was loaded, which leaves it in evaluation mode.
    """
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
        ).eval()
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
        assert all(module.training for module in trainer.model.modules())
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
