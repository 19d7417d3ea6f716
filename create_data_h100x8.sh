#!/usr/bin/env bash
# Step 1 on eight GPUs: two teachers on four GPUs each label one half of the inputs, then one output is written.
#   bash create_data_h100x8.sh [any flag of create_data.py]
# INSTANCES, GPUS_PER_INSTANCE and LOG_DIR override. A rerun asks what is missing. Without a GPU they run on the CPU.
set -euo pipefail
exec python "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/create_data_instances.py" "$@"
