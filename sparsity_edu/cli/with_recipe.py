"""Models to which a recipe was applied: `sparsity-edu apply`, and what `generate` says of one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsity_edu.cli.caches import Dtype, DtypeOption, need_attention
from sparsity_edu.cli.errors import Refused, named, need_folder, writing
from sparsity_edu.cli.options import Model
from sparsity_edu.cli.show import Rows, fact, line, megabytes, where_from

if TYPE_CHECKING:
    from sparsity_edu.combine import Made, Recipe
    from sparsity_edu.combine.execution import Running
    from sparsity_edu.combine.packed import Size
    from sparsity_edu.kv_cache import PolicyCache


def apply(
    model: Model,
    recipe: Annotated[Path, typer.Option(help="A file with a recipe, in TOML or JSON.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, its recipe and thresholds.")],
    packed: Annotated[bool, typer.Option(help="Store pruned matrices without their zeros.")] = True,
    dtype: DtypeOption = Dtype.float32,
) -> None:
    """Apply a recipe to a model and save it for `generate`; sparsity_edu/combine/recipe.py says what may be in one."""
    wanted = recipe_of(recipe)
    need_folder(out)
    made = made_of(model, wanted, dtype.value)
    with writing(out):
        sizes = made.save(out, packed)
    what_is_on_disk(sizes)
    where_from(model)
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    fact("saved", f"{out}, {megabytes(size)}\nfor `sparsity-edu generate {out} --prompt ...`")


def recipe_of(path: Path) -> Recipe:
    """A recipe, or a sentence."""
    from sparsity_edu.combine.recipe import Recipe

    try:
        return Recipe.load(path)
    except OSError as error:
        raise Refused(f"--recipe cannot be read, {error.strerror or error}: {path}") from error


def made_of(model: str, recipe: Recipe | None, dtype: str) -> Made:
    """A model, and the recipe that is to be applied or was saved with it."""
    import torch

    from sparsity_edu import combine
    from sparsity_edu.models import LanguageModel

    with named("MODEL", "name"):
        loaded = combine.load(model, getattr(torch, dtype))
    need_attention(loaded.model)
    if recipe is None:
        return loaded
    if loaded.recipe != combine.Recipe():
        raise Refused(f"--recipe must be left out: a recipe, {loaded.recipe.name!r}, was applied to {model}")
    return combine.make(LanguageModel(loaded.model, loaded.tokenizer), recipe)


def what_is_on_disk(sizes: dict[str, Size]) -> None:
    """A table of encodings."""
    if not sizes:
        return
    table = Rows("On disk (unit 01):", stored=10, tensors=8, dense_MB=9, MB=9, of_dense=9)
    for name, size in sorted(sizes.items()):
        share = f"{size.stored / size.dense:.1%}"
        table.add(name, f"{size.tensors}", f"{size.dense / 1e6:,.1f}", f"{size.stored / 1e6:,.1f}", share)
    table.rule()
    dense, stored = (sum(getattr(size, what) for size in sizes.values()) for what in ("dense", "stored"))
    table.add("all", "", f"{dense / 1e6:,.1f}", f"{stored / 1e6:,.1f}", f"{stored / dense:.1%}")
    line()


def what_is_used(run: Running) -> None:
    """Which product each kind of projection has, and why."""
    kinds = Counter((name.rpartition(".")[2], use.product, use.why) for name, use in run.uses.items())
    table = Rows("", projection=12, layers=6, product=8)
    for (kind, product, _), count in kinds.items():
        table.add(kind, f"{count}", product)
    line()
    for product, why in dict.fromkeys((product, why) for _, product, why in kinds):
        fact(product, why)


def what_is_saved(weights: tuple[int, float], dense: int, cache: PolicyCache, full: PolicyCache) -> None:
    """Bytes that are held, and read for a token, beside those of dense products and a full cache.

    Args:
        weights: held and read.
        dense: read by dense products.
        cache: of the recipe.
        full: one that holds all.
    """
    table = Rows("MB of a token", _=10, held=9, read=9, dense=9, saved=7)
    rows = {"weights": (*weights, dense), "cache": (cache.bytes_held, cache.bytes_read, full.bytes_read)}
    rows["both"] = tuple(map(sum, zip(*rows.values(), strict=True)))
    for name, (held, read, all_of_it) in rows.items():
        table.add(name, *(f"{size / 1e6:,.2f}" for size in (held, read, all_of_it)), f"{1 - read / all_of_it:.1%}")
    line("held: in memory; read: for a token; dense: read by dense products and a full cache")
    line()
