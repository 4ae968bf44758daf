"""Masks and encodings on a real layer's shape: bytes against dense, and seconds beside torch's own sparse formats.

python benchmarks/storage.py
"""

from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.benchmark import Timer

from sparsity_edu import patterns
from sparsity_edu.storage import CSR, Bitmap, BlockSparse, TwoFour

SHAPE = (1536, 576)  # SmolLM2-135M's up projection


def milliseconds(function, *args) -> float:
    return (
        Timer("function(*args)", globals={"function": function, "args": args}).blocked_autorange(min_run_time=0.2).median * 1e3
    )


def encodings() -> Table:
    table = Table("pattern", "encoding", "bytes / dense", "encode ms", "decode ms", "torch's encode ms", title=f"fp32 {SHAPE}")
    W = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    cases = [
        ("50 %", W * patterns.unstructured(W.abs(), 0.5), [(Bitmap, None), (CSR, lambda W: W.to_sparse_csr())]),
        ("90 %", W * patterns.unstructured(W.abs(), 0.9), [(Bitmap, None), (CSR, lambda W: W.to_sparse_csr())]),
        ("2:4", W * patterns.n_m(W.abs(), 2, 4), [(TwoFour, None)]),
        ("block 4x4, 90 %", W * patterns.block(W.abs(), 0.9), [(BlockSparse, lambda W: W.to_sparse_bsr((4, 4)))]),
    ]
    for pattern, sparse, formats in cases:
        for encoding, torchs in formats:
            encoded = encoding.encode(sparse)
            table.add_row(
                pattern,
                encoding.__name__,
                f"{encoded.nbytes / W.nbytes:.4f}",
                f"{milliseconds(encoding.encode, sparse):.1f}",
                f"{milliseconds(encoded.decode):.1f}",
                f"{milliseconds(torchs, sparse):.1f}" if torchs else "-",
            )
    return table


def masks() -> Table:
    table = Table("pattern", "mask ms", "full argsort ms", title=f"choosing the mask, {SHAPE}")
    score = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    groups = {"layer": score.flatten(), "row": score, "2:4": score.unflatten(-1, (-1, 4))}
    for pattern, grouped in groups.items():
        sparsity = None if ":" in pattern else 0.5
        ours = milliseconds(patterns.select, score, pattern, sparsity)
        table.add_row(pattern, f"{ours:.1f}", f"{milliseconds(partial(torch.argsort, stable=True), grouped):.1f}")
    return table


if __name__ == "__main__":
    torch.set_num_threads(2)
    console = Console()
    console.print(encodings())
    console.print(masks())
