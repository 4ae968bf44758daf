"""Recipes make the same objects every time."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autograder.inside.case import script
from autograder.inside.observe import observe
from autograder.inside.recipes import MLP, Add, Module, Optimizer, Train, Training, optimizer_class
from autograder.inside.runner import run

W0, b0, W1, b1 = torch.randn(3, 2), torch.randn(3), torch.randn(1, 3), torch.randn(1)
MODEL = MLP((W0, W1), (b0, b1))


def test_an_mlp_is_linear_layers_with_relu_between():
    model = MODEL.build([])
    x = torch.randn(5, 2)
    torch.testing.assert_close(model(x), F.relu(x @ W0.T + b0) @ W1.T + b1)
    nn.init.zeros_(model[0].weight)
    assert torch.equal(MODEL.build([])[0].weight, W0)


def test_modules_nest():
    embedding = Module("Embedding", (4, 2), {"weight": torch.arange(8.0).view(4, 2)})
    model = Module("Sequential", (embedding, Module("Sequential", (Module("LayerNorm", (2,)), MODEL)))).build([])
    assert [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)] == ["1.1.0", "1.1.2"]
    assert model[0](torch.tensor(3)).tolist() == [6, 7]
    assert torch.equal(model.get_submodule("1.1.2").weight, W1)


@pytest.mark.parametrize(("kind", "options"), [("SGD", {"momentum": 0.9}), ("Adam", {"amsgrad": True}), ("AdamW", {})])
def test_optimisers_are_torchs(kind, options):
    ours, theirs = MODEL.build([]), MODEL.build([])
    kinds = (optimizer_class(kind), ours), (getattr(torch.optim, kind), theirs)
    optimizers = [cls(model.parameters(), lr=0.1, **options) for cls, model in kinds]
    assert isinstance(optimizers[0], getattr(torch.optim, kind))
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        for step in range(3):
            optimizer.zero_grad()
            model(torch.full((1, 2), 1.0 + step)).sum().backward()
            optimizer.step()
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert str(optimizers[0]) == str(optimizers[1])


def test_optimisers_do_not_import_torchs_compiler():
    program = (
        "import sys, torch; from torch import nn; from autograder.inside.recipes import MLP, Optimizer, Training\n"
        "W, b = torch.ones(2, 2), torch.ones(2)\nmodel = MLP((W,), (b,)).build([])\n"
        "Optimizer('AdamW', of=0, options={'lr': 0.1}, warm_steps=2).build([model])\n"
        "Training(MLP((W,), (b,)), W, torch.tensor([0, 1]), done=2).build([])\n"
        "print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "False"


def test_warm_steps_fill_the_moments_and_leave_the_parameters():
    model = MODEL.build([])
    optimizer = Optimizer("SGD", of=0, options={"lr": 1.0, "momentum": 0.5}, warm_steps=2, warm_gradient=2.0).build([model])
    assert torch.equal(model[0].weight, W0)
    assert model[0].weight.grad.unique().tolist() == [2.0]
    optimizer.zero_grad()
    model(torch.zeros(1, 2)).sum().mul(0).backward()
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), W0 - 0.5 * 3.0)  # the buffer held 2 + 0.5 * 2 = 3


def test_add_moves_every_matrix_and_remembers_what_it_was_given():
    model, masks = MODEL.build([]), {"0": torch.ones(3, 2, dtype=torch.bool)}
    retrain = Add((torch.ones(3, 2), torch.full((1, 3), 2.0))).build([])
    retrain(model, masks)
    torch.testing.assert_close(model[0].weight.detach(), W0 + 1)
    torch.testing.assert_close(model[2].weight.detach(), W1 + 2)
    assert torch.equal(model[0].bias, b0)
    (seen,) = observe(retrain)
    assert torch.equal(seen["weights"]["0"], W0)
    assert seen["masks"]["0"].all()
    assert retrain  # as a function is, called or not


def training(**settings):
    x, y = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    model = Module("Sequential", (MLP((W0,), (b0,)), Module("BatchNorm1d", (3,))))
    return Training(model, x, y, options={"lr": 0.1, "momentum": 0.9}, period=4, done=2, **settings)


def test_a_training_is_the_same_each_time_and_goes_on_when_called():
    one, other = training().build([]), training().build([])
    first = one(3)
    assert first["learning rates"] == [0.1, 0.1, 0.05]  # two steps were made before
    assert first["replaced"] == "nothing"
    assert str(observe(other(3))) == str(observe(first))
    assert observe(one)["weights"].keys() == one.model.state_dict().keys()
    upcoming = observe(one)["next batch"]
    assert torch.equal(one.batch()[0], one.inputs[upcoming])
    assert training(evaluating=True).build([]).model.training is False


def test_a_training_sees_what_is_put_in_its_parts_places():
    one = training().build([])
    before = observe(one)["weights"]["0.0.weight"]
    one.model, one.order = nn.Linear(2, 3), torch.Generator()
    assert observe(one)["replaced"] == "model, order"
    assert torch.equal(observe(one)["weights"]["0.0.weight"], before)
    two = training().build([])
    two.__dict__ = copy.deepcopy(two.__dict__)
    assert observe(two)["replaced"] == "model, optimizer, scheduler, order"


def test_the_stand_in_for_training_under_masks_tells_its_calls():
    one, train = training().build([]), Train().build([])
    masks = {"0.0": torch.tensor([[True, False]] * 3)}
    train(one, masks, 0)
    train(one, masks, steps=2)
    (seen,) = observe(train)
    assert seen["number of steps"] == 2
    assert torch.equal(seen["masks"]["0.0"], masks["0.0"])
    assert not seen["training"]["weights"]["0.0.weight"][:, 1].any()
    assert len(seen["steps"]["losses"]) == 2
    assert one.model[0][0].weight[:, 1].all()  # it is careless on purpose
    quiet = Train(detailed=False).build([])
    quiet(one, masks, 1)
    assert observe(quiet) == [{"number of steps": 1}]


def test_a_script_can_let_a_training_go_on():
    class Steps:
        def __init__(self, training):
            self.training = training

        def rate(self):
            return self.training.optimizer.param_groups[0]["lr"]

    outcome = run(script(training(), calls=[("rate",), (0, 2), ("rate",)]), Steps)
    assert [outcome.value[0], outcome.value[2]] == [0.1, 0.05]
    assert outcome.value[1]["learning rates"] == [0.1, 0.1]


def test_the_parts_of_a_sequential_may_have_names():
    model = Module("Sequential", ({"up": Module("Linear", (2, 3)), "act": Module("Tanh")},)).build([])
    assert [(name, type(part).__name__) for name, part in model.named_children()] == [("up", "Linear"), ("act", "Tanh")]
