"""Activations, scores and layers that the exercises of unit 07 work on."""

from collections.abc import Callable

import torch
from torch import Tensor

from autograder.inside.recipes import Module

CLEAR = 1e-2  # by how much, of its size, the worst that stays stands off the best that goes: no rounding swaps the two

State = dict[str, Tensor]  # the tensors of a decoder of the Llama layout, by name

# its parts, by what they do with the residual stream
READERS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
WRITERS = ("o_proj", "down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm", "norm")
ENDS = ("embed_tokens", "lm_head")


def activations(g: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    """(..., channels): correlated, with means of their own (of either sign) and unequal scales."""
    channels = shape[-1]
    x = torch.randn(shape, generator=g) @ (torch.eye(channels) + 0.4 * torch.randn(channels, channels, generator=g))
    return scale * (x + 0.7 * torch.randn(channels, generator=g)) * 10 ** (torch.rand(channels, generator=g) - 0.5)


def clear(scores: Tensor, count: int) -> bool:
    """Whether the `count` best of every group (the last dimension) stand off the rest."""
    descending = scores.double().sort(dim=-1, descending=True).values
    if not 0 < count < scores.shape[-1]:
        return True
    return bool((descending[..., count - 1] > (1 + CLEAR) * descending[..., count]).all())


def redraw(draw: Callable, accept: Callable):
    """The first draw that is accepted."""
    while not accept(drawn := draw()):
        pass
    return drawn


def linear(g: torch.Generator, rows: int, cols: int, bias: bool = False) -> Module:
    """`nn.Linear` with random parameters."""
    state = {"weight": torch.randn(rows, cols, generator=g)}
    if bias:
        state["bias"] = torch.randn(rows, generator=g)
    return Module("Linear", (cols, rows, bias), state)


def some(g: torch.Generator, of: int, count: int) -> Tensor:
    """(count,) indices below `of`, in random order, which are no prefix in any order."""
    return redraw(
        lambda: torch.randperm(of, generator=g)[:count],
        lambda drawn: (count == 1 or drawn.tolist() != sorted(drawn.tolist())) and int(drawn.max()) >= count,
    )
