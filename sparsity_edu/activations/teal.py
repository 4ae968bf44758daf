"""TEAL: inputs of a linear layer that are small count as zeros, and their weights are not read.

    calibrate      run a text through the dense model, block by block; note how large each layer's inputs are
    thresholds     of each layer from the level asked for: a share of inputs that is not to count
    sparsify       x * 1[|x| > t], with a threshold that does not change from token to token
    apply_         the same inside a model, whose layers then skip weights while they decode

Queries, keys and values read the same, as do gate and up: they have one distribution, but may have levels of their own. Levels
are the same for all layers ("uniform"), or chosen block by block (allocation.py). Liu et al. 2024, "Training-free activation
sparsity in large language models". What the authors' code does that the paper does not say: the quantile is that of signed
inputs (histogram.py), and of a prompt the first half stays dense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from sparsity_edu.activations.dense import dense_blocks, linear_layers
from sparsity_edu.activations.histogram import RULES, Distribution
from sparsity_edu.activations.plan import Plan
from sparsity_edu.kernels.sparse_gemv import ThresholdLinear, dense_tokens, threshold_linear_, unthreshold_linear_
from sparsity_edu.weights.walk import evaluating, read_by


def sparsify(x: Tensor, threshold: float, prefill: str = "all") -> Tensor:
    """Zero the inputs that do not exceed a threshold, x * 1[|x| > t].

    Args:
        x: (..., tokens, channels), or (channels,) of one token; not changed.
        threshold: t, compared in float32. An input that equals it goes.
        prefill: of several tokens, whose inputs go: "all" tokens', those of the "last_half" (TEAL's code; the paper's numbers
            are of that), or "none". Of one token they always go.

    Returns:
        A new tensor like `x`.

    Raises:
        ValueError: `prefill` is unknown.

    Source: Liu et al. 2024, eq. 1.
    """
    goes = x.abs().float() <= threshold
    if first := dense_tokens(x.shape[-2] if x.ndim > 1 else 1, prefill):
        goes[..., :first, :] = False
    return x.masked_fill(goes, 0)


class _Inputs:
    """All inputs of a layer: a sort needs them at once. Those of one block are there at a time."""

    def __init__(self, cols: int, device: torch.device) -> None:
        self.parts: list[Tensor] = []

    def add(self, X: Tensor) -> None:
        self.parts.append(X.flatten())


@torch.no_grad()
def calibrate(
    model: nn.Module, calibration: Tensor | list[Tensor], rule: str = "histogram", *, progress: bool = True
) -> dict[str, Distribution]:
    """How large the inputs of each linear layer are while the dense model reads a text.

    Args:
        model: a Hugging Face decoder of linear layers (Llama, Mistral, Qwen); not changed.
        calibration: token ids (windows, tokens), or a list of such.
        rule: "histogram" (TEAL), or "quantile" (the plain one).
        progress: show a progress bar.

    Returns:
        Distribution by layer name; layers that read the same share theirs.

    Raises:
        ValueError: an argument is not allowed, or the model holds experts, or other matrices that are no linear layers.

    Source: Liu et al. 2024, section 4.2; the authors take 10 windows of 2,048 tokens.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    names = {layer: name for name, layer in linear_layers(model).items()}
    found: dict[str, Distribution] = {}
    for step in dense_blocks(model, calibration, progress=progress):
        inside = [layer for layer in step.block.modules() if layer in names]
        for group in read_by(inside, step.run_once, step.hidden, _Inputs, first_only=False):
            distribution = RULES[rule].of(torch.cat(group.statistic.parts))
            found |= {names[layer]: distribution for layer in group.layers}
    return {name: found[name] for name in names.values() if name in found}


def thresholds(distributions: Mapping[str, Distribution], sparsity: float | Mapping[str, float]) -> dict[str, float]:
    """The threshold of each layer.

    Args:
        distributions: of the layers' inputs, from `calibrate`.
        sparsity: the share of inputs that is not to count: of all layers, or by layer name.

    Returns:
        Threshold by layer name, of the layers that `sparsity` names.

    Raises:
        ValueError: a level is negative, or of a layer that has no distribution.
    """
    levels = sparsity if isinstance(sparsity, Mapping) else dict.fromkeys(distributions, sparsity)
    if unknown := [name for name in levels if name not in distributions]:
        raise ValueError(f"sparsity must name layers that were calibrated, got {unknown[0]!r}")
    return {name: distributions[name].threshold(level) for name, level in levels.items()}


def apply_(
    model: nn.Module,
    what: float | Mapping[str, float] | Plan,
    calibration: Tensor | list[Tensor] | None = None,
    *,
    prefill: str = "last_half",
    rule: str = "histogram",
    progress: bool = True,
) -> dict[str, float]:
    """Let the linear layers of a model skip small inputs, in place; `remove_` undoes it.

    Args:
        model: a Hugging Face decoder of the Llama, Mistral or Qwen family.
        what: a sparsity in [0, 1) for all layers; or thresholds by layer name; or a `Plan`, which also says the prefill.
        calibration: token ids (windows, tokens), or a list of such: needed for a sparsity, and for nothing else.
        prefill: which tokens of a prompt skip theirs, see `sparsify`.
        rule: how a threshold follows from a sparsity, see `calibrate`.
        progress: show a progress bar.

    Returns:
        Threshold by layer name.

    Raises:
        ValueError: an argument is not allowed, or a threshold names no linear layer of the model's blocks.
    """
    if any(isinstance(layer, ThresholdLinear) for layer in model.modules()):
        raise ValueError("model must be dense, got one that skips small inputs already: remove_(model) undoes that")
    if isinstance(what, float | int):
        if not 0 <= what < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {what}")
        if calibration is None:
            raise ValueError("calibration must be given for a sparsity")
        what = thresholds(calibrate(model, calibration, rule, progress=progress), what)
    elif calibration is not None:
        raise ValueError("calibration must be left out where thresholds are given")
    if isinstance(what, Plan):
        what, prefill = what.thresholds, what.prefill
    threshold_linear_(model, dict(what), prefill)
    return dict(what)


def remove_(model: nn.Module) -> None:
    """Undo `apply_`, in place: the layers are dense again, with the weights that they had."""
    unthreshold_linear_(model)


@torch.no_grad()
def skipped(model: nn.Module, tokens: Tensor) -> dict[str, float]:
    """The share of inputs that a model with thresholds skips: more or less than was asked for, on another text.

    Args:
        model: one that `apply_` was called on.
        tokens: ids (windows, tokens), all of whose inputs are compared with the thresholds.

    Returns:
        Share by layer name.
    """
    counts: dict[str, tuple[int, int]] = {}

    def count(name: str, layer: ThresholdLinear, args: tuple[Tensor]) -> None:
        small = args[0].abs().float() <= layer.threshold
        below, all_of_them = counts.get(name, (0, 0))
        counts[name] = (below + int(small.sum()), all_of_them + small.numel())

    handles = [
        layer.register_forward_pre_hook(partial(count, name))
        for name, layer in model.named_modules()
        if isinstance(layer, ThresholdLinear)
    ]
    try:
        with evaluating(model):
            for window in tokens.split(1):
                model(input_ids=window, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {name: below / all_of_them for name, (below, all_of_them) in counts.items()}


@contextmanager
def applied(model: nn.Module, *args, **kwargs) -> Iterator[dict[str, float]]:
    """`apply_` for a while; the layers are the model's own again afterwards."""
    layers = linear_layers(model)
    try:
        yield apply_(model, *args, **kwargs)
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer)
