"""Watches a Triton kernel in the interpreter: which bytes it reads and writes, and what a GPU would not forgive.

The interpreter runs programs one after the other on real memory. It cannot see that a load leaves its tensor, that masked
lanes hold nothing in particular, or that two programs write to one place. `watch` makes it see.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

NOBODY = -1


class Fault(RuntimeError):
    """A kernel did what would be undefined on a GPU."""


class InterpreterOff(RuntimeError):
    """Triton would compile kernels here, and there is nothing to watch."""


@dataclass
class Memory:
    """What was done to one tensor; entries are bytes."""

    tensor: Tensor
    reads: np.ndarray = field(init=False)  # how often each byte was read
    writes: np.ndarray = field(init=False)  # and written
    writer: np.ndarray = field(init=False)  # the program that has written it in this launch

    def __post_init__(self) -> None:
        size = self.tensor.untyped_storage().nbytes()
        self.reads, self.writes = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.writer = np.full(size, NOBODY, np.int64)

    @property
    def start(self) -> int:
        """Address of its storage."""
        return self.tensor.untyped_storage().data_ptr()

    @property
    def bytes_read(self) -> int:
        """Different bytes that were read: what has to come from memory if all else is in the cache."""
        return int((self.reads > 0).sum())

    @property
    def bytes_loaded(self) -> int:
        """All bytes that were asked for, those asked for twice counted twice."""
        return int(self.reads.sum())

    @property
    def bytes_written(self) -> int:
        """Different bytes that were written."""
        return int((self.writes > 0).sum())

    def by_row(self, rows: int) -> tuple[Tensor, Tensor]:
        """Different bytes and all bytes that were read of each of so many rows: int64 (rows,) each."""
        reads = torch.from_numpy(self.reads).view(rows, -1)
        return (reads > 0).sum(dim=1), reads.sum(dim=1)


@dataclass
class Watched:
    """What was seen of all tensors that kernels were given."""

    memories: list[Memory] = field(default_factory=list)
    program: int = NOBODY

    def of(self, tensor: Tensor) -> Memory:
        """What was seen of one of them; of a new one, nothing."""
        for memory in self.memories:
            if memory.start == tensor.untyped_storage().data_ptr():
                return memory
        self.memories.append(Memory(tensor))
        return self.memories[-1]

    def _locate(self, pointers: np.ndarray, width: int, doing: str) -> Iterator[tuple[Memory, np.ndarray]]:
        """The bytes (n, width) inside each tensor that pointers (n,) to elements touch."""
        left = len(pointers)
        for memory in self.memories:
            at = pointers.astype(np.int64) - memory.start
            inside = at[(at >= 0) & (at + width <= len(memory.reads))]
            left -= len(inside)
            if len(inside):
                yield memory, inside[:, None] + np.arange(width)
        if left:
            elements = f"{left} element{'s' * (left > 1)} outside all of its arguments"
            raise Fault(f"the kernel {doing} {elements}: a mask is missing, or an address is wrong")

    def read(self, pointers: np.ndarray, width: int) -> None:
        """Take down a load."""
        for memory, touched in self._locate(pointers, width, "reads"):
            np.add.at(memory.reads, touched.ravel(), 1)

    def write(self, pointers: np.ndarray, width: int, atomic: bool = False) -> None:
        """Take down a store."""
        for memory, touched in self._locate(pointers, width, "writes"):
            touched = touched.ravel()
            before = memory.writer[touched]
            twice = len(np.unique(touched)) < len(touched)
            if not atomic and (twice or ((before != NOBODY) & (before != self.program)).any()):
                who = "two lanes of one store" if twice else "two programs"
                raise Fault(f"{who} write to the same place: which of them comes last is chance")
            memory.writer[touched] = self.program
            np.add.at(memory.writes, touched, 1)


@contextmanager
def watch(veiled: Sequence[Tensor] = ()) -> Iterator[Watched]:
    """Watch what kernels do to the tensors that they are given.

    Args:
        veiled: tensors that hold their numbers only while a kernel runs, and before and after in the opposite order.

    In lanes where a load is masked and has no `other`, it gives NaN or the largest integer, not the zero of the interpreter.

    Yields:
        What was seen of all launches together.

    Raises:
        triton.runtime.errors.InterpreterError: of a `Fault`: a kernel reads or writes outside its arguments, or two programs
            of a launch, or two lanes of a store, write to the same place.
        InterpreterOff: triton was imported without its interpreter.
        ImportError: there is no triton.
    """
    import triton.language as tl
    from triton.runtime.interpreter import GridExecutor, InterpretedFunction, InterpreterBuilder, TensorHandle

    if not isinstance(tl.sum, InterpretedFunction):
        raise InterpreterOff("Triton's interpreter is off: set TRITON_INTERPRET=1 before anything imports triton, then restart")

    seen = Watched()
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    atomic, place, launch = InterpreterBuilder.create_atomic_rmw, InterpreterBuilder.set_grid_idx, GridExecutor.__call__

    def set_grid_idx(builder, x, y, z):
        place(builder, x, y, z)
        seen.program = (z * builder.grid_dim[1] + y) * builder.grid_dim[0] + x

    def create_masked_load(builder, pointers, mask, other, *hints):
        kind = pointers.get_element_ty()
        active = np.broadcast_to(mask.data, pointers.data.shape)
        seen.read(pointers.data[active], _width(kind))
        result = load(builder, pointers, mask, other, *hints)
        if other is None and not active.all():
            result = TensorHandle(np.where(active, result.data, _poison(result.data.dtype, kind)), result.dtype)
        return result

    def create_masked_store(builder, pointers, value, mask, *hints):
        active = np.broadcast_to(mask.data, pointers.data.shape)
        seen.write(pointers.data[active], _width(pointers.get_element_ty()))
        return store(builder, pointers, value, mask, *hints)

    def create_atomic_rmw(builder, operation, pointers, value, mask, *rest):
        active = np.broadcast_to(mask.data, pointers.data.shape)
        seen.write(pointers.data[active], _width(pointers.get_element_ty()), atomic=True)
        return atomic(builder, operation, pointers, value, mask, *rest)

    def call(executor, *args, **kwargs):
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                seen.of(value).writer.fill(NOBODY)
        turn_around()
        try:
            return launch(executor, *args, **kwargs)
        finally:
            turn_around()

    def turn_around():
        for tensor in veiled:
            tensor.copy_(tensor.flip(tuple(range(tensor.ndim))))

    turn_around()
    with (
        patch.object(InterpreterBuilder, "set_grid_idx", set_grid_idx),
        patch.object(InterpreterBuilder, "create_masked_load", create_masked_load),
        patch.object(InterpreterBuilder, "create_masked_store", create_masked_store),
        patch.object(InterpreterBuilder, "create_atomic_rmw", create_atomic_rmw),
        patch.object(GridExecutor, "__call__", call),
    ):
        yield seen


def _width(kind) -> int:
    return max(1, kind.primitive_bitwidth // 8)


def _poison(dtype: np.dtype, kind):
    """What would be noticed: NaN, also in the bits of a bfloat16, which the interpreter keeps in 16-bit words."""
    if kind.is_floating():
        return np.array(np.nan, dtype) if dtype.kind == "f" else np.array(0x7FC0, dtype)
    return np.iinfo(dtype).max if dtype.kind in "iu" else True
