"""What pruning costs: seconds and memory for a whole model, SparseGPT's parts, and how they grow.

    python benchmarks/pruning.py [--model smollm2] [--windows 16] [--window 512] [--figure pruning.png]

Ours is compared with the authors' published code, line by line (published.py), which collects a Hessian and factorises it for
every projection by itself. Each prune of a model runs in a process of its own, one after the other. For Linux.
"""

import argparse
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import published
import torch
from rich import box
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor
from tqdm.auto import tqdm

from sparsity_edu import plots
from sparsity_edu.data import python_docs
from sparsity_edu.models import load, tokens
from sparsity_edu.models.layers import prunable_layers
from sparsity_edu.weights import driver, sparsegpt

SPARSITY = 0.5
OWN = ("Hessian", "factorisation", "columns")  # what is SparseGPT's own; the rest is forward passes
WIDTHS, TOKENS = (512, 1024, 2048, 4096), (2048, 4096, 8192, 16384)


def prune_ours(model: torch.nn.Module, method: str, calibration: Tensor) -> dict[str, float]:
    """Seconds of each part."""
    times: dict[str, float] = defaultdict(float)
    parts = {"Hessian": (sparsegpt.Hessian, "add"), "factorisation": (sparsegpt, "inverse_factor")}
    parts["columns"] = (sparsegpt, "prune_together")
    originals = {name: getattr(owner, attribute) for name, (owner, attribute) in parts.items()}
    for name, (owner, attribute) in parts.items():
        setattr(owner, attribute, timed(times, name, originals[name]))
    start = time.perf_counter()
    try:
        driver.prune_(model, method, SPARSITY, calibration=None if method == "magnitude" else calibration)
    finally:
        for name, (owner, attribute) in parts.items():
            setattr(owner, attribute, originals[name])
    return {"all": time.perf_counter() - start, **times}


def prune_published(model: torch.nn.Module, method: str, calibration: Tensor) -> dict[str, float]:
    """Seconds of each part."""
    wrapper = {"sparsegpt": published.SparseGPT, "wanda": published.WrappedGPT}[method]
    start = time.perf_counter()
    times = published.prune_llama(model, wrapper, calibration, SPARSITY)
    return {"all": time.perf_counter() - start, **times}


def measured(prune: Callable, name: str, method: str, windows: int, window: int, answer) -> None:
    """Prune in this process, and send seconds, memory, and where the zeros are."""
    model, tokenizer = load(name)
    calibration = tokens(tokenizer, python_docs("calibration"), windows * window).view(windows, window)
    with torch.no_grad():
        model(calibration[:1])  # so that what a forward pass needs is there before
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak so far, which was that of loading the model
    times = prune(model, method, calibration)
    peak = _peak() - before
    zeros = {layer: (module.weight == 0).numpy() for layer, module in prunable_layers(model).items()}
    answer.send((times, peak / 2**20, zeros))


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def in_a_process(*arguments) -> tuple[dict[str, float], float, dict[str, np.ndarray]]:
    """`measured` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=measured, args=(*arguments, there))
    process.start()
    found = here.recv()
    process.join()
    return found


def models(name: str, windows: int, window: int, console: Console) -> None:
    """Whole models: a table by method, and SparseGPT's parts."""
    wanted = {
        "magnitude": (prune_ours, name, "magnitude"),
        "Wanda": (prune_ours, name, "wanda"),
        "Wanda, published": (prune_published, name, "wanda"),
        "SparseGPT": (prune_ours, name, "sparsegpt"),
        "SparseGPT, published": (prune_published, name, "sparsegpt"),
    }
    found = {title: in_a_process(*arguments, windows, window) for title, arguments in tqdm(wanted.items(), unit="prune")}
    table = Table("", *(Column(part, justify="right") for part in ("all", "forward", *OWN, "MB")), box=box.SIMPLE_HEAD)
    for title, (times, peak, _) in found.items():
        own = [times.get(part, 0.0) for part in OWN]
        row = [times["all"], times["all"] - sum(own) if title != "magnitude" else 0.0, *own]
        table.add_row(title, *(f"{seconds:.1f}" if seconds else "" for seconds in row), f"{peak:.0f}")
    console.print(
        f"{name} at {SPARSITY:.0%}, {windows} x {window} calibration tokens; seconds, and peak memory above the model"
    )
    console.print(table)
    ours, theirs = found["SparseGPT"], found["SparseGPT, published"]
    ratio = sum(theirs[0][part] for part in OWN) / sum(ours[0][part] for part in OWN)
    console.print(f"SparseGPT's own (all but the forward passes), published against ours: {ratio:.2f} times")
    for title in ("Wanda", "SparseGPT"):
        a, b = found[title][2], found[f"{title}, published"][2]
        differ = sum((a[layer] != b[layer]).sum() for layer in a)
        console.print(f"{title}: of {sum(mask.size for mask in a.values()):,} mask entries {differ} differ from the published")


def growth(figure: str, console: Console) -> None:
    """One layer of growing width, and growing numbers of tokens, on log axes beside the predicted exponents."""
    import matplotlib.pyplot as plt

    by_width = {width: layer_times(width, 2048) for width in tqdm(WIDTHS, desc="widths")}
    by_tokens = {count: layer_times(512, count) for count in tqdm(TOKENS, desc="tokens")}
    plots.style()
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    predicted = {"width": {"Hessian": 2, "factorisation": 3, "columns": 3}}
    predicted["tokens"] = {"Hessian": 1, "factorisation": 0, "columns": 0}
    for ax, name, rows in zip(axes, ("width", "tokens"), (by_width, by_tokens), strict=True):
        x = torch.tensor([float(value) for value in rows])
        for part, color in zip(OWN, plots.COLORS, strict=False):
            y = torch.tensor([row[part] for row in rows.values()])
            exponent = float((y[-1] / y[0]).log() / (x[-1] / x[0]).log())
            ax.loglog(x, y, "o-", color=color, ms=4, label=f"{part}: {exponent:.1f}, predicted {predicted[name][part]}")
            ax.loglog(x, y[-1] * (x / x[-1]) ** predicted[name][part], ":", color=color, lw=1)
            console.print(f"{name:<7} {part:<14} exponent {exponent:5.2f}, predicted {predicted[name][part]}")
        ax.set(xlabel=name, xticks=x.tolist(), xticklabels=[f"{int(value)}" for value in x])
        ax.minorticks_off()
        ax.legend(fontsize="small")
    axes[0].set(ylabel="seconds", title="a square layer, 2048 tokens")
    axes[1].set_title("a layer of width 512")
    fig.savefig(figure, dpi=150)
    console.print(f"figure: {figure}")


def layer_times(width: int, count: int, repeats: int = 3) -> dict[str, float]:
    """Seconds of SparseGPT's parts on a square layer, the best of some repeats."""
    g = torch.Generator().manual_seed(0)
    X, W = torch.randn(count, width, generator=g), torch.randn(width, width, generator=g)
    runs: list[dict[str, float]] = []
    for _ in range(repeats):
        times: dict[str, float] = defaultdict(float)
        H = sparsegpt.Hessian(width)
        timed(times, "Hessian", H.add)(X)
        U = timed(times, "factorisation", sparsegpt.inverse_factor)(H.H, 0.1)
        timed(times, "columns", sparsegpt.prune_together)([W], U, H.H.diagonal() == 0, SPARSITY)
        runs.append(times)
    return {part: min(times[part] for times in runs) for part in OWN}


def timed(times: dict[str, float], name: str, function: Callable) -> Callable:
    """The function, adding up its seconds."""

    def run(*args, **kwargs):
        with _adding(times, name):
            return function(*args, **kwargs)

    return run


@contextmanager
def _adding(times: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times[name] += time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a Llama-like model (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=16, help="calibration windows (default: %(default)s)")
    parser.add_argument("--window", type=int, default=512, help="tokens per window (default: %(default)s)")
    parser.add_argument("--figure", default="pruning.png", help="where the plot goes (default: %(default)s)")
    arguments = parser.parse_args()
    out = Console(soft_wrap=True)
    models(arguments.model, arguments.windows, arguments.window, out)
    growth(arguments.figure, out)
