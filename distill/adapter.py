"""The student's adapter in vLLM.

How vLLM is given it, whether vLLM's tokens are PEFT's, and a copy with it merged in.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from distill.adapter_files import adapter_identity
from distill.cli import one_line
from distill.progress import bar
from distill.revisions import resolve
from distill.server_settings import greedy_settings
from distill.teacher.engine import engine_arguments

log = logging.getLogger("evaluate")
LORA = "LoRA in vLLM"
MERGED = "a merged copy"
MAX_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values of max_lora_rank that vLLM takes
# How far below the best token another one may be, at most, in nats;
# in step 3's check with PEFT too.
TIE = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}


@dataclass(frozen=True)
class Serving:
    """One way to give vLLM the student's adapter."""

    served_as: str  # LORA or MERGED, as the report says it
    engine_settings: dict  # vLLM's, for LORA
    copy_dtype: str = ""  # of the weights of a merged copy
    copy_bytes: int = 0  # what its weights take on disk
    instead_of: str = ""  # why another way was given up for this one


def plan_serving(
    choice: str,
    adapter: str,
    student_model: str,
    engine_flags: list[str],
    tensor_parallel_size: int,
    commit: str | None = None,
) -> list[Serving]:
    """The ways to serve the adapter under --serve_adapter `choice`, in their order.

    `auto` is LoRA in vLLM and, should that fail, a merged copy. Where vLLM cannot serve it (a rank
    beyond its largest), and on a CPU, where a request to the copy takes a fraction of the time, the
    copy is the only way. Raises ValueError for a student without a config and for an explicit
    `lora` with such a rank.
    """
    from transformers import AutoConfig
    from vllm.platforms import current_platform

    try:
        base = AutoConfig.from_pretrained(student_model, revision=commit or "main")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{student_model}: no config that transformers can load ({one_line(error)})"
        ) from None
    config = json.loads((Path(adapter) / "adapter_config.json").read_text("utf-8"))
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    max_lora_rank = next((allowed for allowed in MAX_RANKS if allowed >= rank), None)
    if choice == "lora" and max_lora_rank is None:
        raise ValueError(
            f"{adapter}: rank {rank} is beyond vLLM's {MAX_RANKS[-1]}; pass --serve_adapter merged"
        )

    has_experts = bool(config.get("target_parameters"))
    lora_settings = {
        "enable_lora": True,
        "max_lora_rank": max_lora_rank,
        "enable_mixed_moe_lora_format": has_experts,
    }
    if (Path(adapter) / "tokenizer_config.json").is_file():
        # whose eos may be another than the base's (--eos_token of step 2)
        lora_settings["tokenizer"] = adapter
    lora = Serving(LORA, lora_settings)
    if choice == "lora":
        return [lora]
    settings = {"tensor_parallel_size": tensor_parallel_size, "revision": commit}
    served_in = engine_arguments(student_model, engine_flags, **settings).dtype
    copy_dtype = "float32" if served_in == "float32" else "bfloat16"
    merged = Serving(MERGED, {}, copy_dtype, weight_bytes(base, copy_dtype))
    if choice == "merged" or current_platform.is_cpu() or max_lora_rank is None:
        return [merged]
    return [lora, merged]


def weight_bytes(config, dtype: str) -> int:
    """Bytes of a model's weights in `dtype`, from its transformers config alone.

    Nothing is loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters * getattr(torch, dtype).itemsize


def check_room(folder: Path, needed: int, flag: str = "--report_dir") -> None:
    """Refuse a merged copy for which the disk of `folder` has too little room.

    It takes `needed` bytes, and `flag` chooses the disk. Raises ValueError, in one line.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder}: a merged copy of the student needs {gib(needed)} there "
            f"and {gib(free)} are free; choose a {flag} on another disk"
        )


def check_plan(
    ways: list[Serving],
    folder: Path,
    script: str = "evaluate.py",
    flag: str = "--report_dir",
) -> None:
    """Raise ValueError if there is no room in `folder` for the copy that is served.

    Warn if it is a fallback. `flag` of `script` chooses the disk.
    """
    if ways[-1].served_as != MERGED:
        return
    try:
        check_room(folder, ways[-1].copy_bytes, flag)
    except ValueError as error:
        if len(ways) == 1:
            raise
        log.warning("%s: should vLLM fail to serve the adapter, this will end: %s", script, error)


def gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def compare_with_peft(
    student_model: str,
    adapter: str,
    rows: list[tuple[list[int], list[int]]],
    dtype: str,
    revision: str | None = None,
) -> dict:
    """How far the served tokens of (prompt, tokens) rows are from PEFT's greedy ones.

    The distance is in log-probability (nats). Each token is judged by PEFT's own distribution
    after the tokens before it: 0 where it is PEFT's choice, or exactly as good. `differ` are
    the rows that are further away than a tie, `ties` those where PEFT chooses another token in
    a tie.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    how = {"revision": resolve(student_model, revision) or "main", "dtype": getattr(torch, dtype)}
    if torch.cuda.is_available():
        how["device_map"] = "auto"
    base = AutoModelForCausalLM.from_pretrained(student_model, **how)
    model = PeftModel.from_pretrained(base, adapter).eval()
    gaps = []
    ties = 0
    with torch.inference_mode():
        for prompt, served in bar(rows, later=True, desc="comparing with PEFT", unit="row"):
            logits = model(torch.tensor([prompt + served], device=model.device)).logits[
                0, len(prompt) - 1 : -1
            ]
            found = logits.float().log_softmax(-1)
            chosen = found.gather(-1, torch.tensor(served, device=found.device)[:, None])[:, 0]
            gaps.append(float((found.max(-1).values - chosen).max()))
            its_own = found.argmax(-1).tolist()  # of two that are equal the first, as in generate()
            if its_own != served and gaps[-1] <= TIE[dtype]:
                ties += 1
    differ = sum(gap > TIE[dtype] for gap in gaps)
    tokens = sum(len(served) for _, served in rows)
    found = {"rows": len(rows), "tokens": tokens, "dtype": dtype, "largest_gap": max(gaps)}
    return {**found, "differ": differ, "ties": ties}


def disagreement(check: dict) -> str:
    """What compare_with_peft() found, if it is more than a tie.

    Empty if the served tokens are PEFT's.
    """
    if not check["differ"]:
        return ""
    where = (
        f"{check['differ']} of {check['rows']} rows "
        f"({check['dtype']}, up to {check['largest_gap']:.2f} nats)"
    )
    return f"gives other tokens than PEFT on {where}"


def merge(
    adapter: str | Path,
    output_dir: str | Path,
    dtype: str = "bfloat16",
    base: str = "",
    revision: str | None = None,
) -> None:
    """Merge the adapter into its base and save model and tokenizer.

    Fused experts are written expert by expert. `base` at `revision` takes the place of what the
    adapter was trained on. Raises ValueError or OSError where the base cannot be loaded or saved.
    What is then half written is for the caller's Staging to remove.
    """
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from distill.answer_end import stop_at_eos

    before = adapter_identity(adapter)
    if not base:
        trained_on = PeftConfig.from_pretrained(adapter)
        base = trained_on.base_model_name_or_path
        revision = trained_on.revision
    model = AutoModelForCausalLM.from_pretrained(
        base, revision=revision or "main", dtype=getattr(torch, dtype)
    )
    # merging needs host memory alone; without a device PEFT would start CUDA in this process
    model = PeftModel.from_pretrained(model, adapter, torch_device="cpu")
    model = model.merge_and_unload(progressbar=True)  # which appears if it takes long
    model.config.use_cache = True
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    if adapter_identity(adapter) != before:  # step 2 has written another one in its place
        raise ValueError(
            f"{adapter}: has changed while it was read; merge it when its training is at its end"
        )
    model.generation_config = greedy_settings(model.generation_config)
    stop_at_eos(model.generation_config, tokenizer)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
