#!/bin/sh
# Sets up the environment in .venv, once. PYTHON=python3.12 sh setup.sh uses that Python.
set -eu
cd "$(dirname "$0")"
found=""
for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
  if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    found="$name"
    break
  fi
done
if [ -z "$found" ]; then
  echo "Python 3.11 or newer is needed; README.md says where to get it." >&2
  exit 1
fi
echo "Setting up .venv with $("$found" --version): a few minutes and a few GB, the first time only."
if ! "$found" -m venv .venv; then
  echo "On Debian, Ubuntu and WSL, install what that needs: sudo apt install python3-venv" >&2
  exit 1
fi
.venv/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable .
touch .venv/ready
echo "Ready. Begin with: sh lab.sh"
