"""Exercise 9.4: a bias that balances."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.training_the_router.bias_mistakes import choice, mistakes
from autograder.exercises.training_the_router.fixtures import apart, rows
from autograder.inside.case import Case, call
from sparsity_edu.experts import losses


def reference(scores: Tensor, bias: Tensor, k: int, rate: float = 0.001) -> tuple[Tensor, Tensor, Tensor]:
    experts = choice(scores, bias, k)
    counts = experts.flatten().bincount(minlength=len(bias))
    return experts, scores.gather(-1, experts), losses.bias_update(bias, counts, rate)


bias = Exercise(
    "training_the_router.bias",
    defines="biased_choice",
    title="A bias that balances",
    minutes=12,
    difficulty=2,
    hints=(
        "Three things in order: choose by one number, weigh by another, then move the bias by what was chosen. The bias "
        "decides who is chosen and enters nothing else.",
        "Choose by the largest of `scores + bias`, and take the weights out of `scores` with `gather`. Count each expert over "
        "all tokens and all k choices; an expert that nobody chose has count 0, so say how many experts there are. Compare "
        "each count with the mean count: only the sign matters.",
        "`experts = (scores + bias).topk(k, dim=-1).indices`, `weights = scores.gather(-1, experts)`, `counts = "
        "torch.bincount(experts.flatten(), minlength=len(bias))` as float; the bias moves by `rate` times the sign of "
        "`counts.mean() - counts`.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


def scored(g: torch.Generator, tokens: int, bias: Tensor, kind: str = "sigmoid") -> Tensor:
    """(tokens, E) scores, on which neither the choice nor its order is close."""
    popular = torch.linspace(-1, 1, len(bias))[torch.randperm(len(bias), generator=g)]

    def draw(n):
        z = 1.5 * torch.randn(n, len(bias), generator=g) + popular
        return [z.sigmoid() if kind == "sigmoid" else z.softmax(dim=-1)]

    [scores] = rows(tokens, draw, lambda scores: apart(scores + bias, 1e-4) & apart(scores, 1e-4))
    return scores


LOADS = ("mean of those that were chosen", "one for each token", "weights instead of counts")  # mistakes in what is counted


def bias_case(
    g: torch.Generator, tokens: int, E: int, k: int, *rate: float,
    spread: float = 0.3, kind: str = "sigmoid", unlike: tuple[str, ...] = (), **options,
) -> Case:  # fmt: skip
    """A bias of this spread; `rate` may be left out. Each mistake that it is to be `unlike`, by name, gives something else."""
    others = [mistake.wrong for mistake in mistakes if mistake.name in unlike]
    while True:
        drawn = spread * (2 * torch.rand(E, generator=g) - 1)
        given = (scored(g, tokens, drawn, kind), drawn, k, *rate)
        right = torch.cat([x.flatten() for x in reference(*given)])
        if not any(torch.allclose(torch.cat([x.flatten() for x in other(*given)]), right) for other in others):
            return call(*given, **options)


def turns(g: torch.Generator, tokens: int, E: int, k: int) -> Tensor:
    """(tokens, E) scores with which experts are chosen in turns: each as often as the others, if E divides tokens * k."""
    scores = 0.1 + 0.3 * torch.rand(tokens, E, generator=g)
    best = (torch.arange(tokens)[:, None] * k + torch.arange(k)) % E
    return scores.scatter(1, best, 0.9 - 0.2 * torch.arange(k) / k + 0.01 * torch.rand(tokens, k, generator=g))


@bias.stage(
    "chooses by score and bias, weighs by score",
    points=1,
    exposes="The experts are those of the k largest scores + bias, the largest first; the weights are their scores, without the bias.",
)
def _(g):
    yield bias_case(g, 5, 4, 1, 0.01)
    yield bias_case(g, 9, 6, 2, 0.01, unlike=LOADS)
    yield bias_case(g, 4, 4, 3, 0.1, spread=0.8)
    yield bias_case(g, 7, 5, 5, 0.05)
    yield bias_case(g, 300, 3, 2, 0.02)
    yield bias_case(g, 6, 8, 2, 0.01, kind="softmax", spread=0.1)
    wanted = torch.tensor([-0.3, 1.5, 0.1, 1.2, -0.2])  # chosen whatever the score: 0, or faint
    scores = scored(g, 8, wanted) * torch.tensor([1.0, 0, 1, 1e-12, 1])
    yield call(scores, wanted, 3, 0.1)
    large = 600 + 0.3 * torch.rand(5, generator=g)  # what is left of a score that was added to it is off by 3e-5
    yield call(scored(g, 20, large), large, 2, 0.1)
    close = torch.stack([torch.randperm(6, generator=g) for _ in range(12)])
    yield call(0.4 + 3e-4 * close, torch.zeros(6), 2, 0.1)  # the same in half precision
    yield call(1e-8 * scored(g, 6, torch.zeros(5)), torch.zeros(5), 2, 0.1)


@bias.stage(
    "moves the bias by the sign of what is missing",
    points=1,
    exposes="An expert that was chosen less often than the mean over experts gets + rate, one chosen more often - rate: the same step, however far off "
    "it is. All k choices count, and an expert that nobody chose is there as well.",
)
def _(g):
    yield bias_case(g, 10, 4, 1, 0.1)
    yield bias_case(g, 12, 5, 3, 0.05, unlike=LOADS[1:])
    yield bias_case(g, 40, 7, 2, 0.2)
    yield bias_case(g, 8, 6, 2)  # a rate that is not said
    yield call(turns(g, 82, 4, 1), 0.01 * torch.randn(4, generator=g), 1, 0.1)  # half a token more or less than the mean
    shunned = torch.tensor([0.3, 0.2, -0.4, 0.1, -3.0, -4.0])  # the last two are never chosen
    yield call(scored(g, 11, shunned), shunned, 2, 0.1)
    loved = torch.tensor([-0.2, 5.0, 0.1, 0.2])
    yield call(scored(g, 9, loved), loved, 1, 0.3)


@bias.stage(
    "leaves alone what is as it should be",
    points=1,
    exposes="An expert that was chosen exactly as often as the mean keeps its bias. Nothing else happens to the bias: it may be negative or large.",
)
def _(g):
    yield call(turns(g, 8, 4, 2), torch.zeros(4), 2, 0.1)  # all are chosen equally often
    yield call(turns(g, 12, 6, 1), 0.01 * torch.randn(6, generator=g), 1, 0.2)
    scores = turns(g, 12, 4, 1)  # one more and one less, two as often as the mean
    scores[0] = scores[0].roll(1 + int(torch.randint(3, (), generator=g)))
    yield call(scores, torch.zeros(4), 1, 0.1)
    yield call(scores, torch.full((4,), -7.0), 1, 0.1)
    yield bias_case(g, 9, 5, 2, 0.25, spread=4.0)
    yield bias_case(g, 9, 5, 2, 0.25, unlike=(*LOADS[:2], "moved first"))
    yield bias_case(g, 9, 5, 2, 0.0)  # as at the end of a training


@bias.stage(
    "a gradient through the weights, and the bias on a copy",
    points=1,
    exposes="The router learns through the weights, so a gradient has to reach the scores. The bias that you were given stays; the new one is another "
    "tensor.",
    pure=True,
)
def _(g):
    yield bias_case(g, 6, 5, 2, 0.1, unlike=LOADS, gradients=(0,))
    yield bias_case(g, 9, 4, 1, 0.05, gradients=(0,))
    yield bias_case(g, 5, 7, 3, 0.2, kind="softmax", gradients=(0,))
    yield bias_case(g, 7, 3, 2, 0.1)


@bias.accepts("as DeepSeek-V3's gate, its bias updated as in the paper")
def _(scores, bias, topk, rate=0.001):
    original_scores = scores
    scores = scores + bias
    indices = torch.topk(scores, topk, dim=-1)[1]
    weights = original_scores.gather(1, indices)
    counts = torch.bincount(indices.flatten(), minlength=scores.shape[-1]).float()
    error = counts.mean() - counts
    return indices, weights, bias + rate * torch.sign(error)


@bias.accepts("by sorting and one-hot, the three cases apart")
def _(scores, bias, k, rate=0.001):
    tokens, E = scores.shape
    experts = torch.sort(scores.detach() + bias[None, :], dim=1, descending=True)[1][:, :k]
    counts = F.one_hot(experts, E).sum(dim=(0, 1))
    new = bias.clone()
    new[counts * E < tokens * k] += rate
    new[counts * E > tokens * k] -= rate
    return experts, scores[torch.arange(tokens)[:, None], experts], new


@bias.accepts("token by token, in lists")
def _(scores, bias, k, rate=0.001):
    E, load, experts = scores.shape[1], [0] * scores.shape[1], []
    for row in (scores.detach() + bias).tolist():
        best = sorted(range(E), key=lambda e: -row[e])[:k]
        for e in best:
            load[e] += 1
        experts.append(best)
    experts = torch.tensor(experts)
    share = len(scores) * k / E
    moved = [b + rate * ((n < share) - (n > share)) for b, n in zip(bias.tolist(), load, strict=True)]
    return experts, torch.stack([row[best] for row, best in zip(scores, experts, strict=True)]), torch.tensor(moved)
