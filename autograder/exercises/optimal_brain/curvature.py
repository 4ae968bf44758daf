"""Exercise 3.1: second derivatives, carried backwards through one hidden layer."""

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from autograder.checking.exercise import Exercise
from autograder.inside.case import call


def backward(W1, b1, W2, b2, x, y, *, bend=False):
    """LeCun's recursion; with `bend`, the f'' term is kept."""
    z = torch.tanh(x @ W1.T + b1)  # (P, hidden)
    slope = 1 - z.square()
    at_z = W2.square().sum(dim=0).expand(len(x), -1)  # (P, hidden)
    at_a = slope.square() * at_z
    if bend:
        at_a = at_a - 2 * z * slope * ((z @ W2.T + b2 - y) @ W2)
    return at_a.T @ x.square() / len(x), at_a.mean(dim=0), z.square().mean(dim=0).expand(W2.shape), torch.ones_like(b2)


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


@curvature.misconception(
    "slope not squared",
    "You multiplied with the slope f' once. That is how a first derivative passes a nonlinearity; a second one takes f' squared.",
)
def _(W1, b1, W2, b2, x, y):
    z = torch.tanh(x @ W1.T + b1)
    at_a = (1 - z.square()) * W2.square().sum(dim=0)
    return at_a.T @ x.square() / len(x), at_a.mean(dim=0), z.square().mean(dim=0).expand(W2.shape), torch.ones_like(b2)


@curvature.misconception(
    "slope forgotten", "The nonlinearity is missing: on the way from z back to a, multiply with f'(a) squared, (1 - z^2)^2."
)
def _(W1, b1, W2, b2, x, y):
    z = torch.tanh(x @ W1.T + b1)
    at_a = W2.square().sum(dim=0).expand(len(x), -1)
    return at_a.T @ x.square() / len(x), at_a.mean(dim=0), z.square().mean(dim=0).expand(W2.shape), torch.ones_like(b2)


@curvature.misconception(
    "slope at the wrong place",
    "Your slope is 1 - a^2. The derivative of tanh is 1 - tanh(a)^2: square the hidden *value* z, not the sum a.",
)
def _(W1, b1, W2, b2, x, y):
    a = x @ W1.T + b1
    at_a = (1 - a.square()).square() * W2.square().sum(dim=0)
    return at_a.T @ x.square() / len(x), at_a.mean(dim=0), a.tanh().square().mean(dim=0).expand(W2.shape), torch.ones_like(b2)


@curvature.misconception(
    "weights not squared",
    "You carried the second derivative through W2 itself. It passes a weight by the *square*: a negative weight must not turn the sign.",
)
def _(W1, b1, W2, b2, x, y):
    z = torch.tanh(x @ W1.T + b1)
    at_a = (1 - z.square()).square() * W2.sum(dim=0)
    return at_a.T @ x.square() / len(x), at_a.mean(dim=0), z.square().mean(dim=0).expand(W2.shape), torch.ones_like(b2)


@curvature.misconception(
    "inputs not squared",
    "At the end you multiplied with the input x_j (or z_j) once. The second derivative with respect to W_ij has x_j squared.",
)
def _(W1, b1, W2, b2, x, y):
    _, h_b1, _, h_b2 = backward(W1, b1, W2, b2, x, y)
    z = torch.tanh(x @ W1.T + b1)
    at_a = (1 - z.square()).square() * W2.square().sum(dim=0)
    return at_a.T @ x / len(x), h_b1, z.mean(dim=0).expand(W2.shape), h_b2


@curvature.misconception(
    "biases have none",
    "You gave the biases no curvature. A bias is a weight whose input is always 1: the output's has curvature 1, not 0.",
)
def _(W1, b1, W2, b2, x, y):
    h_W1, h_b1, h_W2, h_b2 = backward(W1, b1, W2, b2, x, y)
    return h_W1, torch.zeros_like(h_b1), h_W2, torch.zeros_like(h_b2)


@curvature.misconception(
    "half left out",
    "Your curvatures are twice too large. E is *half* the squared error, so its second derivative at an output is 1, not 2.",
)
def _(W1, b1, W2, b2, x, y):
    return tuple(2 * h for h in backward(W1, b1, W2, b2, x, y))


@curvature.misconception(
    "half a curvature",
    "Your curvatures are half of what they should be. The half of E is used up by the square: (1/2 e^2)'' = 1. The other half, that of "
    "1/2 h w^2, belongs to the saliency, which comes next.",
)
def _(W1, b1, W2, b2, x, y):
    return tuple(h / 2 for h in backward(W1, b1, W2, b2, x, y))


@curvature.misconception(
    "empirical Fisher",
    "You squared the gradients of the loss. That is the empirical Fisher: it vanishes where the network makes no error, however curved E is "
    "there.",
)
def _(W1, b1, W2, b2, x, y):
    def gradients(W1, b1, W2, b2, x, y):
        return torch.func.grad(
            lambda parameters: (output(*parameters, x) - y).square().sum() / 2,
        )((W1, b1, W2, b2))

    per_sample = vmap(gradients, in_dims=(None, None, None, None, 0, 0))(W1, b1, W2, b2, x, y)
    return tuple(gradient.square().mean(dim=0) for gradient in per_sample)


@curvature.misconception(
    "summed over samples",
    "You added the samples up. E is their mean: divide by the number of samples (for the output biases too).",
)
def _(W1, b1, W2, b2, x, y):
    return tuple(len(x) * h for h in backward(W1, b1, W2, b2, x, y))


@curvature.misconception(
    "output biases summed",
    "The curvature of the output biases grows with the number of samples: they are 1 per sample, and E takes the mean of the samples.",
)
def _(W1, b1, W2, b2, x, y):
    *others, h_b2 = backward(W1, b1, W2, b2, x, y)
    return *others, len(x) * h_b2


@curvature.misconception(
    "square of the mean",
    "You averaged over the samples first and squared afterwards. Inputs of opposite sign then cancel: square each sample, then average.",
)
def _(W1, b1, W2, b2, x, y):
    J = output_jacobians(W1, b1, W2, b2, x)
    return tuple(part.mean(dim=0).square().sum(dim=0) for part in J)


@curvature.misconception(
    "factors averaged one by one",
    "You averaged the curvatures at a and the squared inputs separately and multiplied the means. The mean of a product is not the product "
    "of the means: multiply sample by sample.",
)
def _(W1, b1, W2, b2, x, y):
    _, h_b1, h_W2, h_b2 = backward(W1, b1, W2, b2, x, y)
    return torch.outer(h_b1, x.square().mean(dim=0)), h_b1, h_W2, h_b2


@curvature.misconception(
    "square of the sum over outputs",
    "You added the outputs up before squaring (autograd of output.sum() does that): weights of opposite sign cancel. Square each output's "
    "derivative, then add.",
)
def _(W1, b1, W2, b2, x, y):
    z = torch.tanh(x @ W1.T + b1)
    at_a = (1 - z.square()).square() * W2.sum(dim=0).square()
    return at_a.T @ x.square() / len(x), at_a.mean(dim=0), z.square().mean(dim=0).expand(W2.shape), torch.ones_like(b2)


@curvature.misconception(
    "mean over the outputs",
    "You averaged over the outputs, as F.mse_loss does. Half the squared error is a *sum* over the outputs.",
)
def _(W1, b1, W2, b2, x, y):
    return tuple(h / len(b2) for h in backward(W1, b1, W2, b2, x, y))


@curvature.misconception(
    "curvature of the network kept",
    "You kept the f'' term: that is the diagonal of the exact Hessian, and some of it is negative where the network makes errors. "
    "Gauss-Newton leaves it out.",
)
def _(W1, b1, W2, b2, x, y):
    return backward(W1, b1, W2, b2, x, y, bend=True)


@curvature.misconception(
    "absolute value of the exact one",
    "You took the exact second derivatives and made them positive. Gauss-Newton is not their absolute value: it leaves the f'' term out.",
)
def _(W1, b1, W2, b2, x, y):
    return tuple(h.abs() for h in backward(W1, b1, W2, b2, x, y, bend=True))


@curvature.misconception(
    "in place",
    "You changed an argument: the curvature is computed right, but the weights or inputs that you were given are not what they were.",
)
def _(W1, b1, W2, b2, x, y):
    result = backward(W1, b1, W2, b2, x, y)
    x.square_()
    return result


def output(W1, b1, W2, b2, x):
    return W2 @ torch.tanh(W1 @ x + b1) + b2


def output_jacobians(W1, b1, W2, b2, x) -> tuple[Tensor, ...]:
    """Derivatives of each sample's outputs, (P, outputs, *parameter) each."""
    return vmap(jacrev(output, argnums=(0, 1, 2, 3)), in_dims=(None, None, None, None, 0))(W1, b1, W2, b2, x)


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
