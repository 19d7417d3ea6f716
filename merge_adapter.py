"""Write a stand-alone model: the student with its adapter merged in.

python merge_adapter.py --adapter models/prompt_distillation_trl --output_dir models/merged
"""

if __name__ == "__main__":
    from distill import early_stop, quiet_start  # noqa: F401

import json
import logging
import os
import sys
from pathlib import Path

from distill.adapter import merge
from distill.adapter_files import recorded_base
from distill.cli import ADAPTER, Parser, check_model, on_one_line
from distill.next_step import serving_command
from distill.staging import Staging
from distill.stopping import end_at_signals
from distill.streams import lasting_streams
from distill.system import engines_on_gpus

log = logging.getLogger("merge_adapter")
STOPPED = (
    "merge_adapter.py: stopped; nothing is left of the merged model, the same command starts afresh"
)
STARTED = "merge_adapter.py: adapter %s, student %s, a merged model in %s, output %s"
MARK_TEXT = (
    "merge_adapter.py makes a merged model here and moves it when it is complete.\n"
    "The directory may be deleted when no merge_adapter.py is at work.\n"
)


def check_base(base: str) -> None:
    """Raise ValueError, with the remedy, if the adapter's base is not there."""
    try:
        check_model(base)
    except ValueError as error:
        raise ValueError(f"{error}; --base_model says where the adapter's base is") from None


def refuse_existing(output_dir: Path) -> None:
    """Raise ValueError if anything is there, be it a link to nowhere."""
    if os.path.lexists(output_dir):
        raise ValueError(f"{output_dir}: exists already; choose another --output_dir")


def main() -> int:
    lasting_streams()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    parser = Parser(__doc__)
    parser.add("adapter", ADAPTER, "what train_sft_trl.py wrote")
    parser.add("output_dir", None, "where the model goes; must not exist yet", required=True)
    parser.add("dtype", "bfloat16", "of the merged weights", choices=["bfloat16", "float32"])
    parser.add("base_model", "", "the student, where it is not found any more as recorded")
    args = parser.parse_args()
    output_dir = Path(args.output_dir)
    staging = Staging(
        Path(f"{output_dir}.unfinished"), "merge_adapter.py", "--output_dir", MARK_TEXT
    )
    end_at_signals(STOPPED, staging.end)
    from safetensors import SafetensorError

    try:
        recorded = recorded_base(args.adapter).name
        check_base(args.base_model or recorded)
        refuse_existing(output_dir)
        with staging:
            refuse_existing(output_dir)  # which another run may have finished just now
            base = args.base_model or recorded
            log.info(STARTED, args.adapter, base, args.dtype, args.output_dir)
            merge(args.adapter, staging.merged, args.dtype, args.base_model)
            staging.move_merged(output_dir)
    except (ValueError, OSError, SafetensorError) as error:
        print(f"merge_adapter.py: {on_one_line(error)}", file=sys.stderr)
        return 2
    log.info("next, a server: %s", serving_command(args.output_dir, engines_on_gpus()))
    print(json.dumps({"output_dir": args.output_dir}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
