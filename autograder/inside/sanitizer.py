"""Watches a Triton kernel in the interpreter: which bytes it reads and writes, and what a GPU would not forgive.

The interpreter runs programs one after the other on real memory. It cannot see that a load leaves its tensor, that masked
lanes hold nothing in particular, or that two programs write to one place. `watch` makes it see.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
    writer: np.ndarray = field(init=False)  # the program that was the last to write it in this launch
    storer: np.ndarray = field(init=False)  # and the last that did so without an atomic operation
    met: np.ndarray = field(init=False)  # whether two programs of a launch have written it, by atomic operations

    def __post_init__(self) -> None:
        size = self.tensor.untyped_storage().nbytes()
        self.reads, self.writes = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.writer, self.storer = np.full(size, NOBODY, np.int64), np.full(size, NOBODY, np.int64)
        self.met = np.zeros(size, bool)

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

    @property
    def bytes_met(self) -> int:
        """Different bytes in which programs of one launch have met."""
        return int(self.met.sum())

    def by_row(self, rows: int) -> tuple[Tensor, Tensor]:
        """Different bytes and all bytes that were read of each of so many rows: int64 (rows,) each."""
        reads = torch.from_numpy(self.reads).view(rows, -1)
        return (reads > 0).sum(dim=1), reads.sum(dim=1)


@dataclass
class Watched:
    """What was seen of all tensors that kernels were given."""

    memories: list[Memory] = field(default_factory=list)
    program: int = NOBODY
    has_met_others: bool = False  # whether it has done an atomic operation, after which it may know what others have done
    early: Fault | None = None  # the first time in a launch that a program read what another had written

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
            if not self.has_met_others and self._others(memory.writer[touched]).any():
                self.early = self.early or Fault("a program reads what another writes: which of them comes first is chance")

    def write(self, pointers: np.ndarray, width: int, atomic: bool = False) -> None:
        """Take down a store."""
        for memory, touched in self._locate(pointers, width, "writes"):
            touched = touched.ravel()
            if atomic:
                if self._others(memory.storer[touched]).any():
                    raise Fault("a program adds to what another stores: which of them comes first is chance")
                memory.met[touched] |= self._others(memory.writer[touched])
            else:
                twice = len(np.unique(touched)) < len(touched)
                if twice or self._others(memory.writer[touched]).any():
                    who = "two lanes of one store" if twice else "two programs"
                    raise Fault(f"{who} write to the same place: which of them comes last is chance")
                memory.storer[touched] = self.program
            memory.writer[touched] = self.program
            np.add.at(memory.writes, touched, 1)
            self.has_met_others |= atomic

    def _others(self, programs: np.ndarray) -> np.ndarray:
        """Which of these are other programs than the one that runs."""
        return (programs != NOBODY) & (programs != self.program)


@contextmanager
def watch(veiled: Sequence[Tensor] = ()) -> Iterator[Watched]:
    """Watch what kernels do to the tensors that they are given.

    Args:
        veiled: tensors that hold their numbers only while a kernel runs, and before and after in the opposite order.

    In lanes where a load is masked and has no `other`, it gives NaN and infinity in turn, or the largest integer, not the zero
    of the interpreter.

    Yields:
        What was seen of all launches together.

    Raises:
        triton.runtime.errors.InterpreterError: of a `Fault`: a kernel reads or writes outside its arguments, or two programs
            of a launch, or two lanes of a store, write to the same place, and not both by an atomic operation.
        Fault: after a launch in which a program has read what another has written, without an atomic operation before.
        InterpreterOff: triton was imported without its interpreter.
        NotTriton: a kernel uses what is no part of Triton.
        ImportError: there is no triton.
    """
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.errors import InterpreterError
    from triton.runtime.interpreter import GridExecutor, InterpretedFunction, InterpreterBuilder, TensorHandle

    if not isinstance(tl.sum, InterpretedFunction):
        raise InterpreterOff("Triton's interpreter is off: set TRITON_INTERPRET=1 before anything imports triton, then restart")

    from autograder.inside.dialect import plain

    seen, replaced = Watched(), set()
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    atomic, compare = InterpreterBuilder.create_atomic_rmw, InterpreterBuilder.create_atomic_cas
    place, launch, start = InterpreterBuilder.set_grid_idx, GridExecutor.__call__, InterpretedFunction.run

    def set_grid_idx(builder, x, y, z):
        place(builder, x, y, z)
        seen.program = (z * builder.grid_dim[1] + y) * builder.grid_dim[0] + x
        seen.has_met_others = False

    def create_masked_load(builder, pointers, mask, other, *hints):
        kind = pointers.get_element_ty()
        active = _active(mask, pointers)
        seen.read(pointers.data[active], _width(kind))
        result = load(builder, pointers, mask, other, *hints)
        if other is None and not active.all():
            result = TensorHandle(np.where(active, result.data, _poison(result.data, kind)), result.dtype)
        return result

    def create_masked_store(builder, pointers, value, mask, *hints):
        active = _active(mask, pointers)
        seen.write(pointers.data[active], _width(pointers.get_element_ty()))
        return store(builder, pointers, value, mask, *hints)

    def create_atomic_rmw(builder, operation, pointers, value, mask, *rest):
        active = _active(mask, pointers)
        seen.write(pointers.data[active], _width(pointers.get_element_ty()), atomic=True)
        return atomic(builder, operation, pointers, value, mask, *rest)

    def create_atomic_cas(builder, pointers, *rest):
        seen.write(pointers.data.ravel(), _width(pointers.get_element_ty()), atomic=True)
        return compare(builder, pointers, *rest)

    def run(kernel, *args, **kwargs):
        plain(kernel)  # raises where it is more than Triton
        return start(kernel, *args, **kwargs)

    def call(executor, *args, **kwargs):
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                seen.of(value).writer.fill(NOBODY)
                seen.of(value).storer.fill(NOBODY)
        seen.early = None
        replaced.clear()
        turn_around()
        try:
            launched = launch(executor, *args, **kwargs)
        finally:
            turn_around()
        if seen.early:
            raise seen.early
        return launched

    def call_function(function, *args, **kwargs):
        """A function called by a kernel. The interpreter replaces the whole language at each such call; once a launch does."""
        if (names := id(function.fn.__globals__)) not in replaced:
            interpreter._patch_lang(function.fn)
            replaced.add(names)
        try:
            return function.rewrite()(*args, **kwargs)
        except Exception as error:
            raise InterpreterError(repr(error)) from error

    def turn_around():
        for tensor in veiled:
            tensor.copy_(tensor.flip(tuple(range(tensor.ndim))))

    # as on a GPU, where sums of integers are checked for overflow in debugging only; here that is a third of the time
    options = replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
    turn_around()
    with (
        patch.object(interpreter.interpreter_builder, "options", options),
        patch.object(InterpreterBuilder, "set_grid_idx", set_grid_idx),
        patch.object(InterpreterBuilder, "create_masked_load", create_masked_load),
        patch.object(InterpreterBuilder, "create_masked_store", create_masked_store),
        patch.object(InterpreterBuilder, "create_atomic_rmw", create_atomic_rmw),
        patch.object(InterpreterBuilder, "create_atomic_cas", create_atomic_cas),
        patch.object(GridExecutor, "__call__", call),
        patch.object(InterpretedFunction, "run", run),
        patch.object(InterpretedFunction, "__call__", call_function),
    ):
        yield seen


def _active(mask, pointers) -> np.ndarray:
    """Which lanes are not masked; a mask that is made of a scalar and a vector may hold integers."""
    return np.broadcast_to(mask.data, pointers.data.shape).astype(bool)


def _width(kind) -> int:
    return max(1, kind.primitive_bitwidth // 8)


def _poison(values: np.ndarray, kind) -> np.ndarray:
    """What would be noticed, for every lane: NaN in a sum, infinity in a comparison, for NaN is larger than nothing."""
    dtype = values.dtype
    if kind.is_floating():
        # the interpreter keeps the bits of a bfloat16 in 16-bit words
        pair = np.array([np.nan, np.inf], dtype) if dtype.kind == "f" else np.array([0x7FC0, 0x7F80], dtype)
        return np.resize(pair, values.shape)
    return np.full(values.shape, np.iinfo(dtype).max if dtype.kind in "iu" else True, dtype)
