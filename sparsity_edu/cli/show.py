"""What commands print: rows that appear as soon as they are known, beside progress bars, 80 columns wide."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsity_edu.weights.comparison import Run


class Rows:
    """A table that is printed row by row: the first column to the left, the others to the right."""

    def __init__(self, title: str, **widths: int) -> None:
        self.widths = list(widths.values())
        line(title)
        self.add(*(name.replace("_", " ").strip() for name in widths))
        self.rule()

    def add(self, first: str, *others: str) -> None:
        """A row."""
        cells = zip((first, *others), self.widths, strict=True)
        line("  ".join(f"{text:>{width}}" if i else f"{text:<{width}}" for i, (text, width) in enumerate(cells)).rstrip())

    def rule(self) -> None:
        """A line between rows."""
        line("-" * (sum(self.widths) + 2 * len(self.widths) - 2))


def line(text: str = "") -> None:
    """Print beside progress bars."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def sentence(text: str) -> None:
    """Print a sentence that may be longer than a line."""
    line(textwrap.fill(text, 80))


def fact(name: str, text: str) -> None:
    """A name and what there is to say; further lines are indented like the first."""
    first, *others = text.split("\n")
    line(f"{name:<11} {first}")
    for other in others:
        line(f"{'':<11} {other}")


def what_was_covered(runs: list[Run], least: int) -> None:
    """How much of the blocks was pruned, what was not, and which experts saw too few tokens; of several runs the least."""
    from sparsity_edu.weights.comparison import few_tokens

    covered, total, left = coverage = min((run.coverage for run in runs), key=lambda coverage: coverage.covered)
    fact("covered", f"{coverage.share} of the weights in the blocks: {covered:,} of {total:,}")
    if left:
        fact("left dense", _wrapped(", ".join(f"{kind} {size:,}" for kind, size in left.items())))
    if few := few_tokens(layer for run in runs for layer in run.layers):
        done = {layer.few for run in runs for layer in run.layers} - {None}
        became = "left dense" if done == {"dense"} else "pruned by all tokens of their block"
        fact("few tokens", "\n".join(map(_wrapped, [f"experts (and tokens routed to them, below {least}), {became}:", *few])))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 68, break_long_words=False, break_on_hyphens=False)


def what_was_read(calibration: str | None, windows: int, window: int) -> None:
    """Which text the numbers are of."""
    if calibration is not None:
        fact("calibrated", f"on the first {windows} x {window} tokens of {calibration}")
    fact("measured", f"on the first {windows} x {window} tokens of python_docs('validation')")


def where_from(model: str) -> None:
    """Where the weights of SmolLM2 come from, if they are not the published ones."""
    from sparsity_edu.models import smollm2

    if model == "smollm2" and (remark := smollm2.remark(smollm2.source())):
        fact("weights", remark)


def megabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e6:,.1f} MB"
