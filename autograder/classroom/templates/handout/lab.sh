#!/bin/sh
# Opens JupyterLab on your own copies of the notebooks, in work/.
set -eu
cd "$(dirname "$0")"
if [ ! -e .venv/ready ] || [ pyproject.toml -nt .venv/ready ]; then
  sh setup.sh
fi
.venv/bin/autograder work
export JUPYTER_CONFIG_PATH="$PWD/course/lab"
exec .venv/bin/python -m jupyterlab --log-level=WARN --ServerApp.root_dir="$PWD" "$@"
