"""Where kernels run."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def runs_kernels(x: Tensor) -> bool:
    """Whether Triton kernels can be given this tensor: on a GPU, or in the interpreter."""
    if x.is_cuda:
        return True
    try:
        import triton
    except ImportError:  # there is none for macOS
        return False
    return triton.knobs.runtime.interpret


@contextmanager
def without_interpreter() -> Iterator[None]:
    """Run a model as fast as this machine can. Course notebooks turn on Triton's interpreter, which is for checking kernels."""
    try:
        import triton
    except ImportError:
        yield
        return
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = False
        yield


@functools.cache
def processors(device: torch.device) -> int:
    """Of a GPU, its multiprocessors; 1 of any other device, where the interpreter runs programs one by one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
