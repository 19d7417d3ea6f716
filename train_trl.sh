#!/usr/bin/env bash
# Step 2 on one GPU (or a CPU with --config configs/tiny.yaml).
#   bash train_trl.sh [model] [output_dir] [train_file] [any flag of train_sft_trl.py]
# ACCELERATE_CONFIG, NUM_PROCESSES and TRAIN_SCRIPT override what is launched.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

args=()
for name in model_name output_dir train_file; do
  if [ $# -eq 0 ] || [[ $1 == --* ]]; then break; fi
  args+=("--$name" "$1")
  shift
done

script=${TRAIN_SCRIPT:-$here/train_sft_trl.py}
if [ "${NUM_PROCESSES:-1}" -eq 1 ] && [ -z "${ACCELERATE_CONFIG:-}" ]; then
  exec python "$script" "${args[@]}" "$@" # one process needs no launcher, and keeps the script's exit code
fi
exec accelerate launch --quiet \
  --config_file "${ACCELERATE_CONFIG:-$here/accelerate_configs/single_gpu.yaml}" \
  --num_processes "${NUM_PROCESSES:-1}" \
  --num_machines "${NUM_MACHINES:-1}" \
  --machine_rank "${MACHINE_RANK:-0}" \
  --main_process_ip "${MAIN_PROCESS_IP:-127.0.0.1}" \
  --main_process_port "${MAIN_PROCESS_PORT:-0}" \
  "$script" "${args[@]}" "$@"
