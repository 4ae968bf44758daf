"""The two-level mixture: sums written out, maxima by other means, and a likelihood that never falls."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_edu.data import piecewise
from sparsity_edu.experts import hierarchical
from sparsity_edu.experts.hierarchical import Tree, with_constant


def problem(samples=30, inputs=3, out=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = with_constant(torch.randn(samples, inputs - 1, generator=generator))
    y = torch.randn(samples, out, generator=generator, dtype=torch.float64) + x[:, :1].abs()
    return x, y, generator


def test_equals_sums_over_samples_branches_and_leaves():
    x, y, generator = problem()
    tree = hierarchical.start(x, y, 2, 3, generator)
    tree = tree._replace(variance=tree.variance * torch.tensor([[1.0, 2.0, 0.5], [0.7, 1.5, 3.0]]))
    total, h = 0.0, hierarchical.e_step(tree, x, y)
    mean = hierarchical.predict(tree, x)
    for s in range(len(x)):
        top = (tree.top @ x[s]).softmax(0)
        joint, answer = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        for i in range(2):
            lower = (tree.lower[i] @ x[s]).softmax(0)
            for j in range(3):
                mu, variance = tree.leaves[i, j] @ x[s], tree.variance[i, j]
                density = math.prod(
                    math.exp(-((y[s, o] - mu[o]) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance) for o in range(2)
                )
                joint[i, j] = top[i] * lower[j] * density
                answer += top[i] * lower[j] * mu
        total += math.log(joint.sum())
        torch.testing.assert_close(h[s], joint / joint.sum())
        torch.testing.assert_close(mean[s], answer)
    assert hierarchical.log_likelihood(tree, x, y).item() == pytest.approx(total)


def test_leaves_are_weighted_least_squares():
    x, y, generator = problem()
    tree = hierarchical.start(x, y, 2, 2, generator)
    h = hierarchical.e_step(tree, x, y)
    new = hierarchical.m_step(tree, x, y, h)
    for i in range(2):
        for j in range(2):
            W = h[:, i, j].diag()
            U = torch.linalg.inv(x.T @ W @ x) @ x.T @ W @ y  # normal equations
            torch.testing.assert_close(new.leaves[i, j], U.T)
            squares = ((y - x @ U) ** 2).sum(1) @ h[:, i, j]
            torch.testing.assert_close(new.variance[i, j], squares / (2 * h[:, i, j].sum()))


def test_a_gate_finds_the_maximum_that_gradient_ascent_finds():
    x, _, generator = problem(samples=60)
    h = torch.rand(60, 3, generator=generator, dtype=torch.float64) * torch.rand(60, 1, generator=generator)
    V = hierarchical.softmax_regression(torch.zeros(3, 3, dtype=torch.float64), x, h)
    slow = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([slow], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = -(h * (x @ slow.T).log_softmax(1)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close((x @ V.T).softmax(1), (x @ slow.T).softmax(1).detach(), atol=1e-6, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(2, 40), st.integers(0, 999))
def test_the_log_likelihood_never_falls(branches, leaves, out, samples, seed):
    """Also with fewer samples than parameters, where leaves fit some of them exactly."""
    x, y, generator = problem(samples, 3, out, seed)
    tree = hierarchical.start(x, y, branches, leaves, generator)
    _, curve = hierarchical.fit(tree, x, y, 12)
    assert all(math.isfinite(value) for value in curve)
    assert all(after >= before - 1e-9 * (1 + abs(before)) for before, after in itertools.pairwise(curve))


def test_one_leaf_is_linear_regression():
    x, y, generator = problem()
    tree, curve = hierarchical.fit(hierarchical.start(x, y, 1, 1, generator), x, y, 2)
    fit = torch.linalg.lstsq(x, y).solution
    torch.testing.assert_close(hierarchical.predict(tree, x), x @ fit)
    assert curve[1] == pytest.approx(curve[2])


def test_finds_the_four_pieces_of_a_line():
    data = piecewise()
    x, y = with_constant(data.inputs), data.targets
    tries = [
        hierarchical.fit(hierarchical.start(x, y, 2, 2, torch.Generator().manual_seed(seed)), x, y, 40) for seed in range(3)
    ]
    tree, curve = max(tries, key=lambda found: found[1][-1])
    assert curve[-1] > curve[0] + 500
    error = hierarchical.predict(tree, x) - y
    assert error.square().mean().sqrt() < 0.07  # the noise is 0.05
    leaf = hierarchical.e_step(tree, x, y).flatten(1).argmax(1)
    for piece in range(4):
        counts = leaf[data.pieces == piece].bincount(minlength=4)
        assert counts.max() > 0.9 * counts.sum()
    line = x @ torch.linalg.lstsq(x, y.double()).solution - y
    assert line.square().mean().sqrt() > 0.3


def test_training_changes_no_argument():
    x, y, generator = problem()
    tree = hierarchical.start(x, y, 2, 2, generator)
    kept = Tree(*(tensor.clone() for tensor in tree))
    hierarchical.fit(tree, x, y, 2)
    assert all(torch.equal(a, b) for a, b in zip(tree, kept, strict=True))


def test_refuses():
    x, y, generator = problem()
    with pytest.raises(ValueError, match="branches and leaves must be at least 1, got 2 and 0"):
        hierarchical.start(x, y, 2, 0, generator)
    with pytest.raises(ValueError, match=r"got \(30, 3\) and \(29, 2\)"):
        hierarchical.start(x, y[1:], 2, 2, generator)
