#!/usr/bin/env bash
# Step 2 with DDP over all visible GPUs: the whole student on each of them.
#   bash train_trl_multi_gpu.sh [model] [output_dir] [train_file] [any flag of train_sft_trl.py]
# Accumulation keeps the effective batch of the single-GPU recipe, 16, as nearly as the number of GPUs allows.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ -z "${NUM_PROCESSES:-}" ]; then
  NUM_PROCESSES=$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')
fi
export NUM_PROCESSES
export ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-$here/accelerate_configs/ddp.yaml}
batch=1
accumulation=$((16 / (batch * NUM_PROCESSES)))
if [ "$accumulation" -lt 1 ]; then accumulation=1; fi

positional=()
while [ $# -gt 0 ] && [[ $1 != --* ]]; do
  positional+=("$1")
  shift
done
exec bash "$here/train_trl.sh" "${positional[@]}" \
  --per_device_train_batch_size "$batch" --gradient_accumulation_steps "$accumulation" --max_length 512 "$@"
