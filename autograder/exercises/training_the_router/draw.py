"""Exercise 9.5: draw an expert."""

import math

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.training_the_router import variants
from autograder.exercises.training_the_router.draw_mistakes import mistakes
from autograder.exercises.training_the_router.fixtures import rows
from autograder.exercises.training_the_router.variants import EVERYONE, decided
from autograder.inside.case import Case, call


def reference(logits: Tensor, noise: Tensor | None, eps: float, taken: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return variants.draw(logits, noise, eps, taken)


draw = Exercise(
    "training_the_router.draw",
    defines="draw",
    title="Draw an expert",
    minutes=15,
    difficulty=2,
    hints=(
        "Make a copy of the logits in which all that are out are minus infinity: the expert that is taken, then those that "
        "are too far below the best. A softmax gives them probability 0, and no noise can bring them back.",
        "First z*: the largest of a token's logits without the one that is taken. The distance `(z* - z) / "
        "torch.maximum(z.abs(), z*)` is compared with 2 eps; it is NaN where all is 0, and NaN is not greater. Draw by the "
        "largest of `z - noise.log()`: the logarithm of exponential noise, with a minus, is Gumbel noise.",
        "`left = logits.scatter(-1, taken[:, None], -torch.inf)`, `best = left.amax(dim=-1, keepdim=True)`, `masked = "
        "left.masked_fill(far, -torch.inf)` with `far = (best - logits) / torch.maximum(logits.abs(), best) > 2 * eps`. The "
        "expert is `(masked - noise.log()).argmax(dim=-1)`; the probabilities are a softmax of `masked`, without noise.",
    ),
    reference=reference,
    misconceptions=mistakes,
)


def draw_case(
    g: torch.Generator,
    tokens: int,
    E: int,
    eps: float,
    *,
    shift: float = 0.0,
    spread: float = 1.0,
    second: bool = False,
    silent: bool = False,
    **options,
) -> Case:
    """Logits around `shift`; `second`: an expert is taken, half of the time the best; `silent`: without noise."""

    def several(n):
        z = spread * torch.randn(n, E, generator=g) + shift
        taken = torch.where(torch.rand(n, generator=g) < 0.5, z.argmax(dim=-1), torch.randint(E, (n,), generator=g))
        return [z, torch.empty(n, E).exponential_(generator=g).clamp(min=1e-6), taken]

    z, noise, taken = rows(tokens, several, lambda z, noise, taken: decided(z, noise, eps, taken if second else None))
    more = (taken,) if second else ()
    return call(z, None if silent else noise, eps, *more, **options)


def faint_case(g: torch.Generator, tokens: int, E: int, eps: float) -> Case:
    """Logits of a size of 1e-8: which are out does not depend on the size of all."""

    def several(n):
        z = torch.randn(n, E, generator=g)
        return [z, torch.empty(n, E).exponential_(generator=g).clamp(min=1e-6)]

    z, noise = rows(tokens, several, lambda z, noise: decided(z, noise, eps) & decided(z, noise, eps, size=1e-8))
    return call(1e-8 * z, noise, eps)


def limit_case(g: torch.Generator) -> Case:
    """One expert of each token is exactly at the limit, and its noise the smallest: it is drawn. No division here rounds."""
    z = torch.tensor([[4.0, 3, 2, 1], [-1, -1.75, -2, -3], [1, 0.75, 0.5, -0.5]])
    noise = torch.tensor([1.0, 1, 0.01, 1e-4]).repeat(3, 1)
    order = torch.randperm(4, generator=g)
    return call(z[:, order], noise[:, order], 0.25)


@draw.stage(
    "adds Gumbel noise and takes the largest",
    points=1,
    exposes="The expert is the index of the largest z - log(noise). The probabilities are a softmax over experts of the logits, without the noise.",
)
def _(g):
    yield draw_case(g, 7, 4, EVERYONE)
    yield draw_case(g, 5, 5, EVERYONE)
    yield draw_case(g, 300, 3, EVERYONE)
    yield draw_case(g, 4, 70, EVERYONE, spread=0.5)
    yield draw_case(g, 3, 6, EVERYONE, shift=-2.0, spread=0.3)
    for size in (1 / 300, 8.0):  # all noise of a token may be small, or large
        case = draw_case(g, 15, 5, EVERYONE)
        yield call(case.args[0], size * case.args[1], EVERYONE)


@draw.stage(
    "experts far below the best are out",
    points=2,
    exposes="(z* - z_i) / max(|z_i|, z*) > 2 eps: such experts cannot be drawn, and have probability 0. max(|z_i|, z*) also where logits are negative.",
)
def _(g):
    yield draw_case(g, 30, 5, 0.1, shift=3.0)
    yield draw_case(g, 30, 6, 0.4)
    yield draw_case(g, 30, 4, 0.2, shift=-3.0)
    yield draw_case(g, 25, 7, 0.45, shift=1.0)
    yield draw_case(g, 25, 7, 0.3, shift=-1.0)
    yield draw_case(g, 9, 5, 0.01, shift=5.0)
    yield draw_case(g, 40, 6, 0.7, shift=-0.3)  # the limit is above 1: a negative logit may be near enough to a positive one
    yield faint_case(g, 30, 5, 0.3)
    yield draw_case(g, 9, 5, 0.05, shift=-3e4, spread=6e3)
    yield limit_case(g)
    z = torch.randn(6, 5, generator=g)
    yield call(z, torch.empty(6, 5).exponential_(generator=g).clamp(min=1e-6), 0.0)  # nobody is near enough but the best
    noise = torch.empty(3, 4).exponential_(generator=g)
    yield call(torch.zeros(3, 4), noise.clamp(min=1e-6), 0.1)  # 0 / 0


@draw.stage(
    "no noise in evaluation",
    points=1,
    exposes="If noise is None the largest logit wins, of those that are left where one is taken: z* is the largest of these too. The probabilities are as ever.",
)
def _(g):
    yield draw_case(g, 40, 5, 0.3, silent=True)
    yield draw_case(g, 40, 4, 0.2, shift=-2.0, silent=True)
    yield draw_case(g, 60, 6, 0.4, second=True, silent=True)


@draw.stage(
    "without the one that is taken",
    points=1,
    exposes="The expert that a token has chosen before is out, and has probability 0. z* is the largest of the others. The arguments stay as they were.",
    pure=True,
)
def _(g):
    yield draw_case(g, 20, 4, 60.0, second=True)
    yield draw_case(g, 40, 5, 0.3, second=True)
    yield draw_case(g, 40, 6, 0.2, shift=2.0, second=True)
    yield draw_case(g, 40, 6, 0.25, shift=-2.0, second=True)
    yield draw_case(g, 8, 2, 0.1, second=True)
    yield draw_case(g, 9, 4, 0.1, shift=-3e4, spread=900.0, second=True)
    z, noise, eps, taken = draw_case(g, 20, 5, 0.3, second=True).args
    turned = (torch.arange(5) + taken[:, None]) % 5
    yield call(z.gather(1, turned), noise.gather(1, turned), eps, torch.zeros_like(taken))  # all have chosen expert 0


@draw.stage(
    "a gradient reaches the logits",
    points=1,
    exposes="The probabilities have the gradient of a softmax over the candidates; those that are out get 0. The router learns through them.",
)
def _(g):
    yield draw_case(g, 6, 5, 70.0, gradients=(0,))
    yield draw_case(g, 40, 6, 0.4, gradients=(0,))
    yield draw_case(g, 40, 4, 0.3, second=True, gradients=(0,))
    yield draw_case(g, 20, 5, 0.4, silent=True, gradients=(0,))


@draw.accepts("the lines of Phi-3.5-MoE in transformers")
def _(scores, noise, jitter_eps, taken=None):
    masked_scores = scores if taken is None else torch.scatter(scores, -1, taken.unsqueeze(-1), float("-inf"))
    with torch.no_grad():
        mask_logits_threshold, max_ind = masked_scores.max(dim=-1, keepdim=True)
        factor = scores.abs().clamp(min=mask_logits_threshold)
        mask_logits_threshold = ((mask_logits_threshold - scores) / factor) > (2 * jitter_eps)
    masked_gates = masked_scores.masked_fill(mask_logits_threshold, float("-inf"))
    selected_experts = (masked_gates - noise.log()).max(dim=-1)[1].unsqueeze(-1) if noise is not None else max_ind
    return selected_experts.squeeze(-1), torch.softmax(masked_gates, dim=-1)


@draw.accepts("a race of exponentials, the probabilities by hand")
def _(logits, noise, eps, taken=None):
    out = torch.zeros_like(logits, dtype=torch.bool)
    if taken is not None:
        out[torch.arange(len(logits)), taken] = True
    best = logits.detach().masked_fill(out, -torch.inf).max(dim=1, keepdim=True).values
    out = out | (best - logits.detach() > 2 * eps * torch.maximum(logits.detach().abs(), best))
    p = torch.where(out, 0.0, torch.exp(torch.where(out, 0.0, logits - best)))
    p = p / p.sum(dim=1, keepdim=True)
    race = p.detach() if noise is None else p.detach() / noise
    return race.argmax(dim=1), p


@draw.accepts("token by token, in float64")
def _(logits, noise, eps, taken=None):
    experts, probs = [], []
    for t, row in enumerate(logits.double()):
        left = [e for e in range(len(row)) if taken is None or e != taken[t]]
        best = max(row[e].item() for e in left)
        near = [e for e in left if best - row[e].item() <= 2 * eps * max(abs(row[e].item()), best)]
        p = torch.zeros(len(row), dtype=torch.float64)
        p = p.index_put((torch.tensor(near),), row[near].softmax(dim=0))
        experts.append(max(near, key=lambda e: row[e].item() - (0 if noise is None else math.log(noise[t, e].item()))))
        probs.append(p.float())
    return torch.tensor(experts), torch.stack(probs)
