"""Pruning a whole language model, block by block: the same walk for magnitude, Wanda and SparseGPT.

    hidden states of the calibration text that reach block 0
    for each block:
        run it, and collect what its linear layers read          (statistics: Wanda's norms, SparseGPT's Hessians)
        prune its layers
        run it again: the next block sees what the pruned one makes of the text

Only the hidden states and one block's statistics are kept at a time. It is the walk of the authors' code of SparseGPT and
Wanda, for every Hugging Face decoder whose blocks are in a list: Llama, Mistral, Qwen, OPT, GPT-2 and their like.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sparsity_edu.models.layers import decoder_blocks, from_matrix, prunable_layers, weight_matrix
from sparsity_edu.models.positions import check_length
from sparsity_edu.patterns import sparsity_of
from sparsity_edu.weights import magnitude, sparsegpt, wanda


class LayerResult(NamedTuple):
    """What pruning did to one layer."""

    name: str
    size: int  # weights
    sparsity: float  # measured
    error: float | None  # |X (W' - W)^T|^2 / |X W^T|^2 on the last calibration batch; None without calibration


class Pruned(NamedTuple):
    """A pruned model, and what was done."""

    model: nn.Module
    layers: list[LayerResult]


class Statistic(Protocol):
    """What a method wants to know of a layer's inputs."""

    def add(self, X: Tensor) -> None:
        """Add inputs (sequences, tokens, cols)."""


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
    progress: bool = True,
    **options,
) -> list[LayerResult]:
    """Prune the linear layers in a language model's blocks, in place.

    Args:
        model: a Hugging Face causal language model; embeddings, norms, biases and output head are left alone.
        method: "magnitude" (of each layer), "wanda" or "sparsegpt"; or a `Method`.
        sparsity: fraction to remove from each layer, in [0, 1); left out for a pattern.
        pattern: "n:m" such as "2:4", n of every m neighbours in a row stay; left out for a sparsity.
        calibration: token ids, (windows, tokens) or a list of such, which may differ in length, none longer than the model's
            positions. Magnitude does without; if given, errors are measured.
        true_sequential: collect what a layer reads after the layers before it in the same block are pruned too, at the cost of
            a run of the block for each.
        progress: show a progress bar over the layers with their errors.
        **options: of the method: `wanda.prune` (per, variant), `sparsegpt.prune` (damping, block_size, count).

    Returns:
        A result for each layer, in the order in which they were pruned.

    Raises:
        ValueError: an argument is not allowed, the model is no decoder, or a layer cannot be pruned so (it is named).

    Source: the authors' code of SparseGPT and Wanda, including what counts as a layer; `true_sequential` is SparseGPT's option
        for Llama.
    """
    blocks = decoder_blocks(model)
    if blocks is None or not prunable_layers(model):
        raise ValueError(f"model must be a transformers model with decoder blocks, got {type(model).__name__}")
    if not isinstance(method, Method) and method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if (sparsity is None) == (pattern is None):
        raise ValueError(f"give either sparsity or pattern, got sparsity {sparsity} and pattern {pattern}")
    windows = [] if calibration is None else _batches(calibration)
    check_length(model, max((window.shape[1] for window in windows), default=0))
    names = {layer: name for name, layer in prunable_layers(model).items()}
    statistic, prune_matrices = method if isinstance(method, Method) else METHODS[method]
    results: list[LayerResult] = []

    def prune_group(layers: list[nn.Linear], inputs: Statistic | None, X: Tensor | None) -> None:
        Ws = [weight_matrix(layer).clone() for layer in layers]
        try:
            pruned = prune_matrices(Ws, inputs, sparsity, pattern, **options)
        except ValueError as error:
            raise ValueError(f"{', '.join(names[layer] for layer in layers)}: {error}") from error
        for layer, W, W_pruned in zip(layers, Ws, pruned, strict=True):
            layer.weight.copy_(from_matrix(layer, W_pruned))
            error = None if X is None else output_error(X, W, weight_matrix(layer))
            results.append(LayerResult(names[layer], W.numel(), sparsity_of(layer.weight), error))
            bar.set_postfix_str(f"{names[layer]}" + ("" if error is None else f" error {error:.1%}"), refresh=False)
            bar.update()

    label = method if isinstance(method, str) else "prune"
    with tqdm(total=len(names), desc=label, unit="layer", leave=None, disable=not progress) as bar, _evaluating(model):
        if calibration is None:
            if statistic:
                raise ValueError(f"calibration must be given for method {method!r}")
            for layer in names:
                prune_group([layer], None, None)
            return results
        hidden, calls = _block_inputs(model, blocks, windows)
        for index, block in enumerate(blocks):
            run = partial(_run, block, calls=calls[index])
            layers = [layer for layer in block.modules() if layer in names]
            while layers:
                groups = _read_by(layers, run, hidden, statistic, first_only=true_sequential)
                for group in groups:
                    prune_group(*group)
                    layers = [layer for layer in layers if layer not in group[0]]
            hidden = [run(h) for h in hidden]
    return results


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


class _Enough(Exception):
    """Ends a forward pass that has shown what was wanted."""


class _Call(NamedTuple):
    """What a block is called with beside the hidden states."""

    args: tuple
    kwargs: dict


def _batches(calibration: Tensor | list[Tensor]) -> list[Tensor]:
    """One window at a time, as in the authors' code."""
    batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    if not batches or any(batch.ndim != 2 or batch.is_floating_point() or not batch.numel() for batch in batches):
        raise ValueError("calibration must be token ids, (windows, tokens) or a list of such")
    return [window for batch in batches for window in batch.split(1)]


def _block_inputs(
    model: nn.Module, blocks: nn.ModuleList, batches: list[Tensor]
) -> tuple[list[Tensor], list[dict[torch.Size, _Call]]]:
    """The hidden states that reach the first block; and for each block, by their shape, what else it is called with.

    Position embeddings and masks are made outside the blocks, and not for all blocks alike (sliding windows), but they depend
    on nothing but the shape. So a whole forward pass is made for the first batch of each shape only.
    """
    hidden: list[Tensor] = []
    calls: list[dict[torch.Size, _Call]] = [{} for _ in blocks]

    def note(_, args: tuple, kwargs: dict, index: int) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        is_new = states.shape not in calls[index]
        calls[index][states.shape] = _Call(args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"})
        if index == 0:
            hidden.append(states)
            if not is_new:
                raise _Enough

    handles = [block.register_forward_pre_hook(partial(note, index=i), with_kwargs=True) for i, block in enumerate(blocks)]
    device = next(model.parameters()).device
    try:
        for ids in batches:
            try:
                model(input_ids=ids.to(device), use_cache=False)
            except _Enough:
                continue
    finally:
        for handle in handles:
            handle.remove()
    return hidden, calls


def _run(block: nn.Module, states: Tensor, calls: dict[torch.Size, _Call]) -> Tensor:
    args, kwargs = calls[states.shape]
    out = block(states, *args, **kwargs)
    return out[0] if isinstance(out, tuple) else out


def _read_by(
    layers: list[nn.Module],
    run: Callable[[Tensor], Tensor],
    hidden: list[Tensor],
    statistic: Callable[[int, torch.device], Statistic] | None,
    first_only: bool,
) -> list[tuple[list[nn.Module], Statistic | None, Tensor]]:
    """What layers read while a block runs.

    Args:
        layers: the layers.
        run: runs the block on hidden states.
        hidden: all hidden states that reach the block.
        statistic: makes a statistic; None if there is none to collect.
        first_only: whether only the layers that read first are wanted.

    Returns:
        For each group of layers that read the same tensor (queries, keys and values do), in the order of their reading: the
        layers, the one statistic of all, and the inputs in the last batch.
    """
    leader: dict[nn.Module, nn.Module] = {}  # a layer -> the first of those that read the same
    statistics: dict[nn.Module, Statistic | None] = {}
    latest: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, args: tuple) -> None:
        X = args[0]
        if layer not in leader:
            same = next((other for other, read in latest.items() if read is X), layer)
            if first_only and same is layer and statistics:
                return
            leader[layer] = same
        if leader[layer] is not layer:
            return
        if layer not in statistics:
            statistics[layer] = statistic(X.shape[-1], X.device) if statistic else None
        latest[layer] = X
        if statistic:
            statistics[layer].add(X)

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        for states in hidden:
            run(states)
    finally:
        for handle in handles:
            handle.remove()
    if not statistics:
        raise ValueError("the calibration text reaches none of the block's layers")
    return [([l for l, first in leader.items() if first is head], statistics[head], latest[head]) for head in statistics]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode: dropout would make calibration random."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
