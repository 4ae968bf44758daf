"""Exercise 8.4: dispatch."""

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.mixture_of_experts.fixtures import choices, dropped
from autograder.inside.case import call


def reference(experts: Tensor, n_experts: int, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One choice at a time."""
    lists: list[list[int]] = [[] for _ in range(n_experts)]
    for choice, expert in enumerate(experts.flatten().tolist()):
        if kept is None or kept.flatten()[choice]:
            lists[expert].append(choice)
    entries = torch.tensor([choice for mine in lists for choice in mine], dtype=torch.int64)
    return entries, torch.tensor([len(mine) for mine in lists])


dispatch = Exercise(
    "mixture_of_experts.dispatch",
    defines="dispatch",
    title="Dispatch",
    minutes=12,
    difficulty=2,
    hints=(
        "Number all choices from 0, token after token. Sort these numbers by the expert that was chosen, leave out what was dropped, and count how many "
        "each expert has left.",
        "`experts.flatten().argsort(stable=True)` is the list for all choices; stable, so that equal experts stay in order. Choices that were dropped "
        "are taken out of that list by `kept.flatten()` *at the list*. `bincount` counts, with `minlength` so that experts without tokens are there.",
        "`flat = experts.flatten()`, `choices = flat.argsort(stable=True)`, if kept is given `choices = choices[kept.flatten()[choices]]`, and "
        "`counts = flat[choices].bincount(minlength=n_experts)`.",
    ),
    reference=reference,
)


@dispatch.stage(
    "all choices, expert after expert",
    points=1,
    exposes="Choice t * k + j is the j-th choice of token t. The list begins with those of expert 0, in ascending order, then those of expert 1.",
)
def _(g):
    yield call(choices(g, 6, 1, n_experts=4), 4)
    yield call(choices(g, 5, 2, n_experts=4), 4)
    yield call(choices(g, 9, 3, n_experts=5), 5)
    yield call(choices(g, 4, 2, n_experts=7), 7)


@dispatch.stage(
    "without those that were dropped",
    points=2,
    exposes="A choice that is not kept is in no list and in no count; the others keep their numbers, those of all tokens * k choices.",
)
def _(g):
    for tokens, k, E in ((8, 1, 4), (9, 2, 5), (7, 3, 6), (16, 2, 5)):
        yield call(choices(g, tokens, k, n_experts=E), E, dropped(g, tokens, k))
    yield call(choices(g, 10, 2, n_experts=6), 6, kept=dropped(g, 10, 2, share=0.6))
    one = torch.arange(60).view(30, 2) != torch.randint(60, (), generator=g)  # all but one found room
    yield call(choices(g, 30, 2, n_experts=5), 5, one)


@dispatch.stage(
    "experts without tokens, and many",
    points=1,
    exposes="counts has one entry for each expert, also for those that nobody chose, and at the end; all may be dropped; within an expert the "
    "order holds for thousands of choices. The arguments stay as they are.",
    pure=True,
)
def _(g):
    yield call(choices(g, 6, 2, n_experts=4), 11)
    yield call(choices(g, 5, 2, n_experts=4) + 3, 8, dropped(g, 5, 2))
    yield call(choices(g, 6, 2, n_experts=4), 4, torch.zeros(6, 2, dtype=torch.bool))
    yield call(choices(g, 6, 2, n_experts=4), 4, torch.ones(6, 2, dtype=torch.bool))
    yield call(choices(g, 1, 3, n_experts=5), 5)
    yield call(choices(g, 3000, 2, n_experts=4), 4, dropped(g, 3000, 2))
    yield call(choices(g, 220, 4, n_experts=300), 300, None)


def lists(flat: Tensor, order: Tensor, n_experts: int, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    entries = order if kept is None else order[kept.flatten()[order]]
    return entries, flat[entries].bincount(minlength=n_experts)


def mistaken(name: str, says: str):
    return dispatch.misconception(name, says)


@mistaken(
    "tokens for choices",
    "You list tokens. List choices, t * k + j: the token is choices // k, and you still need j to find the weight.",
)
def _(experts, n_experts, kept=None):
    entries, counts = reference(experts, n_experts, kept)
    return entries // experts.shape[-1], counts


@mistaken(
    "in the order of the tokens",
    "Your list is in the order of the tokens. An expert needs its tokens side by side: sort the choices by expert.",
)
def _(experts, n_experts, kept=None):
    entries, counts = reference(experts, n_experts, kept)
    return entries.sort().values, counts


@mistaken(
    "the experts themselves",
    "You return the sorted experts. What is needed is where they come from: argsort, not sort.",
)
def _(experts, n_experts, kept=None):
    entries, counts = reference(experts, n_experts, kept)
    return experts.flatten()[entries], counts


@mistaken(
    "the inverse",
    "You return at which place each choice stands. What is asked is the list: which choice stands at each place.",
)
def _(experts, n_experts, kept=None):
    entries, counts = reference(experts, n_experts, kept)
    return entries.argsort(), counts


@mistaken("kept is ignored", "You list dropped choices too. Those that are not kept are in no list and in no count.")
def _(experts, n_experts, kept=None):
    return reference(experts, n_experts)


@mistaken(
    "counted before dropping",
    "Your counts include what was dropped. They say how long each expert's part of the list is.",
)
def _(experts, n_experts, kept=None):
    return reference(experts, n_experts, kept)[0], reference(experts, n_experts)[1]


@mistaken(
    "numbers among the kept",
    "You took out the dropped choices first and sorted what was left, so your numbers count the kept ones only. A choice keeps its number t * k + j: "
    "with it token and weight are found.",
)
def _(experts, n_experts, kept=None):
    flat = experts.flatten() if kept is None else experts[kept]
    return flat.argsort(stable=True), flat.bincount(minlength=n_experts)


@mistaken(
    "kept read in the wrong order",
    "You took kept.flatten() as a mask of your sorted list. It is in the order of the choices: look it up at them, `kept.flatten()[choices]`.",
)
def _(experts, n_experts, kept=None):
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    entries = order if kept is None else order[kept.flatten()]
    return entries, flat[entries].bincount(minlength=n_experts)


@mistaken("the dropped", "You list what was dropped. True in kept means kept.")
def _(experts, n_experts, kept=None):
    return reference(experts, n_experts, None if kept is None else ~kept)


@mistaken(
    "first choices first",
    "Within an expert you list first choices and then second ones. The order here is that of the tokens, t * k + j ascending. (Who finds room was "
    "decided before.)",
)
def _(experts, n_experts, kept=None):
    flat, k = experts.flatten(), experts.shape[-1]
    line = torch.arange(len(flat)).view(-1, k).T.flatten()
    return lists(flat, line[flat[line].argsort(stable=True)], n_experts, kept)


@mistaken(
    "numbered choice by choice",
    "You numbered all first choices, then all second ones: j * tokens + t. The number is t * k + j, as experts.flatten() has them.",
)
def _(experts, n_experts, kept=None):
    turned = experts.T.flatten()
    return lists(turned, turned.argsort(stable=True), n_experts, None if kept is None else kept.T.flatten())


@mistaken("the last expert first", "Your list begins with the last expert. It begins with expert 0.")
def _(experts, n_experts, kept=None):
    flat = experts.flatten()
    entries, counts = lists(flat, flat.argsort(stable=True, descending=True), n_experts, kept)
    return entries, counts


@mistaken(
    "no stable sort",
    "Within an expert your order is upside down or arbitrary. A sort that is not stable may do that: `argsort(stable=True)`.",
)
def _(experts, n_experts, kept=None):
    flat = experts.flatten()
    order = (len(flat) - 1 - flat.flip(0).argsort(stable=True)).contiguous()
    return lists(flat, order, n_experts, kept)


@mistaken(
    "no empty experts",
    "Your counts leave out experts that nobody chose, so the rest stands for the wrong ones. `bincount(minlength=n_experts)` counts them as 0.",
)
def _(experts, n_experts, kept=None):
    entries, _ = reference(experts, n_experts, kept)
    return entries, experts.flatten()[entries].unique(return_counts=True)[1]


@mistaken(
    "counts end early",
    "Your counts end with the last expert that was chosen. There are n_experts of them: `minlength=n_experts`.",
)
def _(experts, n_experts, kept=None):
    entries, _ = reference(experts, n_experts, kept)
    return entries, experts.flatten()[entries].bincount()


@mistaken(
    "where each expert begins", "You return where the experts' parts begin or end (a cumulative sum). Return how long they are."
)
def _(experts, n_experts, kept=None):
    entries, counts = reference(experts, n_experts, kept)
    return entries, counts.cumsum(0)


@mistaken("counts first", "You return counts, choices. The contract says choices, counts.")
def _(experts, n_experts, kept=None):
    return reference(experts, n_experts, kept)[::-1]


@mistaken("counts as floats", "Your counts are floats (histc makes such). They are int64.")
def _(experts, n_experts, kept=None):
    entries, counts = reference(experts, n_experts, kept)
    return entries, counts.float()


@mistaken(
    "a key that is too large",
    "You sort by a float or a number that cannot tell thousands of choices apart. Sort the experts themselves, stable.",
)
def _(experts, n_experts, kept=None):
    flat = experts.flatten()
    key = flat.bfloat16() * 2048 + torch.arange(len(flat)).bfloat16()
    return lists(flat, key.argsort(stable=True), n_experts, kept)


@dispatch.accepts("transformers, grouped: sort, then take out what was dropped")
def _(experts, n_experts, kept=None):
    expert_ids = experts.reshape(-1)
    if kept is not None:
        expert_ids = torch.where(kept.reshape(-1), expert_ids, n_experts)  # the sentinel is sorted to the end
    expert_ids_g, perm = torch.sort(expert_ids, stable=True)
    real = expert_ids_g < n_experts
    counts = torch.histc(expert_ids_g[real].float(), bins=n_experts, min=0, max=n_experts - 1)
    return perm[real], counts.long()


@dispatch.accepts("a mask for each expert")
def _(experts, n_experts, kept=None):
    kept = torch.ones_like(experts, dtype=torch.bool) if kept is None else kept
    parts = [((experts == e) & kept).flatten().nonzero()[:, 0] for e in range(n_experts)]
    return torch.cat(parts), torch.tensor([len(part) for part in parts])


@dispatch.accepts("one sort of a key that holds both")
def _(experts, n_experts, kept=None):
    n = experts.numel()
    key = experts.flatten() * n + torch.arange(n)
    key = (key if kept is None else key[kept.flatten()]).sort().values
    return key % n, torch.bincount(key // n, minlength=n_experts)


@dispatch.accepts("numpy")
def _(experts, n_experts, kept=None):
    flat = experts.numpy().ravel()
    numbers = np.arange(flat.size) if kept is None else np.flatnonzero(kept.numpy().ravel())
    order = numbers[np.argsort(flat[numbers], kind="stable")]
    return torch.from_numpy(order), torch.from_numpy(np.bincount(flat[order], minlength=n_experts))
