"""Exercise 3.1: second derivatives, carried backwards through one hidden layer."""

import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.optimal_brain.curvature_mistakes import backward, mistakes, output, output_jacobians
from autograder.inside.case import call


def curvature_diagonal(W1, b1, W2, b2, x, y):
    return backward(W1, b1, W2, b2, x, y)


curvature = Exercise(
    "optimal_brain.curvature",
    defines="curvature_diagonal",
    title="Second derivatives, carried backwards",
    minutes=15,
    difficulty=2,
    hints=(
        "It goes like backpropagation, from the output to the input, with one change: what a first derivative is "
        "multiplied with, a second derivative is multiplied with the *square* of. It starts with 1 at every output, the "
        "second derivative of 1/2 (o - y)^2. The targets are not needed.",
        "Forward: `z = torch.tanh(x @ W1.T + b1)`, whose slope is 1 - z^2. Backward, one tensor (samples, units) for each "
        "arrow: at the outputs; at the hidden values, through the squares of `W2`; at the hidden sums, times the slope "
        "squared. A weight's curvature is that of the sum which it feeds, times its input squared, averaged over the "
        "samples.",
        "`at_o` is ones (P, outputs), `at_z = at_o @ W2.square()`, `at_a = (1 - z.square()).square() * at_z`. For the "
        "first layer `at_a.T @ x.square() / P` belongs to the weights, and `at_a.mean(dim=0)` to the biases. The second "
        "layer is the same with `at_o` and `z`. Mind the dtype of the ones.",
    ),
    reference=curvature_diagonal,
    misconceptions=mistakes,
)


def network_case(
    g: torch.Generator, P: int, inputs: int, hidden: int, outputs: int, errors: float, dtype=torch.float64, size=1.0, shift=0.0
):
    """Inputs of this size that grow from sample to sample, and what all sums a are shifted by.

    `errors` is how far the targets are from what the network says.
    """
    W1, W2 = torch.randn(hidden, inputs, generator=g) / inputs**0.5, torch.randn(outputs, hidden, generator=g)
    b1, b2 = 0.5 * torch.randn(hidden, generator=g), 0.5 * torch.randn(outputs, generator=g)
    x = torch.randn(P, inputs, generator=g) * torch.linspace(0.5, 2, P)[:, None] + 0.3
    x, b1 = size * x.double(), b1 + shift
    y = torch.tanh(x.float() @ W1.T + b1) @ W2.T + b2 + errors * (1 + torch.rand(P, outputs, generator=g))
    return call(*(value.to(dtype) for value in (W1, b1, W2, b2, x, y)))


@curvature.stage(
    "carries second derivatives back for one sample and one output",
    points=2,
    exposes="Whatever a first derivative is multiplied with on its way back, a second derivative is multiplied with its square: the "
    "weight, the slope 1 - z^2, and at last the input.",
)
def _(g):
    yield network_case(g, 1, 2, 3, 1, errors=0)
    yield network_case(g, 1, 5, 4, 1, errors=0)
    yield network_case(g, 1, 5, 4, 1, errors=0)
    yield network_case(g, 1, 1, 1, 1, errors=0)


@curvature.stage(
    "averages over the samples",
    points=1,
    exposes="E is a mean over the samples, so its second derivatives are means of each sample's: square first, then average.",
)
def _(g):
    yield network_case(g, 3, 4, 2, 1, errors=0)
    yield network_case(g, 17, 6, 5, 1, errors=0)
    yield network_case(g, 1100, 2, 3, 1, errors=0)
    yield network_case(g, 6, 3, 4, 1, errors=0, size=1e-25)  # squared it is nothing in float32
    yield network_case(g, 5, 2, 1, 1, errors=0, size=0.3, shift=8.0)  # slopes near 1e-6


@curvature.stage(
    "adds up several outputs",
    points=1,
    exposes="Half the squared error is a sum over the outputs: each has curvature 1, and a hidden value collects the squared weights "
    "to all of them.",
)
def _(g):
    yield network_case(g, 4, 3, 5, 2, errors=0)
    yield network_case(g, 11, 3, 2, 4, errors=0, dtype=torch.float32)
    yield network_case(g, 3, 5, 150, 2, errors=0, dtype=torch.float32)


@curvature.stage(
    "leaves out the curvature of the network itself",
    points=1,
    exposes="Now the network makes errors. The Gauss-Newton curvature does not depend on them: the targets do not enter, there is no f'', "
    "and nothing is negative.",
    pure=True,
)
def _(g):
    yield network_case(g, 9, 4, 6, 1, errors=2)
    yield network_case(g, 8, 5, 3, 2, errors=-3)


@curvature.accepts("squared Jacobians by torch.func")
def _(W1, b1, W2, b2, x, y):
    return tuple(J.square().sum(dim=(0, 1)) / len(x) for J in output_jacobians(W1, b1, W2, b2, x))


@curvature.accepts("a backward pass per sample and output")
def _(W1, b1, W2, b2, x, y):
    parameters = [value.clone().requires_grad_() for value in (W1, b1, W2, b2)]
    found = [torch.zeros_like(parameter) for parameter in parameters]
    for sample in x:
        for o in output(*parameters, sample):
            for h, gradient in zip(found, torch.autograd.grad(o, parameters, retain_graph=True), strict=True):
                h += gradient**2 / len(x)
    return found


@curvature.accepts("numpy, loops over the weights")
def _(W1, b1, W2, b2, x, y):
    w1, w2, inputs = W1.numpy(), W2.numpy(), x.numpy()
    h_W1, h_b1, h_W2 = torch.zeros_like(W1), torch.zeros_like(b1), torch.zeros_like(W2)
    for sample in inputs:
        z = torch.from_numpy(w1 @ sample + b1.numpy()).tanh().numpy()
        for j in range(len(z)):
            bent = (1 - z[j] ** 2) ** 2 * (w2[:, j] ** 2).sum() / len(x)
            h_b1[j] += bent
            h_W2[:, j] += z[j] ** 2 / len(x)
            for i in range(len(sample)):
                h_W1[j, i] += bent * sample[i] ** 2
    return [h_W1, h_b1, h_W2, b2 * 0 + 1]
