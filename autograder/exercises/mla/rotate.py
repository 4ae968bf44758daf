"""Exercise 12.2: positions by rotation."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.mla.rotate_mistakes import mistakes
from autograder.inside.case import Case, call


def reference(x: Tensor, positions: Tensor, base: float = 10000.0, interleaved: bool = True) -> Tensor:
    """Pairs as complex numbers, one after the other, in float64."""
    d = x.shape[-1]
    turned = torch.zeros(x.shape, dtype=torch.float64)
    for j in range(d // 2):
        a, b = (2 * j, 2 * j + 1) if interleaved else (j, j + d // 2)
        angle = positions.double() * float(base) ** (-2 * j / d)
        angle = angle.view(*angle.shape, *[1] * (x.ndim - 3))  # the same for all heads
        pair = torch.complex(x[..., a].double(), x[..., b].double()) * torch.polar(torch.ones_like(angle), angle)
        turned = turned.index_copy(-1, torch.tensor([a, b]), torch.view_as_real(pair))
    return turned.float()


rotate = Exercise(
    "mla.rotate",
    defines="rotate",
    title="Positions by rotation",
    minutes=15,
    difficulty=2,
    hints=(
        "Take the two channels of each pair apart, turn them by the angle of their token and their pair, and put them back where they came from.",
        "The angles are `positions[..., None] * base ** (-torch.arange(0, d, 2) / d)`, (batch, tokens, d / 2). With heads there is one dimension more in "
        "between, of size 1. Pairs are `x[..., ::2]` and `x[..., 1::2]`, or the two halves.",
        "`angle = positions[..., None] * base ** (-torch.arange(0, d, 2) / d)`, with `angle = angle[:, :, None]` if x has 4 dimensions; "
        "`a * angle.cos() - b * angle.sin()` and `b * angle.cos() + a * angle.sin()`; `torch.stack((first, second), dim=-1).flatten(-2)` interleaves them, "
        "`torch.cat((first, second), dim=-1)` puts the halves side by side.",
    ),
    reference=reference,
    rules=Rules(tolerance=2e-4),  # angles of some hundreds, in float32
    misconceptions=mistakes,
)


def from_(g: torch.Generator, batch: int, tokens: int, low: int = 3, high: int = 40) -> Tensor:
    """(batch, tokens): tokens in a row, each sequence from another place on."""
    starts = low + torch.randperm(high - low, generator=g)[:batch]
    return starts[:, None] + torch.arange(tokens)


def case(g: torch.Generator, *shape: int, positions: Tensor | None = None, **more) -> Case:
    positions = torch.arange(shape[1]).expand(shape[0], -1) if positions is None else positions
    return call(torch.randn(shape, generator=g), positions.contiguous(), **more)


@rotate.stage(
    "neighbours turn together",
    points=1,
    exposes="Channels 2j and 2j+1 are a pair, turned by position * base^(-2j / d) against the clock, and stay where they are.",
)
def _(g):
    yield case(g, 1, 5, 2)
    yield case(g, 2, 7, 6)
    yield case(g, 3, 4, 10, base=50.0)
    yield case(g, 1, 130, 8, base=500.0)
    yield case(g, 2, 9, 64, interleaved=True)


@rotate.stage(
    "or channels half of the width apart",
    points=1,
    exposes="With interleaved=False channels j and j + d/2 are a pair. The angles are the same, and so is the length of each pair.",
)
def _(g):
    yield case(g, 2, 6, 8, interleaved=False)
    yield case(g, 3, 7, 4, interleaved=False, base=100.0)
    yield case(g, 1, 5, 64, interleaved=False)


@rotate.stage(
    "at the positions that are given",
    points=1,
    exposes="Positions need not begin at 0, nor be the same in all sequences, nor follow each other. They are the tokens' own.",
)
def _(g):
    for interleaved in (True, False):
        yield case(g, 3, 4, 6, positions=from_(g, 3, 4), interleaved=interleaved)
        padded = (torch.arange(7) - torch.tensor([[0], [4]])).clamp(min=0)  # padding on the left
        yield case(g, 2, 7, 8, positions=padded, interleaved=interleaved)
        yield case(g, 2, 1, 8, positions=from_(g, 2, 1, 20, 60), interleaved=interleaved)
    anywhere = torch.stack([torch.randperm(60, generator=g)[:5] for _ in range(2)])
    yield case(g, 2, 5, 10, positions=anywhere)
    yield case(g, 1, 6, 8, positions=from_(g, 1, 6, 270, 300))
    yield case(g, 2, 6, 8, positions=torch.tensor([395, 310]).view(2, 1) + torch.arange(6))


@rotate.stage(
    "heads turn alike",
    points=1,
    exposes="x may be (batch, tokens, d) or (batch, tokens, heads, d). The angle depends on token and channel, not on the head; q and k with the same "
    "shift of all positions have the same product.",
)
def _(g):
    for interleaved in (True, False):
        yield case(g, 2, 5, 3, 8, positions=from_(g, 2, 5), interleaved=interleaved)
        yield case(g, 3, 4, 4, 6, interleaved=interleaved)  # as many heads as tokens
        yield case(g, 1, 1, 5, 4, positions=from_(g, 1, 1), interleaved=interleaved, base=300.0)


@rotate.stage(
    "a gradient reaches x",
    points=1,
    exposes="The rotation of a query or key is differentiated, too. The arguments stay as they are.",
    pure=True,
)
def _(g):
    for interleaved in (True, False):
        yield case(g, 2, 4, 6, positions=from_(g, 2, 4), interleaved=interleaved, gradients=(0,))
        yield case(g, 2, 3, 5, 4, positions=from_(g, 2, 3), interleaved=interleaved, gradients=(0,))


def angles(x: Tensor, positions: Tensor, base: float) -> Tensor:
    d = x.shape[-1]
    angle = positions[..., None] * base ** (-torch.arange(0, d, 2) / d)
    return angle.unsqueeze(2) if x.ndim == 4 else angle


@rotate.accepts("complex numbers, as in DeepSeek's code")
def _(x, positions, base=10000.0, interleaved=True):
    angle = angles(x, positions, base)
    pairs = x.unflatten(-1, (-1, 2)) if interleaved else x.unflatten(-1, (2, -1)).mT
    y = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angle), angle))
    return y.flatten(-2) if interleaved else y.mT.flatten(-2)


@rotate.accepts("rotate_half, as in transformers")
def _(x, positions, base=10000.0, interleaved=True):
    d = x.shape[-1]
    order = torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)]) if interleaved else torch.arange(d)
    x = x[..., order]
    angle = angles(x, positions, base)
    emb = torch.cat((angle, angle), dim=-1)
    half = torch.cat((-x[..., d // 2 :], x[..., : d // 2]), dim=-1)
    return (x * emb.cos() + half * emb.sin())[..., order.argsort()]


@rotate.accepts("a matrix for each token")
def _(x, positions, base=10000.0, interleaved=True):
    d = x.shape[-1]
    R = torch.zeros(*positions.shape, d, d)
    for j in range(d // 2):
        a, b = (2 * j, 2 * j + 1) if interleaved else (j, j + d // 2)
        angle = positions.double() / base ** (2 * j / d)
        R[..., a, a] = R[..., b, b] = angle.cos().float()
        R[..., a, b], R[..., b, a] = -angle.sin().float(), angle.sin().float()
    return torch.einsum("btij,bt...j->bt...i", R, x)
