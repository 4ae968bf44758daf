"""Exercise 3.3: the gradient of the output, sample by sample."""

import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from autograder.checking.exercise import Exercise
from autograder.inside.case import call
from autograder.inside.recipes import MLP, Module


def rows(model, x, parameters=None):
    """(P, d) by a backward pass per sample."""
    parameters = list(model.parameters()) if parameters is None else parameters
    found = [torch.autograd.grad(model(sample[None]).squeeze(), parameters) for sample in x]
    return torch.stack([torch.cat([gradient.flatten() for gradient in gradients]) for gradients in found])


def output_gradients(model, x):
    return rows(model, x)


gradients = Exercise(
    "optimal_brain.gradients",
    defines="output_gradients",
    title="A gradient for every sample",
    minutes=10,
    difficulty=1,
    hints=(
        "`backward()` adds the samples up, which is what must not happen. Take one sample at a time: its output is one "
        "number and has one gradient.",
        "`torch.autograd.grad(output, parameters)` returns the gradients as a tuple, and leaves the parameters' `.grad` "
        "alone. Feed the model one row, but as a batch of one: `x[k : k + 1]`, not `x[k]`.",
        "For each k: `torch.autograd.grad(model(x[k : k + 1]).squeeze(), parameters)` with `parameters = "
        "list(model.parameters())`. `torch.cat` of the flattened gradients is row k, and `torch.stack` makes a matrix of "
        "the rows.",
    ),
    reference=output_gradients,
    leaves_open=((0, "gradients"),),  # backward() and .grad are one way
)


def network(g: torch.Generator, *sizes: int, dtype=torch.float32) -> MLP:
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))  # (out, in)
    weights = tuple((torch.randn(shape, generator=g) * 1.5 / shape[1] ** 0.5).to(dtype) for shape in shapes)
    return MLP(weights, tuple((torch.randn(out, generator=g) * 0.5).to(dtype) for out, _ in shapes))


@gradients.stage(
    "differentiates the output with respect to all parameters",
    points=1,
    exposes="One sample gives one row: the gradient of the output with respect to every weight and every bias, in the order of "
    "model.parameters().",
)
def _(g):
    yield call(network(g, 4, 1), torch.randn(1, 4, generator=g))
    yield call(network(g, 3, 5, 1), torch.randn(1, 3, generator=g))
    yield call(network(g, 3, 5, 1), torch.randn(1, 3, generator=g))
    yield call(network(g, 1, 1), torch.randn(1, 1, generator=g))


@gradients.stage(
    "keeps the samples apart",
    points=1,
    exposes="Row k is the gradient of sample k's output alone: not the sum, not the mean, and nothing of the samples before it.",
)
def _(g):
    yield call(network(g, 5, 4, 1), torch.randn(6, 5, generator=g))
    yield call(network(g, 2, 7, 3, 1, dtype=torch.float64), torch.randn(9, 2, generator=g).double())
    yield call(network(g, 3, 2, 1), torch.randn(70, 3, generator=g))


@gradients.stage(
    "works for any module, and leaves no trace",
    points=1,
    exposes="The parameters are those of model.parameters(), at any depth and of any layer; two calls in a row give the same, and the model "
    "and the inputs stay as they were.",
    pure=True,
)
def _(g):
    norm = Module("LayerNorm", (4,), {"weight": torch.rand(4, generator=g) + 0.5, "bias": torch.randn(4, generator=g)})
    nested = Module("Sequential", (network(g, 3, 4), Module("Sequential", (norm, Module("Tanh"), network(g, 4, 1)))))
    yield call(nested, torch.randn(5, 3, generator=g), times=2)
    first, last = network(g, 6, 3), network(g, 3, 1)
    yield call(
        Module("Sequential", (first, Module("Sigmoid"), last, Module("Sigmoid"))), torch.randn(4, 6, generator=g), times=3
    )
    kernels = {"weight": torch.randn(3, 1, 2, generator=g), "bias": torch.randn(3, generator=g)}
    rest = (Module("Tanh"), Module("Flatten"), network(g, 12, 1))
    yield call(
        Module("Sequential", (Module("Unflatten", (1, (1, 5))), Module("Conv1d", (1, 3, 2), kernels), *rest)),
        torch.randn(6, 5, generator=g),
    )
    bare = Module("Linear", (4, 1, False), {"weight": torch.randn(1, 4, generator=g).double()})
    yield call(bare, 1e-50 * torch.randn(3, 4, generator=g).double())


@gradients.misconception(
    "one gradient of the mean",
    "You differentiated the mean output once. The outer product of a mean gradient is not the mean of the outer products: it has rank 1.",
)
def _(model, x):
    return rows(model, x).mean(dim=0, keepdim=True)


@gradients.misconception(
    "one gradient of the sum",
    "You called backward on the sum of all outputs, so all samples are added up in one gradient. Go sample by sample.",
)
def _(model, x):
    return rows(model, x).sum(dim=0, keepdim=True)


@gradients.misconception(
    "the same row again and again",
    "Every row holds the gradient summed over all samples: differentiate the output of x[k:k+1] alone.",
)
def _(model, x):
    return rows(model, x).sum(dim=0).expand(len(x), -1)


@gradients.misconception(
    "the mean in every row",
    "Every row holds the gradient averaged over all samples: differentiate the output of x[k:k+1] alone.",
)
def _(model, x):
    return rows(model, x).mean(dim=0).expand(len(x), -1)


@gradients.misconception(
    "accumulated",
    "backward() adds to .grad, so each row holds the samples before it too. Set the gradients to zero each time, or use "
    "torch.autograd.grad.",
)
def _(model, x):
    found = []
    for sample in x:
        model(sample[None]).squeeze().backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    return torch.stack(found)


@gradients.misconception(
    "left in .grad",
    "The first call is right, the second starts with what the first has left in .grad: clear it *before* each backward(), or use "
    "torch.autograd.grad.",
)
def _(model, x):
    found = []
    for sample in x:
        model(sample[None]).squeeze().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        found.append(gradient)
        if sample is not x[-1] and len(found) < len(x):
            model.zero_grad()
    return torch.stack(found)


@gradients.misconception(
    "weights only", "The biases are missing. They are parameters like all others, and both papers prune them."
)
def _(model, x):
    return rows(model, x, [parameter for parameter in model.parameters() if parameter.ndim == 2])


@gradients.misconception(
    "top level only",
    "You look at the model's direct children only. `model.parameters()` finds the parameters at any depth.",
)
def _(model, x):
    parts = list(model.children())
    return rows(model, x, [p for part in parts for p in part.parameters(recurse=False)])


@gradients.misconception(
    "linear layers only",
    "You collect the parameters of nn.Linear only. A norm has some too: take model.parameters().",
)
def _(model, x):
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return rows(model, x, [p for module in linear for p in module.parameters()])


@gradients.misconception(
    "matrices and vectors only",
    "You leave out parameters that are neither matrices nor vectors, such as the kernels of a convolution: take all of model.parameters().",
)
def _(model, x):
    return rows(model, x, [parameter for parameter in model.parameters() if parameter.ndim < 3])


@gradients.misconception(
    "of the parts only",
    "You collect the parameters of the model's parts. A model may be a single layer, which has no parts: take model.parameters().",
)
def _(model, x):
    return rows(model, x, [parameter for part in model.children() for parameter in part.parameters()])


@gradients.misconception(
    "biases last",
    "You put all weights first and all biases last. Row positions follow model.parameters(): each layer's weight, then its bias.",
)
def _(model, x):
    return rows(model, x, sorted(model.parameters(), key=lambda parameter: parameter.ndim == 1))


@gradients.misconception(
    "biases first",
    "You put a layer's bias before its weight. Row positions follow model.parameters(): each layer's weight, then its bias.",
)
def _(model, x):
    return rows(model, x, [p for m in model.modules() for p in reversed(list(m.parameters(recurse=False)))])


@gradients.misconception(
    "last layer first", "Your layers come in backward order. Row positions follow model.parameters(), first layer first."
)
def _(model, x):
    return rows(model, x, list(model.parameters())[::-1])


@gradients.misconception(
    "flattened by columns",
    "You flattened the transposed weights. A position in the row is W.flatten()'s: the entries of W's first row come first.",
)
def _(model, x):
    found = [torch.autograd.grad(model(sample[None]).squeeze(), list(model.parameters())) for sample in x]
    return torch.stack([torch.cat([gradient.t().flatten() for gradient in gradients]) for gradients in found])


@gradients.misconception(
    "with respect to the inputs",
    "You differentiated with respect to x. Pruning asks how the output depends on the *parameters*.",
)
def _(model, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).sum(), x)[0]


@gradients.misconception("transposed", "You return (d, P). Samples are rows, parameters columns.")
def _(model, x):
    return rows(model, x).T


@gradients.misconception("divided by P", "You divided by the number of samples. The mean comes later, in the Hessian.")
def _(model, x):
    return rows(model, x) / len(x)


@gradients.misconception(
    "gradient of the loss",
    "You differentiated half the squared output, a loss, not the output: its gradient is the output times what is asked for.",
)
def _(model, x):
    return rows(model, x) * model(x)


@gradients.misconception("squared", "You squared the gradients. OBS needs their outer products, so keep them as they are.")
def _(model, x):
    return rows(model, x).square()


@gradients.accepts("torch.func")
def _(model, x):
    parameters = dict(model.named_parameters())

    def value(parameters, sample):
        return functional_call(model, parameters, (sample.unsqueeze(0),)).squeeze()

    J = vmap(jacrev(value), in_dims=(None, 0))(parameters, x)
    return torch.cat([J[name].reshape(len(x), -1) for name in parameters], dim=1)


@gradients.accepts("backward and .grad")
def _(model, x):
    G = torch.zeros(len(x), sum(p.numel() for p in model.parameters()), dtype=x.dtype)
    for k in range(len(x)):
        model.zero_grad()
        model(x[k : k + 1])[0, 0].backward()
        start = 0
        for p in model.parameters():
            G[k, start : start + p.numel()] = p.grad.reshape(-1)
            start += p.numel()
    return G


@gradients.accepts("one forward pass, numpy at the end")
def _(model, x):
    outputs = model(x)
    found = []
    for k in range(len(x)):
        gradients = torch.autograd.grad(outputs[k, 0], model.parameters(), retain_graph=True)
        found.append(torch.nn.utils.parameters_to_vector(gradients).numpy())
    return torch.tensor(found) if len(found) == 0 else torch.stack([torch.from_numpy(row) for row in found])
