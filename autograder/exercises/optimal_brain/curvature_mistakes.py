"""Mistakes of exercise 3.1, and the parts that they vary."""

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from autograder.checking.exercise import Mistakes


def backward(W1, b1, W2, b2, x, y, *, bend=False):
    """LeCun's recursion; with `bend`, the f'' term is kept."""
    z = torch.tanh(x @ W1.T + b1)  # (P, hidden)
    slope = 1 - z.square()
    at_z = W2.square().sum(dim=0).expand(len(x), -1)  # (P, hidden)
    at_a = slope.square() * at_z
    if bend:
        at_a = at_a - 2 * z * slope * ((z @ W2.T + b2 - y) @ W2)
    return at_a.T @ x.square() / len(x), at_a.mean(dim=0), z.square().mean(dim=0).expand(W2.shape), torch.ones_like(b2)


mistakes = Mistakes()


@mistakes(
    "slope not squared",
    "You multiplied with the slope f' once. That is how a first derivative passes a nonlinearity; a second one takes f' squared.",
)
def _(W1, b1, W2, b2, x, y):
    z = torch.tanh(x @ W1.T + b1)
    at_a = (1 - z.square()) * W2.square().sum(dim=0)
    return at_a.T @ x.square() / len(x), at_a.mean(dim=0), z.square().mean(dim=0).expand(W2.shape), torch.ones_like(b2)


@mistakes(
    "slope forgotten", "The nonlinearity is missing: on the way from z back to a, multiply with f'(a) squared, (1 - z^2)^2."
)
def _(W1, b1, W2, b2, x, y):
    z = torch.tanh(x @ W1.T + b1)
    at_a = W2.square().sum(dim=0).expand(len(x), -1)
    return at_a.T @ x.square() / len(x), at_a.mean(dim=0), z.square().mean(dim=0).expand(W2.shape), torch.ones_like(b2)


@mistakes(
    "slope at the wrong place",
    "Your slope is 1 - a^2. The derivative of tanh is 1 - tanh(a)^2: square the hidden *value* z, not the sum a.",
)
def _(W1, b1, W2, b2, x, y):
    a = x @ W1.T + b1
    at_a = (1 - a.square()).square() * W2.square().sum(dim=0)
    return at_a.T @ x.square() / len(x), at_a.mean(dim=0), a.tanh().square().mean(dim=0).expand(W2.shape), torch.ones_like(b2)


@mistakes(
    "weights not squared",
    "You carried the second derivative through W2 itself. It passes a weight by the *square*: a negative weight must not turn the sign.",
)
def _(W1, b1, W2, b2, x, y):
    z = torch.tanh(x @ W1.T + b1)
    at_a = (1 - z.square()).square() * W2.sum(dim=0)
    return at_a.T @ x.square() / len(x), at_a.mean(dim=0), z.square().mean(dim=0).expand(W2.shape), torch.ones_like(b2)


@mistakes(
    "inputs not squared",
    "At the end you multiplied with the input x_j (or z_j) once. The second derivative with respect to W_ij has x_j squared.",
)
def _(W1, b1, W2, b2, x, y):
    _, h_b1, _, h_b2 = backward(W1, b1, W2, b2, x, y)
    z = torch.tanh(x @ W1.T + b1)
    at_a = (1 - z.square()).square() * W2.square().sum(dim=0)
    return at_a.T @ x / len(x), h_b1, z.mean(dim=0).expand(W2.shape), h_b2


@mistakes(
    "biases have none",
    "You gave the biases no curvature. A bias is a weight whose input is always 1: the output's has curvature 1, not 0.",
)
def _(W1, b1, W2, b2, x, y):
    h_W1, h_b1, h_W2, h_b2 = backward(W1, b1, W2, b2, x, y)
    return h_W1, torch.zeros_like(h_b1), h_W2, torch.zeros_like(h_b2)


@mistakes(
    "half left out",
    "Your curvatures are twice too large. E is *half* the squared error, so its second derivative at an output is 1, not 2.",
)
def _(W1, b1, W2, b2, x, y):
    return tuple(2 * h for h in backward(W1, b1, W2, b2, x, y))


@mistakes(
    "half a curvature",
    "Your curvatures are half of what they should be. The half of E is used up by the square: (1/2 e^2)'' = 1. The other half, that of "
    "1/2 h w^2, belongs to the saliency, which comes next.",
)
def _(W1, b1, W2, b2, x, y):
    return tuple(h / 2 for h in backward(W1, b1, W2, b2, x, y))


@mistakes(
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


@mistakes(
    "summed over samples",
    "You added the samples up. E is their mean: divide by the number of samples (for the output biases too).",
)
def _(W1, b1, W2, b2, x, y):
    return tuple(len(x) * h for h in backward(W1, b1, W2, b2, x, y))


@mistakes(
    "output biases summed",
    "The curvature of the output biases grows with the number of samples: they are 1 per sample, and E takes the mean of the samples.",
)
def _(W1, b1, W2, b2, x, y):
    *others, h_b2 = backward(W1, b1, W2, b2, x, y)
    return *others, len(x) * h_b2


@mistakes(
    "square of the mean",
    "You averaged over the samples first and squared afterwards. Inputs of opposite sign then cancel: square each sample, then average.",
)
def _(W1, b1, W2, b2, x, y):
    J = output_jacobians(W1, b1, W2, b2, x)
    return tuple(part.mean(dim=0).square().sum(dim=0) for part in J)


@mistakes(
    "factors averaged one by one",
    "You averaged the curvatures at a and the squared inputs separately and multiplied the means. The mean of a product is not the product "
    "of the means: multiply sample by sample.",
)
def _(W1, b1, W2, b2, x, y):
    _, h_b1, h_W2, h_b2 = backward(W1, b1, W2, b2, x, y)
    return torch.outer(h_b1, x.square().mean(dim=0)), h_b1, h_W2, h_b2


@mistakes(
    "square of the sum over outputs",
    "You added the outputs up before squaring (autograd of output.sum() does that): weights of opposite sign cancel. Square each output's "
    "derivative, then add.",
)
def _(W1, b1, W2, b2, x, y):
    z = torch.tanh(x @ W1.T + b1)
    at_a = (1 - z.square()).square() * W2.sum(dim=0).square()
    return at_a.T @ x.square() / len(x), at_a.mean(dim=0), z.square().mean(dim=0).expand(W2.shape), torch.ones_like(b2)


@mistakes(
    "mean over the outputs",
    "You averaged over the outputs, as F.mse_loss does. Half the squared error is a *sum* over the outputs.",
)
def _(W1, b1, W2, b2, x, y):
    return tuple(h / len(b2) for h in backward(W1, b1, W2, b2, x, y))


@mistakes(
    "curvature of the network kept",
    "You kept the f'' term: that is the diagonal of the exact Hessian, and some of it is negative where the network makes errors. "
    "Gauss-Newton leaves it out.",
)
def _(W1, b1, W2, b2, x, y):
    return backward(W1, b1, W2, b2, x, y, bend=True)


@mistakes(
    "absolute value of the exact one",
    "You took the exact second derivatives and made them positive. Gauss-Newton is not their absolute value: it leaves the f'' term out.",
)
def _(W1, b1, W2, b2, x, y):
    return tuple(h.abs() for h in backward(W1, b1, W2, b2, x, y, bend=True))


@mistakes(
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
