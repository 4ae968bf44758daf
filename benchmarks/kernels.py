"""Time of the kernels beside cuBLAS, torch's own and TEAL's design, and what the memory allows.

    python benchmarks/kernels.py [two_four] [inputs] [attention] [--copies-mb 512] [--out benchmarks/results]

two_four: weights at 2:4. inputs: weights of small inputs skipped. attention: one token over some pages of a long cache.

A kernel that reads weights once cannot be faster than its bytes take to arrive. Each function runs over copies of its weights
in turn, together several times larger than the L2 cache, so that every call reads from memory; all calls of a turn are one CUDA
graph, so that launches cost nothing. The floor is the time of a kernel that does nothing but read as many bytes.

Without a GPU it prints bytes and bounds, and no times. For Linux.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
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

from sparsity_edu.kernels import sparse_attention, sparse_gemv, two_four
from sparsity_edu.kernels.roofline import Work, decode_attention, dense_gemv, threshold_gemv, two_four_gemv

SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336), (28672, 8192))  # (N, K): projections of 7B, 8B and 70B models
DTYPE = torch.float16
PARTS = ("two_four", "inputs", "attention")


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


@triton.jit
def add_in_half(W, x, y, N, K, threshold, ROWS: tl.constexpr, COLS: tl.constexpr):
    """TEAL's design: W (K, N), a tile for each program, its float32 sums added to y in float16 as programs end."""
    col, row = tl.program_id(0) * COLS + tl.arange(0, COLS), tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inputs = tl.load(x + row, mask=row < K, other=0.0, eviction_policy="evict_last")
    large = tl.abs(inputs) > threshold
    inside = large[:, None] & (col[None, :] < N)
    w = tl.load(W + row.to(tl.int64)[:, None] * N + col[None, :], mask=inside, other=0.0, eviction_policy="evict_first")
    sums = tl.sum(w.to(tl.float32) * inputs.to(tl.float32)[:, None], axis=0)
    tl.atomic_add(y + col, sums.to(tl.float16), mask=col < N)


TEAL_TILES = [(rows, cols) for rows in (16, 32, 64) for cols in (64, 128, 256, 512)]  # the fastest of them is taken


def teal(W: Tensor, x: Tensor, threshold: float, tile: tuple[int, int]) -> Tensor:
    """y = x W with the rows of W whose input is large, as TEAL's kernel adds them."""
    (K, N), (rows, cols) = W.shape, tile
    y = torch.zeros(N, dtype=torch.float16, device=W.device)
    add_in_half[(triton.cdiv(N, cols), triton.cdiv(K, rows))](W, x, y, N, K, threshold, ROWS=rows, COLS=cols)
    return y


def table(title: str, *names: str) -> Table:
    """Numbers to the right, labels to the left."""
    return Table(
        *(Column(name, justify="right" if i > 1 else "left") for i, name in enumerate(names)), box=box.SIMPLE_HEAD, title=title
    )


def two_four_rows(tokens: int, bandwidth: float, copies_bytes: int) -> Table:
    """2:4 weights, by shape and contender."""
    rows = table(
        f"2:4 weights, {tokens} token{'s' * (tokens > 1)}, fp16", "", "N x K", "µs", "dense / this", "floor / this", "error"
    )
    ways = contenders()
    for N, K in tqdm(SHAPES, desc=f"2:4, {tokens} tokens", leave=False):
        W, x = random_two_four(N, K), torch.randn(tokens, K, device="cuda", dtype=DTYPE)
        exact = x.double() @ W.double().T
        dense = None
        for way in ways:
            kept = [way.prepare(W.clone()) for _ in range(-(-copies_bytes // W.nbytes))]
            time = seconds([lambda k=k, way=way, x=x: way.product(k, x) for k in kept])
            dense = dense or time
            error = (way.product(kept[0], x).double() - exact).norm() / exact.norm()
            floor = way.bytes_of(W.nbytes) / bandwidth
            rows.add_row(
                way.name, f"{N} x {K}", f"{time * 1e6:.1f}", f"{dense / time:.2f}", f"{floor / time:.0%}", f"{error:.1e}"
            )
            del kept
        rows.add_section()
    return rows


def input_rows(bandwidth: float, copies_bytes: int) -> Table:
    """Weights of small inputs skipped, by shape, sparsity and contender; one token."""
    rows = table("Small inputs skipped, 1 token, fp16", "", "N x K", "skipped", "µs", "dense / this", "floor / this", "error")
    for N, K in tqdm(SHAPES, desc="inputs", leave=False):
        copies = [torch.randn(K, N, device="cuda", dtype=DTYPE) for _ in range(-(-copies_bytes // (2 * N * K)))]
        x = torch.randn(K, device="cuda", dtype=DTYPE)
        dense = seconds([partial(F.linear, x, W.T.contiguous()) for W in copies])
        floor = dense_gemv(N, K).bytes / bandwidth
        rows.add_row("cuBLAS, dense", f"{N} x {K}", "", f"{dense * 1e6:.1f}", "1.00", f"{floor / dense:.0%}", "")
        for share in (0.0, 0.25, 0.5, 0.75, 0.9):
            for name, time, floor, error in input_times(copies, x, share, bandwidth):
                numbers = f"{time * 1e6:.1f}", f"{dense / time:.2f}", f"{floor / time:.0%}", f"{error:.1e}"
                rows.add_row(name, f"{N} x {K}", f"{share:.0%}", *numbers)
        rows.add_section()
    return rows


def input_times(copies: list[Tensor], x: Tensor, share: float, bandwidth: float) -> Iterator[tuple[str, float, float, float]]:
    """(name, seconds, the floor's, error) of each contender, with a share of the inputs below the threshold."""
    threshold = x.abs().float().quantile(share).item() if share else -1.0
    large = x.abs().float() > threshold
    exact = torch.where(large, x, 0).double() @ copies[0].double()
    floor = threshold_gemv(copies[0].shape[1], len(x), int(large.sum())).bytes / bandwidth

    def time_of(product: Callable[[Tensor], Tensor], repeats: int = 20) -> float:
        return seconds([partial(product, W) for W in copies], repeats)

    tile = min(TEAL_TILES, key=lambda tile: time_of(lambda W: teal(W, x, threshold, tile), repeats=3))
    ways = {
        "ours, two kernels": lambda W: sparse_gemv.gemv_threshold(W, x, threshold),
        "ours, atomic fp32": lambda W: sparse_gemv.gemv_threshold(W, x, threshold, atomic=True),
        "TEAL's, atomic fp16": lambda W: teal(W, x, threshold, tile),
    }
    for name, way in ways.items():
        yield name, time_of(way), floor, float((way(copies[0]).double() - exact).norm() / exact.norm())


def attention_rows(bandwidth: float, heads: int = 32, dim: int = 128, page: int = 16, budget: int = 2048) -> Table:
    """One token over the best pages of a cache beside all of it."""
    title = f"Attention over {budget} tokens, {heads} heads of {dim}, fp16"
    rows = table(title, "", "kv heads", "tokens", "µs", "full / this", "floor / this")
    for kv_heads in (heads, heads // 4):
        for tokens in tqdm((8192, 32768, 131072), desc="attention", leave=False):
            full = None
            for name, time, work in attention_times(heads, kv_heads, tokens, dim, page, budget):
                full = full or time
                numbers = f"{time * 1e6:.1f}", f"{full / time:.2f}", f"{work.bytes / bandwidth / time:.0%}"
                rows.add_row(name, f"{kv_heads}", f"{tokens}", *numbers)
            rows.add_section()
    return rows


def attention_times(
    heads: int, kv_heads: int, tokens: int, dim: int, page: int, budget: int
) -> Iterator[tuple[str, float, Work]]:
    """(name, seconds, work) of each contender."""
    q = torch.randn(1, heads, dim, device="cuda", dtype=DTYPE)
    k, v = (torch.randn(1, kv_heads, tokens, dim, device="cuda", dtype=DTYPE) for _ in range(2))
    low, high = sparse_attention.page_bounds(k, page)
    every = torch.arange(tokens // page, device="cuda").expand(1, kv_heads, -1).contiguous()

    def choose() -> Tensor:
        """One list of pages for all heads that share their keys."""
        scores = sparse_attention.page_scores(q, low, high).unflatten(1, (kv_heads, -1)).amax(dim=2)
        return scores.topk(budget // page, dim=-1).indices

    pages, cost = choose(), partial(decode_attention, tokens, kv_heads, dim, heads)
    yield "torch, all tokens", seconds([lambda: F.scaled_dot_product_attention(q[:, :, None], k, v, enable_gqa=True)]), cost()
    yield "ours, all tokens", seconds([lambda: sparse_attention.sparse_decode(q, k, v, every, page)]), cost()
    yield "ours, chosen pages", seconds([lambda: sparse_attention.sparse_decode(q, k, v, pages, page)]), cost(kept=budget)
    chosen = seconds([lambda: sparse_attention.sparse_decode(q, k, v, choose(), page)])
    yield "ours, choosing too", chosen, cost(page=page, kept=budget)


def bounds(console: Console) -> None:
    """What can be said without a GPU."""
    console.print("No GPU: bytes and bounds only, nothing is timed.")
    rows = table("One token, fp16", "", "N x K", "dense MB", "this MB", "share", "at best")
    for N, K in SHAPES:
        dense = dense_gemv(N, K)
        skipping = {f"{s:.0%} skipped": threshold_gemv(N, K, round((1 - s) * K)) for s in (0.25, 0.5, 0.75, 0.9)}
        for name, work in {"2:4": two_four_gemv(N, K), **skipping}.items():
            share = work.bytes / dense.bytes
            rows.add_row(
                name,
                f"{N} x {K}",
                f"{dense.bytes / 1e6:.1f}",
                f"{work.bytes / 1e6:.1f}",
                f"{share:.4f}",
                f"{1 / share:.2f} times",
            )
        rows.add_section()
    for tokens in (8192, 32768, 131072):
        full, some = decode_attention(tokens, 32, 128), decode_attention(tokens, 32, 128, page=16, kept=2048)
        share = some.bytes / full.bytes
        rows.add_row(
            "2048 tokens",
            f"{tokens} tokens",
            f"{full.bytes / 1e6:.1f}",
            f"{some.bytes / 1e6:.1f}",
            f"{share:.4f}",
            f"{1 / share:.2f} times",
        )
    console.print(rows)


def main(parts: list[str], copies_mb: int, out: Path) -> None:
    """Measure, or say what there is to measure."""
    if not torch.cuda.is_available():
        return bounds(Console(width=100, soft_wrap=True))
    console = Console(width=100, soft_wrap=True, record=True)
    copies_bytes = copies_mb * 2**20
    bandwidth = read_bandwidth(copies_bytes)
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, read bandwidth {bandwidth / 1e12:.2f} TB/s")
    if "two_four" in parts:
        for tokens in (1, 8):
            console.print(two_four_rows(tokens, bandwidth, copies_bytes))
    if "inputs" in parts:
        console.print(input_rows(bandwidth, copies_bytes))
    if "attention" in parts:
        console.print(attention_rows(bandwidth))
    out.mkdir(parents=True, exist_ok=True)
    name = "_".join([*parts, *torch.cuda.get_device_name().lower().split()])
    (out / f"kernels_{name}.txt").write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"any of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--copies-mb", type=int, default=512, help="memory of all copies of a matrix (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the tables")
    given = parser.parse_args()
    if wrong := [part for part in given.parts if part not in PARTS]:
        parser.error(f"parts must be of {', '.join(PARTS)}, got {wrong[0]}")
    main(given.parts, given.copies_mb, given.out)
