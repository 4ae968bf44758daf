"""Exercise 2.4: train on without losing the zeros."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.magnitude.fixtures import inside, linear, random_mlp
from autograder.exercises.magnitude.masked_step_mistakes import mask_gradients, masked_step_, mistakes
from autograder.inside.case import call
from autograder.inside.recipes import MLP, Module, Optimizer
from sparsity_edu.weights import magnitude

masked_step = Exercise(
    "magnitude.masked_step",
    defines="masked_step_",
    title="Train on without losing the zeros",
    minutes=15,
    difficulty=2,
    hints=(
        "Make an ordinary training step, and repair afterwards what it did to pruned weights. Whatever moved them, "
        "momentum or weight decay, they are zero again.",
        "The ordinary step has four lines: `zero_grad`, the loss, `backward`, `step`. The repair comes after `step`, in "
        "place and under `torch.no_grad()`. (Do not replace a weight by a new tensor: the optimiser would go on training "
        "the old one.)",
        "For each `name, mask` in `masks.items()`: `model.get_submodule(name).weight.masked_fill_(~mask, 0)`. The loss to "
        "return is that from before the step, as a number: `loss.item()`.",
    ),
    reference=masked_step_,
    misconceptions=mistakes,
    rules=Rules(tolerance=1e-5, exact_zeros=True),
    leaves_open=((0, "modules in evaluation mode"),),  # many begin a step with model.train()
    forbids=("torch.nn.utils.prune",),
)


def step_case(g: torch.Generator, kind: str, zeros=0.5, blanks=0, names=("0", "2"), wrap=lambda mlp: mlp, times=1, **options):
    """`names` are those of the two layers, None for one without a mask; in each, `blanks` kept weights are zero."""
    mlp = random_mlp(g, 6, 5, 4)
    masks = {name: torch.rand(W.shape, generator=g) >= zeros for name, W in zip(names, mlp.weights, strict=True)}
    weights = tuple(W * masks[name] if name else W for name, W in zip(names, mlp.weights, strict=True))
    for W, name in zip(weights, names, strict=True):
        W[tuple(masks[name].nonzero()[:blanks].T)] = 0
    masks.pop(None, None)
    optimizer = Optimizer(kind, of=0, options=options, warm_steps=3, warm_gradient=0.3)
    x, y = torch.randn(7, 6, generator=g), torch.randint(4, (7,), generator=g)
    return call(wrap(MLP(weights, mlp.biases)), masks, optimizer, x, y, changes=(0,), times=times)


@masked_step.stage(
    "makes a training step on the cross-entropy and returns the loss",
    points=1,
    exposes="zero_grad, loss = F.cross_entropy(model(x), y), backward, step, and `return loss.item()`.",
)
def _(g):
    yield step_case(g, "SGD", zeros=0.0, lr=0.1)
    yield step_case(g, "Adam", zeros=0.0, lr=0.01)


@masked_step.stage(
    "keeps pruned weights at zero with plain SGD",
    points=1,
    exposes="The gradient of a pruned weight is not zero: a plain step revives it.",
)
def _(g):
    yield step_case(g, "SGD", lr=0.1)
    yield step_case(g, "SGD", zeros=0.8, lr=0.5)
    yield step_case(g, "SGD", lr=20.0)  # revived, they are larger than many that were kept


@masked_step.stage(
    "keeps them with any optimiser",
    points=1,
    exposes="Momentum and Adam's moments from before pruning move a weight even where its gradient is zero: set the weights back to "
    "zero after the step.",
)
def _(g):
    yield step_case(g, "SGD", lr=0.1, momentum=0.9)
    yield step_case(g, "Adam", lr=0.5)
    yield step_case(g, "AdamW", lr=0.01, weight_decay=0.1)
    yield step_case(g, "RMSprop", lr=0.01, momentum=0.5)


@masked_step.stage(
    "in any model, step after step",
    points=1,
    exposes='A mask\'s layer is `model.get_submodule(name)`, of whatever kind and at any depth, or the model itself (name ""); layers '
    "without a mask are trained as usual; and the parameters stay the ones that the optimiser knows, so that the next step works too.",
    pure=True,
)
def _(g):
    yield step_case(g, "SGD", names=(None, "1.2.0"), wrap=inside, times=3, lr=0.1, momentum=0.9)
    yield step_case(g, "Adam", names=("0.0", "1.2.0"), wrap=inside, blanks=2, times=2, lr=0.01)
    yield step_case(g, "AdamW", names=(None, None), times=2, lr=0.01, weight_decay=0.1)
    yield module_case(g, linear(g, 4, 6), "", times=2, lr=0.1, momentum=0.9)
    faint = linear(g, 4, 6)
    faint.state["weight"].mul_(1e-12)  # a small weight is none that is gone
    yield module_case(g, faint, "", lr=1e-13)
    inner = Module("Sequential", (linear(g, 6, 6), Module("ReLU"), linear(g, 4, 6)))  # "1.0" holds "0", and has its shape
    yield module_case(g, Module("Sequential", (linear(g, 6, 6), inner)), "0", lr=0.1)
    convolution = Module(
        "Conv1d", (1, 3, 2), {"weight": torch.randn(3, 1, 2, generator=g), "bias": torch.randn(3, generator=g)}
    )
    parts = (Module("Unflatten", (1, (1, 6))), convolution, Module("Flatten"), linear(g, 4, 15))
    yield module_case(g, Module("Sequential", parts), "1", "3", lr=0.1, momentum=0.9)


def module_case(g: torch.Generator, model: Module, *names: str, times: int = 1, **options):
    """Steps of SGD on a model whose weights of these names are masked."""
    built = model.build([])
    masks = {name: torch.rand(built.get_submodule(name).weight.shape, generator=g) >= 0.5 for name in names}
    magnitude.apply_(built, masks)
    pruned = replaced(model, built.state_dict())
    x, y = torch.randn(7, 6, generator=g), torch.randint(4, (7,), generator=g)
    return call(
        pruned, masks, Optimizer("SGD", of=0, options=options, warm_steps=3, warm_gradient=0.3), x, y, changes=(0,), times=times
    )


def replaced(model: Module, state: dict[str, Tensor]) -> Module:
    """The same model with another state."""

    def bare(module: Module) -> Module:
        return Module(module.kind, tuple(bare(part) if isinstance(part, Module) else part for part in module.arguments))

    return Module(model.kind, bare(model).arguments, state)


@masked_step.accepts("gradients and weights, multiplied")
def _(model, masks, optimizer, x, y):
    for p in model.parameters():
        p.grad = None
    loss = -F.log_softmax(model(x), dim=-1)[torch.arange(len(y)), y].mean()
    loss.backward()
    mask_gradients(model, masks)
    optimizer.step()
    for name, layer in model.named_modules():
        if name in masks:
            layer.weight.data *= masks[name]
    return loss


@masked_step.accepts("a closure for the optimiser, weights through the state dict")
def _(model, masks, optimizer, x, y):
    def closure():
        optimizer.zero_grad(set_to_none=False)
        loss = nn.CrossEntropyLoss()(model(x), y)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    state = model.state_dict()
    for name, mask in masks.items():
        key = f"{name}.weight".removeprefix(".")  # the model itself may be the layer
        state[key] = state[key] * mask
    model.load_state_dict(state)
    return loss.detach().numpy()
