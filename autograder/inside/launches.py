"""Kernel launches that cross the wall: a student's program says what it launches, and another process runs it.

What is measured where a student's cells have run could be anything. So the program that answers a hidden case is given other
numbers in the place of the weights, each launch leaves it as plain data, and comes back as the bytes that it has written: only
kernels have seen the weights, and they ran under the watcher of a process that has never run a student's cell (`bench`).

    a launch    {"functions": dialect.plain, "grid": (x, y, z), "arguments": {name: value or tensor}, "memories": {key: bytes}}
    a tensor    {"memory": key, "dtype": ..., "shape": ..., "strides": ..., "offset": ...}
    a memory    of the case's argument i by i, any other by a text; bytes of those that are no arguments of the case
    a reply     {"written": {key: bytes}, "error": None or Raised}
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from autograder.inside.outcome import TimeUp


class KernelFailed(RuntimeError):
    """A kernel has failed where it was run."""


@contextmanager
def sent(args: Sequence, ask: Callable[[dict], dict]) -> Iterator[None]:
    """Have kernels run elsewhere.

    Args:
        args: the case's arguments as the answer has got them.
        ask: gives the reply to a launch.

    Raises:
        KernelFailed: in student code, where a kernel has failed.
        TimeUp: where it took too long.
    """
    from triton.runtime.interpreter import InterpretedFunction

    memories: dict[int, tuple[int | str, Tensor]] = {}  # by address: key, and a tensor that keeps it where it is

    def key_of(tensor: Tensor) -> int | str:
        address = tensor.untyped_storage().data_ptr()
        return memories.setdefault(address, (str(len(memories)), tensor))[0]

    for i, argument in enumerate(args):
        if isinstance(argument, Tensor):
            memories[argument.untyped_storage().data_ptr()] = i, argument

    def run(kernel: InterpretedFunction, *given, grid, warmup: bool = False, **named) -> None:
        from autograder.inside.dialect import plain, plain_value

        if warmup:
            return
        named = {name: value for name, value in named.items() if name in kernel.arg_names}  # not num_warps and its kin
        bound = inspect.getcallargs(kernel.fn, *given, **named)
        tensors = {name: value for name, value in bound.items() if isinstance(value, Tensor)}
        keys = {name: key_of(tensor) for name, tensor in tensors.items()}
        arguments = {
            name: _tensor(keys[name], value) if name in tensors else plain_value(name, value) for name, value in bound.items()
        }
        own = {keys[name]: _bytes(tensor) for name, tensor in tensors.items() if isinstance(keys[name], str)}
        programs = tuple(map(int, grid(bound) if callable(grid) else grid))
        reply = ask({"functions": plain(kernel), "grid": programs, "arguments": arguments, "memories": own})
        if reply["error"]:
            is_late = reply["error"].types[0] == TimeUp.__name__
            raise (TimeUp if is_late else KernelFailed)(reply["error"].message)
        for name, tensor in tensors.items():
            if keys[name] in reply["written"]:
                _bytes(tensor).copy_(reply["written"][keys[name]])

    with patch.object(InterpretedFunction, "run", run):
        yield


class Runner:
    """Runs the launches of one case, with its true arguments."""

    def __init__(self, args: Sequence) -> None:
        self.memories: dict[int | str, Tensor] = {i: _bytes(arg) for i, arg in enumerate(args) if isinstance(arg, Tensor)}

    def launch(self, launch: dict) -> dict[int | str, Tensor]:
        """Run a launch.

        Args:
            launch: as `sent` makes them; anything else raises whatever it may.

        Returns:
            The bytes of each memory that it has written.
        """
        from autograder.inside.dialect import made, value_of

        for key, content in launch["memories"].items():
            if not isinstance(key, str):
                raise ValueError("an argument of the case is what it is")
            if key in self.memories and len(self.memories[key]) == len(content):
                self.memories[key].copy_(content)
            else:
                self.memories[key] = content.clone()
        used = {part["memory"] for part in launch["arguments"].values() if _is_tensor(part)}
        before = {key: self.memories[key].clone() for key in used}
        arguments = {n: self._tensor(part) if _is_tensor(part) else value_of(part) for n, part in launch["arguments"].items()}
        made(launch["functions"])[launch["grid"]](**arguments)
        return {key: self.memories[key] for key in used if not torch.equal(self.memories[key], before[key])}

    def _tensor(self, part: dict) -> Tensor:
        dtype, memory = getattr(torch, part["dtype"]), self.memories[part["memory"]]
        whole = memory[: len(memory) // dtype.itemsize * dtype.itemsize].view(dtype)
        return whole.as_strided(part["shape"], part["strides"], part["offset"])  # raises beyond its end


def _is_tensor(part) -> bool:
    return isinstance(part, dict) and "memory" in part


def _tensor(key: int | str, tensor: Tensor) -> dict:
    dtype = str(tensor.dtype).removeprefix("torch.")
    about = {"shape": tuple(tensor.shape), "strides": tuple(tensor.stride()), "offset": tensor.storage_offset()}
    return {"memory": key, "dtype": dtype} | about


def _bytes(tensor: Tensor) -> Tensor:
    """All bytes of a tensor's memory, which it shares."""
    return torch.tensor([], dtype=torch.uint8).set_(tensor.detach().untyped_storage())
