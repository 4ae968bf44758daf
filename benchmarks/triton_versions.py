"""Do the kernels compile under other versions of Triton, and into what? No GPU is needed.

    python benchmarks/triton_versions.py [3.6.0 ...]

Each version is installed into a folder of its own, and the tests of machine code run with it: wide loads, no spills, sparse
tensor cores, a budget of instructions, for sm_80 and sm_90. Several hundred MB are fetched for each.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from rich import box
from rich.console import Console
from rich.table import Column, Table

TESTS = Path(__file__).parents[1] / "tests" / "sparsity_edu" / "kernels" / "test_machine_code.py"


def with_version(folder: Path | None) -> str:
    """The last line of what the tests print with the Triton of a folder, or with the installed one."""
    paths = [str(folder)] if folder else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "pytest", "-v", "-n0", "-p", "no:cacheprovider", TESTS]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True)
    return re.sub(r"=+", "", shown.stdout.strip().splitlines()[-1]).strip()


def main(versions: list[str]) -> None:
    """Print a row for each version."""
    table = Table("Triton", Column("tests of machine code"), box=box.SIMPLE_HEAD)
    table.add_row(f"{triton.__version__}, installed", with_version(None))
    for version in versions:
        with tempfile.TemporaryDirectory() as folder:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, f"triton=={version}"]
            subprocess.run(install, check=True)
            table.add_row(version, with_version(Path(folder)))
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=["3.6.0"], help="versions (default: 3.6.0)")
    main(parser.parse_args().versions)
