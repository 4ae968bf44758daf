"""Mistakes of exercise 8.3, and the right answer that they vary."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def positions(line: Tensor, n_experts: int) -> Tensor:
    """Position of each entry of (..., entries) in the queue of its expert."""
    hot = F.one_hot(line, n_experts)
    return (hot.cumsum(dim=-2) * hot).sum(dim=-1) - 1


def by_choice(experts: Tensor, n_experts: int) -> Tensor:
    """The right positions, (..., tokens, k)."""
    return positions(experts.mT.flatten(-2), n_experts).unflatten(-1, experts.mT.shape[-2:]).mT


@mistakes(
    "token by token",
    "You fill the queues token by token, with all choices of a token at once. A second choice then takes the place of a later token's first choice: "
    "all first choices come before any second one.",
)
def _(experts, n_experts, capacity):
    return positions(experts.flatten(-2), n_experts).unflatten(-1, experts.shape[-2:]) < capacity


@mistakes(
    "room for each rank",
    "You give first and second choices a queue each, so an expert may take twice its capacity. There is one queue for an expert: second choices get "
    "what the first ones leave.",
)
def _(experts, n_experts, capacity):
    return positions(experts.mT, n_experts).mT < capacity


@mistakes(
    "second choices first",
    "You fill the room with the last choices first. The order is: all first choices, then all second ones.",
)
def _(experts, n_experts, capacity):
    return by_choice(experts.flip(-1), n_experts).flip(-1) < capacity


@mistakes(
    "one too many",
    "An expert takes one token too many. A cumulative sum that counts the entry itself gives 1 to the first: position = sum - 1 < capacity, or "
    "sum <= capacity.",
)
def _(experts, n_experts, capacity):
    return by_choice(experts, n_experts) <= capacity


@mistakes(
    "one too few",
    "An expert takes one token too few. The first in a queue has position 0: position < capacity. A cumulative sum that counts the entry itself "
    "starts at 1.",
)
def _(experts, n_experts, capacity):
    return by_choice(experts, n_experts) < capacity - 1


@mistakes(
    "one queue for all groups",
    "You let all groups stand in one queue. Each group has room of its own: the cumulative sum must not run from one sequence into the next.",
)
def _(experts, n_experts, capacity):
    flat = experts.reshape(-1, experts.shape[-1])
    return (by_choice(flat, n_experts) < capacity).view(experts.shape)


@mistakes(
    "one queue for all experts",
    "You count all choices in one queue. Every expert has its own: count only those that chose the same expert.",
)
def _(experts, n_experts, capacity):
    return torch.arange(experts[..., 0].numel() * experts.shape[-1]).view(experts.shape) % experts[..., 0, 0].numel() < capacity


@mistakes(
    "sum along the experts",
    "Your cumulative sum runs along the experts, not along the tokens. Then everybody is first. (The same happened in a published library.)",
)
def _(experts, n_experts, capacity):
    hot = F.one_hot(experts, n_experts)
    return (hot.cumsum(dim=-1) * hot).sum(dim=-1) <= capacity


@mistakes(
    "all or nothing",
    "You drop all choices of an expert that has too many. It takes as many as it has room for; only the rest is dropped.",
)
def _(experts, n_experts, capacity):
    count = F.one_hot(experts.flatten(-2), n_experts).sum(dim=-2)  # (..., E)
    return count.gather(-1, experts.flatten(-2)).view(experts.shape) <= capacity


@mistakes("the last come first", "You keep the last ones in the queue. Tokens come from left to right: the first find room.")
def _(experts, n_experts, capacity):
    return by_choice(experts.flip(-2), n_experts).flip(-2) < capacity


@mistakes(
    "a token is dropped whole",
    "You drop a token as soon as one of its choices finds no room. Each choice is kept or dropped by itself.",
)
def _(experts, n_experts, capacity):
    kept = by_choice(experts, n_experts) < capacity
    return kept.all(dim=-1, keepdim=True).expand(experts.shape).clone()


@mistakes(
    "only kept first choices free the second",
    "You give a second choice only to tokens that lost their first one. A token uses all k choices that find room.",
)
def _(experts, n_experts, capacity):
    kept = by_choice(experts, n_experts) < capacity
    return kept & (kept.cumsum(dim=-1) == 1)


@mistakes("the opposite", "Your mask is True for what is dropped. True is kept.")
def _(experts, n_experts, capacity):
    return by_choice(experts, n_experts) >= capacity


@mistakes("positions", "You return positions. Compare them with the capacity: the answer is boolean.")
def _(experts, n_experts, capacity):
    return by_choice(experts, n_experts)


@mistakes("turned", "Your mask is (k, tokens), in the order of the queue. Bring it back to the shape of experts.")
def _(experts, n_experts, capacity):
    return (by_choice(experts, n_experts) < capacity).mT


@mistakes(
    "read in the wrong order",
    "You made the queue from experts.T, but read it back as (tokens, k) without turning it: unflatten to (k, tokens) first, then transpose.",
)
def _(experts, n_experts, capacity):
    return (positions(experts.mT.flatten(-2), n_experts) < capacity).view(experts.shape)


@mistakes("at least one", "You let every expert take at least one token. With a capacity of 0 all are dropped.")
def _(experts, n_experts, capacity):
    return by_choice(experts, n_experts) < max(1, capacity)


@mistakes(
    "counted in half precision",
    "You count in a type that is too small for it: bfloat16 has no 257, uint8 none above 255. Count in int64.",
)
def _(experts, n_experts, capacity):
    hot = F.one_hot(experts.mT.flatten(-2), n_experts).to(torch.uint8)
    position = (hot.cumsum(dim=-2, dtype=torch.uint8) * hot).sum(dim=-1, dtype=torch.uint8).to(torch.int64) - 1
    return (position % 256).unflatten(-1, experts.mT.shape[-2:]).mT < capacity
