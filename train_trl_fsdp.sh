#!/usr/bin/env bash
# Step 2 with FSDP2: the frozen student is sharded over all visible GPUs.
#   bash train_trl_fsdp.sh [model] [output_dir] [train_file] [any flag of train_sft_trl.py]
# NUM_PROCESSES (default: all, the visible GPUs), BATCH_PER_GPU (default: 16 rows over all), MAX_LENGTH and PYTHON override.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export NUM_PROCESSES=${NUM_PROCESSES:-all}
export ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-$here/accelerate_configs/fsdp.yaml}
export MAX_LENGTH=${MAX_LENGTH:-2048}
exec bash "$here/train_trl.sh" "$@"
