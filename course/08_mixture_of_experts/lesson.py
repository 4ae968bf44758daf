# %% [markdown]
# # 08 · Mixture of experts
#
# **After this unit you can**
#
# - say why networks that *compete* share out a task among themselves, and networks that cooperate do not,
# - build a router: softmax, top k, and the question of renormalising, which code bases answer differently,
# - say who finds room when an expert is full, and what happens to the others,
# - build a mixture layer that runs only what is routed, and matches Mixtral's,
# - count what a mixture holds, computes and reads, and say for which batch sizes it is worth having.
#
# About 85 minutes of exercises, then six experiments that use *your* functions. They take about two minutes on two cores.
#
# **Builds on** [01 patterns](../01_patterns/patterns.ipynb) (bytes and FLOPs are two costs) and [07 Minitron](../07_minitron/minitron.ipynb) (the gated feed-forward layer, which
# is what an expert is).

# %% [markdown]
# ## Background
#
# Units [01](../01_patterns/patterns.ipynb) to [07](../07_minitron/minitron.ipynb) removed weights once and for all. What is left is used for every input alike. But not every input
# needs everything: a model that can write Python and French could leave its French alone while it writes Python.
#
# So keep all weights, and choose for every input which of them to use. The idea is from 1991: [Jacobs, Jordan, Nowlan and Hinton](https://doi.org/10.1162/neco.1991.3.1.79) trained several small networks and a
# gate that says whom to ask. In 1994 [Jordan and Jacobs](https://doi.org/10.1162/neco.1994.6.2.181) put gates over gates. [Shazeer et al. 2017](https://arxiv.org/abs/1701.06538) made it a layer inside a
# language model, of which only a few experts are *run*. [GShard](https://arxiv.org/abs/2006.16668) (2020) and [Switch](https://arxiv.org/abs/2101.03961) (2021) brought it to Transformers
# and to many devices; today's open models such as [Mixtral](https://arxiv.org/abs/2401.04088) and [DeepSeek-V3](https://arxiv.org/abs/2412.19437) are built so. The claim has stayed the same: the quality of a large
# model for the computation of a small one. ([Unit 13](../13_deja_vu/deja_vu.ipynb) goes further, and chooses single neurons for every token.)
#
# ## The question
#
# Is that so, and what is the price? A feed-forward layer becomes $E$ smaller ones, the **experts**, and a small **router** picks $k$ of them *for every token*:
#
# $$ y = \sum_{j=1}^{k} w_j \, E_{i_j}(x) $$
#
# Parameters grow with $E$, computation with $k$ alone. Mixtral has $E = 8$ and $k = 2$, DeepSeek-V3 has $E = 256$ and $k = 8$. (Formulas count choices and experts from 1, code from 0.)
#
# The first paper answers a question that one does not think of today: why would experts become *different* at all?

# %%
import math
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
torch.set_num_threads(1)  # nothing here is large, and the recorded training had one too

# %% [markdown]
# ## 1991: networks that compete
#
# Several small networks and a gate get the same input. Network $i$ answers $o_i$, the gate says $p = \text{softmax}(z)$, and
# $d$ is what should come out. Two ways to train them:
#
# $$ \text{cooperating:} \;\; \Big\lVert d - \sum_i p_i o_i \Big\rVert^2 \qquad\quad
#    \text{competing:} \;\; -\log \sum_i p_i \, e^{-\lVert d - o_i \rVert^2 / 2} $$
#
# The first asks that the *mixture* be right. Each expert then has to make up for the errors of all the others, so what one learns changes the task of the rest. The second
# asks only that *one of them* be right, weighted by how likely each is to be asked. Its gradient is
#
# $$ \frac{\partial}{\partial o_i} = -h_i \, (d - o_i), \qquad h_i = \frac{p_i \, e^{-\lVert d - o_i \rVert^2/2}}{\sum_j p_j \, e^{-\lVert d - o_j \rVert^2/2}} $$
#
# Who is nearest to the target gets most of the gradient, gets nearer still, and is asked more often. That is how experts become different.
#
# ## Experiment 1: the vowels
#
# Their task: hear the first two formants of a vowel (resonances of the mouth, F1 and F2), and say which of four vowels it was: [i] as in *heed*, [ɪ] as in *hid*,
# [ɑ] as in *hod*, [ʌ] as in *hud*. The paper used recordings of 75 speakers. We draw 76 speakers around the mean formants of men, women and children that Peterson
# and Barney published in 1952; the spread of 8 % around them is our choice. 50 speakers are for training, 26 others for testing.
#
# - **Mixture**: 4 experts and a gate, each a single linear layer. 60 parameters. Trained in both ways.
# - **One network**: a hidden layer of 8 units. 60 parameters as well. Once with the sigmoid of the time, once with tanh.
# - All: full-batch gradient descent, learning rate 0.1, momentum 0.9, four seeds.

# %% tags=["experiment"]
import time

from sparsity_edu.data import vowels
from sparsity_edu.experts.adaptive import AdaptiveMixture, competing, cooperating, mean_answer

STEPS, SEEDS, EVERY = (60, 2, 5) if FAST else (400, 4, 5)
NAMES = ("i", "ɪ", "ɑ", "ʌ")
data = vowels(NAMES)
mean, std = data.train_inputs.mean(dim=0), data.train_inputs.std(dim=0)
train_x, test_x = (data.train_inputs - mean) / std, (data.test_inputs - mean) / std
train_d = F.one_hot(data.train_labels, 4).float()  # (samples, 4)


def make(name):
    if name in OBJECTIVES:
        return AdaptiveMixture(2, 4, lambda: nn.Linear(2, 4))
    return nn.Sequential(
        nn.Linear(2, 8), {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh}[name](), nn.Linear(8, 4)
    )


def answer(model, x):
    out = model(x)
    return mean_answer(*out) if isinstance(out, tuple) else out


def learn(name, seed):
    """The trained model, and its share of right answers on the test speakers every few steps."""
    torch.manual_seed(seed)
    model = make(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    right = []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        out = model(train_x)
        if name in OBJECTIVES:
            loss = OBJECTIVES[name](*out, train_d).mean()
        else:
            loss = (train_d - out).square().sum(dim=1).mean()
        loss.backward()
        optimizer.step()
        if step % EVERY == 0:
            with torch.no_grad():
                said = answer(model, test_x).argmax(dim=1)
            right.append((said == data.test_labels).float().mean().item())
    return model, right


OBJECTIVES = {"competing": competing, "cooperating": cooperating}
CLASSIC = (*OBJECTIVES, "sigmoid", "tanh")
learned = {name: [learn(name, seed) for seed in range(SEEDS)] for name in CLASSIC}

print(f"{'':<14} parameters   right on test speakers   steps to 88 %: each seed")
for name, runs in learned.items():
    size = sum(p.numel() for p in runs[0][0].parameters())
    last = [right[-1] for _, right in runs]
    first = [
        next((str(EVERY * (i + 1)) for i, v in enumerate(right) if v >= 0.88), "-")
        for _, right in runs
    ]
    print(f"{name:<14} {size:10}   {min(last):10.1%} to {max(last):.1%}   " + " ".join(first))

print("\nmean probability that the gate gives each expert, for each vowel (first seed)")
for name in OBJECTIVES:
    with torch.no_grad():
        gate = learned[name][0][0](test_x)[1].softmax(dim=1)
    for label, vowel in enumerate(NAMES):
        row = "  ".join(f"{p:.2f}" for p in gate[data.test_labels == label].mean(dim=0))
        print(f"{name if label == 0 else '':<14} [{vowel}]  {row}")

# %% [markdown]
# Where is each expert asked? The map colours every point of the (F1, F2) plane by the expert that the gate likes best; the paler, the less sure it is. The third panel shows
# what the single network answers.

# %% tags=["experiment"]
from matplotlib.colors import to_rgb

f1, f2 = torch.meshgrid(
    torch.linspace(0.15, 1.35, 160), torch.linspace(0.6, 3.8, 160), indexing="xy"
)
points = (torch.stack([f1, f2], dim=-1).flatten(0, 1) - mean) / std  # (160 * 160, 2)
palette = torch.tensor(
    [to_rgb(color) for color in (plots.BLUE, plots.VERMILLION, plots.GREEN, plots.PURPLE)]
)
MARKS = ("o", "s", "^", "D")

fig, axes = plt.subplots(1, 3, figsize=(11.5, 3.9), sharey=True)
PANELS = {
    "competing": "asked: competing experts",
    "cooperating": "asked: cooperating experts",
    "sigmoid": "answered: one network",
}
for ax, (name, title) in zip(axes, PANELS.items()):
    with torch.no_grad():
        out = learned[name][0][0](points)
    share = (
        out[1].softmax(dim=1) if isinstance(out, tuple) else F.one_hot(out.argmax(dim=1), 4).float()
    )
    sure, who = share.max(dim=1)
    strength = 0.08 + 0.4 * ((sure - 0.25) / 0.75)[:, None]
    image = (1 - strength) + strength * palette[who]
    ax.imshow(
        image.view(160, 160, 3).numpy(),
        origin="lower",
        extent=(150, 1350, 600, 3800),
        aspect="auto",
    )
    for label, vowel in enumerate(NAMES):
        mine = data.test_labels == label
        ax.scatter(
            *(1000 * data.test_inputs[mine]).T,
            s=14,
            marker=MARKS[label],
            color="0.15",
            linewidths=0.4,
            facecolors="none",
            label=f"[{vowel}]",
        )
    ax.set(title=title, xlabel="F1 (Hz)")
axes[0].set_ylabel("F2 (Hz)")
axes[0].legend(loc="upper right", title="test speakers")
plt.show()

# %% [markdown]
# The two front vowels [i] and [ɪ] lie apart from the two back ones [ɑ] and [ʌ]; within each pair they overlap. (In the third panel a colour is an answer: a vowel, no expert.)
#
# - **Competing experts divide the task.** One takes both front vowels, another both back vowels, with probabilities near 1, and the line between them runs through the gap. Each is a single
#   linear layer, and within its pair that is enough. The two other experts are hardly ever asked. Nobody told them of two pairs.
# - **Cooperating experts do not.** Several have a share in the same vowel, up to three in [i]: their errors make up for each other, and none can be read or run alone.
# - **All answer equally well**, about nine of ten test vowels. What competition gains is not accuracy, it is the division.
# - **Speed.** The paper says that its mixtures learned faster than networks trained by backpropagation. Against the network with sigmoids that is so here too. With tanh, which
#   came into use later, the single network is as fast. A fair comparison today would end in a draw.
#
# (The fast setting stops after 60 steps, when nothing has learned to the end.)
#
# Only one of the four experts has to be run for a vowel, if the gate is so sure. That is what became of the idea a quarter of a century later.
#
# ## Experiment 2: two levels, and no step size
#
# The gates over gates of Jordan and Jacobs come with a way to train them that needs no gradient descent. In the mixture's likelihood
#
# $$ p(y \mid x) = \sum_i g_i(x) \sum_j g_{j|i}(x) \; \mathcal{N}(y; U_{ij} x, s_{ij}) $$
#
# $g_i$ is the gate over the branches of a tree, $g_{j|i}$ the gate over the leaves of branch $i$. A leaf is a linear expert with coefficients $U_{ij}$ and variance $s_{ij}$. Here
# the only thing that is missing is *who made this sample*. EM (expectation, maximisation) fills it in with probabilities and then solves what is left:
#
# - **E**: $h_{ij}$, the probability that leaf $ij$ made the sample, now that $y$ is known.
# - **M**: each leaf is a least-squares fit, weighted with $h_{ij}$; each gate a softmax regression towards $h$.
#
# The log-likelihood can never fall. The problem: a line of four pieces with two jumps, 400 samples, noise 0.05. Two branches with two leaves each.

# %% tags=["experiment"]
from sparsity_edu.data import piecewise
from sparsity_edu.experts import hierarchical

TREES, ROUNDS = (2, 10) if FAST else (5, 40)
line = piecewise(400)
line_x = hierarchical.with_constant(line.inputs)
fits = []
for seed in range(TREES):
    tree = hierarchical.start(line_x, line.targets, 2, 2, torch.Generator().manual_seed(seed))
    fits.append(hierarchical.fit(tree, line_x, line.targets, ROUNDS))
curves = torch.tensor([curve for _, curve in fits])  # (trees, rounds + 1)
falls = (curves.diff(dim=1) < -1e-6).sum()
print(
    f"{TREES} starts, {ROUNDS} rounds each: the log-likelihood fell {falls} times in {curves[:, 1:].numel()} steps"
)
print("log-likelihood at the end:", "  ".join(f"{value:.0f}" for value in curves[:, -1]))
best = int(curves[:, -1].argmax())
_, straight = hierarchical.fit(
    hierarchical.start(line_x, line.targets, 1, 1, torch.Generator()), line_x, line.targets, 2
)
print(f"one straight line for all: {straight[-1]:.0f}")

fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.6))
for seed, curve in enumerate(curves):
    axes[0].plot(
        curve,
        color=plots.VERMILLION if seed == best else plots.GREY,
        lw=2 if seed == best else 1,
        label="best start" if seed == best else "other starts" if seed == (best == 0) else None,
    )
axes[0].set(
    xlabel="rounds of E and M", ylabel="log-likelihood of 400 samples", title="it never falls"
)
axes[0].legend(loc="lower right")
grid = torch.linspace(-1, 1, 400)[:, None]
leaf = (
    hierarchical.e_step(fits[best][0], line_x, line.targets).flatten(1).argmax(dim=1)
)  # (samples,)
axes[1].scatter(
    line.inputs,
    line.targets,
    s=8,
    c=[plots.COLORS[i] for i in leaf.tolist()],
    label="samples, by the leaf that explains them",
)
axes[1].plot(
    grid,
    hierarchical.predict(fits[best][0], hierarchical.with_constant(grid)),
    color="0.1",
    lw=1.5,
    label="the tree's mean answer",
)
axes[1].set(xlabel="x", ylabel="y", title="four pieces, four leaves")
axes[1].set_ylim(-1.75, 1.25)
axes[1].legend(loc="lower left", fontsize=8)
plt.show()

# %% [markdown]
# It never fell. All starts but one find the four pieces; that one ends at a lower value and stays there. EM climbs, but only to the nearest top, and which one depends on the start. (In the fast setting ten
# rounds are not enough for any.)
#
# The same two things hold for every mixture of today: the experts find a division by themselves, and it need not be the best one.
#
# ## The router
#
# Jump to today. Two things have changed. The mixture is a layer inside a model, so there is no target $d$ for it and no $h_i$: the gradient of the model's loss must suffice. And
# running all experts costs too much, so only the $k$ best are run. The whole layer, which you are about to build step by step:
#
# ![Five tokens choose two of three experts each. Each expert has a queue with room for two: expert 0 keeps tokens 0 and 1 and drops 3 and 2, expert 1 keeps 2 and 0 and drops 3 and 4, expert 2 keeps 4 and 1. The kept tokens are listed by expert, the experts run on their own lists, and the answers are added to the tokens; token 3 gets 0.](routing.svg)
#
# *Numbers in queues and lists are tokens. First choices stand before second ones; who finds no room adds nothing.*
#
# The router is one matrix. Its logits are $z = x W^\top$, a number for each expert, and
#
# $$ p = \text{softmax}(z) \in \mathbb{R}^E, \qquad i_1, \dots, i_k = \text{the } k \text{ largest}, \qquad w_j = p_{i_j} \;\text{ or }\; \frac{p_{i_j}}{\sum_l p_{i_l}} $$
#
# Whether to **renormalise** is a convention, and it matters. (Mesh, short for Mesh TensorFlow, is the library in which Google's first large mixtures were written, flaxformer its successor.)
#
# | | weights |
# |---|---|
# | Mixtral, Qwen3-MoE, mesh | divided by the sum of the $k$ |
# | Switch ($k = 1$), flaxformer, DeepSeek-V2, OLMoE, Qwen2-MoE | as the softmax over all experts made them |
#
# For $k = 1$ a renormalised weight is $p_i / p_i = 1$, whatever the logits are. A constant has no gradient, so the router never learns. (People have met this in more than one code base.)


# %% exercise="mixture_of_experts.route"
def route(logits: torch.Tensor, k: int, renormalise: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose k experts for each token, and say how much each of them counts.

    Args:
        logits: (..., E) one number for each expert, the last dimension; all others are tokens.
            float32, float16 or bfloat16; -inf for an expert that may not be chosen (at least k
            others are finite). Must not be changed.
        k: experts of a token, from 1 to E.
        renormalise: whether the k weights of a token are divided by their sum.

    Returns:
        experts, (..., k) int64: those of largest probability, the largest first. (Equal logits
            never decide in the checks.)
        weights, (..., k) float32: their probabilities in the softmax over all E experts, computed
            in float32; divided by the sum of the k if renormalise. The gradient reaches logits.
    """
    ### BEGIN SOLUTION
    probs = logits.float().softmax(dim=-1)  # (..., E)
    weights, experts = probs.topk(k, dim=-1)
    if renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return experts, weights
    ### END SOLUTION


# %%
g = torch.Generator().manual_seed(0)
example_logits = torch.randn(5, 4, generator=g)  # 5 tokens, 4 experts
for renormalise in (False, True):
    experts, weights = route(example_logits, 2, renormalise)
    print(f"renormalise={renormalise}")
    for token, (chosen, shares) in enumerate(zip(experts.tolist(), weights)):
        print(
            f"  token {token}: experts {chosen}, weights {shares[0]:.2f} {shares[1]:.2f}, sum {shares.sum():.2f}"
        )
print(
    "softmax over the two chosen logits, token 0:", example_logits[0].topk(2).values.softmax(dim=0)
)

# %% [markdown]
# The last line shows the renormalised weights of token 0 again: renormalising is the same as a softmax over the $k$ chosen logits. The sum $Z$ over all experts cancels:
#
# $$ \frac{p_i}{p_i + p_j} = \frac{e^{z_i} / Z}{(e^{z_i} + e^{z_j}) / Z} = \frac{e^{z_i}}{e^{z_i} + e^{z_j}} $$
#
# ## Room for how many?
#
# Nothing makes tokens spread evenly. On many devices each expert lives on one of them, and buffers must have a size *before* the tokens are known. So an expert gets a
# **capacity**: its fair share times a factor, usually 1.25 in training. The factor is written in every paper. How it is rounded is not, and four code bases do it in four ways:
#
# | | capacity of an expert |
# |---|---|
# | mesh | $\max(\min(G, \lfloor G f / E \rfloor), 4)$ |
# | flaxformer | $\max(\text{round}(f G / E), 4)$, and a half goes to the even neighbour |
# | DeepSpeed | $\max(\lceil G / E \cdot f k \rceil, 4)$ |
# | Megatron | $\lceil G k / E \cdot f \rceil$ |
#
# with $G$ tokens in a group, $E$ experts, and $f$ the factor. The first two leave $k$ to the factor: whoever wants room for two choices sets $f = 2.5$.
#
# **Predict, then run.** 100 tokens, 16 experts, $k = 2$, $f = 1.25$. The fair share is $100 \cdot 2 / 16 = 12.5$ tokens. How many does an expert take, by each of the four?
#
# <details><summary>Answer</summary>
#
# $G f / E = 7.8$ makes 7 for mesh (down) and 8 for flaxformer (to the nearest). With $k$ it is 15.6, so 16 for DeepSpeed and Megatron (up). "A factor of 1.25" leaves room for less than two thirds of the choices in the one case, and for all of them in
# the other.
#
# </details>


# %% exercise="mixture_of_experts.capacity"
def expert_capacity(tokens: int, n_experts: int, k: int, factor: float, rounding: str) -> int:
    """How many tokens of a group an expert takes.

    Args:
        tokens: G, tokens of a group, at least 1.
        n_experts: E.
        k: experts of a token.
        factor: f, the capacity factor, above 0.
        rounding: whose, "mesh", "flaxformer", "deepspeed" or "megatron", see the table above.

    Returns:
        The capacity, an int. Python's own floats are good enough: in the checks the order of
        multiplications and divisions never decides.

    Raises:
        ValueError: rounding is another text, or no text.
    """
    ### BEGIN SOLUTION
    if rounding == "mesh":
        capacity = max(min(tokens, int(tokens * factor / n_experts)), 4)
    elif rounding == "flaxformer":
        capacity = max(round(factor * tokens / n_experts), 4)
    elif rounding == "deepspeed":
        capacity = max(math.ceil(tokens / n_experts * factor * k), 4)
    elif rounding == "megatron":
        capacity = math.ceil(tokens * k / n_experts * factor)
    else:
        raise ValueError(
            f"rounding must be mesh, flaxformer, deepspeed or megatron, got {rounding!r}"
        )
    return capacity
    ### END SOLUTION


# %%
print("capacity for 100 tokens, 16 experts, k = 2")
print(f"{'factor':<12}" + "".join(f"{factor:>7}" for factor in (0.5, 1.0, 1.2, 1.25, 2.0)))
for rounding in ("mesh", "flaxformer", "deepspeed", "megatron"):
    row = (expert_capacity(100, 16, 2, factor, rounding) for factor in (0.5, 1.0, 1.2, 1.25, 2.0))
    print(f"{rounding:<12}" + "".join(f"{size:7}" for size in row))

# %% [markdown]
# ## Who finds room
#
# When more tokens choose an expert than it has room for, somebody is **dropped**. Who? In mesh, flaxformer and DeepSpeed the queue of an expert is filled in this order:
#
# 1. all *first* choices, token after token, from left to right;
# 2. then all *second* choices, token after token; and so on.
#
# So no token's second choice takes the place of another's first. A choice has a *position* in the queue of its expert, counted from 0, and is kept if
# that is below the capacity. A token may lose both choices, one, or none.
#
# Capacity counts in a *group*, such as one sequence. (A published library once summed along the wrong dimension, and nobody was ever dropped.)


# %% exercise="mixture_of_experts.keep"
def keep(experts: torch.Tensor, n_experts: int, capacity: int) -> torch.Tensor:
    """Which choices find room, if all first choices come before all second ones, and so on.

    Args:
        experts: (tokens, k) or (..., tokens, k) int64 in [0, n_experts): the choices of each token,
            the first choice first, all different. What stands before tokens are groups: an expert
            takes `capacity` tokens of each group. Must not be changed.
        n_experts: E.
        capacity: at least 0.

    Returns:
        Boolean of the shape of experts, True for the choices that are kept: those of which fewer
        than `capacity` others stand before them in the queue of their expert and group.
    """
    ### BEGIN SOLUTION
    tokens, k = experts.shape[-2:]
    queue = experts.mT.flatten(-2)  # (..., k * tokens), in the order in which they come
    hot = F.one_hot(queue, n_experts)  # (..., k * tokens, E)
    position = (hot.cumsum(dim=-2) * hot).sum(dim=-1) - 1  # (..., k * tokens)
    return (position < capacity).unflatten(-1, (k, tokens)).mT
    ### END SOLUTION


# %%
example = torch.tensor([[0, 1], [0, 2], [1, 0], [0, 1], [2, 1]])  # 5 tokens, 2 choices each
for (first, second), (kept_1, kept_2) in zip(example.tolist(), keep(example, 3, 2).tolist()):
    print(
        f"first choice {first}: {'kept' if kept_1 else 'dropped':<8} second choice {second}: {'kept' if kept_2 else 'dropped'}"
    )

# %% [markdown]
# Expert 0 has room for two. Tokens 0 and 1 have it as their first choice; token 3 comes too late, and so does token 2, whose second choice it is.
#
# ## Dispatch
#
# Now the tokens have to get to the experts. The textbook's way is a product with a one-hot tensor of size (tokens, experts, capacity). The capacity grows with the tokens, so the cost of this product grows with their square,
# and soon exceeds that of the experts. The practical way is a list: **sort the choices by expert**. Then every expert finds its tokens side by side, and an ordinary matrix product is all it needs.
#
# Number the choices $c = t \cdot k + j$: the $j$-th choice of token $t$. So `c // k` is the token, and `weights.flatten()[c]` is the weight.


# %% exercise="mixture_of_experts.dispatch"
def dispatch(
    experts: torch.Tensor, n_experts: int, kept: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """List the choices expert after expert.

    Args:
        experts: (tokens, k) int64 in [0, n_experts). Must not be changed.
        n_experts: E.
        kept: (tokens, k) boolean, False for choices that were dropped; None if all are kept. Must
            not be changed.

    Returns:
        choices, (entries,) int64: the numbers t * k + j of the kept choices, first those of expert
            0, then those of expert 1, and so on; ascending within an expert.
        counts, (E,) int64: how many entries each expert has, 0 for one without.
    """
    ### BEGIN SOLUTION
    flat = experts.flatten()
    choices = flat.argsort(stable=True)
    if kept is not None:
        choices = choices[kept.flatten()[choices]]
    return choices, flat[choices].bincount(minlength=n_experts)
    ### END SOLUTION


# %%
choices, counts = dispatch(example, 3, keep(example, 3, 2))
for number, mine in enumerate(choices.split(counts.tolist())):
    print(f"expert {number} reads tokens {(mine // 2).tolist()} (choices {mine.tolist()})")

# %% [markdown]
# ## Combine
#
# Back again: multiply each answer by its weight, and add it to its token. A dropped choice is in no list and adds nothing. A token that lost all its
# choices gets 0 from the layer, and the residual connection around the layer carries it on.
#
# (For some releases a well-known library returned $x \cdot p$ for dropped tokens.)


# %% exercise="mixture_of_experts.combine"
def combine(outputs: torch.Tensor, choices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Add the experts' answers to their tokens.

    Args:
        outputs: (entries, d) float32, the answers in the order of the list. Must not be changed.
        choices: (entries,) int64, the numbers t * k + j of what was answered, as dispatch lists
            them.
        weights: (tokens, k) float32 of all choices, kept or not, any numbers.

    Returns:
        (tokens, d) float32: for each token the sum of its answers, each times the weight of its
        choice as it is; 0 where nobody answered. The gradient reaches outputs and weights.
    """
    ### BEGIN SOLUTION
    weighted = outputs * weights.flatten()[choices][:, None]  # (entries, d)
    y = weighted.new_zeros(len(weights), outputs.shape[1])
    return y.index_add(0, choices // weights.shape[1], weighted)
    ### END SOLUTION


# %% [markdown]
# ## The layer
#
# All parts are there. The experts are given: `expert` below is one of them, either of the two kinds in use.


# %%
def expert(X: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """One expert, (rows, d) -> (rows, d).

    down is (d, f). Where up is (2f, d) it is SwiGLU, down (silu(gate X) * value X), and the f rows
    of gate come first (Mixtral, DeepSeek). Where up is (f, d) it is down relu(up X) (Switch).
    """
    h = X @ up.T
    if len(up) == 2 * down.shape[1]:
        gate, value = h.chunk(2, dim=1)
        return (F.silu(gate) * value) @ down.T
    return h.relu() @ down.T


# %% exercise="mixture_of_experts.layer"
def mixture(
    x: torch.Tensor,
    router: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    k: int,
    renormalise: bool = True,
    capacity: int | None = None,
) -> torch.Tensor:
    """A mixture layer.

    Args:
        x: (sequences, tokens, d). All tensors are float32 and contiguous, and must not be changed.
        router: (E, d); a token's logits are x @ router.T.
        up: (E, 2f, d) for SwiGLU experts, the gate's rows first, or (E, f, d) for ReLU experts.
        down: (E, d, f).
        k: experts of a token.
        renormalise: of the weights, as in route.
        capacity: how many tokens of each sequence an expert takes, as in keep; None for no limit.

    Returns:
        (sequences, tokens, d): for each token the sum of its experts' answers, each times its
        weight (renormalised, if so, before dropping); a dropped choice adds nothing. An expert
        computes for its own tokens alone: what it would make of others, perhaps NaN, has no effect.
        The gradient reaches x, router, up and down.
    """
    ### BEGIN SOLUTION
    n_experts = len(router)
    experts, weights = route(x @ router.T, k, renormalise)  # (sequences, tokens, k)
    kept = None if capacity is None else keep(experts, n_experts, capacity).flatten(0, 1)
    experts, weights = experts.flatten(0, 1), weights.flatten(0, 1)  # (sequences * tokens, k)
    choices, counts = dispatch(experts, n_experts, kept)
    rows = x.flatten(0, 1).index_select(0, choices // k)  # (entries, d)
    answers = [rows[:0]]
    for X, W_up, W_down in zip(rows.split(counts.tolist()), up.unbind(), down.unbind()):
        if len(X):
            answers.append(expert(X, W_up, W_down))
    return combine(torch.cat(answers), choices, weights).view(x.shape)
    ### END SOLUTION


# %% [markdown]
# Is it the real thing? `tiny-moe` is a language model of the Mixtral layout that the course trained and ships: 6 blocks, $E = 8$, $k = 2$. Put your layer
# in the place of each of its own, and nothing may change.

# %%
import copy

from sparsity_edu.data import python_docs
from sparsity_edu.models import load, tokens

tiny_moe, tokenizer = load("tiny-moe")
WINDOW = 512
text = tokens(tokenizer, python_docs("validation"), (2 if FAST else 16) * WINDOW)

# %% tags=["experiment"]


class Mine(nn.Module):
    """Your layer, with the weights of one of transformers' own."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.router, self.experts, self.capacity = block.gate.weight, block.experts, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up, down = self.experts.gate_up_proj, self.experts.down_proj
        return mixture(x.contiguous(), self.router, up, down, 2, capacity=self.capacity)


yours = copy.deepcopy(tiny_moe)
for layer in yours.model.layers:
    layer.mlp = Mine(layer.mlp)
with torch.no_grad():
    expected, got = (model(text[None, :WINDOW]).logits for model in (tiny_moe, yours))
print(f"largest difference: {(got - expected).abs().max():.1e}")
print(f"logits are up to {expected.abs().max():.1f}")

# %% [markdown]
# ## What it costs
#
# Three numbers, and they part ways:
#
# - what memory **holds**: all experts, and the router;
# - what is **computed**: for each token $k$ experts and the router, two operations (a multiplication and an addition) for each parameter;
# - what is **read** from memory for a batch of tokens: each expert that *anybody* chose, once.
#
# If all experts are equally likely, and tokens choose independently, a token leaves a given expert alone with probability $1 - k/E$. All $B$ tokens of a batch do so
# with probability $(1 - k/E)^B$. On average $E \, (1 - (1 - k/E)^B)$ experts are read. For $E = 8$ and $k = 2$:
#
# | tokens | an expert is left alone by all | experts read, of 8 |
# |---|---|---|
# | 1 | $3/4 = 0.75$ | 2 |
# | 4 | $(3/4)^4 = 0.32$ | 5.5 |
# | 16 | $(3/4)^{16} = 0.01$ | 7.9 |
#
# DeepSeek adds a **shared** expert, which every token meets.


# %% exercise="mixture_of_experts.cost"
def mixture_cost(
    d: int, f: int, n_experts: int, k: int, tokens: int, shared: int = 0
) -> tuple[int, int, float]:
    """Count what a mixture layer with SwiGLU experts holds, computes and reads.

    Args:
        d: width of the model.
        f: width of an expert, which has 3 matrices of d * f.
        n_experts: E; the router is a matrix (E, d).
        k: experts of a token, all different, from 1 to E.
        tokens: B, tokens that are computed together.
        shared: width of one more SwiGLU expert that every token meets; 0 for none.

    Returns:
        parameters, all that are held, router and shared expert included.
        flops, of all B tokens, forward: 2 for each parameter that a token meets. Activation
            functions, softmax and weighted sum are left out.
        read, how many parameters are read for the batch on average, each once if anybody meets it.
    """
    ### BEGIN SOLUTION
    one = 3 * d * f
    always = n_experts * d + 3 * d * shared
    met = n_experts * (1 - (1 - k / n_experts) ** tokens)
    return always + n_experts * one, 2 * tokens * (always + k * one), always + met * one
    ### END SOLUTION


# %%
MODELS = {  # width, width of an expert, experts, of a token, shared: of one layer, from the models' configurations
    "tiny-moe": (128, 176, 8, 2, 0),
    "Mixtral 8x7B": (4096, 14336, 8, 2, 0),
    "DeepSeek-V3": (7168, 2048, 256, 8, 2048),
}
print(f"{'one layer of':<14} {'held':>14} {'computed, 1 token':>18} {'share of a token':>17}")
for name, (d, f, n_experts, k, shared) in MODELS.items():
    held, flops, _ = mixture_cost(d, f, n_experts, k, 1, shared)
    print(f"{name:<14} {held:14,} {flops:14,} FLOP {flops / 2 / held:16.1%}")

# %% [markdown]
# ## Experiment 3: is it worth it?
#
# A mixture has two fair opponents: a dense model of the same **active** size, which computes as much for a token, and one of the same **total** size, which holds as much. The
# course trained all three on the same tokens of the Python docs, in the same order: 700 steps of 4 x 512 tokens, about three times through the text, which took one
# core over an hour (a processor that has instructions for bfloat16). The script is `sparsity_edu/experts/train_tiny_moe.py`, the record lies beside the model as `training.json`.
#
# Beside it runs, live, the beginning of the same training, in float32, which every processor is good at.
#
# **Predict, then run.** A token costs 4.32 MFLOP in the mixture, and 4.31 in the dense model of the same active size. Is a training step of the two as fast?
#
# <details><summary>Answer</summary>
#
# No: 0.92 s of CPU time against 0.49, where it was recorded. Eight small matrix products are slower than one large one, tokens have to be sorted and added back, and the optimiser moves 2.8 times as many
# parameters, whether they were used or not.
#
# </details>

# %% tags=["experiment"]
import contextlib
import io
import json

from sparsity_edu.experts import train_tiny_moe
from sparsity_edu.models import train_tiny
from sparsity_edu.models.loading import TINY_MOE

record = json.loads((TINY_MOE / "training.json").read_text())
TITLES = {
    "mixture": "mixture, 8 experts, 2 of a token",
    "dense_active": "dense, same active size",
    "dense_total": "dense, same total size",
}
print("recorded: " + record["command"])
print(f"{'':<34} {'parameters':>11} {'active':>11} {'MFLOP':>7} {'CPU s':>7} {'loss':>7}")
print(f"{'':<34} {'':>11} {'':>11} {'a token':>7} {'a step':>7} {'held out':>8}")
for name, title in TITLES.items():
    run = record["models"][name]
    print(
        f"{title:<34} {run['parameters']:11,} {run['active_parameters']:11,} {run['flops_per_token'] / 1e6:7.2f} "
        f"{run['cpu_seconds_per_step']:7.2f} {run['curve'][-1]['validation']:8.4f}"
    )

LIVE = 1 if FAST else 6
train_ids = tokens(tokenizer, python_docs("train")[: 400_000 if FAST else 3_000_000])
print(f"\nlive: the first {LIVE} steps here, in float32")
for name, title in TITLES.items():
    torch.manual_seed(train_tiny_moe.SEED)
    model = train_tiny_moe.MODELS[name]()
    second = {}
    if name == "mixture":
        model.config.output_router_logits = True
        second = {"balance": train_tiny_moe.balance, "coefficient": train_tiny_moe.BALANCING}
    began = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        curve = train_tiny.train(model, train_ids, {}, LIVE, LIVE, dtype=torch.float32, **second)
    seconds = (time.process_time() - began) / LIVE
    print(f"{title:<34} mean training loss {curve[-1]['train']:.3f}, {seconds:.2f} CPU s a step")

fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.7), sharey=True)
for (name, title), color in zip(TITLES.items(), (plots.BLUE, plots.GREY, plots.VERMILLION)):
    curve = record["models"][name]["curve"]
    steps = torch.tensor([point["step"] for point in curve])
    loss = [point["validation"] for point in curve]
    axes[0].plot(steps, loss, "o-", ms=3, color=color, label=title)
    axes[1].plot(
        steps * record["models"][name]["cpu_seconds_per_step"] / 60,
        loss,
        "o-",
        ms=3,
        color=color,
        label=title,
    )
axes[0].set(
    xlabel="steps of 2,048 tokens",
    ylabel="held-out loss (nats per token)",
    title="for equal tokens",
)
axes[1].set(xlabel="CPU minutes (recorded seconds per step times steps)", title="for equal time")
axes[0].legend(loc="upper right")
plt.show()

# %% [markdown]
# For equal tokens the mixture ends about a tenth of a nat below both dense models. Against the one of equal *active* size that is the promise: the same FLOPs for a token, and a better model. That it beats the one of equal *total*
# size too is no general law. Three passes through a small text are not enough for 3.8 million parameters that are all used all the time; look at the two dense curves, which end almost together. And it is one seed for
# each model.
#
# The clock says something else. In the record a step of the mixture takes nearly twice as long as one of the small dense model, though the FLOPs are the same. How much longer depends on the processor and on the type of the numbers: compare the live steps. Eight small products are not as fast as one
# large one, tokens have to be sorted, and the optimiser has 2.8 times as many parameters to move. In the right panel the small dense model is ahead at every minute that it ran. FLOPs are not seconds.
#
# The losses of the live steps are only the beginning, in which all three are alike. They show that this is the code that ran.
#
# ## Experiment 4: which expert reads what
#
# Held-out text of the Python docs, 16 windows of 512 tokens, through `tiny-moe`. The router's inputs are caught on their way into each of your layers, and your `route` says
# who reads them.

# %% tags=["experiment"]
E, K = 8, 2


@torch.no_grad()
def choices_of(ids):
    """The experts of every token in every layer, (layers, tokens, k)."""
    seen = [[] for _ in yours.model.layers]
    hooks = [
        layer.mlp.register_forward_pre_hook(
            lambda mlp, args, mine=mine: mine.append(route(args[0] @ mlp.router.T, K, True)[0][0])
        )
        for layer, mine in zip(yours.model.layers, seen)
    ]
    for window in ids.split(WINDOW):
        yours(window[None])
    for hook in hooks:
        hook.remove()
    return torch.stack([torch.cat(mine) for mine in seen])


chosen = choices_of(text)
print(f"tokens that each expert reads, of {len(text):,} (fair share {len(text) * K // E:,})")
print("layer   " + "".join(f"{'expert ' + str(e):>10}" for e in range(E)))
for number, layer in enumerate(chosen):
    print(f"{number:5}   " + "".join(f"{n:10,}" for n in layer.flatten().bincount(minlength=E)))

counts_all = text.bincount(minlength=len(tokenizer))
for number in (0, 3):
    print(
        f"\nlayer {number}: the tokens of which most go to it, as first choice (at least {2 if FAST else 12} in the text)"
    )
    for e in range(E):
        mine = text[chosen[number, :, 0] == e].bincount(minlength=len(tokenizer))
        share = torch.where(counts_all >= (2 if FAST else 12), mine / counts_all.clamp(min=1), 0.0)
        top = share.argsort(descending=True)[:8]
        words = "  ".join(f"{tokenizer.decode([i])!r}" for i in top.tolist())
        print(f"  expert {e}: {words}")

# %% [markdown]
# How much of this is the token, and how much its surroundings? Guess a token's first expert from the token alone: by the expert that this token was sent to most often in
# the first half of the text. Beside it the guess of somebody who sees nothing and always says the busiest expert.

# %% tags=["experiment"]
half = len(text) // 2
by_token, by_nothing = [], []
for layer in chosen[:, :, 0]:
    table = torch.zeros(len(tokenizer), E).index_put(
        (text[:half], layer[:half]), torch.ones(half), accumulate=True
    )
    known = table.sum(dim=1)[text[half:]] > 0
    busiest = layer[:half].bincount(minlength=E).argmax()
    guess = torch.where(known, table.argmax(dim=1)[text[half:]], busiest)
    by_token.append((guess == layer[half:]).float().mean().item())
    by_nothing.append((layer[half:] == busiest).float().mean().item())
print("first expert guessed right, second half of the text")
print("layer            " + "".join(f"{i:8}" for i in range(len(by_token))))
print("from the token   " + "".join(f"{v:8.1%}" for v in by_token))
print("from nothing     " + "".join(f"{v:8.1%}" for v in by_nothing))

fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.4))
load_share = torch.stack([layer.flatten().bincount(minlength=E) for layer in chosen]) / (
    len(text) * K / E
)
image = axes[0].imshow(load_share, cmap="PuOr", vmin=0, vmax=2, aspect="auto")
axes[0].grid(False)
axes[0].set(xlabel="expert", ylabel="layer", title="tokens read, times the fair share")
fig.colorbar(image, ax=axes[0])
axes[1].plot(by_token, "o-", color=plots.BLUE, label="from the token alone")
axes[1].plot(by_nothing, "o--", color=plots.GREY, label="always the busiest expert")
axes[1].axhline(1 / E, color="0.4", lw=1, ls=":", label="chance")
axes[1].set(
    xlabel="layer",
    ylabel="first expert guessed right",
    ylim=(0, 1),
    title="can the expert be guessed?",
)
axes[1].legend(loc="upper right")
plt.show()

# %% [markdown]
# No expert is idle: the counts stay within about a third of the fair share in every layer. A balancing loss in training saw to it, which is what unit 09 is about.
#
# Do not look for an expert for exceptions and one for files. In the first layer they divide the *vocabulary*: one has short words such as articles and prepositions, one has conjunctions and the comma, one has digits and brackets, one has
# line breaks and what follows them, and several have pieces of words. From the token alone, without its surroundings, the first expert is guessed right in 80 % of cases. This falls
# from layer to layer, to 52 % in the last: deeper down, the router sees more of the context. Chance is 12.5 %. (The fast setting reads two windows, and its numbers move.)
#
# ## Experiment 5: a capacity, and who is dropped
#
# `tiny-moe` was trained without a capacity. Give its experts one now, in every layer, and each window of 512 tokens is a group. Megatron's rounding, since it counts $k$. Two
# questions: how many choices are dropped, and what does the loss say?
#
# For comparison the same count for a router that draws lots, which is as balanced as chance can be.
#
# **Predict, then run.** At a factor of 1 there are exactly as many places as choices. Are any dropped? And if the experts are drawn by lot?
#
# <details><summary>Answer</summary>
#
# 9.4 % are dropped, and 3.3 % by lot. Places are not shared: one expert is full while another has places left. Even a fair lot does not give each expert its exact share, and text, in which neighbours are
# alike, is less even than a lot.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.models.perplexity import mean_loss

FACTORS = (0.5, 1.0, 1.5) if FAST else (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
some_text = text[: (1 if FAST else 8) * WINDOW]
groups = chosen[:, : len(some_text)].unflatten(1, (-1, WINDOW))  # (layers, windows, tokens, k)
lot = torch.rand(8, WINDOW, E, generator=torch.Generator().manual_seed(0)).topk(K).indices
rows = []
whole = mean_loss(yours, some_text, WINDOW, progress=False)
print(f"loss without a limit {whole:.4f}; {len(some_text) // WINDOW} windows of {WINDOW} tokens")
print("factor   capacity   dropped: choices   tokens that lost both   choices of a lot   loss")
for factor in FACTORS:
    room = expert_capacity(WINDOW, E, K, factor, "megatron")
    kept, by_lot = keep(groups, E, room), keep(lot, E, room)
    for layer in yours.model.layers:
        layer.mlp.capacity = room
    loss = mean_loss(yours, some_text, WINDOW, progress=False)
    rows.append(
        (
            1 - kept.float().mean().item(),
            1 - kept.any(dim=-1).float().mean().item(),
            1 - by_lot.float().mean().item(),
            loss,
        )
    )
    print(
        f"{factor:6}   {room:8}   {rows[-1][0]:16.1%}   {rows[-1][1]:21.1%}   {rows[-1][2]:16.1%}   {loss:.4f}"
    )
for layer in yours.model.layers:
    layer.mlp.capacity = None

fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.5))
dropped, both, by_lot, losses = zip(*rows)
axes[0].plot(FACTORS, [100 * v for v in dropped], "o-", color=plots.BLUE, label="choices dropped")
axes[0].plot(
    FACTORS, [100 * v for v in both], "s-", color=plots.VERMILLION, label="tokens that lost both"
)
axes[0].plot(
    FACTORS, [100 * v for v in by_lot], "^--", color=plots.GREY, label="choices dropped, by lot"
)
axes[0].set(xlabel="capacity factor", ylabel="%", title="who is dropped")
axes[0].legend()
axes[1].plot(FACTORS, losses, "o-", color=plots.BLUE, label="with a capacity")
axes[1].axhline(whole, color="0.4", lw=1, ls=":", label="no limit")
axes[1].set(xlabel="capacity factor", ylabel="loss (nats per token)", title="what it costs")
axes[1].legend()
plt.show()

# %% [markdown]
# Three things to see:
#
# - **At a factor of 1 there is exactly room for everybody, and still 9 % of the choices are dropped**: some experts are full while others have places left. A router that draws lots loses 3 %. Even chance is not even, and real
#   text less so.
# - **At 1.25 hardly any are dropped**, and none loses both. That is why 1.25 is the usual factor.
# - **The loss is forgiving.** With 9 % dropped it rises by 0.01, with half of them by 0.46. A token that lost its second choice still has its first, which was filled first and counts more; at a factor of 0.5 only 16 % lost both. And
#   even those go on: the residual connection carries them past the layer.
#
# (The fast setting tries three factors on a single window.)
#
# ## Experiment 6: when to use it
#
# Decoding is bound by memory: each step reads the weights, and computes little with them ([unit 16](../16_sparse_gemv/sparse_gemv.ipynb) says when). One user alone reads $k$ experts, as much as the small dense model. Many users
# together choose different experts, and soon all are read.
#
# Your `mixture_cost` says how much. Left and middle: bytes per token in bfloat16, one layer, against the batch size. Right: how many different experts a batch *really* chooses, for
# `tiny-moe` on tokens that follow each other in one text, and on tokens from places far apart, against the formula.
#
# **Predict, then run.** One token of Mixtral reads a quarter of the experts. How much do 8 tokens read, as a multiple of that? And 8 tokens of DeepSeek-V3, with 8 of 256 experts each?
#
# <details><summary>Answer</summary>
#
# 3.6 times as much: $8 \, (1 - 0.75^8) = 7.2$ of the 8 experts, so nearly all of them. DeepSeek-V3 reads 6.5 times as much for 8 tokens as for one. Its tokens seldom meet in an expert: they choose 57 different ones on average, where 64 are possible, and
# only the shared expert is read once for all. But 57 of 256 is still a small part of the layer.
#
# </details>

# %% tags=["experiment"]
BATCHES = [2**i for i in range(11)]
GB = 2 / 1e9  # bytes of a bfloat16, in GB
fig, axes = plt.subplots(1, 3, figsize=(13, 3.8))
for ax, name in zip(axes, ("Mixtral 8x7B", "DeepSeek-V3")):
    d, f, n_experts, k, shared = MODELS[name]
    held, one_token, _ = mixture_cost(d, f, n_experts, k, 1, shared)
    active = one_token / 2
    read = [mixture_cost(d, f, n_experts, k, B, shared)[2] for B in BATCHES]
    ax.loglog(
        BATCHES,
        [GB * r / B for r, B in zip(read, BATCHES)],
        "o-",
        ms=4,
        color=plots.BLUE,
        label="mixture",
    )
    ax.loglog(
        BATCHES,
        [GB * active / B for B in BATCHES],
        "--",
        color=plots.GREY,
        label="dense, same active size",
    )
    ax.loglog(
        BATCHES,
        [GB * held / B for B in BATCHES],
        "--",
        color=plots.VERMILLION,
        label="dense, same total size",
    )
    ax.set(title=f"{name}: E = {n_experts}, k = {k}", xlabel="batch size (tokens)")
    ratio = [r / active for r in read]
    print(f"{name}: a layer holds {GB * held:.2f} GB, a token meets {GB * active:.2f} GB")
    print("  batch size          " + "".join(f"{B:8}" for B in BATCHES[:10]))
    print("  read, times active  " + "".join(f"{r:8.2f}" for r in ratio[:10]))
axes[0].set_ylabel("GB read per token")
axes[0].legend(loc="lower left")

SIZES = (1, 2, 4, 8, 16, 32, 64)
last = chosen[3]  # (tokens, k), one layer
g = torch.Generator().manual_seed(0)
real = {"tokens in a row": [], "tokens far apart": []}
for B in SIZES:
    starts = torch.randint(len(text) - B, (300,), generator=g)
    row = starts[:, None] + torch.arange(B)
    apart = torch.randint(len(text), (300, B), generator=g)
    for label, places in (("tokens in a row", row), ("tokens far apart", apart)):
        hot = F.one_hot(last[places].flatten(1), E).amax(dim=1)  # (300, E)
        real[label].append(hot.sum(dim=1).float().mean().item())
formula = [E * (1 - (1 - K / E) ** B) for B in SIZES]
print("tiny-moe, layer 3: different experts that a batch chooses, mean of 300 batches")
print(f"  {'batch size':<18}" + "".join(f"{B:7}" for B in SIZES))
for label, values in (*real.items(), ("formula", formula)):
    print(f"  {label:<18}" + "".join(f"{v:7.2f}" for v in values))
axes[2].semilogx(SIZES, formula, "--", color="0.3", label="formula")
for (label, values), color in zip(real.items(), (plots.VERMILLION, plots.BLUE)):
    axes[2].semilogx(SIZES, values, "o-", ms=4, color=color, label=label)
axes[2].set(
    xlabel="batch size (tokens)",
    ylabel="different experts read, of 8",
    title="tiny-moe, layer 3",
    ylim=(0, 8.4),
)
axes[2].legend(loc="lower right")
plt.show()

# %% [markdown]
# And the clock? One layer with SmolLM2's width, 8 experts, 2 of a token, in float32: 85 MB of experts, more than a processor's cache holds. Your mixture against both
# dense layers, the fastest of several turns, in CPU time of one core.

# %% tags=["experiment"]
D, WIDTH_OF_EXPERT, TURNS = (64, 96, 2) if FAST else (576, 1536, 12)
g = torch.Generator().manual_seed(0)
router = torch.randn(E, D, generator=g)
up = 0.02 * torch.randn(E, 2 * WIDTH_OF_EXPERT, D, generator=g)
down = 0.02 * torch.randn(E, D, WIDTH_OF_EXPERT, generator=g)


def wide(n):
    """One dense SwiGLU layer of n experts' size."""
    gate, value = up[:n].chunk(2, dim=1)
    return torch.cat([gate.flatten(0, 1), value.flatten(0, 1)]), down[:n].transpose(0, 1).flatten(
        1
    ).contiguous()


dense = {"dense, same active size": wide(K), "dense, same total size": wide(E)}
WAYS = {"mixture": lambda x: mixture(x, router, up, down, K)}
WAYS |= {name: lambda x, W=W: expert(x.flatten(0, 1), *W) for name, W in dense.items()}
BATCH_SIZES = (1, 4, 16) if FAST else (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
took = {name: [] for name in WAYS}
with torch.no_grad():
    for B in BATCH_SIZES:
        x = torch.randn(1, B, D, generator=g)
        turns = {name: [] for name in WAYS}
        for turn in range(TURNS + 1):
            for name, way in WAYS.items():
                began = time.process_time()
                way(x)
                if turn:
                    turns[name].append(time.process_time() - began)
        for name, seconds in turns.items():
            took[name].append(1e3 * min(seconds))

print("processor milliseconds for the batch, one thread")
print(f"{'batch size':<26}" + "".join(f"{B:8}" for B in BATCH_SIZES))
for name, values in took.items():
    print(f"{name:<26}" + "".join(f"{v:8.2f}" for v in values))
for name in dense:
    ratio = [a / b for a, b in zip(took["mixture"], took[name])]
    print(f"{'mixture / ' + name.split(', ')[1]:<26}" + "".join(f"{v:8.2f}" for v in ratio))

fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.6))
for (name, values), color in zip(took.items(), (plots.BLUE, plots.GREY, plots.VERMILLION)):
    axes[0].loglog(
        BATCH_SIZES,
        [v / B for v, B in zip(values, BATCH_SIZES)],
        "o-",
        ms=4,
        color=color,
        label=name,
    )
axes[0].set(
    xlabel="batch size (tokens)",
    ylabel="processor ms per token",
    title="measured on this processor",
)
axes[0].legend(loc="upper right")
for name, color in zip(dense, (plots.GREY, plots.VERMILLION)):
    axes[1].semilogx(
        BATCH_SIZES,
        [a / b for a, b in zip(took["mixture"], took[name])],
        "o-",
        ms=4,
        color=color,
        label=f"mixture / {name}",
    )
axes[1].axhline(1, color="0.4", lw=1, ls=":")
axes[1].set(
    xlabel="batch size (tokens)",
    ylabel="ratio of times",
    title="how the mixture compares",
    ylim=(0, None),
)
axes[1].legend(loc="upper right", fontsize=8)
plt.show()

# %% [markdown]
# The clock follows the count. (The fast setting has a layer so small that it lies in the cache, and shows nothing of this.)
#
# - **One token** reads $k$ experts and no more, however many there are. Here the mixture takes about 1.5 times as long as the small dense layer, which is the price of routing and of eight small matrices in place of one, and 0.4
#   times as long as the large one.
# - **A few tokens** are its worst case. Mixtral reads 2.7 times as much for 4 tokens as for one, and practically everything from 16 on. DeepSeek-V3 with its 256 experts holds out longer: 6.5 times at 8 tokens, nearly all from
#   about 128. Measured, at 8 and 16 tokens the mixture takes three times as long as the small layer, and 0.8 times as long as the large one: all experts are read, each for a handful of tokens.
# - **Very many tokens** are cheap again. Each expert now has enough of them that computing takes longer than reading, and the mixture computes little: at 512 tokens it takes less than 1.2 times as long as the small layer, and about a quarter of the large one's time.
# - **Real text** is close to the formula. Tokens from far apart choose nearly as many experts as it says; tokens in a row choose somewhat fewer.
#
# So a mixture pays for a single user with enough memory, and for very large batches: training, reading a prompt, a busy server. In between it reads like a large model and computes like a small one. And memory holds
# all of it in any case.
#
# ## What to remember
#
# - Experts differ because they compete: whoever is nearest learns most. Experts that are asked for a mean stay entangled.
# - A router is one matrix, a softmax in float32 and a top-k. Say whether you renormalise; at $k = 1$ you must not.
# - An expert's room is limited; all first choices come before all second ones, and what is dropped gets 0. Say whose rounding.
# - Sort, split, multiply, add back. `index_add`, not assignment, and never 0 times something that should not have been computed.
# - Held, computed and read are three numbers. A mixture is cheap in the second; in the first never, in the third only for small batches; and FLOPs are not seconds.
#
# ## Further reading
#
# - [Jacobs, Jordan, Nowlan and Hinton 1991](https://doi.org/10.1162/neco.1991.3.1.79), *Adaptive mixtures of local experts*: nine pages, with the two objectives side by side. (The vowels are those of Peterson and Barney 1952, *Control methods used in a study of the
#   vowels*, table II.)
# - [Jordan and Jacobs 1994](https://doi.org/10.1162/neco.1994.6.2.181), *Hierarchical mixtures of experts and the EM algorithm*: the derivation of experiment 2.
# - [Shazeer et al. 2017](https://arxiv.org/abs/1701.06538), *Outrageously large neural networks*: the layer of today, with noise and two balancing losses.
# - [Fedus et al. 2022](https://arxiv.org/abs/2101.03961), *Switch transformers*: section 2 for one expert a token, capacity and dropping.
# - [Jiang et al. 2024](https://arxiv.org/abs/2401.04088), *Mixtral of experts*: section 5 asks, as experiment 4 does, which expert reads what.
# - [Gale et al. 2022](https://arxiv.org/abs/2211.15841), *MegaBlocks*: no capacity and nobody dropped, by block-sparse matrix products; the layer that you built, made fast.
#
# Next: [09 training the router](../09_training_the_router/training_the_router.ipynb), in which the router is trained, and you see what happens if nobody keeps it in order.
