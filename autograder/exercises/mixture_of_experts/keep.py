"""Exercise 8.3: who finds room."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.mixture_of_experts.fixtures import choices
from autograder.exercises.mixture_of_experts.keep_mistakes import mistakes
from autograder.inside.case import Case, call


def reference(experts: Tensor, n_experts: int, capacity: int) -> Tensor:
    """With a list of free places, one choice at a time."""
    tokens, k = experts.shape[-2:]
    kept = torch.zeros_like(experts, dtype=torch.bool)
    for group, mine in zip(experts.reshape(-1, tokens, k), kept.view(-1, tokens, k), strict=True):
        free = [capacity] * n_experts
        for rank, column in enumerate(group.T.tolist()):
            for token, expert in enumerate(column):
                if free[expert] > 0:
                    free[expert] -= 1
                    mine[token, rank] = True
    return kept


keep = Exercise(
    "mixture_of_experts.keep",
    defines="keep",
    title="Who finds room",
    minutes=15,
    difficulty=3,
    hints=(
        "Every choice stands in the queue of its expert. Find its position there, counted from 0: the choice is kept if that is below the capacity. "
        "The queue is filled by all first choices, token after token, and then by all second ones.",
        "For one group: put the choices in the order in which they queue, `experts.T.flatten()`, one-hot encode them, and take a cumulative sum along "
        "the queue. Minus 1 it is, in each row's own column, the position. Then go back to (tokens, k). Groups in front are a dimension that no sum "
        "may cross.",
        "`line = experts.mT.flatten(-2)` is (..., k * tokens). With `hot = F.one_hot(line, n_experts)`, "
        "`position = (hot.cumsum(dim=-2) * hot).sum(dim=-1) - 1`, and `(position < capacity).unflatten(-1, (k, tokens)).mT` has the shape of experts.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


def room(g: torch.Generator, *shape: int, n_experts: int, share: float = 0.8) -> Case:
    """Choices, and a capacity of that share of what each expert would get if they were liked alike."""
    capacity = max(1, int(share * shape[-2] * shape[-1] / n_experts))
    return call(choices(g, *shape, n_experts=n_experts), n_experts, capacity)


@keep.stage(
    "one choice for each token",
    points=1,
    exposes="Tokens come from left to right; an expert takes the first `capacity` of those that chose it, and the others are dropped.",
)
def _(g):
    yield room(g, 12, 1, n_experts=4)
    yield room(g, 20, 1, n_experts=5)
    yield room(g, 9, 1, n_experts=7, share=1.6)
    yield room(g, 31, 1, n_experts=3, share=0.5)


@keep.stage(
    "first choices before second ones",
    points=1,
    exposes="An expert has one queue: first all tokens whose first choice it is, then all whose second choice it is, and so on.",
)
def _(g):
    yield room(g, 11, 2, n_experts=4)
    yield room(g, 16, 2, n_experts=5, share=1.1)
    yield room(g, 14, 3, n_experts=6)
    yield room(g, 9, 4, n_experts=7, share=0.9)
    yield room(g, 25, 2, n_experts=9, share=0.6)


@keep.stage(
    "each group by itself",
    points=1,
    exposes="What comes before (tokens, k) are groups, such as sequences. Each group has queues of its own, and an expert takes `capacity` tokens of "
    "each.",
)
def _(g):
    yield room(g, 3, 10, 2, n_experts=4)
    yield room(g, 4, 9, 1, n_experts=3)
    yield room(g, 2, 3, 8, 2, n_experts=5, share=0.7)
    yield room(g, 5, 5, 2, n_experts=6)
    yield room(g, 1, 13, 3, n_experts=5)


@keep.stage(
    "none, one, all, and many",
    points=1,
    exposes="A capacity of 0 drops everything and a large one nothing; an expert may be chosen by nobody; counts go beyond 256. The choices stay as "
    "they are.",
    pure=True,
)
def _(g):
    some = choices(g, 10, 2, n_experts=5)
    for capacity in (0, 1, 4, 10, 100):
        yield call(some, 5, capacity)
    yield call(choices(g, 1, 3, n_experts=5), 5, 1)
    yield call(choices(g, 2, 4, 2, n_experts=5), 9, 2)  # the last four are never chosen
    yield room(g, 1500, 2, n_experts=3, share=0.9)
    yield room(g, 3, 700, 1, n_experts=2, share=0.8)
    yield room(g, 8, 2, n_experts=600, share=80)
    yield call(choices(g, 5200, 1, n_experts=3), 3, 2300)  # half precision has no 2301
    yield room(g, 7, 7, n_experts=9, share=0.7)
    yield call(experts=choices(g, 12, 2, n_experts=4), n_experts=4, capacity=3)


@keep.accepts("flaxformer and mesh: one-hot, all first choices in front, cumulative sum")
def _(experts, n_experts, capacity):
    tokens, k = experts.shape[-2:]
    preferred = experts.reshape(-1, tokens, k).swapaxes(1, 2).reshape(-1, k * tokens)
    expert_mask = F.one_hot(preferred, n_experts).to(torch.int32)
    token_priority = torch.cumsum(expert_mask, dim=1) * expert_mask - 1.0
    token_priority = token_priority.reshape(-1, k, tokens, n_experts).swapaxes(1, 2).amax(dim=3)
    return (token_priority < capacity).reshape(experts.shape)


@keep.accepts("sort and segment")
def _(experts, n_experts, capacity):
    tokens, k = experts.shape[-2:]
    rows = []
    for group in experts.reshape(-1, tokens, k):
        line = group.T.flatten()
        order = line.argsort(stable=True)
        length = line.bincount(minlength=n_experts)
        place = torch.arange(len(line)) - (length.cumsum(0) - length)[line[order]]
        position = torch.empty_like(place)
        position[order] = place
        kept = position.view(k, tokens) < capacity
        rows.append(kept.T)
    return torch.stack(rows).reshape(experts.shape)


@keep.accepts("Switch in transformers, and its rest of the room for the next choice")
def _(experts, n_experts, capacity):
    kept, taken = [], 0
    for rank in range(experts.shape[-1]):
        expert_index = F.one_hot(experts[..., rank], num_classes=n_experts)
        token_priority = torch.cumsum(expert_index, dim=-2) + taken
        taken = taken + expert_index.sum(dim=-2, keepdim=True)
        expert_capacity_mask = token_priority <= capacity
        kept.append((expert_index * expert_capacity_mask).sum(dim=-1).bool())
    return torch.stack(kept, dim=-1)


@keep.accepts("expert by expert")
def _(experts, n_experts, capacity):
    line = experts.transpose(-1, -2).flatten(-2)
    kept = torch.zeros(line.shape, dtype=torch.bool)
    for e in range(n_experts):
        mine = line == e
        kept |= mine & (mine.cumsum(-1) <= capacity)
    return kept.unflatten(-1, (experts.shape[-1], experts.shape[-2])).transpose(-1, -2)
