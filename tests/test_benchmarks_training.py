"""benchmarks/training.py trains what its flags say."""

import sys

from helpers import ROOT


def test_the_benchmark_trains_what_its_flags_say(small, monkeypatch, tmp_path):
    """benchmarks/training.py once took --lora_target and --lora_dropout without a word, and did not
    use them.
    """
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import training

    monkeypatch.setattr(sys, "argv", sys.argv)  # which it changes
    flags = ["--model_name", str(small / "base"), "--train_file", str(small / "train.jsonl")]
    flags += [
        "--use_cpu",
        "true",
        "--bf16",
        "false",
        "--lora_target",
        "q_proj",
        "--lora_dropout",
        "0.25",
    ]
    _, _, _, lora, _ = training.parsed(flags, str(tmp_path))
    assert lora.target_modules == {"q_proj"}
    assert lora.lora_dropout == 0.25
