#!/usr/bin/env bash
# Step 1 on eight GPUs: two teachers on four GPUs each label one half of the inputs, then one output is written.
#   bash create_data_h100x8.sh [any flag of create_data.py]
# INSTANCES, GPUS_PER_INSTANCE and LOG_DIR override. A rerun asks what is missing. Without a GPU they run on the CPU.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
instances=${INSTANCES:-2} gpus=${GPUS_PER_INSTANCE:-4}
log_dir=${LOG_DIR:-$(mktemp -d)}
mkdir -p "$log_dir"
flags=()
if command -v nvidia-smi >/dev/null; then flags=(--tensor_parallel_size "$gpus"); fi
IFS=, read -ra devices <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((instances * gpus - 1)))}"

pids=()
stop() { # ends the instances, and with them the engines they started
  trap '' INT TERM
  kill "${pids[@]}" 2>/dev/null || true
  for _ in {1..50}; do kill -0 "${pids[@]}" 2>/dev/null || break; sleep 0.2; done
  kill -KILL "${pids[@]}" 2>/dev/null || true
  echo "stopped; what is finished is kept, the same command continues" >&2
  exit 130
}
trap stop INT TERM
for ((i = 0; i < instances; i++)); do
  mine=$(IFS=,; echo "${devices[*]:i * gpus:gpus}")
  CUDA_VISIBLE_DEVICES=$mine python "$here/create_data.py" "${flags[@]}" --shard "$i/$instances" "$@" \
    >"$log_dir/instance-$i.log" 2>&1 &
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
exec python "$here/create_data.py" "${flags[@]}" "$@"
