"""An engine that answers as the student: its adapter given to vLLM, or merged into a copy.

What step 3 measures and predict.py asks is started here, so that both are the same.
"""

import shutil

from distill.adapter import LORA, MERGED, Serving, merge
from distill.probes import check_probes
from distill.teacher.engine import engine_arguments, start_engine, stop_engine


def start_student(
    model: str,
    commit: str | None,
    adapter: str,
    serving: Serving | None,
    merged: str,
    engine_flags: list[str],
    **settings,
):
    """Start the engine of a base `model` (at `commit`, if it is on the hub) with its adapter.

    `serving` says how vLLM gets the adapter; None: the model is asked as it is. A merged copy goes
    to the directory `merged`, and is removed as soon as vLLM has read it. `settings` are further
    ones of the engine. Returns the engine, which the caller ends with stop_engine(), and vLLM's
    LoRARequest or None. Raises EngineFailed, and ValueError or OSError where the adapter cannot be
    merged or would be asked with other tokens than it was trained on.
    """
    settings["revision"] = commit
    lora_request = None
    served_as = serving.served_as if serving else None
    if served_as == LORA:
        from vllm.lora.request import LoRARequest

        settings.update(serving.engine_settings)
        is_3d = serving.engine_settings["enable_mixed_moe_lora_format"]
        lora_request = LoRARequest("student", 1, adapter, is_3d_lora_weight=is_3d)
    if served_as == MERGED:
        merge(adapter, merged, serving.copy_dtype, model, commit)
        model = merged
        settings["revision"] = None
        settings["tokenizer"] = model  # not --tokenizer, under which it was not trained
    engine = start_engine(engine_arguments(model, engine_flags, **settings))
    try:
        if served_as == MERGED:
            shutil.rmtree(merged)  # vLLM has read it
        if serving:
            check_probes(adapter, engine.get_tokenizer())
    except BaseException:
        stop_engine(engine)
        raise
    return engine, lora_request
