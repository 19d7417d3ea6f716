"""How the student gets onto its devices: the GPUs that a process sees, and who holds the weights
under FSDP.
"""

import os

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from peft import get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

from distill.system import TO_LAUNCH
from distill.training.loading import (
    LAUNCH_CONFIG,
    allocate_trained,
    check_fsdp,
    check_types,
    choose_gpus,
    empty_model,
    fsdp_settings,
    load_student,
)
from distill.training.lora import lora_config
from helpers import PROGRAMS, ROOT, STUDENT, in_fork, last_json, launched, run

CONFIGS = ROOT / "accelerate_configs"
GPUS = 8
UUIDS = [f"GPU-{number:08d}" for number in range(GPUS)]


@pytest.fixture
def box(monkeypatch):
    """A box with 8 GPUs as far as PyTorch counts them, and no launcher."""
    monkeypatch.setattr(torch.cuda, "_is_compiled", lambda: True)
    monkeypatch.setattr(torch.cuda, "_raw_device_count_nvml", lambda: GPUS)
    monkeypatch.setattr(torch.cuda, "_raw_device_uuid_nvml", lambda: UUIDS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: torch.cuda.device_count() > 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "set, so that it is put back afterwards")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return monkeypatch


ONE_PROCESS = {
    "not set": (None, "0", 8),
    "two numbers": ("2,3", "2", 2),
    "spaces": (" 5 , 6", "5", 2),
    "two UUIDs": (f"{UUIDS[4]},{UUIDS[1]}", UUIDS[4], 2),
    "ends at the first invalid one": ("6,7,-1,5", "6", 2),
    "one": ("3", "3", None),
    "one UUID": (UUIDS[2], UUIDS[2], None),
    "one, then an invalid one": ("1,-1,2", "1,-1,2", None),
}


@pytest.mark.parametrize(("visible", "used", "counted"), ONE_PROCESS.values(), ids=ONE_PROCESS)
def test_one_process_sees_the_first_gpu_and_says_so(visible, used, counted, box, caplog):
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    choose_gpus()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == used and torch.cuda.device_count() == 1
    said = (
        [f"{counted} GPUs are visible, one is used (CUDA_VISIBLE_DEVICES={used})"]
        if counted
        else []
    )
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == said


@pytest.mark.parametrize("visible", ["", "-1", "-1,0", "8", "none"])
def test_no_visible_gpu_is_refused(visible, box):
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    with pytest.raises(ValueError, match="no GPU is visible; to train on a CPU add --use_cpu true"):
        choose_gpus()


def test_launched_processes_keep_what_they_see(box, caplog):
    choose_gpus(processes=8)  # the check before a launch
    box.setenv("LOCAL_RANK", "0")  # of several, or the only one
    choose_gpus()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ and not caplog.records


def test_more_processes_than_gpus_are_refused(box):
    with pytest.raises(
        ValueError, match="9 processes on this machine, but GPUs that are visible: 8"
    ):
        choose_gpus(processes=9)
    os.environ["CUDA_VISIBLE_DEVICES"] = "2,3"
    choose_gpus(processes=2)
    with pytest.raises(ValueError, match="GPUs that are visible: 2; NUM_PROCESSES"):
        choose_gpus(processes=3)


@pytest.mark.parametrize("tied", [True, False])
def test_other_ranks_hold_the_student_without_weights(tied, tmp_path):
    """What accelerate needs of them: names, shapes and types of rank 0's, tied as there, and real
    buffers.
    """
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(**sizes, vocab_size=99, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    cpu = torch.device("cpu")
    name = str(tmp_path)
    first = load_student(name, torch.bfloat16, device=cpu, rank=0, fsdp=True, broadcast=True)
    other = load_student(name, torch.bfloat16, device=cpu, rank=1, fsdp=True, broadcast=True)
    shapes = [
        {name: (p.shape, p.dtype) for name, p in model.named_parameters()}
        for model in (first, other)
    ]
    assert shapes[0] == shapes[1] and ("lm_head.weight" in shapes[0]) != tied
    assert not any(p.is_meta for p in first.parameters()) and all(
        p.is_meta for p in other.parameters()
    )
    assert (other.lm_head.weight is other.model.embed_tokens.weight) == tied
    own = dict(other.named_buffers())
    assert own and own.keys() == dict(first.named_buffers()).keys()
    assert all(torch.equal(buffer, own[name]) for name, buffer in first.named_buffers())
    # every rank reads
    alone = load_student(name, torch.bfloat16, device=cpu, rank=1, fsdp=True, broadcast=False)
    assert not any(p.is_meta for p in alone.parameters())
    # without FSDP the weights go straight to the device; meta takes the place of a GPU
    meta = torch.device("meta")
    placed = load_student(name, torch.bfloat16, device=meta, rank=1, fsdp=False, broadcast=False)
    assert all(p.is_meta for p in placed.parameters())


def test_a_student_of_several_types_is_refused_for_fsdp():
    """As some architectures keep their routers in fp32.

    Here Llama's norms, for no small model of such is at hand.
    """
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = empty_model(LlamaConfig(**sizes, vocab_size=99))
    check_types(model, torch.bfloat16)
    model._keep_in_fp32_modules_strict = {"input_layernorm"}
    check_types(model, torch.float32)
    with pytest.raises(
        ValueError, match="llama: input_layernorm stay in float32, which FSDP cannot share out; use"
    ):
        check_types(model, torch.bfloat16)


@pytest.fixture
def before_a_launch(monkeypatch):
    """As in the one process that checks before train_trl_fsdp.sh starts the others."""
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    monkeypatch.setenv(TO_LAUNCH, "8")
    monkeypatch.setenv(LAUNCH_CONFIG, str(CONFIGS / "fsdp.yaml"))
    return monkeypatch


def test_settings_of_fsdp_are_those_that_accelerate_gives_to_its_processes(before_a_launch):
    read = fsdp_settings()
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(CONFIGS / "fsdp.yaml"), "script.py"]
    )
    given = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    before_a_launch.setenv("ACCELERATE_USE_FSDP", "true")
    for name, value in given.items():
        before_a_launch.setenv(name, value)
    launched = fsdp_settings()
    assert len(read) == 7
    assert {name: launched[name].lower() for name in read} == {
        name: value.lower() for name, value in read.items()
    }
    for settings in (read, launched):
        check_fsdp(settings, save_only_model=True, load_best_model_at_end=False)


def test_no_settings_of_fsdp_without_it(before_a_launch):
    before_a_launch.setenv(LAUNCH_CONFIG, str(CONFIGS / "ddp.yaml"))
    assert fsdp_settings() == {}
    before_a_launch.setenv(LAUNCH_CONFIG, str(CONFIGS / "fsdp.yaml"))
    before_a_launch.delenv(TO_LAUNCH)
    assert fsdp_settings() == {}


@pytest.mark.parametrize("text", ["- 1", "a: [", "", "nonsense: 1"])
def test_what_accelerate_cannot_read_is_refused(text, before_a_launch, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    before_a_launch.setenv(LAUNCH_CONFIG, str(path))
    with pytest.raises(ValueError):
        fsdp_settings()


FSDP_REFUSED = {
    "FSDP_VERSION": ("1", "fsdp_version: LoRA on experts needs 2"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "true",
        "fsdp_activation_checkpointing: true saves an empty adapter",
    ),
    "FSDP_STATE_DICT_TYPE": (
        "SHARDED_STATE_DICT",
        "fsdp_state_dict_type: only FULL_STATE_DICT saves an adapter",
    ),
}


@pytest.mark.parametrize("name", FSDP_REFUSED)
def test_settings_of_fsdp_that_would_save_nothing_are_refused(name, before_a_launch):
    value, message = FSDP_REFUSED[name]
    with pytest.raises(ValueError, match=message):
        check_fsdp(
            {**fsdp_settings(), name: value}, save_only_model=False, load_best_model_at_end=False
        )


def test_trained_parameters_of_other_ranks_have_addresses_of_their_own():
    """By which accelerate finds them in the optimizer.

    A rank where they had none would not train.
    """
    sizes = {
        "hidden_size": 32,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 99,
    }
    empty = empty_model(Qwen3MoeConfig(**sizes, **experts), torch.bfloat16)
    model = get_peft_model(empty, lora_config(empty, 8, 8))
    allocate_trained(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len({p.data_ptr() for p in trained} - {0}) == len(trained) == 24
    assert {p.dtype for p in trained} == {torch.float32}
    assert all(p.is_meta for p in model.parameters() if not p.requires_grad)


def test_rank_0_alone_holds_the_student_on_the_host():
    """Anonymous memory until training begins, in copies of the student, in fp32 on two gloo
    processes.
    """
    flags = ["--processes", 2, "--layers", 14]
    found = last_json(in_fork(ROOT / "benchmarks/host_memory.py", *flags))["host_memory"]
    first, other = found["ranks"]
    assert found["student"] > 200 * 2**20
    assert 0.5 < first["copies"] <= 1.1 and other["copies"] <= 0.1, found


def on_paper(wrapper, gpus, tmp_path, train_file, *more, code=0, **environment):
    """A wrapper on a box with GPUs on paper and a launcher that only says that it was called."""
    flags = [STUDENT, tmp_path / "out", train_file, "--check_only", "true", *more]
    script = str(ROOT / "tests" / "fake_gpus.py")
    own = {**os.environ, "TRAIN_SCRIPT": script, "FAKE_GPUS": str(gpus), **environment}
    [file, *flags], environment = launched(["bash", ROOT / wrapper, *flags], own)
    if file == str(ROOT / "launch.py"):
        file = PROGRAMS / "launch_on_paper.py"
    return in_fork(file, *flags, environment=environment, code=code)


@pytest.mark.slow
def test_train_trl_uses_one_gpu_of_eight(pair, train_file, tmp_path):
    """TRL's trainer is made on a student without weights; with more than one GPU it refuses."""
    result = on_paper("train_trl.sh", 8, tmp_path, train_file)
    lines = [line for line in result.stderr.splitlines() if "GPU" in line]
    assert len(lines) == 1 and lines[0].startswith(
        "8 GPUs are visible, one is used (CUDA_VISIBLE_DEVICES=0); train_"
    )
    assert "launched" not in result.stdout


@pytest.mark.slow
def test_launch_on_too_few_gpus_is_refused_in_one_line(pair, train_file, tmp_path):
    result = on_paper(
        "train_trl_fsdp.sh", 4, tmp_path, train_file, code=2, NUM_PROCESSES="16", NUM_MACHINES="2"
    )
    assert result.stderr.startswith(
        "train_sft_trl.py: 8 processes on this machine, but GPUs that are visible: 4;"
    )
    assert len(result.stderr.splitlines()) == 1 and result.stdout == ""


@pytest.mark.slow
def test_what_fsdp_alone_refuses_is_refused_before_the_launch(pair, train_file, tmp_path):
    best = [
        "--save_only_model",
        "true",
        "--load_best_model_at_end",
        "true",
        "--eval_fraction",
        "0.1",
    ]
    best += ["--eval_strategy", "epoch"]
    result = on_paper(
        "train_trl_fsdp.sh", 8, tmp_path, train_file, *best, code=2, NUM_PROCESSES="8"
    )
    assert result.stderr.startswith(
        "train_sft_trl.py: --save_only_model with --load_best_model_at_end: FSDP has"
    )
    assert len(result.stderr.splitlines()) == 1 and result.stdout == ""
    # DDP does it, here on two machines with as many GPUs as it takes
    result = on_paper(
        "train_trl_multi_gpu.sh",
        8,
        tmp_path,
        train_file,
        *best,
        NUM_PROCESSES="16",
        NUM_MACHINES="2",
    )
    assert result.stdout.startswith(f"launched 16 times {ROOT}/tests/fake_gpus.py")
    assert "GPUs are visible" not in result.stderr


@pytest.mark.parametrize(
    ("processes", "machines"), [("3", "2"), ("0", "1"), ("8", "0"), ("two", "1"), ("all", "x")]
)
def test_processes_that_machines_cannot_share_are_refused(processes, machines, tmp_path):
    numbers = {"NUM_PROCESSES": processes, "NUM_MACHINES": machines}
    result = run("bash", ROOT / "train_trl.sh", env={**os.environ, **numbers}, code=2)
    said = (
        f"train_trl.sh: NUM_PROCESSES={processes} cannot be shared out equally to "
        f"NUM_MACHINES={machines}"
    )
    assert result.stderr.splitlines() == [said]
