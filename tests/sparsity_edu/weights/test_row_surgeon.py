"""Exact OBS of a linear layer against a surgeon per row, and against brute force."""

import itertools

import pytest
import torch
from layers import layer

from sparsity_edu.weights import optimal_brain, row_surgeon, sparsegpt


def made(rows=13, cols=18, dead=(4,)):
    W, batches = layer(rows=rows, cols=cols, dead=dead)
    H = sparsegpt.Hessian(cols)
    for X in batches:
        H.add(X)
    return W, H.H


def damped(H):
    H = H.double().clone()
    mean = H.diagonal().mean()
    H.diagonal()[H.diagonal() == 0] += 1
    return H + 0.01 * mean * torch.eye(len(H))


def test_a_row_is_a_surgeons_work():
    W, H = made(dead=())
    Hinv = torch.linalg.inv(damped(H))
    pruned = row_surgeon.prune_rows(W, H, 0.5, per="row", rows_at_once=5)
    for w, p in zip(W, pruned, strict=True):
        torch.testing.assert_close(p.double(), optimal_brain.surgeon(w, Hinv, count=9).w, rtol=1e-4, atol=1e-5)


def test_the_layer_spends_its_budget_where_it_is_cheapest():
    W, H = made(dead=())
    W = W * torch.linspace(0.2, 3, 13)[:, None]
    pruned = row_surgeon.prune_rows(W, H, 0.43, per="layer")
    counts = (pruned == 0).sum(dim=1)
    assert int(counts.sum()) == -(-43 * 13 * 18 // 100)  # rounded up, as the authors do
    assert counts[:4].sum() > counts[-4:].sum()
    for w, p, count in zip(W, pruned, counts.tolist(), strict=True):
        want = optimal_brain.surgeon(w, torch.linalg.inv(damped(H)), count=count).w
        torch.testing.assert_close(p.double(), want, rtol=1e-4, atol=1e-5)


def test_one_removal_is_the_best_of_all():
    W, H = made(rows=3, cols=6, dead=())
    D = damped(H)
    pruned = row_surgeon.prune_rows(W, H, 1 / 6, per="row")
    for w, p in zip(W.double(), pruned.double(), strict=True):
        errors = []
        for S in itertools.combinations(range(6), 1):
            rest = [i for i in range(6) if i not in S]
            v = torch.zeros(6).double()
            v[rest] = w[rest] + torch.linalg.solve(D[rest][:, rest], D[rest][:, list(S)] @ w[list(S)])
            errors.append(float((v - w) @ D @ (v - w)))
        assert float((p - w) @ D @ (p - w)) == pytest.approx(min(errors), rel=1e-4)


def test_dead_inputs_cost_nothing():
    W, H = made()
    assert (row_surgeon.prune_rows(W, H, 0.3)[:, 4] == 0).all()


def test_loses_less_than_sparsegpt():
    W, H = made(rows=40, cols=96, dead=())
    D = damped(H)

    def error(P):
        return float(((P - W).double() @ D * (P - W).double()).sum())

    assert error(row_surgeon.prune_rows(W, H, 0.5)) < error(sparsegpt.prune(W, H, 0.5, count="exact"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\)"),
        ({"per": "column"}, "per must be"),
        ({"damping": -2.0}, "not positive definite"),
    ],
)
def test_refuses(arguments, says):
    W, H = made()
    with pytest.raises(ValueError, match=says):
        row_surgeon.prune_rows(W, H, **{"sparsity": 0.5} | arguments)
