#!/usr/bin/env bash
# Installs what a device installs (no extras) on the oldest and newest Python at hand and scores a simulated patient.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
  local version=$1
  for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
    "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null &&
      { echo "$candidate"; return; }
  done
}

for version in 3.10 3.13; do
  python=$(find_python "$version")
  if [ -z "$python" ]; then
    echo "device install: Python $version is not here, left out"
    continue
  fi
  venv=$(mktemp -d)
  "$python" -m venv "$venv"
  "$venv/bin/pip" --quiet --disable-pip-version-check install .
  (cd "$venv" && ! bin/python -c 'import torch' 2>/dev/null && bin/ecg-edge score --simulate 12 --json >/dev/null)
  echo "device install: Python $version works, $(du -sm "$venv" | cut -f1) MB"
  rm -rf "$venv"
done
