"""Compile a kernel for a GPU that is not there, and read its machine code."""

import functools
import importlib
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unittest.mock import patch

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
LABEL, BRANCH = re.compile(r"^\s*(\.L_x_\d+):"), re.compile(r"BRA(?:\.\w+)*\s+`\((\.L_x_\d+)\)")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")


@dataclass(frozen=True)
class MachineCode:
    """A compiled kernel."""

    ptx: str
    cubin: bytes

    @cached_property
    def sass(self) -> str:
        """The disassembly, with labels."""
        return self._tool("nvdisasm", "-c")

    @cached_property
    def resources(self) -> dict[str, int]:
        """REG, STACK and others; registers that do not suffice show in STACK."""
        found = re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", self._tool("cuobjdump", "--dump-resource-usage"))
        return {name: int(value) for name, value in found}

    @property
    def opcodes(self) -> Counter:
        """How often each instruction occurs, with its modifiers."""
        return Counter(self._instructions(self.sass.splitlines()))

    @property
    def loop(self) -> list[str]:
        """The instructions of the innermost loop: of the shortest backward branch that loads from memory."""
        lines = self.sass.splitlines()
        labels = {match[1]: i for i, line in enumerate(lines) if (match := LABEL.match(line))}
        loops = [
            self._instructions(lines[labels[match[1]] : i + 1])
            for i, line in enumerate(lines)
            if (match := BRANCH.search(line)) and labels.get(match[1], i) < i
        ]
        return min((loop for loop in loops if any(op.startswith("LDG") for op in loop)), key=len, default=[])

    def guarded(self, opcode: str) -> int:
        """How many of an instruction a thread may leave out: those with a predicate."""
        return len(re.findall(rf"@!?P\d\s+{re.escape(opcode)}\s", self.sass))

    @staticmethod
    def _instructions(lines: list[str]) -> list[str]:
        return [match[1] for line in lines if (match := INSTRUCTION.match(line))]

    def _tool(self, name: str, option: str) -> str:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            return subprocess.run([TOOLS / name, option, file.name], check=True, capture_output=True, text=True).stdout


def compiled(
    kernel, signature: dict[str, str], constants: dict, architecture: int, num_warps: int = 4, aligned: bool = True
) -> MachineCode:
    """Compile ahead of time.

    Args:
        kernel: the jitted function.
        signature: a type for each argument, such as "*fp16" or "i32".
        constants: the constexpr arguments.
        architecture: 80 or 90.
        num_warps: per program.
        aligned: as for a launch with pointers and sizes that are multiples of 16.
    """
    of = kernel.fn.__module__, kernel.fn.__name__
    return _process().submit(_compiled, *of, signature, constants, architecture, num_warps, aligned).result()


@functools.cache
def _process() -> ProcessPoolExecutor:
    """One without the interpreter: where that is on, Triton's own functions are interpreted too and cannot be compiled."""
    with patch.dict(os.environ):
        os.environ.pop("TRITON_INTERPRET", None)
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        pool.submit(int).result()  # it starts with the first task
    return pool


def _compiled(
    module: str, name: str, signature: dict, constants: dict, architecture: int, num_warps: int, aligned: bool
) -> MachineCode:
    kernel = getattr(importlib.import_module(module), name)
    types = signature | dict.fromkeys(constants, "constexpr")
    types = {name: types[name] for name in kernel.arg_names}
    known = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types.values()) if kind == "i32" or kind[0] == "*"}
    source = ASTSource(kernel, types, constants, known if aligned else {})
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": num_warps})
    return MachineCode(made.asm["ptx"], made.asm["cubin"])
