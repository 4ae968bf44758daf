"""Exercise 4.5: the whole matrix, block by block."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises import counts
from autograder.exercises.sparsegpt import definition, variants
from autograder.exercises.sparsegpt.fixtures import SIZES, clear, layer
from autograder.exercises.sparsegpt.prune_mistakes import mistakes
from autograder.inside.case import call


def sparsegpt_prune(W: Tensor, H: Tensor, sparsity: float, block_size: int = 128, damping: float = 0.01) -> Tensor:
    return definition.prune(W, H, block_size, definition.threshold(sparsity), damping).pruned.to(W.dtype)


prune = Exercise(
    "sparsegpt.prune",
    defines="sparsegpt_prune",
    title="The whole matrix",
    minutes=20,
    difficulty=3,
    hints=(
        "A loop over blocks of columns. Each block is pruned by your `prune_block`; then everything to its right catches "
        "up in one matrix product, before the next block is looked at.",
        "Before the loop: U from your `inverse_factor`, W in float32, zeros in the columns of dead inputs. A block needs "
        "the square `U[start:stop, start:stop]`; what is to its right needs the rectangle `U[start:stop, stop:]`. The "
        "last block ends at `min(start + block_size, cols)`.",
        "Work on `pruned = W.float().clone()`. For each block: `block, E = prune_block(pruned[:, start:stop], "
        "U[start:stop, start:stop], sparsity)`; write the block back, then `pruned[:, stop:] -= E @ U[start:stop, "
        "stop:]`. In the end it takes the dtype of W again.",
    ),
    reference=sparsegpt_prune,
    rules=Rules(tolerance=1e-4, exact_zeros=True),
    misconceptions=mistakes,
)


def case(
    g: torch.Generator,
    rows: int,
    cols: int,
    sparsity: float,
    dead: tuple[int, ...] = (),
    faint: tuple[int, ...] = (),
    zeros_from: int | None = None,
    size: float = 1.0,
    dtype: torch.dtype = torch.float32,
    **options,
):
    block_size, damping = options.get("block_size", 128), options.get("damping", 0.01)
    groups, ridge = definition.threshold(sparsity), 0.0 if damping else 0.2
    W, H = clear(
        lambda: layer(g, rows, cols, dead, faint, zeros_from, size, ridge), block_size, groups, damping, zeros_from is not None
    )
    return call(W.to(dtype), H, sparsity, **options)


@prune.stage(
    "one block holds all columns",
    points=1,
    exposes="Up to 128 columns there is a single block: the factor of the damped Hessian, then what prune_block does.",
)
def _(g):
    yield case(g, 3, 4, 0.5)
    yield case(g, 11, 18, 0.6)
    yield case(g, 8, 15, 0.3, size=20.0, damping=0.1)
    yield case(g, 6, 8, 0.5, damping=0.0)
    yield case(g, 131, 3, 0.3)
    for accept in (counts.just_below, counts.in_between):
        (rows, cols), sparsity = counts.draw(g, SIZES, accept)
        yield case(g, rows, cols, sparsity)


@prune.stage(
    "several blocks, the last one shorter",
    points=2,
    exposes="A block's removals change all columns to its right (-E @ U[start:stop, stop:]) before the next block is scored; and the last "
    "block may be shorter.",
)
def _(g):
    yield case(g, 7, 12, 0.5, block_size=6)
    yield case(g, 13, 29, 0.45, block_size=8)
    yield case(g, 9, 22, 0.7, size=0.05, block_size=5)
    yield case(g, 5, 141, 0.5)  # 128 by default
    yield case(g, 6, 5, 0.5, block_size=1)
    yield case(g, 5, 9, 0.0, block_size=4)
    yield case(g, 6, 12, 0.4, zeros_from=4, block_size=4)


@prune.stage(
    "dead inputs",
    points=1,
    exposes="The weights of an input that was always 0 are set to 0 before anything is scored: they are the first to go, at no cost. An input "
    "that is faint is not dead.",
)
def _(g):
    yield case(g, 6, 9, 0.4, dead=(2, 3))
    yield case(g, 11, 25, 0.5, dead=(0, 9, 10, 17, 24), size=8.0, block_size=10)
    yield case(g, 4, 12, 0.2, dead=(4, 5, 6, 7), block_size=4, damping=0.05)  # a block of nothing else
    yield case(g, 6, 10, 0.3, dead=(1,), faint=(4, 8), block_size=5)


@prune.stage(
    "returns a copy in the dtype of W",
    points=1,
    exposes="W and H must not change: H serves other matrices too. The sums are made in float32 at least, the result has the dtype of W.",
    pure=True,
)
def _(g):
    yield case(g, 7, 11, 0.55, dead=(5,), block_size=4)
    yield case(g, 6, 14, 0.35, dead=(1,), block_size=5, dtype=torch.float64)


@prune.accepts("the authors' fasterprune")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return fasterprune(W, H, sparsity, blocksize=block_size, percdamp=damping)


@prune.accepts("no lazy updates, everything at once")
def _(W, H, sparsity, block_size=128, damping=0.01):
    U = variants.factor(H, damping)
    V = W.float().clone()
    V[:, H.diagonal() == 0] = 0
    gone = torch.zeros_like(V, dtype=torch.bool)
    for j in range(V.shape[1]):
        if j % block_size == 0:
            part = (V[:, j : j + block_size] / U.diagonal()[j : j + block_size]).abs()
            gone[:, j : j + block_size] = part <= part.reshape(-1).kthvalue(int(part.numel() * sparsity) + 1)[0]
        V -= torch.outer(V[:, j] / U[j, j] * gone[:, j], U[j])
    return (V * ~gone).to(W.dtype)


@prune.accepts("a fresh inverse for every column, in float64")
def _(W, H, sparsity, block_size=128, damping=0.01):
    A, V = H.double().clone(), W.double().clone()
    dead = torch.diag(A) == 0
    A[dead, dead] = 1
    V[:, dead] = 0
    A += torch.eye(len(A)) * damping * torch.diag(A).mean()
    inverses = [torch.inverse(A[j:, j:])[0] for j in range(len(A))]
    for i1 in range(0, len(A), block_size):
        i2 = min(i1 + block_size, len(A))
        score = V[:, i1:i2] ** 2 / torch.stack([inverses[j][0] for j in range(i1, i2)])
        gone = score <= score.flatten().sort()[0][int(score.numel() * sparsity)]
        for j in range(i1, i2):
            w = V[:, j] * gone[:, j - i1]
            V[:, j:] -= w[:, None] * inverses[j] / inverses[j][0]
            V[gone[:, j - i1], j] = 0
    return V.to(W.dtype)


def fasterprune(weight, hessian, sparsity, prunen=0, prunem=0, blocksize=128, percdamp=0.01):
    """The authors' function, its class and its printing taken away."""
    W = weight.clone()
    W = W.float()
    H = hessian.clone()
    columns = W.shape[1]
    dead = torch.diag(H) == 0
    H[dead, dead] = 1
    W[:, dead] = 0
    Losses = torch.zeros(W.shape[0])
    damp = percdamp * torch.mean(torch.diag(H))
    diag = torch.arange(columns)
    H[diag, diag] += damp
    H = torch.linalg.cholesky(H)
    H = torch.cholesky_inverse(H)
    H = torch.linalg.cholesky(H, upper=True)
    Hinv = H
    for i1 in range(0, columns, blocksize):
        i2 = min(i1 + blocksize, columns)
        count = i2 - i1
        W1 = W[:, i1:i2].clone()
        Q1 = torch.zeros_like(W1)
        Err1 = torch.zeros_like(W1)
        Losses1 = torch.zeros_like(W1)
        Hinv1 = Hinv[i1:i2, i1:i2]
        if prunen == 0:
            tmp = W1**2 / (torch.diag(Hinv1).reshape((1, -1))) ** 2
            thresh = torch.sort(tmp.flatten())[0][int(tmp.numel() * sparsity)]
            mask1 = tmp <= thresh
        else:
            mask1 = torch.zeros_like(W1) == 1
        for i in range(count):
            w = W1[:, i]
            d = Hinv1[i, i]
            if prunen != 0 and i % prunem == 0:
                tmp = W1[:, i : (i + prunem)] ** 2 / (torch.diag(Hinv1)[i : (i + prunem)].reshape((1, -1))) ** 2
                mask1.scatter_(1, i + torch.topk(tmp, prunen, dim=1, largest=False)[1], True)
            q = w.clone()
            q[mask1[:, i]] = 0
            Q1[:, i] = q
            Losses1[:, i] = (w - q) ** 2 / d**2
            err1 = (w - q) / d
            W1[:, i:] -= err1.unsqueeze(1).matmul(Hinv1[i, i:].unsqueeze(0))
            Err1[:, i] = err1
        W[:, i1:i2] = Q1
        Losses += torch.sum(Losses1, 1) / 2
        W[:, i2:] -= Err1.matmul(Hinv[i1:i2, i2:])
    return W.reshape(weight.shape).to(weight.dtype)
