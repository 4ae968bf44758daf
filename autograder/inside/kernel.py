"""Starts the kernel inside the sandbox. The submission's own files come last on the path, so that they shadow nothing.

python -I kernel.py PROJECT CONNECTION_FILE [OPTIONS]
"""

import os
import sys

if __name__ == "__main__":
    project, connection_file, *more = sys.argv[1:]
    sys.path.insert(0, project)
    sys.path.append(os.getcwd())
    from ipykernel.kernelapp import IPKernelApp

    options = ["--ignore-cwd", "--HistoryManager.enabled=False", "--log-level=CRITICAL"]
    IPKernelApp.launch_instance(["-f", connection_file, *options, *more])
