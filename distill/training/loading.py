"""How the student gets onto its devices.

Which GPUs a process sees, and which process holds the weights.

one process  sees one GPU, as TRL wants it, and reads the weights straight to it
DDP          so does each process with the GPU that its launcher gave it
FSDP         rank 0 alone reads the weights, into host memory, and accelerate sends them to the
             others as it shards them; the others, on the same node and on further ones, hold a
             student without weights until then
"""

import ctypes
import logging
import os

import torch
import yaml
from accelerate import init_empty_weights
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType, parse_flag_from_env, str_to_bool
from transformers import AutoConfig, AutoModelForCausalLM

from distill.system import TO_LAUNCH

log = logging.getLogger("train_sft_trl")
# In this one a wrapper names the file of accelerate's settings that processes are started with.
LAUNCH_CONFIG = "ACCELERATE_CONFIG"
M_MMAP_THRESHOLD = -3  # the number of this option of glibc's mallopt
LARGE_BLOCK = 2**20  # bytes; the student's large parameters and their shards are larger
ALL_GPUS = "train_trl_multi_gpu.sh and train_trl_fsdp.sh use all"


def choose_gpus(processes: int = 1) -> None:
    """Let a process that no launcher started see one GPU, and say so where there are several.

    `processes` is how many a launcher is about to start on this machine; above 1 nothing is hidden.
    To be called before anything initialises CUDA, which does not look at CUDA_VISIBLE_DEVICES
    again. Raises ValueError if there is no GPU, or more processes than GPUs.
    """
    visible = torch.cuda.device_count()  # asks NVML, which leaves CUDA uninitialised
    if 0 < visible < processes:
        raise ValueError(
            f"{processes} processes on this machine, but GPUs that are visible: {visible}; "
            "NUM_PROCESSES and CUDA_VISIBLE_DEVICES say how many"
        )
    launched = os.environ.get("LOCAL_RANK", "-1") != "-1"  # as accelerate tells
    if visible > 1 and processes == 1 and not launched:
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        os.environ["CUDA_VISIBLE_DEVICES"] = first
        log.warning(
            "%d GPUs are visible, one is used (CUDA_VISIBLE_DEVICES=%s); %s",
            visible,
            first,
            ALL_GPUS,
        )
    if not torch.cuda.is_available():
        raise ValueError("no GPU is visible; to train on a CPU add --use_cpu true --bf16 false")


def empty_model(config, dtype: torch.dtype | None = None):
    """The student without weights: parameters have a shape and a type, but no memory.

    Buffers are real. Buffers such as the frequencies of rotary embeddings are in no checkpoint, so
    accelerate keeps each rank's own.
    """
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()  # accelerate replaces each parameter, one that two modules share too
    return model


def fsdp_settings() -> dict[str, str]:
    """accelerate's settings of FSDP, named as in the environment of a launched process.

    Empty without FSDP. The process that checks before a launch reads them from the file that the
    launcher will read. Raises OSError or ValueError if there is no such file, or if accelerate
    cannot read it.
    """
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return {name: value for name, value in os.environ.items() if name.startswith("FSDP_")}
    path = os.environ.get(LAUNCH_CONFIG)
    if not path or TO_LAUNCH not in os.environ:
        return {}
    try:
        config = load_config_from_file(path)
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path}: not a configuration of accelerate; see accelerate_configs/fsdp.yaml"
        ) from error
    if config.distributed_type != DistributedType.FSDP:
        return {}
    return {name.upper(): str(value) for name, value in config.fsdp_config.items()}


def check_fsdp(
    settings: dict[str, str], save_only_model: bool, load_best_model_at_end: bool
) -> None:
    """Raise ValueError for `settings` of FSDP that would fail after the student was loaded.

    They would end the run, or save no adapter.
    """
    if settings.get("FSDP_VERSION") != "2":
        raise ValueError(
            "fsdp_version: LoRA on experts needs 2, as in accelerate_configs/fsdp.yaml"
        )
    if str_to_bool(settings.get("FSDP_ACTIVATION_CHECKPOINTING", "false")):
        raise ValueError(
            "fsdp_activation_checkpointing: true saves an empty adapter; "
            "use --gradient_checkpointing"
        )
    if settings.get("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT") != "FULL_STATE_DICT":
        raise ValueError("fsdp_state_dict_type: only FULL_STATE_DICT saves an adapter")
    if save_only_model and load_best_model_at_end:
        raise ValueError(
            "--save_only_model with --load_best_model_at_end: "
            "FSDP has nothing to load; leave one out"
        )


def check_types(model, dtype: torch.dtype) -> None:
    """Raise ValueError if transformers loads some parameters in another type than `dtype`.

    Only rank 0 loads them under FSDP, and what it sends would not fit the other ranks' parameters.
    """
    others = model._get_dtype_plan(dtype)
    if others:
        names = ", ".join(others)
        raise ValueError(
            f"{model.config.model_type}: {names} stay in float32, "
            "which FSDP cannot share out; use DDP"
        )


def return_freed_memory() -> None:
    """Have the C library return each large block of memory to the system as soon as it is freed.

    glibc begins so, but raises its threshold, up to 32 MiB, with each block that is freed. A rank
    on a CPU that receives the student and keeps a shard of each parameter would then keep the holes
    between its shards.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def load_student(
    model_name: str,
    dtype: torch.dtype,
    *,
    device: torch.device,
    rank: int,
    fsdp: bool,
    broadcast: bool,
    commit: str | None = None,
):
    """The student as process `rank` (over all nodes) needs it before it is trained on `device`.

    `fsdp` says that it will be sharded, and `broadcast` that accelerate takes the weights of all
    shards from rank 0 (fsdp_cpu_ram_efficient_loading). Without `broadcast` each rank of FSDP reads
    the whole student. `commit` is the one of a model on the hub that is loaded.
    """
    if broadcast:
        return_freed_memory()
    revision = commit or "main"
    if broadcast and rank > 0:
        return empty_model(AutoConfig.from_pretrained(model_name, revision=revision), dtype)
    if fsdp or device.type == "cpu":
        return AutoModelForCausalLM.from_pretrained(model_name, revision=revision, dtype=dtype)
    device_map = {"": device}
    return AutoModelForCausalLM.from_pretrained(
        model_name, revision=revision, dtype=dtype, device_map=device_map
    )


def allocate_trained(model) -> None:
    """Give the trained parameters of a student without weights memory.

    Rank 0's values come with the shards. accelerate finds the optimizer's parameters by their
    addresses again, and all that have no memory are at address 0: the optimizer of such a rank
    would train none of them, and say nothing.
    """
    for module in model.modules():
        if any(p.requires_grad and p.is_meta for p in module.parameters(recurse=False)):
            module.to_empty(device="cpu", recurse=False)
