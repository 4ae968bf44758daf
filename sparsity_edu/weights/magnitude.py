"""Magnitude pruning: remove the smallest weights, train what is left, perhaps again and again.

    score      s_ij = |W_ij|
    prune      keep the largest by some pattern, zero the rest (one shot)
    retrain    train on, with the zeros held at zero
    iterate    a little sparser each round: prune -> retrain -> prune -> ...

Han et al. 2015, "Learning both weights and connections for efficient neural networks"; the gradual schedule is Zhu and Gupta
2017, "To prune, or not to prune".
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from tqdm.auto import tqdm

from sparsity_edu.models.layers import from_matrix, left_alone, prunable_matrices, weight_matrix
from sparsity_edu.patterns import select, sparsity_of, unstructured_model


def score(W: Tensor) -> Tensor:
    """Importance of each weight: its magnitude |W|.

    Args:
        W: weights, any shape.

    Returns:
        Non-negative scores of the same shape; float32 for integer weights, as int8 holds -128 but not 128.

    Raises:
        ValueError: `W` holds a NaN.
    """
    if W.isnan().any():
        raise ValueError(f"W must not hold NaN, got NaN in {int(W.isnan().sum())} of {W.numel()} entries")
    return (W if W.is_floating_point() else W.float()).detach().abs()


def prune(W: Tensor, sparsity: float | None = None, pattern: str = "layer") -> Tensor:
    """One-shot magnitude pruning of one matrix.

    Args:
        W: (rows, cols) weights; not changed.
        sparsity: fraction to remove, in [0, 1); left out for an n:m pattern.
        pattern: who competes with whom, see `sparsity_edu.patterns.select`.

    Returns:
        A copy of `W` with the smallest weights exactly zero.

    Raises:
        ValueError: sparsity, pattern or shape is not allowed, or `W` holds a NaN.
    """
    return W.detach().masked_fill(~select(score(W), pattern, sparsity), 0)


def model_masks(model: nn.Module, sparsity: float | None = None, pattern: str = "layer") -> dict[str, Tensor]:
    """Magnitude masks for every prunable layer of a model, and every projection of its experts.

    Args:
        model: any module; see `prunable_matrices` for what is touched and what is left alone.
        sparsity: fraction to remove, in [0, 1); left out for an n:m pattern.
        pattern: "model" lets all layers compete under one threshold; anything else is applied layer by layer, see
            `sparsity_edu.patterns.select`.

    Returns:
        Boolean mask in the shape of the layer's weight, True = kept, by layer name.

    Raises:
        ValueError: the model has no layer to prune, sparsity, pattern or a shape is not allowed, a weight is NaN, or as in
            `prunable_matrices`.
    """
    layers = prunable_matrices(model)
    if not layers:
        raise ValueError(f"model must hold a linear or convolution layer, got {type(model).__name__} without one")
    if pattern == "model" and sparsity is None:
        raise ValueError('sparsity must be given for pattern "model"')
    scores, masks = {}, {}
    for name, layer in layers.items():
        try:
            scores[name] = score(weight_matrix(layer))  # (outputs, inputs)
            if pattern != "model":
                masks[name] = select(scores.pop(name), pattern, sparsity)
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from error
    if pattern == "model":
        masks = unstructured_model(scores, sparsity)
    return {name: from_matrix(layers[name], mask) for name, mask in masks.items()}


@torch.no_grad()
def apply_(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set the weights that the masks drop to exactly zero, in place.

    Args:
        model: the model.
        masks: boolean mask in the shape of the layer's weight, True = kept, by layer name.
    """
    layers = prunable_matrices(model)
    for name, mask in masks.items():
        layer = layers[name] if name in layers else model.get_submodule(name)
        layer.weight.masked_fill_(~mask, 0)  # not `*= mask`: inf * 0 is NaN


def prune_(model: nn.Module, sparsity: float | None = None, pattern: str = "layer") -> dict[str, Tensor]:
    """One-shot magnitude pruning of a model, in place.

    Args:
        model: any module; see `prunable_matrices` for what is touched and what is left alone.
        sparsity: fraction to remove, in [0, 1); left out for an n:m pattern.
        pattern: as in `model_masks`.

    Returns:
        The masks, by layer name: give them to `hold_` before training on.

    Raises:
        ValueError: as in `model_masks`.
    """
    masks = model_masks(model, sparsity, pattern)
    apply_(model, masks)
    return masks


def hold_(optimizer: Optimizer, model: nn.Module, masks: dict[str, Tensor]) -> RemovableHandle:
    """Keep pruned weights at zero while training: after every step of any optimiser they are put back to exactly zero.

    Masking the gradient is not enough: momentum and Adam's moments from before pruning, and decoupled weight decay, move a
    weight whose gradient is zero.

    Args:
        optimizer: any torch optimiser over the model's parameters.
        model: the model.
        masks: masks by layer name, as returned by `prune_`.

    Returns:
        A handle; `handle.remove()` lets the weights go.
    """
    apply_(model, masks)
    return optimizer.register_step_post_hook(lambda *_: apply_(model, masks))


def cubic_sparsity(step: int, start: int, end: int, final: float, initial: float = 0.0) -> float:
    """Gradual pruning schedule: fast at first, while there is much to spare, slow towards the end.

        s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3

    Args:
        step: t, the training step.
        start: t_0, first step of the ramp; before it the sparsity is `initial`.
        end: t_1, last step of the ramp, > start; from it on the sparsity is `final`.
        final: s_f, in [0, 1).
        initial: s_i, in [0, final].

    Returns:
        The sparsity to have at `step`.

    Raises:
        ValueError: `end` <= `start`, or the sparsities are out of order or range.

    Source: Zhu and Gupta 2017, eq. 1.
    """
    if end <= start:
        raise ValueError(f"end must be after start, got start {start} and end {end}")
    if not 0 <= initial <= final < 1:
        raise ValueError(f"sparsities must satisfy 0 <= initial <= final < 1, got initial {initial} and final {final}")
    if step <= start:
        return initial
    progress = min((step - start) / (end - start), 1.0)
    return final + (initial - final) * (1 - progress) ** 3


def iterative_prune_(
    model: nn.Module,
    sparsities: Iterable[float],
    retrain: Callable[[nn.Module, dict[str, Tensor]], None],
    pattern: str = "layer",
    progress: bool = True,
) -> dict[str, Tensor]:
    """Prune a little, retrain, prune a little more, in place.

    Each round ranks the weights as retraining left them. A pruned weight is exactly zero, hence still among the smallest: it
    stays pruned as long as the sparsities do not fall (only a kept weight that training makes exactly zero ties with it).

    Args:
        model: any module.
        sparsities: sparsity after each round, not falling, each in [0, 1).
        retrain: called as `retrain(model, masks)` after each pruning; trains in place, with `hold_(optimizer, model, masks)`.
        pattern: as in `model_masks`, but not n:m, which fixes its sparsity.
        progress: show a progress bar over the rounds.

    Returns:
        The masks of the last round.

    Raises:
        ValueError: no round is given, the sparsities fall or leave [0, 1), or as in `model_masks`.
    """
    sparsities = list(sparsities)
    if not sparsities or sparsities != sorted(sparsities) or not all(0 <= sparsity < 1 for sparsity in sparsities):
        raise ValueError(f"sparsities must hold at least one round, not fall, and be in [0, 1), got {sparsities}")
    for sparsity in tqdm(sparsities, desc="prune and retrain", disable=not progress):
        masks = prune_(model, sparsity, pattern)
        retrain(model, masks)
        apply_(model, masks)  # exact also after a retraining that did not hold its masks
    return masks


def summary(model: nn.Module) -> str:
    """What pruning has done to a model, measured on its weights, and what it leaves alone.

    Args:
        model: any module.

    Returns:
        A line per prunable layer with its sparsity, their total, and the parameters that are left alone.
    """
    layers, alone = prunable_matrices(model), left_alone(model)
    pruned = sum(layer.weight.numel() for layer in layers.values())
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers.values())
    lines = [f"{name:<44} {sparsity_of(layer.weight):>8.2%} of {layer.weight.numel():>12,}" for name, layer in layers.items()]
    lines.append(f"{'all prunable layers':<44} {zeros / max(pruned, 1):>8.2%} of {pruned:>12,}")
    lines.append(f"{'left alone':<44} {'':>8}    {sum(p.numel() for p in alone.values()):>12,}: {_kinds(alone)}")
    return "\n".join(lines)


def _kinds(parameters: dict[str, nn.Parameter]) -> str:
    kinds = dict.fromkeys(".".join(part for part in name.split(".") if not part.isdigit()) for name in parameters)
    return ", ".join(kinds) or "nothing"
