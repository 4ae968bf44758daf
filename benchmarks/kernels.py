"""Time of the kernels beside cuBLAS, torch's own sparse ones, and what the memory allows.

    python benchmarks/kernels.py [--tokens 1 8] [--copies-mb 512] [--out benchmarks/results]

A kernel that reads weights once cannot be faster than its bytes take to arrive. Each function runs over copies of its weights
in turn, together several times larger than the L2 cache, so that every call reads from memory; all calls of a turn are one CUDA
graph, so that launches cost nothing. The floor is the time of a kernel that does nothing but read as many bytes.

Without a GPU it prints bytes and bounds, and no times. For Linux.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
import triton.language as tl
from rich import box
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from sparsity_edu.kernels import two_four

SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336), (28672, 8192))  # (N, K): projections of 7B, 8B and 70B models
DTYPE = torch.float16


@dataclass(frozen=True)
class Contender:
    """A way to compute y = x W^T."""

    name: str
    prepare: Callable[[Tensor], object]  # what it keeps of a 2:4 matrix
    product: Callable[[object, Tensor], Tensor]  # of what it keeps and x (tokens, K)
    bytes_of: Callable[[int], float]  # that it has to read, of those of the dense matrix


def torch_sparse(kind: type) -> tuple[Callable, Callable]:
    """Torch's semi-structured product, which wants the sparse matrix first and at least 8 columns."""

    def product(W: Tensor, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 0, -len(x) % 8))
        return F.linear(padded, W)[: len(x)]

    return kind.from_dense, product


def contenders() -> list[Contender]:
    """All that this machine can run."""
    stored = 0.5625
    cuda = torch.device("cuda")
    found = [
        Contender("cuBLAS, dense", lambda W: W, lambda W, x: F.linear(x, W), lambda n: n),
        Contender("ours, selecting", two_four.pack, two_four.gemv, lambda n: stored * n),
    ]
    if two_four.tensor_cores_work(cuda, DTYPE):
        found.append(
            Contender("ours, mma.sp", lambda W: two_four.to_fragments(two_four.pack(W)), two_four.gemv, lambda n: stored * n)
        )
    kinds = {
        "torch, CUTLASS": torch.sparse.SparseSemiStructuredTensorCUTLASS,
        "torch, cuSPARSELt": torch.sparse.SparseSemiStructuredTensorCUSPARSELT,
    }
    for name, kind in kinds.items():
        try:
            prepare, product = torch_sparse(kind)
            product(prepare(random_two_four(256, 256)), torch.randn(8, 256, device="cuda", dtype=DTYPE))
        except (RuntimeError, NotImplementedError, ValueError) as error:
            Console(stderr=True).print(f"{name} is left out: {str(error).splitlines()[0]}")
        else:
            found.append(Contender(name, prepare, product, lambda n: stored * n))
    return found


def random_two_four(N: int, K: int) -> Tensor:
    """A 2:4 matrix of the GPU."""
    W = torch.randn(N, K // 4, 4, device="cuda")
    return (W * (W.abs().argsort(-1).argsort(-1) >= 2)).view(N, K).to(DTYPE)


def seconds(calls: list[Callable[[], object]], repeats: int = 20) -> float:
    """Median seconds per call of all of them, recorded as one CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:  # compiles, allocates
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / len(calls))
    return statistics.median(times)


@triton.jit
def read(x, out, n, BLOCK: tl.constexpr):
    """A sum per block, stored, or the loads would be left out."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + tl.program_id(0), tl.sum(tl.load(x + at, mask=at < n, other=0)))


def read_bandwidth(copies_bytes: int) -> float:
    """Bytes per second of a kernel that only reads."""
    x = torch.zeros(copies_bytes // 4, dtype=torch.int32, device="cuda")
    block = 8192
    out = torch.zeros(-(-len(x) // block), dtype=torch.int32, device="cuda")
    return x.nbytes / seconds([lambda: read[(len(out),)](x, out, len(x), BLOCK=block, num_warps=8)])


def measure(tokens: list[int], copies_mb: int, console: Console) -> None:
    """Print a table per number of tokens."""
    bandwidth = read_bandwidth(copies_mb * 2**20)
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, read bandwidth {bandwidth / 1e12:.2f} TB/s")
    ways = contenders()
    for few in tokens:
        columns = (Column(name, justify="right") for name in ("N x K", "µs", "dense / this", "floor / this", "error"))
        table = Table("", *columns, box=box.SIMPLE_HEAD, title=f"{few} token{'s' * (few > 1)}, fp16")
        for N, K in tqdm(SHAPES, desc=f"{few} tokens", leave=False):
            W, x = random_two_four(N, K), torch.randn(few, K, device="cuda", dtype=DTYPE)
            exact = x.double() @ W.double().T
            dense = None
            for way in ways:
                count = -(-copies_mb * 2**20 // W.nbytes)
                kept = [way.prepare(W.clone()) for _ in range(count)]
                time = seconds([lambda k=k, way=way, x=x: way.product(k, x) for k in kept])
                dense = dense or time
                error = (way.product(kept[0], x).double() - exact).norm() / exact.norm()
                floor = way.bytes_of(W.nbytes) / bandwidth
                table.add_row(
                    way.name, f"{N} x {K}", f"{time * 1e6:.1f}", f"{dense / time:.2f}", f"{floor / time:.0%}", f"{error:.1e}"
                )
                del kept
            table.add_section()
        console.print(table)


def bounds(console: Console) -> None:
    """What can be said without a GPU."""
    console.print("No GPU: bytes and bounds only, nothing is timed.")
    columns = (Column(name, justify="right") for name in ("dense MB", "2:4 MB", "share", "at best"))
    table = Table("N x K", *columns, box=box.SIMPLE_HEAD)
    for N, K in SHAPES:
        packed = two_four.Packed24(
            torch.empty(N, K // 2, dtype=DTYPE, device="meta"), torch.empty(N, K // 16, dtype=torch.int16, device="meta")
        )
        dense = N * K * DTYPE.itemsize
        share = packed.nbytes / dense
        table.add_row(
            f"{N} x {K}", f"{dense / 1e6:.1f}", f"{packed.nbytes / 1e6:.1f}", f"{share:.4f}", f"{1 / share:.2f} times"
        )
    console.print(table)


def main(tokens: list[int], copies_mb: int, out: Path) -> None:
    """Measure, or say what there is to measure."""
    if not torch.cuda.is_available():
        return bounds(Console(soft_wrap=True))
    console = Console(soft_wrap=True, record=True)
    measure(tokens, copies_mb, console)
    out.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name().lower().replace(" ", "_")
    (out / f"kernels_{name}.txt").write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8], help="tokens per product (default: 1 and 8)")
    parser.add_argument("--copies-mb", type=int, default=512, help="memory of all copies of a matrix (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the table")
    given = parser.parse_args()
    main(given.tokens, given.copies_mb, given.out)
