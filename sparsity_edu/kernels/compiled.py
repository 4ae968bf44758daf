"""Loops over numbers that numba compiles for this CPU: what torch would need many calls for, or copies.

A loop is written once, over numpy's arrays, and compiled twice: for as many threads as torch uses, among which a `prange` is
split, and for one. Compiled code is kept on disk, beside the source or in the user's cache. Where numba is missing `can_run`
says so, and torch does the work.

A bfloat16 is the upper half of a float32: it comes in as uint16 and is shifted. Numba on a CPU has no float16.

A small product takes as long as two views of a tensor as an array, since weights that stream through the caches leave nothing
of what runs between two products. Where that counts, loops are given addresses: see `array`.
"""

import os
import sys
import threading
import types
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

try:
    import numba
    from numba.core import event
    from numba.extending import intrinsic
except ImportError:
    numba = None

prange = range if numba is None else numba.prange

ALONE = 2**18  # numbers that one thread reads in less than a tenth of a millisecond
ORDERED = {"contract", "nsz"}  # sums as they are written, multiplied and added at once
FAST = {"reassoc", "contract", "nsz", "arcp"}  # sums in any order; infinities stay
THREADS = threading.Lock()  # for one caller at a time: numba ends a process that calls its threads from two of its own
LAST = threading.local()  # the number of threads that numba was told, which it keeps for each of Python's threads
if hasattr(os, "register_at_fork"):  # and a forked one, which has no such threads
    os.register_at_fork(after_in_child=lambda: THREADS.acquire(blocking=False))


KINDS = {torch.float32: np.float32(0), torch.bfloat16: np.uint16(0)}  # an example of each: numba takes its type from it


def can_run(*tensors: Tensor) -> bool:
    """Whether loops can be compiled, and know these numbers. They give no gradients."""
    for x in tensors:
        if not x.is_cpu or x.dtype not in KINDS or (x.requires_grad and torch.is_grad_enabled()):
            return False
    return numba is not None


def numbers(x: Tensor) -> np.ndarray:
    """The same memory as an array, bfloat16 as uint16: for `number`."""
    if x.requires_grad:
        x = x.detach()
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def part(flags: set[str], **options) -> Callable:
    """Decorates what loops call, in the file of these: when that is changed numba compiles anew."""
    return (lambda function: function) if numba is None else numba.njit(fastmath=flags, **options)


@part(FAST, inline="always")
def number(x):
    """A float32, or the one whose upper half this is."""
    if isinstance(x, np.float32):
        return x
    return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@part(FAST, inline="always")
def rounded(y, total):
    """A float32 as a number of the kind of y: to the nearest, and of two to the even one, as torch rounds."""
    if isinstance(y, np.float32):
        return total
    if total != total:
        return np.uint16(0x7FC0)
    bits = np.float32(total).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


if numba is not None:

    @intrinsic
    def pointer(typing, address):
        """An integer as what it points to."""

        def generate(context, builder, signature, given):
            return builder.inttoptr(given[0], context.get_value_type(numba.types.voidptr))

        return numba.types.voidptr(numba.types.int64), generate


@part(FAST)
def array(kind, address, shape):
    """What lies at an address, contiguous, of the type of `kind`. The caller keeps the tensor, and knows its shape."""
    if isinstance(kind, np.float32):
        return numba.carray(pointer(address), shape, np.float32)
    if isinstance(kind, np.uint16):
        return numba.carray(pointer(address), shape, np.uint16)
    if isinstance(kind, np.uint8):
        return numba.carray(pointer(address), shape, np.uint8)
    return numba.carray(pointer(address), shape, np.int64)


class Loops:
    """Decorates a function of loops, and runs it on as many threads as are worth while.

    Args:
        function: of arrays and numbers, with a `prange` over what threads can share.
    """

    def __init__(self, function: Callable) -> None:
        self.function = function
        if numba is not None:
            alone = types.FunctionType(function.__code__, function.__globals__)
            alone.__qualname__ = f"{function.__qualname__}_alone"  # numba keeps its code under this name
            self._together, self._alone = _compiled(function, parallel=True), _compiled(alone)

    def __call__(self, work: int, *arguments) -> object:
        """Run it.

        Args:
            work: how many numbers it reads, about: for few of them other threads take longer to come than they help.
            arguments: of the function.

        Returns:
            What the function does.
        """
        before = torch.get_num_threads()
        threads = min(before, numba.config.NUMBA_NUM_THREADS)
        if threads == 1 or work < ALONE or not THREADS.acquire(blocking=False):
            return self._alone(*arguments)
        try:
            if getattr(LAST, "threads", 0) != threads:
                numba.set_num_threads(threads)
                LAST.threads = threads
            return self._together(*arguments)
        finally:
            if torch.get_num_threads() != before:  # the first start of numba's OpenMP sets the number for all of the process
                torch.set_num_threads(before)
            THREADS.release()


def _compiled(function: Callable, **options) -> Callable:
    """What numba compiles when it is first called with arguments of new types."""
    try:
        loops = numba.njit(function, fastmath=FAST, cache=True, **options)
    except RuntimeError:  # no folder may be written to
        loops = numba.njit(function, fastmath=FAST, **options)
    OURS.add(loops)
    return loops


OURS: set[Callable] = set()

if numba is not None:

    class Notice(event.Listener):
        """Says what a learner waits for, where nothing was kept of an earlier time."""

        def on_start(self, event: event.Event) -> None:
            """Numba begins to compile a function, anybody's."""
            loops = event.data["dispatcher"]
            if loops in OURS:
                name = loops.__name__.strip("_")
                print(f"compiling {name} for this processor, once: a few seconds ...", file=sys.stderr, flush=True)

        def on_end(self, event: event.Event) -> None:
            """Numba has compiled it."""

    event.register("numba:compile", Notice())
