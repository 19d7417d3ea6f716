#!/usr/bin/env bash
# Step 1 on eight GPUs: two teachers on four GPUs each label one half of the inputs, then one output is written.
#   bash create_data_h100x8.sh [any flag of create_data.py]
# INSTANCES, GPUS_PER_INSTANCE and LOG_DIR override. A rerun asks what is missing. Without a GPU they run on the CPU.
set -euo pipefail
label=(python "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/create_data.py")
for flag in "$@"; do # --help needs no GPU
  case $flag in -h | --help | --help[_-]all) exec "${label[@]}" "$flag" ;; esac
done
instances=${INSTANCES:-2} gpus=${GPUS_PER_INSTANCE:-4} there=
log_dir=${LOG_DIR:-$(mktemp -d)}
mkdir -p "$log_dir"
if command -v nvidia-smi >/dev/null; then
  label+=(--tensor_parallel_size "$gpus")
  there=$(nvidia-smi --query-gpu=index --format=csv,noheader) || { echo "nvidia-smi fails: $there" >&2; exit 2; }
  there=${there//$'\n'/,}
fi
# where nobody lists the GPUs they are taken to be there, and a CPU does not care
IFS=, read -ra devices <<<"${CUDA_VISIBLE_DEVICES-${there:-$(seq -s, 0 $((instances * gpus - 1)))}}"
count=${#devices[@]} each=$gpus
if [ "$count" -lt $((instances * gpus)) ] && [ -n "${CUDA_VISIBLE_DEVICES-}$there" ]; then
  while [ "$each" -gt "$count" ]; do each=$((each / 2)); done # a model is split over 1, 2, 4, ... GPUs
  fit=$([ "$each" -eq 0 ] && echo "none fits" || echo "INSTANCES=$((count / each)) GPUS_PER_INSTANCE=$each fit")
  echo "INSTANCES=$instances, GPUS_PER_INSTANCE=$gpus: need $((instances * gpus)) GPUs, $count are visible; $fit" >&2
  exit 2
fi
if [ "$instances" -eq 1 ]; then # the only one writes the output itself
  CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${devices[*]:0:gpus}") exec "${label[@]}" "$@"
fi

pids=()
stop() { # ends the instances, and with them the engines they started
  trap '' INT TERM
  kill "${pids[@]}" 2>/dev/null || true
  for _ in {1..75}; do kill -0 "${pids[@]}" 2>/dev/null || break; sleep 0.2; done # an engine has 10 s to end
  kill -KILL "${pids[@]}" 2>/dev/null || true
  echo "stopped; what is finished is kept, the same command continues" >&2
  exit 130
}
trap stop INT TERM
for ((i = 0; i < instances; i++)); do
  mine=$(IFS=,; echo "${devices[*]:i * gpus:gpus}")
  CUDA_VISIBLE_DEVICES=$mine "${label[@]}" --shard "$i/$instances" "$@" >"$log_dir/instance-$i.log" 2>&1 &
  pids+=($!)
  echo "instance $i, CUDA_VISIBLE_DEVICES=$mine, log $log_dir/instance-$i.log" >&2
done

failed=0
for ((i = 0; i < instances; i++)); do
  wait "${pids[$i]}" && continue
  failed=$?
  echo "instance $i failed with exit code $failed; the end of its log:" >&2
  tail -n 5 "$log_dir/instance-$i.log" >&2
done
if [ "$failed" -ne 0 ]; then exit "$failed"; fi
exec "${label[@]}" "$@"
