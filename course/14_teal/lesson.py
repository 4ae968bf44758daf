# %% [markdown]
# # 14 · Activations: TEAL
#
# **After this unit you can**
#
# - turn a level, a share of inputs that is not to count, into a threshold as TEAL's authors do, and say when their rule and the plain quantile differ,
# - sparsify the inputs of a layer, in a prompt and in decoding,
# - calibrate a model layer by layer, on what its layers read while it is dense,
# - measure what sparse inputs do to a block, and find levels for its projections by a greedy search,
# - count what a token reads, say how fast decoding can become, and compare that with a clock.
#
# About 100 minutes of exercises, then five experiments that use *your* functions. They take about three minutes on two cores; longer measurements are drawn from a record.

# %% [markdown]
# ## The question
#
# To decode a token, every weight of a model is read once, and multiplied by one input. Reading takes the time. If an input is zero, the weights that it meets need not be read: a whole column of the matrix.
#
# With ReLU most inputs of a down projection *are* zero. Today's models have SwiGLU, and hardly any. But many are small. TEAL (Liu et al. 2024) takes all inputs below a threshold for zero, in *all* seven matrices of a block, without any training:
#
# $$ s_t(x)_i = \begin{cases} x_i & |x_i| > t \\ 0 & \text{else} \end{cases} \qquad\qquad y = W \, s_t(x) $$
#
# Which neurons will matter need not be guessed, for the inputs are there before the product begins. And the threshold does not depend on the token, so nothing has to be sorted. Three questions are left: which threshold gives a sparsity of 50 % (exercises 1, 2 and 4)? Should all matrices be as sparse (exercises 5 and
# 6)? And what is gained (exercise 7)?
#
# TEAL's paper says: 25 % costs next to nothing, 50 % little; decoding is 1.53 times as fast at 40 % and 1.8 times at 50 %. That is for models of 7 to 70 billion parameters, on GPUs.
#
# **Conventions of the course.** Inputs are `(batch, tokens, channels)`. A *level* is the share of a layer's inputs that is asked to go, a *threshold* is what $|x|$ must exceed. Seven projections of a block have names: `q`, `k`, `v`, `o`, `gate`, `up`, `down`. Matrices are `(outputs, inputs)`.

# %%
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
# ## From inputs to a histogram
#
# The thresholds for *all* levels are wanted, since a search will try many. So the authors keep a histogram of each layer's inputs rather than the inputs: 10,000 counts for a million numbers. It has
#
# - all inputs with their *signs*,
# - bins of equal width, but for the first and the last one: these two hold the outliers, 1 % of the inputs on either side. Otherwise a single input of 50 would make all bins so wide that nearly everything fell into three of them,
# - for each bin its middle, which stands for all that is in it.
#
# With $a$ the sorted inputs and $f = \lfloor 0.01 \, n \rfloor$ the edges are
#
# $$ a_0, \quad \underbrace{a_f, \; \dots, \; a_{n-f}}_{\text{bins} - 1 \text{ in equal steps}}, \quad a_{n-1} $$


# %% exercise="teal.histogram"
def histogram(
    x: torch.Tensor, bins: int = 10_000, outliers: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many inputs are in each bin.

    Args:
        x: float32 inputs in any shape; must not be changed.
        bins: at least 3, the two of the outliers among them.
        outliers: the share of inputs that these two have on either side; outliers * n is at least 1.

    Returns:
        (counts, centers): int64 (bins,) and float32 (bins,), the middles of the bins. The bins + 1
        edges are the least input, bins - 1 numbers in equal steps from a[f] to a[n - f] with f =
        int(outliers * n) and a the n sorted inputs (a[f] is the one behind the f least), and the
        largest input. An input that equals an edge belongs to the bin above, the largest to the last.
    """
    ### BEGIN SOLUTION
    a = x.flatten().sort().values
    few = int(outliers * len(a))
    inner = torch.linspace(a[few].item(), a[-few].item(), bins - 1)
    edges = torch.cat([a[:1], inner, a[-1:]])
    below = torch.searchsorted(a, edges)
    below[-1] = len(a)  # the last bin has both its edges
    return below.diff(), (edges[:-1] + edges[1:]) / 2
    ### END SOLUTION


# %% [markdown]
# ## From a histogram to a threshold
#
# A share $s$ of the inputs is to lie between $-t$ and $t$. If the inputs are symmetric about zero, a share $(1 - s) / 2$ lies beyond $t$ on either side, so that $0.5 + s / 2$ lie below $t$. That is the authors' rule: the threshold is the quantile
#
# $$ q = 0.5 + \frac{s}{2} $$
#
# of the *signed* inputs. Sum the counts up to $C_i$, and take the first bin $i$ with $C_i \ge q \, n$. The threshold lies between the middle of the bin before and that of this one:
#
# $$ t = c_{i-1} + \frac{q n - C_{i-1}}{C_i - C_{i-1}} \, (c_i - c_{i-1}) $$


# %% exercise="teal.threshold"
def threshold(counts: torch.Tensor, centers: torch.Tensor, sparsity: float) -> float:
    """What inputs must exceed so that a share of them goes.

    Args:
        counts: (bins,) int64 of a histogram, some of which may be 0, but not the last; must not be
            changed.
        centers: (bins,) float32, the middles of the bins, ascending; must not be changed.
        sparsity: the share that is to go, at least 0. One above 1 counts as 1.

    Returns:
        A float: 0 if sparsity is 0, else the formula's. Where bin 0 is the first with enough it is
        that bin's middle. It may be negative: then nothing goes.
    """
    ### BEGIN SOLUTION
    total = counts.cumsum(0).double()
    wanted = (0.5 + min(sparsity, 1.0) / 2) * total[-1]
    i = int(torch.searchsorted(total, wanted))
    if i == 0:
        found = centers[0]
    else:
        part = (wanted - total[i - 1]) / (total[i] - total[i - 1])
        found = centers[i - 1] + part * (centers[i] - centers[i - 1])
    return float(found) if sparsity > 0 else 0.0
    ### END SOLUTION


# %% [markdown]
# Why not simply the quantile $s$ of $|x|$? It gives exactly the share that was asked for, whatever the inputs. Where inputs are symmetric, so does the authors' rule. Here are inputs that are not: a Laplace distribution, moved by more and more.

# %%
g = torch.Generator().manual_seed(0)
laplace = torch.empty(100_000).exponential_(generator=g) * (
    torch.randint(2, (100_000,), generator=g) * 2 - 1
)
print("asked for 50 %; what goes by the rule of the histogram, and by the quantile of |x|")
for shift in (0.0, 0.1, 0.3, 0.7, -0.7):
    x = laplace + shift
    limits = (threshold(*histogram(x), 0.5), x.abs().quantile(0.5).item())
    shares = [(x.abs() <= limit).float().mean().item() for limit in limits]
    print(f"   moved by {shift:+.1f}: {shares[0]:6.1%} {shares[1]:6.1%}")

# %% [markdown]
# Moved to the right, too much goes; moved to the left, too little. Experiment 1 will show how symmetric real inputs are.
#
# ## The sparsifier
#
# What of a prompt? All its tokens are read at once, so nothing is saved by skipping the inputs of some: it may as well stay dense. But then a test that reads a text in one go would measure a dense model. The authors' code is in between, and the paper's numbers are of that: of several tokens the **last half** loses its small inputs, the first
# half keeps all. A single token always loses them.


# %% exercise="teal.sparsify"
def sparsify(x: torch.Tensor, threshold: float) -> torch.Tensor:
    """Inputs without the small ones.

    Args:
        x: (batch, tokens, channels) float32; must not be changed.
        threshold: an input stays if |x| > threshold; none goes if it is negative.

    Returns:
        A new float32 tensor like x, in which small inputs are 0: those of the last tokens // 2
        tokens, or of the only one.
    """
    ### BEGIN SOLUTION
    tokens = x.shape[1]
    first = tokens - tokens // 2 if tokens > 1 else 0
    goes = x.abs() <= threshold
    goes[:, :first] = False
    return x.masked_fill(goes, 0.0)
    ### END SOLUTION


# %% [markdown]
# ## Layer by layer
#
# The thresholds of a model come from a text. It goes through the model part by part, as in unit 5. There pruned layers passed their errors on, so that later ones could see them. TEAL does without: all inputs are those of the *dense* model. So thresholds for all levels come from one pass.


# %% exercise="teal.layers"
def layer_thresholds(
    model: nn.Sequential, batches: list[torch.Tensor], sparsity: float
) -> dict[str, float]:
    """The threshold of each linear layer.

    Args:
        model: nn.Linear layers, and modules without them; must not be changed.
        batches: (sequences, tokens, channels) float32 each, what reaches the model; neither the
            list nor a tensor may be changed.
        sparsity: of all layers, above 0.

    Returns:
        Floats by the layers' names in the model (`named_children`), linear layers only: your
        threshold of your histogram, with 10,000 bins and 1 % of outliers, of all that reaches the
        layer in the dense model, from all batches.
    """
    ### BEGIN SOLUTION
    found = {}
    with torch.no_grad():
        for name, part in model.named_children():
            if isinstance(part, nn.Linear):
                x = torch.cat([batch.flatten() for batch in batches])
                found[name] = threshold(*histogram(x), sparsity)
            batches = [part(batch) for batch in batches]
    return found
    ### END SOLUTION


# %% [markdown]
# ## A block
#
# A decoder's block has seven projections. This one is Llama's, and SmolLM2's: attention with rotated queries and keys, then a SwiGLU MLP. You need not change it. `read(name, h)` says what the projection of that name reads in the place of `h`.


# %%
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


def block(x, weights, read):
    """(batch, tokens, hidden) to the same. weights: norm1, norm2, angles (positions, head_dim / 2), and seven matrices."""

    def project(name, h):
        return F.linear(read(name, h), weights[name])

    def rotated(h):  # (batch, heads, tokens, head_dim)
        a, b = h.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    angles = weights["angles"][: x.shape[1]]
    cos, sin, head_dim = angles.cos(), angles.sin(), 2 * angles.shape[1]
    h = F.rms_norm(x, x.shape[-1:], weights["norm1"], 1e-5)
    q, k, v = (project(name, h).unflatten(-1, (-1, head_dim)).transpose(1, 2) for name in "qkv")
    a = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True, enable_gqa=True)
    x = x + project("o", a.transpose(1, 2).flatten(2))
    h = F.rms_norm(x, x.shape[-1:], weights["norm2"], 1e-5)
    return x + project("down", F.silu(project("gate", h)) * project("up", h))


# %% [markdown]
# What do thresholds do to a block? Compare what it makes of the *same* input, dense and sparse, over the last quarter of the tokens. In the authors' code it is `torch.norm(dense - sparse, dim=1).mean()`, and dimension 1 is that of the *tokens*: for each channel of each sequence there is a norm over tokens, and then the mean of these,
#
# $$ \text{error} = \frac{1}{b \, d} \sum_{i=1}^{b} \sum_{j=1}^{d} \Big( \sum_{t} (y_{itj} - \hat y_{itj})^2 \Big)^{1/2} $$
#
# A norm for each token would be the more usual one.


# %% exercise="teal.error"
def block_error(
    x: torch.Tensor, weights: dict[str, torch.Tensor], thresholds: dict[str, float]
) -> float:
    """How far a block is off if its projections read sparsified inputs.

    Args:
        x: (batch, tokens, hidden) float32, what reaches the block, 4 tokens or more; must not be
            changed.
        weights: for `block`; must not be changed.
        thresholds: by projection; one that has none reads what is there.

    Returns:
        A float: the mean over channels and sequences of the norm, over the last tokens // 4 tokens,
        of the difference between the dense block's result and the sparse one's. Each projection
        reads what your sparsifier makes of its input; in a sparse block that is what the sparse
        projections before it have made.
    """
    ### BEGIN SOLUTION
    def read(name, h):
        return sparsify(h, thresholds[name]) if name in thresholds else h

    last = x.shape[1] // 4
    dense = block(x, weights, lambda name, h: h)
    off = (dense - block(x, weights, read))[:, -last:]
    return off.norm(dim=1).mean().item()
    ### END SOLUTION


# %% [markdown]
# ## Greedy levels
#
# Seven projections may have seven levels. What counts is what is skipped in all: the mean of the levels, weighted by the sizes of the matrices,
#
# $$ f(p) = \frac{\sum_j w_j \, p_j}{\sum_j w_j} $$
#
# with $w_j$ the number of weights of matrix $j$, in units of the queries' matrix. TEAL's search begins with all levels 0. In each step it tries for each projection to raise its level by $\delta / w_j$ (a matrix of twice the size rises by half as much, so that every rise saves the same), and keeps the rise with the least error. It ends as soon as $f(p)$ reaches the target.
#
# Then why not rank the projections once? Because a rise makes the next one dearer, and gate, up and down hurt the same thing.


# %% exercise="teal.allocate"
def allocate(
    x: torch.Tensor,
    weights: dict[str, torch.Tensor],
    distributions: dict[str, tuple[torch.Tensor, torch.Tensor]],
    target: float,
    step: float = 0.05,
) -> tuple[dict[str, float], float]:
    """Levels for the projections of a block.

    Args:
        x: (batch, tokens, hidden) float32, what reaches the block; must not be changed.
        weights: for `block`; must not be changed.
        distributions: (counts, centers) of what each projection reads: of those whose levels are
            looked for, seven or fewer. Must not be changed.
        target: the least share of the work to skip, above 0 and below 1.
        step: how much a projection as large as the queries' matrix rises; another one rises by
            step / w, with w its size in units of that matrix.

    Returns:
        (levels, effective). The levels by projection, of the first state of the search that skips
        the target or more, and what it skips: the mean of the levels, weighted by w, over the
        projections in distributions. A projection is raised while its level is below 1, so that its
        last rise may lead beyond 1. (Then it counts as it is, though its threshold is that of 1.)
    """
    ### BEGIN SOLUTION
    size = {name: weights[name].numel() / weights["q"].numel() for name in distributions}

    def error(levels):
        limits = {name: threshold(*distributions[name], p) for name, p in levels.items()}
        return block_error(x, weights, limits)

    levels, effective = dict.fromkeys(distributions, 0.0), 0.0
    while effective < target:
        raised = [name for name in levels if levels[name] < 1]
        trials = [levels | {name: levels[name] + step / size[name]} for name in raised]
        levels = min(trials, key=error)
        effective = sum(levels[name] * size[name] for name in size) / sum(size.values())
    return levels, effective
    ### END SOLUTION


# %% [markdown]
# ## What is read
#
# A level is the share of a matrix that is not read. But a model is more than its seven matrices in each layer: the output layer with its row for each word of the vocabulary, norms, and the keys and values in the cache are read for every token. If decoding does nothing but wait for memory, then it is at best as many times faster as fewer bytes are read.


# %% exercise="teal.read"
def token_cost(
    shapes: dict[str, tuple[int, int]],
    levels: dict[str, float],
    layers: int,
    rest: int,
    itemsize: int = 2,
) -> tuple[float, float]:
    """What is read to decode a token.

    Args:
        shapes: (outputs, inputs) of each projection; all layers have the same.
        levels: by projection, the same in all layers. One above 1 counts as 1, and a projection that
            is missing is read as a whole.
        layers: of the model.
        rest: numbers that are read beside the projections, in the whole model, whatever the levels.
        itemsize: bytes of a number.

    Returns:
        (bytes, bound): the bytes that are read for a token; and how many times as many the dense
        model reads, which bounds the speed-up.
    """
    ### BEGIN SOLUTION
    dense = layers * sum(n * k for n, k in shapes.values()) + rest
    kept = {name: 1 - min(levels.get(name, 0.0), 1.0) for name in shapes}
    sparse = layers * sum(n * k * kept[name] for name, (n, k) in shapes.items()) + rest
    return itemsize * sparse, dense / sparse
    ### END SOLUTION
