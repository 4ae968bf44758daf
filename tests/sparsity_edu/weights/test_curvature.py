"""The four diagonals against the full Hessian by automatic differentiation, and where they coincide."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parameters_to_vector

from sparsity_edu.weights import curvature


def problem(hidden: tuple[int, ...], loss: str, activation=nn.Tanh):
    torch.manual_seed(0)
    sizes = [5, *hidden, 3]
    layers = [part for i, o in itertools.pairwise(sizes) for part in (nn.Linear(i, o), activation())]
    model = nn.Sequential(*layers[:-1]).double()
    x = torch.randn(20, 5).double()
    if loss == "squares":
        return model, x, torch.randn(20, 3).double(), curvature.half_squared_error
    return model, x, torch.randint(3, (20,)), F.cross_entropy


def full_hessian(model, x, y, loss):
    """Of the mean loss, row by row with plain autograd."""
    parameters = list(model.parameters())
    outputs = model(x)
    mean = (outputs - y).square().sum() / 2 / len(x) if y.is_floating_point() else F.cross_entropy(outputs, y)
    first = torch.cat([g.flatten() for g in torch.autograd.grad(mean, parameters, create_graph=True)])
    rows = [torch.autograd.grad(g, parameters, retain_graph=True, materialize_grads=True) for g in first]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


PROBLEMS = [((4,), "squares"), ((4,), "entropy"), ((4, 6), "squares"), ((4, 6), "entropy")]


@pytest.mark.parametrize(("hidden", "loss"), PROBLEMS)
def test_exact_is_the_diagonal_of_the_hessian(hidden, loss):
    made = problem(hidden, loss)
    exact = curvature.exact_diagonal(*made)
    torch.testing.assert_close(exact, full_hessian(*made).diagonal())
    assert (exact < 0).any()


@pytest.mark.parametrize(("hidden", "loss"), PROBLEMS)
def test_gauss_newton_is_the_hessian_of_the_network_made_linear(hidden, loss):
    model, x, y, function = problem(hidden, loss)
    g = curvature.gauss_newton_vectors(model, x, y, function)
    J = torch.stack([torch.cat([p.flatten() for p in torch.autograd.grad(o, model.parameters(), retain_graph=True)])
                     for o in model(x).flatten()]).view(20, 3, -1)  # fmt: skip
    if loss == "squares":
        inner = torch.eye(3).double().expand(20, 3, 3)
    else:
        p = model(x).softmax(dim=1)
        inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(g.T @ g / 20, torch.einsum("kad,kab,kbe->de", J, inner, J) / 20)
    torch.testing.assert_close(curvature.gauss_newton_diagonal(model, x, y, function), (g.T @ g / 20).diagonal())


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.ReLU, nn.GELU])
def test_lecun_is_exact_for_one_hidden_layer_and_squares(activation):
    model, x, y, loss = problem((4,), "squares", activation)
    lm = curvature.backward_diagonal(model, x, y, loss)
    torch.testing.assert_close(lm, curvature.gauss_newton_diagonal(model, x, y, loss))
    full = curvature.backward_diagonal(model, x, y, loss, levenberg_marquardt=False)
    torch.testing.assert_close(full, curvature.exact_diagonal(model, x, y, loss))


@pytest.mark.parametrize(("hidden", "loss"), PROBLEMS[1:])
def test_lecun_is_neither_elsewhere_but_in_the_last_layer(hidden, loss):
    model, x, y, function = problem(hidden, loss)
    lm, ggn = curvature.backward_diagonal(model, x, y, function), curvature.gauss_newton_diagonal(model, x, y, function)
    last = 3 * hidden[-1] + 3
    torch.testing.assert_close(lm[-last:], ggn[-last:])
    assert ((lm - ggn).abs() / ggn)[:-last].max() > 0.05
    assert (lm >= 0).all()


def test_fisher_squares_each_samples_gradient_not_their_mean():
    model, x, y, loss = problem((4,), "entropy")
    squares = 0
    for x_k, y_k in zip(x, y, strict=True):
        gradient = torch.autograd.grad(F.cross_entropy(model(x_k), y_k), model.parameters())
        squares = squares + torch.cat([g.flatten() for g in gradient]) ** 2 / 20
    torch.testing.assert_close(curvature.fisher_diagonal(model, x, y, loss), squares)


def test_a_layer_without_bias_and_shared_modules_in_order():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(9, 3).double(), torch.randn(9, 2).double()
    lm = curvature.backward_diagonal(model, x, y, curvature.half_squared_error)
    assert lm.shape == parameters_to_vector(model.parameters()).shape
    torch.testing.assert_close(lm, curvature.gauss_newton_diagonal(model, x, y, curvature.half_squared_error))


def test_the_recursion_needs_a_sequence():
    with pytest.raises(ValueError, match="ends with a linear layer"):
        curvature.backward_diagonal(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), torch.ones(1, 2), torch.ones(1, 2), None)
