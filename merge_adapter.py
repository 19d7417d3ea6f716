"""Write a stand-alone model: the student with its adapter merged in.

python merge_adapter.py --adapter models/prompt_distillation_trl --output_dir models/merged
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from server_settings import greedy_settings


def merge(
    adapter: str | Path, output_dir: str | Path, dtype: str = "bfloat16", base: str = "", revision: str | None = None
) -> None:
    """Merge the adapter into its base and save model and tokenizer; fused experts are written expert by expert.

    `base` at `revision` takes the place of what the adapter was trained on. Raises ValueError or OSError where the
    base cannot be loaded or saved; then no `output_dir` is left behind.
    """
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from answer_end import stop_at_eos

    if not base:
        trained_on = PeftConfig.from_pretrained(adapter)
        base = trained_on.base_model_name_or_path
        revision = trained_on.revision
    model = AutoModelForCausalLM.from_pretrained(base, revision=revision or "main", dtype=getattr(torch, dtype))
    # merging needs host memory alone; without a device PEFT would start CUDA in this process
    model = PeftModel.from_pretrained(model, adapter, torch_device="cpu").merge_and_unload()
    model.config.use_cache = True
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model.generation_config = greedy_settings(model.generation_config)
    stop_at_eos(model.generation_config, tokenizer)
    try:
        model.save_pretrained(output_dir)
        tokenizer.save_pretrained(output_dir)
    except BaseException:
        shutil.rmtree(output_dir, ignore_errors=True)
        raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="./models/prompt_distillation_trl", help="what train_sft_trl.py wrote")
    parser.add_argument("--output_dir", required=True, help="where the merged model goes; must not exist yet")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of the merged weights")
    parser.add_argument("--base_model", default="", help="the student, where it is not found any more as recorded")
    args = parser.parse_args()
    config = Path(args.adapter) / "adapter_config.json"
    if not config.is_file():
        print(f"merge_adapter.py: {args.adapter}: no adapter here (adapter_config.json is missing)", file=sys.stderr)
        return 2
    if Path(args.output_dir).exists():
        print(f"merge_adapter.py: {args.output_dir}: exists already; choose another --output_dir", file=sys.stderr)
        return 2
    from safetensors import SafetensorError

    from task import check_model

    try:
        base = args.base_model or json.loads(config.read_text("utf-8"))["base_model_name_or_path"]
        try:
            check_model(base)
        except ValueError as error:
            raise ValueError(f"{error}; --base_model says where the adapter's base is") from None
        merge(args.adapter, args.output_dir, args.dtype, args.base_model)
    except (ValueError, OSError, SafetensorError) as error:
        print(f"merge_adapter.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(json.dumps({"output_dir": args.output_dir}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
