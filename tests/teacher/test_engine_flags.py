"""vLLM's flags as the scripts read them before vLLM is imported."""

import pytest

from distill.teacher.engine_flags import further_gpus, given, refuse_ours
from helpers import fails


def test_the_last_one_counts_in_whatever_spelling():
    flags = ["--max-model-len", "8", "--max_model_len=9", "-pp", "2", "--data-parallel-size", "3"]
    assert given(flags, "max_model_len") == "9"
    assert given(flags, "dtype") is None
    assert further_gpus(flags) == 6
    refuse_ours(flags, "--model_name")


@pytest.mark.parametrize("flags", [["--model", "a"], ["--model=a"], ["-tp", "8"], ["-tp=8"]])
def test_what_ours_take_the_place_of_is_refused(flags):
    wanted = "^(--model: is --model_name|-tp: is --tensor_parallel_size) here$"
    with pytest.raises(ValueError, match=wanted):
        refuse_ours(flags, "--model_name")


@pytest.mark.parametrize("flags", [["--config", "vllm.yaml"], ["--config=vllm.yaml"]])
def test_a_file_of_flags_is_refused(flags):
    """Ours would be put in the place of some of its keys, and others of them not be seen."""
    with pytest.raises(ValueError, match="^--config: .*; give them as flags$"):
        refuse_ours(flags, "--model_name")


SCRIPTS = {
    "create_data.py": ["--dry_run"],
    "predict.py": ["--input_file", "in.txt", "--output_file", "out.csv"],
    "evaluate.py": [],
}


@pytest.mark.parametrize(("script", "flags"), SCRIPTS.items())
def test_every_script_refuses_another_name_for_its_model(script, flags):
    assert f"{script}: --model: is --" in fails(script, *flags, "--model", "team/other")
