"""Exercise 8.1: the router."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.mixture_of_experts.fixtures import logits
from autograder.inside.case import call


def reference(logits: Tensor, k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    """In float64, by a sort."""
    ascending = logits.double().argsort(dim=-1)
    experts = ascending.flip(-1)[..., :k]
    log_p = logits.double().log_softmax(dim=-1).gather(-1, experts)
    weights = log_p.softmax(dim=-1) if renormalise else log_p.exp()
    return experts, weights.float()


route = Exercise(
    "mixture_of_experts.route",
    defines="route",
    title="The router",
    minutes=10,
    difficulty=1,
    hints=(
        "Three steps: probabilities over the *experts* (the last dimension), the k largest of each token, and, if asked, these "
        "k divided by their sum.",
        "Convert to float32 before the softmax. `torch.topk` gives values and indices, the largest first, and the values keep "
        "their gradient. The sum for renormalising is that of the k chosen, with `keepdim=True`.",
        "`probs = logits.float().softmax(dim=-1)`, then `weights, experts = probs.topk(k, dim=-1)`, and if `renormalise`: "
        "`weights = weights / weights.sum(dim=-1, keepdim=True)`. Return `experts, weights`.",
    ),
    reference=reference,
)


@route.stage(
    "the best experts and their probabilities",
    points=1,
    exposes="softmax over the experts, the last dimension; then the k largest probabilities and who has them, the largest first.",
)
def _(g):
    yield call(logits(g, 6, 5), 2, False)
    yield call(logits(g, 9, 7), 3, False)
    yield call(logits(g, 5, 4), 1, False)
    yield call(logits(g, 3, 6), 6, False)
    yield call(logits(g, 1, 9), 4, False)


@route.stage(
    "renormalised",
    points=1,
    exposes="With renormalise=True the k weights of each token sum to 1: divide by the sum of these k. With False they stay as the softmax over "
    "all experts made them, also for k = 1.",
)
def _(g):
    yield call(logits(g, 7, 5), 2, True)
    yield call(logits(g, 4, 8), 3, True)
    yield call(logits(g, 5, 6), k=4, renormalise=True)
    yield call(logits(g, 6, 3), 1, True)
    yield call(logits(g, 8, 4), 4, True)
    yield call(logits(g, 5, 8, spread=3.0), 2, renormalise=False)


@route.stage(
    "for tokens in any arrangement, many experts and square tables",
    points=1,
    exposes="What comes before the last dimension are tokens, in one dimension or several; there may be as many tokens as experts, or hundreds of "
    "experts.",
)
def _(g):
    yield call(logits(g, 6, 6), 2, True)
    yield call(logits(g, 8, 8), 3, False)
    yield call(logits(g, 2, 5, 4), 2, True)
    yield call(logits(g, 3, 3, 3), 2, False)
    yield call(logits(g, 7), 2, True)
    yield call(logits(g, 3, 300), 8, True)
    yield call(logits(g, 2, 2000, spread=0.3, gap=1e-3), 2, True)  # all probabilities are small
    yield call(logits(g, 1100, 5), 2, False)


@route.stage(
    "in float32, however large the logits",
    points=1,
    exposes="Logits in half precision are converted to float32 first, and weights are float32. Logits can be hundreds: a softmax does not overflow "
    "where exp(z) does. An expert at -inf is never chosen. The logits stay as they are.",
    pure=True,
)
def _(g):
    yield call(logits(g, 6, 7, gap=0.2).bfloat16(), 2, True)
    yield call(logits(g, 5, 6, gap=0.2).half(), 3, False)
    far = torch.tensor([[1.0], [-1], [0.5], [-0.5]]) * (760 + 200 * torch.rand(4, 1, generator=g))
    apart = 25.0 * torch.stack([torch.randperm(5, generator=g) for _ in range(4)])  # one has all, however a sum is rounded
    for renormalise in (True, False):
        yield call(apart + far, 2, renormalise)
        yield call(logits(g, 4, 5) + far / 8, 2, renormalise)  # below 128, where a logarithm in float32 is good enough
        yield call(200 * apart + far, 1, renormalise)  # thousands
    yield call(logits(g, 4, 5) + 95 + 25 * torch.rand(4, 1, generator=g), 2, False)
    yield call(logits(g, 5, 6) - 120, 2, False)
    off = logits(g, 6, 7)
    off[:, torch.randperm(7, generator=g)[:3]] = -torch.inf
    yield call(off, 3, True)
    yield call(off.roll(1, dims=1), 2, False)
    apart[:, 1] = -torch.inf
    yield call(apart - 900, 2, True)


@route.stage(
    "a gradient reaches the logits",
    points=1,
    exposes="The weights are all that the router learns from. What numpy, item(), detach() or no_grad() makes of the logits has no gradient; and "
    "with renormalise=False the logits of experts that were not chosen have one too.",
)
def _(g):
    yield call(logits(g, 4, 5), 2, True, gradients=(0,))
    yield call(logits(g, 5, 4), 2, False, gradients=(0,))
    yield call(logits(g, 3, 2, 6), 3, True, gradients=(0,))
    yield call(logits(g, 4, 6), 1, False, gradients=(0,))


def chosen(probs: Tensor, k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    weights, experts = probs.topk(k, dim=-1)
    return experts, weights / weights.sum(dim=-1, keepdim=True) if renormalise else weights


def mistaken(name: str, says: str):
    return route.misconception(name, says)


@mistaken(
    "softmax over the tokens",
    "Your softmax runs over the tokens (dim=0): tokens compete for an expert. Experts compete for a token: dim=-1.",
)
def _(z, k, renormalise):
    return chosen(z.float().softmax(dim=0), k, renormalise)


@mistaken(
    "over the second dimension",
    "You wrote dim=1. That is the experts for (tokens, E) only; with more dimensions in front they are still the last one: dim=-1.",
)
def _(z, k, renormalise):
    dim = min(1, z.ndim - 1)
    weights, experts = z.float().softmax(dim=dim).topk(k, dim=-1)
    return experts, weights / weights.sum(dim=-1, keepdim=True) if renormalise else weights


@mistaken(
    "never renormalised",
    "You never renormalise. With renormalise=True divide the k weights by their sum, so that they sum to 1.",
)
def _(z, k, renormalise):
    return chosen(z.float().softmax(dim=-1), k, False)


@mistaken(
    "always renormalised",
    "You renormalise in any case (a softmax over the k chosen logits does so too). With renormalise=False a weight is the probability among *all* "
    "experts, as in Switch: for k = 1 a renormalised weight is 1 and teaches nothing.",
)
def _(z, k, renormalise):
    return chosen(z.float().softmax(dim=-1), k, True)


@mistaken("renormalised the other way", "You divide where renormalise is False, and not where it is True.")
def _(z, k, renormalise):
    return chosen(z.float().softmax(dim=-1), k, not renormalise)


@mistaken(
    "softmax of the chosen probabilities",
    "You took a second softmax, of the k probabilities. Renormalising divides them by their sum; a softmax of probabilities makes them nearly equal.",
)
def _(z, k, renormalise):
    weights, experts = z.float().softmax(dim=-1).topk(k, dim=-1)
    return experts, weights.softmax(dim=-1) if renormalise else weights


@mistaken(
    "divided by the largest",
    "You divided by the largest weight. Divide by the sum of the k weights: then they sum to 1.",
)
def _(z, k, renormalise):
    weights, experts = z.float().softmax(dim=-1).topk(k, dim=-1)
    return experts, weights / weights[..., :1] if renormalise else weights


@mistaken("logits as weights", "Your weights are logits. They can be negative: take the softmax over the experts first.")
def _(z, k, renormalise):
    return chosen(z.float(), k, renormalise)


@mistaken(
    "sigmoid", "You took the sigmoid of each logit. That is the gate of DeepSeek-V3; here it is a softmax over the experts."
)
def _(z, k, renormalise):
    return chosen(z.float().sigmoid(), k, renormalise)


@mistaken("the worst", "You chose the smallest. The experts of a token are those with the largest probability.")
def _(z, k, renormalise):
    weights, experts = z.float().softmax(dim=-1).topk(k, dim=-1, largest=False)
    return experts, weights / weights.sum(dim=-1, keepdim=True) if renormalise else weights


@mistaken(
    "in the order of the experts",
    "You return the chosen experts by their number. The best comes first: it is the first choice, and first choices find room first.",
)
def _(z, k, renormalise):
    experts, weights = chosen(z.float().softmax(dim=-1), k, renormalise)
    experts, order = experts.sort(dim=-1)
    return experts, weights.gather(-1, order)


@mistaken("the worst of them first", "The order of the k is upside down: the largest weight comes first.")
def _(z, k, renormalise):
    experts, weights = chosen(z.float().softmax(dim=-1), k, renormalise)
    return experts.flip(-1), weights.flip(-1)


@mistaken("weights first", "You return weights, experts, as torch.topk does. The contract says experts, weights.")
def _(z, k, renormalise):
    return chosen(z.float().softmax(dim=-1), k, renormalise)[::-1]


@mistaken(
    "chosen for all tokens at once",
    "You chose k experts for all tokens together. Each token has its own: topk along the last dimension.",
)
def _(z, k, renormalise):
    probs = z.float().softmax(dim=-1)
    experts = probs.flatten(0, -2).mean(dim=0).topk(k).indices if z.ndim > 1 else probs.topk(k).indices
    weights = probs[..., experts]
    return experts.expand(weights.shape).clone(), weights / weights.sum(dim=-1, keepdim=True) if renormalise else weights


@mistaken(
    "without a maximum",
    "You divide exp(z) by its sum. exp(100) is infinite in float32: take torch's softmax, which subtracts the maximum first.",
)
def _(z, k, renormalise):
    powers = z.float().exp()
    return chosen(powers / powers.sum(dim=-1, keepdim=True), k, renormalise)


@mistaken(
    "in half precision",
    "You computed in the precision of the logits. A router is computed in float32 also where the model is not (Switch calls it selective "
    "precision): rounded probabilities are wrong and often equal.",
)
def _(z, k, renormalise):
    experts, weights = chosen(z.softmax(dim=-1), k, renormalise)
    return experts, weights.float()


@mistaken(
    "weights of another type", "Your weights have the data type of the logits. They are float32, whatever the model runs in."
)
def _(z, k, renormalise):
    experts, weights = chosen(z.float().softmax(dim=-1), k, renormalise)
    return experts, weights.to(z.dtype)


@mistaken(
    "no gradient",
    "No gradient reaches the logits: detach(), numpy or no_grad() cut it off. Take `values` of topk as they are.",
)
def _(z, k, renormalise):
    return chosen(z.detach().float().softmax(dim=-1), k, renormalise)


@mistaken(
    "the sum as a constant",
    "You detached the sum that you divide by. The gradient of a quotient needs both: with the sum as a constant, all k weights could grow at once.",
)
def _(z, k, renormalise):
    weights, experts = z.float().softmax(dim=-1).topk(k, dim=-1)
    return experts, weights / weights.sum(dim=-1, keepdim=True).detach() if renormalise else weights


@route.accepts("Mixtral in transformers; without renormalising, OLMoE")
def _(router_logits, k, renormalise):
    router_probs = torch.nn.functional.softmax(router_logits.float(), dim=-1)
    router_top_value, router_indices = torch.topk(router_probs, k, dim=-1)
    if renormalise:
        router_top_value /= router_top_value.sum(dim=-1, keepdim=True)
    return router_indices, router_top_value


@route.accepts("Megatron: softmax of the chosen logits")
def _(logits, k, renormalise):
    top, experts = logits.float().topk(k, dim=-1)
    if renormalise:
        return experts, F.softmax(top, dim=-1, dtype=torch.float32)
    return experts, F.softmax(logits, dim=-1, dtype=torch.float32).gather(-1, experts)


@route.accepts("mesh: one expert after the other, with a small number in the sum")
def _(logits, k, renormalise):
    probs = logits.float().softmax(dim=-1)
    left, experts, weights = probs, [], []
    for _ in range(k):
        best = left.argmax(dim=-1, keepdim=True)
        experts.append(best)
        weights.append(probs.gather(-1, best))
        left = left.scatter(-1, best, -1.0)
    weights = torch.cat(weights, dim=-1)
    return torch.cat(experts, dim=-1), weights / (weights.sum(dim=-1, keepdim=True) + 1e-9) if renormalise else weights


@route.accepts("numpy for the choice")
def _(logits, k, renormalise):
    order = np.argsort(-logits.detach().float().numpy(), axis=-1)[..., :k]
    experts = torch.from_numpy(order.copy())
    weights = torch.log_softmax(logits.double(), dim=-1).gather(-1, experts).exp()
    if renormalise:
        weights = torch.nn.functional.normalize(weights, p=1, dim=-1)
    return experts, weights.float()
