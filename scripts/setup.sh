#!/usr/bin/env bash
# Prepares the virtual environment: torch's CPU build where there is no NVIDIA GPU, this project with all its extras,
# and, where this user may install it, Debian's mosquitto (a broker for the tests and the demo).
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
TORCH=2.13.0

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
  fail "Python 3.10 or newer is needed (PYTHON=$PYTHON); install python3 or name another with PYTHON=…"
if [ ! -x "$VENV/bin/python" ]; then
  "$PYTHON" -m venv "$VENV" || fail "no virtual environment could be made: install python3-venv"
fi
pip() { "$VENV/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

install_torch() {
  "$VENV/bin/python" -c 'import torch' 2>/dev/null && return
  if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    say "setup: torch with CUDA"
    pip install "torch==$TORCH"
  elif pip install "torch==$TORCH+cpu" 2>/dev/null; then
    say "setup: torch, CPU build"
  else
    # pip cannot choose a build by hardware; uv knows where torch keeps its CPU builds.
    say "setup: torch, CPU build (by uv)"
    pip install uv
    "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --torch-backend=cpu "torch==$TORCH" ||
      fail "the CPU build of torch $TORCH could not be installed; install torch into $VENV by hand and run make setup again"
  fi
}

install_mosquitto() {
  command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "setup: mosquitto"
    { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends mosquitto; } \
      >/dev/null 2>&1 || say "setup: mosquitto could not be installed; the tests that need a broker will be skipped"
  else
    say "setup: mosquitto is missing (apt install mosquitto): the demo uses an embedded broker, broker tests are skipped"
  fi
}

install_torch
say "setup: ecg-edge and its tools"
pip install --editable ".[dev]"
install_mosquitto
