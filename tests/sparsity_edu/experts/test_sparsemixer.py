"""SparseMixer against Phi-3.5-MoE in transformers with the same noise, and by enumeration of every draw and coin."""

import math

import pytest
import torch
from transformers.models.phimoe.modeling_phimoe import sparsemixer as phimoes

from sparsity_edu.experts.layer import MixtureLayer
from sparsity_edu.experts.sparsemixer import V1, V2, V2_STAR, sparsemixer, too_small

EXACT_V2 = V2._replace(small=1 / 3)  # the code's literal is 0.3333


def phimoes_noise(tokens, E, seed):
    """What transformers draws, in its order."""
    torch.manual_seed(seed)
    noise, coin = [], []
    for j in range(2):
        noise.append(torch.empty(tokens, E).exponential_())
        coin.append(torch.rand(tokens, 1))
        if j == 1:
            coin[-1] = torch.empty(tokens, 1).uniform_()  # the first draw is thrown away
    return torch.stack(noise), torch.stack(coin)[..., 0]


@pytest.mark.parametrize("eps", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("shift", [0.0, -3.0, 3.0])  # all logits negative: the factor is |z|, not the largest
@pytest.mark.parametrize("training", [True, False])
def test_equals_phimoe(eps, shift, training):
    z = 1.5 * torch.randn(200, 6, generator=torch.Generator().manual_seed(4)) + shift
    noise, coin = phimoes_noise(200, 6, seed=11) if training else (None, None)
    mine, other = z.clone().requires_grad_(), z.clone().requires_grad_()
    routing = sparsemixer(mine, 2, V2, noise, coin, eps=eps)
    torch.manual_seed(11)
    weights, experts = phimoes(other, eps, training)
    assert torch.equal(routing.experts, experts)
    torch.testing.assert_close(routing.weights, weights, atol=1e-6, rtol=0)
    probe = torch.randn(200, 2, generator=torch.Generator().manual_seed(5))
    [a] = torch.autograd.grad((routing.weights * probe).sum(), mine)
    [b] = torch.autograd.grad((weights * probe).sum(), other)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    torch.testing.assert_close(routing.probs, z.softmax(-1))
    if training:
        assert (experts != phimoes(z, eps, False)[1]).any() or eps == 0.01


def test_v1_by_hand():
    """The authors' code, a token at a time: mask, sample, half weight or whole, twice the gradient of the softmax."""
    generator = torch.Generator().manual_seed(0)
    z = (torch.randn(60, 5, generator=generator, dtype=torch.float64) - 0.5).requires_grad_()
    noise = torch.empty(1, 60, 5, dtype=torch.float64).exponential_(generator=generator)
    coin = torch.rand(1, 60, generator=generator, dtype=torch.float64)
    routing = sparsemixer(z, 1, V1, noise, coin, eps=0.3)
    probe = torch.randn(60, 1, generator=generator, dtype=torch.float64)
    [gradient] = torch.autograd.grad((routing.weights * probe).sum(), z)
    halves = 0
    for t in range(60):
        logits = z[t].tolist()
        top = max(logits)
        inside = [e for e in range(5) if (top - logits[e]) / max(abs(logits[e]), top) <= 0.6]
        total = sum(math.exp(logits[e]) for e in inside)
        p = [math.exp(logits[e]) / total if e in inside else 0.0 for e in range(5)]
        D = max(inside, key=lambda e: logits[e] - math.log(noise[0, t, e]))
        whole = logits[D] == top or coin[0, t] > 0.5
        halves += not whole
        assert routing.experts[t].item() == D
        assert routing.weights[t].item() == pytest.approx(p[D] * (1 if whole else 0.5))
        assert routing.probs[t].tolist() == pytest.approx(p)
        expected = [2 * probe[t].item() * p[D] * ((e == D) - p[e]) for e in range(5)]
        assert gradient[t].tolist() == pytest.approx(expected)
    assert 3 < halves < 57


# Enumeration: every expert and every coin, with its probability, in float64

LOGITS = torch.tensor([0.4, -0.3, 1.1, 0.2], dtype=torch.float64)
COEFFICIENTS = torch.tensor(  # of w, w^2, w^3 in each expert's loss f_i(w); f_i(0) is the same for all
    [[0.7, -1.2, 0.9], [-0.4, 0.8, 1.5], [1.3, 0.5, -0.7], [0.2, -0.9, 2.0]], dtype=torch.float64
)


def loss(expert, weight, degree):
    return sum(COEFFICIENTS[expert, n] * weight ** (n + 1) for n in range(degree)) + 0.6


def exact(degree, detached=False):
    """The gradient of sum_i p_i f_i(p_i)."""
    z = LOGITS.clone().requires_grad_()
    p = z.softmax(-1)
    inside = p.detach() if detached else p
    return torch.autograd.grad(sum(p[i] * loss(i, inside[i], degree) for i in range(4)), z)[0]


def enumerated(rule, degree, euler=False):
    """The mean and the variance of the estimator's gradient."""
    mean, square = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    p = LOGITS.softmax(-1)
    for D in range(4):
        noise = torch.full((1, 1, 4), 1e9, dtype=torch.float64)
        noise[..., D] = 1e-9  # draws D
        for coin, chance in ((0.0, 1 - rule.whole), (1 - 1e-9, rule.whole)):
            z = LOGITS.clone().requires_grad_()
            routing = sparsemixer(z[None], 1, rule, noise, torch.tensor([[coin]], dtype=torch.float64), eps=1e9, euler=euler)
            assert routing.experts.item() == D
            gradient = torch.autograd.grad(loss(D, routing.weights[0, 0], degree), z)[0]
            mean += p[D] * chance * gradient
            square += p[D] * chance * gradient**2
    return mean, square - mean**2


def error(rule, degree, **options):
    return (enumerated(rule, degree)[0] - exact(degree, **options)).abs().max().item()


@pytest.mark.parametrize(
    ("rule", "detached", "exact_up_to"), [(V1, False, 2), (EXACT_V2, True, 3), (V2_STAR, False, 3)], ids=["v1", "v2", "v2*"]
)
def test_the_mean_is_exact_up_to_a_degree_and_not_beyond(rule, detached, exact_up_to):
    for degree in (1, 2, 3):
        if degree <= exact_up_to:
            assert error(rule, degree, detached=detached) < 1e-14
        else:
            assert error(rule, degree, detached=detached) > 1e-4


def test_v2_is_right_for_another_objective():
    assert error(EXACT_V2, 1) > 0.01
    assert error(EXACT_V2, 3) > 0.01
    assert 1e-14 < error(V2, 3, detached=True) < 1e-4  # the literal


@pytest.mark.parametrize("rule", [V1, V2_STAR])
def test_the_likeliest_expert_at_full_weight_costs_exactness_from_the_quadratic_on(rule):
    def difference(degree):
        return (enumerated(rule, degree, euler=True)[0] - exact(degree)).abs().max().item()

    assert difference(1) < 1e-14
    assert difference(2) > 1e-3


def test_the_whole_weight_at_the_likeliest_is_never_halved():
    z = torch.tensor([[2.0, 1.0]])
    noise = torch.tensor([[[1e-6, 1.0]]])
    weight = sparsemixer(z, 1, V1, noise, torch.tensor([[0.0]]), eps=0.5).weights
    torch.testing.assert_close(weight, z.softmax(-1)[:, :1])


def test_draws_follow_the_probabilities_of_what_is_near_enough():
    z = torch.tensor([1.0, 0.95, 0.5, 0.99]).expand(20000, 4)
    generator = torch.Generator().manual_seed(0)
    noise = torch.empty(2, 20000, 4).exponential_(generator=generator)
    routing = sparsemixer(z, 2, V2, noise, torch.rand(2, 20000, generator=generator), eps=0.05)
    assert too_small(z, z, 0.05)[0].tolist() == [False, False, True, False]
    first = routing.experts[:, 0].bincount(minlength=4) / 20000
    torch.testing.assert_close(first, torch.tensor([1.0, 0.95, -math.inf, 0.99]).softmax(0), atol=0.015, rtol=0)
    assert (routing.experts[:, 0] != routing.experts[:, 1]).all()
    small = routing.weights[:, 0] < 0.2
    likeliest = routing.experts[:, 0] == 0
    assert not (small & likeliest).any()
    assert small[~likeliest].float().mean().item() == pytest.approx(0.75, abs=0.015)


def test_evaluation_is_greedy_and_has_ordinary_gradients():
    z = torch.randn(30, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    routing = sparsemixer(z, 2, V1, eps=1e9)
    assert torch.equal(routing.experts, z.topk(2).indices)
    first = z.softmax(-1).gather(-1, routing.experts[:, :1])
    torch.testing.assert_close(routing.weights[:, :1], first)
    [a] = torch.autograd.grad(routing.weights[:, 0].sum(), z, retain_graph=True)
    [b] = torch.autograd.grad(first.sum(), z)
    torch.testing.assert_close(a, b)
    # the second softmax is over the others alone, so both weights together may be near 2
    alone = z.scatter(-1, routing.experts[:, :1], -math.inf).softmax(-1)
    torch.testing.assert_close(routing.weights[:, 1:], alone.gather(-1, routing.experts[:, 1:]))


def test_logits_are_not_changed_and_half_precision_is_float32_inside():
    z = torch.randn(9, 4)
    kept = z.clone()
    noise, coin = torch.empty(1, 9, 4).exponential_(), torch.rand(1, 9)
    sparsemixer(z, 1, V1, noise, coin, eps=0.1)
    assert torch.equal(z, kept)
    half = sparsemixer(z.bfloat16(), 1, V1, noise, coin, eps=0.1)
    assert torch.equal(half.weights, sparsemixer(z.bfloat16().float(), 1, V1, noise, coin, eps=0.1).weights)


def test_routes_a_layer_with_groups():
    noise, coin = torch.empty(2, 3, 7, 4).exponential_(), torch.rand(2, 3, 7)
    layer = MixtureLayer(6, 5, 4, lambda z: sparsemixer(z, 2, V2, noise, coin, eps=0.1))
    x = torch.randn(3, 7, 6)
    y, routing = layer(x)
    y.sum().backward()
    assert routing.experts.shape == (3, 7, 2)
    assert layer.router.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 5}, "k must be from 1 to the 4 experts, got 5"),
        ({"eps": -0.1}, "eps must be at least 0"),
        ({"noise": torch.ones(3, 4)}, r"noise must be \(1, 3, 4\), got \(3, 4\)"),
        ({"noise": torch.ones(1, 3, 4)}, "coin must go with noise"),
        ({"noise": torch.ones(1, 3, 4), "coin": torch.ones(1, 3, 1)}, r"be \(1, 3\), got \(1, 3, 1\)"),
        ({"coin": torch.ones(1, 3)}, "coin must go with noise"),
    ],
)
def test_refuses(arguments, says):
    with pytest.raises(ValueError, match=says):
        sparsemixer(torch.zeros(3, 4), **{"k": 1, "rule": V1, "eps": 0.1} | arguments)
