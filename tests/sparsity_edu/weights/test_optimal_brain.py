"""OBD and OBS against inverses, least squares, and the loss itself."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from sparsity_edu.data import xor
from sparsity_edu.weights import curvature, optimal_brain


@pytest.fixture
def quadratic():
    g = torch.Generator().manual_seed(0)
    G = torch.randn(40, 24, generator=g, dtype=torch.float64) @ torch.randn(24, 24, generator=g, dtype=torch.float64)
    w = torch.randn(24, generator=g, dtype=torch.float64)
    return G, w, 1e-4 * torch.eye(24, dtype=torch.float64) + G.T @ G / 40


def test_recursion_is_the_inverse(quadratic):
    G, _, H = quadratic
    torch.testing.assert_close(optimal_brain.inverse_hessian(G, alpha=1e-4), torch.linalg.inv(H), rtol=1e-8, atol=0)
    torch.testing.assert_close(optimal_brain.inverse_hessian(G.float(), alpha=1e-4), torch.linalg.inv(H), rtol=1e-2, atol=1e-2)


def test_several_vectors_of_a_sample_count_as_one_sample(quadratic):
    G = quadratic[0]
    H = 1e-3 * torch.eye(24).double() + G.T @ G / 10
    torch.testing.assert_close(optimal_brain.inverse_hessian(G, samples=10, alpha=1e-3), torch.linalg.inv(H))


def test_a_step_is_the_best_way_to_lose_a_weight(quadratic):
    _, w, H = quadratic
    Hinv = torch.linalg.inv(H)
    for q in (0, 7, 23):
        others = [i for i in range(24) if i != q]
        delta = torch.zeros_like(w)
        delta[q] = -w[q]
        delta[others] = torch.linalg.solve(H[others][:, others], H[others, q] * w[q])  # the minimum, given that w_q goes
        after = optimal_brain.surgeon_step(w, Hinv, q)
        torch.testing.assert_close(after, w + delta)
        assert after[q] == 0
        torch.testing.assert_close(optimal_brain.surgeon_saliency(w, Hinv)[q], delta @ H @ delta / 2)


def test_downdate_is_the_inverse_without_the_weight(quadratic):
    _, _, H = quadratic
    others = [i for i in range(24) if i != 5]
    after = optimal_brain.downdate(torch.linalg.inv(H), 5)
    torch.testing.assert_close(after[others][:, others], torch.linalg.inv(H[others][:, others]))
    assert (after[5] == 0).all()
    assert (after[:, 5] == 0).all()


def test_the_surgeon_is_greedy_and_its_increases_add_up_to_the_loss(quadratic):
    _, w, H = quadratic
    done = optimal_brain.surgeon(w, torch.linalg.inv(H), count=10)
    assert len(set(done.removed)) == 10
    assert (done.w[done.removed] == 0).all()
    delta = done.w - w
    assert sum(done.increases) == pytest.approx(float(delta @ H @ delta / 2))
    alive, v = list(range(24)), w.clone()
    for q in done.removed:  # the same from the inverse of what is left, computed anew each time
        Hinv = torch.linalg.inv(H[alive][:, alive])
        assert alive[int((v[alive] ** 2 / Hinv.diagonal()).argmin())] == q
        at = alive.index(q)
        v[alive] = v[alive] - v[q] / Hinv[at, at] * Hinv[:, at]
        alive.remove(q)
    torch.testing.assert_close(v[alive], done.w[alive])


def test_the_surgeon_stops_before_the_loss_rises_too_much(quadratic):
    _, w, H = quadratic
    Hinv = torch.linalg.inv(H)
    everything = optimal_brain.surgeon(w, Hinv, count=24)
    assert (everything.w == 0).all()
    budget = sum(everything.increases[:9]) * 1.0001
    assert optimal_brain.surgeon(w, Hinv, max_increase=budget).removed == everything.removed[:9]
    assert optimal_brain.surgeon(w, Hinv, count=4, max_increase=budget).removed == everything.removed[:4]
    alive = torch.ones(24, dtype=torch.bool)
    alive[everything.removed[0]] = False
    assert everything.removed[0] not in optimal_brain.surgeon(w, Hinv, count=23, alive=alive).removed


def test_damage_deletes_the_smallest_saliencies():
    w, h = torch.tensor([3.0, -1.0, 0.5, 2.0, 0.0]), torch.tensor([0.1, 5.0, 4.0, 0.2, 9.0])
    torch.testing.assert_close(optimal_brain.damage_saliency(w, h), torch.tensor([0.45, 2.5, 0.5, 0.4, 0.0]))
    assert optimal_brain.damage(w, h, 3).tolist() == [0.0, -1.0, 0.5, 0.0, 0.0]
    assert optimal_brain.damage(w, h, 1).tolist() == w.tolist()


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    x = torch.randn(60, 4)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].tanh()], dim=1)
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 2))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().sum() / 2 / len(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    return model, x, y


def mean_loss(model, x, y):
    with torch.no_grad():
        return float((model(x) - y).square().sum() / 2 / len(x))


def test_expected_increases_are_those_of_the_loss(trained):
    model, x, y = trained
    for method in ("obs", "obd"):
        pruned = copy.deepcopy(model)
        done = optimal_brain.prune_(pruned, x, y, method=method, count=1, alpha=1e-8)
        rise = mean_loss(pruned, x, y) - mean_loss(model, x, y)
        assert rise == pytest.approx(done.increases[0], rel=0.5, abs=1e-5)


def test_surgeon_loses_less_than_damage_than_magnitude(trained):
    model, x, y = trained
    losses = {}
    for method in ("obs", "obd", "magnitude"):
        pruned = copy.deepcopy(model)
        done = optimal_brain.prune_(pruned, x, y, method=method, count=14, refresh=1)
        assert int((parameters_to_vector(pruned.parameters()) == 0).sum()) == len(set(done.removed)) == 14
        losses[method] = mean_loss(pruned, x, y)
    assert losses["obs"] < losses["obd"] < losses["magnitude"]


def test_what_is_gone_stays_gone(trained):
    model, x, y = trained
    pruned = copy.deepcopy(model)
    first = optimal_brain.prune_(pruned, x, y, count=5)
    second = optimal_brain.prune_(pruned, x, y, count=6, refresh=2)
    assert not set(first.removed) & set(second.removed)
    assert int((parameters_to_vector(pruned.parameters()) == 0).sum()) == 11


def test_magnitude_ranks_by_magnitude_and_damage_by_its_diagonal(trained):
    model, x, y = trained
    w = parameters_to_vector(model.parameters()).detach()
    pruned = copy.deepcopy(model)
    assert optimal_brain.prune_(pruned, x, y, method="magnitude", count=6).removed == w.abs().argsort()[:6].tolist()
    for name, diagonal in curvature.DIAGONALS.items():
        h = diagonal(model, x, y, curvature.half_squared_error)
        done = optimal_brain.prune_(copy.deepcopy(model), x, y, method="obd", diagonal=name, count=6)
        assert done.removed == (h * w**2).argsort()[:6].tolist()


def test_a_budget_ends_the_removals(trained):
    model, x, y = trained
    for method in ("obs", "obd"):
        free = optimal_brain.prune_(copy.deepcopy(model), x, y, method=method, count=12, refresh=1)
        budget = sum(free.increases[:7]) * 1.0001
        stopped = optimal_brain.prune_(copy.deepcopy(model), x, y, method=method, max_increase=budget, count=12, refresh=1)
        assert stopped.removed == free.removed[:7]


def test_xor_is_xor():
    x, y = xor()
    assert [(int(a), int(b), int(t)) for (a, b), [t] in zip(x.tolist(), y.tolist(), strict=True)] == [
        (0, 0, 0),
        (0, 1, 1),
        (1, 0, 1),
        (1, 1, 0),
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"method": "obx", "count": 1}, 'method must be "obs", "obd" or "magnitude"'),
        ({"method": "obd", "diagonal": "true", "count": 1}, "diagonal must be one of lecun, exact"),
        ({}, "give count, max_increase"),
        ({"count": 1000}, "count must be at most"),
        ({"count": 1, "alpha": 0.0}, "alpha and samples must be positive"),
    ],
)
def test_refuses(trained, arguments, says):
    model, x, y = trained
    with pytest.raises(ValueError, match=says):
        optimal_brain.prune_(copy.deepcopy(model), x, y, **arguments)
    with pytest.raises(ValueError, match="finite"):
        optimal_brain.inverse_hessian(torch.tensor([[math.nan, 1.0]]))
