#!/usr/bin/env bash
# All checks: ruff, shellcheck and pytest in the same environment as quickstart.sh.
#   bash tests/run.sh [--fast] [pytest arguments]
# --fast leaves out the tests that need the tiny pair. Two processes of pytest share the tests
# (WORKERS=1 is for machines with one core): much of the time of one is waiting for an engine to start.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$here"
venv=${VENV:-$here/.venv}
fast=()
if [ "${1:-}" = --fast ]; then
  fast=(-m "not slow")
  shift
fi
bash requirements/install_cpu.sh "$venv" requirements/ray.txt requirements/test.txt
export PATH=$venv/bin:$PATH
unset PYTHON # the environment is made, and the wrappers take its own
export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
# the processes share the cores, and the tiny models are no faster on two of them
export OMP_NUM_THREADS=1 VLLM_CPU_KVCACHE_SPACE=1 # GiB, which each engine fills with zeros

ruff check .
ruff format --check .
find . '(' -name '*.sh' -o -name '*.sbatch' ')' -not -path './.venv*' -print0 | xargs -0 shellcheck .ci/run
# groups, and their order, are those of tests/conftest.py
python -m pytest tests -q --durations=30 -n "${WORKERS:-2}" --dist loadgroup --no-loadscope-reorder \
  "${fast[@]}" "$@"
