"""Write a stand-alone model: the student with its adapter merged in.

python merge_adapter.py --adapter models/prompt_distillation_trl --output_dir models/merged
"""

import argparse
import json
import sys
from pathlib import Path

from server_settings import greedy_settings


def merge(
    adapter: str | Path, output_dir: str | Path, dtype: str = "bfloat16", base: str = "", revision: str | None = None
) -> None:
    """Merge the adapter into its base and save model and tokenizer; fused experts are written expert by expert.

    `base` at `revision` takes the place of what the adapter was trained on.
    """
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not base:
        trained_on = PeftConfig.from_pretrained(adapter)
        base = trained_on.base_model_name_or_path
        revision = trained_on.revision
    model = AutoModelForCausalLM.from_pretrained(base, revision=revision or "main", dtype=getattr(torch, dtype))
    # merging needs host memory alone; without a device PEFT would start CUDA in this process
    model = PeftModel.from_pretrained(model, adapter, torch_device="cpu").merge_and_unload()
    model.config.use_cache = True
    model.generation_config = greedy_settings(model.generation_config)
    model.save_pretrained(output_dir)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(output_dir)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="./models/prompt_distillation_trl", help="what train_sft_trl.py wrote")
    parser.add_argument("--output_dir", required=True, help="where the merged model goes; must not exist yet")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of the merged weights")
    args = parser.parse_args()
    if not (Path(args.adapter) / "adapter_config.json").is_file():
        print(f"merge_adapter.py: {args.adapter}: no adapter here (adapter_config.json is missing)", file=sys.stderr)
        return 2
    if Path(args.output_dir).exists():
        print(f"merge_adapter.py: {args.output_dir}: exists already; choose another --output_dir", file=sys.stderr)
        return 2
    merge(args.adapter, args.output_dir, args.dtype)
    print(json.dumps({"output_dir": args.output_dir}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
