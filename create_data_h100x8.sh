#!/usr/bin/env bash
# Step 1 on eight GPUs: two teachers on four GPUs each label one half of the inputs, then one output is written.
#   bash create_data_h100x8.sh [any flag of create_data.py]
# INSTANCES and GPUS_PER_INSTANCE change the split. Without a GPU the instances run on the CPU. A rerun asks only what
# is missing. Each instance logs to LOG_DIR.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
instances=${INSTANCES:-2}
gpus=${GPUS_PER_INSTANCE:-4}
log_dir=${LOG_DIR:-$(mktemp -d)}

flags=()
if command -v nvidia-smi >/dev/null; then flags=(--tensor_parallel_size "$gpus"); fi

pids=()
stop() { kill "${pids[@]}" 2>/dev/null || true; wait; exit 130; }
trap stop INT TERM
for ((i = 0; i < instances; i++)); do
  devices=$(seq -s, $((i * gpus)) $((i * gpus + gpus - 1)))
  CUDA_VISIBLE_DEVICES=$devices python "$here/create_data.py" "${flags[@]}" --shard "$i/$instances" "$@" \
    >"$log_dir/instance-$i.log" 2>&1 &
  pids+=($!)
  echo "instance $i on GPUs $devices, log $log_dir/instance-$i.log" >&2
done

failed=0
for ((i = 0; i < instances; i++)); do
  wait "${pids[$i]}" && continue
  failed=$?
  echo "instance $i failed with exit code $failed; the end of its log:" >&2
  tail -n 5 "$log_dir/instance-$i.log" >&2
done
if [ "$failed" -ne 0 ]; then exit "$failed"; fi
exec python "$here/create_data.py" "$@"
