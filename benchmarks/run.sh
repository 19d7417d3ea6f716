#!/usr/bin/env bash
# All benchmarks with the tiny pair, in an environment that has it (see quickstart.sh); rewrites benchmarks/RESULTS.md.
#   bash benchmarks/run.sh
# ROWS, GROWTH_ROWS and REPEATS choose how much is measured. Kept are what is written by hand, the targets on
# top included, and, without a GPU, gpu.py's.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
results=$here/RESULTS.md
scratch=$(mktemp -d)
read -ra rows <<<"${ROWS:-200}"
read -ra growth <<<"${GROWTH_ROWS:-1000 10000 100000}"
SECONDS=0

show() { # one benchmark: the command, then what it prints but for the last line, which is JSON
  local start=$SECONDS
  { printf '\n    %s\n\n' "$*" && "$@" | sed '$d'; } | sed "s|$scratch|OUT|g"
  printf '\nThis took %s seconds.\n' "$((SECONDS - start))"
}

python tests/tiny_pair.py >&2
student=(models/tiny-instruct "$scratch/adapter" example-data/multilingual_gold.jsonl)
{
  sed '/^## One run of run.sh/,$d' "$results"
  printf '## One run of run.sh\n\nWritten by benchmarks/run.sh with the tiny pair. %s, commit %s, ' "$(date -u +%F)" "$(git describe --always --dirty --exclude='*')"
  python -c 'from distill.system import cpu_name; print(cpu_name())'
  show python benchmarks/generation.py --rows "${rows[@]}" --repeats "${REPEATS:-3}"
  show python benchmarks/training.py --num_train_epochs 1 --repeats "${REPEATS:-3}"
  show python benchmarks/published.py --rows 400 --num_train_epochs 0.5 --generated_rows 50 --repeats "${REPEATS:-3}"
  show python benchmarks/growth.py --rows "${growth[@]}"
  show python benchmarks/cascade.py --repeats "${REPEATS:-3}"
  bash train_trl.sh "${student[@]}" --config configs/tiny.yaml --num_train_epochs 1 >&2
  show python evaluate.py --teacher_model models/tiny-thinking --student_model models/tiny-instruct \
    --adapter "$scratch/adapter" --max_tokens 256 --systems teacher,student
  show python benchmarks/plan.py --gpu h100 --num_gpus 8
  printf '\nAll of this took %s seconds.\n\n' "$SECONDS"
  sed -n '/^## 2,000 and/,/^## One GPU/{/^## One GPU/!p}' "$results"
  if nvidia-smi >/dev/null 2>&1; then printf '## One GPU\n' && show python benchmarks/gpu.py && show python benchmarks/gpu_paths.py; else sed -n '/^## One GPU/,$p' "$results"; fi
} >"$scratch/results.md"
mv "$scratch/results.md" "$results"
