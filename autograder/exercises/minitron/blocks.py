"""Exercise 7.3: which blocks change little."""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.minitron.blocks_mistakes import Batches, best, influence, mistakes
from autograder.exercises.minitron.fixtures import clear, redraw
from autograder.inside.case import Case, call


def block_influence(batches: Batches, keep: int) -> tuple[Tensor, Tensor]:
    scores = influence(batches)
    return scores, best(scores, keep)


blocks = Exercise(
    "minitron.block_influence",
    defines="block_influence",
    title="Which blocks change little",
    minutes=12,
    difficulty=2,
    hints=(
        "Compare what enters a block with what leaves it, token by token: 1 minus the cosine of the two vectors. A batch "
        "adds the mean of this over its tokens.",
        "`F.cosine_similarity(a, b, dim=-1)` of two tensors (sequences, tokens, hidden) is (sequences, tokens). Convert "
        "them to float32 before. Block i has `states[i]` before it and `states[i + 1]` behind it. To choose: rank, cut, "
        "and sort what is kept.",
        "For each batch and block add `(1 - F.cosine_similarity(states[i].float(), states[i + 1].float(), "
        "dim=-1)).mean()` to `scores[i]`. The kept blocks are `scores.argsort(descending=True)[:keep]`, in ascending "
        "order.",
    ),
    reference=block_influence,
    rules=Rules(tolerance=1e-5, scale=0.1),  # a small score is a difference of numbers near 1
    misconceptions=mistakes,
)


def run(
    g: torch.Generator, sequences: int, tokens: int, hidden: int, strength: Tensor, scale: float = 1.0, drift: float = 0.5
) -> list:
    """What enters and leaves the blocks of a residual network; tokens differ in how much a block does to them, and in size."""
    states = [scale * (torch.randn(sequences, tokens, hidden, generator=g) + torch.randn(hidden, generator=g))]
    for of_block in strength:
        size = states[-1].norm(dim=-1, keepdim=True) / hidden**0.5
        update = torch.randn(states[-1].shape, generator=g) + drift * states[-1] / size
        of_token = 3 ** (2 * torch.rand(sequences, tokens, 1, generator=g) - 1)
        states.append(states[-1] + of_block * of_token * size * update)
        states[-1] = states[-1] * 2 ** (2 * torch.rand(sequences, tokens, 1, generator=g) - 0.5)
    return states


def blocks_case(
    g: torch.Generator,
    layers: int,
    keep: int,
    *sizes: tuple[int, int],
    hidden: int = 6,
    dtype=torch.float32,
    scale: float = 1.0,
    drift: float = 0.5,
) -> Case:
    """A batch for each (sequences, tokens); blocks differ in strength, and in each batch in another way."""

    def draw():
        strengths = [0.2 + torch.rand(layers, generator=g) * 1.5**i for i in range(len(sizes))]
        return [
            [state.to(dtype) for state in run(g, *size, hidden, strength, scale * 3.0**i, drift)]
            for i, (size, strength) in enumerate(zip(sizes, strengths, strict=True))
        ]

    def accept(batches):  # float16 ends at 65504, and some draws grow beyond
        return all(state.isfinite().all() for states in batches for state in states) and clear(influence(batches), keep)

    return call(redraw(draw, accept), keep)


@blocks.stage(
    "one batch: one minus the cosine, the mean over tokens",
    points=1,
    exposes="For every token the cosine between what enters block i, states[i], and what leaves it, states[i + 1], along the last dimension; the "
    "score is the mean over all tokens of 1 - cos. All blocks stay here.",
)
def _(g):
    yield blocks_case(g, 3, 3, (1, 5))
    yield blocks_case(g, 4, 4, (3, 7), hidden=5)
    yield blocks_case(g, 1, 1, (1, 1))
    yield blocks_case(g, 2, 2, (4, 1), hidden=3)
    yield blocks_case(g, 3, 3, (1, 700), hidden=2)
    yield blocks_case(g, 2, 2, (1, 2), hidden=1100)
    yield blocks_case(g, 3, 3, (2, 4), drift=-2.0)  # some blocks turn vectors around
    yield blocks_case(g, 3, 3, (2, 4), scale=1e-4)


@blocks.stage(
    "keeps the blocks that change most, in order",
    points=1,
    exposes="A block that hardly turns anything can go: the `keep` blocks with the largest scores stay, as int64 indices from small to large.",
)
def _(g):
    yield blocks_case(g, 7, 4, (2, 6), drift=-2.0)
    yield blocks_case(g, 9, 3, (3, 4), hidden=8)
    yield blocks_case(g, 5, 1, (4, 3), hidden=7)
    yield blocks_case(g, 12, 5, (2, 2), hidden=4)


@blocks.stage(
    "adds up over batches of unequal size",
    points=1,
    exposes="Each batch adds its own mean over tokens, whatever its size.",
)
def _(g):
    yield blocks_case(g, 6, 3, (2, 7), (1, 4), (5, 3), hidden=5, drift=-2.0)
    yield blocks_case(g, 8, 5, (1, 3), (4, 9), hidden=7)


@blocks.stage(
    "in half precision too",
    points=1,
    exposes="States may be float16: compute in float32, as a cosine close to 1 needs all its digits. The states stay as they are, "
    "float32 ones too.",
    pure=True,
)
def _(g):
    yield blocks_case(g, 3, 2, (2, 5), drift=-2.0)
    yield blocks_case(g, 5, 2, (2, 6), (3, 4), hidden=9, dtype=torch.float16)
    yield blocks_case(g, 4, 3, (3, 5), dtype=torch.bfloat16, hidden=7)
    yield blocks_case(g, 3, 2, (2, 3), (1, 4), dtype=torch.bfloat16, scale=1e6)  # too large for float16
    yield blocks_case(g, 2, 1, (2, 3), dtype=torch.float16, scale=1e3)  # as the squares are


@blocks.accepts("official code, sequence first")
def _(batches, num_layers):
    scores = {}
    for states in batches:
        for layer, (inp, out) in enumerate(pairwise(states)):
            inp, out = (x.transpose(0, 1).to(torch.float32) for x in (inp, out))
            score = 1 - F.cosine_similarity(inp, out, dim=2).mean()
            scores[layer] = scores.get(layer, 0) + score.item()
    ranked = sorted(scores, key=lambda layer: scores[layer], reverse=True)
    return torch.tensor([scores[layer] for layer in sorted(scores)]), torch.tensor(sorted(ranked[:num_layers]))


@blocks.accepts("unit vectors")
def _(batches, keep):
    scores = 0
    for states in batches:
        unit = torch.stack([F.normalize(state.float(), dim=-1) for state in states])  # (layers + 1, sequences, tokens, hidden)
        scores = scores + (1 - torch.einsum("lsth,lsth->lst", unit[:-1], unit[1:])).mean(dim=(1, 2))
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[scores.topk(keep).indices] = True
    return scores, mask.nonzero()[:, 0]


@blocks.accepts("numpy, token by token")
def _(batches, keep):
    scores = np.zeros(len(batches[0]) - 1)
    for states in batches:
        arrays = [state.double().numpy().reshape(-1, state.shape[-1]) for state in states]
        for i, (before, after) in enumerate(pairwise(arrays)):
            scores[i] += np.mean([1 - b @ a / np.sqrt((b @ b) * (a @ a)) for b, a in zip(before, after, strict=True)])
    kept = np.sort(np.argsort(scores)[len(scores) - keep :])
    return torch.tensor(scores, dtype=torch.float32), torch.from_numpy(kept)
