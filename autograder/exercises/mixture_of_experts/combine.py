"""Exercise 8.5: combine."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.mixture_of_experts.fixtures import choices, dropped
from autograder.inside.case import Case, call


def reference(outputs: Tensor, choices: Tensor, weights: Tensor) -> Tensor:
    """A matrix that holds the weights, in float64."""
    tokens, k = weights.shape
    rows = torch.arange(tokens)[:, None] == choices // k  # (tokens, entries)
    share = rows.double() * weights.double().flatten()[choices]
    return (share @ outputs.double()).float()


combine = Exercise(
    "mixture_of_experts.combine",
    defines="combine",
    title="Combine",
    minutes=10,
    difficulty=2,
    hints=(
        "Each row of outputs is multiplied by the weight of its choice, and added to the row of its token. Rows of tokens that nothing is added to stay "
        "0.",
        "Choice c belongs to token `c // k`, and its weight is entry c of `weights.flatten()`. Several rows go to one token, so an assignment "
        "`y[tokens] = ...` keeps one of them only: `index_add` adds.",
        "`weighted = outputs * weights.flatten()[choices][:, None]`, then `torch.zeros(tokens, d).index_add(0, choices // k, weighted)`.",
    ),
    reference=reference,
    rules=Rules(exact_zeros=True),
)


def answers(g: torch.Generator, tokens: int, k: int, d: int, kept: Tensor | None = None, E: int = 5, **options) -> Case:
    """What experts said of the choices that found room, and weights of all choices, which do not sum to 1."""
    experts = choices(g, tokens, k, n_experts=max(E, k + 1))
    entries = experts.flatten().argsort(stable=True)
    if kept is not None:
        entries = entries[kept.flatten()[entries]]
    return call(torch.randn(len(entries), d, generator=g), entries, 0.05 + torch.rand(tokens, k, generator=g), **options)


@combine.stage(
    "one answer for each token",
    points=1,
    exposes="The row of outputs that belongs to choice c goes to token c // k, times the weight of that choice.",
)
def _(g):
    yield answers(g, 5, 1, 3)
    yield answers(g, 8, 1, 4)
    yield answers(g, 4, 1, 7)


@combine.stage(
    "the sum over the choices of a token",
    points=1,
    exposes="A token that was sent to k experts gets the sum of their k weighted answers.",
)
def _(g):
    yield answers(g, 6, 2, 4)
    yield answers(g, 5, 3, 2)
    yield answers(g, 7, 4, 5, E=9)
    yield answers(g, 3, 3, 3)
    yield answers(g, 9, 2, 1)


@combine.stage(
    "what was dropped adds nothing",
    points=1,
    exposes="A dropped choice is not in the lists and adds nothing; the other weights stay as they are. A token that lost all its choices gets 0, also "
    "the last one.",
)
def _(g):
    for tokens, k, d in ((7, 1, 3), (9, 2, 4), (8, 3, 5)):
        yield answers(g, tokens, k, d, dropped(g, tokens, k))
    yield answers(g, 6, 2, 3, dropped(g, 6, 2, share=0.7))
    yield answers(g, 5, 2, 3, torch.zeros(5, 2, dtype=torch.bool))


@combine.stage(
    "many tokens, weights of any size",
    points=1,
    exposes="Weights need not sum to 1, and may be 0 or negative; there may be thousands of tokens. The arguments stay as they are.",
    pure=True,
)
def _(g):
    yield answers(g, 700, 2, 3, dropped(g, 700, 2))
    for factor in (torch.randn(6, 2, generator=g), (torch.rand(6, 2, generator=g) > 0.5).float(), torch.full((6, 2), 1e-6)):
        case = answers(g, 6, 2, 4)
        yield call(*case.args[:2], case.args[2] * factor)
    yield answers(g, 4, 2, 1100)
    yield answers(g, 1, 2, 3)


@combine.stage(
    "gradients reach outputs and weights",
    points=1,
    exposes="Experts learn through outputs and the router through weights: torch operations all the way, and no detach().",
)
def _(g):
    yield answers(g, 5, 2, 3, gradients=(0, 2))
    yield answers(g, 6, 3, 2, dropped(g, 6, 3), gradients=(0, 2))
    yield answers(g, 4, 1, 3, dropped(g, 4, 1), gradients=(2,))
    outputs, entries, weights = answers(g, 6, 2, 4).args
    weights[torch.arange(6), torch.randint(2, (6,), generator=g)] = 0  # a weight of 0 has a gradient like any other
    yield call(outputs, entries, weights, gradients=(0, 2))


def added(weighted: Tensor, tokens: Tensor, n: int) -> Tensor:
    return weighted.new_zeros(n, weighted.shape[1]).index_add(0, tokens, weighted)


def right(outputs: Tensor, entries: Tensor, weights: Tensor) -> Tensor:
    return added(outputs * weights.flatten()[entries][:, None], entries // weights.shape[1], len(weights))


def mistaken(name: str, says: str):
    return combine.misconception(name, says)


@mistaken(
    "overwrites",
    "You assign, y[tokens] = ...: of several rows for one token the last one wins. Rows are added: index_add.",
)
def _(outputs, entries, weights):
    y = outputs.new_zeros(len(weights), outputs.shape[1])
    y[entries // weights.shape[1]] = outputs * weights.flatten()[entries][:, None]
    return y


@mistaken(
    "adds once",
    "y[tokens] += ... reads all rows first and then writes: of several rows for one token only one is added. index_add adds all.",
)
def _(outputs, entries, weights):
    y = torch.zeros(len(weights), outputs.shape[1])
    for j in range(weights.shape[1]):
        mine = entries % weights.shape[1] == j
        if mine.any():
            y = y.index_put(((entries // weights.shape[1])[mine],), (outputs * weights.flatten()[entries][:, None])[mine])
    return y


@mistaken("no weights", "You left the weights out. An expert's answer counts as much as the router's weight says.")
def _(outputs, entries, weights):
    return added(outputs, entries // weights.shape[1], len(weights)) + 0 * weights.sum()


@mistaken(
    "weights in another order",
    "You took the weights in the order of the tokens, but outputs lie in the order of the experts. The weight of a row is that of its choice: "
    "`weights.flatten()[choices]`.",
)
def _(outputs, entries, weights):
    return added(outputs * weights.flatten()[: len(entries), None], entries // weights.shape[1], len(weights))


@mistaken(
    "the first weight for all",
    "You take the first weight of a token for all its choices. Choice t * k + j has weight weights[t, j].",
)
def _(outputs, entries, weights):
    tokens = entries // weights.shape[1]
    return added(outputs * weights[tokens, 0][:, None], tokens, len(weights))


@mistaken(
    "weights by column",
    "You read the weights column by column. Choice t * k + j has weight weights[t, j], which is entry t * k + j of weights.flatten().",
)
def _(outputs, entries, weights):
    return added(outputs * weights.T.flatten()[entries][:, None], entries // weights.shape[1], len(weights))


@mistaken(
    "choices for tokens",
    "You took the choice for the token. Choice c belongs to token c // k.",
)
def _(outputs, entries, weights):
    return added(outputs * weights.flatten()[entries][:, None], entries % len(weights), len(weights))


@mistaken("mean", "You took the mean of a token's answers. It is the sum of the weighted ones.")
def _(outputs, entries, weights):
    return right(outputs, entries, weights) / weights.shape[1]


@mistaken(
    "renormalised after dropping",
    "You divided by the sum of the weights that found room. DeepSpeed does so; here a token that lost a choice gets less, and the weights stay as "
    "they are.",
)
def _(outputs, entries, weights):
    kept = torch.zeros_like(weights).flatten().index_fill(0, entries, 1.0).view_as(weights)
    return right(outputs, entries, weights / (weights * kept).sum(dim=1, keepdim=True).clamp(min=1e-9))


@mistaken("renormalised", "You divided the weights by their sum. They come as they are meant.")
def _(outputs, entries, weights):
    return right(outputs, entries, weights / weights.sum(dim=1, keepdim=True).abs().clamp(min=1e-9))


@mistaken(
    "ends with the last token that has an answer",
    "Your result ends with the last token that somebody answered. It has a row for every token: weights says how many there are.",
)
def _(outputs, entries, weights):
    n = int(entries.max()) // weights.shape[1] + 1 if len(entries) else 0
    return right(outputs, entries, weights)[:n]


@mistaken(
    "without dropped tokens",
    "Your result has no rows for tokens that lost all their choices. They are there, and 0: the residual connection carries them.",
)
def _(outputs, entries, weights):
    return right(outputs, entries, weights)[(entries // weights.shape[1]).unique()]


@mistaken(
    "in the order of the experts",
    "Your rows are still in the order of the experts, one for each choice. Add them up for each token.",
)
def _(outputs, entries, weights):
    return outputs * weights.flatten()[entries][:, None]


@mistaken(
    "the weights are constants",
    "No gradient reaches the weights: detach(), no_grad(), item() or .data cuts it off. The router learns from nothing else.",
)
def _(outputs, entries, weights):
    return right(outputs, entries, weights.detach())


@mistaken("the outputs are constants", "No gradient reaches the outputs. Then no expert learns.")
def _(outputs, entries, weights):
    return right(outputs.detach(), entries, weights)


@mistaken("weighted twice", "You multiplied by the weight twice.")
def _(outputs, entries, weights):
    return right(outputs, entries, weights**2)


@mistaken(
    "small weights left out",
    "You leave out weights that are small or not positive. They count as they are, whatever their size.",
)
def _(outputs, entries, weights):
    return right(outputs, entries, weights * (weights > 1e-4))


@mistaken("in place", "You multiplied outputs in place. Whoever called you may still need them.")
def _(outputs, entries, weights):
    with torch.no_grad():
        outputs *= weights.flatten()[entries][:, None]
    return added(outputs, entries // weights.shape[1], len(weights))


@combine.accepts("transformers, expert loop: index_add_ in place of a zero tensor")
def _(outputs, choices, weights):
    tokens, k = weights.shape
    final_hidden_states = torch.zeros(tokens, outputs.shape[1])
    token_idx, top_k_pos = choices // k, choices % k
    current_hidden_states = outputs * weights[token_idx, top_k_pos, None]
    final_hidden_states.index_add_(0, token_idx, current_hidden_states)
    return final_hidden_states


@combine.accepts("transformers, grouped: back into the order of the choices, then a sum")
def _(outputs, choices, weights):
    tokens, k = weights.shape
    weighted_out = outputs * weights.reshape(-1)[choices].unsqueeze(-1)
    every = torch.zeros(tokens * k, outputs.shape[-1]).index_copy(0, choices, weighted_out)
    return every.view(tokens, k, -1).sum(dim=1)


@combine.accepts("a sparse matrix, in float64")
def _(outputs, choices, weights):
    tokens, k = weights.shape
    at = torch.stack([choices // k, torch.arange(len(choices))])
    share = torch.zeros(tokens, len(choices), dtype=torch.float64).index_put(tuple(at), weights.double().flatten()[choices])
    return (share @ outputs.double()).to(outputs.dtype)


@combine.accepts("row by row")
def _(outputs, choices, weights):
    tokens, k = weights.shape
    rows = [torch.zeros(outputs.shape[1]) for _ in range(tokens)]
    for output, choice in zip(outputs, choices.tolist(), strict=True):
        rows[choice // k] = rows[choice // k] + weights[choice // k, choice % k] * output
    return torch.stack(rows)


@combine.accepts("scatter_add")
def _(outputs, choices, weights):
    token = torch.div(choices, weights.shape[1], rounding_mode="floor")
    weighted = outputs * weights.flatten().take(choices).unsqueeze(1)
    return torch.zeros(len(weights), outputs.shape[1]).scatter_add(0, token[:, None].expand_as(weighted), weighted)
