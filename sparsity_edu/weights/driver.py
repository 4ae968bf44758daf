"""Pruning a whole language model, block by block: the same walk for magnitude, Wanda and SparseGPT.

    hidden states of the calibration text that reach block 0
    for each block:
        run it, and collect what its layers and experts read     (statistics: Wanda's norms, SparseGPT's Hessians)
        prune its layers
        run it again: the next block sees what the pruned one makes of the text

Only the hidden states and one block's statistics are kept at a time. It is the walk of the authors' code of SparseGPT and
Wanda, for every Hugging Face decoder whose blocks are in a list: Llama, Mistral, Qwen, OPT, GPT-2 and their like; and for
mixtures of experts, in which an expert is pruned by the tokens that are routed to it, and routers are left alone.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sparsity_edu.models.experts_layout import Projection
from sparsity_edu.models.layers import Layer, decoder_blocks, from_matrix, prunable_matrices, weight_matrix
from sparsity_edu.models.positions import check_length
from sparsity_edu.patterns import sparsity_of
from sparsity_edu.weights import magnitude, sparsegpt, wanda
from sparsity_edu.weights.walk import (
    Group,
    Statistic,
    block_inputs,
    evaluating,
    module_of,
    read_by,
    run_block,
    single_windows,
    step_of,
)

MIN_TOKENS = 16  # the square of an input's norm, estimated from n tokens, is off by about sqrt(2 / n): a third


class LayerResult(NamedTuple):
    """What pruning did to one layer, or to one projection of one expert."""

    name: str
    size: int  # weights
    sparsity: float  # measured
    error: float | None  # |X (W' - W)^T|^2 / |X W^T|^2 on the last calibration batch; None without calibration
    tokens: int | None = None  # calibration tokens that read it: of an expert, those routed to it; None if none were counted
    few: str | None = None  # what was done since these are too few: "all", pruned by all tokens, or "dense", not pruned


class Pruned(NamedTuple):
    """A pruned model, and what was done."""

    model: nn.Module
    layers: list[LayerResult]


class Method(NamedTuple):
    """A way to prune matrices that read the same inputs; one of your own goes into `prune_` as well as a name does."""

    statistic: Callable[[int, torch.device], Statistic] | None  # made for each group of layers, from columns and device
    prune: Callable[..., list[Tensor]]  # (matrices, statistic, sparsity, pattern, **options)


def _magnitude(Ws: list[Tensor], _, sparsity: float | None, pattern: str | None) -> list[Tensor]:
    return [magnitude.prune(W, sparsity, pattern or "layer") for W in Ws]


def _wanda(Ws: list[Tensor], inputs: wanda.InputNorm, sparsity: float | None, pattern: str | None, **options) -> list[Tensor]:
    return [wanda.prune(W, inputs.norm, sparsity, pattern, **options) for W in Ws]


def _sparsegpt(
    Ws: list[Tensor],
    inputs: sparsegpt.Hessian,
    sparsity: float | None,
    pattern: str | None,
    damping: float = sparsegpt.DAMPING,
    **options,
) -> list[Tensor]:
    U = sparsegpt.inverse_factor(inputs.H, damping)  # one for all of them
    return sparsegpt.prune_together(Ws, U, inputs.H.diagonal() == 0, sparsity, pattern, **options)


METHODS = {
    "magnitude": Method(None, _magnitude),
    "wanda": Method(wanda.InputNorm, _wanda),
    "sparsegpt": Method(sparsegpt.Hessian, _sparsegpt),
}


def prune(model: nn.Module, *args, **kwargs) -> Pruned:
    """Prune a copy of a language model; for the arguments see `prune_`.

    Returns:
        The copy, and a result for each layer.
    """
    pruned = copy.deepcopy(model)
    return Pruned(pruned, prune_(pruned, *args, **kwargs))


@torch.no_grad()
def prune_(
    model: nn.Module,
    method: str | Method = "sparsegpt",
    sparsity: float | None = None,
    pattern: str | None = None,
    calibration: Tensor | list[Tensor] | None = None,
    *,
    true_sequential: bool = False,
    few_tokens: str = "all",
    min_tokens: int = MIN_TOKENS,
    progress: bool = True,
    **options,
) -> list[LayerResult]:
    """Prune the linear layers and the experts in a language model's blocks, in place.

    Args:
        model: a Hugging Face causal language model; embeddings, norms, biases, routers and output head are left alone.
        method: "magnitude" (of each layer), "wanda" or "sparsegpt"; or a `Method`.
        sparsity: fraction to remove from each layer, in [0, 1); left out for a pattern.
        pattern: "n:m" such as "2:4", n of every m neighbours in a row stay; left out for a sparsity.
        calibration: token ids, (windows, tokens) or a list of such, which may differ in length, none longer than the model's
            positions. Magnitude does without; if given, errors are measured.
        true_sequential: collect what a layer reads after the layers before it in the same block are pruned too, at the cost of
            a run of the block for each.
        few_tokens: what becomes of an expert to which fewer than `min_tokens` calibration tokens are routed, if the method
            looks at inputs: "all", it is pruned by what it would read were all tokens routed to it, or "dense", it is not
            pruned, nor is any layer that reads nothing. The results say which ones these are.
        min_tokens: see `few_tokens`; at least 1.
        progress: show a progress bar over the layers with their errors.
        **options: of the method: `wanda.prune` (per, variant), `sparsegpt.prune` (damping, block_size, count).

    Returns:
        A result for each layer, in the order in which they were pruned; `comparison.coverage` says what share of the blocks'
        weights that is.

    Raises:
        ValueError: an argument is not allowed, the model is no decoder, it holds experts in a layout that is not known, its
            blocks cannot be run one by one, or a layer cannot be pruned so (it is named).

    Source: the authors' code of SparseGPT and Wanda, including what counts as a layer; `true_sequential` is SparseGPT's option
        for Llama.
    """
    blocks = decoder_blocks(model)
    names = {} if blocks is None else {layer: name for name, layer in prunable_matrices(model).items()}
    if not names:
        raise ValueError(f"model must be a transformers model with decoder blocks, got {type(model).__name__}")
    if not isinstance(method, Method) and method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if (sparsity is None) == (pattern is None):
        raise ValueError(f"give either sparsity or pattern, got sparsity {sparsity} and pattern {pattern}")
    if few_tokens not in ("all", "dense"):
        raise ValueError(f'few_tokens must be "all" or "dense", got {few_tokens!r}')
    if min_tokens < 1:
        raise ValueError(f"min_tokens must be at least 1, got {min_tokens}")
    windows = [] if calibration is None else single_windows(calibration)
    check_length(model, max((window.shape[1] for window in windows), default=0))
    statistic, prune_matrices = method if isinstance(method, Method) else METHODS[method]
    results: list[LayerResult] = []

    def report(layer: Layer, error: float | None, tokens: int | None = None, few: str | None = None) -> None:
        results.append(LayerResult(names[layer], layer.weight.numel(), sparsity_of(layer.weight), error, tokens, few))
        bar.set_postfix_str(f"{names[layer]}" + ("" if error is None else f" error {error:.1%}"), refresh=False)
        bar.update()

    def prune_group(group: Group, few: dict[Layer, int]) -> None:
        Ws = [weight_matrix(layer).clone() for layer in group.layers]
        try:
            pruned = prune_matrices(Ws, group.statistic, sparsity, pattern, **options)
        except ValueError as error:
            raise ValueError(f"{', '.join(names[layer] for layer in group.layers)}: {error}") from error
        for layer, W, W_pruned in zip(group.layers, Ws, pruned, strict=True):
            layer.weight.copy_(from_matrix(layer, W_pruned))
            error = None if group.latest is None else output_error(group.latest, W, weight_matrix(layer))
            tokens = few.get(layer, group.tokens) if windows else None
            report(layer, error, tokens, "all" if layer in few else None)

    label = method if isinstance(method, str) else "prune"
    with tqdm(total=len(names), desc=label, unit="layer", leave=None, disable=not progress) as bar, evaluating(model):
        if calibration is None:
            if statistic:
                raise ValueError(f"calibration must be given for method {method!r}")
            for layer in names:
                prune_group(Group([layer]), {})
            return results
        hidden, calls = block_inputs(model, blocks, windows)
        for index, block in enumerate(blocks):
            run = partial(run_block, block, calls=calls[index])
            inside = set(block.modules())
            layers = [layer for layer in names if module_of(layer) in inside]
            while layers:
                groups = read_by(layers, run, hidden, statistic, first_only=true_sequential)
                few: dict[Layer, int] = {}
                if not groups and not statistic:
                    groups = [Group([layer]) for layer in layers]
                elif not groups:
                    if few_tokens == "all":
                        unread = ", ".join(names[layer] for layer in layers)
                        raise ValueError(f'few_tokens must be "dense" where no token reaches a layer, got "all": {unread}')
                    few = dict.fromkeys(layers, 0)
                elif statistic:
                    few = _too_few(layers, groups, min_tokens)
                    groups = [group for group in groups if group.layers[0] not in few]
                    if few and few_tokens == "all":
                        groups += read_by(list(few), run, hidden, statistic, first_only=False, everything=True)
                for group in groups:
                    prune_group(group, few)
                for layer, tokens in few.items():
                    if few_tokens == "dense":
                        report(layer, None, tokens, "dense")
                done = {layer for group in groups for layer in group.layers} | few.keys()
                layers = [layer for layer in layers if layer not in done]
            hidden = [run(h) for h in hidden]
    return results


def _too_few(layers: list[Layer], groups: list[Group], least: int) -> dict[Layer, int]:
    """The projections of experts that read too few tokens, or none, and how many they read."""
    tokens = {layer: group.tokens for group in groups for layer in group.layers}
    steps = {step_of(layer) for layer in tokens}
    experts = [layer for layer in layers if isinstance(layer, Projection) and step_of(layer) in steps]
    return {layer: tokens.get(layer, 0) for layer in experts if tokens.get(layer, 0) < least}


def output_error(X: Tensor, W: Tensor, W_pruned: Tensor) -> float:
    """Share of a layer's output that pruning changes, |X (W' - W)^T|^2 / |X W^T|^2.

    Args:
        X: (..., cols) inputs.
        W: (rows, cols) weights before.
        W_pruned: (rows, cols) weights after.

    Returns:
        0 if nothing changes; 1 if everything is lost.
    """
    x = X.flatten(0, -2).float()
    lost = (x @ (W_pruned.float() - W.float()).T).square().sum()
    return float(lost / (x @ W.float().T).square().sum())
