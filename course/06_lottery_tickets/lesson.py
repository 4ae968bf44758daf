# %% [markdown]
# # 06 · Lottery tickets
#
# **After this unit you can**
#
# - prune a network level by level, by a fraction of what is *left*, so that what is gone stays gone,
# - train a sparse network in which only the mask decides what is zero,
# - put a training back to any step: weights, buffers, momentum, learning rate and data order, and prove that nothing is missing,
# - find winning tickets by iterative magnitude pruning with rewinding,
# - say whether a ticket wins: against the dense network and three controls that differ from it in one thing each.
#
# About 90 minutes of exercises, then four experiments that use *your* functions. They take about four minutes on two cores.
#
# **Builds on** [02 magnitude](../02_magnitude/magnitude.ipynb) (magnitude as a score, pruning in several rounds, a training step that keeps its zeros).

# %% [markdown]
# ## Background
#
# A trained network can lose most of its weights and hardly any accuracy: LeCun et al. showed it with Optimal Brain Damage in 1990
# ([unit 03](../03_optimal_brain/optimal_brain.ipynb)), Han et al. with magnitudes and retraining in 2015 ([unit 02](../02_magnitude/magnitude.ipynb)).
# So a small network can *do* the work. Can it also *learn* it? The common experience was that it learns worse. Take the mask that pruning
# found, give the weights new random values, train: the result is clearly below the pruned network.
#
# [Frankle and Carbin 2019](https://arxiv.org/abs/1803.03635) changed one thing. They gave the weights that are left not *new* random values
# but **the ones they had before training**. On MNIST and CIFAR-10, such subnetworks of 10 to 20 % of the size and less did as well as the dense
# network in as many steps. Above that size they learned faster, and became better.
#
# The authors called it the *lottery ticket hypothesis*: a large network that is initialised at random contains a small one whose weights happen
# to be such that, trained alone, it does as well as the large one in as many steps. The small network is the winning ticket. The large
# one wins because it buys many tickets.
#
# ## The question
#
# Is that so? A claim about tickets is a claim about *three* things at once: the mask, the initial values, and the way both are trained. This unit
# finds tickets, takes these things apart with controls, and asks how much each of them counts.
#
# Nothing here makes a network faster: the search trains a network again and again, and zeros save time only in kernels that skip them (units
# [15](../15_two_four/two_four.ipynb) and [16](../16_sparse_gemv/sparse_gemv.ipynb)). What it gives is an answer to a question: what is the large network for?
#
# ## How to find one
#
# Let $\theta_0$ be the weights at the beginning and $m$ a mask (`True` = kept; $m \odot \theta$ sets what is gone to zero).
#
# 1. Train the network with masks $m$ for $T$ steps, from $m \odot \theta_0$ to $\theta_T$.
# 2. Drop the fraction $p$ of the weights that are left: those of smallest $|\theta_T|$. This makes a new mask $m'$.
# 3. **Rewind:** put the weights that are left back to $\theta_0$. The ticket is $m' \odot \theta_0$. Go to 1 with $m'$.
#
# ![Sixteen initial weights are trained; the four smallest trained ones are marked. In the ticket these four places are empty, and all others hold their initial values again. An arrow leads from the ticket back to the start: the next level trains the ticket.](rewinding.svg)
#
# *One level with $p = 1/4$: the trained weights choose the mask, the initial weights make the ticket.*
#
# Levels are counted from 0, the dense network. At level $L$, $(1-p)^L$ of the weights are left: with $p = 0.2$, as published, it takes ten levels to get
# to 11 %.
#
# Look at the top row of the picture. The weight 0.9 is the largest of all before training, and goes; −0.1 in the second row is one of the
# smallest, and stays. Whoever swaps the two roles, and lets the *initial* weights choose, still gets a network that trains, and a plausible number.
#
# **Conventions of the course.** A *mask* is boolean and `True` means *kept*. *Density* is the fraction that is kept. Linear weights have the
# shape `(out_features, in_features)`, and layers go by the names of `model.named_modules()`.

# %%
import copy
import os

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from autograder import check
from sparsity_edu import plots

# small experiments, for an automatic test and while nbgrader runs this notebook
FAST = bool(os.environ.get("SPARSITY_EDU_FAST") or os.environ.get("NBGRADER_EXECUTION"))
plots.style()

# %% [markdown]
# ## A fraction of what is left
#
# Step 2 looks like [unit 02](../02_magnitude/magnitude.ipynb), but now some weights are gone already. Three things go wrong here.
#
# - **Of what?** 20 % of what is *left*, not of the original. Otherwise the fifth level takes the last weight.
# - **Who competes?** Weights that are gone do not. If they are zero they would all be the smallest, and nothing new would go.
# - **Who says what is gone?** The mask. A weight that is gone may hold anything (nobody trains it, but momentum moves it), and
#   a weight that is kept may be zero.


# %% exercise="lottery_tickets.drop"
def drop_smallest(W: torch.Tensor, mask: torch.Tensor, p: float) -> torch.Tensor:
    """Drop a fraction of the weights that are left.

    Args:
        W: float32 or float64 weights of any shape. No two weights that are left are of equal
            magnitude, and one of them may be zero. Those that are gone may have any finite value.
            Must not be changed.
        mask: boolean, of W's shape, True = left; n of its entries are. Must not be changed.
        p: fraction of the n weights to drop, in [0, 1).

    Returns:
        A new boolean mask: the old one without the int(p * n) weights of smallest magnitude among
            those that are left.
    """
    ### BEGIN SOLUTION
    size = torch.where(mask, W.abs(), torch.inf).flatten()  # what is gone comes last
    new = mask.flatten().clone()
    new[size.argsort()[: int(p * int(mask.sum()))]] = False
    return new.view(mask.shape)
    ### END SOLUTION


# %% [markdown]
# Published codes differ here too. The authors' code drops everything up to and including the weight at index $\lceil p n \rceil$ (from 0), one or two more
# than `int(p * n)`. That makes no difference to a curve, and all the difference to a comparison of masks.
#
# ## All layers together
#
# In a small network every layer may lose the same share. In a large one the layers differ, and one ranking over all of them finds better tickets.
#
# Some layers are left out. An output layer has few weights and each of them counts, so the authors skip it, or prune it at half the rate. And
# here is a trap that their code walked into: it counts the skipped layer's weights in $n$, but takes the 20 % from the others alone.
# In their default network 77.9 % of the others are left after the first level, where 80 % were meant.


# %% exercise="lottery_tickets.drop_global"
def drop_smallest_of_all(
    weights: dict[str, torch.Tensor], masks: dict[str, torch.Tensor], p: float, skip=()
) -> dict[str, torch.Tensor]:
    """Drop a fraction of the weights that are left, with one ranking for all layers.

    Args:
        weights: float32 or float64 weights by layer name, any shapes. Among all that are left no
            two are of equal magnitude, and one may be zero; those that are gone may have any finite
            value. Must not be changed.
        masks: boolean, True = left, by the same names, perhaps in another order. Must not be
            changed.
        p: fraction to drop, in [0, 1).
        skip: names of layers that are left out. They lose nothing, do not compete and do not count.

    Returns:
        New masks for all layers by name. With n weights left in the layers that are not skipped,
        exactly the int(p * n) smallest of these are dropped. Skipped layers have the mask they had.
    """
    ### BEGIN SOLUTION
    names = [name for name in weights if name not in skip]
    W = torch.cat([weights[name].flatten() for name in names])
    left = drop_smallest(W, torch.cat([masks[name].flatten() for name in names]), p)
    pieces = left.split([weights[name].numel() for name in names])
    new = {name: piece.view(weights[name].shape) for name, piece in zip(names, pieces)}
    return {name: new[name] if name in new else masks[name].clone() for name in weights}
    ### END SOLUTION


# %% [markdown]
# ## What a training is
#
# We are about to stop, rewind and repeat trainings, so let us say what a training *is*. Four objects decide how it goes on:
#
# - the **model**: parameters, and buffers such as BatchNorm's running means,
# - the **optimiser**: learning rate, momentum, Adam's moments and counters,
# - the **scheduler**, which changes the learning rate and counts steps,
# - the **order** of the data, that is, the state of the random generator which draws the batches.
#
# The class below holds them. There is nothing to do in this cell.


# %%
class Training:
    """A network in training, and all that decides how it goes on."""

    def __init__(self, model, optimizer, scheduler, order, inputs, labels, batch_size):
        self.model = model  # without dropout
        self.optimizer = optimizer  # over the model's parameters
        self.scheduler = scheduler  # of the optimiser; to be stepped after each of its steps
        self.order = order  # torch.Generator
        self.inputs, self.labels, self.batch_size = inputs, labels, batch_size

    def batch(self):
        """The next inputs and labels."""
        chosen = torch.randint(len(self.inputs), (self.batch_size,), generator=self.order)
        return self.inputs[chosen], self.labels[chosen]


# %% [markdown]
# ## Train what is left
#
# You held a mask in unit 02, for one step. Now write the loop. The weights come in as they are, so the first thing is to set to zero what is gone;
# and after every step of the optimiser once more, since momentum and weight decay move weights whose gradient is zero.
#
# There is another way to hold zeros, copied through many notebooks and repositories: before the step, find the weights that are zero, and
# delete their gradients.
#
# ```python
# frozen = weight < EPS            # EPS = 1e-6
# weight.grad[frozen] = 0
# ```
#
# Read it again. It freezes every *negative* weight as well. The networks still learn, with half of their weights, which is why the line
# lives on. Experiment 4 measures what it costs. And with `weight.abs() < EPS` it is still wrong: a weight that is kept may be zero. **Zeros are not a
# mask.**


# %% exercise="lottery_tickets.train"
def train_(training, masks: dict[str, torch.Tensor], steps: int) -> None:
    """Train on, with what is gone exactly zero in every forward pass and at the end.

    A step draws training.batch(), minimises F.cross_entropy(model(inputs), labels) with
    training.optimizer, then steps training.scheduler. The model is trained in training mode, in
    whatever mode it comes. Returns nothing, and leaves nothing behind (such as a hook) that would
    hold the zeros in a later training.

    Args:
        training: a Training as above; changed in place, and its four objects stay the same objects.
            The optimiser may be any of torch.optim's, and may have made steps before: gradients and
            momentum are still there.
        masks: boolean mask of the weight's shape, True = kept, by layer name: the weight is
            training.model.get_submodule(name).weight. Weights that are gone may have any finite
            value when you get them. Layers without a mask, and all biases, are trained as usual.
            Must not be changed.
        steps: how many, 1 or more.
    """
    ### BEGIN SOLUTION
    model = training.model

    @torch.no_grad()
    def hold():
        for name, mask in masks.items():
            model.get_submodule(name).weight.masked_fill_(~mask, 0)

    model.train()
    hold()
    for _ in range(steps):
        inputs, labels = training.batch()
        training.optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        training.optimizer.step()
        hold()
        training.scheduler.step()
    ### END SOLUTION


# %% [markdown]
# ## Rewind everything
#
# "Put the weights back" is one line, and the line is usually wrong:
#
# ```python
# initial = model.state_dict()         # no copy: these are the tensors that will be trained
# ...
# parameter.data = initial[name]       # even with a copy: from now on the *copy* is trained
# ```
#
# With the first line, rewinding does nothing. With the second, the first rewind is right, and every later one goes to the end
# of the training before. Follow one weight, which begins at 0.3 and of which `initial` holds a copy:
#
# | | the model's weight | the copy in `initial` |
# |---|---|---|
# | start | 0.3 | 0.3 |
# | after the first training | 0.8 | 0.3 |
# | `parameter.data = initial[name]` | 0.3 | 0.3, and from now on *the same tensor* |
# | after the second training | −0.5 | −0.5 |
# | `parameter.data = initial[name]` | **−0.5** | −0.5 |
#
# Nothing fails, and the second ticket starts from trained weights. `parameter.data.copy_(initial[name])` would copy the *number*. An optimiser has the
# same trap: `load_state_dict` takes over the momentum tensors that it is given.
#
# And the weights are not all. If momentum, learning rate or batches are those of the end, a ticket is trained in another way
# than the dense network, and a comparison of the two says nothing. The test of a snapshot is strict and simple: rewind, train on, and everything must be
# what it was the first time, to the last bit.


# %% exercise="lottery_tickets.snapshot"
class Snapshot:
    """A training's state at one moment, to which it can be put back as often as one likes."""

    def __init__(self, training) -> None:
        """Keep the state.

        Args:
            training: a Training as above. Keep a copy of all that decides how it goes on; it must
                go on as if nothing had happened.
        """
        ### BEGIN SOLUTION
        self.training = training
        self.parts = (training.model, training.optimizer, training.scheduler)
        self.states = copy.deepcopy([part.state_dict() for part in self.parts])
        self.order = training.order.get_state()
        ### END SOLUTION

    def rewind_(self) -> None:
        """Put the training back, in place: model, optimizer, scheduler and order stay the same
        objects. Returns nothing.

        Trained on from here, it makes the same steps as after the snapshot was taken: the same
        batches, learning rates, losses and weights. May be called any number of times.
        """
        ### BEGIN SOLUTION
        for part, state in zip(self.parts, copy.deepcopy(self.states)):
            part.load_state_dict(state)
        self.training.order.set_state(self.order)
        ### END SOLUTION


# %% [markdown]
# Try it on a small training: six steps, rewind, six steps. The bars are the largest difference between the losses of the two runs, first with all parts
# rewound, then with one of them left as it was.
#
# **Predict, then run.** The snapshot is taken after 5 steps; the learning rate falls to a third after 8; momentum is 0.9. Which part costs most if it is
# forgotten, and which least?
#
# <details><summary>Answer</summary>
#
# The optimiser costs most, 0.118: the momentum of the end pushes on, and it takes ten steps to fade. The scheduler comes next, 0.055: it counts on from step
# 11, so the fall after step 8 never comes. The order costs least, 0.004: other batches of the same data have nearly the same gradient. All
# three are far above 0, which is what you get with everything rewound. A curve would show none of them, and the test to the last bit shows all.
#
# </details>


# %%
def small_training(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 8, gamma=0.3)
    inputs = torch.randn(200, 8)
    order = torch.Generator().manual_seed(seed)
    return Training(model, optimizer, scheduler, order, inputs, inputs[:, :3].argmax(dim=1), 20)


def six_losses(training):
    losses = []
    for _ in range(6):
        with torch.no_grad():
            losses.append(F.cross_entropy(training.model(training.inputs), training.labels).item())
        train_(training, {}, 1)
    return torch.tensor(losses)


differences = {}
for forgotten in (None, "optimizer", "scheduler", "order"):
    training = small_training()
    train_(training, {}, 5)
    start = Snapshot(training)
    first = six_losses(training)
    part = getattr(training, forgotten) if forgotten else None
    state = None
    if part is not None:
        state = copy.deepcopy(part.get_state() if forgotten == "order" else part.state_dict())
    start.rewind_()
    if part is not None:
        (part.set_state if forgotten == "order" else part.load_state_dict)(state)
    name = f"{forgotten} forgotten" if forgotten else "all rewound"
    differences[name] = (six_losses(training) - first).abs().max().item()
    print(f"{name:<22} largest difference of a loss {differences[name]:.6f}")

fig, ax = plt.subplots(figsize=(6, 2.4))
ax.barh(list(differences), list(differences.values()), color=[plots.BLUE] + [plots.VERMILLION] * 3)
ax.invert_yaxis()
ax.set(xlabel="largest difference between the losses of the two runs")
plt.show()

# %% [markdown]
# ## Find the tickets
#
# Now the loop of the beginning, with one addition. On larger networks rewinding to $\theta_0$ stops working: the first steps, with a large learning rate,
# send the network somewhere by chance, and the ticket somewhere else. [Frankle et al. 2020](https://arxiv.org/abs/1912.05671) rewind to the weights after a few
# steps instead, $\theta_k$ with $k$ a small part of $T$ ("late rewinding"); $k = 0$ is the original. A ticket at step $k$ then trains the $T - k$ steps
# that are left.
#
# `train` comes as an argument. In the experiments it will be your `train_`, which also writes down how the accuracy grows.


# %% exercise="lottery_tickets.find"
def find_tickets(
    training, train, steps: int, levels: int, p: float = 0.2, rewind: int = 0, skip=()
) -> list[dict[str, torch.Tensor]]:
    """Iterative magnitude pruning with rewinding.

    First the dense network makes `rewind` steps. That is the start. Then there are levels + 1
    trainings, each from the start and for the `steps - rewind` steps that are left. Level 0 is the
    dense network. Each further level has masks in which, of the level before, the fraction p was
    dropped that is smallest after the training of the level before, as in drop_smallest_of_all.

    Args:
        training: a Training as above, at its beginning; its four objects stay the same objects.
        train: call train(training, masks, n) to make n steps under masks. It sets to zero what is
            gone before it begins; what is gone may be anything afterwards. It must see each
            training once, the last level's too (calls with n = 0 do not count), with masks for all
            layers.
        steps: T, of one whole training.
        levels: how often to drop, 0 or more.
        p: fraction of what is left to drop at each level.
        rewind: k, in [0, steps).
        skip: names of layers that keep all their weights.

    Returns:
        levels + 1 dicts of masks by layer name, for all nn.Linear layers of the model (subclasses of
        it, too) at any depth, True = kept. The first ones are all True. The training is left at the start, with the
        weights that the dense network had there.
    """
    ### BEGIN SOLUTION
    layers = {n: m for n, m in training.model.named_modules() if isinstance(m, nn.Linear)}
    masks = {name: torch.ones_like(m.weight, dtype=torch.bool) for name, m in layers.items()}
    train(training, masks, rewind)
    start, tickets = Snapshot(training), [masks]
    for level in range(levels + 1):
        train(training, tickets[level], steps - rewind)
        if level < levels:
            trained = {name: layer.weight.detach() for name, layer in layers.items()}
            tickets.append(drop_smallest_of_all(trained, tickets[level], p, skip))
        start.rewind_()
    return tickets
    ### END SOLUTION


# %% [markdown]
# ## Does the ticket win?
#
# A ticket has a good accuracy. Good compared with what? Each claim needs its own control, and each control may differ from the ticket in **one
# thing**:
#
# | control | weights | connections | what it tests |
# |---|---|---|---|
# | other weights | initialised anew | the ticket's | is it the initial values, or the shape alone? |
# | other connections | the ticket's | random, as many in each layer | is it the mask, or the number alone? |
# | fine-tuned | trained | the ticket's | is rewinding as good as training on? |
#
# ![Four grids of sixteen weights. The ticket has initial weights and four empty places. "Other weights" has the same empty places and new numbers; "other connections" has the ticket's numbers and four other empty places; "fine-tuned" has the ticket's places and trained numbers.](controls.svg)
#
# *The ticket and its controls: each differs from it in one thing.*
#
# Everything else must be equal: steps, learning rates, batches. That sounds obvious, and is often neglected. A re-initialised network which is trained
# with what is left of the schedule loses for that reason alone; fine-tuning with twice the total of steps wins for that reason alone.


# %% exercise="lottery_tickets.controls"
def train_controls(
    training,
    train,
    masks: dict[str, torch.Tensor],
    steps: int,
    fresh: dict[str, torch.Tensor],
    trained: dict[str, torch.Tensor],
    noise: dict[str, torch.Tensor],
) -> dict[str, dict[str, torch.Tensor]]:
    """Train a ticket and three controls in the same way.

    All four begin where `training` is now: the same optimiser state, learning rate, schedule and
    order of the data. They differ in this:

        "ticket"             the weights that the model has now      under `masks`
        "other weights"      the state `fresh`                       under `masks`
        "other connections"  the weights that the model has now      under random masks
        "fine-tuned"         the state `trained`                     under `masks`

    A random mask keeps as many weights as the ticket's in each layer: those where the layer's noise
    is largest.

    Args:
        training: a Training as above; its four objects stay the same objects. Afterwards it is
            where it was before.
        train: call train(training, masks, steps) once for each of the four; it sets to zero what is
            gone before it begins.
        masks: the ticket's, by layer name. Must not be changed.
        steps: how many each of the four makes.
        fresh: state dict of a network like training.model, initialised anew, with its buffers. Must
            not be changed.
        trained: state dict of a trained network like training.model, with its buffers. Must not be
            changed.
        noise: float tensor of the mask's shape by layer name, no two entries of one layer equal.
            Must not be changed.

    Returns:
        For each of the four names the state dict of the model as train left it: copies, with
            parameters and buffers.
    """
    ### BEGIN SOLUTION
    shuffled = {}
    for name, mask in masks.items():
        chosen = noise[name].flatten().topk(int(mask.sum())).indices
        shuffled[name] = (
            torch.zeros(mask.numel(), dtype=torch.bool).index_fill(0, chosen, True).view(mask.shape)
        )
    kinds = {
        "ticket": (None, masks),
        "other weights": (fresh, masks),
        "other connections": (None, shuffled),
        "fine-tuned": (trained, masks),
    }
    start, results = Snapshot(training), {}
    for kind, (weights, kind_masks) in kinds.items():
        if weights is not None:
            training.model.load_state_dict(weights)
        train(training, kind_masks, steps)
        results[kind] = copy.deepcopy(training.model.state_dict())
        start.rewind_()
    return results
    ### END SOLUTION


# %% [markdown]
# The cells from here on are not graded; they use your functions, so they need your exercises done.
#
# ## The set-up
#
# MNIST-1D as in [unit 02](../02_magnitude/magnitude.ipynb): ten classes, 40 numbers each. Of its 4000 training signals 3200 are trained on and 800 are for *validation*: they choose,
# where something is to be chosen. The 1000 test signals only report. The network has three linear layers, 40-128-128-10, and its
# 22 784 weights (without biases) compete in one ranking. One training is 600 steps of SGD with momentum on batches of 64; the learning rate falls to
# a third after 400. That is not quite enough to converge, on purpose: what learns faster shows.
#
# Every curve is a mean over five seeds (initialisation and data order), and every band or bar is the standard deviation over them. (The fast setting
# has 300 steps, two seeds and three levels. Numbers in the text are those of the full one; on another machine sums are rounded differently,
# and means move by a point or so.)

# %% tags=["experiment"]
from tqdm.auto import tqdm

from sparsity_edu.data import mnist1d

data = mnist1d()
train_x, train_y = data.train_inputs[:3200], data.train_labels[:3200]
valid_x, valid_y = data.train_inputs[3200:], data.train_labels[3200:]

SEEDS = range(2 if FAST else 5)
STEPS, EVERY = (
    (300, 20) if FAST else (600, 20)
)  # of a training; between two looks at the validation data
LEVELS, P = (3, 0.6) if FAST else (8, 0.4)


def new_training(seed, lr=0.03):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(40, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2 * STEPS // 3, gamma=1 / 3)
    order = torch.Generator().manual_seed(seed)
    return Training(model, optimizer, scheduler, order, train_x, train_y, 64)


@torch.no_grad()
def accuracy(model, x, y):
    model.eval()
    return (model(x).argmax(dim=1) == y).float().mean().item()


def test_accuracy(model):
    return accuracy(model, data.test_inputs, data.test_labels)


class Diary:
    """Your train_, which also writes down the accuracy: on validation data on the way, on test data
    at the end."""

    def __init__(self, train_in_steps=train_):
        self.train_in_steps, self.curves, self.ends, self.states = train_in_steps, [], [], []

    def __call__(self, training, masks, steps):
        if steps == 0:
            return
        curve = []  # (step, validation accuracy)
        for done in range(0, steps, EVERY):
            self.train_in_steps(training, masks, min(EVERY, steps - done))
            curve.append((min(done + EVERY, steps), accuracy(training.model, valid_x, valid_y)))
        self.curves.append(curve)
        self.ends.append(test_accuracy(training.model))
        self.states.append(copy.deepcopy(training.model.state_dict()))


def density(masks):
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def mean_and_spread(rows):
    """Mean and standard deviation over the first dimension, the seeds."""
    rows = torch.tensor(rows, dtype=torch.float64)
    return rows.mean(dim=0), rows.std(dim=0)


# %% [markdown]
# ## Experiment 1: tickets against everything else
#
# Your `find_tickets` with $p = 0.4$, eight levels down to 1.7 % of the weights, $k = 0$. At every second level your `train_controls`. All that is
# trained makes the same 600 steps on the same batches.
#
# **Predict, then run.** The dense network reaches 55.8 %. With 36 % of the weights left, which of the four are above it: the ticket, other weights, other
# connections, fine-tuned?
#
# <details><summary>Answer</summary>
#
# The ticket (59.4 %) and fine-tuning (59.8 %) are above. Other weights (48.5 %) and other connections (47.4 %) are well below. So neither the mask alone
# nor the initial values alone make the ticket: it is the mask *for these values*. It was chosen by a training that began with them.
#
# </details>

# %% tags=["experiment"]
COMPARED = range(1, LEVELS + 1) if FAST else range(2, LEVELS + 1, 2)
CONTROLS = ("other weights", "other connections", "fine-tuned")
runs = []  # per seed: the training at its start, the tickets, the diary of the search
control_ends, control_curves = [], []  # [seed][level][kind]

for seed in tqdm(SEEDS, desc="seeds"):
    training, diary = new_training(seed), Diary()
    tickets = find_tickets(training, diary, STEPS, LEVELS, P)
    runs.append((training, tickets, diary))
    ends, curves = [], []
    for level in COMPARED:
        noise_of = torch.Generator().manual_seed(1000 * level + seed)
        noise = {n: torch.rand(m.shape, generator=noise_of) for n, m in tickets[level].items()}
        fresh = new_training(1000 + seed).model.state_dict()
        # fine-tuning begins with the weights that chose this mask: the end of the level before
        trained = diary.states[level - 1]
        notes = Diary()
        states = train_controls(training, notes, tickets[level], STEPS, fresh, trained, noise)
        place = {
            kind: next(i for i in range(4) if same(state, notes.states[i]))
            for kind, state in states.items()
        }
        ends.append({kind: notes.ends[i] for kind, i in place.items()})
        curves.append({kind: notes.curves[i] for kind, i in place.items()})
        # the ticket, trained once more, must be what the search found, to the last bit
        assert same(states["ticket"], diary.states[level])
    control_ends.append(ends)
    control_curves.append(curves)

densities = [density(masks) for masks in runs[0][1]]
ticket_mean, ticket_spread = mean_and_spread([diary.ends for _, _, diary in runs])
print(f"test accuracy after {STEPS} steps, mean and standard deviation over {len(SEEDS)} seeds (%)")
print(f"{'density':>8}  {'ticket':>12}" + "".join(f"  {kind:>17}" for kind in CONTROLS))
control_stats = {}
for level, d in enumerate(densities):
    line = f"{d:8.1%}  {100 * ticket_mean[level]:6.1f} ± {100 * ticket_spread[level]:3.1f}"
    if level in COMPARED:
        i = COMPARED.index(level)
        for kind in CONTROLS:
            mean, spread = mean_and_spread([ends[i][kind] for ends in control_ends])
            control_stats.setdefault(kind, []).append((d, mean.item(), spread.item()))
            line += f"  {100 * mean:11.1f} ± {100 * spread:3.1f}"
    print(line)

fig, ax = plt.subplots(figsize=(7.5, 4))
x = [100 * d for d in densities]
ax.fill_between(
    x,
    100 * (ticket_mean - ticket_spread),
    100 * (ticket_mean + ticket_spread),
    color=plots.BLUE,
    alpha=0.15,
    lw=0,
)
ax.plot(x, 100 * ticket_mean, marker="o", ms=4, color=plots.BLUE, label="ticket")
for kind, color in zip(CONTROLS, (plots.VERMILLION, plots.ORANGE, plots.GREEN)):
    d, mean, spread = torch.tensor(control_stats[kind]).T * 100
    ax.errorbar(
        d, mean, spread, marker="s", ms=4, capsize=3, color=color, label=f"{kind}, same training"
    )
ax.axhline(100 * ticket_mean[0], color="0.4", ls=":", lw=1)
ax.text(x[-1], 100 * ticket_mean[0], "dense", color="0.4", va="bottom", ha="right")
ax.set_xscale("log")
ax.invert_xaxis()
ax.set(
    xlabel="weights left (%)",
    ylabel="test accuracy (%)",
    title="Tickets and controls (mean and standard deviation over seeds)",
)
ax.set_xticks(x, [f"{v:.3g}" for v in x])
ax.minorticks_off()
ax.legend(loc="lower left")
plt.show()

# %% [markdown]
# Four things to read off. (With 300 steps they are the same, but the numbers differ.)
#
# - **The ticket beats the dense network.** From 60 % down to 8 % of the weights, tickets are three points or so above the dense network
#   after the same 600 steps; with 5 % they equal it. Below that comes the cliff that you know from unit 02.
# - **The initial values matter.** The same masks with other weights are eleven points below the ticket at 36 %, and twenty-four at 5 %.
# - **The connections matter too, and more the fewer there are.** Random masks with as many weights in each layer do about as badly as other
#   weights at 36 %. At 1.7 % they are down to chance (10 %), where the ticket still has 44.5 %.
# - **Fine-tuning is at least as good.** The trained weights under the same mask are level with the ticket while many are left, and three points
#   above it at 1.7 %. No wonder: they have 600 steps behind them already. If all you want is a good sparse network, train on, as in unit 02. The ticket is an answer to another question.
#
# Be careful with the size of the first two effects. This training is short: the dense network is not done after 600 steps, and a slow starter is
# punished for being slow. Set `STEPS = 2000` and see which distances shrink. The published claim is of the same kind: tickets of 10 to 20 % of the
# size reach the accuracy of the dense network *in as many steps* (published, Frankle and Carbin 2019).

# %% [markdown]
# ## Experiment 2: who learns faster?
#
# Same runs, other question. Left: how the validation accuracy grows. Right: the first step, of those looked at (every 20), at which it has reached 50 %.
# The mean is taken over the runs that reach it; their number is given beside it.
#
# **Predict, then run.** The dense network needs 348 steps on average. Does a ticket with 5 % of its weights need more or fewer?
#
# <details><summary>Answer</summary>
#
# Fewer, if anything: 308 ± 41 against 348 ± 63. And the ticket of 36 % needs 128. Fewer weights do not mean slower learning, as long as they are the right ones:
# with other weights, only one run in five gets there at 36 %, and none below.
#
# </details>

# %% tags=["experiment"]
TARGET = 0.4 if FAST else 0.5


def first_step(curve):
    return next((step for step, value in curve if value >= TARGET), None)


def reached(curves):
    """Mean and standard deviation of the first step over the runs that reach the target, and how
    many do."""
    steps = [step for step in map(first_step, curves) if step is not None]
    if not steps:
        return float("nan"), float("nan"), 0
    steps = torch.tensor(steps, dtype=torch.float64)
    return steps.mean().item(), steps.std(correction=min(1, len(steps) - 1)).item(), len(steps)


def said(mean, spread, n):
    return f"{mean:5.0f} ± {spread:3.0f} ({n})" if n else "      never (0)"


tickets_reach = [reached([diary.curves[i] for _, _, diary in runs]) for i in range(LEVELS + 1)]
others_reach = {
    kind: [reached([curves[i][kind] for curves in control_curves]) for i in range(len(COMPARED))]
    for kind in ("other weights", "other connections")
}
print(
    f"first step with a validation accuracy of {TARGET:.0%}, and how many of {len(SEEDS)} runs reach it"
)
print(f"{'density':>8}  {'ticket':>15}  {'other weights':>17}  {'other connections':>17}")
for level, d in enumerate(densities):
    line = f"{d:8.1%}  {said(*tickets_reach[level]):>15}"
    if level in COMPARED:
        for kind in others_reach:
            line += f"  {said(*others_reach[kind][COMPARED.index(level)]):>17}"
    print(line)

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8))
shown = (0, LEVELS // 2, LEVELS) if not FAST else (0, 1, LEVELS)
for level, color in zip(shown, (plots.GREY, plots.BLUE, plots.PURPLE)):
    steps = [step for step, _ in runs[0][2].curves[level]]
    mean, spread = mean_and_spread(
        [[value for _, value in diary.curves[level]] for _, _, diary in runs]
    )
    label = "dense" if level == 0 else f"ticket, {100 * densities[level]:.3g} %"
    left.plot(steps, 100 * mean, color=color, label=label)
    left.fill_between(
        steps, 100 * (mean - spread), 100 * (mean + spread), color=color, alpha=0.15, lw=0
    )
    if level in COMPARED:
        i = COMPARED.index(level)
        mean, _ = mean_and_spread(
            [[v for _, v in curves[i]["other weights"]] for curves in control_curves]
        )
        label = f"other weights, {100 * densities[level]:.3g} %"
        left.plot(steps, 100 * mean, color=color, ls="--", label=label)
left.axhline(100 * TARGET, color="0.4", lw=1, ls=":")
left.set(xlabel="step", ylabel="validation accuracy (%)")
left.legend(loc="lower right")
means, spreads, _ = torch.tensor(tickets_reach, dtype=torch.float64).T
right.errorbar(x, means, spreads, marker="o", ms=4, capsize=3, color=plots.BLUE, label="ticket")
for kind, color in zip(others_reach, (plots.VERMILLION, plots.ORANGE)):
    means, spreads, runs_that_do = torch.tensor(others_reach[kind], dtype=torch.float64).T
    if not runs_that_do.any():
        continue
    right.errorbar(
        [x[level] for level in COMPARED],
        means,
        spreads,
        marker="s",
        ms=4,
        capsize=3,
        color=color,
        label=kind,
    )
right.set_xscale("log")
right.invert_xaxis()
right.set_xticks(x, [f"{v:.3g}" for v in x])
right.minorticks_off()
right.set(xlabel="weights left (%)", ylabel=f"first step with {TARGET:.0%}", ylim=(0, STEPS))
right.legend()
plt.show()

# %% [markdown]
# With 600 steps, the tickets of 36 % and 22 % need less than half the steps of the dense network; even with 5 % of the weights a ticket is not slower. With other
# weights one run of five gets there, late, at 36 %, and none at the lower densities; with other connections none does at all. That is the second
# half of the hypothesis, and on this task it holds clearly: **tickets learn faster**. Up to a point: from 36 % on, each further level makes them slower again.

# %% [markdown]
# ## Experiment 3: late rewinding
#
# When does it matter to which step one goes back? The same search at the learning rate above and at a much larger one, each
# rewound to $k = 0$, to a step shortly after, and to a sixth of the training. All are trained up to the same step 600: with $k > 0$
# a ticket makes $T - k$ steps of its own, and the $k$ before were made by the dense network.

# %% tags=["experiment"]
RATES = (0.03, 0.2)
REWINDS = (0, 50) if FAST else (0, 20, 100)
REWIND_LEVELS, REWIND_P = (2, 0.5) if FAST else (4, 0.5)
late = {}  # ends by (learning rate, k): [seed][level]
for lr, k in tqdm([(lr, k) for lr in RATES for k in REWINDS], desc="learning rates and k"):
    for seed in SEEDS:
        diary = Diary()
        tickets = find_tickets(
            new_training(seed, lr), diary, STEPS, REWIND_LEVELS, REWIND_P, rewind=k
        )
        trained = diary.ends[1:] if k else diary.ends  # without the first k steps
        late.setdefault((lr, k), []).append(trained)
late_densities = [density(masks) for masks in tickets]

fig, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True)
print("test accuracy, mean and standard deviation over seeds (%)")
if FAST:
    print(
        "fast setting: too few steps, seeds and k for this question; the text is about the full one"
    )
print(
    f"{'learning rate':>13} {'k':>4}"
    + "".join(f"  {'dense' if d == 1 else f'{d:.1%} left':>12}" for d in late_densities)
)
for ax, lr in zip(axes, RATES):
    for k, color in zip(REWINDS, (plots.VERMILLION, plots.ORANGE, plots.BLUE)):
        mean, spread = mean_and_spread(late[lr, k])
        cells = (f"{100 * m:6.1f} ± {100 * s:3.1f}" for m, s in zip(mean, spread))
        print(f"{lr:13} {k:4d}" + "".join(f"  {cell:>12}" for cell in cells))
        ax.errorbar(
            [100 * d for d in late_densities],
            100 * mean,
            100 * spread,
            marker="o",
            ms=4,
            capsize=3,
            color=color,
            label=f"k = {k}",
        )
    # seeds are paired: the same start, the same batches
    gain = torch.tensor(late[lr, REWINDS[-1]]) - torch.tensor(late[lr, 0])
    gain = 100 * gain[:, 1:].double().mean(dim=1)  # (seeds,) over all tickets
    print(
        f"{'':13} k = {REWINDS[-1]} instead of 0, mean over all tickets: {gain.mean():+.1f} ± {gain.std():.1f} points"
    )
    ax.set_xscale("log")
    ax.invert_xaxis()
    ax.set_xticks([100 * d for d in late_densities], [f"{100 * d:.3g}" for d in late_densities])
    ax.minorticks_off()
    ax.set(xlabel="weights left (%)", title=f"learning rate {lr}")
axes[0].set_ylabel("test accuracy (%)")
axes[0].legend(loc="upper left")
plt.show()

# %% [markdown]
# At the small learning rate it makes no difference which step one goes back to: the three lines lie within one standard deviation of each other
# nearly everywhere, and the paired difference is zero within its spread. At the large one it does. Tickets from step 0 are two points better than
# the dense network at best and two worse at the end, and those from step 100 are two points better than those from step 0, on average over all tickets.
#
# So here is the published effect, small, with a spread between seeds that is not much smaller: **the larger the learning rate, the less the initial weights say about where the network will
# go.** The paper's explanation is that after $k$ steps two trainings with different data order end in the same valley, and before they do not.
# We have not shown that; we have shown that $k$ matters where steps are large.
#
# What we did not see is that a *few* steps are enough. Step 20 of 600 gives less than one point at the large learning rate, less than the spread between
# seeds. And 100 steps are a sixth of the training, made by the dense network; at the small learning rate the same head start gives
# nothing, so it is not the head start alone.

# %% [markdown]
# ## Experiment 4: what the popular bug costs
#
# The line `weight < EPS`, put to the test: the tickets of experiment 1, trained by your `train_` and by a loop that deletes the gradient of
# every weight below $10^{-6}$, from the same start on the same batches.
#
# **Predict, then run.** The loop freezes every negative weight. Does the dense network, of which nothing is pruned, still learn? And who loses more by it, the
# dense network or the ticket with 5 % of the weights?
#
# <details><summary>Answer</summary>
#
# It learns, to 47.3 % instead of 55.8 %: half of its weights can move, and that is enough for much of the task. The ticket of 5 % loses 16.7 points, twice as much. It
# has no weights to spare.
#
# </details>

# %% tags=["experiment"]
EPS = 1e-6


def train_frozen_(training, masks, steps):
    """The widely copied loop: what is (or looks) pruned is frozen by its value."""
    training.model.train()
    with torch.no_grad():
        for name, mask in masks.items():
            training.model.get_submodule(name).weight.masked_fill_(~mask, 0)
    for _ in range(steps):
        inputs, labels = training.batch()
        training.optimizer.zero_grad()
        F.cross_entropy(training.model(inputs), labels).backward()
        for name, parameter in training.model.named_parameters():
            if name.endswith("weight"):
                parameter.grad[parameter < EPS] = 0
        training.optimizer.step()
        training.scheduler.step()


BUG_LEVELS = (0, 1) if FAST else (0, 2, 4, 6)
frozen = []  # [seed][level]
moved = []
for training, tickets, _ in tqdm(runs, desc="seeds"):
    start, row = Snapshot(training), []
    for level in BUG_LEVELS:
        before = training.model[2].weight.detach().clone()
        notes = Diary(train_frozen_)
        notes(training, tickets[level], STEPS)
        row.append(notes.ends[0])
        negative = tickets[level]["2"] & (before < 0)
        moved.append((training.model[2].weight.detach() != before)[negative].float().mean().item())
        start.rewind_()
    frozen.append(row)

frozen_mean, frozen_spread = mean_and_spread(frozen)
print(f"negative weights of the second layer that trained at all: {max(moved):.1%}")
print(f"{'density':>8}  {'your train_':>12}  {'weight < EPS':>12}  difference (test accuracy, %)")
for i, level in enumerate(BUG_LEVELS):
    right = torch.tensor([diary.ends[level] for _, _, diary in runs]).double()
    cost = 100 * (torch.tensor([row[i] for row in frozen]).double() - right)
    print(
        f"{densities[level]:8.1%}  {100 * right.mean():6.1f} ± {100 * right.std():3.1f}"
        f"  {100 * frozen_mean[i]:6.1f} ± {100 * frozen_spread[i]:3.1f}  {cost.mean():+6.1f} ± {cost.std():.1f}"
    )

# %% [markdown]
# Not one negative weight trained, and the network still learns. That is the trouble with this bug: nothing crashes. The dense network loses
# more than eight points, the ticket of 5 % nearly seventeen. Where the dense network has weights to spare, it hides the loss, and the bug looks like a
# property of sparse networks: "tickets do not work on my task".
#
# ## What to remember
#
# - Iterative magnitude pruning: train, drop a fraction of what is left by the *trained* weights, rewind to the *initial* ones, repeat.
# - The mask is the only thing that says what is gone. Zeros are not a mask, and `weight < EPS` freezes half of the network.
# - A training's state is model, buffers, optimiser, scheduler and data order. Test a snapshot by rewinding twice, to the last bit.
# - A ticket wins only against controls that differ from it in one thing: other weights, other connections, trained weights.
# - Where steps are large, go back to step $k$ and not to step 0.
#
# ## Further reading
#
# - [Frankle and Carbin 2019](https://arxiv.org/abs/1803.03635), *The lottery ticket hypothesis*: section 2 for the claim on fully connected networks, and the appendices for every
#   control that one may ask for.
# - [Frankle et al. 2020](https://arxiv.org/abs/1912.05671), *Linear mode connectivity and the lottery ticket hypothesis*: why one has to rewind to step $k$, by a test of whether
#   two trainings end in the same valley.
# - [Zhou et al. 2019](https://arxiv.org/abs/1905.01067), *Deconstructing lottery tickets*: what in the initial values counts. Often the sign alone.
# - [Liu et al. 2019](https://arxiv.org/abs/1810.05270), *Rethinking the value of network pruning*: the opposite view. With structured pruning and large learning rates, random weights do as well.
# - [Renda et al. 2020](https://arxiv.org/abs/2003.02389), *Comparing rewinding and fine-tuning in neural network pruning*: what to do if all you want is a good sparse network.
# - [open_lth](https://github.com/facebookresearch/open_lth): the authors' code. `pruning/sparse_global.py` is the step "drop 20 % of what is left".
#
# Next: [07 Minitron](../07_minitron/minitron.ipynb), in which whole neurons, heads and blocks go. A ticket is a sparse network, and sparse networks need special kernels to be fast; what is
# left there is a small *dense* network.
