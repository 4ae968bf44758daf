"""What skipping saves on a CPU: products beside `torch.mv`, attention beside torch's own, and a model that writes text.

    python benchmarks/kernels_cpu.py [--out benchmarks/results]

Each product runs over twelve matrices in turn, more than a cache holds, and the products take turns; the fastest of several
rounds counts. The model is SmolLM2, with a threshold for each layer that half of its inputs do not exceed on calibration text.
"""

import argparse
import copy
import statistics
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
from sparsity_edu.kernels import sparse_attention, sparse_gemv
from sparsity_edu.models import load, tokens
from sparsity_edu.models.layers import prunable_layers

COPIES, SIDE = 12, 4096


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


def decoding(dtype: torch.dtype, share: float = 0.5, length: int = 64, rounds: int = 5) -> Table:
    """Milliseconds per token of SmolLM2, dense and with small inputs skipped: in turns, the fastest of each."""
    model, tokenizer = load("smollm2")
    thresholds = medians(model, tokens(tokenizer, python_docs("calibration"), 2048).view(4, 512), share)
    prompt = tokens(tokenizer, python_docs("validation"), 32)[None]
    dense = model.to(dtype)
    sparse = copy.deepcopy(dense)
    sparse_gemv.threshold_linear_(sparse, thresholds)
    with skipped(sparse) as shares:
        sparse.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)
    times = [
        (per_token(dense, prompt, length), per_token(sparse, prompt, length))
        for _ in tqdm(range(rounds), desc="decoding", leave=False)
    ]
    best_dense, best_sparse = map(min, zip(*times, strict=True))
    kind = str(dtype).removeprefix("torch.")
    title = f"SmolLM2, {length} tokens after {prompt.shape[1]}, {kind}"
    rows = table(title, "", "ms per token", "times as fast", "inputs skipped")
    rows.add_row("dense", f"{best_dense * 1e3:.1f}", "1.00", "")
    rows.add_row(
        "small inputs skipped", f"{best_sparse * 1e3:.1f}", f"{best_dense / best_sparse:.2f}", f"{statistics.mean(shares):.0%}"
    )
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


def per_token(model: nn.Module, prompt: Tensor, length: int) -> float:
    """Seconds of a step of decoding: what `length` more tokens cost."""
    each = []
    for count in (1, length + 1):
        start = time.perf_counter()
        model.generate(prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)
        each.append(time.perf_counter() - start)
    return (each[1] - each[0]) / length


def main(out: Path) -> None:
    """Measure, print, and write down."""
    console = Console(width=100, soft_wrap=True, record=True)
    console.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for dtype in (torch.float32, torch.bfloat16):
        console.print(products(dtype))
    console.print(attention())
    for dtype in (torch.float32, torch.bfloat16):
        console.print(decoding(dtype))
    out.mkdir(parents=True, exist_ok=True)
    (out / "kernels_cpu.txt").write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the tables")
    main(parser.parse_args().out)
