#!/usr/bin/env bash
# Step 1 on eight GPUs: two teachers on four GPUs each label one half of the inputs, then one output is written.
#   bash create_data_h100x8.sh [any flag of create_data.py that several runs can share]
# INSTANCES, GPUS_PER_INSTANCE, LOG_DIR and PYTHON override. A rerun asks what is missing. Without a GPU they run on the CPU.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python} # a path such as .venv/bin/python needs no activated environment
if ! command -v "$python" >/dev/null; then
  echo "create_data_h100x8.sh: no $python here; PYTHON names the environment's" >&2
  exit 2
fi
exec "$python" "$here/create_data_instances.py" "$@"
