# %% [markdown]
# # 17 · Combination
#
# **After this unit you can**
#
# - say what a decode step reads with weights, inputs and the cache sparse at once,
# - apply two techniques in both orders, and say what each of them is calibrated on,
# - share one budget of quality among several techniques,
# - find the points that are worth considering among many,
# - read off which technique pays at which batch and context,
# - test whether the errors of two techniques add up.
#
# About 90 minutes of exercises, then six experiments that use *your* functions, and a recipe of your own. The experiments take about five minutes on two cores.
#
# **Builds on** [04 SparseGPT](../04_sparsegpt/sparsegpt.ipynb) and [05 Wanda](../05_wanda/wanda.ipynb) (pruned weights), [11 Quest](../11_quest/quest.ipynb) (pages of a cache), [14 TEAL](../14_teal/teal.ipynb) (thresholds of inputs), [15](../15_two_four/two_four.ipynb) and [16](../16_sparse_gemv/sparse_gemv.ipynb) (what hardware reads, and the roofline).

# %% [markdown]
# ## Background
#
# There are three things to leave out when a model writes a token: weights that hardly change the outputs (pruning), inputs so small that their weights need not be read (contextual sparsity), and tokens of the past that the present one does not look at (the cache). Each has its own papers, its own models and its own measure of success, and nearly every paper measures its technique alone, on a dense model.
#
# The lecture ends with a promise: that combinations give the most. It is plausible, for the three save different bytes. It is not obvious. A pruned model has less to spare; a threshold that was right for the dense model may be wrong for the pruned one; two formats that each save half of the bytes may not fit together at all. And the simplest rival needs no new kernel: a smaller dense model.
#
# So this unit asks what one should ask of every such promise. What does it save, counted and not computed? What does it cost beside the sum of its parts? And is there something simpler that is as good?

# %% [markdown]
# ## The question
#
# A decode step reads weights and caches. 2:4 stores fewer weights, thresholds skip those of small inputs, Quest reads a part of the cache. What do they give together?
#
# **Conventions of the course.** Matrices are `(outputs, inputs)`, calibration inputs `(tokens, inputs)`. *Sparsity* and *level* are shares that go. A number has 2 bytes unless something else is said.

# %%
import itertools
import math
import os

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from autograder import check
from sparsity_edu import plots

# small experiments, for an automatic test and while nbgrader runs this notebook
FAST = bool(os.environ.get("SPARSITY_EDU_FAST") or os.environ.get("NBGRADER_EXECUTION"))
plots.style()

# %% [markdown]
# ## What a step reads
#
# All sequences of a batch use the same weights, so these are read once. But then an input can be skipped only if *no* sequence needs it. If a share $p$ of the inputs is small, independently in each of $b$ sequences, the share that is read is
#
# $$ 1 - p^b \qquad\text{and, where four inputs are skipped as one,}\qquad 1 - (p^b)^4 $$
#
# Why four as one? A matrix in 2:4 is stored output by output, and the two values of a group stand for four inputs: neither can be left out unless all four inputs are small. A bitmap with its values can as well be stored input by input, and then each input is skipped by itself.
#
# ![A matrix of eight inputs four times over. With small inputs skipped, four of eight columns are read. In 2:4, two weights of every four are stored, with their places. With both, the stored weights of small inputs lie between others and are read too, so nothing more is saved. The cache beside them is other bytes, and what is saved there is saved besides.](one_saving.svg)
#
# *Skipped inputs and 2:4 share one saving; the cache has its own.*
#
# Caches are not shared. Each sequence reads its own: all tokens, or as many as H2O or a window hold, or with Quest the bounds of all pages and the tokens of the chosen ones.


# %% exercise="combination.read"
def step_bytes(
    weights: int,
    stored: str | float,
    skipped: float,
    batch: int,
    context: int,
    kv: int,
    page: int | None = None,
    budget: int | None = None,
    itemsize: int = 2,
) -> tuple[float, float]:
    """Bytes that a decode step of a batch reads.

    Args:
        weights: how many there are, zeros included; a multiple of 4.
        stored: "dense"; "2:4", two values of every four and 2 bits for the place of each; or a
            sparsity from 0 to below 1: the values that are not zero and, even at 0, one bit for each
            position. 2:4 is read output by output, the others input by input.
        skipped: the chance that an input is small, from 0 to 1, independently from input to input
            and from sequence to sequence. What is stored of an input, bits included, is skipped if
            the input is small in all sequences; in 2:4 only if the four inputs of a group all are.
        batch: sequences, of which each decodes one token.
        context: tokens in the cache of each.
        kv: numbers that a token leaves in its cache, of keys and values.
        page: tokens of a page, for Quest; never without a budget.
        budget: the most tokens whose keys and values a sequence reads. None: it reads all.
        itemsize: bytes of a number, be it a weight, in a cache or in a bound.

    Returns:
        (of weights, of caches), floats. Weights are read once for all sequences, each sequence reads
        its own cache. With pages it reads besides the two bounds of every page in the context, also
        if the page is not full, and also if the budget holds the whole context. Both bounds of a
        page are together kv numbers, as each is as large as a key.
    """
    ### BEGIN SOLUTION
    sparse = {"dense": itemsize, "2:4": itemsize / 2 + 1 / 8}
    one = sparse[stored] if stored in sparse else (1 - stored) * itemsize + 1 / 8
    together = 4 if stored == "2:4" else 1
    tokens = context if budget is None else min(context, budget)
    if page is not None:
        tokens += math.ceil(context / page)  # bounds are as large as a token's key and value
    needed = 1 - skipped ** (batch * together)
    return weights * one * needed, float(batch * tokens * kv * itemsize)
    ### END SOLUTION


# %% [markdown]
# ## Which comes first?
#
# Wanda prunes by the norms of inputs. A threshold is a quantile of inputs. Both want inputs of the model that will run, and that is the sparse one. They cannot both come last:
#
# - *Weights first*: prune both layers, each on what the pruned layers before it make of the calibration inputs; then take thresholds of what the pruned layers read. The norms were those of all inputs, though small ones will be skipped.
# - *Activations first*: take thresholds of what the dense layers read; then prune, each layer on what is left of its inputs. The norms are right, but the thresholds are those of inputs that pruning changes.


# %% exercise="combination.order"
def combine(
    W1: torch.Tensor,
    W2: torch.Tensor,
    X: torch.Tensor,
    sparsity: float,
    level: float,
    first: str,
) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Prune two layers, y = W2 silu(W1 x), and find the thresholds of their inputs.

    To prune W on inputs: of each output the int(sparsity * number of inputs) weights go that have
    the least |W| times norm of the input over tokens. The threshold of inputs: the k-th smallest of
    their sizes |x|, over all tokens, with k = int(level * how many numbers they are), or 0.0 if k is
    0. An input is small if |x| is not above its threshold.

    Args:
        W1: (inner, inputs) of any floating type; must not be changed.
        W2: (outputs, inner) of the same type; must not be changed.
        X: (tokens, inputs) of the same type, what reaches the layers; must not be changed.
        sparsity: from 0 to below 1.
        level: from 0 to below 1.
        first: "weights": prune W1 on X, and W2 on what the pruned W1 makes of X, which is
            silu(W1 x). Then take the thresholds, t1 of X, t2 of what the pruned W1 makes of X.
            "activations": take t1 of X, t2 of what the dense W1 makes of X. Then prune W1 on X with
            zeros for what is small, and W2 on what the pruned W1 makes of that, likewise with zeros
            for what is not above t2.

    Returns:
        (W1, W2, t1, t2): new matrices of the type of the old ones, in which zeros stand for what is
        gone and all else is as it was; and floats. Norms, thresholds and what W1 makes are worked
        out in float32 or better, whatever the type.
    """

    ### BEGIN SOLUTION
    def pruned(W, x):
        score = W.float().abs() * x.norm(dim=0)
        drop = score.argsort(dim=1)[:, : int(sparsity * W.shape[1])]
        return W.scatter(1, drop, 0.0)

    def threshold(x):
        k = int(level * x.numel())
        return x.abs().flatten().kthvalue(k).values.item() if k else 0.0

    def made(W, x):
        return F.silu(x @ W.float().T)

    def left(x, t):
        return x.masked_fill(x.abs() <= t, 0.0)

    X = X.float()
    t1, t2 = threshold(X), threshold(made(W1, X))
    if first == "activations":
        X = left(X, t1)
    W1 = pruned(W1, X)
    H = made(W1, X)
    if first == "activations":
        H = left(H, t2)
    else:
        t2 = threshold(H)
    return W1, pruned(W2, H), t1, t2
    ### END SOLUTION


# %% [markdown]
# ## One budget of quality
#
# Say a model may lose 0.1 nats. Which sparsity, level and budget of tokens then give the cheapest step? Suppose that errors add up (the last exercise looks whether they do). Then each technique has a list of damages, one for each of its settings, and a combination of settings fits if its damages sum to no more than the budget.
#
# Costs do not add up as nicely: 2:4 saves less where inputs are skipped, and the other way round. So try all combinations. There are not many.


# %% exercise="combination.allocate"
def allocate(cost, damage: list[list[float]], budget: float) -> tuple[int, ...]:
    """The cheapest settings within a budget of quality.

    Args:
        cost: a function of a tuple of settings, one int for each technique, to bytes, an int. It
            takes long: call it once for each tuple that is within the budget, and for no other. Do
            not expect anything of it: more damage need not be cheaper.
        damage: for each technique (one or more) a list of by how much each of its settings raises
            the loss. Setting 0 is without the technique and has damage 0. Others may be negative;
            techniques may have different numbers of settings. Must not be changed.
        budget: the most that the damages of a tuple may sum to. It may be negative.

    Returns:
        The settings of least cost among all tuples within the budget. Of equal cost, those with the
        least sum of damages; if that is equal too, those that are first in lexicographic order.

    Raises:
        ValueError: no tuple is within the budget.
    """
    ### BEGIN SOLUTION
    found = []
    for settings in itertools.product(*(range(len(losses)) for losses in damage)):
        hurt = sum(losses[i] for losses, i in zip(damage, settings))
        if hurt <= budget:
            found.append((cost(settings), hurt, settings))
    if not found:
        raise ValueError(f"no settings are within a budget of {budget}")
    return min(found)[-1]
    ### END SOLUTION


# %% [markdown]
# ## The front
#
# Many recipes give many points of cost and loss. Most of them nobody needs, as another one is cheaper *and* better. The rest is the *Pareto front*.


# %% exercise="combination.front"
def front(costs: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """The points that no other point beats.

    Args:
        costs: (points,) of any floating or whole type; must not be changed.
        losses: (points,) likewise, perhaps of another type; must not be changed.

    Returns:
        int64 (points of the front,): indices of the points for which there is no other that is at
        most as costly and at most as lossy, and better in one of both. So points that are equal in
        both are on the front together, or not at all. They come by rising cost, those of equal cost
        by rising index. A point that is NaN in either is never on the front and beats nobody;
        infinity, of either sign, is a number like any other. There may be no points at all.
    """
    ### BEGIN SOLUTION
    no_worse = (costs[:, None] <= costs) & (losses[:, None] <= losses)  # row than column
    better = (costs[:, None] < costs) | (losses[:, None] < losses)
    beaten = (no_worse & better).any(dim=0)
    index = (~beaten & ~costs.isnan() & ~losses.isnan()).nonzero().flatten()
    return index[costs[index].argsort(stable=True)]
    ### END SOLUTION


# %% [markdown]
# ## Which technique pays
#
# Bytes are not always what takes the time. A step multiplies all weights by the inputs of each sequence, and then attends, one after the other. Each of these two parts takes the longer of reading and computing, the *roofline* of unit 16:
#
# $$ t = \max\!\Big(\frac{\text{bytes}}{\text{bandwidth}}, \frac{\text{operations}}{\text{peak}}\Big)_{\text{weights}} + \max\!\Big(\frac{\text{bytes}}{\text{bandwidth}}, \frac{\text{operations}}{\text{peak}}\Big)_{\text{attention}} $$
#
# Two models and two machines in these terms. The GPU's numbers are those of an H100's data sheet (SXM, bfloat16, without sparsity); the CPU is a small one in round numbers.

# %%


def shape_of(hidden, heads, kv_heads, head_dim, inner, layers, words):
    """What a decoder with SwiGLU reads and computes for a token."""
    projections = (
        2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim + 3 * hidden * inner
    )
    return {
        "weights": layers * projections + hidden * words,  # the output layer is read as well
        "kv": layers * 2 * kv_heads * head_dim,
        "attention": layers * 4 * heads * head_dim,  # two products, two operations for each number
    }


MODELS = {
    "SmolLM2-135M": shape_of(576, 9, 3, 64, 1536, 30, 49152),
    "Llama-3-8B": shape_of(4096, 32, 8, 128, 14336, 32, 128256),
}
MACHINES = {
    "a GPU": {"bandwidth": 3.35e12, "peak": 989e12},
    "a CPU": {"bandwidth": 2e10, "peak": 1e11},
}


# %% exercise="combination.speedup"
def speedups(
    batch: int,
    context: int,
    model: dict[str, float],
    machine: dict[str, float],
    level: float,
    page: int,
    budget: int,
) -> dict[str, float]:
    """How many times as fast as the dense model a decode step is at best with one technique alone.

    Args:
        batch: sequences.
        context: tokens in the cache of each; may be 0.
        model: "weights", "kv" (numbers that a token leaves in the cache) and "attention"
            (operations of a query with a token of its context). All numbers have 2 bytes. Must not
            be changed.
        machine: "bandwidth" in bytes per second, "peak" in operations per second. Must not be
            changed.
        level: the share of small inputs, from 0 to below 1, independent as in your step_bytes.
        page: tokens of a page.
        budget: the most tokens that Quest attends to.

    Returns:
        By technique, the time of the dense step divided by that with
        "2:4": weights in 2:4,
        "skip": small inputs skipped, of dense weights,
        "pages": Quest, with page and budget.
        The time is that of the weights plus that of attention, each the longer of bytes / bandwidth
        and operations / peak. Bytes are those of your step_bytes. Operations of the weights are 2 for
        each weight and sequence; with 2:4 half as many; with skipped inputs 1 - level times as many,
        since each sequence multiplies only its own, even if more is read. Operations of attention
        are model["attention"] for each sequence and token that it reads, and the bounds of a page
        count as one token. It may be below 1.
    """

    ### BEGIN SOLUTION
    def seconds(operations, tokens, stored="dense", skipped=0.0, **pages):
        weights, caches = step_bytes(
            model["weights"], stored, skipped, batch, context, model["kv"], **pages
        )
        products, attention = (
            2 * batch * model["weights"] * operations,
            batch * tokens * model["attention"],
        )
        of_weights = max(weights / machine["bandwidth"], products / machine["peak"])
        return of_weights + max(caches / machine["bandwidth"], attention / machine["peak"])

    read = math.ceil(context / page) + min(context, budget)
    dense = seconds(1, context)
    return {
        "2:4": dense / seconds(0.5, context, stored="2:4"),
        "skip": dense / seconds(1 - level, context, skipped=level),
        "pages": dense / seconds(1, read, page=page, budget=budget),
    }
    ### END SOLUTION


# %% [markdown]
# ## Do errors add up?
#
# The search above took damages for additive. Whether they are can be measured: with the losses of the same texts for the dense model, with $a$ alone, with $b$ alone and with both,
#
# $$ \underbrace{(\text{both} - \text{dense})}_{\text{what they do together}} - \underbrace{\big((a - \text{dense}) + (b - \text{dense})\big)}_{\text{the sum of what each does}} = \text{both} - a - b + \text{dense} $$
#
# More than 0: together they hurt more. Is it more than chance? Losses of texts differ by far more than techniques change them, so take the difference *text by text*; then what a text is like drops out.


# %% exercise="combination.interaction"
def interaction(
    dense: torch.Tensor, a: torch.Tensor, b: torch.Tensor, both: torch.Tensor
) -> tuple[float, float]:
    """By how much the loss with two techniques exceeds what it would be if errors added up.

    Args:
        dense: (texts,) losses of any floating type, without either technique. No argument may be
            changed.
        a: (texts,) of the same texts, with the first technique.
        b: (texts,) with the second one.
        both: (texts,) with both.

    Returns:
        (mean, standard error), floats: over texts, of both - a - b + dense, each converted to
        float64 before anything is subtracted. The standard error of the mean is the standard
        deviation, with n - 1 degrees of freedom, divided by the root of n.

    Raises:
        ValueError: there are fewer than two texts, or shapes are not (texts,), the same for all four.
    """
    ### BEGIN SOLUTION
    shapes = {x.shape for x in (dense, a, b, both)}
    if len(shapes) > 1 or dense.ndim != 1 or len(dense) < 2:
        raise ValueError(f"losses must be (texts,), of two texts or more, got {shapes}")
    gaps = both.double() - a.double() - b.double() + dense.double()
    return gaps.mean().item(), gaps.std().item() / len(gaps) ** 0.5
    ### END SOLUTION


# %% [markdown]
# ## Experiment 1: who pays where
#
# Your `speedups` over batches and contexts, for Llama-3-8B on the GPU: level 50 %, pages of 16 tokens, a budget of 2,048.
#
# **Predict, then run.** At batch 1 and 1,000 tokens, which of the three is ahead? And at batch 16 and 128,000 tokens?
#
# <details><summary>Answer</summary>
#
# At batch 1 the weights are nearly all that is read, so half of the inputs skipped is nearly a factor of 2, and 2:4, which reads 0.5625 of the bytes, nearly 1.78. With 16 sequences an input is skipped only if it is small in all of them: nothing is gained. By then the caches are most of the bytes, and only pages read less of these.
#
# </details>

# %% tags=["experiment"]
BATCHES = (1, 16) if FAST else (1, 2, 4, 8, 16, 32, 64, 128)
CONTEXTS = (1000, 100_000) if FAST else tuple(1000 * 2**i for i in range(8))
model, machine = MODELS["Llama-3-8B"], MACHINES["a GPU"]
gains = {
    (batch, context): speedups(batch, context, model, machine, 0.5, 16, 2048)
    for batch in BATCHES
    for context in CONTEXTS
}
for (batch, context), gain in gains.items():
    if batch in (1, 16, 128) and context in (CONTEXTS[0], CONTEXTS[-1]):
        cells = ", ".join(f"{name} {times:.2f}" for name, times in gain.items())
        print(f"{batch:>4} sequences of {context:>7,} tokens: {cells}")

fig, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True)
for ax, name in zip(axes, ("2:4", "skip", "pages")):
    grid = [[gains[batch, context][name] for context in CONTEXTS] for batch in BATCHES]
    image = ax.imshow(grid, origin="lower", vmin=1, vmax=2, cmap="viridis", aspect="auto")
    ax.set_xticks(range(len(CONTEXTS)), [f"{context // 1000}k" for context in CONTEXTS])
    ax.set_yticks(range(len(BATCHES)), BATCHES)
    ax.set(xlabel="context", title=name)
    ax.grid(False)
    for y, row in enumerate(grid):
        for x, times in enumerate(row):
            ink = "white" if times < 1.6 else "black"
            ax.text(x, y, f"{times:.2f}", ha="center", va="center", color=ink, fontsize=7)
axes[0].set(ylabel="batch")
fig.colorbar(image, ax=axes, label="times as fast, up to 2 and more")
plt.show()

fig, ax = plt.subplots(figsize=(6, 3.4))
for batch, color in zip((1, 16), (plots.BLUE, plots.VERMILLION)):
    read = [step_bytes(model["weights"], "dense", 0, batch, n, model["kv"]) for n in CONTEXTS]
    share = [caches / (weights + caches) for weights, caches in read]
    ax.plot(CONTEXTS, share, "o-", ms=4, color=color, label=f"batch {batch}")
ax.set(xlabel="context", ylabel="caches' share of the bytes", xscale="log", ylim=(0, 1))
ax.legend()
plt.show()

# %% [markdown]
# ## Experiment 2: predicted and counted
#
# A *recipe* says in plain data what is done to a model. `make` applies it, and `running` lets the model run so: layers really skip what their inputs do not need, the cache really reads few pages, and all bytes are counted while it writes. Beside them stands what your `step_bytes` predicts. The embedding, which is the output layer too, and the norms are read whole whatever the recipe says.
#
# **Predict, then run.** Quest's budget is 128 tokens of 1,024, in pages of 16. Your formula says that a step reads the bounds of 64 pages and 128 tokens, 19 % of the cache. SmolLM2 has three query heads for each head of keys. Will the count be more or less?
#
# <details><summary>Answer</summary>
#
# More. Each *query* head chooses its own pages, and the three that share keys want different ones: at worst $64 + 3 \cdot 128$ vectors of keys and values, 44 % of the cache. The formula counts a budget for each head of keys. A choice for all three at once (`group="sum"` in `QuestCache`) would read what the formula says, at the price of pages that none of the three wanted most.
#
# </details>

# %% tags=["experiment"]
from dataclasses import replace

from sparsity_edu import models
from sparsity_edu.combine import Recipe, evaluation, make, running
from sparsity_edu.data import python_docs
from sparsity_edu.models.layers import prunable_layers

NAME, CONTEXT, BUDGET = ("tiny", 96, 32) if FAST else ("smollm2", 1024, 128)
SHORT = {"windows": 2, "window": 128 if FAST else 512}
SKIP, QUEST = {"sparsity": 0.4}, {"policy": "quest", "budget": BUDGET}


def made(name, **sections):
    """A fresh model with a recipe."""
    recipe = Recipe.of({"name": name, "calibration": SHORT} | sections)
    return make(models.load(NAME), recipe, progress=False)


@torch.no_grad()
def counted(one, count=8):
    """Bytes of weights and cache of a token behind a text."""
    ids = models.tokens(one.tokenizer, python_docs("validation"), CONTEXT)[None]
    with running(one) as run:
        cache = run.new_cache()
        for _ in range(count + 1):  # the prompt, then token by token
            logits = one.model(ids, past_key_values=cache, logits_to_keep=1).logits
            ids = logits.argmax(dim=-1)
        return run.traffic.per_step, cache.bytes_read


print(f"{NAME}, {CONTEXT:,} tokens, MB a token: predicted, counted")
for level, sections in ((0.0, {}), (SKIP["sparsity"], {"activations": SKIP})):
    one = made("some", **sections)
    size = sum(layer.weight.numel() for layer in prunable_layers(one.model).values())
    rest = sum(p.numel() for p in one.model.parameters()) - size
    config = one.model.config
    kv = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    for pages in ({}, {"page": 16, "budget": BUDGET}):
        recipe = Recipe.of({"cache": QUEST} if pages else {})  # how it runs
        read = counted(replace(one, recipe=recipe))
        told = step_bytes(size, "dense", level, 1, CONTEXT + 8, kv, itemsize=4, **pages)
        name = " + ".join(["skip"] * bool(level) + ["quest"] * bool(pages)) or "dense"
        print(
            f"{name:<12} weights {(told[0] + 4 * rest) / 1e6:6.1f} {read[0] / 1e6:6.1f}"
            f"   cache {told[1] / 1e6:5.1f} {read[1] / 1e6:5.1f}"
        )

# %% [markdown]
# The weights of skipped inputs come out as predicted, for a share of inputs is what the threshold was made for; it is off a little as this text is not the calibration text. The cache is the lesson: a formula of one head was taken for a model with groups of heads.
#
# And 2:4? A packed matrix is read output by output, and a skipped input saves nothing of it. `running` gives each projection *one* product, whichever reads less: 2:4 reads 0.53 of a float32 matrix, thresholds at 40 % read 0.6, so 2:4 it is, and the small inputs are then zeros that save nothing. Weights and inputs share one saving. What multiplies is what saves different bytes: weights *or* inputs with the cache, and a smaller dense model with everything.

# %% [markdown]
# ## Experiment 3: which comes first?
#
# Your `combine` on real matrices: the gate and down projections from the middle of the model, as $y = W_2 \, \text{silu}(W_1 x)$, calibrated on one text and tried on another. The error is that of the outputs when small inputs are skipped, $\lVert y' - y \rVert^2 / \lVert y \rVert^2$. *Apart* is what one gets by calibrating both on the dense model.
#
# **Predict, then run.** Both orders ask for 50 % small inputs of the second layer. Which of them gets what it asks for?
#
# <details><summary>Answer</summary>
#
# *Weights first*: its thresholds are quantiles of what the pruned layers really read. With *activations first* the thresholds are those of the dense model, and the pruned layer before makes smaller inputs: more than 50 % stay below.
#
# </details>

# %% tags=["experiment"]
CELLS = ((0.5, 0.5),) if FAST else ((0.3, 0.25), (0.3, 0.5), (0.5, 0.25), (0.5, 0.5))
dense = models.load(NAME)
mlp = dense.model.model.layers[len(dense.model.model.layers) // 2].mlp


@torch.no_grad()
def inputs_of(mlp, split, count):
    """What reaches an MLP while the model reads a text, (tokens, inputs)."""
    seen = []
    handle = mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    for window in models.tokens(dense.tokenizer, python_docs(split), count).view(-1, 128):
        dense.model(window[None])
    handle.remove()
    return torch.cat(seen)


X, Y = (inputs_of(mlp, split, 512 if FAST else 2048) for split in ("calibration", "validation"))
W1, W2 = mlp.gate_proj.weight.detach(), mlp.down_proj.weight.detach()


def run(W1, W2, t1=0.0, t2=0.0):
    """The outputs, and the share of the second layer's inputs that is small."""
    H = F.silu(Y.masked_fill(Y.abs() <= t1, 0.0) @ W1.T)
    small = H.abs() <= t2
    return H.masked_fill(small, 0.0) @ W2.T, small.float().mean().item()


y = run(W1, W2)[0]
print("sparsity, level: error, small inputs of the second layer")
for sparsity, level in CELLS:
    ways = {
        f"{first} first": combine(W1, W2, X, sparsity, level, first)
        for first in ("weights", "activations")
    }
    pruned = combine(W1, W2, X, sparsity, 0.0, "weights")
    ways["apart"] = (*pruned[:2], *combine(W1, W2, X, 0.0, level, "weights")[2:])
    results = {name: run(*way) for name, way in ways.items()}
    row = ", ".join(
        f"{name} {((out - y).norm() / y.norm()) ** 2:.3f} {small:.0%}"
        for name, (out, small) in results.items()
    )
    print(f"{sparsity:.0%}, {level:.0%}: {row}")

# %% [markdown]
# ## Experiment 4: do errors add up, and is it worth it?
#
# Three techniques, each alone, in pairs, and all together: Wanda at 30 %, small inputs skipped at 40 %, and Quest with an eighth of the text. Losses are those of tokens that are read one by one, with all that the recipe says really done; your `interaction` compares them text by text, and your `front` says which recipes are worth considering.
#
# **Predict, then run.** Which pair should have errors that add up best?
#
# <details><summary>Answer</summary>
#
# Those that do not meet, one would say: Quest changes which tokens attention reads, Wanda and thresholds change what every projection computes. But look at the errors. Eight short texts tell none of the three from 0. The record of the next experiment, with four times as many tokens, can: thresholds and Quest add up, and 2:4 is worse with either.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.kernels.roofline import this_machine

PARTS = {
    "wanda": {"weights": {"method": "wanda", "sparsity": 0.3}},
    "skip": {"activations": SKIP},
    "quest": {"cache": {"policy": "quest", "budget": 32}},
}
questions = evaluation.Questions.of(
    dense.tokenizer, python_docs("validation"), windows=2 if FAST else 8, window=64 if FAST else 128,
    length=128 if FAST else 256, trials=0, choices=0, count=4,
)  # fmt: skip
machine, rows = this_machine(megabytes=64), {}
for weights, activations in itertools.product(((), ("wanda",)), ((), ("skip",))):
    names = weights + activations
    one = made("some", **{key: value for name in names for key, value in PARTS[name].items()})
    for cache in ((), ("quest",)):  # which is a matter of how the model runs
        together = names + cache
        sections = {key: value for name in together for key, value in PARTS[name].items()}
        recipe = Recipe.of({"name": " + ".join(together) or "dense"} | sections)
        row = evaluation.evaluate(replace(one, recipe=recipe), questions, machine, progress=False)
        rows[together] = row
        print(f"{row.recipe:<22} loss {row.loss:.3f}, {row.read / 1e6:5.1f} MB a token")

losses = {together: torch.tensor(row.losses) for together, row in rows.items()}
print()
for pair in itertools.combinations(PARTS, 2):
    alone = [losses[(name,)] for name in pair]
    mean, error = interaction(losses[()], *alone, losses[pair])
    total = sum((one - losses[()]).mean().item() for one in alone)
    print(f"{' + '.join(pair):<15} sum {total:+.3f}, beyond it {mean:+.3f} +- {error:.3f}")

costs = torch.tensor([row.read for row in rows.values()], dtype=torch.float64)
means = torch.tensor([row.loss for row in rows.values()], dtype=torch.float64)
on = front(costs, means).tolist()
fig, ax = plt.subplots(figsize=(7, 3.8))
ax.step(costs[on] / 1e6, means[on], where="post", color=plots.BLUE, lw=1.2)
names = [row.recipe for row in rows.values()]
for i in range(len(names)):
    ax.plot(costs[i] / 1e6, means[i], "o", color=plots.BLUE if i in on else plots.GREY)
ax.set(xlabel="MB read for a token", ylabel="loss, nats per token")
plots.names(ax, {name: (costs[i].item() / 1e6, means[i].item()) for i, name in enumerate(names)})
plt.show()
print("on the front:", "; ".join(names[i] for i in on))

# %% [markdown]
# ## Experiment 5: the front of a whole model
#
# Sixteen recipes for SmolLM2, and three of them calibrated on other texts, take an hour or two on one core. So the command line has measured them; the first line below is the command, and its table is what you read here. Your `front` says which recipes are worth considering, your `interaction` how far each combination is from the sum of its parts.
#
# **Predict, then run.** 2:4 and thresholds at 40 % read about as many bytes. Which of them costs more? And is a combination worse than the sum of its parts?
#
# <details><summary>Answer</summary>
#
# 2:4: a perplexity of 51, against 17 with thresholds and 14.9 dense. A mask is chosen once, for all texts; a threshold chooses anew for each token. Combinations are a little worse than the sum. 2:4 and thresholds lose 1.39 nats one by one, and 0.09 more together; 2:4 and Quest 1.33, and 0.08 more; thresholds and Quest 0.26, and 0.01 more, which is within the error.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.combine.evaluation import RECORD
from sparsity_edu.combine.recipe import FOLDER

record = {row.digest: row for row in evaluation.read(RECORD)}
recipes = {"dense": Recipe()} | {path.stem: Recipe.load(path) for path in sorted(FOLDER.glob("*"))}
table = {name: record[recipe.digest()] for name, recipe in recipes.items()}
print("sparsity-edu evaluate smollm2 --recipes sparsity_edu/combine --trials 8")
print(table["dense"].questions)

costs = torch.tensor([row.read for row in table.values()])
on = front(costs, torch.tensor([row.loss for row in table.values()])).tolist()
print(f"{'':<20} perplexity  found of 8  right of 40  MB read")
for i, (name, row) in enumerate(table.items()):
    print(
        f"{name:<20} {row.perplexity:10.2f} {row.found:11} {row.right:12} {row.read / 1e6:8.1f}"
        + "  on the front" * (i in on)
    )
evaluation.draw([replace(row, recipe=name) for name, row in table.items()], on, "SmolLM2")
plt.show()

print("nats: sum of the parts, and beyond it")
for name, recipe in recipes.items():
    if len(recipe.techniques) == 2:
        parts = [Recipe(**{kind: getattr(recipe, kind)}) for kind in recipe.techniques]
        four = [table["dense"], *(record[part.digest()] for part in parts), table[name]]
        mean, error = interaction(*(torch.tensor(row.losses) for row in four))
        total = sum(row.loss - four[0].loss for row in four[1:3])
        print(f"{name:<16} {total:+.3f}, {mean:+.3f} +- {error:.3f}")

GRID = (("two-four",), ("skip-25", "skip-40", "skip-50"), ("quest", "h2o"))
base = table["dense"]
damage = [[0.0, *(table[name].loss - base.loss for name in names)] for names in GRID]


def cost(settings):
    """Weights and inputs share one saving, the cache has its own."""
    used = [base, *(table[names[i - 1]] for names, i in zip(GRID, settings) if i)]
    return min(row.weights_read for row in used) + min(row.cache_read for row in used)


print("allocated, if damages add up:")
for budget in (0.02, 0.2, 0.5, 1.0):
    settings = allocate(cost, damage, budget)
    chosen = [names[i - 1] for names, i in zip(GRID, settings) if i]
    hurt = sum(losses[i] for losses, i in zip(damage, settings))
    print(
        f"{budget:.2f} nats: {' + '.join(chosen) or 'dense'}, {hurt:+.3f}, {cost(settings) / 1e6:.1f} MB"
    )

# %% [markdown]
# - **Thresholds carry this front.** They read as little as 2:4 and lose far less. With 2:4 only the point of fewest bytes is on the front, all three at once, at a perplexity of 75. This is a model of 135 million parameters, which was not trained for a pattern: larger ones lose less, and those that are retrained less still.
# - **Half of the weights, without a pattern, saves nothing here.** Its perplexity is 26 instead of 51, on disk it takes as little as 2:4, but no product here reads less of it. Formats without kernels save disks.
# - **Perplexity does not see retrieval.** H2O loses 0.07 nats, less than Quest, and reads a quarter of its bytes; of eight hidden lines it finds none, Quest five. With 2:4 and Quest together none is left, though 2:4 alone finds three.
# - **A search finds what nobody thought of.** For 0.5 nats your `allocate` takes thresholds at 40 % and H2O, 371 MB; for 1 nat thresholds at 50 % and H2O, 330 MB at a predicted loss of 0.51. Neither is among the sixteen. `sparsity-edu search` does the same with a model: it measures what it predicts to be best, and learns what pairs add.

# %% [markdown]
# ## Experiment 6: a smaller dense model, or a sparse larger one?
#
# Three ways to read 370 to 400 MB a token instead of 587: 2:4, half of the inputs skipped, and a dense model of 88 million parameters, cut out of this one as in [unit 07](../07_minitron/minitron.ipynb). Each was calibrated on three texts, which gives error bars. The cut model stands there once more, with 40 steps of distillation: half an hour on one core.
#
# **Predict, then run.** Order the four.
#
# <details><summary>Answer</summary>
#
# Skipped inputs 3.15, the cut model with distillation 3.45, 2:4 3.90, the cut model as it was cut 4.78; dense 2.70. The calibration text makes a difference of 0.02 to 0.07, far less than the method does.
#
# </details>

# %% tags=["experiment"]
WAYS = {"2:4": "two-four", "skip": "skip-50", "cut": "cut-88", "cut and taught": "cut-88-taught"}
fig, ax = plt.subplots(figsize=(6, 3.2))
for i, (way, stem) in enumerate(WAYS.items()):
    paths = [
        FOLDER / f"{stem}.toml",
        *sorted(FOLDER.with_name("other_texts").glob(f"{stem}-?.toml")),
    ]
    of_way = [record[Recipe.load(path).digest()] for path in paths]
    of_texts = torch.tensor([row.loss for row in of_way])
    spread = of_texts.std().item() if len(of_way) > 1 else math.nan
    print(
        f"{way:<15} {of_way[0].read / 1e6:6.1f} MB, loss {of_texts.mean():.3f}"
        + f" +- {spread:.3f} over {len(of_way)} calibration texts" * (len(of_way) > 1)
    )
    ax.plot([i] * len(of_way), of_texts, "o", ms=5, color=plots.COLORS[i])
    ax.errorbar(
        i,
        of_texts.mean(),
        spread if len(of_way) > 1 else None,
        fmt="_",
        ms=18,
        color=plots.COLORS[i],
    )
ax.axhline(table["dense"].loss, color=plots.GREY, ls=":", label="dense, 587 MB")
ax.set_xticks(range(len(WAYS)), WAYS)
ax.set(ylabel="loss, nats per token", title="370 to 400 MB read for a token")
ax.legend()
plt.show()

# %% [markdown]
# So the verdict depends on one question: may the model be trained?
#
# - **If it may not, skip inputs.** A model that was only cut is no use, and 2:4 is not much better. Thresholds change no weight at all.
# - **If it may, the dense model is the one to beat.** Forty steps, 80,000 tokens, take it from 4.72 to 3.45, past 2:4, and it is the only one of the four that finds all eight hidden lines. Minitron's authors train on billions of tokens. And it needs no kernel: it is as much faster for a batch and in a prompt, where thresholds gain nothing.
# - **What this does not show**: a 2:4 model that was retrained for as long, a larger model, an order among methods that differ by less than the bars.

# %% [markdown]
# ## A recipe of your own
#
# Write a recipe and see where it lands. This is open, and nobody grades it. A budget to try: 400 MB a token with SmolLM2 in float32, the least loss. What can be in a recipe stands at the top of `sparsity_edu/combine/recipe.py`, and the recipes that the course compares lie in `sparsity_edu/combine/recipes`. In a terminal,
#
#     sparsity-edu evaluate smollm2 --recipe mine.toml --out mine.csv
#
# measures perplexity, retrieval, multiple choice, bytes and time, and draws the front; a run that was stopped goes on where it was. A class's recipes in one folder can be compared on a text that nobody has seen, `--recipes FOLDER --text FILE`: they are plain data, and nobody's code is run.

# %% tags=["experiment"]
mine = {
    "weights": {"method": "wanda", "sparsity": 0.2},
    "activations": {"sparsity": 0.3},
    "cache": {"policy": "h2o", "budget": 32},
}
row = evaluation.evaluate(made("mine", **mine), questions, machine, progress=False)
base = rows[()]
print(
    f"loss {row.loss:.3f} beside {base.loss:.3f} dense; {row.read / 1e6:.1f} MB a token beside"
    f" {base.read / 1e6:.1f}"
)

# %% [markdown]
# ## What to remember
#
# - Weights are read once for a batch, caches for each sequence: thresholds pay for few sequences, pages for many and long ones.
# - What saves different bytes multiplies. What saves the same bytes does not: a projection is packed in 2:4 or skips inputs.
# - Each technique is calibrated on what it will meet, as far as the order allows: thresholds after weights.
# - Interactions are measured text by text, with an error bar. Where errors do not add up, a search over settings must measure and not only predict.
# - Count what is read. A formula is of the model that one had in mind.
#
# ## Further reading
#
# - [Liu et al. 2024, TEAL](https://arxiv.org/abs/2408.14690): what is left of the gain for a batch, and beside quantised weights.
# - [Mishra et al. 2021](https://arxiv.org/abs/2104.08378): what 2:4 can be used for, and what hardware asks of it.
# - [Tang et al. 2024, Quest](https://arxiv.org/abs/2406.10774): a step from end to end, also beside quantised weights.
# - [Muralidharan et al. 2024, Minitron](https://arxiv.org/abs/2407.14679): the rival of every sparse model, a smaller dense one. [Unit 07](../07_minitron/minitron.ipynb) builds it.
