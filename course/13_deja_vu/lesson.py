# %% [markdown]
# # 13 · Deja Vu: what a token does not need
#
# **After this unit you can**
#
# - say what contextual sparsity is, and show what it has over a static mask of the same size,
# - label the heads and neurons that a token needs, and train a small predictor of them, with a loss that fits so few positives,
# - report recall, precision and sparsity, and say why recall alone is not enough,
# - run an MLP on chosen neurons without reading anything of the others, and show that it is exact when all active ones are chosen,
# - tell three conventions of lookahead apart, and say what each is for,
# - say at which sparsity perplexity begins to rise, for a perfect predictor and for a real one.
#
# About 75 minutes of exercises, then six experiments that use *your* functions. They take about two minutes on two cores; larger measurements are drawn from a record.
#
# **Builds on** [02 magnitude](../02_magnitude/magnitude.ipynb) (static pruning, which is the control here); from [11 Quest](../11_quest/quest.ipynb) the idea of choosing anew for each token helps. The kernels behind the last experiment are those of [16 Triton II](../16_sparse_gemv/sparse_gemv.ipynb).

# %% [markdown]
# ## Background
#
# Pruning ([unit 02](../02_magnitude/magnitude.ipynb) to [unit 05](../05_wanda/wanda.ipynb)) removes the same weights for every text, and a large language model cannot lose many of them without being trained again. Deja Vu ([Liu et al. 2023](https://arxiv.org/abs/2310.17157)) starts from another observation: for any *one* token most of a model hardly matters, but which part does matter depends on the token and its context. Nothing is removed; for each token a part is used.
#
# The paper finds that a token of OPT-175B needs about 20 % of the heads and 5 % of the neurons in the MLPs, and that the part can be predicted: by a small network for each layer, from a hidden state of an earlier layer, since hidden states change slowly from layer to layer (a cosine of about 0.99 between neighbours). So the prediction can run beside the layer before. The claims, as the lecture gives them: no loss of quality up to a sparsity of 75 %, and decoding with OPT-175B more than twice as fast as FasterTransformer and more than six times as fast as the usual Hugging Face code.
#
# OPT has ReLU. That matters, as you will see.
#
# ## The question
#
# In decoding a token reads every weight once. Would *this* token miss the weights that it meets with zeros?
#
# In a model with ReLU the zeros are there. A neuron of the MLP is a row of the first layer and a column of the second,
#
# $$ y = \sum_n W_{down}[:, n] \; \text{ReLU}(W_{up}[n] \cdot x + b_n) + b_{down} $$
#
# and where ReLU gives 0 neither of them matters. For a token most neurons are zero, but *which ones* depends on the token: **contextual sparsity**. There is some in attention as well: for a given token most heads may be
# left out with little harm.
#
# ![A token's MLP. Of eight neurons three are active; only their rows of the up projection and their columns of the down projection are read, and give exactly the dense result.](neurons.svg)
#
# *A neuron that is zero needs neither its row of* up *nor its column of* down.
#
# There is a catch. To know which neurons are zero one has to multiply by all rows of $W_{up}$, and then half of the work is done. So Deja Vu has a **predictor**: a small network that guesses
# the active neurons from a hidden state, before the MLP begins. What it must learn, how it is trained,
# what the MLP does with its guess, and from which hidden state it guesses: these are the exercises.
#
# **Conventions of the course.** Hidden states are `(tokens, hidden)`, labels and masks boolean `(tokens, units)`, where True means needed or used. *Units* are heads or neurons. Weights are as
# in `nn.Linear`: `up` and `gate` are `(neurons, hidden)`, `down` is `(hidden, neurons)`.
#
# **The model.** SmolLM2, like nearly all of today's models, has SiLU, and none of its neurons is ever zero. So this unit has `tiny-relu`: the tiny model of the other units with ReLU in place
# of SiLU, trained for a while with a second loss that makes zeros (`python -m sparsity_edu.activations.train_tiny_relu`). It has 12 blocks of 384 neurons and 4 heads.

# %%
import json
import os
import time
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from autograder import check
from sparsity_edu import plots

# small experiments, for an automatic test and while nbgrader runs this notebook
FAST = bool(os.environ.get("SPARSITY_EDU_FAST") or os.environ.get("NBGRADER_EXECUTION"))
torch.set_num_threads(1)  # layers as small as these gain nothing from a second thread
plots.style()

# %% [markdown]
# ## What a token needs
#
# A predictor learns from labels, which the dense model gives.
#
# - **Neurons.** A neuron is needed if ReLU leaves something of it: if what goes in is above 0. That label is exact, and the number of needed neurons depends on the token.
# - **Heads.** No head's output is zero. The label is a rank: the `int(share * heads)` heads with the largest outputs of attention, by l2 norm, before the output projection. Not by their
#   attention weights, which sum to 1 in every head. The share is a choice; the authors' code has 0.7 by default, and 0.3 in its scripts for OPT-66B.


# %% exercise="deja_vu.labels"
def needed(
    pre: torch.Tensor, outputs: torch.Tensor, share: float = 0.7
) -> tuple[torch.Tensor, torch.Tensor]:
    """The neurons and heads that each token needs.

    Args:
        pre: (tokens, neurons) float32, what goes into ReLU; must not be changed.
        outputs: (tokens, heads, head_dim) float32, what attention makes of each token, before the
            output projection. No two heads of a token are equally large. Must not be changed.
        share: of the heads that are needed.

    Returns:
        (neurons, heads), boolean, (tokens, neurons) and (tokens, heads), True = needed: neurons
        whose pre is above 0, and of each token's heads the int(share * heads) with the largest l2
        norm.

    Raises:
        ValueError: int(share * heads) is below 1 or above the number of heads.
    """
    ### BEGIN SOLUTION
    count = int(share * outputs.shape[1])
    if not 1 <= count <= outputs.shape[1]:
        raise ValueError(f"share must leave 1 to {outputs.shape[1]} heads, got {share}")
    sizes = outputs.norm(dim=-1)
    best = sizes.topk(count, dim=-1).indices
    return pre > 0, torch.zeros_like(sizes, dtype=torch.bool).scatter(-1, best, True)
    ### END SOLUTION


# %% [markdown]
# ## The predictor
#
# For each block and kind of unit a predictor of two matrices,
#
# $$ z = B \, (A x) \qquad A: r \times d, \quad B: \text{units} \times r $$
#
# without biases, and with *no activation between them*. (Readers of the authors' code have asked; `nn.Sequential(Linear, Linear)` is meant.) So it is one matrix of low rank. It costs
# $r \, (d + \text{units})$ multiplications where $W_{up}$ costs $d \cdot \text{units}$; the authors have $r = 1000$ for $d = 12288$.


# %% exercise="deja_vu.logits"
def predict(x: torch.Tensor, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Logits of the units that each token needs.

    Args:
        x: (tokens, inputs) float32 or float64, hidden states; must not be changed.
        A: (rank, inputs), of the same dtype; must not be changed.
        B: (units, rank), likewise.

    Returns:
        (tokens, units), of the same dtype: B (A x) of each token. The product B A is never made (in
        some checks it is infinite, where x is 0 or tiny), and in float64 all is done in float64. A
        gradient reaches x, A and B.
    """
    ### BEGIN SOLUTION
    return F.linear(F.linear(x, A), B)
    ### END SOLUTION


# %% [markdown]
# ## The loss
#
# Each unit is a yes or no of its own: binary cross entropy. But few units are needed. With 5 % of them, a predictor that always says no is right in 95 % of all cases, and of no use: a needed
# neuron that is left out is an error, while one that is used in vain costs a little time. So units that are not needed weigh less. The authors' weights:
#
# $$ L = \frac{1}{\text{tokens} \cdot \text{units}} \sum_{t, u} \begin{cases} -\log \sigma(z_{tu}) & \text{needed} \\ -w \, \log (1 - \sigma(z_{tu})) & \text{not needed} \end{cases} \qquad w = \text{share of needed ones in the batch} + \text{extra} $$
#
# with an extra of 0.005 for neurons, and 0 for heads. If 5 % are needed, both sides together weigh about the same.


# %% exercise="deja_vu.loss"
def weighted_loss(logits: torch.Tensor, labels: torch.Tensor, extra: float = 0.005) -> torch.Tensor:
    """Binary cross entropy in which units that are not needed weigh less.

    Args:
        logits: (tokens, units) float32 or float64, of any size (in the checks up to several
            hundred); must not be changed.
        labels: (tokens, units) boolean, True = needed; must not be changed.
        extra: is added to the weight of units that are not needed.

    Returns:
        A scalar of the dtype of logits, the mean over tokens and units. A needed unit weighs 1, any
        other w: the share of True in all of labels, plus extra. A gradient reaches logits.
    """
    ### BEGIN SOLUTION
    y = labels.to(logits.dtype)
    w = y.mean() + extra
    return F.binary_cross_entropy_with_logits(logits, y, weight=y * (1 - w) + w)
    ### END SOLUTION


# %% [markdown]
# ## Training
#
# AdamW with a weight decay of 0.01. After every epoch held-out tokens are looked at, where a probability of 0.5 or more (a logit of 0 or more) means yes:
#
# | | of | the share that |
# |---|---|---|
# | recall | units that are needed | is predicted |
# | precision | units that are predicted | is needed |
# | sparsity | all units | is *not* predicted |
#
# The authors keep the weights with the best **recall**, and stop when it is above 0.99. A predictor that always says yes has a recall of 1, so the other two must be reported beside it.
#
# Your function uses `predict` and `weighted_loss`. Batches come ready made and in a fixed order, so that the result is a matter of arithmetic; nearly all checks have float64, where no
# rounding decides. All shares are over all tokens and units together.


# %% exercise="deja_vu.train"
def train_predictor(
    A: torch.Tensor,
    B: torch.Tensor,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
    held_out: tuple[torch.Tensor, torch.Tensor],
    epochs: int,
    rate: float = 1e-3,
    extra: float = 0.005,
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[float, float, float]]]:
    """Train a predictor, and keep the weights with the best recall.

    Args:
        A: (rank, inputs) float32 or float64, the weights to begin with; must not be changed.
        B: (units, rank), likewise.
        batches: hidden states (n, inputs) of the same dtype and labels (n, units) boolean, of each
            batch. Must not be changed.
        held_out: likewise, of the tokens to look at; at least one unit is needed. Must not be
            changed.
        epochs: the most, at least 1.
        rate: of torch's AdamW with a weight decay of 0.01 (its other settings as they are).
        extra: for weighted_loss.

    Returns:
        (A, B, curve). An epoch is a step for each batch, in their order; one optimiser for all.
        After each epoch curve gets (recall, precision, sparsity) of held_out, as floats; a logit of
        0 or more is a yes, and where nothing is predicted precision is 1. After one whose recall is
        above 0.99 training ends. A and B are the weights after the epoch with the highest recall,
        the first of these, as tensors that need no gradient; weights before training do not count.
    """
    ### BEGIN SOLUTION
    weights = [W.detach().clone().requires_grad_() for W in (A, B)]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01)
    states, labels = held_out
    best, kept, curve = -1.0, weights, []
    while len(curve) < epochs and best <= 0.99:
        for x, y in batches:
            optimizer.zero_grad()
            weighted_loss(predict(x, *weights), y, extra).backward()
            optimizer.step()
        with torch.no_grad():
            said = predict(states, *weights) >= 0
        hits, yes = int((said & labels).sum()), int(said.sum())
        recall = hits / int(labels.sum())
        curve.append((recall, hits / yes if yes else 1.0, 1 - yes / said.numel()))
        if recall > best:
            best, kept = recall, [W.detach().clone() for W in weights]
    return *kept, curve
    ### END SOLUTION


# %% [markdown]
# ## The choice
#
# At inference no probability is needed. A kernel has to know how much there is to do, so each token gets its **k largest logits**, whatever their size: for OPT-175B 5,000 of 49,152
# neurons, and 24 or 48 of 96 heads.
#
# Of equal logits, the unit with the lower number comes first. (`topk` promises nothing about that.)


# %% exercise="deja_vu.choose"
def choose(logits: torch.Tensor, k: int) -> torch.Tensor:
    """The k units of each token with the largest logits.

    Args:
        logits: (tokens, units) float32, finite, of any size; must not be changed.
        k: how many; all units, if there are no more.

    Returns:
        Boolean (tokens, units), True = chosen. Of equal logits those of units with lower numbers
        come first.

    Raises:
        ValueError: k is below 1.
    """
    ### BEGIN SOLUTION
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    best = logits.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, best, True)
    ### END SOLUTION


# %% [markdown]
# ## An MLP on chosen neurons
#
# Now the saving. Computing everything and multiplying by a mask gives the right numbers and saves nothing. (Issues of the authors' repository ask again and again where the speed is: the code for accuracy masks.) The chosen rows of `up` and columns of `down` must be taken *before* they are multiplied, and the others not be read at all: in the checks they are NaN
# or infinite. (So a product with them shows if it reaches the result. A product that is masked afterwards, or a row that is loaded and not used, does not: mind that yourself.)
#
# Two forms are in use. OPT's MLP is $\text{ReLU}(W_{up} x + b)$; Llama's layout, which `tiny-relu` has, is gated, $\text{ReLU}(W_{gate} x) \odot (W_{up} x)$, where the gate alone says which
# neurons are zero.
#
# Nothing is rescaled for what is left out, as dropout would: it is zero, or counts as zero. So if all active neurons are chosen the result is not nearly but *exactly* that of the dense MLP,
# in exact arithmetic.


# %% exercise="deja_vu.sparse_mlp"
def sparse_mlp(
    x: torch.Tensor,
    chosen: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    gate: torch.Tensor | None = None,
    b_up: torch.Tensor | None = None,
    b_down: torch.Tensor | None = None,
) -> torch.Tensor:
    """An MLP with ReLU, of one token and some neurons.

    Args:
        x: (hidden,) float32, what the MLP reads; must not be changed.
        chosen: (neurons,) boolean, True = used; there may be none. Must not be changed.
        up: (neurons, hidden) float32; must not be changed.
        down: (hidden, neurons) float32; must not be changed.
        gate: (neurons, hidden) float32, or None; must not be changed.
        b_up: (neurons,) float32, is added to up x, or None; must not be changed.
        b_down: (hidden,) float32, is added to the result, or None; must not be changed.

    Returns:
        (hidden,) float32. A neuron is relu(up x + b_up), or with a gate
        relu(gate x) * (up x + b_up); the chosen ones times their columns of down are summed, and
        b_down is added. What belongs to other neurons in up, gate, b_up and down may be NaN or
        infinite.
    """
    ### BEGIN SOLUTION
    used = chosen.nonzero().squeeze(1)
    h = F.linear(x, up.index_select(0, used), None if b_up is None else b_up[used])
    h = h.relu() if gate is None else F.linear(x, gate.index_select(0, used)).relu() * h
    return F.linear(h, down.T.index_select(0, used).T, b_down)
    ### END SOLUTION


# %% [markdown]
# ## Lookahead
#
# From which hidden state should the predictor guess? From what the MLP itself reads it guesses best. But then the MLP has to wait for the predictor. If it guesses from an *earlier* state it
# can work beside something else: **lookahead**. What makes it possible is that the residual stream changes slowly: each block adds a little to a long vector.
#
# There are two points at which states are taken, both in the residual stream, before a norm: `"block"`, what reaches a block, and `"mlp"`, what reaches its MLP (attention added). In the
# authors' one repository there are three conventions for what a predictor of block $l$ reads:
#
# | convention | heads of block l | neurons of block l | |
# |---|---|---|---|
# | `"training"` | block, l - 1 | mlp, l | the scripts that train predictors: for neurons there is no lookahead |
# | `"accuracy"` | block, l - 1 | block, l | the code that measures accuracy: while attention of the same block runs |
# | `"latency"` | block, l - 1 | mlp, l - 1 | the code that measures time: while the MLP of the block before runs |
#
# ![Three timelines of attention and MLP in blocks l minus 1 and l. Training: the predictor runs between attention and MLP of block l, and the MLP waits. Accuracy: it runs beside attention of block l. Latency: beside the MLP of block l minus 1.](lookahead.svg)
#
# *From which state the neurons of block $l$ are predicted. The earlier the state, the more time there is, and the less it tells.*
#
# What does it cost, and what does it gain? Two measurements of this unit, ahead of time:
#
# - *Cost.* A tenth of the neurons is chosen. Of those that a token needs, 0.78 are found from the input of the MLP itself, 0.75 from the input of the block, 0.70 from the input of the MLP before (experiment 5).
# - *Gain.* In a layer of OPT-1.3B's widths the dense MLP takes 6.2 ms. With a twentieth of the neurons it takes 2.3 ms, but 1.6 of these are the predictor and the choice (experiment 6). If the MLP waits for them, it is 2.7 times as fast as the dense one. If they were done beside attention, 0.7 ms would be left, and it would be nine times as fast.
#
# So a number for accuracy and one for speed may come from two different algorithms. Whoever writes about Deja Vu should say which.
#
# Blocks are counted from 0. The first block has no block before it. Where there is no state, nothing is predicted, and it runs densely.


# %% exercise="deja_vu.reads"
def reads(convention: str, kind: str, layer: int) -> tuple[str, int] | None:
    """Which hidden state a predictor reads.

    Args:
        convention: "training", "accuracy" or "latency".
        kind: "heads" or "neurons", what is predicted.
        layer: of what block, from 0 on.

    Returns:
        (point, block), the point "block" or "mlp"; None if there is no such block.

    Raises:
        ValueError: the convention or the kind is none of these.
    """
    ### BEGIN SOLUTION
    back = {
        ("training", "heads"): ("block", 1),
        ("training", "neurons"): ("mlp", 0),
        ("accuracy", "heads"): ("block", 1),
        ("accuracy", "neurons"): ("block", 0),
        ("latency", "heads"): ("block", 1),
        ("latency", "neurons"): ("mlp", 1),
    }
    if (convention, kind) not in back:
        raise ValueError(f"no such predictor: {convention!r}, {kind!r}")
    point, blocks = back[convention, kind]
    return (point, layer - blocks) if layer >= blocks else None
    ### END SOLUTION


# %% [markdown]
# ## Experiment 1: which neurons, and for whom
#
# The cells from here on are not graded; they use your functions, so they need your exercises done.
#
# What is the activity of `tiny-relu`'s neurons over a text? Your `needed` labels it. The picture has 64 tokens in a row; beside it, how often each neuron is active.

# %% tags=["experiment"]
from sparsity_edu.activations import deja_vu_record as record_code
from sparsity_edu.models import load, perplexity

model, tokenizer = load("tiny-relu")
blocks, LAYERS = model.model.layers, model.config.num_hidden_layers
HEADS, NEURONS = model.config.num_attention_heads, model.config.intermediate_size
WINDOW = record_code.WINDOW
LEARN, HELD_OUT = (4, 1) if FAST else (8, 4)  # windows
learn_ids = record_code.windows(tokenizer, "train", LEARN)
held_ids = record_code.windows(tokenizer, "validation", HELD_OUT)


@torch.no_grad()
def watch(model, ids):
    """States (tokens, hidden) by point and block, and what goes into ReLU and comes out of attention by block."""
    states, pre, outputs = {}, {}, {}

    def keep(where, key):
        def hook(module, args, *result):
            seen = result[0] if result else args[0]
            where.setdefault(key, []).append(seen.flatten(0, -2))

        return hook

    handles = []
    for l, block in enumerate(model.model.layers):
        handles += [
            block.input_layernorm.register_forward_pre_hook(keep(states, ("block", l))),
            block.post_attention_layernorm.register_forward_pre_hook(keep(states, ("mlp", l))),
            block.self_attn.o_proj.register_forward_pre_hook(keep(outputs, l)),
            block.mlp.gate_proj.register_forward_hook(keep(pre, l)),
        ]
    for window in ids:
        model(input_ids=window[None])
    for handle in handles:
        handle.remove()
    return [
        {key: torch.cat(parts) for key, parts in found.items()} for found in (states, pre, outputs)
    ]


def label(pre, outputs, share=0.5):
    """Labels by kind and block."""
    found = {}
    for l in pre:
        found["neurons", l], found["heads", l] = needed(
            pre[l], outputs[l].unflatten(-1, (HEADS, -1)), share
        )
    return found


states, pre, outputs = watch(model, held_ids)
labels = label(pre, outputs)
print(f"{held_ids.numel()} tokens of the validation text, {NEURONS} neurons")
print(
    "block   zero: all tokens   most for one token   zero for all   shared with the token before   by chance"
)
for l in range(LAYERS):
    active = labels["neurons", l]
    often, count = active.float().mean(dim=0), active.sum(dim=1)
    both = (active[1:] & active[:-1]).sum() / active[1:].sum()
    chance = often.square().sum() / often.sum()
    print(
        f"{l:>5} {1 - active.float().mean():>17.1%} {int(count.max()):>20} {(often == 0).float().mean():>14.1%} {both:>30.1%} {chance:>11.1%}"
    )
zero = sum(float((~labels["neurons", l]).float().mean()) for l in range(LAYERS)) / LAYERS
print(f"zero on average: {zero:.1%}")

fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.5), width_ratios=[2, 1])
plots.mask_panel(axes[0], labels["neurons", 6][100:164])
axes[0].set_aspect("auto")
axes[0].set(xlabel="neuron of block 6", ylabel="token", title="active neurons (in colour)")
axes[0].grid(False)
for l, color in zip((0, 3, 6, 11), plots.COLORS):
    often = labels["neurons", l].float().mean(dim=0).sort(descending=True).values
    axes[1].plot(often, color=color, label=f"block {l}")
axes[1].set(xlabel="neuron, by frequency", ylabel="active for a share of tokens", title="how often")
axes[1].legend(fontsize=8)
plt.show()

# %% [markdown]
# For a token 93 % of all neurons are zero, but few are zero for *all* tokens: at most 6 % of a block's, outside blocks 2 and 3. To remove neurons for good would hurt the tokens that need
# them. Look at "most for one token" as well: some tokens need several times the average, and a fixed k has to serve them too. Neighbours share 10 to 33 % of their active neurons, one and
# a half times to two and a half times as many as chance gives (in block 0 no more than chance). That is too little to reuse the choice of the token before.
#
# Now the same number of neurons in two ways. **Contextual**: for each token the k neurons whose products are largest, by an oracle that has computed them all. **Static**: the same k neurons
# for every token, those that are largest on the training text. SmolLM2 is measured in the same way, on less text: it has no zeros, only small and large products.
#
# **Predict, then run.** A quarter of `tiny-relu`'s neurons is kept. What becomes of perplexity if each token gets its own quarter, and if all tokens get the same? 93 % of the neurons are zero for a token on average.
#
# <details><summary>Answer</summary>
#
# With its own quarter a token loses nothing: nearly all of its active neurons are among them (1.00 times the dense perplexity). The same quarter for all gives 5.1 times: hardly any neuron is zero for *all* tokens, so every token misses some that it needs.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.activations.execution import masked


def measured(model, make, ids, lookahead, k):
    with masked(model, make(k), lookahead):
        return perplexity(model, ids.flatten(), ids.shape[1], progress=False)


SHARES = (0.25, 0.05) if FAST else (0.5, 0.25, 0.1, 0.05)
compared = {}
for name in ("tiny-relu",) if FAST else ("tiny-relu", "smollm2"):
    if name == "tiny-relu":
        one, text, learn, units = model, held_ids, learn_ids, NEURONS
    else:
        torch.set_num_threads(os.cpu_count() or 1)
        one, words = load("smollm2")
        units = one.config.intermediate_size
        text, learn = (
            record_code.windows(words, split, 2)[:, :256].contiguous()
            for split in ("validation", "train")
        )
    means = record_code.energy(one, learn)
    began = time.perf_counter()
    dense = perplexity(one, text.flatten(), text.shape[1], progress=False)
    compared[name] = {"contextual": {}, "static": {}}
    for share in SHARES:
        k = round(share * units)
        for kind, make in (
            ("contextual", partial(record_code.largest, one)),
            ("static", partial(record_code.static, means)),
        ):
            compared[name][kind][share] = measured(one, make, text, "training", k) / dense
    print(
        f"{name}: {text.numel()} tokens, dense perplexity {dense:.2f}, and times that ({time.perf_counter() - began:.0f} s)"
    )
    for kind, values in compared[name].items():
        print(
            f"   {kind:<11}"
            + "".join(f"   {share:.0%} kept: {value:8.2f}" for share, value in values.items())
        )
torch.set_num_threads(1)

fig, axes = plt.subplots(1, len(compared), figsize=(4.5 * len(compared), 3.4), squeeze=False)
for ax, (name, kinds) in zip(axes[0], compared.items()):
    for (kind, values), color in zip(kinds.items(), (plots.BLUE, plots.VERMILLION)):
        ax.plot(
            [100 * (1 - share) for share in values],
            values.values(),
            "o-",
            ms=4,
            color=color,
            label=kind,
        )
    ax.axhline(1, color="0.4", lw=1, ls=":")
    ax.set(
        yscale="log",
        xlabel="neurons left out (%)",
        ylabel="perplexity / dense (log scale)",
        title=name,
    )
    ax.legend()
plt.show()

# %% [markdown]
# A quarter of the neurons, chosen for each token, costs `tiny-relu` nothing, and a tenth of them 3 %. The static masks of the same sizes give 5 and 21 times the dense perplexity.
#
# SmolLM2 has no zeros, only small products. Half of its neurons may be left out for 3 %; with a quarter of them perplexity is 1.3 times, with a tenth 5 times as high. So contextual sparsity does
# not begin with ReLU, but ReLU gives far more of it. And the static mask fails there as well: with 5 % kept the model is worse than one that guesses.
#
# The oracle has computed every product to find the largest, so it saves nothing. The rest of this unit is about guessing.
#
# ## Experiment 2: how fast the stream changes
#
# Lookahead lives on this: the cosine of what reaches a block and what reaches the next. The paper has about 0.99 for OPT-175B. A large component that all tokens share makes cosines high, though it distinguishes no token from another. So here are both: the plain cosine, and the cosine after
# the mean over tokens has been subtracted.


# %% tags=["experiment"]
def neighbours(states, layers, point, centred):
    """Cosines of a point's states in blocks l and l + 1, mean over tokens."""
    taken = [states[point, l] for l in range(layers)]
    taken = [x - x.mean(dim=0) if centred else x for x in taken]
    return [float(F.cosine_similarity(a, b, dim=-1).mean()) for a, b in pairwise(taken)]


streams = {"tiny-relu": (states, LAYERS)}
if not FAST:
    big, words = load("smollm2")
    one_window = record_code.windows(words, "validation", 1)
    streams["smollm2"] = (watch(big, one_window)[0], big.config.num_hidden_layers)
fig, axes = plt.subplots(1, len(streams), figsize=(5.2 * len(streams), 3.4), squeeze=False)
for ax, (name, (found, layers)) in zip(axes[0], streams.items()):
    for point, color in (("block", plots.BLUE), ("mlp", plots.VERMILLION)):
        for centred, style in ((False, "-"), (True, "--")):
            cosines = neighbours(found, layers, point, centred)
            ax.plot(
                cosines,
                style,
                color=color,
                label=f"{point}{', without the mean' if centred else ''}",
            )
            print(
                f"{name:<10} {point:<5} {'without the mean' if centred else '':<17}: mean {sum(cosines) / len(cosines):.3f}, from {min(cosines):.3f} to {max(cosines):.3f}"
            )
    ax.set(xlabel="block l, and l + 1", ylabel="cosine", title=name, ylim=(-0.3, 1.02))
    ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# From block to block the cosine is 0.94 to 0.98 in `tiny-relu`, and in SmolLM2 mostly above 0.9. The first step is the exception, in both: what reaches block 0 is the embedding, and what
# reaches block 1 has a cosine of about 0 with it. A predictor that looks ahead across block 0 has little to go by.
#
# The mean over tokens makes up a small part of SmolLM2's cosines (0.92 with it, 0.89 without), and nothing of `tiny-relu`'s. A high cosine says that little is added, not that what is added does not
# matter for the choice. Recall says whether it does, and experiment 5 measures it.
#
# ## Experiment 3: how wide must a predictor be?
#
# Your `train_predictor`, for the neurons of block 6, with several ranks, from what reaches the block (convention "accuracy"). Then the same for all blocks from the record of `python -m
# sparsity_edu.activations.deja_vu_record`, whose training goes through the text in random order and keeps the weights with the least loss. Recall is here that of the k best logits, as at
# inference.
#
# **Predict, then run.** A hidden state has 128 numbers, a block 384 neurons. From which rank on does a predictor need as many multiplications as the gate projection that it is to spare?
#
# <details><summary>Answer</summary>
#
# $r \, (128 + 384) = 128 \cdot 384$ gives $r = 96$. A rank of 64 costs 67 % of the gate, one of 128 costs 133 %. In OPT-175B, with $d = 12288$ and 49,152 neurons, a rank of 1,000 costs 10 %.
#
# </details>

# %% tags=["experiment"]
EPOCHS, RATE, BATCH = (2 if FAST else 5), 1e-2, 256
train_states, train_pre, train_outputs = watch(model, learn_ids)
train_labels = label(train_pre, train_outputs)


def first_weights(units, rank, seed=0):
    g = torch.Generator().manual_seed(seed)
    hidden = model.config.hidden_size
    A = (2 * torch.rand(rank, hidden, generator=g) - 1) / hidden**0.5
    return A, (2 * torch.rand(units, rank, generator=g) - 1) / rank**0.5


def learned(kind, l, rank, convention, epochs=EPOCHS, extra=0.005):
    """Your predictor of a block, and its curve; None where there is nothing to read."""
    source = reads(convention, kind, l)
    if source is None:
        return None
    y = train_labels[kind, l]
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    batches = [(train_states[source][part], y[part]) for part in order.split(BATCH)]
    return train_predictor(
        *first_weights(y.shape[1], rank), batches[1:], batches[0], epochs, RATE, extra
    )


def recall_of_best(kind, l, weights, convention, k):
    """Of what held-out tokens need, the share among their k best."""
    y = labels[kind, l]
    chosen = choose(predict(states[reads(convention, kind, l)], *weights), k)
    return float((chosen & y).sum() / y.sum())


QUARTER, TENTH = NEURONS // 4, NEURONS // 10
print(
    f"block 6, {learn_ids.numel()} training tokens, {EPOCHS} epochs: recall of the k best, held-out tokens"
)
mine = {}
for rank in (4, 64) if FAST else (4, 16, 64, 128):
    A, B, curve = learned("neurons", 6, rank, "accuracy")
    mine[rank] = [recall_of_best("neurons", 6, (A, B), "accuracy", k) for k in (QUARTER, TENTH)]
    print(
        f"   rank {rank:>3}:  k {QUARTER}: {mine[rank][0]:.3f}   k {TENTH}: {mine[rank][1]:.3f}   multiplications {rank * (128 + NEURONS) / (128 * NEURONS):>5.0%} of those of gate"
    )
print(
    f"   OPT-175B, rank 1000: multiplications {1000 * (12288 + 49152) / (12288 * 49152):.0%} of those of its first layer"
)
print("the last one's curve, by a logit of 0 or more (recall, precision, sparsity):")
for epoch, point in enumerate(curve, 1):
    print(f"   epoch {epoch}: " + "   ".join(f"{share:.3f}" for share in point))
best = max(range(len(curve)), key=lambda i: curve[i][0])
print(f"kept by recall: the weights of epoch {best + 1}")

record = json.loads(record_code.RECORD.read_text())
print(f"\n{record['command']}   ({record['seconds']} s, torch {record['torch']})")
fig, axes = plt.subplots(1, 2, figsize=(10, 3.5))
for k, color in ((QUARTER, plots.BLUE), (TENTH, plots.VERMILLION)):
    by_rank = {int(rank): found["recall"][str(k)] for rank, found in record["ranks"].items()}
    mean = {rank: sum(values) / len(values) for rank, values in by_rank.items()}
    axes[0].plot(
        mean.keys(), mean.values(), "o-", color=color, label=f"k = {k}, mean of all blocks"
    )
    axes[0].plot(
        mine.keys(),
        [values[k == TENTH] for values in mine.values()],
        "x",
        color=color,
        label=f"k = {k}, yours, block 6",
    )
    print(
        f"record, k = {k}: "
        + "   ".join(f"rank {rank}: {value:.3f}" for rank, value in mean.items())
    )
    axes[1].plot(
        by_rank[record_code.RANK],
        "o-",
        ms=3,
        color=color,
        label=f"k = {k}, rank {record_code.RANK}",
    )
    ideal = [
        float(labels["neurons", l].sum(dim=1).clamp(max=k).sum() / labels["neurons", l].sum())
        for l in range(LAYERS)
    ]
    axes[1].plot(ideal, ":", color=color, label=f"k = {k}, a perfect one")
axes[0].set(xscale="log", xlabel="rank", ylabel="recall of the k best")
axes[0].set_xticks(list(mean), [str(rank) for rank in mean])
axes[0].minorticks_off()
axes[1].set(xlabel="block", ylabel="recall of the k best", ylim=(0, 1.02))
for ax in axes:
    ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# Recall grows up to a rank of about 64, and then no more. Here that is not cheap: with 128 numbers in a hidden state, a predictor of rank 64 costs two thirds of the gate that it is to spare. The
# rank that is needed grows more slowly than the model, and the authors' predictors for OPT-175B cost a tenth.
#
# A part of what is missing is not the predictor's fault. In block 0 a token needs 61 neurons on average, and with a k of 38 even a perfect one (dotted) finds half of them.
#
# In the curve, recall falls a little after the fourth epoch, while precision still rises. The authors' rule keeps the weights with the best recall. About half of what these say is needed is not, which costs
# time and no accuracy.
#
# ## Experiment 4: perplexity against sparsity
#
# How many neurons can be left out? Your predictors for all blocks (rank 64, convention "accuracy"), your `choose`, and the whole model; beside it the record with more training, and an oracle,
# a static mask and chance. Heads are left out as well, 1 or 2 of 4.


# %% tags=["experiment"]
def selectors_of(weights, k):
    """For the library's masked model: your choice by your predictors, by kind and block."""

    def select(states, pair):
        flat = states.flatten(0, -2)
        return choose(predict(flat, *pair), k).view(*states.shape[:-1], -1)

    return {key: partial(select, pair=pair) for key, pair in weights.items()}


def all_blocks(convention, rank=record_code.RANK):
    found = {("neurons", l): learned("neurons", l, rank, convention) for l in range(LAYERS)}
    return {key: made[:2] for key, made in found.items() if made}


began = time.perf_counter()
predictors = {"accuracy": all_blocks("accuracy")}
print(f"12 predictors trained in {time.perf_counter() - began:.0f} s")
dense = perplexity(model, held_ids.flatten(), WINDOW, progress=False)
print(f"dense {dense:.2f} on {held_ids.numel()} tokens; with your predictors:")
live = {}
for k in (192, 38) if FAST else (192, 96, 58, 38, 19):
    live[k] = measured(
        model, partial(selectors_of, predictors["accuracy"]), held_ids, "accuracy", k
    )
    print(f"   {1 - k / NEURONS:>4.0%} left out: {live[k]:>7.2f}   ({live[k] / dense:.3f} times)")
without_first = {key: pair for key, pair in predictors["accuracy"].items() if key[1] > 0}
value = measured(model, partial(selectors_of, without_first), held_ids, "accuracy", TENTH)
print(
    f"   {1 - TENTH / NEURONS:>4.0%} left out, but nothing in block 0: {value:.2f}   ({value / dense:.3f} times)"
)

print(
    f"\nthe record, {record_code.VALIDATION * WINDOW} tokens: dense {record['dense']:.2f}, and times that"
)
LINES = {
    "oracle": (record["neurons"]["oracle"], plots.GREEN),
    "predictor": (record["neurons"]["accuracy"], plots.BLUE),
    "static": (record["neurons"]["static"], plots.VERMILLION),
    "by chance": (record["neurons"]["chance"], plots.GREY),
    "predictor, 3 of 4 heads": (record["both"]["3"], plots.SKY),
    "predictor, 2 of 4 heads": (record["both"]["2"], plots.PURPLE),
}
print(f"{'left out':<24}" + "".join(f"{1 - k / NEURONS:>8.0%}" for k in record_code.KEPT[1:]))
fig, ax = plt.subplots(figsize=(7, 4))
for name, (found, color) in LINES.items():
    points = {p["k"]: p["perplexity"] / record["dense"] for p in found["curve"]}
    print(f"{name:<24}" + "".join(f"{points[k]:>8.2f}" for k in record_code.KEPT[1:]))
    ax.plot(
        [100 * (1 - k / NEURONS) for k in points],
        points.values(),
        "o-",
        ms=3,
        color=color,
        label=name,
    )
ax.plot(
    [100 * (1 - k / NEURONS) for k in live],
    [value / dense for value in live.values()],
    "kx",
    label="your predictors",
)
ax.axvline(75, color="0.6", lw=1, ls=":")
ax.text(76, 3.7, "the lecture's 75 %", fontsize=8, color="0.4")
ax.set(xlabel="neurons left out (%)", ylabel="perplexity / dense", ylim=(0.95, 4))
ax.legend(fontsize=8)
plt.show()


def holds_until(curve, limit):
    """The largest share left out whose perplexity, and that of all smaller ones, is below a limit."""
    left_out = 0.0
    for point in curve:
        if point["perplexity"] > limit * record["dense"]:
            break
        left_out = 1 - point["k"] / NEURONS
    return left_out


for name, (found, _) in LINES.items():
    ends = [
        f"{limit - 1:.0%}: {holds_until(found['curve'], limit):.0%}" for limit in (1.01, 1.05, 1.2)
    ]
    print(f"{name:<24} left out while perplexity rises by no more than " + ", ".join(ends))
heads = {p["k"]: p["perplexity"] / record["dense"] for p in record["heads"]["accuracy"]["curve"]}
print(
    "heads alone, times dense: "
    + "   ".join(f"{k} of 4: {value:.2f}" for k, value in heads.items())
)

# %% [markdown]
# The record's predictors leave out 62 % of all neurons for 1 % in perplexity, 81 % for 5 % and 90 % for 20 %; the oracle 85, 92 and 95 %. At 75 %, up to which Deja Vu claims no loss, they lose a little more than 1 %. A static mask loses 7 %
# at 25 % already.
#
# Yours had 4,096 tokens to learn from, where the record has 16,384, and they lose more, nearly all of it in *block 0*: with nothing left out there, 90 % in all other blocks cost 4 %. That block reads
# the bare embedding, before any attention, and its tokens need the most neurons. One block can spoil a model. So a k for each block is better than one for all. (In the fast setting they have seen a quarter as much text, and lose far more.)
#
# Heads are another matter: to leave out one of 4 costs 4 %, two 18 %. A model with 4 heads has none to spare; OPT-175B has 96.
#
# ## Experiment 5: lookahead against none
#
# The same predictors with the three conventions. Only the state that they read differs.
#
# **Predict, then run.** Order the three conventions by recall. Will perplexity have the same order?
#
# <details><summary>Answer</summary>
#
# Training, accuracy, latency: the later the state, the nearer it is to what the MLP reads (0.784, 0.746 and 0.704 with a tenth of the neurons). Perplexity has that order only if block 0 is dense in all three. Otherwise "latency" looks best by far, 1.05 against 2.4 and 2.5 times the dense one: block 0, which is hardest to predict, has no earlier state to read there, and so runs densely.
#
# </details>

# %% tags=["experiment"]
for convention in ("training", "latency"):
    predictors[convention] = all_blocks(convention)
print("yours: recall of the k best, mean over blocks 1 to 11, and perplexity / dense")
for k in (QUARTER, TENTH):
    for convention in ("training", "accuracy", "latency"):
        weights = predictors[convention]
        later = {key: pair for key, pair in weights.items() if key[1] > 0}
        recalls = [
            recall_of_best("neurons", l, pair, convention, k) for (_, l), pair in later.items()
        ]
        costs = [
            measured(model, partial(selectors_of, some), held_ids, convention, k) / dense
            for some in (weights, later)
        ]
        print(
            f"   k {k:<4}{convention:<9} recall {sum(recalls) / len(recalls):.3f}   perplexity {costs[0]:.3f}   block 0 dense {costs[1]:.3f}"
        )

NAMES = {"training": "training (none)", "accuracy": "accuracy", "latency": "latency"}
print("\nthe record, mean over blocks 1 to 11")
print(f"{'left out':<18}" + "".join(f"{1 - k / NEURONS:>8.0%}" for k in record_code.KEPT[3:]))
fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.6))
for (convention, name), color in zip(NAMES.items(), plots.COLORS):
    found = record["neurons"][convention]
    by_block = {int(k): values[-(LAYERS - 1) :] for k, values in found["recall"].items()}
    means = {k: sum(values) / len(values) for k, values in by_block.items()}
    print(f"{name + ', recall':<18}" + "".join(f"{means[k]:>8.3f}" for k in record_code.KEPT[3:]))
    axes[0].plot(range(1, LAYERS), by_block[TENTH], "o-", ms=3, color=color, label=name)
    points = {p["k"]: p["perplexity"] / record["dense"] for p in found["curve"]}
    print(f"{'  perplexity':<18}" + "".join(f"{points[k]:>8.2f}" for k in record_code.KEPT[3:]))
    axes[1].plot(
        [100 * (1 - k / NEURONS) for k in points],
        points.values(),
        "o-",
        ms=3,
        color=color,
        label=name,
    )
axes[0].set(xlabel="block", ylabel=f"recall of the {TENTH} best", ylim=(0, 1.02))
axes[1].set(xlabel="neurons left out (%)", ylabel="perplexity / dense", ylim=(0.95, 3))
for ax in axes:
    ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# The further back a predictor looks, the fewer it finds: 0.78, 0.75 and 0.70 of what is needed with a tenth of the neurons, and it is the same with all k, in the record too. (In block 1 the step is largest, as the
# cosines promised.) With block 0 dense, perplexity has that order as well: 2.7, 4.1 and 4.7 % above the dense one.
#
# *Without* that the order is turned round, and "latency" looks by far the best: 1.05 times the dense perplexity, where the others have 2.4 and 2.5. It is no better at guessing. In block 0 it has no earlier state to read, so
# that block runs densely, and the others are made to predict just what is hardest. Look out for such accidents when methods are compared by one number. (The left figure shows recall in all blocks but block 0, the right one perplexity with it. Two epochs, as in the
# fast setting, are too few for the order of perplexities to be reliable.)
#
# ## Experiment 6: time of a decoding step
#
# `tiny-relu` is far too small to be slow: one of its MLPs lies in the cache of a core. So here is an MLP of OPT-1.3B's widths (2,048 and 8,192, 134 MB in float32), with your `sparse_mlp` and
# your `predict` and `choose` before it, on this machine's CPU. Four such layers take turns, so that none is in the cache when its turn comes.
#
# `down` is `(hidden, neurons)`: a neuron's column is strewn over all of it, a number in every row. Stored the other way round, transposed in memory, a column is a piece. Your function reads
# either; is there a difference? The library's `sparse_mlp` has the kernels of [unit 16](../16_sparse_gemv/sparse_gemv.ipynb), which multiply rows where they lie. Yours copies them first: the copy is written and read again.
#
# **Predict, then run.** "All computed, masked" runs the predictor, computes the dense MLP, and sets 95 % of the neurons to zero. How fast is it, compared with the dense MLP alone?
#
# <details><summary>Answer</summary>
#
# Slower, about 0.7 times as fast. It reads every weight that the dense MLP reads, and those of the predictor on top. A zero that has been computed has cost as much as any other number.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.activations import execution

HIDDEN, WIDE, RANK, LAYERS_TIMED = (256, 1024, 32, 2) if FAST else (2048, 8192, 256, 4)
g = torch.Generator().manual_seed(0)


def an_mlp():
    up, down = torch.randn(WIDE, HIDDEN, generator=g), torch.randn(HIDDEN, WIDE, generator=g)
    A, B = torch.randn(RANK, HIDDEN, generator=g), torch.randn(WIDE, RANK, generator=g)
    return {"up": up, "down": down, "turned": down.T.contiguous().T, "A": A, "B": B}


mlps = [an_mlp() for _ in range(LAYERS_TIMED)]
x = torch.randn(HIDDEN, generator=g)


def dense_step(mlp, k):
    return F.linear(F.linear(x, mlp["up"]).relu(), mlp["down"])


def masked_step(mlp, k):
    h = F.linear(x, mlp["up"]).relu()
    return F.linear(h * choose(predict(x[None], mlp["A"], mlp["B"]), k)[0], mlp["down"])


def sparse_step(mlp, k, down="turned"):
    chosen = choose(predict(x[None], mlp["A"], mlp["B"]), k)[0]
    return sparse_mlp(x, chosen, mlp["up"], mlp[down])


def library_step(mlp, k):
    used = choose(predict(x[None], mlp["A"], mlp["B"]), k)[0].nonzero().squeeze(1)
    return execution.sparse_mlp(x, used, mlp["turned"].T, mlp["up"])


def predict_step(mlp, k):
    return choose(predict(x[None], mlp["A"], mlp["B"]), k)


STEPS = {
    "dense": dense_step,
    "predictor and choice alone": predict_step,
    "predictor, all computed, masked": masked_step,
    "predictor, yours, down as it is": partial(sparse_step, down="down"),
    "predictor, yours, down turned": sparse_step,
    "predictor, the library's": library_step,
}
KEPT_SHARES = (0.5, 0.25, 0.1, 0.05)
took = {}
with torch.no_grad():
    for _ in range(2 if FAST else 5):  # in turns, so that a slow moment hits all of them
        for share in KEPT_SHARES:
            for name, step in STEPS.items():
                began = time.perf_counter()
                for mlp in mlps:
                    step(mlp, int(share * WIDE))
                seconds = (time.perf_counter() - began) / len(mlps)
                took[name, share] = min(seconds, took.get((name, share), 9.0))
print(
    f"an MLP of {HIDDEN} x {WIDE}, predictor of rank {RANK}, one thread: ms, and times as fast as dense"
)
print(f"{'neurons used':<34}" + "".join(f"{share:>16.0%}" for share in KEPT_SHARES))
for name in STEPS:
    print(
        f"{name:<34}"
        + "".join(
            f"{1e3 * took[name, share]:>9.2f} ({took['dense', share] / took[name, share]:>4.2f})"
            for share in KEPT_SHARES
        )
    )
fig, ax = plt.subplots(figsize=(9.5, 3.6))
for name, color in zip(
    STEPS, (plots.GREY, plots.ORANGE, plots.VERMILLION, plots.SKY, plots.BLUE, plots.GREEN)
):
    ax.plot(
        [100 * (1 - share) for share in KEPT_SHARES],
        [1e3 * took[name, share] for share in KEPT_SHARES],
        "o-",
        ms=4,
        color=color,
        label=name,
    )
floor = [1e3 * took["dense", share] * share for share in KEPT_SHARES]
ax.plot(
    [100 * (1 - share) for share in KEPT_SHARES],
    floor,
    ":",
    color="0.4",
    label="dense x share used",
)
ax.set(xlabel="neurons left out (%)", ylabel="ms for an MLP and a token (log scale)", yscale="log")
ax.set_yticks([0.5, 1, 2, 5, 10, 20, 50, 100], ["0.5", "1", "2", "5", "10", "20", "50", "100"])
ax.minorticks_off()
fig.legend(fontsize=8, loc="outside right upper")
plt.show()

# %% [markdown]
# - *A mask saves nothing.* The predictor comes on top of the dense product, so it is slower, whatever the share.
# - *Copying costs.* Your function copies the chosen rows, so each is read, written and read again. With `down` turned, and taken with `down.T.index_select` as in the solution, it wins when a tenth is used and loses when half is. How you take the columns decides: `down[:, chosen]` has the same numbers, and can take several times as long, since it walks through the matrix row by row.
# - *Layout decides.* With `down` as it is a column is a number from each of 2,048 rows, and no share that was tried is worth it.
# - The library's kernels read rows where they lie. They win from a quarter on, and are more than twice as fast at a tenth. (The fast setting's matrices lie in the cache, and nothing wins there.)
# - All of it stands on the predictor's time, a quarter of the dense MLP at rank 256. With 5 % of the neurons the rest of the MLP is a twentieth of the work. This is what lookahead is for: to have the predictor done
#   beside something else.
#
# **Heads that are skipped.** An MLP can skip a neuron and forget it. Attention cannot: a head that this token skips writes no key and value, and if a later token uses that head they are
# missing. Deja Vu's code for accuracy computes all keys and values. Its code for latency keeps the inputs of up to 16 tokens and fills a head's gaps when it is next chosen.
# `sparsity_edu.activations.deferred` does the same.
#
# **Batches.** Two tokens need different neurons, and the weights that are read are those of both. With many tokens at once hardly anything is left to skip: contextual sparsity is for decoding
# one or few sequences.
#
# ## What to remember
#
# - For a token of a ReLU model most neurons are zero; which ones depends on the token. A static mask of the same size is far worse.
# - The label of a neuron is exact, that of a head is a rank. A predictor is a matrix of low rank: no bias, no activation, and no probability at inference: the k largest logits.
# - Needed units weigh 1 in the loss, the others the share of needed ones. Recall without precision or sparsity says nothing: always saying yes has a recall of 1.
# - With all active neurons chosen the sparse MLP is exact. A mask after a dense product saves nothing.
# - Lookahead costs recall and hides the predictor's time. There are three conventions in one repository: say which.
#
# ## Further reading
#
# - [Liu et al. 2023](https://arxiv.org/abs/2310.17157), Deja Vu: section 3 for contextual sparsity, section 4 for predictors and lookahead.
# - [The authors' code](https://github.com/FMInference/DejaVu): its scripts for training, for accuracy and for latency follow the three conventions; the issues are worth reading, too.
# - [Mirzadeh et al. 2023](https://arxiv.org/abs/2310.04564), ReLU strikes back: what a model loses if it goes back to ReLU, and what it gains.
# - [Song et al. 2024](https://arxiv.org/abs/2402.13516), ProSparse: how to train more zeros into a model that has ReLU.
# - [Song et al. 2023](https://arxiv.org/abs/2312.12456), PowerInfer: the neurons that are active most of the time stay on the GPU, the others on the CPU.
#
# Next: [14 TEAL](../14_teal/teal.ipynb), which needs neither ReLU nor a predictor: it skips what is small instead of guessing what is zero.
