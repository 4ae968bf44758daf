"""What a text is in a dense model: which hidden states reach each block, and how to run a block on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sparsity_edu.models.layers import decoder_blocks, prunable_matrices
from sparsity_edu.models.positions import check_length
from sparsity_edu.weights.walk import block_inputs, evaluating, run_block, single_windows


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers whose inputs can be thresholded, by name: all matrices of a model's blocks.

    Raises:
        ValueError: some are no linear layers.
    """
    matrices = prunable_matrices(model)
    other = next((name for name, layer in matrices.items() if not isinstance(layer, nn.Linear)), None)
    if other or not matrices or decoder_blocks(model) is None:
        got = f"{type(matrices[other]).__name__} {other!r}" if other else type(model).__name__
        raise ValueError(f"model must be a decoder whose blocks hold linear layers, got {got}")
    return matrices


@dataclass
class DenseBlock:
    """A block, and the hidden states (1, tokens, hidden) that reach it, for each window."""

    block: nn.Module
    run: Callable[[Tensor], Tensor]  # on hidden states
    hidden: list[Tensor]
    outputs: list[Tensor] = field(default_factory=list)  # of the dense block

    def run_once(self, states: Tensor) -> Tensor:
        """Run the block, unchanged, on the next of its hidden states; it need not be run again for the next block."""
        self.outputs.append(self.run(states))
        return self.outputs[-1]


@torch.no_grad()
def dense_blocks(model: nn.Module, calibration: Tensor | list[Tensor], *, progress: bool = True) -> Iterator[DenseBlock]:
    """Go through a model's blocks with a text, none of which is changed.

    Args:
        model: a Hugging Face decoder.
        calibration: token ids (windows, tokens), or a list of such.
        progress: show a progress bar.

    Yields:
        Each block, with what the dense ones before it make of the text.
    """
    windows = single_windows(calibration)
    check_length(model, max(window.shape[1] for window in windows), "calibration")
    blocks = decoder_blocks(model)
    with evaluating(model):
        hidden, calls = block_inputs(model, blocks, windows)
        for index, block in enumerate(tqdm(blocks, desc="calibrate", unit="block", leave=None, disable=not progress)):
            step = DenseBlock(block, partial(run_block, block, calls=calls[index]), hidden)
            yield step
            hidden = step.outputs or [step.run(states) for states in hidden]


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable) -> Iterator[None]:
    """A module with another forward for a while; hooks are called as before."""
    own = vars(module).get("forward")  # some libraries set one
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
