"""Exercise 10.5: forget."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.h2o.evict_mistakes import mistakes
from autograder.inside.case import Case, call


def reference(keep: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Head by head."""
    kept = []
    for x in tensors:
        group = x.shape[1] // keep.shape[1]
        rows = [torch.stack([head[keep[b, h // group]] for h, head in enumerate(sequence)]) for b, sequence in enumerate(x)]
        kept.append(torch.stack(rows))
    return kept


evict = Exercise(
    "h2o.evict",
    defines="evict",
    title="Forget",
    minutes=12,
    difficulty=2,
    hints=(
        "Keys, values, scores and positions are lists of the same tokens, so the same ones have to stay in all of them. Every head has "
        "its own list of who stays, so one index for a whole tensor will not do.",
        "`x.gather(2, idx)` takes from each row what the same row of `idx` says; `idx` needs as many dimensions as x. For tensors with more "
        "heads repeat `keep` for neighbours first; for those with channels `expand` it over the channels.",
        "`idx = keep.repeat_interleave(x.shape[1] // keep.shape[1], dim=1)`; where `x.ndim == 4`: `idx = idx[..., None].expand(-1, -1, -1, "
        "x.shape[-1])`; then `x.gather(2, idx)`, for one tensor after the other, in a list.",
    ),
    reference=reference,
    rules=Rules(tolerance=0),
    misconceptions=mistakes,
)


def chosen(g: torch.Generator, batch: int, heads: int, n: int, kept: int, ascending: bool = True) -> Tensor:
    """(batch, heads, kept), other tokens for each head, and not the first or last ones of all."""
    keep = torch.rand(batch, heads, n, generator=g).argsort(dim=-1)[..., :kept]
    return keep.sort(dim=-1).values if ascending else keep.contiguous()


def evict_case(
    g: torch.Generator, batch: int, heads: int, n: int, kept: int, *shapes: tuple[int, ...], ascending: bool = True
) -> Case:
    """A tensor for each shape: (heads of it,) or (heads of it, channels)."""
    tensors = [torch.randn(batch, of, n, *channels, generator=g) for of, *channels in shapes]
    return call(chosen(g, batch, heads, n, kept, ascending), *tensors)


@evict.stage(
    "scores: one number for each token",
    points=1,
    exposes="A tensor (batch, heads, held) becomes (batch, heads, kept): of each head the entries that its row of keep names, in that order. A list comes "
    "back, also for one tensor.",
)
def _(g):
    yield evict_case(g, 1, 1, 5, 3, (1,))
    yield evict_case(g, 2, 3, 7, 4, (3,))
    yield evict_case(g, 3, 2, 6, 1, (2,))
    yield evict_case(g, 2, 2, 5, 5, (2,))
    yield evict_case(g, 2, 3, 8, 4, (3,), ascending=False)


@evict.stage(
    "keys and values: a vector for each token",
    points=1,
    exposes="Tensors (batch, heads, held, channels) lose whole tokens: all channels of each one that stays. Keys and values may have different numbers "
    "of channels.",
)
def _(g):
    yield evict_case(g, 1, 1, 5, 3, (1, 4))
    yield evict_case(g, 2, 3, 7, 4, (3, 5), (3, 2))
    yield evict_case(g, 2, 4, 4, 3, (4, 4), (4, 4))
    yield evict_case(g, 3, 2, 90, 30, (2, 6), (2, 1))


@evict.stage(
    "all that belongs to tokens, together",
    points=1,
    exposes="Any number of tensors, with or without channels, of any dtype, come back in the order in which they were given. int64 positions and boolean "
    "marks stay what they are.",
)
def _(g):
    keep = chosen(g, 2, 3, 9, 4)
    vectors = [torch.randn(2, 3, 9, size, generator=g) for size in (4, 6)]
    scores = torch.rand(2, 3, 9, generator=g)
    positions = torch.rand(2, 3, 400, generator=g).argsort(dim=-1)[..., :9].sort(dim=-1).values
    yield call(keep, *vectors, scores, positions, torch.rand(2, 3, 9, generator=g) < 0.5)
    yield call(keep, positions + 2**60)  # no float holds these
    yield call(keep, *(x.bfloat16() for x in vectors))
    yield call(keep, scores, vectors[0], scores.double() / 3)
    yield call(keep)


@evict.stage(
    "heads that share what they keep",
    points=1,
    exposes="A tensor may have more heads than keep, such as scores by query head: then the first heads / kv_heads of it, which are neighbours, go by the "
    "first row of keep, the next ones by the second. What comes back is a copy, so that the memory of what was forgotten can be freed.",
    pure=True,
)
def _(g):
    yield evict_case(g, 2, 2, 7, 3, (6,))
    yield evict_case(g, 1, 3, 8, 4, (6, 5), (3, 5), (9,))
    yield evict_case(g, 2, 2, 6, 6, (2, 3), (4,))  # all stay: copies all the same
    yield evict_case(g, 2, 1, 9, 5, (4,), (1, 3), ascending=False)


@evict.accepts("take_along_dim")
def _(keep, *tensors):
    out = []
    for x in tensors:
        index = torch.repeat_interleave(keep, x.size(1) // keep.size(1), dim=1)
        out.append(torch.take_along_dim(x, index if x.dim() == 3 else index.unsqueeze(-1), dim=2))
    return out


@evict.accepts("advanced indexing, as a tuple")
def _(keep, *tensors):
    batch = torch.arange(keep.shape[0])[:, None, None]

    def take(x):
        idx = keep.repeat_interleave(x.shape[1] // keep.shape[1], 1)
        return x[batch, torch.arange(x.shape[1])[None, :, None], idx]

    return tuple(take(x) for x in tensors)


@evict.accepts("flattened, index_select")
def _(keep, *tensors):
    kept = []
    for x in tensors:
        b, h, n = x.shape[:3]
        idx = keep[:, :, None].expand(b, keep.shape[1], h // keep.shape[1], -1).reshape(b * h, -1)
        flat = (idx + n * torch.arange(b * h)[:, None]).flatten()
        kept.append(x.reshape(b * h * n, *x.shape[3:]).index_select(0, flat).view(b, h, -1, *x.shape[3:]))
    return kept
