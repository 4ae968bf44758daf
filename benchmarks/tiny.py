"""Does pruning hurt the tiny model, and does retraining heal it? Perplexity dense, pruned by magnitude, and retrained.

python benchmarks/tiny.py [steps]
"""

import copy
import sys

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from tqdm.auto import tqdm

from sparsity_edu.data import python_docs
from sparsity_edu.models import load, perplexity, tokens
from sparsity_edu.weights import magnitude

WINDOW, BATCH, EVALUATED = 512, 4, 16  # tokens; windows per step; validation windows


def retrain_(model: nn.Module, masks: dict[str, Tensor], text: Tensor, steps: int, learning_rate: float = 5e-4) -> None:
    """Train on, in place, with the zeros held; random windows of `text` (tokens,), fixed by a seed."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    magnitude.hold_(optimizer, model, masks)
    for _ in tqdm(range(steps), desc="retrain", leave=False):
        starts = torch.randint(len(text) - WINDOW + 1, (BATCH,), generator=generator).tolist()
        batch = torch.stack([text[start : start + WINDOW] for start in starts])  # (BATCH, WINDOW)
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()


if __name__ == "__main__":
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    dense, tokenizer = load("tiny")
    train, held_out = tokens(tokenizer, python_docs("train")), tokens(tokenizer, python_docs("validation"), EVALUATED * WINDOW)
    base = perplexity(dense, held_out, WINDOW)
    table = Table("pattern", "pruned", "/ dense", f"after {steps} steps", "/ dense", title=f"tiny, dense perplexity {base:.2f}")
    for name, pattern, sparsity in [
        ("50 %", "layer", 0.5),
        ("60 %", "layer", 0.6),
        ("70 %", "layer", 0.7),
        ("2:4", "2:4", None),
    ]:
        model = copy.deepcopy(dense)
        masks = magnitude.prune_(model, sparsity, pattern)
        pruned = perplexity(model, held_out, WINDOW)
        retrain_(model, masks, train, steps)
        healed = perplexity(model, held_out, WINDOW)
        table.add_row(name, f"{pruned:.2f}", f"{pruned / base:.2f}", f"{healed:.2f}", f"{healed / base:.2f}")
    Console().print(table)
    print(f"perplexity on the first {EVALUATED} x {WINDOW} validation tokens of the Python docs")
    print(f"retraining: {steps} steps of {BATCH} x {WINDOW} train tokens")
