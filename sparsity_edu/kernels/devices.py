"""Where kernels run."""

import functools

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


@functools.cache
def processors(device: torch.device) -> int:
    """Of a GPU, its multiprocessors; 1 of any other device, where the interpreter runs programs one by one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
