# %% [markdown]
# # 10 · H2O: which tokens to forget
#
# **After this unit you can**
#
# - say what the KV cache of a model weighs, and measure how sparse its attention is, layer by layer,
# - build H2O, the heavy-hitter oracle: scores, choice, eviction, and a cache that a real model generates with,
# - say which of the algorithms that go by this name you mean, and whose attention counts when heads share keys,
# - explain why a sliding window breaks a model, and repair it with a single token,
# - say where heavy hitters are better than a window with sinks, and where no cache that forgets can help.
#
# About 90 minutes of exercises, then five experiments that use *your* functions on SmolLM2. They take about two minutes on two cores; what takes longer is drawn from a record.
#
# **Builds on** [07 Minitron](../07_minitron/minitron.ipynb) (heads that share keys and values). Attention itself, $\text{softmax}(q k^\top / \sqrt d) \, v$, you should know.

# %% [markdown]
# ## Background
#
# To write a token, a language model reads the keys and values of all tokens before it, in every layer. They were computed once and are kept: the *KV cache*. It grows with every token of every
# sequence. From some length on it is larger than the model, and reading it is what takes time. There are three answers: *forget* (this unit), *look only where it matters*
# ([unit 11](../11_quest/quest.ipynb)), *store less of everything* ([unit 12](../12_mla/mla.ipynb)).
#
# Forget what? If attention were spread evenly, every token would count. [Zhang et al. 2023](https://arxiv.org/abs/2306.14048) found that it is not: over 95 % of its weights are close to zero, and the *same* few tokens
# are looked at again and again. They call these tokens *heavy hitters*, and keep them together with the most recent ones: $H_2O$, the heavy-hitter oracle. With 20 % of the cache, they report nearly the quality of all of
# it, and on OPT-6.7B and 30B up to 29 times the throughput of serving systems of that time. A few months later [Xiao et al. 2023](https://arxiv.org/abs/2309.17453) found a simpler rule: a window, and the first few tokens.
#
# ## The question
#
# Is the past a good guide to what will be needed? You will build H2O, put windows with and without the first tokens beside it, and find where each of them fails.
#
# ![Ten queries read a text of ten tokens through a cache of four. With H2O every query sees two heavy hitters, two recent tokens and itself; tokens 0 and 3, which get most of the attention, are held to the end, and after each query one other token is crossed out. Beside it a window of four, which loses token 0 after four queries, and a window of three with one sink, which keeps it.](forgetting.svg)
#
# *Each row is a query, with the probabilities (%) that it gives; the score of a token is the sum of its column. A query sees the budget and itself, and only then something is forgotten.*
#
# **Conventions of the course.** Attention has the shape `(batch, heads, tokens, head_dim)`. A *mask* is boolean and `True` means *kept*: False is padding. Keys are stored *rotated* at their
# true position, and stay so when others go. What is *held* is in the order of the text. Tokens are counted from 0; titles and text count layers and heads from 1, code from 0.

# %%
import json
import math
import os
import time

import matplotlib.pyplot as plt
import torch

from autograder import check
from sparsity_edu import plots
from sparsity_edu.data import python_docs
from sparsity_edu.models import load, tokens

# small experiments, for an automatic test and while nbgrader runs this notebook
FAST = bool(os.environ.get("SPARSITY_EDU_FAST") or os.environ.get("NBGRADER_EXECUTION"))
plots.style()

model, tokenizer = load("tiny" if FAST else "smollm2")
text = tokens(tokenizer, python_docs("validation"))

# %% [markdown]
# What a cache weighs, for models that exist:

# %%
from sparsity_edu import kv_cache
from sparsity_edu.kv_cache import sizes
from sparsity_edu.kv_cache.reading import OwnCache, losses

print(f"{'16 bits a number':<18}{'heads':>12}{'a token':>12}{'4k tokens':>12}{'32k, batch 16':>16}")
for name in ("SmolLM2-135M", "Llama-2-7B", "Llama-3-8B", "Llama-3-70B"):
    a = sizes.MODELS[name]
    print(
        f"{name:<18}{f'{a.heads} / {a.kv_heads}':>12}{a.bytes_per_token() / 2**10:>8.0f} KiB"
        f"{a.cache_bytes(4096) / 2**30:>8.2f} GiB{a.cache_bytes(32768, batch=16) / 2**30:>12.1f} GiB"
    )

# %% [markdown]
# The weights of Llama-3-8B take 15 GiB in 16 bits. Its cache takes four times that at 32k tokens and a batch of 16, although it is one of the frugal ones: there are 32 query heads, and only 8 heads of keys and values, of which each
# serves four (*grouped-query attention*, [Ainslie et al. 2023](https://arxiv.org/abs/2305.13245)).
#
# ## Attention that shows its probabilities
#
# H2O decides by what attention did, so attention has to say it. For a query $q$ of a head and the keys $k_j$ that it may see
#
# $$ p_j = \text{softmax}_j \Big( \frac{q \cdot k_j}{\sqrt{d}} \Big) \qquad o = \sum_j p_j \, v_j $$
#
# A fused kernel such as [FlashAttention](https://arxiv.org/abs/2205.14135) returns $o$ and never stores $p$. That is the price of this method, and users of serving engines do ask about it.
#
# Three things to get right: which query stands at which key when there are more keys than queries; query heads that share keys; and padding, which in a batch stands on the *left*. After an eviction every
# head holds other tokens, so the mask is by head.


# %% exercise="h2o.attend"
def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention of the newest tokens, with its probabilities.

    Args:
        q: (batch, heads, new, head_dim), queries of the newest tokens, float32 or bfloat16; the
            last one stands at the last key, the one before at the key before, and so on.
        k: (batch, kv_heads, held, head_dim), keys of all tokens that are held, the new ones last;
            held is at least new. heads is a multiple of kv_heads: query heads 0 to
            heads / kv_heads - 1 share the first head of keys and values, and so on.
        v: (batch, kv_heads, held, channels), values.
        mask: boolean (batch, kv_heads, held), False for padding, which no query may see. None if
            there is none. No argument may be changed.

    Returns:
        (out, p): (batch, heads, new, channels) and (batch, heads, new, held), both float32 and
        computed in float32. What a query may not see, later tokens and padding, has a probability
        of exactly 0. A query that may see nothing at all has zeros in both.
    """
    ### BEGIN SOLUTION
    group, new, held = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
    k, v = (x.float().repeat_interleave(group, dim=1) for x in (k, v))  # (batch, heads, held, ..)
    seen = torch.ones(new, held, dtype=torch.bool).tril(held - new)
    if mask is not None:
        seen = seen & mask.repeat_interleave(group, dim=1)[:, :, None]  # (batch, heads, new, held)
    scores = q.float() @ k.mT / math.sqrt(q.shape[-1])
    p = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1).nan_to_num(0.0)
    return p @ v, p
    ### END SOLUTION


# %% [markdown]
# Your function can be the attention of a real model: `OwnCache` hands queries, keys and values of each layer to an object with a method `step`. Here is one that holds nothing and looks at one step.


# %%
class Look:
    """Attends to the tokens of one step, and keeps the probabilities."""

    def step(self, q, k, v, mask=None):
        out, self.p = attend(q, k, v)
        return out


page = text[:160]  # tokens
looking = OwnCache(Look)
with torch.no_grad(), kv_cache.attending(model):
    mine = model(page[None], past_key_values=looking).logits
with torch.no_grad():
    plain = model(page[None]).logits
print(
    f"logits with your attention differ by {(mine - plain).abs().max() / plain.abs().max():.1e} of the largest"
)

layers = len(looking.layers)
fig, axes = plt.subplots(1, 4, figsize=(11, 3))
for ax, (layer, head) in zip(axes, ((0, 0), (1, 2), (layers // 2, 3), (layers - 4, 1))):
    p = looking.layers[layer].own.p[0, head, :64, :64]
    ax.imshow(p.clamp(min=1e-3).log10(), cmap="cividis", vmin=-3, vmax=0)
    ax.set(title=f"layer {layer + 1}, head {head + 1}", xlabel="key", xticks=(0, 32, 63))
    ax.set_yticks((0, 32, 63))
    ax.grid(False)
axes[0].set_ylabel("query")
fig.colorbar(ax.images[0], ax=axes, label="log10 of p", shrink=0.85)
plt.show()

# %% [markdown]
# On SmolLM2: the first layer looks at nearly everything. The head of layer 2 looks at its own token, and sometimes back at one of a few. In the deeper layers there are *columns*: the same keys are bright for
# all queries. Those are the heavy hitters, and the brightest column is number 0, the first token of all.
#
# (The tiny model of the fast setting has been trained on short texts. Its attention is much flatter, and its first token is nothing special.)
#
# ## What a token has got so far
#
# The score of a token is the sum of all the probability that it was ever given:
#
# $$ s_j = \sum_{i \ge j} p_{ij} $$
#
# over all queries $i$ so far. It can be kept up to date: a step with new queries adds what they gave. A prompt is a step with many queries, a token that is being written a step with one.
#
# The paper calls it an oracle, since the true importance of a token lies in the future. The bet: who was looked at will be looked at.


# %% exercise="h2o.accumulate"
def accumulate(scores: torch.Tensor | None, p: torch.Tensor) -> torch.Tensor:
    """Add what new queries gave to the scores of all tokens that are held.

    Args:
        scores: float32 (batch, heads, held - new), of the tokens that were there before; None if
            there were none. Must not be changed.
        p: (batch, heads, new, held) probabilities that the new tokens' queries gave, float32 or
            bfloat16; the last new keys are their own. Must not be changed.

    Returns:
        float32 (batch, heads, held), with memory of its own: for each token the sum over all
        queries so far of what they gave to it, added up in float32. Nothing is divided by anything.
    """
    ### BEGIN SOLUTION
    new = p.float().sum(dim=2)
    if scores is not None:
        new[..., : scores.shape[-1]] += scores
    return new
    ### END SOLUTION


# %% [markdown]
# Who are the heavy hitters of the page above? Names, verbs, the rare words? With all layers and heads added up:

# %%
total = sum(accumulate(None, layer.own.p)[0].sum(dim=0) for layer in looking.layers)  # (tokens,)
total = total / total.sum()
order = total.argsort(descending=True)
print(f"{len(page)} tokens; the 10 heaviest hold {total[order[:10]].sum():.0%} of all attention:")
for i in order[:10].tolist():
    print(f"   token {i:3} {tokenizer.decode([int(page[i])])!r:>12}   {total[i]:.1%}")

# %% [markdown]
# The first token gets 38 % of everything, the ten heaviest of 160 get more than half. Who are they? The first one is just "Get", and then come `the`, line breaks, a full stop: hardly what the page is about. Keep that first token in mind; in
# experiment 3 it goes.
#
# (The tiny model: 16 % for the ten heaviest, 3 % for the first.)
#
# ## What a score is worth
#
# Two questions that the paper does not have to ask, and every program has to answer.
#
# **Whose attention counts?** Query heads that share keys can only keep a token together. Four answers are in use:
#
# | group | the score of a head of keys | who |
# |---|---|---|
# | sum | the sum over its query heads | this course; kvpress takes the mean, which makes the same choice |
# | first | that of its first query head | llama-cookbook |
# | each | keys are repeated first, and each query head keeps tokens of its own | KVCache-Factory: three times the memory for a group of three |
# | - | no shared heads | the authors' code |
#
# **How does a late token compare with an early one?** Sums grow with the number of queries that could see a token. If attention were spread evenly, token $j$ of $n$ (from 0) would have
#
# $$ s_j = \sum_{i=j}^{n-1} \frac{1}{i+1} \approx \ln \frac{n}{j} $$
#
# so that the first tokens win though nobody prefers them. The authors leave it so. kvpress divides by $n - j$, the number of queries that could see the token. Both are allowed here. With four tokens:
#
# | | token 0 | token 1 | token 2 | token 3 |
# |---|---|---|---|---|
# | query 0 gives | 1 | | | |
# | query 1 gives | 1/2 | 1/2 | | |
# | query 2 gives | 1/3 | 1/3 | 1/3 | |
# | query 3 gives | 1/4 | 1/4 | 1/4 | 1/4 |
# | the sum | 2.08 | 1.08 | 0.58 | 0.25 |
# | queries that could see it, $n - j$ | 4 | 3 | 2 | 1 |
# | the sum, divided | 0.52 | 0.36 | 0.29 | 0.25 |


# %% exercise="h2o.worth"
def worth(
    scores: torch.Tensor,
    kv_heads: int,
    group: str = "sum",
    positions: torch.Tensor | None = None,
    seen: int | None = None,
) -> torch.Tensor:
    """What the choice goes by: scores by head of keys, by query that could see the token if wanted.

    Args:
        scores: float32 (batch, heads, held), by query head. Must not be changed.
        kv_heads: heads of keys; heads is a multiple of it, and neighbours share.
        group: "sum" adds up the query heads that share a head of keys, "first" takes the first of
            them.
        positions: int64 (batch, kv_heads, held), where in the text, counted from 0, the tokens
            stand that each head of keys holds. None for no division. Must not be changed.
        seen: tokens of the text so far, more than any position; given if positions are.

    Returns:
        float32 (batch, kv_heads, held), with memory of its own. With positions it is divided by the
        number of queries that could see the token: its own and those of all later tokens of the
        text, held or not.

    Raises:
        ValueError: group is neither of the two.
    """
    ### BEGIN SOLUTION
    if group not in ("sum", "first"):
        raise ValueError(f'group must be "sum" or "first", got {group!r}')
    shared = scores.unflatten(1, (kv_heads, -1))  # (batch, kv_heads, group, held)
    value = shared.sum(dim=2) if group == "sum" else shared[:, :, 0].clone()
    if positions is not None:
        value = value / (seen - positions)
    return value
    ### END SOLUTION


# %% [markdown]
# The bias, without any preference: every query spreads its attention evenly over the tokens that it sees. And beside it the same with a token that arrives late, and gets 3 % of all attention from then on, ten times its share.
#
# **Predict, then run.** There are 400 tokens, and the late one is token 300. Ranked by its sum, is it among the first ten? And ranked by what it got for each query?
#
# <details><summary>Answer</summary>
#
# No: 100 queries at 3 % make a sum of 3, and token $j$ has collected about $\ln(400 / j)$ without being liked by anybody, which is more than 3 for the first twenty. So it is number 21. Divided by queries it is number 1.
#
# </details>

# %%
n, late = 400, 300
even = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
heavy = even.clone()
heavy[late:] *= 0.97
heavy[late:, late] = 0.03
fig, axes = plt.subplots(1, 2, figsize=(10, 3))
places = torch.arange(n)[None, None]
for ax, p, title in zip(axes, (even, heavy), ("evenly spread", f"token {late} gets 3 %")):
    s = accumulate(None, p[None, None])
    for value, label, color in (
        (worth(s, 1), "sum", plots.VERMILLION),
        (worth(s, 1, positions=places, seen=n), "for each query", plots.BLUE),
    ):
        value = value[0, 0] / value.max()
        ax.plot(value, color=color, label=label)
        if p is heavy:
            ax.plot(late, value[late], "o", ms=5, color=color)
            print(
                f"{label:<15} token {late} is number {int((value > value[late]).sum()) + 1} of {n}"
            )
    ax.set(title=title, xlabel="token", yscale="log")
axes[0].set_ylabel("worth / largest")
axes[0].legend()
plt.show()

# %% [markdown]
# Left: nobody prefers anybody, and yet the sums of the first tokens are more than a thousand times those of the last ones. The division takes most of this away, but not all: the first queries had few tokens to share between, so each got more.
#
# Right: after a hundred queries the late token is number 21 by its sum, behind twenty that were there early. By query it is number 1.
#
# ## Who stays
#
# New tokens have had no time to collect anything, so sums alone would throw them out at once. H2O splits the budget: the `recent` newest tokens stay in any case, and of the older ones the `budget - recent` with
# the largest scores. The paper takes half and half.
#
# Among all the tokens of a cache there may be equal scores, say 0 of a token that nobody looked at. `torch.topk` promises nothing for these; a choice that can be repeated needs a rule.


# %% exercise="h2o.choose"
def choose(
    scores: torch.Tensor, budget: int, recent: int, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The tokens that stay: the most recent ones, and of the others those with the largest scores.

    Args:
        scores: float32 (batch, kv_heads, held), at least 0, in the order of the text; each head of
            each sequence chooses for itself. Must not be changed.
        budget: how many tokens stay, at least 1.
        recent: how many of these are the last ones, whatever their scores; 0 to budget.
        mask: boolean (batch, kv_heads, held), False for padding, which never is among the recent.
            It goes before any real token, whatever its score, and stays only where a head has too
            few real ones, as if its scores were equal. None if there is none. Must not be changed.

    Returns:
        int64 (batch, kv_heads, min(budget, held)), places in the cache, ascending. Of equal scores
        the later token stays. If held is at most the budget, all stay.

    Raises:
        ValueError: recent is not from 0 to budget.
    """
    ### BEGIN SOLUTION
    if not 0 <= recent <= budget:
        raise ValueError(f"recent must be from 0 to the budget of {budget}, got {recent}")
    held = scores.shape[-1]
    rank = scores.clone() if mask is None else scores.masked_fill(~mask, -torch.inf)
    rank[..., max(0, held - recent) :] = torch.inf
    order = rank.argsort(dim=-1, stable=True)  # of equal ones the later comes later
    return order[..., max(0, held - budget) :].sort(dim=-1).values
    ### END SOLUTION


# %% [markdown]
# ## Forget
#
# Now the others go: from keys, from values, and from everything else that belongs to tokens, together. The usual bug is to forget the scores of those that went in one place and not in the other: from the next step
# on each score belongs to somebody else, nothing crashes, and the text gets slowly worse.
#
# The second one is to save nothing. A slice of a tensor keeps the whole tensor alive, and a mask hides without freeing: the authors' first code was slower than a full cache and took *more* memory (their issue 6).


# %% exercise="h2o.evict"
def evict(keep: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Only the tokens that stay, of everything that belongs to tokens.

    Args:
        keep: int64 (batch, kv_heads, kept), of each head which tokens stay, in which order.
        tensors: any number of them, (batch, heads, held) or (batch, heads, held, channels), of any
            dtype; heads is a multiple of kv_heads, and may differ between them: heads 0 to
            heads / kv_heads - 1 go by the first row of keep, and so on. No argument may be changed.

    Returns:
        A list (or tuple) of tensors (batch, heads, kept[, channels]), in the order given, each with
        its dtype and with memory of its own.
    """
    ### BEGIN SOLUTION
    left = []
    for x in tensors:
        idx = keep.repeat_interleave(x.shape[1] // keep.shape[1], dim=1)  # (batch, heads, kept)
        if x.ndim == 4:
            idx = idx[..., None].expand(-1, -1, -1, x.shape[-1])
        left.append(x.gather(2, idx))
    return left
    ### END SOLUTION


# %% [markdown]
# What is freed, in bytes of the memory behind a tensor.
#
# **Predict, then run.** All keys, 4096 tokens of 3 heads, take 3072 KiB. How much memory does the slice `keys[:, :, -256:]` hold on to, and how much does what your `evict` returns?
#
# <details><summary>Answer</summary>
#
# The slice holds 3072 KiB, as before: it is another view of the same memory, and keeps all of it alive. What `gather` makes is a tensor of its own, 192 KiB, a sixteenth.
#
# </details>

# %%
keys = torch.randn(1, 3, 4096, 64)
few = choose(torch.rand(1, 3, 4096), 256, 128)
sliced, evicted = keys[:, :, -256:], evict(few, keys)[0]
for name, x in (
    ("all keys", keys),
    ("the last 256, a slice", sliced),
    ("256 by your evict", evicted),
):
    print(
        f"{name:<22} shape {tuple(x.shape)!s:<18} {x.untyped_storage().nbytes() / 2**10:7.0f} KiB"
    )

# %% [markdown]
# ## The cache
#
# All parts are there. A step attends *first*, to everything that is held and to its own tokens, and forgets *afterwards*, as in the picture at the top. So a prompt is read in full, and a token that is written sees one token more than the budget.
#
# At least five algorithms go by the name of H2O. Which one is this?
#
# | code | what it does |
# |---|---|
# | `utils_real_drop` (authors) | **this one**: attend, add up, drop for good |
# | `utils_hh` (authors) | masks instead of dropping; budgets are shares of the prompt; a step sees exactly the budget |
# | `utils_lm_eval` (authors) | sums over *all* queries, later ones too, and a band of recent tokens: it looks into the future. The published lm-eval numbers are from here |
# | `h2o_flexgen` (authors) | a new token starts with 0 and takes the place of the least |
# | llama-cookbook, kvpress | the window's length includes the heavy hitters; scores divided, once, after the prompt, without a window |


# %% exercise="h2o.cache"
class HeavyHitterCache:
    """H2O for one layer of a model: each head holds at most `budget` tokens between steps."""

    def __init__(self, budget: int, recent: int, normalize: bool = False) -> None:
        """Begin with nothing.

        Args:
            budget: tokens that each head of keys holds between steps, at least 1.
            recent: how many of them are the most recent ones; 0 to budget.
            normalize: go by scores divided by the number of queries that could see the token.
        """
        ### BEGIN SOLUTION
        self.budget, self.recent, self.normalize = budget, recent, normalize
        self.seen = 0  # tokens of the text, padding included
        self.held = None  # keys, values, positions, which are real; (batch, kv_heads, held, ..)
        self.scores = None  # (batch, heads, held)
        ### END SOLUTION

    def step(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Take in new tokens, attend with their queries, then forget.

        Args:
            q: (batch, heads, new, head_dim) float32, rotated; of a prompt, or its next piece, or of
                one token.
            k: (batch, kv_heads, new, head_dim) float32, rotated. heads is a multiple of kv_heads,
                and neighbours share.
            v: (batch, kv_heads, new, channels) float32.
            mask: boolean (batch, new), False for padding, which is on the left of a text and may be
                longer than the first piece; None if all new tokens are real. No argument may be
                changed.

        Returns:
            float32 (batch, heads, new, channels): causal attention of the new tokens to all tokens
            that were held and to those of this step, without padding; a query that sees nothing has
            zeros. Only then all but the budget go, as in `choose`, by the sum over the query heads
            that share keys of all the attention so far. What is gone takes no memory any more.
        """
        ### BEGIN SOLUTION
        batch, kv_heads, new, _ = k.shape
        at = torch.arange(self.seen, self.seen + new).expand(batch, kv_heads, new)
        real = torch.ones(batch, new, dtype=torch.bool) if mask is None else mask
        all_of = [k, v, at, real[:, None].expand(batch, kv_heads, new)]
        if self.held:
            all_of = [torch.cat(pair, dim=2) for pair in zip(self.held, all_of)]
        self.seen += new
        keys, values, at, real = all_of
        out, p = attend(q, keys, values, real)
        scores = accumulate(self.scores, p)
        value = worth(scores, kv_heads, "sum", at if self.normalize else None, self.seen)
        keep = choose(value, self.budget, self.recent, real)
        *self.held, self.scores = evict(keep, *all_of, scores)
        return out
        ### END SOLUTION

    def positions(self) -> torch.Tensor:
        """int64 (batch, kv_heads, held), ascending: where in the text, counted from 0 and with its
        padding, the tokens stand that each head holds. Asked only after the first step."""
        ### BEGIN SOLUTION
        return self.held[2]
        ### END SOLUTION


# %% [markdown]
# ## A model that forgets
#
# `generate` of `transformers` with your cache. With a budget that holds everything it must write, token by token, what it writes with its own cache. Then with 64 tokens, beside windows of 64.

# %%
PROMPT, NEW, BUDGET = (120, 12, 48) if FAST else (300, 40, 64)
prompt = text[9500 : 9500 + PROMPT][None]


def write(cache):
    """Up to NEW tokens, always the likeliest, and the bytes that the cache holds."""
    with kv_cache.attending(model):
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            past_key_values=cache,
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
    return out[0, PROMPT:], getattr(cache, "bytes_held", None)


plain, _ = write(None)
CACHES = {
    "yours, everything": OwnCache(lambda: HeavyHitterCache(PROMPT + NEW, BUDGET)),
    f"yours, {BUDGET} tokens": OwnCache(lambda: HeavyHitterCache(BUDGET, BUDGET // 2)),
    f"window of {BUDGET}": kv_cache.WindowCache(BUDGET, 0),
    f"window of {BUDGET}, 4 sinks": kv_cache.WindowCache(BUDGET, 4),
}
print(f"the prompt ends: ...{tokenizer.decode(prompt[0, -25:])!r}\n")
print(f"{'its own cache':<24} {tokenizer.decode(plain)!r}")
for name, cache in CACHES.items():
    written, held = write(cache)
    same = "   (the same)" if torch.equal(written, plain) else ""
    print(f"{name:<24} {tokenizer.decode(written)!r}{same}   {held / 2**20:.2f} MiB")

# %% [markdown]
# With everything it is the same text. With 64 of the 300 tokens, in a fifth of the memory, your cache goes on in the style of the page, and so does the window with sinks: other words, but words. The plain window holds as many tokens. It begins
# well, and then it loses its mind. Why, is experiment 3.
#
# (The tiny model of the fast setting is not harmed by a window.)
#
# ## Experiment 1: how sparse is attention?
#
# The paper's first observation: attention is over 95 % sparse, if what is below 1 % of the largest weight of a query counts as nothing. Two measures, for texts of growing length: the share of weights *above* that limit, and the
# fewest keys that together hold 95 % of the mass, of the keys that a query sees. Queries of the second half of the text count.

# %% tags=["experiment"]
from sparsity_edu.kv_cache import statistics

LENGTHS = (64, 128) if FAST else (128, 256, 512, 1024)
found = {}
for length in LENGTHS:
    window = text[4000 : 4000 + length][None]
    found[length] = statistics.measure(model, window, first=length // 2, every=4, progress=False)
print(
    "tokens   weights above 1 %   layers below 5 %   keys for 95 % of the mass   to the first token"
)
for length, s in found.items():
    above = 1 - s.small.mean(dim=1)  # (layers,)
    first = (s.scores[:, :, 0] / length).mean()
    print(
        f"{length:>6}   {above.mean():>17.1%}   {int((above < 0.05).sum()):>7} of {layers:<6}   "
        f"{s.share.mean():>25.1%}   {first:>18.1%}"
    )

s = found[LENGTHS[-1]]
fig, axes = plt.subplots(1, 3, figsize=(11.5, 3.2))
of_layers = range(1, layers + 1)
axes[0].plot(of_layers, 1 - s.small, ".", color=plots.SKY, ms=4)
axes[0].plot(of_layers, 1 - s.small.mean(dim=1), color=plots.BLUE, label="mean of the heads")
axes[0].axhline(0.05, color="0.4", lw=1, ls=":", label="5 %")
axes[0].set(title=f"weights above 1 %, {LENGTHS[-1]} tokens", xlabel="layer", yscale="log")
axes[0].legend(fontsize=8)
sinks = s.scores[:, :, 0] / s.scores.sum(dim=-1)
axes[1].plot(of_layers, sinks, ".", color=plots.SKY, ms=4)
axes[1].plot(of_layers, sinks.mean(dim=1), color=plots.BLUE)
axes[1].set(title="share of the first token", xlabel="layer", ylim=(0, 1))
ranked = s.scores.sort(dim=-1, descending=True).values  # (layers, heads, tokens)
rank = torch.arange(1, LENGTHS[-1] + 1)
for layer, color in ((1, plots.ORANGE), (layers // 2, plots.BLUE), (layers - 3, plots.VERMILLION)):
    axes[2].loglog(rank, ranked[layer].mean(dim=0), color=color, label=f"layer {layer + 1}")
axes[2].set(title="scores by rank, mean of the heads", xlabel="rank")
axes[2].legend(fontsize=8)
plt.show()

slope, r2 = statistics.power_law(s.scores)
top = ranked[..., : LENGTHS[-1] // 5].sum(dim=-1) / ranked.sum(dim=-1)
print(f"power law by head: slope {slope.mean():.2f}, R^2 {r2.mean():.2f}")
print(f"the heaviest fifth of the keys holds {top.mean():.0%} of all attention")

# %% [markdown]
# SmolLM2, from the table and from left to right:
#
# - **Attention is sparse, and the longer the text, the sparser.** At 128 tokens a quarter of the weights are above 1 % of the largest, at 1024 one in thirteen. Five per cent, the paper's number, is reached by 19 of the 30 layers. The first three are far from it:
#   in layer 1 most weights count.
# - **Much of it is one token.** The first token gets 31 % of all attention at 1024 tokens. The first layers do without it; from layer 13 on it gets 30 to 60 %.
# - **A power law?** It would be a straight line. Behind the first token the scores fall slowly, then bend down: late tokens were seen by few queries. A line through the logarithms explains 77 % of the variance. Safer to say: the heaviest fifth of the keys
#   holds 72 % of all attention.
#
# In the tiny model two thirds of the weights are above 1 %, and the first token gets 3 to 5 %. In the fast setting nothing of this shows: sparse attention is learned.
#
# ## Experiment 2: what does forgetting cost?
#
# A text is read token by token through a cache that forgets, and the loss of each next token is written down. First live, a short one, with *your* cache beside the library's, which writes new tokens over those that go and is
# meant to give the same.

# %% tags=["experiment"]
LIVE, FIRST = (120, 60) if FAST else (256, 128)
few = LIVE // 5
live = {
    "full": kv_cache.FullCache(),
    "H2O, yours": OwnCache(lambda: HeavyHitterCache(few, few - few // 2)),
    "H2O, library": kv_cache.H2OCache(few),
    "window": kv_cache.WindowCache(few, 0),
    "window + 4 sinks": kv_cache.WindowCache(few, 4),
}
began = time.perf_counter()
loss = losses(model, text[6000 : 6000 + LIVE][None], list(live.values()), FIRST, progress=False)
print(
    f"{LIVE - FIRST} tokens after {FIRST}, a budget of {few}: {time.perf_counter() - began:.0f} s for all together"
)
for name, row in zip(live, loss):
    print(f"   {name:<18} loss {row.mean():.4f}   perplexity {row.mean().exp():6.2f}")

# %% [markdown]
# And from the record of a script of the course, on SmolLM2: four texts of 640 tokens, the first 256 as a prompt. Four texts are few, so look at the differences between caches on the *same* text, which are drawn as bars from the least to the
# largest of the four.

# %% tags=["experiment"]
from sparsity_edu.kv_cache.compare_eviction import RECORD

record = json.loads(RECORD.read_text())
part = record["loss"]
print(
    f"{record['command']}   (torch {record['torch']}, {record['threads']} thread, {part['seconds']:.0f} s)"
)
by_name = {}
for row in part["caches"]:
    by_name.setdefault(row["policy"], {})[row["budget"]] = row
full = by_name["full"][1.0]
BUDGETS = sorted(by_name["H2O"])
print(f"perplexity; full {math.exp(full['loss']):.2f}")
print(f"{'budget':<30}" + "".join(f"{b:>8.0%}" for b in BUDGETS))
for name, rows in by_name.items():
    if name != "full":
        print(f"{name:<30}" + "".join(f"{math.exp(rows[b]['loss']):8.2f}" for b in BUDGETS))

STYLE = {
    "window": plots.GREY,
    "window + 4 sinks": plots.ORANGE,
    "H2O": plots.VERMILLION,
    "H2O normalised": plots.BLUE,
}
fig, ax = plt.subplots(figsize=(7, 3.6))
for i, (name, color) in enumerate(STYLE.items()):
    worse = [
        [a - b for a, b in zip(by_name[name][share]["by text"], full["by text"])]
        for share in BUDGETS
    ]
    middle = [sum(w) / len(w) for w in worse]
    low, high = ([m - f(w) for m, w in zip(middle, worse)] for f in (min, max))
    x = [100 * b * 1.04 ** (i - 1.5) for b in BUDGETS]
    ax.errorbar(
        x, middle, [low, [-h for h in high]], marker="o", ms=4, capsize=2, color=color, label=name
    )
ax.axhline(0, color="0.4", lw=1, ls=":")
ax.set(xscale="log", xlabel="budget (% of the text)", ylabel="loss above the full cache (nats)")
ax.set_xticks([4, 10, 20, 50], ["4", "10", "20", "50"])
ax.minorticks_off()
ax.legend()
plt.show()

# %% [markdown]
# Live, yours and the library's H2O agree to the last digit. From the record, where the full cache has a perplexity of 9.7:
#
# - **The window collapses**: 39 with a tenth of the text, and with half of it still 16. With the first four tokens put back it is 14.6 and 10.1. That is the next experiment.
# - **H2O wins where there is room.** At 20 % it is better than the window with sinks on each of the four texts (11.6 against 12.6), at 50 % on three of them, and within 1.4 % of the full cache.
# - **It loses where there is little.** At 10 % its perplexity is 15.5, the window's with sinks 14.6; at 4 % it is worse on all four texts, 34.1 against 27.7. Half of 26 tokens is a very short window, and the other half is spent on tokens that were heavy long ago.
# - **Divided by queries it is best, or as good as the best, everywhere**: 22.0 at 4 %, where H2O has 34.1, and the best window 25.6. It is not what the paper does, and costs one division.
#
# How much a text suffers depends on the text: at 20 % H2O loses 0.02 nats on one and 0.37 on another. A mean over four texts is no law.
#
# ## Experiment 3: the sink
#
# Why does a window break a model that looks mostly at recent tokens anyway? From the same record: the window with the first token put back, and H2O with the first token taken away.
#
# **Predict, then run.** A window with a tenth of the text loses 1.39 nats against the full cache. One of its tokens is exchanged for the first token of the text. What does it lose now? And H2O, which loses 0.47, if it may not hold that token?
#
# <details><summary>Answer</summary>
#
# The window loses 0.40, and H2O 1.36, as much as a plain window. One token makes most of the difference between the two methods. H2O finds it by itself; that is a large part of its success.
#
# </details>

# %% tags=["experiment"]
print(f"loss above full{'':<15}" + "".join(f"{b:>8.0%}" for b in BUDGETS))
for name in (
    "window",
    "window + 1 sink",
    "window + 4 sinks",
    "H2O",
    "H2O without the first token",
):
    print(
        f"{name:<30}" + "".join(f"{by_name[name][b]['loss'] - full['loss']:8.3f}" for b in BUDGETS)
    )
shares = ", ".join(f"{by_name['H2O'][b]['first']:.0%}" for b in BUDGETS)
print(f"\nheads that hold the first token to the end, by H2O's own choice: {shares}")


# %% [markdown]
# Now see it live. The same text, one step, and in that step the last 64 queries may not look at one token: the first, or another.


# %% tags=["experiment"]
class Without:
    """Attention of one step in which the last queries do not see some token."""

    def __init__(self, gone, last):
        self.gone, self.last = gone, last

    def step(self, q, k, v, mask=None):
        out, _ = attend(q, k, v)
        if self.gone is not None:
            real = torch.ones(k.shape[:3], dtype=torch.bool)
            real[:, :, self.gone] = False
            out[:, :, -self.last :] = attend(q[:, :, -self.last :], k, v, real)[0]
        return out


LAST = 32 if FAST else 64
ids = text[8000 : 8000 + 4 * LAST][None]
for gone in (None, 0, 1, 2, 40):
    with torch.no_grad(), kv_cache.attending(model):
        logits = model(ids, past_key_values=OwnCache(lambda: Without(gone, LAST))).logits
    loss = torch.nn.functional.cross_entropy(logits[0, -LAST:-1], ids[0, -LAST + 1 :])
    print(f"without token {'-' if gone is None else gone:<4} loss of the last {LAST}: {loss:.3f}")

# %% [markdown]
# One token repairs the window: at 10 % it loses 0.40 instead of 1.39. Three more sinks add nothing; at 4 % they cost, as they take places from the window. H2O finds that token by itself, and nearly all heads hold it to the end. Take
# it away, and H2O is no better than a window without sinks.
#
# Live it is the same: without the first token the loss goes from 2.89 to 3.53, without any other nothing happens. And the first token of that text is no better than others, it is just the first.
#
# Why? A softmax gives out all of its weight, in every head, for every token. A head that finds nothing has to put it somewhere, and in training only one token was there for all queries: the first. If it is missing, its share, about half in many layers, falls on
# tokens that were not meant to have it. [Xiao et al. 2023](https://arxiv.org/abs/2309.17453) call it an *attention sink*. So before you believe that a method chooses well, ask how much of its success is that one token.
#
# (The tiny model has no sink. In the fast setting no token makes a difference.)
#
# ## Experiment 4: the late heavy token
#
# Sums favour early tokens. How much? From the record: of the tokens of each tenth of the text, how many are still held at the end, at a budget of 20 %?

# %% tags=["experiment"]
fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.3))
for name in ("window + 4 sinks", "H2O", "H2O normalised"):
    axes[0].plot(
        range(5, 105, 10), by_name[name][0.2]["left"], "o-", ms=4, color=STYLE[name], label=name
    )
axes[0].set(title="SmolLM2, a budget of 20 %", xlabel="place in the text (%)", ylabel="still held")
axes[0].legend()

STEPS, ARRIVES = 600, 400
g = torch.Generator().manual_seed(0)
q, k, v = (0.3 * torch.randn(1, 1, STEPS, 16, generator=g) for _ in range(3))
q = q + 1.0  # all queries look the same way,
k[:, :, ARRIVES] += 0.45  # and late comes a key that they like
for row, normalize in enumerate((False, True)):
    cache, held = HeavyHitterCache(60, 30, normalize), []
    for t in range(STEPS):
        cache.step(q[:, :, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1])
        if t >= ARRIVES:
            held.append(bool((cache.positions() == ARRIVES).any()))
    name, color = ("H2O normalised", plots.BLUE) if normalize else ("H2O", plots.VERMILLION)
    print(f"{name:<15} the late token is held for {sum(held)} of {len(held)} steps")
    axes[1].barh(row, sum(held), color=color, height=0.5)
axes[1].set(title=f"a made-up text: token {ARRIVES}, which all queries like", ylim=(1.7, -0.7))
axes[1].set(xlabel="steps for which it is held", xlim=(0, STEPS - ARRIVES))
axes[1].set_yticks((0, 1), ("H2O", "H2O normalised"))
plt.show()

# %% [markdown]
# Left: the sums hold a quarter of the first tenth of the text, and 6 to 9 % of the tokens of any tenth after the third, but for the last one, which the window protects. Divided by queries it is the other way round: of the old tokens few stay
# beside the sink, and most of the places go to the tokens just behind the window. On this model and these texts that is worth more.
#
# Right: a token which *every* query likes, six times as much as others, comes at step 400. The sums hold it for the 30 steps of the window and then drop it, as the old tokens have been collecting for hundreds of steps. What is dropped collects nothing any more, so there is
# no way back. Divided by queries it stays.
#
# ## Experiment 5: what cannot be repaired
#
# Scores say what was looked at. They cannot say what *will* be asked. Hide a line in a text, `register tiger = 73012`, let the cache read the text and forget, and only then begin: `register tiger =`. The model has to copy the number.
#
# **Predict, then run.** At half of the text H2O has the better perplexity. Does it also find more of the 20 lines than the window with sinks, which finds 6?
#
# <details><summary>Answer</summary>
#
# Fewer: 3. Half of its places are for old heavy tokens, and a number that nobody has asked for yet is not heavy. So fewer recent lines are held, and no old ones in return.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.kv_cache.compare_eviction import find
from sparsity_edu.kv_cache.needle import interval

part = record["retrieval"]
print(f"record: {part['texts']} texts of {part['tokens']} tokens, lines found (95 % interval)")
rows = {}
for row in part["caches"]:
    rows.setdefault(row["policy"], {})[row["budget"]] = row["found"]
for name, by_budget in rows.items():
    cells = []
    for share, right in by_budget.items():
        low, high = interval(sum(right), len(right))
        cells.append(f"{share:>5.0%}: {sum(right):2} ({low:.2f}-{high:.2f})")
    print(f"   {name:<18}" + "   ".join(cells))

SPAN, LINES = (160, 2) if FAST else (256, 5)
print(f"\nlive: {LINES} texts of {SPAN} tokens")
for row in find(model, tokenizer, ["window + 4 sinks", "H2O"], (0.5,), LINES, SPAN, seed=1):
    print(f"   {row['policy']:<18}{row['budget']:>5.0%}: {sum(row['found'])} of {LINES}")

# %% [markdown]
# The full cache finds 16 of 20. The window with sinks finds what stands in the part that it still holds, 6 lines at half of the text. H2O finds fewer: 3, and none at 20 %. Dividing by queries changes nothing. (Twenty lines are few, and the intervals overlap. That H2O finds no *more* is what counts.)
#
# No choice by the past can repair that. When the line was read nobody had a reason to look at its digits twice, so it was dropped. A heavy hitter is a token that was useful for *what came next*, and for the loss of the next token this is a good guess, as experiment 2 has
# shown. For a question that comes later it is none. Perplexity does not show it. [Quest](../11_quest/quest.ipynb) forgets nothing, for this very reason.
#
# (The tiny model is too small to copy a number; with it nothing is found, whatever the cache.)
#
# ## What to remember
#
# - The KV cache grows with every token of every sequence. H2O holds it at a budget: recent tokens, and those that attention has looked at most.
# - A score is a sum of probabilities over queries. Say whose queries count where heads share keys, and whether a late token is compared fairly.
# - Attend first, then forget; keys, values, scores and positions together; copies, not slices. With a budget that holds everything, nothing may change.
# - A softmax has to put its weight somewhere. Models put it on the first token: a window without it breaks them, and putting that one token back repairs them.
# - In perplexity H2O and a window with sinks are close. What was forgotten before it was asked for is gone with both.
#
# ## Further reading
#
# - [Zhang et al. 2023](https://arxiv.org/abs/2306.14048), *H2O*: section 3 for the observations that you have repeated in experiment 1, and the ablation of heavy hitters and recent tokens.
# - [Xiao et al. 2023](https://arxiv.org/abs/2309.17453), *Efficient streaming language models with attention sinks*: the first token, and what a model does that is trained with a token made for it.
# - [Oren et al. 2024](https://arxiv.org/abs/2401.06104), *Transformers are multi-state RNNs*: TOVA, which goes by the attention of the last query alone.
# - [Li et al. 2024](https://arxiv.org/abs/2404.14469), *SnapKV*: asks the question first, and lets the end of the prompt choose what is kept of it.
# - Code: [FMInference/H2O](https://github.com/FMInference/H2O), the authors', with four of the five algorithms above, and [NVIDIA/kvpress](https://github.com/NVIDIA/kvpress), many methods, a file each.
#
# Next: [11 Quest](../11_quest/quest.ipynb), in which everything is kept, and little of it is read.
