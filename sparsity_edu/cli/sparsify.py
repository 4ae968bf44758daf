"""`sparsity-edu sparsify`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsity_edu.cli.errors import Refused, at_least, named, need_file, writing
from sparsity_edu.cli.options import (
    Calibration,
    Model,
    Window,
    Windows,
    calibration_title,
    need_calibration,
    need_windows,
    prepare,
    sparsity_of,
)
from sparsity_edu.cli.show import Rows, fact, line, what_was_read, where_from

if TYPE_CHECKING:
    from sparsity_edu.activations.allocation import BlockLevels


class Rule(StrEnum):
    """How a threshold follows from a sparsity."""

    histogram = "histogram"
    quantile = "quantile"


class Prefill(StrEnum):
    """Which tokens of a prompt skip small inputs."""

    all = "all"
    last_half = "last_half"
    none = "none"


def sparsify(
    model: Model,
    sparsity: Annotated[
        str, typer.Option(help="Share of inputs to skip, in [0, 1): of each layer, or with --greedy of each block.")
    ],
    out: Annotated[Path, typer.Option(help="JSON file for the thresholds, for `generate --activations`.")],
    greedy: Annotated[bool, typer.Option("--greedy", help="Choose the levels of each block's layers by search.")] = False,
    step: Annotated[float, typer.Option(help="Of the search; the smaller, the longer it takes. TEAL: 0.05.")] = 0.1,
    search_windows: Annotated[int, typer.Option(help="Calibration windows that the search reads.")] = 1,
    rule: Annotated[
        Rule, typer.Option(help="TEAL's histogram of signed inputs, or the plain quantile of their size.")
    ] = Rule.histogram,
    prefill: Annotated[
        Prefill, typer.Option(help="Which tokens of a prompt skip small inputs too. TEAL: last_half.")
    ] = Prefill.last_half,
    calibration: Calibration = "python_docs",
    windows: Windows = 8,
    window: Window = 512,
) -> None:
    """Find the thresholds below which a model's layers skip their inputs (TEAL), and measure what that costs."""
    level = sparsity_of("--sparsity", sparsity)
    need_windows(windows, window)
    at_least(4, window=window)
    at_least(1, search_windows=search_windows)
    if search_windows > windows:
        raise Refused(f"--search-windows must be at most --windows, {windows}, got {search_windows}")
    if not 0 < step <= 1:
        raise Refused(f"--step must be in (0, 1], got {step:g}")
    need_calibration(calibration)
    need_file(out, ("json",))
    from sparsity_edu.activations import allocation, teal
    from sparsity_edu.activations.decoding import decoding_perplexity
    from sparsity_edu.activations.plan import Plan
    from sparsity_edu.models import perplexity

    (language_model, _), read, validation = prepare(model, calibration, windows, window)
    with named("MODEL", "model"):
        sizes = {name: layer.weight.numel() for name, layer in teal.linear_layers(language_model).items()}
    dense = perplexity(language_model, validation.flatten(), window)
    distributions = teal.calibrate(language_model, read, rule.value)
    levels, found = dict.fromkeys(distributions, level), []
    if greedy:
        search = {"step": step, "prefill": "all" if prefill is Prefill.all else "last_half"}
        found = allocation.allocate(language_model, read[:search_windows], distributions, level, **search)
        levels = {name: p for block in found for name, p in block.levels.items()}
    about = {"model": model, "sparsity": level, "rule": rule.value, "allocation": "greedy" if greedy else "uniform"}
    about |= {"step": step, "search_windows": search_windows} if greedy else {}
    about |= {"calibration": calibration_title(calibration), "windows": windows, "window": window}
    plan = Plan(teal.thresholds(distributions, levels), levels, prefill.value, about)
    with teal.applied(language_model, plan.thresholds, prefill="all"):
        everywhere = perplexity(language_model, validation.flatten(), window)
        skipped = teal.skipped(language_model, validation)
    dense_half = decoding_perplexity(language_model, validation.flatten(), window)
    with teal.applied(language_model, plan.thresholds, prefill="last_half"):
        half = decoding_perplexity(language_model, validation.flatten(), window)

    table = Rows(f"{model}, {about['allocation']}, {level:g}", layers=22, weights=15, level=7, least=7, most=7, skipped=9)
    kinds: dict[str, list[str]] = {}
    for name in levels:
        kinds.setdefault(".".join(name.split(".")[-2:]), []).append(name)
    for kind, names in kinds.items():
        table.add(
            kind, f"{sum(sizes[n] for n in names):,}", *_summary([levels[n] for n in names]), _share(skipped, sizes, names)
        )
    table.rule()
    mean = sum(levels[n] * sizes[n] for n in levels) / sum(sizes[n] for n in levels)
    table.add(
        "all, by weights", f"{sum(sizes[n] for n in levels):,}", f"{mean:.3f}", "", "", _share(skipped, sizes, list(levels))
    )
    line("level: the share of inputs asked for, mean, least and most over blocks")
    line("skipped: the share that was below the threshold, on the validation text")
    line()
    if found:
        _what_the_search_found(found)
    fact("perplexity", f"dense {dense:.2f}, sparse {everywhere:.2f}, all tokens")
    fact("decoding", f"dense {dense_half:.2f}, sparse {half:.2f}, after a dense half of each window")
    what_was_read(calibration_title(calibration), windows, window)
    where_from(model)
    with writing(out):
        plan.save(out)
    fact("saved", f"{out}\nfor `sparsity-edu generate` with --activations")


def _summary(levels: list[float]) -> tuple[str, str, str]:
    return tuple(f"{p:.3f}" for p in (sum(levels) / len(levels), min(levels), max(levels)))


def _share(skipped: dict[str, float], sizes: dict[str, int], names: list[str]) -> str:
    return f"{sum(skipped[n] * sizes[n] for n in names) / sum(sizes[n] for n in names):.1%}"


def _what_the_search_found(found: list[BlockLevels]) -> None:
    ratios = [block.error / block.uniform_error for block in found if block.uniform_error > 0]
    if ratios:
        better = sum(ratio < 1 for ratio in ratios)
        median = sorted(ratios)[len(ratios) // 2]
        fact("search", f"error of a block beside uniform levels: median {median:.2f}, less in {better} of {len(ratios)}")
