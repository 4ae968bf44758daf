"""Running a language model block by block, and what the layers and experts of a block read meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sparsity_edu.models.experts_layout import Projection, inputs
from sparsity_edu.models.layers import Layer


class Statistic(Protocol):
    """What a method wants to know of a layer's inputs."""

    def add(self, X: Tensor) -> None:
        """Add inputs: (sequences, tokens, cols), or (tokens, cols) that are routed to an expert."""


class Group:
    """Layers that read the same, as queries, keys and values do, or gate and up; and what is known of it."""

    def __init__(self, layers: list[Layer], statistic: Statistic | None = None) -> None:
        self.layers = layers
        self.statistic = statistic
        self.tokens = 0
        self.latest: Tensor | None = None  # what they read last

    def add(self, X: Tensor) -> None:
        """Add inputs (..., cols)."""
        self.latest = X
        self.tokens += X.shape[:-1].numel()
        if self.statistic:
            self.statistic.add(X)


class _Enough(Exception):
    """Ends a forward pass that has shown what was wanted."""


class Call(NamedTuple):
    """What a block is called with beside the hidden states."""

    args: tuple
    kwargs: dict


def single_windows(calibration: Tensor | list[Tensor]) -> list[Tensor]:
    """One window at a time, as in the authors' code."""
    batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    if not batches or any(batch.ndim != 2 or batch.is_floating_point() or not batch.numel() for batch in batches):
        raise ValueError("calibration must be token ids, (windows, tokens) or a list of such")
    return [window for batch in batches for window in batch.split(1)]


def block_inputs(
    model: nn.Module, blocks: nn.ModuleList, windows: list[Tensor]
) -> tuple[list[Tensor], list[dict[torch.Size, Call]]]:
    """The hidden states that reach the first block; and for each block, by their shape, what else it is called with.

    Position embeddings and masks are made outside the blocks, and not for all blocks alike (sliding windows), but they depend
    on nothing but the shape. So a whole forward pass is made for the first window of each shape only; and one for another text
    of the first shape, to see that it is so.

    Args:
        model: the language model.
        blocks: its blocks.
        windows: token ids (1, tokens) each.

    Returns:
        Hidden states (1, tokens, hidden) for each window, and the calls.

    Raises:
        ValueError: a block is called with something else that depends on the text; then it cannot be run by itself.
    """
    hidden: list[Tensor] = []
    calls: list[dict[torch.Size, Call]] = [{} for _ in blocks]

    def split(args: tuple, kwargs: dict) -> tuple[Tensor, Call]:
        states = args[0] if args else kwargs["hidden_states"]
        return states, Call(args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"})

    def note(_, args: tuple, kwargs: dict, index: int) -> None:
        states, call = split(args, kwargs)
        is_new = states.shape not in calls[index]
        calls[index][states.shape] = call
        if index == 0:
            hidden.append(states)
            if not is_new:
                raise _Enough

    def compare(block: nn.Module, args: tuple, kwargs: dict, index: int) -> None:
        states, call = split(args, kwargs)
        if not _same(call, calls[index][states.shape]):
            raise ValueError(
                "model must have blocks that can be run one by one, called with nothing but hidden states that depends on the "
                f"text, got {type(block).__name__}"
            )

    device = next(model.parameters()).device
    with _hooks(blocks, note):
        for ids in windows:
            try:
                model(input_ids=ids.to(device), use_cache=False)
            except _Enough:
                continue
    with _hooks(blocks, compare):
        model(input_ids=windows[0].flip(1).to(device), use_cache=False)
    return hidden, calls


@contextmanager
def _hooks(blocks: nn.ModuleList, hook: Callable) -> Iterator[None]:
    handles = [block.register_forward_pre_hook(partial(hook, index=i), with_kwargs=True) for i, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, Tensor) == isinstance(b, Tensor)


def run_block(block: nn.Module, states: Tensor, calls: dict[torch.Size, Call]) -> Tensor:
    """Run a block.

    Args:
        block: the block.
        states: (1, tokens, hidden), of a shape that `calls` knows.
        calls: of this block, from `block_inputs`.

    Returns:
        Hidden states of the same shape.
    """
    args, kwargs = calls[states.shape]
    out = block(states, *args, **kwargs)
    return out[0] if isinstance(out, tuple) else out


def module_of(layer: Layer) -> nn.Module:
    """The module that reads a layer's inputs: the layer itself, or all experts of a block together."""
    return layer.experts if isinstance(layer, Projection) else layer


def step_of(layer: Layer) -> object:
    """What is equal for layers none of which reads what another one makes: the projections of all experts of a block."""
    return layer.step if isinstance(layer, Projection) else layer


def read_by(
    layers: list[Layer],
    run: Callable[[Tensor], Tensor],
    hidden: list[Tensor],
    statistic: Callable[[int, torch.device], Statistic] | None,
    first_only: bool,
    everything: bool = False,
) -> list[Group]:
    """What layers read while a block runs.

    Args:
        layers: the layers, those of the same module after one another.
        run: runs the block on hidden states.
        hidden: all hidden states that reach the block.
        statistic: makes a statistic; None if there is none to collect.
        first_only: whether only the layers that read first are wanted.
        everything: let experts read all tokens that reach them.

    Returns:
        A group for each tensor that is read, in the order of reading; an expert that no token reaches is in none.
    """
    groups: list[Group] = []
    group_of: dict[Layer, Group] = {}

    def note(layer: Layer, X: Tensor) -> None:
        if layer not in group_of:
            group = next((group for group in groups if group.latest is X), None)
            if group is None:
                if first_only and groups and step_of(groups[0].layers[0]) != step_of(layer):
                    return
                group = Group([], statistic(X.shape[-1], X.device) if statistic else None)
                groups.append(group)
            group.layers.append(layer)
            group_of[layer] = group
        if group_of[layer].layers[0] is layer:
            group_of[layer].add(X)

    def note_layer(layer: nn.Module, args: tuple, _) -> None:
        note(layer, args[0])

    def note_experts(_, args: tuple, kwargs: dict, wanted: list[Projection]) -> None:
        states, chosen, *_ = (*args, *kwargs.values())
        for projection, X in inputs(wanted, states, chosen, everything):
            note(projection, X)

    handles = []
    for module, (first, *others) in groupby(layers, key=module_of):
        hook = partial(note_experts, wanted=[first, *others]) if isinstance(first, Projection) else note_layer
        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        for states in hidden:
            run(states)
    finally:
        for handle in handles:
            handle.remove()
    return groups


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode: dropout would make calibration random."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
