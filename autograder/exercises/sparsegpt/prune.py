"""Exercise 4.5: the whole matrix, block by block."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.sparsegpt import definition, variants
from autograder.exercises.sparsegpt.fixtures import clear, hessian, weights
from autograder.inside.case import call


def sparsegpt_prune(W: Tensor, H: Tensor, sparsity: float, block_size: int = 128, damping: float = 0.01) -> Tensor:
    return definition.prune(W, H, block_size, definition.threshold(sparsity), damping).pruned.to(W.dtype)


prune = Exercise(
    "sparsegpt.prune",
    defines="sparsegpt_prune",
    title="The whole matrix",
    minutes=20,
    difficulty=3,
    hint="First `W = W.float()` (a clone), the zeros of dead inputs, and U from your `inverse_factor`. Then, for each block `start:stop`: "
    "`prune_block(W[:, start:stop], U[start:stop, start:stop], sparsity)` gives the block and its E, and everything to the right changes by "
    "`-E @ U[start:stop, stop:]`. The last block ends at `min(start + block_size, cols)`.",
    reference=sparsegpt_prune,
    rules=Rules(tolerance=1e-4, exact_zeros=True),
)


def case(
    g: torch.Generator,
    rows: int,
    cols: int,
    sparsity: float,
    dead: tuple[int, ...] = (),
    size: float = 1.0,
    dtype: torch.dtype = torch.float32,
    **options,
):
    block_size, damping = options.get("block_size", 128), options.get("damping", 0.01)
    groups = definition.threshold(sparsity)
    W, H = clear(lambda: (weights(g, rows, cols), hessian(g, cols, dead, size)), block_size, groups, damping)
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


@prune.stage(
    "dead inputs",
    points=1,
    exposes="The weights of an input that was always 0 are set to 0 before anything is scored: they are the first to go, at no cost.",
)
def _(g):
    yield case(g, 6, 9, 0.4, dead=(2, 3))
    yield case(g, 11, 25, 0.5, dead=(0, 9, 10, 17, 24), size=8.0, block_size=10)
    yield case(g, 4, 12, 0.2, dead=(4, 5, 6, 7), block_size=4, damping=0.05)  # a block of nothing else


@prune.stage(
    "returns a copy in the dtype of W",
    points=1,
    exposes="W and H must not change: H serves other matrices too. The sums are made in float32 at least, the result has the dtype of W.",
    pure=True,
)
def _(g):
    yield case(g, 7, 11, 0.55, dead=(5,), block_size=4)
    yield case(g, 6, 14, 0.35, dead=(1,), block_size=5, dtype=torch.float64)


def wrong(W, H, sparsity, block_size=128, damping=0.01, *, U=None, size=None, choose=None, dead=True, **parts):
    U = variants.factor(H, damping) if U is None else U
    choose = choose or (lambda scores: variants.published(scores, sparsity))
    dense = W.float().masked_fill(H.diagonal() == 0, 0) if dead else W.float()
    return variants.prune(dense, U, size or block_size, choose, block_size=block_size, **parts)[0].to(W.dtype)


@prune.misconception(
    "no lazy update",
    "The columns right of a block never hear of what was removed in it: add -E @ U[start:stop, stop:] to them before you go on.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, lazy=lambda W, E, U, start, stop: 0)


@prune.misconception(
    "lazy update with the wrong sign", "The columns right of a block move the wrong way: subtract E @ U[start:stop, stop:]."
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, lazy=lambda W, E, U, start, stop: E @ U[start:stop, stop:])


@prune.misconception(
    "lazy update of the next block only",
    "Only the next block is brought up to date. All columns to the right are: U[start:stop, stop:].",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    def next_only(W, E, U, start, stop):
        reached = E @ U[start:stop, stop:]
        reached[:, block_size:] = 0
        return -reached

    return wrong(W, H, sparsity, block_size, damping, lazy=next_only)


@prune.misconception(
    "lazy update from the weights",
    "You bring the rest up to date with the weights that are left in the block. What counts is E, the removed weights over U_jj.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(
        W, H, sparsity, block_size, damping, lazy=lambda W, E, U, start, stop: -(W[:, start:stop] @ U[start:stop, stop:])
    )


@prune.misconception(
    "lazy update from the changes",
    "You bring the rest up to date with how much the block has changed. That already holds what its columns did to each other; what counts is "
    "E, for Delta W = -E U.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    U, V = variants.factor(H, damping), W.float().masked_fill(H.diagonal() == 0, 0)
    for start in range(0, V.shape[1], block_size):
        own, rest = slice(start, start + block_size), slice(start + block_size, None)
        before = V[:, own].clone()
        V[:, own] = variants.prune(before, U[own, own], block_size, lambda s: variants.published(s, sparsity))[0]
        V[:, rest] -= (before - V[:, own]) @ U[own, rest]
    return V.to(W.dtype)


@prune.misconception(
    "last block dropped",
    "The columns after the last full block stay dense. Let the last block end at min(start + block_size, cols).",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, tail=False)


@prune.misconception(
    "masks from the dense weights",
    "All masks are chosen from the weights as they were at the start. A block is scored when its turn comes, from weights that have made up "
    "for everything to the left.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, up_front=True)


@prune.misconception(
    "one threshold for the matrix",
    "All weights of the matrix compete, once, at the start. Only those of a block do, when its turn comes.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, size=W.shape[1], choose=lambda s: variants.published(s, sparsity))


@prune.misconception(
    "a factor for each block",
    "You factor each block's part of H by itself. The inverse of a part is not the part of the inverse: U is made once, from all of H, and "
    "cut up afterwards.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    U, damped = variants.factor(H, damping), definition.damped(H, damping)
    for start in range(0, len(H), block_size):
        own = slice(start, start + block_size)
        U[own, own] = variants.factor(damped[own, own], 0.0)
    return wrong(W, H, sparsity, block_size, damping, U=U)


@prune.misconception(
    "dead inputs ignored",
    "The weights of dead inputs stay what they were. Nobody will miss them: set them to 0 before you score, or others must go in their place.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, dead=False)


@prune.misconception(
    "dead inputs last",
    "The weights of dead inputs are zeroed at the end. Do it before anything is scored: they are the first to go, and count.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, dead=False).masked_fill(H.diagonal() == 0, 0)


@prune.misconception("no damping", "H is not damped: pass `damping` on to your inverse_factor.")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, 0.0)


@prune.misconception("always damping 0.01", "You damp by 0.01 whatever `damping` is: pass it on to your inverse_factor.")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, 0.01)


@prune.misconception("always 128", "Your blocks are 128 columns wide whatever block_size is.")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, 128, damping)


@prune.misconception(
    "factor of H", "You work with the Cholesky factor of H itself. The one of its inverse is needed: your inverse_factor."
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    U = variants.factor(H, damping)
    return wrong(W, H, sparsity, block_size, damping, U=torch.linalg.cholesky(torch.linalg.inv(U.T @ U), upper=True))


@prune.misconception(
    "the inverse itself",
    "You work with the inverse of H in U's place. Its row j belongs to a problem in which no column is finished; take its Cholesky factor.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    U = variants.factor(H, damping)
    return wrong(W, H, sparsity, block_size, damping, U=U.T @ U)


@prune.misconception("score not squared", "Your score divides by U_jj; it is W^2 / U_jj^2.")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, score=lambda w, d: w**2 / d)


@prune.misconception("magnitude", "Who goes is decided by |W| alone. The score is W^2 / U_jj^2.")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, score=lambda w, d: w**2)


@prune.misconception(
    "Wanda's score", "Your score is |W| times the norm of the input: that is Wanda, the next unit. SparseGPT's is W^2 / U_jj^2."
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, diagonal=1 / H.diagonal().sqrt())


@prune.misconception(
    "no compensation", "The weights that go are set to zero and nothing makes up for them: the whole point of H is missing."
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    nothing = {"reach": lambda j, stop: slice(0, 0), "lazy": lambda W, E, U, start, stop: 0}
    return wrong(W, H, sparsity, block_size, damping, **nothing)


@prune.misconception(
    "one too few",
    "In every block int(n * sparsity) weights go. The published convention is asked for: one more, as in prune_block.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    def choose(scores):
        return variants.smallest(scores.reshape(1, -1), int(scores.numel() * sparsity)).view_as(scores)

    return wrong(W, H, sparsity, block_size, damping, choose=choose)


@prune.misconception("in place", "W itself has changed. Work on a copy: .float() makes none if W is float32 already.")
def _(W, H, sparsity, block_size=128, damping=0.01):
    pruned = wrong(W, H, sparsity, block_size, damping)
    return W.copy_(pruned) if W.dtype == torch.float32 else pruned


@prune.misconception(
    "H changed",
    "H itself has changed: the ones or the damping were written into it. The next matrix that reads these inputs needs it as it was.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    pruned = wrong(W, H, sparsity, block_size, damping)
    H.diagonal()[H.diagonal() == 0] = 1
    H.diagonal().add_(damping * H.diagonal().mean())
    return pruned


@prune.misconception("always float32", "You return float32 whatever W is: end with .to(W.dtype).")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping).float()


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
