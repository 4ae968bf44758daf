"""Exercise 8.6: the layer."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.mixture_of_experts import fixtures
from autograder.exercises.mixture_of_experts.keep import reference as find_room
from autograder.exercises.mixture_of_experts.layer_mistakes import mistakes
from autograder.inside.case import Case, call
from sparsity_edu.experts import routing


def reference(
    x: Tensor, router: Tensor, up: Tensor, down: Tensor, k: int, renormalise: bool = True, capacity: int | None = None
) -> Tensor:
    """Expert by expert, in float64."""
    z = torch.einsum("btd,ed->bte", x.double(), router.double())
    weights, experts = z.softmax(dim=-1).topk(k, dim=-1)
    if renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    kept = torch.ones_like(experts, dtype=torch.bool)
    if capacity is not None:
        kept = find_room(experts, len(router), capacity)
    y = torch.zeros_like(x, dtype=torch.float64)
    for e in range(len(router)):
        b, t, j = ((experts == e) & kept).nonzero().T
        if len(b):
            h = x[b, t].double() @ up[e].double().T  # (entries, 2f or f)
            f = down.shape[2]
            h = F.silu(h[:, :f]) * h[:, f:] if h.shape[1] == 2 * f else h.relu()
            y = y.index_put((b, t), weights[b, t, j][:, None] * (h @ down[e].double().T), accumulate=True)
    return y.float()


layer = Exercise(
    "mixture_of_experts.layer",
    defines="mixture",
    title="The layer",
    minutes=20,
    difficulty=3,
    hints=(
        "Everything is there: route, keep (if there is a capacity), dispatch, then each expert on its own rows, and combine. The rows of one expert lie "
        "side by side, so `split` cuts the list into the experts' parts.",
        "Capacity counts in each sequence, so `keep` gets (sequences, tokens, k); all the rest works on tokens in one row: flatten x, and the choices "
        "with it. `x.index_select(0, choices // k).split(counts.tolist())` gives one matrix for each expert; leave out those of no rows, and put the "
        "answers together with `torch.cat`.",
        "`experts, weights = route(x @ router.T, k, renormalise)`, `kept = None` or `keep(experts, E, capacity)`; flatten all three to "
        "(sequences * tokens, ...); `choices, counts = dispatch(...)`; for `X, W_up, W_down` in "
        "`zip(x.flatten(0, 1)[choices // k].split(counts.tolist()), up.unbind(), down.unbind())` collect `expert(X, W_up, W_down)` where `len(X)`; "
        "return `combine(torch.cat(answers), choices, weights).view_as(x)`.",
    ),
    reference=reference,
    rules=Rules(tolerance=2e-5, exact_zeros=True),
    contiguous=True,
    misconceptions=mistakes,
)

ALL = (0, 1, 2, 3)  # x, router, up and down
TOO_LARGE = 1e25  # its square is infinite in float32


def case(g: torch.Generator, *sizes: int, k: int, relu: bool = False, gradients=(), poison: bool = False, **options) -> Case:
    """A call; `poison` fills the expert that nobody chooses with NaN."""
    x, router, up, down = fixtures.layer(g, *sizes, k=k, relu=relu)
    if poison:
        up[-1] = down[-1] = torch.nan
    return call(x, router, up, down, k, gradients=gradients, **options)


def crowded(g: torch.Generator, *sizes: int, k: int, capacity: int, gradients=(), **options) -> Case:
    """A call in which a token loses all its choices, and where there are several, who comes first decides what is dropped."""
    while True:
        x, router, up, down = fixtures.layer(g, *sizes, k=k)
        experts = (x @ router.T).topk(k).indices
        kept = find_room(experts, len(router), capacity)
        by_token = routing.positions(experts, len(router), order="tokens") < capacity
        if not kept.any(dim=-1).all() and (k == 1 or not torch.equal(kept, by_token)):
            return call(x, router, up, down, k, capacity=capacity, gradients=gradients, **options)


def infinite_elsewhere(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A layer in which one token's answer is infinite in the experts that it did not choose."""
    x, router, up, down = fixtures.layer(g, 1, 9, 6, 5, 6, k=2, blind=True)
    others = (x[0, 4] @ router.T).argsort()[:-2]
    x[0, 4, 1], up[:, :, 1], up[others, :, 1] = TOO_LARGE, 0.0, TOO_LARGE
    return x, router, up, down


@layer.stage(
    "as in Mixtral",
    points=1,
    exposes="y = sum over the k best experts of weight times answer, the weights renormalised if nothing else is said; experts are SwiGLU layers, and "
    "the gate's rows come first in up.",
)
def _(g):
    yield case(g, 1, 7, 5, 6, 4, k=2)
    yield case(g, 2, 6, 4, 3, 5, k=3)
    yield case(g, 3, 5, 7, 4, 6, k=2, renormalise=True)
    yield case(g, 1, 9, 3, 8, 4, k=1)


@layer.stage(
    "not renormalised, and as in Switch",
    points=1,
    exposes="With renormalise=False a weight is the probability among all experts. Where up is (E, f, d) experts are ReLU layers.",
)
def _(g):
    yield case(g, 2, 6, 5, 4, 6, k=2, renormalise=False)
    yield case(g, 1, 8, 4, 7, 5, k=1, renormalise=False)
    yield case(g, 2, 7, 6, 5, 4, k=1, renormalise=False, relu=True)
    yield case(g, 3, 4, 5, 6, 7, k=2, relu=True)
    yield case(g, 2, 5, 6, 3, 4, k=3, renormalise=False)


@layer.stage(
    "with a capacity",
    points=2,
    exposes="An expert takes at most `capacity` tokens of each sequence, first choices first. What is dropped adds nothing and the other weight stays "
    "as it was; a token that lost all its choices gets 0.",
)
def _(g):
    yield case(g, 1, 12, 5, 4, 4, k=1, renormalise=False, capacity=2, relu=True)
    yield case(g, 3, 10, 4, 6, 5, k=1, renormalise=False, capacity=3)
    yield crowded(g, 2, 12, 6, 5, 5, k=2, capacity=4)
    yield case(g, 4, 9, 5, 3, 6, k=2, renormalise=False, capacity=2)
    yield case(g, 2, 11, 3, 4, 6, k=3, capacity=5)
    yield case(g, 2, 5, 4, 3, 5, k=2, capacity=0)
    yield case(g, 2, 5, 4, 3, 6, k=2, capacity=50)


@layer.stage(
    "runs only what is routed",
    points=2,
    exposes="An expert computes for its own tokens alone, and an expert without tokens not at all. Here one that nobody chose is NaN, and others are "
    "infinite for tokens that are not theirs, or were dropped. 0 times NaN is NaN: multiplying by 0 is no way to leave something out. x and the weights "
    "stay as they are.",
    pure=True,
)
def _(g):
    yield case(g, 2, 6, 5, 4, 5, k=2, poison=True)
    yield case(g, 2, 8, 4, 6, 5, k=1, renormalise=False, capacity=2, relu=True, poison=True)
    yield case(g, 2, 5, 3, 4, 6, k=2, capacity=0, poison=True)
    yield call(*infinite_elsewhere(g), 2)
    for k, relu in ((1, True), (2, False)):
        x, router, up, down = fixtures.layer(g, 2, 9, 6, 5, 4, k=k, relu=relu, blind=True)
        kept = find_room((x @ router.T).topk(k).indices, 4, 2)
        x[..., 1].masked_fill_(~kept.any(dim=-1), TOO_LARGE)  # infinite in all experts, but dropped by all that it chose
        up[:, :, 1] = TOO_LARGE
        yield call(x, router, up, down, k, renormalise=False, capacity=2)
    yield crowded(g, 2, 10, 5, 4, 6, k=2, capacity=3, renormalise=False)
    yield case(g, 2, 150, 8, 6, 7, k=2, poison=True)
    yield case(g, 1, 10, 5, 4, 70, k=4)
    yield case(g, 4, 3, 5, 2, 6, k=2)


@layer.stage(
    "gradients reach x, router and experts",
    points=1,
    exposes="All four are trained through the result: the router through the weights alone. An expert that nobody chose has gradient 0.",
)
def _(g):
    yield case(g, 2, 6, 5, 4, 5, k=2, gradients=ALL)
    yield case(g, 1, 8, 4, 3, 4, k=1, renormalise=False, relu=True, gradients=ALL)
    yield crowded(g, 2, 9, 4, 5, 5, k=2, capacity=3, gradients=ALL)
    yield case(g, 2, 6, 3, 4, 6, k=2, renormalise=False, poison=True, gradients=ALL)
    yield call(*infinite_elsewhere(g), 2, renormalise=False, gradients=ALL)


def with_weights(module: torch.nn.Module, x: Tensor, **tensors: Tensor) -> Tensor:
    return torch.func.functional_call(module, tensors, (x,))


@cache
def transformers_models():
    from transformers import DeepseekV2Config, MixtralConfig, SwitchTransformersConfig
    from transformers.models.deepseek_v2 import modeling_deepseek_v2 as deepseek
    from transformers.models.mixtral import modeling_mixtral as mixtral
    from transformers.models.switch_transformers import modeling_switch_transformers as switch

    return (DeepseekV2Config, deepseek), (MixtralConfig, mixtral), (SwitchTransformersConfig, switch)


@layer.accepts("Mixtral, DeepSeek-V2 and Switch in transformers, each where it does what is asked")
def _(x, router, up, down, k, renormalise=True, capacity=None):
    (DeepseekV2Config, deepseek), (MixtralConfig, mixtral), (SwitchConfig, switch) = transformers_models()
    E, d, f = down.shape
    if up.shape[1] == f and k == 1 and not renormalise:
        config = SwitchConfig(d_model=d, d_ff=f, num_experts=E, expert_capacity=10**6 if capacity is None else capacity)
        experts = {f"experts.expert_{e}.wi.weight": up[e] for e in range(E)}
        experts |= {f"experts.expert_{e}.wo.weight": down[e] for e in range(E)}
        block = switch.SwitchTransformersSparseMLP(config).eval()
        return with_weights(block, x, **{"router.classifier.weight": router}, **experts)
    if up.shape[1] == 2 * f and capacity is None and renormalise:
        config = MixtralConfig(hidden_size=d, intermediate_size=f, num_local_experts=E, num_experts_per_tok=k)
        config._experts_implementation = "eager"
        tensors = {"gate.weight": router, "experts.gate_up_proj": up, "experts.down_proj": down}
        return with_weights(mixtral.MixtralSparseMoeBlock(config), x, **tensors)
    if up.shape[1] == 2 * f and capacity is None:
        config = DeepseekV2Config(
            hidden_size=d,
            moe_intermediate_size=f,
            n_routed_experts=E,
            num_experts_per_tok=k,
            topk_method="greedy",
            routed_scaling_factor=1.0,
            num_attention_heads=1,
        )
        config._experts_implementation = "eager"
        block = deepseek.DeepseekV2Moe(config)
        zero = {name: torch.zeros_like(p) for name, p in block.named_parameters() if name.startswith("shared")}
        return with_weights(block, x, **zero, **{"gate.weight": router, "experts.gate_up_proj": up, "experts.down_proj": down})
    return one_token_after_another(x, router, up, down, k, renormalise, capacity)


@layer.accepts("a choice at a time")
def one_token_after_another(x, router, up, down, k, renormalise=True, capacity=None):
    E, d, f = down.shape
    rows = []
    for sequence in x:
        probs = (sequence @ router.T).softmax(dim=1)
        order = probs.argsort(dim=1, descending=True)[:, :k]
        free = [capacity if capacity is not None else len(sequence)] * E
        y = [torch.zeros(d) for _ in sequence]
        for j in range(k):
            for t, e in enumerate(order[:, j].tolist()):
                if free[e] == 0:
                    continue
                free[e] -= 1
                h = up[e] @ sequence[t]
                h = F.silu(h[:f]) * h[f:] if len(h) == 2 * f else F.relu(h)
                weight = probs[t, e] / probs[t, order[t]].sum() if renormalise else probs[t, e]
                y[t] = y[t] + weight * (down[e] @ h)
        rows.append(torch.stack(y))
    return torch.stack(rows)


@layer.accepts("weights of every chosen expert gathered: one small product for each choice")
def _(x, router, up, down, k, renormalise=True, capacity=None):
    probs = torch.softmax(x @ router.mT, dim=-1)
    weights, experts = torch.topk(probs, k)
    if renormalise:
        weights = weights / weights.sum(-1, keepdim=True)
    kept = torch.ones_like(experts, dtype=torch.bool) if capacity is None else find_room(experts, len(router), capacity)
    b, t, j = kept.nonzero(as_tuple=True)
    e = experts[b, t, j]
    h = torch.einsum("nfd,nd->nf", up[e], x[b, t])
    if h.shape[1] == 2 * down.shape[2]:
        gate, value = h.chunk(2, dim=1)
        h = gate * torch.sigmoid(gate) * value
    else:
        h = h.clamp(min=0)
    answers = weights[b, t, j, None] * torch.einsum("ndf,nf->nd", down[e], h)
    return torch.zeros_like(x).index_put((b, t), answers, accumulate=True)
