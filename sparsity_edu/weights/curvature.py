"""The curvature of a loss, as Optimal Brain Damage and Optimal Brain Surgeon need it: which second derivative is meant?

E is the mean over samples of a loss of one output and one target, w the vector of all parameters. There are four answers to
"the diagonal of the Hessian", and they differ:

    exact           d2E/dw_q^2                            may be negative
    gauss-newton    1/P sum_k |L_k^T dO_k/dw_q|^2         the curvature of the network itself left out; never negative
    lecun           layer by layer, backwards             Gauss-Newton without mixed derivatives; what OBD's paper computes
    fisher          1/P sum_k (dE_k/dw_q)^2               first derivatives only; near zero where the errors are

LeCun, Denker and Solla 1990, "Optimal brain damage"; Hassibi and Stork 1993, "Optimal brain surgeon".
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn.utils import parameters_to_vector

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs,), target -> scalar


def half_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """1/2 |o - t|^2 of one sample, the loss of both papers.

    Args:
        output: (outputs,) o.
        target: (outputs,) t.

    Returns:
        A scalar.
    """
    return (output - target).square().sum() / 2


def gradients(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """The gradient of each sample's loss; the empirical Fisher is the mean of their outer products.

    Args:
        model: any module.
        x: (P, ...) inputs.
        y: (P, ...) targets.
        loss: of one sample.

    Returns:
        (P, d), d = all parameters in the model's order.
    """
    value, w = _as_function(model)
    return vmap(grad(lambda w, x, y: loss(value(w, x), y)), in_dims=(None, 0, 0))(w, x, y)


def gauss_newton_vectors(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Vectors g whose outer products make up the generalised Gauss-Newton matrix, H = 1/P sum g g^T.

    With J the Jacobian of a sample's outputs and L L^T the Hessian of its loss in these outputs, they are the columns of J^T L.
    For `half_squared_error` L is the identity, and the vectors are the gradients of the outputs: Hassibi and Stork's choice.
    What is missing from the true Hessian is the curvature of the network itself, weighted by the errors it makes.

    Args:
        model, x, y: see `gradients`.
        loss: of one sample, convex in the output.

    Returns:
        (P * outputs, d), the vectors of a sample side by side.
    """
    value, w = _as_function(model)
    J = vmap(jacrev(value), in_dims=(None, 0))(w, x)  # (P, outputs, d)
    outputs = vmap(value, in_dims=(None, 0))(w, x)  # (P, outputs)
    curvature, directions = torch.linalg.eigh(vmap(hessian(loss))(outputs, y))  # (P, outputs), (P, outputs, outputs)
    L = directions * curvature.clamp(min=0).sqrt()[:, None, :]
    return (L.mT @ J).flatten(0, 1)


def exact_diagonal(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """The diagonal of the true Hessian of the mean loss.

    It may be negative: away from a minimum a third to two thirds of the entries are, and a negative saliency means nothing.

    Args:
        model, x, y, loss: see `gradients`.

    Returns:
        (d,).
    """
    value, w = _as_function(model)

    def mean_loss(w: Tensor) -> Tensor:
        return vmap(loss)(vmap(value, in_dims=(None, 0))(w, x), y).mean()

    def curvature_along(direction: Tensor) -> Tensor:
        return jvp(grad(mean_loss), (w,), (direction,))[1] @ direction

    return vmap(curvature_along, chunk_size=64)(torch.eye(len(w), dtype=w.dtype, device=w.device))


def gauss_newton_diagonal(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """The diagonal of the generalised Gauss-Newton matrix, never negative.

    Args:
        model, x, y, loss: see `gauss_newton_vectors`.

    Returns:
        (d,).
    """
    return gauss_newton_vectors(model, x, y, loss).square().sum(dim=0) / len(x)


def fisher_diagonal(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """The diagonal of the empirical Fisher: the mean of the squared gradients (not the square of the mean gradient).

    Args:
        model, x, y, loss: see `gradients`.

    Returns:
        (d,).
    """
    return gradients(model, x, y, loss).square().mean(dim=0)


def backward_diagonal(model: nn.Sequential, x: Tensor, y: Tensor, loss: Loss, *, levenberg_marquardt: bool = True) -> Tensor:
    """LeCun's recursion: second derivatives carried back through the layers, as backpropagation carries first ones.

        at a linear layer a = W x + b      d2E/dW_ij^2 = d2E/da_i^2 x_j^2       d2E/dx_j^2 = sum_i W_ij^2 d2E/da_i^2
        at a nonlinearity x = f(a)         d2E/da_i^2  = f'(a_i)^2 d2E/dx_i^2 + f''(a_i) dE/dx_i

    It drops all mixed derivatives on its way. For one hidden layer and half the squared error nothing is lost by that: it is
    the Gauss-Newton diagonal, and with the last term (levenberg_marquardt=False) the exact one. For two hidden layers, or the
    cross-entropy, it is neither.

    Args:
        model: `nn.Sequential` of linear layers and elementwise nonlinearities.
        x: (P, inputs).
        y: (P, ...) targets.
        loss: of one sample.
        levenberg_marquardt: leave out f''; nothing is then negative.

    Returns:
        (d,).

    Raises:
        ValueError: the model is no such sequence.

    Source: LeCun et al. 1990, eq. 8 to 10. Their (8) sums over the samples; here, as everywhere in this module, it is the mean.
    """
    if not isinstance(model, nn.Sequential) or not isinstance(model[-1], nn.Linear):
        raise ValueError("model must be an nn.Sequential of linear layers and nonlinearities that ends with a linear layer")
    values = [x]  # what each layer reads, and the output
    with torch.no_grad():
        for layer in model:
            values.append(layer(values[-1]))
    first = vmap(grad(loss))(values[-1], y)  # (P, outputs): dE/do
    second = vmap(hessian(loss))(values[-1], y).diagonal(dim1=1, dim2=2)  # (P, outputs): d2E/do^2
    found: list[Tensor] = []
    for layer, a in zip(reversed(model), reversed(values[:-1]), strict=True):
        if isinstance(layer, nn.Linear):
            W = layer.weight.detach()
            bias = [] if layer.bias is None else [second.mean(dim=0)]
            found = [(second.T @ a.square() / len(x)).flatten(), *bias, *found]
            first, second = first @ W, second @ W.square()
        else:
            slope = vmap(vmap(grad(layer)))  # of an elementwise function
            bend = vmap(vmap(grad(grad(layer))))
            second = slope(a).square() * second + (0 if levenberg_marquardt else bend(a) * first)
            first = slope(a) * first
    return torch.cat(found)


DIAGONALS = {
    "lecun": backward_diagonal,
    "exact": exact_diagonal,
    "gauss-newton": gauss_newton_diagonal,
    "fisher": fisher_diagonal,
}


def _as_function(model: nn.Module) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """The model as a function of the vector of its parameters and one input, and that vector."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]

    def value(w: Tensor, x: Tensor) -> Tensor:
        parts = w.split([shape.numel() for shape in shapes])
        state = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return functional_call(model, state, (x[None],))[0]

    return value, parameters_to_vector(model.parameters()).detach()
