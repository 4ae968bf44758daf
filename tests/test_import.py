"""Importing the package is light: nothing heavy before it is used, and little time on top of torch."""

import subprocess
import sys

MODULES = "sparsity_edu, " + ", ".join(
    f"sparsity_edu.{name}" for name in ("patterns", "storage", "weights.magnitude", "models", "data")
)
HEAVY = ("transformers", "matplotlib", "triton", "scipy", "typer")


def in_a_fresh_interpreter(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_nothing_heavy_is_imported():
    code = f"""
import torch, sys
before = set(sys.modules)  # torch may bring some of them itself
import {MODULES}
print([name for name in {HEAVY} if name in sys.modules and name not in before])
"""
    assert in_a_fresh_interpreter(code) == "[]"


def test_import_adds_less_than_300_ms_to_torch():
    code = f"""
import time, torch
start = time.perf_counter()
import {MODULES}
print(time.perf_counter() - start)
"""
    seconds = []
    while len(seconds) < 3 and min(seconds, default=1) >= 0.3:  # the best of three: a busy machine is no slow import
        seconds.append(float(in_a_fresh_interpreter(code)))
    assert min(seconds) < 0.3
