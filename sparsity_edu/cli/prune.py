"""`sparsity-edu prune`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsity_edu.cli.errors import Refused, at_least, named, need_folder, writing
from sparsity_edu.cli.options import (
    Calibration,
    Few,
    FewTokens,
    MinTokens,
    Model,
    Sequential,
    Window,
    Windows,
    calibration_title,
    need_calibration,
    need_columns,
    need_windows,
    pattern_of,
    prepare,
    sparsity_of,
)
from sparsity_edu.cli.show import Rows, fact, line, megabytes, sentence, what_was_covered, what_was_read, where_from
from sparsity_edu.cli.with_recipe import what_is_on_disk

if TYPE_CHECKING:
    from torch import nn


class Method(StrEnum):
    """A way to prune."""

    magnitude = "magnitude"
    wanda = "wanda"
    sparsegpt = "sparsegpt"


def prune(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the pruned checkpoint.")],
    method: Annotated[Method, typer.Option(help="How to prune.")] = Method.sparsegpt,
    sparsity: Annotated[str | None, typer.Option(help="Fraction to remove from each layer, in [0, 1).")] = None,
    pattern: Annotated[str | None, typer.Option(help='"n:m" such as 2:4, instead of a sparsity.')] = None,
    calibration: Calibration = "python_docs",
    windows: Windows = 16,
    window: Window = 512,
    packed: Annotated[
        bool, typer.Option("--packed", help="Store pruned matrices without their zeros: a checkpoint for this command line.")
    ] = False,
    true_sequential: Sequential = False,
    few_tokens: FewTokens = Few.all,
    min_tokens: MinTokens = 16,
) -> None:
    """Prune a language model, measure it, and save it as a checkpoint that transformers loads.

    In a mixture of experts each expert is pruned by the tokens that are routed to it; routers are left alone.
    """
    if (sparsity is None) == (pattern is None):
        raise Refused(f"give either --sparsity or --pattern, got {'neither' if sparsity is None else 'both'}")
    setting = sparsity_of("--sparsity", sparsity) if pattern is None else pattern_of("--pattern", pattern)
    need_windows(windows, window)
    at_least(1, min_tokens=min_tokens)
    need_calibration(calibration)
    need_folder(out)
    from sparsity_edu.combine import packed as packing
    from sparsity_edu.models import perplexity
    from sparsity_edu.models.layers import left_alone
    from sparsity_edu.weights.comparison import by_kind, explain, measure

    (language_model, tokenizer), read, validation = prepare(model, calibration, windows, window)
    need_columns("--pattern", [] if pattern is None else [pattern], language_model)
    dense = perplexity(language_model, validation.flatten(), window)
    options = {"true_sequential": true_sequential, "few_tokens": few_tokens.value, "min_tokens": min_tokens}
    with named("MODEL", "model"), named("--few-tokens", "few_tokens"):
        run = measure(language_model, method.value, setting, read, validation, **options)
    kinds = by_kind(run.pruned).values()
    widest = max(22, *(len(kind.name) for kind in kinds))
    table = Rows(f"{model}, {method}, {setting}", layers=widest, weights=15, sparsity=10, error=8)
    for kind in kinds:
        table.add(kind.name, f"{kind.size:,}", f"{kind.sparsity:.2%}", "" if kind.error is None else f"{kind.error:.1%}")
    table.rule()
    table.add("all", f"{sum(layer.size for layer in run.pruned):,}", f"{run.sparsity:.2%}", "")
    for remark in explain([run]):
        sentence(remark)
    line("error: mean share of a layer's output that pruning changes")
    line()
    what_was_covered([run], min_tokens)
    fact("left alone", f"{sum(parameter.numel() for parameter in left_alone(language_model).values()):,} other parameters")
    fact("perplexity", f"dense {dense:.2f}, pruned {run.perplexity:.2f}")
    what_was_read(calibration_title(calibration), windows, window)
    where_from(model)
    fact("seconds", f"{run.seconds:.1f}")
    with writing(out):
        tokenizer.save_pretrained(out)
        if packed:
            what_is_on_disk(packing.save(language_model, out))
        else:
            language_model.save_pretrained(out)
    if packed:
        fact("saved", f"{out}, {megabytes(_on_disk(out))}\nfor `sparsity-edu generate {out} --prompt ...`")
    else:
        _what_was_saved(language_model, {layer.name for layer in run.pruned}, out)


def _on_disk(out: Path) -> int:
    return sum(file.stat().st_size for file in out.glob("*.safetensors"))


def _what_was_saved(model: nn.Module, pruned: set[str], out: Path) -> None:
    """Why the checkpoint is no smaller and no faster, and what would make it so."""
    from sparsity_edu.models.experts_layout import Projection
    from sparsity_edu.models.layers import prunable_matrices, weight_matrix
    from sparsity_edu.storage import packed_bytes

    matrices = prunable_matrices(model)
    layers = [layer for name, layer in matrices.items() if name in pruned]
    size = _on_disk(out)
    dense = sum(layer.weight.nbytes for layer in layers)
    dtype = str(layers[0].weight.dtype).removeprefix("torch.")
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    fact("saved", f"{out}, {megabytes(size)}: {layers[0].weight.itemsize} bytes a weight, in {dtype}")
    line()
    line("Why is the checkpoint as large as a dense one, and no faster?")
    line(f"Its {zeros:,} zeros are stored, read and multiplied like any other number.")
    table = Rows("What the pruned layers take, and would take packed (unit 01):", stored=12, MB=11, of_dense=9)
    table.add("as saved", f"{dense / 1e6:,.1f}", "100.0%")
    for name, size in packed_bytes(map(weight_matrix, layers)).items():
        table.add(name, f"{size / 1e6:,.1f}", f"{size / dense:.1%}")
    if any(isinstance(layer, Projection) for layer in matrices.values()):
        line("To use it: encode with sparsity_edu.storage. For speed there are the kernels of")
        line("units 15 and 16, which know linear layers and no experts.")
        return
    line("To store it so: --packed. For speed: 2:4 and `generate`, whose products know it")
    line("(unit 15), skipped inputs (unit 16), or `sparsity-edu shrink`: a smaller dense")
    line("model needs no kernel.")
