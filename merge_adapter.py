"""Write a stand-alone model: the student with its adapter merged in.

python merge_adapter.py --adapter models/prompt_distillation_trl --output_dir models/merged
"""

if __name__ == "__main__":
    import early_stop  # noqa: F401

import argparse
import json
import os
import sys
from pathlib import Path

from adapter_files import adapter_identity
from server_settings import greedy_settings
from staging import Staging
from stopping import end_at_signals

STOPPED = "merge_adapter.py: stopped; nothing is left of the merged model, the same command starts afresh"
MARK_TEXT = (
    "merge_adapter.py makes a merged model here and moves it when it is complete.\n"
    "The directory may be deleted when no merge_adapter.py is at work.\n"
)


def merge(
    adapter: str | Path, output_dir: str | Path, dtype: str = "bfloat16", base: str = "", revision: str | None = None
) -> None:
    """Merge the adapter into its base and save model and tokenizer; fused experts are written expert by expert.

    `base` at `revision` takes the place of what the adapter was trained on. Raises ValueError or OSError where the
    base cannot be loaded or saved. What is then half written is for the caller's Staging to remove.
    """
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from answer_end import stop_at_eos

    before = adapter_identity(adapter)
    if not base:
        trained_on = PeftConfig.from_pretrained(adapter)
        base = trained_on.base_model_name_or_path
        revision = trained_on.revision
    model = AutoModelForCausalLM.from_pretrained(base, revision=revision or "main", dtype=getattr(torch, dtype))
    # merging needs host memory alone; without a device PEFT would start CUDA in this process
    model = PeftModel.from_pretrained(model, adapter, torch_device="cpu").merge_and_unload()
    model.config.use_cache = True
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    if adapter_identity(adapter) != before:  # step 2 has written another one in its place
        raise ValueError(f"{adapter}: has changed while it was read; merge it when its training is at its end")
    model.generation_config = greedy_settings(model.generation_config)
    stop_at_eos(model.generation_config, tokenizer)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)


def recorded_base(adapter: str) -> str:
    """The model that an adapter was trained on; raises ValueError where there is no adapter."""
    config = Path(adapter) / "adapter_config.json"
    if not config.is_file():
        raise ValueError(f"{adapter}: no adapter here (adapter_config.json is missing)")
    return json.loads(config.read_text("utf-8"))["base_model_name_or_path"]


def check_base(base: str) -> None:
    """Raise ValueError, with the remedy, if the adapter's base is not there."""
    from task import check_model

    try:
        check_model(base)
    except ValueError as error:
        raise ValueError(f"{error}; --base_model says where the adapter's base is") from None


def refuse_existing(output_dir: Path) -> None:
    """Raise ValueError if anything is there, be it a link to nowhere."""
    if os.path.lexists(output_dir):
        raise ValueError(f"{output_dir}: exists already; choose another --output_dir")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="./models/prompt_distillation_trl", help="what train_sft_trl.py wrote")
    parser.add_argument("--output_dir", required=True, help="where the merged model goes; must not exist yet")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of the merged weights")
    parser.add_argument("--base_model", default="", help="the student, where it is not found any more as recorded")
    args = parser.parse_args()
    output_dir = Path(args.output_dir)
    staging = Staging(Path(f"{output_dir}.unfinished"), "merge_adapter.py", "--output_dir", MARK_TEXT)
    end_at_signals(STOPPED, staging.end)
    from safetensors import SafetensorError

    try:
        recorded = recorded_base(args.adapter)
        check_base(args.base_model or recorded)
        refuse_existing(output_dir)
        with staging:
            refuse_existing(output_dir)  # which another run may have finished just now
            merge(args.adapter, staging.merged, args.dtype, args.base_model)
            staging.move_merged(output_dir)
    except (ValueError, OSError, SafetensorError) as error:
        print(f"merge_adapter.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(json.dumps({"output_dir": args.output_dir}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
