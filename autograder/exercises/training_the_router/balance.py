"""Exercise 9.2: the load-balancing loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.training_the_router.balance_mistakes import mistakes
from autograder.exercises.training_the_router.fixtures import some_mask, uneven
from autograder.inside.case import Case, call
from sparsity_edu.experts import losses


def reference(probs: Tensor, experts: Tensor, count: str = "sum", mask: Tensor | None = None) -> Tensor:
    """In float64: sums of thousands of tokens."""
    return losses.load_balancing(probs.double(), experts, count=count, mask=mask).float()


balance = Exercise(
    "training_the_router.balance",
    defines="balancing_loss",
    title="The load-balancing loss",
    minutes=18,
    difficulty=2,
    hints=(
        "Two lists of E numbers: how often each expert was chosen, and how much of the probability it got, both per "
        "token. Multiply them, add up, times E. Padding is left out before anything is counted.",
        "For the choices: `F.one_hot(experts, E)` has the shape (tokens, k, E); add up over the choices. E is "
        "`probs.shape[1]`, also where some expert was never chosen. Where there is a mask, take the rows of real tokens of "
        "both `probs` and `experts` first: `probs[mask]`. Whole numbers have no gradient, so f is a constant by itself.",
        "`f = F.one_hot(experts, E).sum(dim=1).float().mean(dim=0)` and `P = probs.mean(dim=0)`; the loss is `E * (f * "
        'P).sum()`. For "first" keep `experts[:, :1]` before, for "mean" divide f by k.',
    ),
    reference=reference,
    misconceptions=mistakes,
)


def batch(
    g: torch.Generator, tokens: int, experts: int, k: int, sampled: bool = False, idle: bool = False
) -> tuple[Tensor, Tensor]:
    """Probabilities and the k best experts of each token, or `sampled` ones, in no order of probability.

    With `idle`, nobody chooses the last expert.
    """
    probs = uneven(g, tokens, experts).softmax(dim=-1)
    liked = probs.sqrt() / torch.empty(tokens, experts).exponential_(generator=g) if sampled else probs.clone()
    if idle:
        liked[:, -1] = -1.0
    return probs, liked.topk(k, dim=-1).indices


def distinct(g: torch.Generator, tokens: int, experts: int, k: int) -> Tensor:
    """(tokens, k) any different experts."""
    return torch.stack([torch.randperm(experts, generator=g)[:k] for _ in range(tokens)])


def balance_case(
    g: torch.Generator,
    *sizes: int,
    sampled: bool = False,
    idle: bool = False,
    real: int = 0,
    count: tuple = (),
    with_mask: bool = False,
    **options,
) -> Case:
    """Of `sizes` tokens, experts, k, of which `real` are no padding; `count` may be left out, as ()."""
    probs, experts = batch(g, *sizes, sampled=sampled, idle=idle)
    if real:
        options["mask"] = some_mask(g, sizes[0], real)
    elif with_mask:
        options["mask"] = torch.ones(sizes[0], dtype=torch.bool)
    return call(probs, experts, *count, **options)


@balance.stage(
    "one expert for a token",
    points=1,
    exposes="f_e is the share of tokens that go to e, P_e the mean of its probability over all tokens, the loss E times the sum of f_e P_e.",
)
def _(g):
    yield balance_case(g, 9, 4, 1)
    yield balance_case(g, 5, 5, 1)
    yield balance_case(g, 1, 3, 1)
    yield balance_case(g, 1300, 6, 1)
    yield balance_case(g, 7, 90, 1)
    yield balance_case(g, 4, 1, 1)


@balance.stage(
    "the experts that were chosen, not the likeliest",
    points=1,
    exposes="f counts `experts` as they are given: a router that samples, or has a bias, chooses others than the most probable ones.",
)
def _(g):
    yield balance_case(g, 11, 5, 1, sampled=True)
    yield balance_case(g, 8, 6, 2, sampled=True)
    yield balance_case(g, 40, 7, 3, sampled=True)
    probs, _ = batch(g, 6, 7, 1)
    yield call(probs, torch.full((6, 1), int(torch.randint(3, (), generator=g))))  # the others are never chosen
    probs = probs * torch.tensor([1.0, 0, 1, 1, 1e-6, 1, 0])[torch.randperm(7, generator=g)]  # some are out, one nearly
    experts = distinct(g, 6, 7, 2)
    yield call(probs / probs.sum(dim=-1, keepdim=True), experts)
    experts = distinct(g, 8, 5, 2)
    probs = batch(g, 8, 5, 1)[0].scatter(1, experts[:, :1], 0.0)  # of probability 0, and it counts
    yield call(probs / probs.sum(dim=-1, keepdim=True), experts)


@balance.stage(
    "several experts, and what f counts then",
    points=1,
    exposes='"sum": every choice of every token counts 1 / tokens, so f adds up to k. "mean": the same divided by k. "first": only the first column '
    "of experts counts. Anything else is a ValueError.",
)
def _(g):
    for sizes in ((9, 5, 2), (6, 8, 3), (4, 3, 3)):
        for count in ((), ("sum",), ("mean",), ("first",)):
            yield balance_case(g, *sizes, sampled=True, count=count)
    yield balance_case(g, 70, 5, 2, count=("mean",))
    yield balance_case(g, 70, 5, 2, count=("first",))
    yield balance_case(g, 10, 6, 2, idle=True)
    for k, count in ((2, "both"), (1, "both"), (2, "Sum"), (2, ""), (2, None)):
        yield balance_case(g, 5, 4, k, count=(count,))


@balance.stage(
    "padding is left out",
    points=1,
    exposes="Where mask is False there is no token: it counts neither in f nor in P, and is none of the tokens that they are divided by. All "
    "arguments stay as they were.",
    pure=True,
)
def _(g):
    yield balance_case(g, 12, 5, 1, real=7)
    yield balance_case(g, 9, 4, 2, real=3, count=("mean",), idle=True)
    yield balance_case(g, 15, 6, 3, real=9, count=("first",), sampled=True)
    yield balance_case(g, 8, 3, 2, with_mask=True)
    yield balance_case(g, 10, 4, 2, real=1, sampled=True)
    probs, experts = batch(g, 20, 6, 2)
    mask = some_mask(g, 20, 11)
    experts[~mask] = torch.tensor([0, 1])  # as padding tokens, all alike, are routed all alike
    yield call(probs, experts, mask=mask)


@balance.stage(
    "the gradient goes through the probabilities",
    points=1,
    exposes="The gradient by probs is E f_e / tokens for every token that is real, chosen or not: P has a gradient, f is a count and has none.",
)
def _(g):
    yield balance_case(g, 7, 4, 1, gradients=(0,))
    yield balance_case(g, 9, 6, 2, sampled=True, idle=True, gradients=(0,))
    yield balance_case(g, 10, 5, 3, real=6, count=("mean",), gradients=(0,))
    yield balance_case(g, 11, 3, 2, real=5, count=("first",), sampled=True, gradients=(0,))


@balance.accepts("the function of Switch in transformers")
def _(probs, experts, count="sum", mask=None):
    if count not in ("sum", "mean", "first"):
        raise ValueError(f"count must be sum, mean or first, got {count}")
    router_probs, expert_indices = (probs, experts) if mask is None else (probs[mask], experts[mask])
    if count == "first":
        expert_indices = expert_indices[:, 0]
    num_experts = router_probs.shape[-1]
    if len(expert_indices.shape) == 1:
        expert_indices = expert_indices.unsqueeze(1)
    expert_mask = F.one_hot(expert_indices.to(torch.int64), num_experts)
    expert_mask = torch.max(expert_mask, axis=-2).values.to(torch.float32)
    tokens_per_expert = torch.mean(expert_mask, axis=-2)
    router_prob_per_expert = torch.mean(router_probs, axis=-2)
    loss = torch.mean(tokens_per_expert * router_prob_per_expert) * (num_experts**2)
    return loss / experts.shape[1] if count == "mean" else loss


@balance.accepts("the function of Mixtral in transformers, from the choices on")
def _(probs, experts, count="sum", mask=None):
    top_k, num_experts = experts.shape[1], probs.shape[1]
    if count not in {"sum", "mean", "first"}:
        raise ValueError(count)
    selected = experts[:, :1] if count == "first" else experts
    flat_mask = torch.ones(len(probs)) if mask is None else mask.reshape(-1).to(torch.float32)
    tokens_per_expert = torch.zeros(num_experts).scatter_add_(
        0, selected.reshape(-1), flat_mask.repeat_interleave(selected.shape[1])
    )
    router_prob = (probs.float() * flat_mask.unsqueeze(-1)).sum(dim=0)
    total_rows = flat_mask.sum()
    overall_loss = torch.sum(tokens_per_expert / total_rows * (router_prob / total_rows).unsqueeze(0))
    return overall_loss * num_experts / (top_k if count == "mean" else 1)


@balance.accepts("as Megatron has it: sums, one coefficient")
def _(probs, experts, count="sum", mask=None):
    k = {"sum": 1, "mean": experts.shape[1], "first": 1}.get(count)
    if k is None:
        raise ValueError("count")
    if mask is not None:
        probs, experts = probs[mask], experts[mask]
    chosen = experts[:, 0] if count == "first" else experts.flatten()
    tokens_per_expert = torch.bincount(chosen, minlength=probs.shape[1])
    aggregated_probs = probs.sum(dim=0)
    return torch.sum(aggregated_probs * tokens_per_expert) * (probs.shape[1] / (k * len(probs) * len(probs)))


@balance.accepts("expert by expert, in float64")
def _(probs, experts, count="sum", mask=None):
    if count == "first":
        experts = experts[:, [0]]
    elif count not in ("sum", "mean"):
        raise ValueError("what does it count?")
    real = [t for t in range(len(probs)) if mask is None or mask[t]]
    loss = 0
    for e in range(probs.shape[1]):
        f = sum(int(choice == e) for t in real for choice in experts[t].tolist()) / len(real)
        loss = loss + f * probs.double()[real, e].mean()
    return (loss * probs.shape[1] / (experts.shape[1] if count == "mean" else 1)).float()
