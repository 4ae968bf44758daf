"""What skipping saves on a CPU: products beside `torch.mv`, attention beside torch's own, and a model that writes text.

    python benchmarks/kernels_cpu.py [first] [products] [widths] [packed] [attention] [decoding] [--out benchmarks/results]

first: seconds of a first call, when nothing was compiled before. products: large matrices. widths: those of SmolLM2. packed:
2:4. attention: one token over some pages of a long cache. decoding: SmolLM2, with a threshold for each layer that none or half
of its inputs do not exceed on calibration text.

Each product runs over many matrices in turn, more than a cache holds, and the products take turns; the fastest of several
rounds counts.
"""

import argparse
import copy
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from sparsity_edu.data import python_docs
from sparsity_edu.kernels import sparse_attention, sparse_gemv, two_four_cpu
from sparsity_edu.kernels.sparse_gemv import in_torch
from sparsity_edu.models import load, tokens
from sparsity_edu.models.layers import prunable_layers
from sparsity_edu.patterns import n_m

COPIES, SIDE = 12, 4096
WIDTHS = {"Q, K, V": (576, 960), "O": (576, 576), "gate, up": (576, 3072), "down": (1536, 576)}  # inputs, outputs in SmolLM2
KINDS = (torch.float32, torch.bfloat16)


def seconds(*ways: list[Callable[[], object]], rounds: int = 8) -> list[float]:
    """Of each way, a list of calls: the fastest of all. They take turns, so that a busy moment does not fall on one alone."""
    best = [float("inf")] * len(ways)
    for turn in range(rounds + 1):
        for i, calls in enumerate(ways):
            for call in calls:
                start = time.perf_counter()
                call()
                if turn:  # the first is a rehearsal
                    best[i] = min(best[i], time.perf_counter() - start)
    return best


def table(title: str, *names: str) -> Table:
    """Numbers to the right, labels to the left."""
    columns = (Column(name, justify="right" if i else "left") for i, name in enumerate(names))
    return Table(*columns, box=box.SIMPLE_HEAD, title=title)


def products(dtype: torch.dtype) -> Table:
    """Each way to skip, by the share that is skipped."""
    copies = [torch.randn(SIDE, SIDE).to(dtype) for _ in range(COPIES)]
    x = torch.randn(SIDE).to(dtype)
    order = x.abs().float().argsort(descending=True)
    ways: dict[str, Callable[[Tensor, float, Tensor], Tensor]] = {
        "torch.mv": lambda W, threshold, idx: torch.mv(W, x),
        "gemv_threshold": lambda W, threshold, idx: sparse_gemv.gemv_threshold(W, x, threshold),
        "the same in torch": lambda W, threshold, idx: in_torch.threshold(W, x, (threshold,), (SIDE,)),
        "gemv_columns": lambda W, threshold, idx: sparse_gemv.gemv_columns(W, idx, x[idx]),
        "gemv_rows": lambda W, threshold, idx: sparse_gemv.gemv_rows(W, idx, x),
        "indexing, then mv": lambda W, threshold, idx: W[idx].T @ x[idx],
    }
    kind = str(dtype).removeprefix("torch.")
    shares = (0.0, 0.5, 0.75, 0.9)
    times = []
    for share in tqdm(shares, desc=kind, leave=False):
        threshold = x.abs().float().quantile(share).item() if share else -1.0
        idx = order[: round((1 - share) * SIDE)].sort().values
        times.append(seconds(*([partial(way, W, threshold, idx) for W in copies] for way in ways.values())))
    title = f"{SIDE} x {SIDE}, {kind}: torch.mv takes {min(dense for dense, *_ in times) * 1e3:.2f} ms"
    rows = table(title, "times as fast as torch.mv", *(f"{share:.0%}".replace("%", " %") for share in shares))
    for name, *each in zip(ways, *times, strict=True):
        rows.add_row(name, *(f"{dense / took:.2f}" for (dense, *_), took in zip(times, each, strict=True)))
    return rows


def widths(dtype: torch.dtype) -> Table:
    """`gemv_threshold` on matrices of SmolLM2's shapes, beside `torch.mv`."""
    kind = str(dtype).removeprefix("torch.")
    shares = (0.0, 0.5, 0.75)
    names = [f"{share:.0%}".replace("%", " %") for share in shares]
    rows = table(f"SmolLM2's shapes, {kind}: times as fast as torch.mv", "", "inputs", "outputs", "torch.mv, us", *names)
    for name, (K, N) in tqdm(WIDTHS.items(), desc=kind, leave=False):
        copies = [torch.randn(K, N).to(dtype) for _ in range(2**26 // (K * N * dtype.itemsize))]
        stored = [W.T.contiguous() for W in copies]  # as torch has them
        x = torch.randn(K).to(dtype)
        ways = [[partial(torch.mv, W, x) for W in stored]]
        for share in shares:
            threshold = x.abs().float().quantile(share).item() if share else -1.0
            ways.append([partial(sparse_gemv.gemv_threshold, W, x, threshold) for W in copies])
        dense, *skipping = seconds(*ways, rounds=24)
        rows.add_row(name, f"{K}", f"{N}", f"{dense * 1e6:.0f}", *(f"{dense / took:.2f}" for took in skipping))
    return rows


def packed(dtype: torch.dtype) -> Table:
    """A 2:4 matrix packed, beside `torch.mv` of the same one dense."""
    kind = str(dtype).removeprefix("torch.")
    shapes = WIDTHS | {"gate": (576, 1536), "K": (576, 192), "large": (SIDE, SIDE)}
    rows = table(f"2:4 weights, {kind}", "", "inputs", "outputs", "torch.mv, us", "packed, us", "times as fast")
    for name, (K, N) in tqdm(shapes.items(), desc=kind, leave=False):
        W = torch.randn(N, K)
        W = W.masked_fill(~n_m(W.abs(), 2, 4), 0).to(dtype)
        copies = [W.clone() for _ in range(max(2, 2**26 // W.nbytes))]
        x, stored = torch.randn(K).to(dtype), [two_four_cpu.Columns24.of(W) for W in copies]
        ways = [partial(torch.mv, W, x) for W in copies], [partial(two_four_cpu.gemv, W, x) for W in stored]
        dense, took = seconds(*ways, rounds=24)
        rows.add_row(name, f"{K}", f"{N}", f"{dense * 1e6:.0f}", f"{took * 1e6:.0f}", f"{dense / took:.2f}")
    return rows


FIRST = """
import time, torch
from sparsity_edu.kernels.sparse_gemv import gemv_threshold
W = torch.ones({n}, {n}, dtype=torch.{kind})
for _ in range(2):
    start = time.perf_counter(), time.process_time()
    gemv_threshold(W, W[0], 0.5)
    print(time.perf_counter() - start[0], time.process_time() - start[1])
"""


def first() -> Table:
    """Seconds of a first call of `gemv_threshold`, in a new process: with nothing kept of an earlier one, and with that."""
    rows = table(
        "The first call of gemv_threshold, seconds", "", "threads", "compiled", "of a processor", "kept", "second call, us"
    )
    for kind in ("float32", "bfloat16"):
        for side, threads in ((64, "1"), (1024, "all")):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-c", FIRST.format(n=side, kind=kind)]
                environment = os.environ | {"NUMBA_CACHE_DIR": folder}
                runs = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
            (cold, busy, again, _), (kept, *_) = ([float(number) for number in run.stdout.split()] for run in runs)
            rows.add_row(kind, threads, f"{cold:.1f}", f"{busy:.1f}", f"{kept:.2f}", f"{again * 1e6:.0f}")
    return rows


def attention(heads: int = 8, dim: int = 64, page: int = 16, budget: int = 1024) -> Table:
    """One token over the best pages of a cache, choosing them included."""
    rows = table(
        f"Attention over {budget} tokens, {heads} heads of {dim}, float32", "tokens", "all, ms", "pages, ms", "times as fast"
    )
    for count in (4096, 16384, 65536):
        q = torch.randn(1, heads, dim)
        k, v = (torch.randn(1, heads, count, dim) for _ in range(2))
        low, high = sparse_attention.page_bounds(k, page)

        def chosen(q=q, k=k, v=v, low=low, high=high) -> Tensor:
            pages = sparse_attention.page_scores(q, low, high).topk(budget // page, dim=-1).indices
            return sparse_attention.sparse_decode(q, k, v, pages, page)

        full, some = seconds([partial(F.scaled_dot_product_attention, q[:, :, None], k, v)], [chosen])
        rows.add_row(f"{count}", f"{full * 1e3:.2f}", f"{some * 1e3:.2f}", f"{full / some:.1f}")
    return rows


def decoding(dtype: torch.dtype, length: int = 64, rounds: int = 5) -> Table:
    """Milliseconds per token of SmolLM2, dense and with small inputs skipped: in turns, the fastest of each."""
    model, tokenizer = load("smollm2")
    text = tokens(tokenizer, python_docs("calibration"), 2048).view(4, 512)
    thresholds = {"no input skipped": -1.0, "small inputs skipped": medians(model, text, 0.5)}
    prompt = tokens(tokenizer, python_docs("validation"), 32)[None]
    models, shares = {"dense": model.to(dtype)}, {}
    for name, each in thresholds.items():
        models[name] = copy.deepcopy(models["dense"])
        sparse_gemv.threshold_linear_(models[name], each)
        with skipped(models[name]) as found:
            steps(models[name], prompt, 8)
        shares[name] = f"{statistics.mean(found):.0%}"
    taken: dict[str, list[list[float]]] = {name: [] for name in models}
    for _ in tqdm(range(rounds), desc="decoding", leave=False):
        for name, each in models.items():
            taken[name].append(steps(each, prompt, length))
    best = {name: statistics.mean(map(min, zip(*runs, strict=True))) for name, runs in taken.items()}
    kind = str(dtype).removeprefix("torch.")
    title = f"SmolLM2, {length} tokens after {prompt.shape[1]}, {kind}"
    rows = table(title, "", "ms per token", "times as fast", "inputs skipped")
    for name, took in best.items():
        rows.add_row(name, f"{took * 1e3:.1f}", f"{best['dense'] / took:.2f}", shares.get(name, ""))
    return rows


@torch.no_grad()
def medians(model: nn.Module, ids: Tensor, share: float) -> dict[str, float]:
    """For each linear layer of the blocks, what a share of its inputs does not exceed."""
    found: dict[str, list[float]] = {name: [] for name in prunable_layers(model)}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: found[name].append(middle(given[0], share)))
        for name, layer in prunable_layers(model).items()
    ]
    for row in ids:
        model(row[None])
    for hook in hooks:
        hook.remove()
    return {name: statistics.mean(values) for name, values in found.items()}


def middle(x: Tensor, share: float) -> float:
    """A quantile of |x|."""
    return x.abs().flatten().kthvalue(max(1, round(share * x.numel()))).values.item()


@contextmanager
def skipped(model: nn.Module) -> Iterator[list[float]]:
    """The share of inputs that each call for a single token skips."""
    shares: list[float] = []

    def note(layer: sparse_gemv.ThresholdLinear, given: tuple[Tensor]) -> None:
        if given[0].shape[-2] == 1:
            shares.append(float((given[0].abs() <= layer.threshold).float().mean()))

    layers = [layer for layer in model.modules() if isinstance(layer, sparse_gemv.ThresholdLinear)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    yield shares
    for hook in hooks:
        hook.remove()


class Clock:
    """Notes when each token comes, where `generate` expects a streamer."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, ids: Tensor) -> None:
        """The prompt, then a token at a time."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """After the last one."""


def steps(model: nn.Module, prompt: Tensor, length: int) -> list[float]:
    """Seconds of each of `length` steps of decoding."""
    clock, count = Clock(), length + 1
    model.generate(prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0, streamer=clock)
    _, *times = clock.times  # without the prompt
    return [after - before for before, after in itertools.pairwise(times)]


PARTS: dict[str, Callable[[], list[Table]]] = {
    "first": lambda: [first()],
    "products": lambda: [products(dtype) for dtype in KINDS],
    "widths": lambda: [widths(dtype) for dtype in KINDS],
    "packed": lambda: [packed(dtype) for dtype in KINDS],
    "attention": lambda: [attention()],
    "decoding": lambda: [decoding(dtype) for dtype in KINDS],
}


def main(parts: list[str], out: Path) -> None:
    """Measure, print, and write down."""
    console = Console(width=100, soft_wrap=True, record=True)
    console.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for part in parts:
        for rows in PARTS[part]():
            console.print(rows)
    out.mkdir(parents=True, exist_ok=True)
    name = "kernels_cpu" if parts == list(PARTS) else "_".join(["kernels_cpu", *parts])
    (out / f"{name}.txt").write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"any of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the tables")
    given = parser.parse_args()
    if wrong := [part for part in given.parts if part not in PARTS]:
        parser.error(f"parts must be of {', '.join(PARTS)}, got {wrong[0]}")
    main(given.parts, given.out)
