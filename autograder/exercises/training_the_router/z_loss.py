"""Exercise 9.3: the z-loss."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise, Mistakes
from autograder.exercises.training_the_router.fixtures import some_mask, uneven
from autograder.inside.case import Case, call
from sparsity_edu.experts import losses


def reference(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """In float64: of thousands of tokens."""
    return losses.z_loss(logits.double(), mask=mask).float()


mistakes = Mistakes()

z_loss = Exercise(
    "training_the_router.z_loss",
    defines="z_loss",
    title="The z-loss",
    minutes=8,
    difficulty=1,
    hints=(
        "For each token one number: the logarithm of the sum of the exponentials of its logits, which a softmax divides by. "
        "Square it, then take the mean over tokens.",
        "`torch.logsumexp` along the last dimension takes logits of any size, where `exp` overflows at 89 and underflows at "
        "-104. Square before the mean. Leave padding out first, so that the mean is over real tokens.",
        "With `logits = logits[mask]` where there is a mask, the loss is `logits.logsumexp(dim=-1)`, squared, mean.",
    ),
    reference=reference,
    rules=Rules(
        tolerance=1e-4
    ),  # where logits are near 200, float32 has steps of 1.5e-5, and so has the softmax in the gradient
    misconceptions=mistakes,
)


def z_case(
    g: torch.Generator, tokens: int, experts: int, real: int = 0, shift: float = 0.0, spread: float = 1.5, **options
) -> Case:
    z = uneven(g, tokens, experts, spread) + shift * (1 + torch.rand(tokens, 1, generator=g))
    if real:
        options["mask"] = some_mask(g, tokens, real)
    return call(z, **options)


@z_loss.stage(
    "the square of log-sum-exp, for each token",
    points=1,
    exposes="For each token the logarithm of the sum over experts of exp(z), squared; then the mean over tokens: a tensor without dimensions.",
)
def _(g):
    yield z_case(g, 1, 4)
    yield z_case(g, 6, 5)
    yield z_case(g, 5, 5, shift=2.0)
    yield z_case(g, 7, 3, shift=-3.0)
    yield z_case(g, 1500, 4)
    yield z_case(g, 3, 100)
    yield z_case(g, 4, 1, shift=1.0)


@z_loss.stage(
    "logits of any size",
    points=1,
    exposes="The loss is there for logits that have grown. exp(100) is infinite in float32, and the logarithm of exp(-200) is: use logsumexp. What is "
    "small counts as well.",
)
def _(g):
    yield z_case(g, 5, 4, shift=150.0, spread=40.0)
    yield z_case(g, 6, 3, shift=-400.0)
    yield z_case(g, 9, 6, spread=200.0)
    yield call(torch.zeros(3, 7))
    yield call(torch.randn(4, 6, generator=g) * 1e-3)
    yield call(uneven(g, 3, 5, 1e4))
    yield z_case(g, 4, 5, shift=-3000.0)


@z_loss.stage(
    "padding is left out",
    points=1,
    exposes="Where mask is False there is no token: its square is not added, and it is none of the tokens that the sum is divided by. The "
    "arguments stay as they were.",
    pure=True,
)
def _(g):
    yield z_case(g, 9, 4, real=5, shift=1.0)
    yield z_case(g, 8, 6, real=1)
    yield z_case(g, 12, 3, real=11, shift=-2.0)
    yield z_case(g, 5, 5, real=5, shift=1.0)
    yield call(uneven(g, 6, 4), None)
    yield call(torch.cat([uneven(g, 4, 3), torch.zeros(5, 3)]), mask=torch.arange(9) < 4)
    yield z_case(g, 10, 5, real=6, shift=170.0)


@z_loss.stage(
    "a gradient reaches the logits",
    points=1,
    exposes="The gradient by z is 2 logsumexp(z) softmax(z) over the number of real tokens: it pulls most at the largest. Padding has none.",
)
def _(g):
    yield z_case(g, 4, 5, gradients=(0,))
    yield z_case(g, 7, 3, real=4, shift=2.0, gradients=(0,))
    yield z_case(g, 3, 6, shift=120.0, spread=10.0, gradients=(0,))


def mistaken(name: str, says: str, of):
    """A mistake in what becomes of the logits of real tokens."""
    mistakes(name, says)(lambda logits, mask=None: of(logits if mask is None else logits[mask]))


mistaken(
    "mean before the square",
    "You squared the mean. Square each token's number first: tokens above and below 0 would cancel.",
    lambda z: z.logsumexp(dim=-1).mean() ** 2,
)
mistaken(
    "no square",
    "The square is missing. Without it the loss has no least value: logits would go to minus infinity.",
    lambda z: z.logsumexp(dim=-1).mean(),
)
mistaken(
    "magnitude",
    "You took the magnitude of log-sum-exp. Take its square: then it pulls the more, the larger the logits have grown.",
    lambda z: z.logsumexp(dim=-1).abs().mean(),
)
mistaken(
    "summed over tokens",
    "You added up over tokens. Take the mean, or a longer batch has a larger loss.",
    lambda z: (z.logsumexp(dim=-1) ** 2).sum(),
)
mistaken(
    "divided by experts too",
    "You divided by the number of experts as well. The mean is over tokens only.",
    lambda z: (z.logsumexp(dim=-1) ** 2).mean() / z.shape[-1],
)
mistaken(
    "mean of exponentials",
    "You took the mean of the exponentials, not their sum: that takes log E off the logarithm.",
    lambda z: ((z.logsumexp(dim=-1) - torch.tensor(float(z.shape[-1])).log()) ** 2).mean(),
)
mistaken(
    "over the tokens",
    "Your log-sum-exp runs along the tokens. What a softmax divides by is a sum over the experts: dim=-1.",
    lambda z: (z.logsumexp(dim=0) ** 2).mean(),
)
mistaken(
    "of probabilities",
    "You took the log-sum-exp of probabilities. They never grow, so there is nothing to hold back: it is about raw logits.",
    lambda z: (z.softmax(dim=-1).logsumexp(dim=-1) ** 2).mean(),
)
mistaken(
    "of log-probabilities",
    "You took the log-sum-exp of log-probabilities. That is 0 whatever the logits are: it is about raw logits.",
    lambda z: (z.log_softmax(dim=-1).logsumexp(dim=-1) ** 2).mean(),
)
mistaken(
    "exponentials that overflow",
    "You took exp, the sum and the logarithm one by one. exp(89) is infinite in float32, and exp(-104) is 0: use torch.logsumexp.",
    lambda z: (z.exp().sum(dim=-1).log() ** 2).mean(),
)
mistaken(
    "exponentials that overflow, later",
    "You took exp and the logarithm one by one in float64. That overflows too, from 710 on: use torch.logsumexp.",
    lambda z: (z.double().exp().sum(dim=-1).log() ** 2).mean().float(),
)
mistaken(
    "the largest not added again",
    "You took the largest logit off before exp, as one should, and did not add it to the logarithm again.",
    lambda z: ((z - z.amax(dim=-1, keepdim=True)).logsumexp(dim=-1) ** 2).mean(),
)
mistaken(
    "the largest logit",
    "You squared the largest logit. It is close to log-sum-exp only where one expert stands out.",
    lambda z: (z.amax(dim=-1) ** 2).mean(),
)
mistaken(
    "squares of the logits",
    "You took squares of the logits themselves. The loss is about the logarithm of their exponentials' sum.",
    lambda z: (z**2).sum(dim=-1).mean(),
)
mistaken(
    "mean squares of the logits",
    "You took the mean square of the logits. The loss is about the logarithm of their exponentials' sum.",
    lambda z: (z**2).mean(),
)
mistaken(
    "with the coefficient",
    "You multiplied by a coefficient such as 0.001. It comes later, where the losses are added.",
    lambda z: 1e-3 * (z.logsumexp(dim=-1) ** 2).mean(),
)
mistaken(
    "cut off",
    "You cut the logits off before you took the exponentials. Where they are cut there is no gradient, and those are the ones to hold back.",
    lambda z: (z.clamp(-50, 50).logsumexp(dim=-1) ** 2).mean(),
)
mistaken(
    "root",
    "You took a root in the end. The loss is the mean square itself.",
    lambda z: (z.logsumexp(dim=-1) ** 2).mean().sqrt(),
)
mistaken(
    "no gradient",
    "The value is right, but no gradient reaches the logits: detach(), numpy, item() or torch.no_grad() cuts it off.",
    lambda z: (z.detach().logsumexp(dim=-1) ** 2).mean(),
)


def padded(name: str, says: str, of):
    """A mistake in what becomes of the mask."""

    def wrong(logits, mask=None):
        return of(logits, torch.ones(len(logits), dtype=torch.bool) if mask is None else mask)

    mistakes(name, says)(wrong)


padded(
    "padding counts",
    "You ignore the mask: padding tokens have logits too, and they count with you.",
    lambda z, mask: (z.logsumexp(dim=-1) ** 2).mean(),
)
padded(
    "padding in the denominator",
    "You left padding out of the sum but divided by all tokens. Divide by the number of real ones.",
    lambda z, mask: (z[mask].logsumexp(dim=-1) ** 2).sum() / len(z),
)
padded(
    "logits of padding set to 0",
    "You set the logits of padding to 0, as flaxformer does. Each then costs the square of log E: leave the tokens out.",
    lambda z, mask: (z.masked_fill(~mask[:, None], 0).logsumexp(dim=-1) ** 2).mean(),
)
padded(
    "logits of padding set to 0, divided by the real ones",
    "You set the logits of padding to 0. Each then adds the square of log E to your sum: leave the tokens out.",
    lambda z, mask: (z.masked_fill(~mask[:, None], 0).logsumexp(dim=-1) ** 2).sum() / mask.sum(),
)
padded(
    "real tokens taken for padding",
    "You left the real tokens out and kept the padding: mask is True for real tokens.",
    lambda z, mask: (z[~mask if (~mask).any() else mask].logsumexp(dim=-1) ** 2).mean(),
)


@mistakes(
    "logits changed",
    "The loss is right, but you wrote into the logits that you were given: `z -= ...` and `z[~mask] = 0` do. Work on a copy.",
)
def _(logits, mask=None):
    top = logits.detach().amax(dim=-1, keepdim=True)
    logits.data -= top
    value = (top[:, 0] + logits.logsumexp(dim=-1)) ** 2
    return value.mean() if mask is None else value[mask].mean()


@z_loss.accepts("the function of Switch in transformers")
def _(router_logits, mask=None):
    if mask is not None:
        router_logits = router_logits[mask]
    router_logits = router_logits[None]
    num_groups, tokens_per_group, _ = router_logits.shape
    log_z = torch.logsumexp(router_logits, dim=-1)
    z_loss = log_z**2
    return torch.sum(z_loss) / (num_groups * tokens_per_group)


@z_loss.accepts("as in mesh: weighted by the mask")
def _(logits, mask=None):
    log_z = torch.logsumexp(logits, dim=1)
    weight = torch.ones_like(log_z) if mask is None else mask.to(log_z.dtype)
    return (torch.square(log_z) * weight).sum() / weight.sum()


@z_loss.accepts("token by token in float64, the largest logit taken off")
def _(logits, mask=None):
    total, count = 0, 0
    for t in range(logits.shape[0]):
        if mask is None or bool(mask[t]):
            z = logits[t].double()
            top = z.max().detach()
            total, count = total + (top + torch.exp(z - top).sum().log()) ** 2, count + 1
    return (total / count).float()


@z_loss.accepts("a logit less its log-probability")
def _(logits, mask=None):
    log_z = (logits - logits.log_softmax(dim=-1)).amax(dim=-1)
    log_z = log_z if mask is None else log_z.masked_select(mask)
    return log_z.pow(2).mean()
