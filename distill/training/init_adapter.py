"""A new run that starts from an adapter's weights (--init_adapter) instead of random ones.

Optimizer, schedule, steps and figures are the new run's own. The adapter must fit what the flags
ask for, and is only read.
"""

import json
from copy import deepcopy
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from distill.adapter_files import adapter_identity, recorded_base, weights_identity
from distill.training.loading import empty_model
from distill.training.lock import same_everywhere

WEIGHTS = "adapter_model.safetensors"
# of adapter_config.json, what decides which weights there are and what they do
COMPARED = {
    "r": "rank",
    "lora_alpha": "alpha",
    "rank_pattern": "ranks of experts",
    "alpha_pattern": "alphas of experts",
    "target_modules": "layers",
    "target_parameters": "experts",
    "modules_to_save": "other trained modules",
    "bias": "bias",
    "use_rslora": "rsLoRA",
    "use_dora": "DoRA",
}


def check_init_adapter(script, output_dir: Path, config, lora: LoraConfig) -> None:
    """Refuse an adapter from which the run cannot start, and note its identity in `script`.

    `script` is ScriptArguments, `config` the student's and `lora` what the flags ask for. All
    processes call it. Raises ValueError or OSError in one line that names all that differs.
    """
    adapter = Path(script.init_adapter)
    if adapter.resolve().is_relative_to(output_dir.resolve()):
        raise ValueError(
            f"--init_adapter {adapter}: lies in --output_dir, where the new run writes; "
            "choose another --output_dir"
        )
    base = recorded_base(script.init_adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    found = base_differences(adapter, base.name, script.model_name, script.commit)
    found += lora_differences(settings, lora)
    if not found:  # otherwise they differ in any case
        found = weight_differences(shapes_in_file(adapter), shapes_of(config, lora))
    if found:
        raise ValueError(
            f"--init_adapter {adapter}: does not fit this run: {'; '.join(found)}; "
            "pass the flags that it was trained with"
        )
    script.init_adapter_identity = same_everywhere(adapter_identity(adapter), str(adapter))


def base_differences(adapter: Path, base: str, model_name: str, commit: str | None) -> list[str]:
    """In words, how an adapter's base differs from the student; by name, as step 3 compares them.

    The commit of a student on the hub, or what tells the weights of another, is in run.json.
    """
    if Path(base).name != Path(model_name).name:
        return [f"base {base}, here {model_name}"]
    recorded = adapter / "run.json"
    run = json.loads(recorded.read_text()) if recorded.is_file() else {}
    trained_on = run.get("commit")
    if trained_on and commit and trained_on != commit:
        return [f"commit {trained_on} of {base}, here {commit}"]
    weights = run.get("weights")
    if weights and weights_identity(model_name) not in (None, weights):
        return [f"other weights in {base} than it has now"]
    return []


def lora_differences(settings: dict, lora: LoraConfig) -> list[str]:
    """In words, how an adapter's ranks and targets differ from those that the flags ask for."""
    asked = lora.to_dict()
    found = []
    for key, name in COMPARED.items():
        before = comparable(settings.get(key))
        now = comparable(asked.get(key))
        if before != now:
            found.append(f"{name} {said(before)}, here {said(now)}")
    return found


def comparable(value):
    """A setting of LoRA without what makes no difference: an order of names, a kind of nothing."""
    if isinstance(value, set | list | tuple):
        value = sorted(value)
    return value or None


def said(value) -> str:
    """A setting of LoRA on one line; of the patterns of experts the numbers alone."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return "none" if value is None else str(value)


def shapes_in_file(adapter: Path) -> dict[str, list[int]]:
    """The shape of each weight of an adapter; raises ValueError for a torn file."""
    path = adapter / WEIGHTS
    shapes = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            for name in names:
                shapes[name] = list(file.get_slice(name).get_shape())
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"--init_adapter {path}: cannot be read ({error})") from None
    return shapes


def shapes_of(config, lora: LoraConfig) -> dict[str, list[int]]:
    """The shape of each weight that LoRA gets on a student, by the names in an adapter's file."""
    with torch.device("meta"):
        model = get_peft_model(empty_model(config), deepcopy(lora), low_cpu_mem_usage=True)
    shapes = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            shapes[name.replace(".default.", ".")] = list(parameter.shape)
    return shapes


def weight_differences(before: dict, now: dict) -> list[str]:
    """In words, the first weight that is missing, too many or of another shape."""
    for name in sorted(set(before) | set(now)):
        if before.get(name) != now.get(name):
            return [f"{name} {said(before.get(name))}, here {said(now.get(name))}"]
    return []


def load_weights(model, adapter: str) -> None:
    """Put an adapter's weights, which have been checked, in the place of the random ones."""
    set_peft_model_state_dict(model, load_file(Path(adapter) / WEIGHTS))
