#!/usr/bin/env bash
# Step 2 on one GPU (or a CPU with --config configs/tiny.yaml); with NUM_PROCESSES it is train_trl_multi_gpu.sh.
#   bash train_trl.sh [model] [output_dir] [train_file] [any flag of train_sft_trl.py]
# ACCELERATE_CONFIG, TRAIN_SCRIPT and PYTHON override what is launched. With MAX_LENGTH, which the two multi-GPU
# wrappers set, the GPUs share 16 rows, or fewer where there are few rows; BATCH_PER_GPU accumulates to 16.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=${TRAIN_SCRIPT:-$here/train_sft_trl.py}
python=${PYTHON:-python} # a path such as .venv/bin/python needs no activated environment
command -v "$python" >/dev/null || { echo "train_trl.sh: no $python here; PYTHON names the environment's" >&2 && exit 2; }
for flag; do # --help needs neither check nor launch
  case $flag in -h | --help | --help[_-]all) exec "$python" "$script" "$flag" ;; esac
done
machines=${NUM_MACHINES:-1}
processes=${NUM_PROCESSES:-$([ "$machines" = 1 ] && echo 1 || echo all)} # over all machines; all: one for each visible GPU
number='^[1-9][0-9]*$'
if [[ $processes = all && $machines =~ $number ]]; then processes=$("$python" "$here/launch.py" --for_all_gpus "$machines"); fi
if ! [[ $machines =~ $number && $processes =~ $number ]] || ((processes % machines)); then
  echo "train_trl.sh: NUM_PROCESSES=$processes cannot be shared out equally to NUM_MACHINES=$machines" >&2 && exit 2
fi
if [ "$processes" -gt 1 ] && [ -z "${ACCELERATE_CONFIG:-}" ]; then
  NUM_PROCESSES=$processes exec bash "$here/train_trl_multi_gpu.sh" "$@" # which names one and comes back
fi
args=()
for name in model_name output_dir train_file; do
  if [ $# -eq 0 ] || [[ $1 == --* ]]; then break; fi
  args+=("--$name" "$1")
  shift
done
length=${MAX_LENGTH:-} rows=${BATCH_PER_GPU:-} steps=1
if [ -n "$length$rows" ]; then
  if [ -n "$rows" ]; then steps=$((rows * processes < 16 ? 16 / (rows * processes) : 1)) args+=(--per_device_train_batch_size "$rows"); fi
  args+=(${length:+--max_length "$length"} --gradient_accumulation_steps "$steps")
  export SHARE_BATCH=1 # the script shares the rows of an optimizer step among the processes, unless a flag says how many
fi
[ -n "${ACCELERATE_CONFIG:-}" ] || exec "$python" "$script" "${args[@]}" "$@" # one process needs no launcher
exec "$python" "$here/launch.py" --check_first --config_file "$ACCELERATE_CONFIG" \
  --num_processes "$processes" --num_machines "$machines" --machine_rank "${MACHINE_RANK:-0}" \
  --main_process_ip "${MAIN_PROCESS_IP:-127.0.0.1}" --main_process_port "${MAIN_PROCESS_PORT:-0}" \
  "$script" "${args[@]}" "$@"
