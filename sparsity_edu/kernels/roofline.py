"""How fast a call can be at best: bytes over bandwidth, or operations over peak, whichever takes longer.

    work = threshold_gemv(14336, 4096, kept=2048)
    print(work.seconds(this_machine()))
    draw([work], this_machine())

Bytes are those that must come from memory: each stored number that is needed once, inputs, results, and sums that one kernel
leaves to the next. An operation is a multiplication or an addition.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Machine:
    """What a machine can do."""

    name: str
    bandwidth: float  # bytes per second, read
    peak: float  # operations per second

    @property
    def ridge(self) -> float:
        """Operations per byte from which on operations decide."""
        return self.peak / self.bandwidth


@dataclass(frozen=True)
class Work:
    """What a call has to do."""

    name: str
    bytes: int
    operations: int

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.bytes

    def seconds(self, machine: Machine) -> float:
        """The least time that it can take."""
        return max(self.bytes / machine.bandwidth, self.operations / machine.peak)


def dense_gemv(N: int, K: int, tokens: int = 1, itemsize: int = 2) -> Work:
    """y = W x with all of W.

    Args:
        N: outputs.
        K: inputs.
        tokens: columns of x.
        itemsize: bytes of a number.
    """
    return Work("dense", itemsize * (N * K + tokens * (N + K)), 2 * N * K * tokens)


def two_four_gemv(N: int, K: int, tokens: int = 1, itemsize: int = 2) -> Work:
    """y = W x with W stored as 2:4: half of the values, and 2 bits for the place of each."""
    return Work("2:4", itemsize * N * K // 2 + N * K // 8 + itemsize * tokens * (N + K), N * K * tokens)


def threshold_gemv(N: int, K: int, kept: int, tokens: int = 1, itemsize: int = 2, splits: int = 1) -> Work:
    """y = W x with the weights of `kept` inputs only, in two kernels.

    Args:
        N: outputs.
        K: inputs.
        kept: inputs above the threshold for some token.
        tokens: columns of x.
        itemsize: bytes of a number.
        splits: float32 sums of each output that the first kernel writes and the second one reads; 1: there is no second one.
    """
    partial = 2 * 4 * splits * tokens * N if splits > 1 else 0
    return Work("threshold", itemsize * (N * kept + tokens * (N + K)) + partial, 2 * N * kept * tokens)


def row_gemv(chosen: int, K: int, tokens: int = 1, itemsize: int = 2) -> Work:
    """y = W[idx] x with `chosen` rows of W; an index takes 4 bytes."""
    return Work("rows", itemsize * (chosen * K + tokens * (chosen + K)) + 4 * chosen, 2 * chosen * K * tokens)


def decode_attention(
    tokens: int, kv_heads: int, head_dim: int, heads: int | None = None, page: int | None = None, kept: int | None = None,
    itemsize: int = 2,
) -> Work:  # fmt: skip
    """Attention of one query over a cache, or over the tokens of chosen pages.

    Args:
        tokens: in the cache.
        kv_heads: heads of keys and of values.
        head_dim: their width.
        heads: of queries. Default: as many.
        page: tokens of a page, of whose two bounds scores are made. Default: all tokens are read.
        kept: tokens that are attended to. Default: all.
        itemsize: bytes of a number.
    """
    heads, kept = heads or kv_heads, tokens if kept is None else kept
    bounds = 0 if page is None else 2 * -(-tokens // page)  # vectors, as a key is one
    read = itemsize * head_dim * (kv_heads * (2 * kept + bounds) + 2 * heads)
    return Work("full attention" if page is None else f"pages of {page}", read, 2 * heads * head_dim * (2 * kept + bounds))


def this_machine(device: torch.device | str | None = None, megabytes: int = 256) -> Machine:
    """Measure what a device can do: reading a vector much larger than its caches, multiplying square matrices.

    Args:
        device: Default: the GPU where there is one, else the CPU, with torch's number of threads.
        megabytes: size of the vector. A CPU's cache can be large: take more where the result looks too good.

    Returns:
        Bandwidth from the fastest of several runs, in float16 on a GPU and float32 on a CPU, and the peak likewise.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    gpu = device.type == "cuda"
    vector = torch.ones(megabytes * 2**20 // 4, device=device)
    side = 8192 if gpu else 1024
    square = torch.randn(side, side, device=device, dtype=torch.float16 if gpu else torch.float32)
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if gpu else f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    bandwidth = vector.nbytes / fastest(lambda: vector.sum(), device)
    return Machine(name, bandwidth, 2 * side**3 / fastest(lambda: square @ square, device))


def fastest(call: Callable[[], object], device: torch.device, runs: int = 10) -> float:
    """Seconds of the fastest of several runs, after one to warm up."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for _ in range(runs + 1):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def draw(works: Sequence[Work], machine: Machine, measured: Sequence[float | None] = (), ax=None):
    """The roof of a machine, and under it what calls could reach and what they did.

    Args:
        works: the calls.
        machine: whose roof.
        measured: seconds that each took, if known.
        ax: matplotlib's axes. Default: new ones.

    Returns:
        The axes.
    """
    import matplotlib.pyplot as plt

    from sparsity_edu import plots

    ax = ax or plt.subplots(figsize=(6.5, 3.5))[1]
    lowest = min([machine.ridge, *(work.intensity for work in works)]) / 4
    intensity = np.geomspace(lowest, machine.ridge * 8, 200)
    ax.loglog(intensity, np.minimum(intensity * machine.bandwidth, machine.peak) / 1e9, color=plots.GREY)
    ax.axvline(machine.ridge, color=plots.GREY, linewidth=0.8, linestyle=":")
    for i, work in enumerate(works):
        color = plots.COLORS[i % len(plots.COLORS)]
        reachable = work.operations / work.seconds(machine)
        ax.plot(work.intensity, reachable / 1e9, "o", color=color, fillstyle="none", label=work.name)
        if i < len(measured) and measured[i]:
            ax.plot(work.intensity, work.operations / measured[i] / 1e9, "o", color=color)
    ax.set(xlabel="operations per byte", ylabel="10⁹ operations / s", title=f"Roofline: {machine.name}")
    if any(measured):
        ax.plot([], [], "ko", label="measured")
    ax.legend(fontsize="small")
    return ax
