# %% [markdown]
# # 09 · Training the router
#
# **After this unit you can**
#
# - say why a router left to itself sends everything to one or two experts, and show it over several seeds,
# - build the four usual remedies, jitter, the load-balancing loss, the z-loss, and a bias that needs no loss, and say which convention you mean,
# - say which part of the gradient a router never gets, and estimate it with SparseMixer, forward and backward,
# - check an estimator by enumeration: its mean, its variance, and what it is exact for,
# - read the table of remedies of your own run: balance, loss and largest logit, with error bars.
#
# About 90 minutes of exercises, then four experiments that use *your* functions. They take about half a minute on two cores; longer trainings are
# drawn from a record.
#
# **Builds on** [08 mixture of experts](../08_mixture_of_experts/mixture_of_experts.ipynb) (the router, top-k, weights with and without renormalising).

# %% [markdown]
# ## Background
#
# A router has two problems that no ordinary layer has. [Shazeer et al. 2017](https://arxiv.org/abs/1701.06538) saw the first: left to itself, it comes to prefer the same few experts for everything, and the others
# never learn. They added noise to its logits, and two losses that ask for an even load. [Switch](https://arxiv.org/abs/2101.03961) (Fedus et al. 2022) made one simple loss of these,
# [ST-MoE](https://arxiv.org/abs/2202.08906) (Zoph et al. 2022) a second one that keeps logits small, and [Wang et al. 2024](https://arxiv.org/abs/2408.15664) found that balance can do without a loss, which
# [DeepSeek-V3](https://arxiv.org/abs/2412.19437) uses.
#
# The second problem is in the mathematics. Choosing the best expert is a step, and a step has no gradient, so part of what the router should learn never arrives. Most codes ignore that. SparseMixer
# ([Liu et al. 2023](https://arxiv.org/abs/2310.00811)) estimates the missing part without running more experts, and its authors report up to twice as fast convergence; a second version trained Phi-3.5-MoE
# (GRIN, [Liu et al. 2024](https://arxiv.org/abs/2409.12136)).
#
# ## The question
#
# A mixture layer ([unit 08](../08_mixture_of_experts/mixture_of_experts.ipynb)) computes logits $z = x W^\top$, one for each of $E$ experts, and $p = \text{softmax}(z)$. In the simplest case, Switch, it runs one
# expert, the likeliest, and answers
#
# $$ y = p_D \, E_D(x) \qquad D = \arg\max_i \, p_i $$
#
# How does $W$ learn? The loss depends on $p_D$, so there is a gradient. But think of what it can say: "expert $D$ should count more", or "less". It cannot say "expert 2 would
# have done better", because expert 2 was not asked.
#
# ![A token goes to a router, which gives four experts probabilities 0.5, 0.2, 0.1 and 0.2. Only expert 0 is run, and its answer reaches the loss. The gradient goes back from the loss to the probability of expert 0; beside the three others stands "not run: what is it worth?"](unheard.svg)
#
# *What a router hears in training: more of the expert that was run, or less.*
#
# So an expert that is chosen often learns a lot, gets good, and is chosen more often. One that is not chosen learns nothing. Two things follow, and this unit is about
# both:
#
# 1. **Balance.** The rich get richer, until a few experts do all the work. What can be done? Exercises 1 to 4.
# 2. **The missing gradient.** The choice itself has no gradient. Can one be estimated without running all experts? Exercises 5 to 7.
#
# **Conventions of the course.** Logits, probabilities and scores have the shape `(tokens, E)`, choices `(tokens, k)` with the best first. Sums in formulas run from 1 to $E$; code, figures and text number experts
# from 0. All that a router computes is float32, whatever the model runs in. Noise is an *argument*: the same noise gives the same result, and `None` means evaluation.

# %%
import math
import os
import statistics

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from autograder import check
from sparsity_edu import plots

# small experiments, for an automatic test and while nbgrader runs this notebook
FAST = bool(os.environ.get("SPARSITY_EDU_FAST") or os.environ.get("NBGRADER_EXECUTION"))
torch.set_num_threads(1)  # for models as small as these a second thread costs time
plots.style()

# %% [markdown]
# How fast does it happen? The course has a script that trains small mixtures: language models of bytes on the Python docs, two blocks with eight experts each, of which one reads
# a byte. One model takes a quarter of a minute. Here are the first 100 steps without any remedy.

# %% tags=["experiment"]
from sparsity_edu.experts.train_router import EXPERTS, REMEDIES, train

STEPS = 20 if FAST else 100
first = train(REMEDIES["none"], seed=0, steps=STEPS, every=STEPS // 10)["curve"]
steps = [point["step"] for point in first]
fig, axes = plt.subplots(1, 2, figsize=(10, 3), sharey=True)
for layer, ax in enumerate(axes):
    shares = torch.tensor([point["shares"][layer] for point in first])  # (points, E)
    ax.stackplot(steps, shares.T, colors=plt.get_cmap("cividis")(torch.linspace(0, 1, EXPERTS)))
    ax.set(title=f"layer {layer + 1}", xlabel="step", xlim=(0, STEPS), ylim=(0, 1))
    print(
        f"layer {layer + 1}: share of each expert after {STEPS} steps",
        *(f"{s:.3f}" for s in shares[-1]),
    )
axes[0].set_ylabel("share of the bytes")
plt.show()

# %% [markdown]
# At the start all experts are chosen, by chance. After 20 steps layer 2 sends nearly every byte to a single expert, and layer 1 is down to three (where the fast setting stops); after 100 steps two experts of layer 1 do 94 % of the work. Each
# layer has a history of its own, but it begins the same way: what was chosen a little more often gets better, and is chosen more often still.
#
# Some of the others come back later (layer 2, after 80 steps): once all bytes are in one place, what that expert does badly is an opening for the next. But nobody would pay for eight experts to use two.
#
# ## Jitter
#
# The oldest idea: shake the router a little while it trains, so that other experts get a turn. Mesh TensorFlow, flaxformer, Megatron and Switch multiply every entry of what the router
# *reads* with a random number of its own, uniform on $[1 - \epsilon, 1 + \epsilon)$:
#
# $$ \tilde x_j = x_j \, (1 - \epsilon + 2 \epsilon u_j) \qquad u_j \sim U[0, 1) $$
#
# Not additive, not on the logits, and not in evaluation. The experts read $x$ without jitter, if the code is careful: `hidden_states *= noise` changes the tensor that the experts
# read next. (Mixtral and Phi-3.5-MoE in `transformers` feed the experts jittered inputs on purpose.)


# %% exercise="training_the_router.jitter"
def jitter(x: torch.Tensor, noise: torch.Tensor | None, eps: float = 0.01) -> torch.Tensor:
    """What the router reads: the inputs, each entry scaled by a random factor near 1.

    Args:
        x: (..., d) inputs, float32 or bfloat16; must not be changed, the experts read it as it is.
        noise: float32, of the shape of x, uniform on [0, 1); None in evaluation. Must not be
            changed.
        eps: half the width of the interval of factors, in [0, 1).

    Returns:
        float32, of the shape of x: x, taken to float32 first, times a factor for every entry. The
        factor is the noise stretched from [0, 1) to [1 - eps, 1 + eps): noise 0 is 1 - eps, and
        noise 0.5 is 1. Without noise x itself in float32. (It may be the same tensor. A gradient
        reaches x.)
    """
    ### BEGIN SOLUTION
    if noise is None:
        return x.float()
    return x.float() * (1 - eps + 2 * eps * noise)
    ### END SOLUTION


# %% [markdown]
# Why float32 first? Because near 1 a bfloat16 has few values to choose from:

# %%
uniform = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
    factors = (0.99 + 0.02 * uniform).to(dtype)
    print(
        f"{name:<9} different factors among 10,000: {len(factors.unique()):5}   mean {factors.double().mean():.5f}"
    )

# %% [markdown]
# ## The load-balancing loss
#
# Jitter hopes for balance. A loss asks for it. Switch (Fedus et al. 2022) adds, for every layer,
#
# $$ L = E \sum_{e=1}^{E} f_e \, P_e \qquad f_e = \frac{\text{tokens that chose } e}{\text{tokens}} \qquad P_e = \frac{1}{T} \sum_t p_{te} $$
#
# $f$ is what happens, and has no gradient: it is a count. $P$ is what the router believes, and has one. The gradient by $p_{te}$ is $E f_e / T$: probability is pushed away from an
# expert in proportion to how *busy* it is. With everything balanced the loss is 1, with everything on one expert, of which the router is sure, it is $E$.
#
# Why not $\sum P_e^2$, which has a gradient too? Because belief is not load: a router that gives every token 0.13 to expert 0 and 0.124 to each of the seven others believes in balance, and sends *all*
# tokens to expert 0.
#
# **What f counts when $k > 1$** differs from code to code, and nobody says so:
#
# | `count` | f adds up to | who |
# |---|---|---|
# | "sum": all k choices | k | Mixtral in `transformers`, flaxformer |
# | "mean": the same by k | 1 | Megatron, DeepSeek-V3 |
# | "first": the first choice only | 1 | Mesh TensorFlow, DeepSpeed |
#
# So a coefficient of 0.01 is not the same 0.01 everywhere.
#
# **Padding** is a trap of its own. All padding tokens look alike, so they all choose the same experts: to the loss this looks like a collapse, and it fights it.


# %% exercise="training_the_router.balance"
def balancing_loss(
    probs: torch.Tensor,
    experts: torch.Tensor,
    count: str = "sum",
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The load-balancing loss of a layer, E * sum over experts of f_e P_e, without a coefficient.

    Args:
        probs: (tokens, E) float32, probabilities of all experts; must not be changed.
        experts: (tokens, k) int64, the experts that each token goes to: k different ones, the best
            first, and not necessarily the most probable ones (a router may sample). Must not be
            changed.
        count: what f counts. "sum": all k choices of each token; "mean": the same divided by k;
            "first": the first choice of each token alone.
        mask: (tokens,) boolean, False for padding: such a token counts neither in f nor in P, nor
            among the tokens that they are divided by. At least one token is real. None if all are.
            Must not be changed.

    Returns:
        A float32 tensor without dimensions. f_e is what is counted of expert e, divided by the
        tokens; P_e the mean over tokens of its probability. The gradient reaches probs through P
        alone: f is a constant.

    Raises:
        ValueError: count is none of the three.
    """
    ### BEGIN SOLUTION
    if count not in ("sum", "mean", "first"):
        raise ValueError(f'count must be "sum", "mean" or "first", got {count!r}')
    if mask is not None:
        probs, experts = probs[mask], experts[mask]
    E, k = probs.shape[1], experts.shape[1]
    chosen = experts[:, :1] if count == "first" else experts
    f = F.one_hot(chosen, E).sum(dim=1).float().mean(dim=0)  # (E,)
    if count == "mean":
        f = f / k
    P = probs.mean(dim=0)  # (E,)
    return E * (f * P).sum()
    ### END SOLUTION


# %% [markdown]
# Two things to see with your loss. First the router that believes in balance and is not balanced. Then a mixture of two layers, each of which uses two experts of its own for everything: `transformers`
# joins the tokens of all layers of a Mixtral *before* it counts.
#
# **Predict, then run.** The first router sends every token to expert 0 of 8, with $p = 0.13$. The loss is 1 in balance, and 8 at worst. What is it here?
#
# <details><summary>Answer</summary>
#
# $E \, f_0 \, P_0 = 8 \cdot 1 \cdot 0.13 = 1.04$. The load is as bad as can be, but the value of the loss also depends on how sure the router is. Do not read balance off the loss; count.
#
# </details>

# %%
believes = torch.full((100, 8), 0.87 / 7)
believes[:, 0] = 0.13
only_first = torch.zeros(100, 1, dtype=torch.int64)
print(
    f"all tokens to expert 0 of 8, at p = 0.13: loss {balancing_loss(believes, only_first):.3f} (balanced: 1)"
)
print(
    f"the same by the sum of squares of P, times E: {8 * believes.mean(dim=0).square().sum():.3f}"
)

layers = torch.full((2, 40, 4), -30.0)  # layers, tokens, experts: each layer knows two of four
layers[0, :, :2] = layers[1, :, 2:] = 30.0
probs = layers.softmax(dim=-1)
chosen = probs.topk(2, dim=-1).indices
each = [balancing_loss(p, e).item() for p, e in zip(probs, chosen)]
joined = balancing_loss(probs.flatten(0, 1), chosen.flatten(0, 1)).item()
print(
    f"each layer by itself: {each[0]:.1f} and {each[1]:.1f};   joined: {joined:.1f}, as if balanced (k = 2)"
)

# %% [markdown]
# The sum of squares hardly notices. Nor does your loss say more than 1.04: its *value* is small where the router is unsure. Its gradient is what counts, and that pushes expert 0
# alone, with $E f_0 / T$ for every token.
#
# And two collapsed layers can make a balanced model. Take the loss layer by layer.
#
# ## The z-loss
#
# Logits may grow without a limit: softmax sees only differences, and a router that is sure has nothing to lose. But large numbers are coarse numbers. In bfloat16 logits near 100 come in steps of
# 0.5, and $e^{0.5} = 1.65$. Zoph et al. (2022) hold them small with
#
# $$ L_z = \frac{1}{T} \sum_t \Big( \log \sum_e e^{z_{te}} \Big)^2 $$
#
# on raw float32 logits. On log-probabilities it would be 0 whatever they are.


# %% exercise="training_the_router.z_loss"
def z_loss(logits: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The z-loss of a layer, without a coefficient.

    Args:
        logits: (tokens, E) float32, raw, of any size: thousands above or below 0. Must not be
            changed.
        mask: (tokens,) boolean, False for padding, which is left out of the mean; at least one
            token is real. None if all are. Must not be changed.

    Returns:
        A float32 tensor without dimensions: the mean over tokens of (log sum over e of exp z_e)^2.
        A gradient reaches the logits.
    """
    ### BEGIN SOLUTION
    if mask is not None:
        logits = logits[mask]
    return logits.logsumexp(dim=-1).square().mean()
    ### END SOLUTION


# %% [markdown]
# What large logits do to a router in bfloat16, and what your loss says of them:

# %%
g = torch.Generator().manual_seed(0)
shape = torch.randn(2000, 8, generator=g)
print(
    "spread of the logits    z-loss   in bfloat16 a logit is off by up to   and its share by a factor of up to"
)
for spread in (1, 10, 100):
    z = spread * shape
    off = (z.bfloat16().float() - z).abs().max()
    print(f"{spread:>20}   {z_loss(z):7.1f}   {off:35.3f}   {off.exp():35.2f}")

# %% [markdown]
# ## A bias that balances
#
# Every loss pulls at the model. Wang et al. (2024) found that balance can do without: give each expert a bias $b_e$ that takes part in the *choice alone*,
#
# $$ \text{choose the } k \text{ largest } s_e + b_e \qquad \text{weigh by } s_e \qquad b_e \leftarrow b_e + \gamma \, \text{sign}(\bar c - c_e) $$
#
# where $s$ are the scores (the sigmoid of the logits in DeepSeek-V3), $c_e$ counts how often $e$ was chosen in the batch, and $\bar c$ is the mean count. No gradient is involved. An expert that is chosen
# too rarely gets a slightly better chance next time, until it is not.
#
# Two things go wrong in practice. If the bias leaks into the weights, what balances changes what the layer computes. And the step is a *sign*: one expert with no tokens at all moves as slowly
# as one that is short of two.


# %% exercise="training_the_router.bias"
def biased_choice(
    scores: torch.Tensor, bias: torch.Tensor, k: int, rate: float = 0.001
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose experts with a bias, and move the bias by what was chosen.

    Args:
        scores: (tokens, E) float32, at least 0; must not be changed.
        bias: (E,) float32, of either sign and any size; must not be changed.
        k: how many experts each token chooses.
        rate: the size of a step of the bias.

    Returns:
        (experts, weights, new_bias): (tokens, k) int64, the experts with the largest scores + bias,
        the largest first (equal sums never decide in the checks); (tokens, k) float32, the scores
        of these experts, without bias and as they are, through which a gradient reaches scores; and
        (E,) float32, the bias after the step. An expert chosen less often than the mean over all E
        experts moves up by rate, one chosen more often moves down by rate, and one chosen exactly
        as often stays. All k choices of all tokens count.
    """
    ### BEGIN SOLUTION
    experts = (scores + bias).topk(k, dim=-1).indices
    weights = scores.gather(-1, experts)
    counts = torch.bincount(experts.flatten(), minlength=len(bias)).float()
    return experts, weights, bias + rate * torch.sign(counts.mean() - counts)
    ### END SOLUTION


# %% [markdown]
# In a loop: a router that is never trained and prefers the later experts, and what your bias makes of it.
#
# **Predict, then run.** At first the busiest of 8 experts has 0.252 of the choices, where 0.125 would be fair. Which rate ends nearer to that, 0.01 or 0.001?
#
# <details><summary>Answer</summary>
#
# The smaller one: 0.127, against 0.140. The step is a sign, so it is as large near the goal as far from it, and the bias swings around its best value by about one rate. The larger rate is there sooner, after a dozen
# batches.
#
# </details>

# %%
g = torch.Generator().manual_seed(0)
scores = (torch.randn(1024, 8, generator=g) + torch.linspace(0, 1.5, 8)).sigmoid()
fig, ax = plt.subplots(figsize=(6.5, 3))
for rate, color in ((0.01, plots.VERMILLION), (0.001, plots.BLUE)):
    bias, busiest = torch.zeros(8), []
    for _ in range(400):
        experts, _, bias = biased_choice(scores, bias, 2, rate)
        busiest.append(experts.flatten().bincount(minlength=8).max().item() / experts.numel())
    ax.plot(busiest, color=color, label=f"rate {rate}")
    print(
        f"rate {rate}: busiest expert's share {busiest[0]:.3f} at first, {busiest[-1]:.3f} after 400 steps; bias from {bias.min():.3f} to {bias.max():.3f}"
    )
ax.axhline(1 / 8, color="0.4", lw=1, ls=":", label="balanced")
ax.set(
    xlabel="step",
    ylabel="share",
    title="The busiest expert of a router that is not trained",
    ylim=(0, None),
)
ax.legend()
plt.show()

# %% [markdown]
# No gradient, no loss, and the load is even. The larger step is there after a dozen batches, and then it swings: each expert's step is a sign and never gets smaller, so the busiest share
# stays at 0.14 or below. The smaller one takes 120 batches and ends at 0.127. DeepSeek-V3 took 0.001 for most of its training, and 0 in the end.
#
# ## The missing gradient
#
# Now the second question. Let the router *draw* its expert, $D \sim p$, and write $f_i(w)$ for the loss if expert $i$ answers with the weight $w$. The layer answers with the weight $p_D$, so what training should
# lower is the expected loss
#
# $$ \mathcal L = \sum_i p_i \, f_i(p_i) \qquad\qquad
#    \nabla \mathcal L = \underbrace{\sum_i f_i(p_i) \, \nabla p_i}_{\text{the choice}} + \underbrace{\sum_i p_i \, f_i'(p_i) \, \nabla p_i}_{\text{the weight}} $$
#
# The second part is what `backward()` gives when one expert is drawn and run: on average $f_D'(p_D) \nabla p_D$. The first part is missing. As $\sum_i \nabla p_i = 0$, a constant may be taken off; take $f(0)$, the loss
# without the layer, the same for every expert:
#
# $$ \text{the choice} = \sum_i \big( f_i(p_i) - f(0) \big) \nabla p_i $$
#
# It asks what every expert is worth, and we run one. REINFORCE uses the loss of that one, $f_D(p_D) \nabla \log p_D$: right on average, and very noisy. SparseMixer (Liu et al. 2023) uses its *slope*. A difference is an integral
# of the slope, and an integral can be had from one or two points:
#
# $$ f_i(p_i) - f(0) = \int_0^{p_i} f_i'(w) \, dw \;\approx\; p_i \, f_i'\!\left(\tfrac{p_i}{2}\right) \quad \text{(mid-point)} $$
#
# ![Three times the same rising line, the slope of f between 0 and p. Left the area below it is coloured: f(p) - f(0). In the middle panel a rectangle as high as the slope at p covers more than this area. On the right a rectangle as high as the slope at p/2 covers a triangle too much and leaves out an equal one.](half.svg)
#
# *Why half the weight: if the slope is a straight line, what the rectangle has too much on the left it lacks on the right.*
#
# So run the drawn expert at *half* its weight half of the time, and at its whole weight otherwise. Each of the two parts of the gradient is then met half of the time, so what comes back counts twice:
#
# $$ \text{forward } m \, p_D, \quad m \in \{\tfrac12, 1\} \text{ by a coin} \qquad\qquad \text{backward } 2 \, \nabla p_D \cdot f_D'(m \, p_D) $$
#
# With numbers: an expert of probability $p = 0.8$, and $f(w) = w^2 + 0.5 w$, so that $f'(w) = 2 w + 0.5$. What stands before $\nabla p_D$?
#
# | | |
# |---|---|
# | the choice, $f(p) - f(0)$ | 1.04 |
# | the weight, $p \, f'(p)$ | $0.8 \cdot 2.1 = 1.68$ |
# | **what is wanted**, both | **2.72** |
# | SparseMixer, half the weight | $2 f'(0.4) = 2.6$ |
# | SparseMixer, the whole weight | $2 f'(0.8) = 4.2$ |
# | **its mean**: drawn with probability 0.8, each half of the time | $0.8 \cdot (2.6 + 4.2) / 2 =$ **2.72** |
# | plain `backward()`: drawn with probability 0.8, the whole weight, once | $0.8 \cdot 2.1 = 1.68$ |
#
# The mid-point rule is exact for quadratic $f$. One exception is made: the likeliest expert is always run at its whole weight, so that training and evaluation agree where the router is sure.
#
# **First the draw.** Gumbel's trick: with $n_i$ exponential with mean 1, $-\log n_i$ is Gumbel noise, and $\arg\max_i (z_i - \log n_i)$ is distributed as softmax($z$). And SparseMixer does not draw from all experts:
# those far below the best are out, and the softmax is over the others. Expert $i$ is out if
#
# $$ \frac{z^* - z_i}{\max(|z_i|, \, z^*)} > 2 \epsilon \qquad z^* = \max_i z_i $$
#
# (The paper writes $|z_i| + |z^*|$ in place of that maximum. This is the authors' code, and that of Phi-3.5-MoE.) Beware of negative logits: the divisor is then $|z_i|$.


# %% exercise="training_the_router.draw"
def draw(
    logits: torch.Tensor,
    noise: torch.Tensor | None,
    eps: float,
    taken: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw an expert for each token, from those that are near enough to the best.

    Args:
        logits: (tokens, E) float32, of either sign; must not be changed.
        noise: (tokens, E) exponential with mean 1; None in evaluation. Must not be changed.
        eps: an expert is out if (z* - z_i) / max(|z_i|, z*) > 2 eps, where z* is the largest logit
            of the token. (The best is never out, also where all logits are 0. Nothing is so close
            in the checks that rounding decides.)
        taken: (tokens,) int64, for each token an expert that is out, whatever its logit: z* is the
            largest of the others. None if there is none. Must not be changed.

    Returns:
        (expert, probs): (tokens,) int64, the expert of the largest z - log(noise) among those that
        are not out, or without noise of the largest z; and (tokens, E) float32, the softmax of the
        logits, without noise, over the experts that are not out, and 0 for those that are. A
        gradient reaches the logits through probs.
    """
    ### BEGIN SOLUTION
    left = logits if taken is None else logits.scatter(-1, taken[:, None], -torch.inf)
    best = left.amax(dim=-1, keepdim=True)
    far = (best - logits) / torch.maximum(logits.abs(), best) > 2 * eps  # NaN, 0 / 0, is not
    masked = left.masked_fill(far, -torch.inf)
    noisy = masked if noise is None else masked - noise.log()
    return noisy.argmax(dim=-1), masked.softmax(dim=-1)
    ### END SOLUTION


# %%
z = torch.tensor([1.0, 0.9, 0.85, 0.2])
g = torch.Generator().manual_seed(0)
exponential = torch.empty(20_000, 4).exponential_(generator=g)
for eps in (10.0, 0.1):
    expert, probs = draw(z.expand(20_000, 4), exponential, eps)
    drawn = expert.bincount(minlength=4) / len(expert)
    print(
        f"eps {eps:>4}: probabilities",
        *(f"{p:.3f}" for p in probs[0]),
        "  drawn",
        *(f"{p:.3f}" for p in drawn),
    )

# %% [markdown]
# ## Forward and backward
#
# Now the weight. In its forward pass it is $m \, p_D$. In its backward pass it pretends to have been $2 \, p_D$. `backward()` alone cannot do that: the gradient of $m \, p_D$ is $m \nabla p_D$. There are two ways to tell it otherwise:
#
# - a `torch.autograd.Function` with a `forward` and a `backward` of its own,
# - or a sum of two parts, one of which has no gradient (`detach()`) and the other no value.
#
# A test of the forward pass alone would not notice any mistake here. Yours is checked by its gradient.


# %% exercise="training_the_router.v1"
def sparsemixer_v1(
    logits: torch.Tensor, noise: torch.Tensor | None, coin: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """SparseMixer: an expert for each token, and its weight.

    Args:
        logits: (tokens, E) float32; must not be changed.
        noise: (tokens, E) exponential with mean 1, for draw; None in evaluation. Must not be
            changed.
        coin: (tokens,) uniform on [0, 1); None in evaluation. Must not be changed.
        eps: for draw.

    Returns:
        (expert, weight): (tokens,) int64, the expert that draw gives; and (tokens,) float32. With p
        the probability that draw gives for this expert, the weight is p where the expert is the
        most probable one of its token or the coin is above 0.5, and p / 2 elsewhere. Whichever it
        is, its gradient by the logits is 2 times the gradient of p. In evaluation the weight is p,
        with the gradient of p.
    """
    ### BEGIN SOLUTION
    expert, probs = draw(logits, noise, eps)
    weight = p = probs.gather(-1, expert[:, None])[:, 0]
    if noise is not None:
        whole = (expert == probs.argmax(dim=-1)) | (coin > 0.5)
        m = torch.where(whole, 1.0, 0.5)
        weight = (p * m).detach() + 2 * (p - p.detach())
    return expert, weight
    ### END SOLUTION


# %% [markdown]
# ## Version 2
#
# GRIN ([Liu et al. 2024](https://arxiv.org/abs/2409.12136)), the recipe behind Phi-3.5-MoE, chooses two experts, and takes a rule of third order: the slopes at a third of the weight and at the whole, with weights 3/4 and 1/4 (the authors call it Heun's method). So the small weight is
# $p / 3$, a coin decides for the whole one with a chance of 1/4, and the gradient counts *once*:
#
# | | small weight | whole if coin is | gradient | right for |
# |---|---|---|---|---|
# | v1 | $p/2$ | above 1/2 | $2 \nabla p$ | quadratic $f$ |
# | v2, as in Phi-3.5-MoE | $p/3$ | above 3/4 | $1 \nabla p$ | cubic $f$, if the $p_D$ in the answer were a constant |
# | v2*, the paper's appendix | $p/3$ | above 3/8 | $2 \nabla p$ | cubic $f$ |
#
# The last two lines are a story of their own. The paper's appendix says that v2 came from an error in the derivation, which lost the second part of the gradient, and derives v2*, the right one. What was
# shipped is v2, and in the paper's comparison the two do equally well. So v2 is yours to build; experiment 3 measures all of them.
#
# The second expert is drawn from those that are left. Its softmax knows nothing of the first, so both weights may be close to 1. They are not renormalised.


# %% exercise="training_the_router.v2"
def sparsemixer_v2(
    logits: torch.Tensor, noise: torch.Tensor | None, coin: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """SparseMixer version 2: two experts for each token, one after the other, and their weights.

    Args:
        logits: (tokens, E) float32, E at least 2; must not be changed.
        noise: (2, tokens, E) exponential with mean 1, for the first and the second choice; None in
            evaluation. Must not be changed.
        coin: (2, tokens) uniform on [0, 1), for the first and the second choice; None in
            evaluation. Must not be changed.
        eps: for draw.

    Returns:
        (experts, weights): (tokens, 2) int64, the first choice as draw gives it, the second as draw
        gives it with the first one taken; and (tokens, 2) float32. With p the probability that draw
        gives for an expert, its weight is p where it is the most probable of that draw or its coin
        is above 0.75, and p / 3 elsewhere (the authors' code has 0.3333; either is right).
        Whichever it is, its gradient by the logits is the gradient of p, once. In evaluation the
        weights are p, with the gradients of p. Nothing is renormalised.
    """
    ### BEGIN SOLUTION
    experts, weights, taken = [], [], None
    for j in range(2):
        expert, probs = draw(logits, None if noise is None else noise[j], eps, taken)
        weight = p = probs.gather(-1, expert[:, None])[:, 0]
        if noise is not None:
            whole = (expert == probs.argmax(dim=-1)) | (coin[j] > 0.75)
            weight = (p * torch.where(whole, 1.0, 1 / 3)).detach() + p - p.detach()
        experts.append(expert)
        weights.append(weight)
        taken = expert
    return torch.stack(experts, dim=1), torch.stack(weights, dim=1)
    ### END SOLUTION


# %% [markdown]
# ## Experiment 1: collapse, over seeds
#
# The cells from here on are not graded; they use your functions, so they need your exercises done.
#
# A training says little by itself: another seed, another story. `python -m sparsity_edu.experts.train_router` trains every remedy with three seeds, and writes a record, from which the pictures below are drawn. The same function
# with *your* losses in place of the library's runs beside it, for a shorter time and one seed.
#
# - Model: bytes to bytes, width 64, two blocks of attention and 8 SwiGLU experts of width 64; one expert reads a byte.
# - Text: the Python docs, 8 windows of 64 bytes in a step, AdamW at 3e-3. Within a seed all remedies see the same windows in the same order and begin with the same weights.
# - Measured on 64 windows of held-out text, without noise. *Busiest*: the largest share of an expert, 1/8 if balanced. *Idle*: experts with less than 1 % of the bytes. Both are means over the two layers.
# - The fast setting trains yours for 20 steps, and takes 20 problems in experiment 3; numbers in the text are those of the normal one.

# %% tags=["experiment"]
import json

from tqdm.auto import tqdm

from sparsity_edu.experts.routing import Routing
from sparsity_edu.experts.train_router import RECORD, Remedy

record = json.loads(RECORD.read_text())
runs = record["runs"]
print(record["command"], f"   (torch {record['torch']}, {record['threads']} thread)")

MINE = {
    "none": Remedy(),
    "jitter": Remedy(jitter=jitter),
    "balance": Remedy(
        balance=lambda routing: 0.01 * balancing_loss(routing.probs, routing.experts)
    ),
    "z-loss": Remedy(small=lambda logits: 1e-3 * z_loss(logits)),
}
LIVE_STEPS = 20 if FAST else 80
live = {}
with tqdm(total=len(MINE) * LIVE_STEPS, desc="training steps") as bar:
    for name, remedy in MINE.items():
        live[name] = train(remedy, seed=0, steps=LIVE_STEPS, every=LIVE_STEPS // 2, tick=bar.update)


def busiest(point):
    """The largest share of an expert, mean over layers."""
    return statistics.mean(map(max, point["shares"]))


def idle(point):
    """Experts with less than 1 % of the bytes, mean over layers."""
    return statistics.mean(sum(share < 0.01 for share in layer) for layer in point["shares"])


print(f"\nseed 0 after {LIVE_STEPS} steps: yours, and the record's where it has this step")
for name, run in live.items():
    points = [run["curve"][-1]]
    points += [p for p in runs[name][0]["curve"] if p["step"] == LIVE_STEPS]
    print(
        f"{name:<9}"
        + "     ".join(f"{p['bits']:.3f} bits, busiest {busiest(p):.2f}" for p in points)
    )


def over_seeds(name, measure):
    """Steps, mean and standard deviation over seeds."""
    curves = [run["curve"] for run in runs[name]]
    values = torch.tensor(
        [[float(measure(p)) for p in curve] for curve in curves]
    )  # (seeds, points)
    return [p["step"] for p in curves[0]], values.mean(dim=0), values.std(dim=0)


fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.6))
SHOWN = {"none": plots.GREY, "jitter": plots.ORANGE, "balance": plots.BLUE, "bias": plots.GREEN}
for ax, measure, label in (
    (axes[0], busiest, "share of the busiest expert"),
    (axes[1], idle, "idle experts of 8"),
):
    for offset, (name, color) in enumerate(SHOWN.items()):
        steps, mean, spread = over_seeds(name, measure)
        ax.errorbar(
            [s + 4 * offset for s in steps],
            mean,
            spread,
            color=color,
            marker="o",
            ms=3,
            capsize=2,
            lw=1.2,
            label=name,
        )
    ax.set(xlabel="step", ylabel=label, ylim=(0, None))
axes[0].axhline(1 / EXPERTS, color="0.4", lw=1, ls=":")
axes[0].set_title(f"mean and standard deviation of {len(runs['none'])} seeds")
axes[1].legend(loc="upper right")
plt.show()
print("mean over seeds: share of the busiest expert, and idle experts")
for name in SHOWN:
    (steps, shares, _), (_, idlers, _) = (over_seeds(name, measure) for measure in (busiest, idle))
    when = [1, len(steps) // 2, -1]
    print(
        f"{name:<9}"
        + "".join(f"   step {steps[i]:>3}: {shares[i]:.2f}, {idlers[i]:.1f}" for i in when)
    )

# %% [markdown]
# Your losses give what the library's give, to the last digit shown.
#
# **Collapse is no matter of luck**: with every seed half of the experts or more are idle after the first 80 steps, 4.7 of 8 on average, and the busiest has 68 % of the bytes. Then the routers recover by themselves, but only in part: two experts are idle
# in the end, and one does half of the work.
#
# - **Jitter** of 0.01 changes nothing that three seeds could show. The router is sure of itself within a few steps, and one per cent of noise on its inputs does not turn a choice.
# - **The load-balancing loss** works from the first step: the peak is not there at all.
# - **The bias** lets the first collapse happen, since 80 steps of 0.001 add up to 0.08, and the probabilities differ by more. Then it catches up, and in the end it has the most even load of all.
#
# ## Experiment 2: what does each remedy do?
#
# Balance is not the aim. The aim is a good model, and logits that do not run away. All three for each remedy, from the record, at the last step.

# %% tags=["experiment"]
MEASURES = {
    "bits per byte": lambda p: p["bits"],
    "busiest share": busiest,
    "idle experts": idle,
    "largest logit": lambda p: max(high for _, high in p["logits"]),
    "least logit": lambda p: min(low for low, _ in p["logits"]),
}
print(
    f"after {runs['none'][0]['curve'][-1]['step']} steps; mean ± standard deviation over {len(runs['none'])} seeds"
)
print(
    f"{'':<24}"
    + "".join(f"{measure:>17}" for measure in MEASURES)
    + "   bits less than none, seed by seed"
)
last = {name: {m: over_seeds(name, f) for m, f in MEASURES.items()} for name in runs}
for name in runs:
    cells = "".join(
        f"{mean[-1]:>10.3f} ± {spread[-1]:.3f}" for _, mean, spread in last[name].values()
    )
    pairs = [
        a["curve"][-1]["bits"] - b["curve"][-1]["bits"] for a, b in zip(runs["none"], runs[name])
    ]
    print(f"{name:<24}{cells}   " + " ".join(f"{d:+.3f}" for d in pairs))

LABELS = [name for name in runs if "SparseMixer" not in name]
fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), sharey=True)
for ax, measures in zip(
    axes, (["bits per byte"], ["busiest share"], ["largest logit", "least logit"])
):
    for measure, color in zip(measures, (plots.BLUE, plots.VERMILLION)):
        values = [last[name][measure] for name in LABELS]
        means, spreads = ([v[i][-1] for v in values] for i in (1, 2))
        ax.errorbar(
            means, range(len(LABELS)), xerr=spreads, fmt="o", color=color, capsize=3, label=measure
        )
    ax.set(xlabel=" and ".join(measures))
axes[0].set_yticks(range(len(LABELS)), LABELS)
axes[0].invert_yaxis()
axes[1].axvline(1 / EXPERTS, color="0.4", lw=1, ls=":")
axes[1].set_xlim(0, None)
axes[2].axvline(0, color="0.4", lw=1, ls=":")
axes[2].set_xlabel("logit")
axes[2].legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
axes[0].set_title(f"mean and standard deviation of {len(runs['none'])} seeds")
plt.show()

# %% [markdown]
# Look at the first column before you praise any of them. **Nothing here beats no remedy in bits.** The means lie between 3.015 and 3.075, the standard deviation over seeds is 0.04 to 0.07, and seed by seed the balancing loss
# is better once and worse twice, the bias worse each time, by 0.02. That is what can be said after 800 steps of a small model: balance costs little and gains nothing yet. The reason to want it is in the next column. An expert that is idle is memory
# that nobody reads, and where every expert sits on a device of its own, the busiest one is what all others wait for.
#
# - **The z-loss alone makes balance worse** (0.79 against 0.53, with every seed). It has no opinion on balance. It pulls log-sum-exp towards 0, so that the *largest* logit goes down, from 4.1 to 1.7, and the others with it: the least goes from -3.4
#   to -4.9. It holds the sum down, and hardly the spread. Our logits are small anyway, and there was nothing to cure; in models where they grow to hundreds it is what kept trainings stable (Zoph et al. 2022).
# - **The balancing loss and the bias** bring the largest logit down too, a little: a router that has to spread its choices cannot be so sure.
#
# The run with the z-loss, in which half of the experts are idle, loses two per cent, no more, and not all of that need be for idle experts. With no remedy a quarter is idle, and no run is better. So ask of every balancing method what it does to the loss, on your model, and do not take an even load for quality.
#
# ## Experiment 3: the estimators, by enumeration
#
# An estimator of a gradient is a random vector. With four experts and a coin there are eight outcomes, each with a known probability, so its mean and variance can be had *exactly*, without a single random number:
#
# $$ \text{mean} = \sum_D p_D \sum_{coin} P(coin) \, \hat g(D, coin) \qquad \text{bias} = \lVert \text{mean} - \nabla \mathcal L \rVert $$
#
# The problems: an expert $i$ answers with a random vector $v_i$, the loss is $\ell(c + w \, v_i)$ with $c$ what the rest of the model says; $\ell$ is linear, quadratic, or the cross-entropy of a softmax. 200 problems each, in float64.
# To have all experts as candidates, eps is huge. The estimators:
#
# | name | what is run | gradient that the router gets |
# |---|---|---|
# | top-1 | the likeliest, always | $f'(p) \nabla p$ of that one |
# | drawn, plain | $D \sim p$ | $f_D'(p_D) \nabla p_D$: the choice is left out |
# | straight-through | *all*, forward only $D$ | the choice as if the one-hot $D$ were $p$, and the weight |
# | REINFORCE | $D \sim p$ | $f_D(p_D) \nabla \log p_D$, and the weight |
# | REINFORCE, baseline | the same | $(f_D(p_D) - b) \nabla \log p_D$ with $b$ the mean loss, and the weight |
# | SparseMixer v1, v2 | $D \sim p$, coin | your functions (of v2 the first choice) |
# | v1 and v2*, no exception | the same | the library's, the likeliest expert treated like any other |
#
# **Predict, then run.** *Drawn, plain* leaves the choice out, and hears the weight alone. For a linear loss, how far is its mean from the true gradient, as a share of the gradient's length? And in which
# direction does it point?
#
# <details><summary>Answer</summary>
#
# By half, 0.50: for a linear $f$ the two parts are equal, $f(p) - f(0) = p \, f'(p)$, and one of them is missing. So the direction is right. For the cross-entropy, which is nearly linear in one layer's answer,
# the cosine is 0.9997.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.experts import sparsemixer as library

PROBLEMS, N, WIDTH = (20 if FAST else 200), 4, 6
g = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=g, dtype=torch.float64)


answers, rest, slope = (
    normal(PROBLEMS, N, WIDTH),
    0.5 * normal(PROBLEMS, WIDTH),
    normal(PROBLEMS, WIDTH),
)
labels = torch.randint(WIDTH, (PROBLEMS,), generator=g)
base_logits = normal(PROBLEMS, N)
LOSSES = {
    "linear": lambda y: (slope * y).sum(dim=-1),
    "quadratic": lambda y: 0.5 * (y - slope).square().sum(dim=-1),
    "cross-entropy": lambda y: -y.log_softmax(dim=-1)[torch.arange(PROBLEMS), labels],
}


def loss_of(expert, weight, loss):
    """(PROBLEMS,): the loss if these experts answer with these weights."""
    return loss(rest + weight[:, None] * answers[torch.arange(PROBLEMS), expert])


def exact(z, loss):
    p = z.softmax(dim=-1)
    all_of = [loss_of(torch.full((PROBLEMS,), i), p[:, i], loss) for i in range(N)]
    return torch.autograd.grad((p * torch.stack(all_of, dim=-1)).sum(), z)[0]


def with_weight(choose):
    """An estimator that is the ordinary gradient of the loss at a weight: (z, noise, coin) to (expert, weight)."""

    def estimate(z, D, coin, loss):
        noise = torch.full((PROBLEMS, N), 1e9, dtype=torch.float64).scatter(
            -1, D[:, None], 1e-9
        )  # draws D
        expert, weight = choose(z, noise, torch.full((PROBLEMS,), coin, dtype=torch.float64))
        return torch.autograd.grad(loss_of(expert, weight, loss).sum(), z)[0]

    return estimate


def of_library(rule):
    def choose(z, noise, coin):
        routing = library.sparsemixer(z, 1, rule, noise[None], coin[None], eps=1e9, euler=False)
        return routing.experts[:, 0], routing.weights[:, 0]

    return with_weight(choose)


def plain(z, noise, coin):
    expert, probs = draw(z, noise, 1e9)
    return expert, probs.gather(-1, expert[:, None])[:, 0]


def second_version(z, noise, coin):
    experts, weights = sparsemixer_v2(
        z, torch.stack([noise, torch.ones_like(noise)]), torch.stack([coin, coin]), 1e9
    )
    return experts[:, 0], weights[:, 0]


def reinforce(baseline):
    def estimate(z, D, coin, loss):
        p = z.softmax(dim=-1)
        p_D = p.gather(-1, D[:, None])[:, 0]
        value = loss_of(D, p_D, loss)
        b = 0.0
        if baseline:
            b = sum(
                (p[:, i] * loss_of(torch.full_like(D, i), p[:, i], loss)).detach() for i in range(N)
            )
        return torch.autograd.grad(((value.detach() - b) * p_D.log() + value).sum(), z)[0]

    return estimate


def straight_through(z, D, coin, loss):
    p = z.softmax(dim=-1)
    onehot = F.one_hot(D, N) + p - p.detach()
    y = rest + ((onehot * p)[..., None] * answers).sum(dim=1)
    return torch.autograd.grad(loss(y).sum(), z)[0]


ESTIMATORS = {  # and the coins, each with its chance
    "top-1": (with_weight(lambda z, noise, coin: plain(z, None, coin)), ((0.0, 1.0),)),
    "drawn, plain": (with_weight(plain), ((0.0, 1.0),)),
    "straight-through": (straight_through, ((0.0, 1.0),)),
    "REINFORCE": (reinforce(False), ((0.0, 1.0),)),
    "REINFORCE, baseline": (reinforce(True), ((0.0, 1.0),)),
    "SparseMixer v1": (
        with_weight(lambda z, noise, coin: sparsemixer_v1(z, noise, coin, 1e9)),
        ((0.25, 0.5), (0.75, 0.5)),
    ),
    "SparseMixer v2": (with_weight(second_version), ((0.25, 0.75), (0.9, 0.25))),
    "v1, no exception": (of_library(library.V1), ((0.25, 0.5), (0.75, 0.5))),
    "v2*, no exception": (of_library(library.V2_STAR), ((0.2, 3 / 8), (0.9, 5 / 8))),
}


def enumerated(name, scale, loss):
    """Bias and standard deviation of an estimator, as shares of the exact gradient's length, and the cosine of its mean with
    that gradient: (PROBLEMS,) each."""
    estimate, coins = ESTIMATORS[name]
    z = (scale * base_logits).requires_grad_()
    p, true = z.detach().softmax(dim=-1), exact(z, loss)
    outcomes = [
        (p[:, D] * chance, estimate(z, torch.full((PROBLEMS,), D), coin, loss))
        for D in range(N)
        for coin, chance in coins
    ]
    mean = sum(chance[:, None] * gradient for chance, gradient in outcomes)
    variance = sum(chance * (gradient - mean).square().sum(dim=-1) for chance, gradient in outcomes)
    length = true.norm(dim=-1)
    return (
        (mean - true).norm(dim=-1) / length,
        variance.clamp(min=0).sqrt() / length,
        F.cosine_similarity(mean, true, dim=-1),
    )


print(
    f"medians over {PROBLEMS} problems: bias, and in brackets the standard deviation, as shares of the gradient's length;"
)
print("for the cross-entropy also the cosine of the mean and the gradient")
print(f"{'':<22}" + "".join(f"{name:>20}" for name in LOSSES) + "   cosine")
for name in ESTIMATORS:
    row = [[x.median().item() for x in enumerated(name, 1.0, loss)] for loss in LOSSES.values()]
    print(
        f"{name:<22}"
        + "".join(f"{bias:>13.1e} ({deviation:.2f})" for bias, deviation, _ in row)
        + f"   {row[-1][-1]:.4f}"
    )

SCALES = (0.3, 3.0) if FAST else (0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0)
STYLES = dict(
    zip(
        list(ESTIMATORS)[:7],
        (
            plots.GREY,
            plots.ORANGE,
            plots.GREEN,
            plots.PURPLE,
            plots.SKY,
            plots.VERMILLION,
            plots.BLUE,
        ),
    )
)
fig, axes = plt.subplots(1, 2, figsize=(10.5, 4))
for name, color in STYLES.items():
    # (scales, bias or deviation, PROBLEMS)
    found = torch.stack(
        [torch.stack(enumerated(name, scale, LOSSES["cross-entropy"])[:2]) for scale in SCALES]
    )
    for ax, values in zip(axes, found.unbind(dim=1)):
        low, middle, high = values.quantile(
            torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype), dim=1
        )
        if middle.max() > 1e-9:
            line = "o--" if name == "SparseMixer v2" else "o-"  # it lies on "drawn, plain"
            ax.plot(SCALES, middle, line, ms=3, color=color, label=name)
            ax.fill_between(SCALES, low, high, color=color, alpha=0.12, lw=0)
for ax, title in zip(axes, ("bias", "standard deviation")):
    ax.set(title=f"{title} / length of the gradient", xlabel="spread of the logits", yscale="log")
handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels())}
fig.legend(handles.values(), handles, loc="outside right upper", fontsize=8)
plt.show()

# %% [markdown]
# Read the table line by line.
#
# - **Top-1** has no variance, as nothing is drawn, and its mean is another vector: it never hears of three of the four experts. It is off by a half, but mostly in length: for the cross-entropy its cosine is still 0.96.
# - **Drawn, plain**: what `backward()` gives is half of the gradient. But see the cosine: the half has the right *direction*. For a linear loss the two parts of the gradient are equal, and one layer's answer
#   changes the loss nearly linearly. An optimiser like Adam, which divides by the gradient's size, would hardly notice. This is why routers learn at all without an estimator.
# - **REINFORCE** is right for every loss, to the last digit. Its standard deviation is seven times the gradient's length, for the cross-entropy. A baseline brings that down to about one, but this one, the mean loss over
#   all experts, is known to the enumeration only.
# - **Straight-through** has a bias of 3 % for the cross-entropy, and little noise. It runs *all* experts. That is the cost which a mixture is there to avoid.
# - **SparseMixer v1 without its exception** is exact for the quadratic loss, as promised, and off by 0.2 % for the cross-entropy, running one expert. Its noise is a little above that of REINFORCE with the baseline.
# - **The exception costs bias**: with it, as published, 24 % and 10 %. The likeliest expert is the one that is drawn most, and for it the rule is the plain slope at the end (Euler's). What it buys is not in this table: the
#   router in training computes what it will compute in evaluation.
# - **SparseMixer v2** is off by a half, like the plain gradient, and for the opposite reason: it estimates the choice and leaves out the weight. That is the error in the derivation. v2* has both.
#
# In the picture (cross-entropy; lines are medians, bands hold the middle half of the problems; what is 0 has no line, as the bias of REINFORCE or the deviation of top-1): the surer the router (to the right), the less noise in most of them, and the more of the work is done by the likeliest expert, where v1 makes its exception: its bias grows.
#
# So the cheap estimators with the right mean pay in noise. Is that a good bargain?
#
# ## Experiment 4: SparseMixer in training
#
# A better gradient should make a better model. From the record: the same models with the same balancing loss, trained with the ordinary choice of the likeliest expert, and with both versions of SparseMixer (one expert each, eps 0.1). And SparseMixer
# without the loss, since drawing explores by itself.
#
# **Predict, then run.** Experiment 3 has measured bias and noise of each estimator. Who will be ahead after 800 steps, and will drawing make the load even without a loss?
#
# <details><summary>Answer</summary>
#
# The ordinary choice is ahead: of version 1 by 0.05 bits on average, of version 2 with every seed. There was little to gain, as even the gradient of top-1 points nearly the right way, and drawing adds noise. Nor is the load even: without the loss one expert ends at
# 62 %, since experts far below the best are no candidates.
#
# </details>

# %% tags=["experiment"]
fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.6))
CURVES = {
    "balance": plots.BLUE,
    "SparseMixer v1, balance": plots.VERMILLION,
    "SparseMixer v2, balance": plots.GREEN,
    "none": plots.GREY,
    "SparseMixer v1": plots.ORANGE,
}
for ax, measure, label in (
    (axes[0], lambda p: p["bits"], "held-out bits per byte"),
    (axes[1], busiest, "share of the busiest expert"),
):
    for offset, (name, color) in enumerate(CURVES.items()):
        steps, mean, spread = over_seeds(name, measure)
        ax.errorbar(
            [s + 4 * offset for s in steps][1:],
            mean[1:],
            spread[1:],
            color=color,
            marker="o",
            ms=3,
            capsize=2,
            lw=1.2,
            label=name,
        )
    ax.set(xlabel="step", ylabel=label)
axes[1].set_ylim(0, 1)
axes[1].axhline(1 / EXPERTS, color="0.4", lw=1, ls=":")
axes[0].legend(fontsize=8)
axes[0].set_title(f"mean and standard deviation of {len(runs['none'])} seeds")
plt.show()
for step in (steps[len(steps) // 2], steps[-1]):
    print(
        f"bits per byte after {step} steps, less those of top-1 with the balancing loss, seed by seed:"
    )
    for name in CURVES:
        pairs = [
            next(p["bits"] for p in a["curve"] if p["step"] == step)
            - next(p["bits"] for p in b["curve"] if p["step"] == step)
            for a, b in zip(runs[name], runs["balance"])
        ]
        print(f"   {name:<24}" + " ".join(f"{d:+.3f}" for d in pairs))

# %% [markdown]
# **SparseMixer loses here.** After 400 steps version 1 is where top-1 is, with one seed ahead and one behind; after 800 steps it is 0.05 bits behind on average, ahead with one seed of three. Version 2 is behind with every seed, by 0.07 to 0.24.
#
# That is no surprise. Experiment 3 has the reason: top-1 is off by a half, but mostly in length, which Adam hardly notices; its direction is nearly right (a cosine of 0.96). So there is little to gain from a better mean, and what is drawn adds noise. On top of it the drawn expert is run at a half or
# a third of its weight, and the *experts* learn under that noise, too. In the paper's own figure (Liu et al. 2024) GShard's top-k is ahead for the first 500 billion tokens, and SparseMixer-v2 behind them. We have seen 400,000 bytes.
#
# **Drawing does not balance.** Without the loss, version 1 ends with one expert at 62 %. Experts that are far below the best are no candidates, so a router that is sure does not explore. Even with
# the loss, version 1 leaves 1.7 experts idle in evaluation, where top-1 leaves none.
#
# ## What to remember
#
# - A router learns from what it chose. What it did not choose can only come back through balance, noise, or an estimate.
# - The load-balancing loss multiplies a count, which has no gradient, with a mean probability, which has. State what f counts for k > 1, whether layers and sequences are taken by themselves, and leave padding out.
# - The z-loss holds the largest logits down. It does not balance; here it did the opposite.
# - A bias in the choice balances without a gradient. It must not reach the weights.
# - The plain gradient of a mixture is about half of the true one, and its direction is right where one layer changes the loss nearly linearly. SparseMixer adds the other half at the price of noise.
# - An estimator can be *checked*: enumerate what it may draw, and compare its mean with the gradient. A test of the forward pass sees nothing.
#
# ## Further reading
#
# - [Fedus et al. 2022](https://arxiv.org/abs/2101.03961), *Switch transformers*: section 2.2 for the load-balancing loss in its simplest form.
# - [Zoph et al. 2022](https://arxiv.org/abs/2202.08906), *ST-MoE*: which remedies against unstable training cost quality and which do not; the z-loss does not.
# - [Wang et al. 2024](https://arxiv.org/abs/2408.15664), *Auxiliary-loss-free load balancing*: the bias, and what a loss does to the model besides balancing it.
# - [Liu et al. 2023](https://arxiv.org/abs/2310.00811), *Sparse backpropagation for MoE training*: the derivation of SparseMixer, from ODE solvers.
# - [Liu et al. 2024](https://arxiv.org/abs/2409.12136), *GRIN*: version 2 at scale; appendix A has v2* and the story of the error.
# - Code: [microsoft/SparseMixer](https://github.com/microsoft/SparseMixer), and `load_balancing_loss_func` of Mixtral in [transformers](https://github.com/huggingface/transformers), for the loss over all layers joined.
#
# Next: [10 H2O](../10_h2o/h2o.ipynb), in which not weights but memories are chosen: which entries of the KV cache are worth keeping?
