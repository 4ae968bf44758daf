"""TEAL's greedy allocation: of a block's projections, those that bear it skip more inputs than the others.

    levels all 0
    until the share of the block's work that is skipped reaches the target:
        raise the level of each projection by itself, by a step; run the block; keep the rise that hurts least

A step is smaller for a larger projection, so that each saves as much. Every trial is compared with the dense block's output on
inputs that the dense blocks before made, so blocks can be searched one by one. Liu et al. 2024, section 4.3 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsity_edu.activations.dense import dense_blocks, linear_layers
from sparsity_edu.activations.histogram import Distribution
from sparsity_edu.activations.trials import Trials

STEP = 0.05  # the authors' README has 0.025 as well
TARGET = 0.9
LAST = 0.25


class Row(NamedTuple):
    """A state of the greedy search."""

    effective: float  # the share of the block's products that is skipped, if levels are what they say
    error: float
    levels: dict[str, float]  # may exceed 1 by a step, which counts as 1
    raised: str | None  # the projection that was raised last


class BlockLevels(NamedTuple):
    """What was chosen for a block."""

    levels: dict[str, float]  # by layer name
    effective: float
    error: float
    uniform_error: float  # with all levels at `effective`
    path: list[Row]


def block_error(dense: Sequence[Tensor], sparse: Sequence[Tensor], last: float = LAST) -> float:
    """How far a block's outputs are off: for each channel the norm over tokens, and the mean of these.

    Args:
        dense: outputs (batch, tokens, hidden) of the dense block, one or more.
        sparse: likewise.
        last: the share of tokens, from the end, that is compared.

    Returns:
        The mean over channels, sequences and outputs.

    Source: the authors' greedyopt.py: `torch.norm(target - new, dim=1).mean()`, of which dimension 1 is that of tokens.
    """
    errors = []
    for y, z in zip(dense, sparse, strict=True):
        tokens = max(1, int(y.shape[1] * last))
        errors.append((y[:, -tokens:] - z[:, -tokens:]).float().norm(dim=1).mean())
    return float(torch.stack(errors).mean())


def effective(levels: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The share of all products that levels skip: sum of p_i w_i / sum of w_i."""
    return sum(levels[name] * weight for name, weight in weights.items()) / sum(weights.values())


def greedy(
    error: Callable[[dict[str, float]], float], weights: Mapping[str, float], target: float = TARGET, step: float = STEP
) -> list[Row]:
    """Raise levels one at a time, always the one that hurts least.

    Args:
        error: of levels by name; called with new ones, never with those it got before.
        weights: how much work each projection is, relative to one of weight 1.
        target: the share of work to skip, in [0, 1].
        step: of a projection of weight 1; others rise by step / weight.

    Returns:
        The states from all levels 0 to the first whose effective share is `target` or more. A level below 1 may be raised
        beyond it, as in the authors' code.

    Raises:
        ValueError: an argument is not allowed.

    Source: Liu et al. 2024, algorithm 1; the authors' greedyopt.py (step 0.05, target 0.9).
    """
    if not 0 <= target <= 1:
        raise ValueError(f"target must be in [0, 1], got {target}")
    if not step > 0 or not weights or min(weights.values()) <= 0:
        raise ValueError(f"step and weights must be positive, got {step} and {dict(weights)}")
    levels = dict.fromkeys(weights, 0.0)
    path = [Row(0.0, error(dict(levels)), dict(levels), None)]
    while path[-1].effective < target and min(levels.values()) < 1:
        trials = [(name, levels | {name: levels[name] + step / weights[name]}) for name in weights if levels[name] < 1]
        tried = [(error(dict(trial)), name, trial) for name, trial in trials]
        best, name, levels = min(tried, key=lambda row: row[0])
        path.append(Row(effective(levels, weights), best, dict(levels), name))
    return path


def nearest(path: Sequence[Row], target: float) -> Row:
    """The state whose effective share is nearest to the target, the first of two; as the authors look it up."""
    return min(path, key=lambda row: abs(row.effective - target))


def by_size(layers: Mapping[str, nn.Linear]) -> dict[str, float]:
    """The weight of each layer in the search: its size, relative to the first one's, which is that of queries.

    The authors' table holds these numbers for keys and values under grouped queries; for Llama 2, which has none, it says 1/8
    instead of 1 (their issue 15), but the levels that they ship were made with 1.
    """
    first = next(iter(layers.values())).weight.numel()
    return {name: layer.weight.numel() / first for name, layer in layers.items()}


@torch.no_grad()
def allocate(
    model: nn.Module,
    calibration: Tensor | list[Tensor],
    distributions: Mapping[str, Distribution],
    sparsity: float,
    *,
    step: float = STEP,
    prefill: str = "last_half",
    last: float = LAST,
    progress: bool = True,
) -> list[BlockLevels]:
    """Choose the levels of every block of a model.

    Args:
        model: a Hugging Face decoder; not changed.
        calibration: token ids (windows, tokens), or a list of such. A search of a block with seven projections runs it about
            7 * sparsity * (sum of weights) / step times on all of them.
        distributions: of the layers' inputs, from `teal.calibrate`.
        sparsity: the share of each block's work to skip, in [0, 1].
        step: see `greedy`.
        prefill: which tokens skip inputs in the search: "all", or those of the "last_half".
        last: the share of tokens, from the end, whose outputs are compared; see `block_error`.
        progress: show a progress bar.

    Returns:
        The levels of each block, in the model's order.

    Raises:
        ValueError: an argument is not allowed.
    """
    if prefill not in ("all", "last_half"):
        raise ValueError(f"prefill must be all or last_half, got {prefill!r}: nothing is sparse in a prompt otherwise")
    if not 0 < last <= 1:
        raise ValueError(f"last must be in (0, 1], got {last}")
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be in [0, 1], got {sparsity}")
    names = {layer: name for name, layer in linear_layers(model).items()}
    chosen = []
    for dense_block in dense_blocks(model, calibration, progress=progress):
        layers = {names[layer]: layer for layer in dense_block.block.modules() if layer in names}
        trials = Trials(dense_block.block, layers, dense_block.run, dense_block.hidden, last, prefill)
        dense = trials.outputs({})

        def error(levels: dict[str, float], trials: Trials = trials, dense: list[Tensor] = dense) -> float:
            limits = {name: distributions[name].threshold(level) for name, level in levels.items()}
            return block_error(dense, trials.outputs(limits), last=1.0)  # of those tokens all

        path = greedy(error, by_size(layers), sparsity, step)
        row = nearest(path, sparsity)
        uniform = error(dict.fromkeys(layers, row.effective))
        chosen.append(BlockLevels({n: min(p, 1.0) for n, p in row.levels.items()}, row.effective, row.error, uniform, path))
    return chosen
