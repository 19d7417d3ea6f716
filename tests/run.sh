#!/usr/bin/env bash
# All checks: ruff, shellcheck and pytest in the same environment as quickstart.sh.
#   bash tests/run.sh [--fast] [pytest arguments]
# --fast leaves out the tests that need the tiny pair.
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
export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0

ruff check .
ruff format --check .
find . '(' -name '*.sh' -o -name '*.sbatch' ')' -not -path './.venv*' -print0 | xargs -0 shellcheck .ci/run
python -m pytest tests -q --durations=30 "${fast[@]}" "$@"
