"""Mistakes of exercise 4.5, and the right answer that they vary."""

import torch

from autograder.checking.exercise import Mistakes
from autograder.exercises.sparsegpt import definition, variants


def wrong(W, H, sparsity, block_size=128, damping=0.01, *, U=None, size=None, choose=None, dead=True, **parts):
    U = variants.factor(H, damping) if U is None else U
    choose = choose or (lambda scores: variants.published(scores, sparsity))
    dense = W.float().masked_fill(H.diagonal() == 0, 0) if dead else W.float()
    return variants.prune(dense, U, size or block_size, choose, block_size=block_size, **parts)[0].to(W.dtype)


mistakes = Mistakes()


@mistakes(
    "no lazy update",
    "The columns right of a block never hear of what was removed in it: add -E @ U[start:stop, stop:] to them before you go on.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, lazy=lambda W, E, U, start, stop: 0)


@mistakes(
    "lazy update with the wrong sign", "The columns right of a block move the wrong way: subtract E @ U[start:stop, stop:]."
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, lazy=lambda W, E, U, start, stop: E @ U[start:stop, stop:])


@mistakes(
    "lazy update of the next block only",
    "Only the next block is brought up to date. All columns to the right are: U[start:stop, stop:].",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    def next_only(W, E, U, start, stop):
        reached = E @ U[start:stop, stop:]
        reached[:, block_size:] = 0
        return -reached

    return wrong(W, H, sparsity, block_size, damping, lazy=next_only)


@mistakes(
    "lazy update from the weights",
    "You bring the rest up to date with the weights that are left in the block. What counts is E, the removed weights over U_jj.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(
        W, H, sparsity, block_size, damping, lazy=lambda W, E, U, start, stop: -(W[:, start:stop] @ U[start:stop, stop:])
    )


@mistakes(
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


@mistakes(
    "last block dropped",
    "The columns after the last full block stay dense. Let the last block end at min(start + block_size, cols).",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, tail=False)


@mistakes(
    "masks from the dense weights",
    "All masks are chosen from the weights as they were at the start. A block is scored when its turn comes, from weights that have made up "
    "for everything to the left.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, up_front=True)


@mistakes(
    "one threshold for the matrix",
    "All weights of the matrix compete, once, at the start. Only those of a block do, when its turn comes.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, size=W.shape[1], choose=lambda s: variants.published(s, sparsity))


@mistakes(
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


@mistakes(
    "dead inputs ignored",
    "The weights of dead inputs stay what they were. Nobody will miss them: set them to 0 before you score, or others must go in their place.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, dead=False)


@mistakes(
    "dead inputs last",
    "The weights of dead inputs are zeroed at the end. Do it before anything is scored: they are the first to go, and count.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, dead=False).masked_fill(H.diagonal() == 0, 0)


@mistakes("no damping", "H is not damped: pass `damping` on to your inverse_factor.")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, 0.0)


@mistakes("always damping 0.01", "You damp by 0.01 whatever `damping` is: pass it on to your inverse_factor.")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, 0.01)


@mistakes("always 128", "Your blocks are 128 columns wide whatever block_size is.")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, 128, damping)


@mistakes(
    "factor of H", "You work with the Cholesky factor of H itself. The one of its inverse is needed: your inverse_factor."
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    U = variants.factor(H, damping)
    return wrong(W, H, sparsity, block_size, damping, U=torch.linalg.cholesky(torch.linalg.inv(U.T @ U), upper=True))


def inverted_factor(H, damping):
    """The inverse of H's lower factor L: L^-T L^-1 is the inverse of H, so it looks like a factor of it."""
    return torch.linalg.inv(torch.linalg.cholesky(definition.damped(H, damping))).float()


@mistakes(
    "inverse of the factor of H",
    "Your U is the inverse of H's factor: V V^T = H^-1 with V upper triangular, the wrong way round. U^T U is asked for: factor the inverse.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, U=inverted_factor(H, damping).T)


@mistakes(
    "inverse of the factor of H, lower",
    "Your U is the inverse of H's lower factor: it is lower triangular, so that nothing to the right of a column moves. Factor the inverse of H, "
    "with upper=True.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, U=inverted_factor(H, damping))


@mistakes(
    "faint taken for dead",
    "You take a small H[j, j] for dead, and set weights to 0 that count. Only an input that was always 0 is dead: test == 0.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W.masked_fill(H.diagonal() < 1e-8, 0), H, sparsity, block_size, damping)


@mistakes(
    "zeros stay zero",
    "Weights that were 0 before stay 0. Those that are not chosen to go move like all others: nothing says that they are gone.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping).masked_fill(W == 0, 0)


@mistakes(
    "counted in float32",
    "Your count is now and then one too many: in float32, or with a small number added, 100 * 0.57 is 57 or more; in Python's own numbers it "
    "is a little less. Take int(n * sparsity) of an int and a float.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    def choose(scores):
        count = min(scores.numel(), int(torch.tensor(sparsity) * scores.numel()) + 1)
        return variants.smallest(scores.reshape(1, -1), count).view_as(scores)

    return wrong(W, H, sparsity, block_size, damping, choose=choose)


@mistakes(
    "the inverse itself",
    "You work with the inverse of H in U's place. Its row j belongs to a problem in which no column is finished; take its Cholesky factor.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    U = variants.factor(H, damping)
    return wrong(W, H, sparsity, block_size, damping, U=U.T @ U)


@mistakes("score not squared", "Your score divides by U_jj; it is W^2 / U_jj^2.")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, score=lambda w, d: w**2 / d)


@mistakes("magnitude", "Who goes is decided by |W| alone. The score is W^2 / U_jj^2.")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, score=lambda w, d: w**2)


@mistakes(
    "Wanda's score", "Your score is |W| times the norm of the input: that is Wanda, the next unit. SparseGPT's is W^2 / U_jj^2."
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping, diagonal=1 / H.diagonal().sqrt())


@mistakes(
    "no compensation",
    "The weights that go are set to zero and nothing makes up for them: the whole point of H is missing. Either nothing is subtracted from the "
    "columns to the right, or your factor is lower triangular: then U[j, j:] has nothing right of the diagonal.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    nothing = {"reach": lambda j, stop: slice(0, 0), "lazy": lambda W, E, U, start, stop: 0}
    return wrong(W, H, sparsity, block_size, damping, **nothing)


@mistakes(
    "one too few",
    "In every block int(n * sparsity) weights go. The published convention is asked for: one more, as in prune_block.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    def choose(scores):
        return variants.smallest(scores.reshape(1, -1), int(scores.numel() * sparsity)).view_as(scores)

    return wrong(W, H, sparsity, block_size, damping, choose=choose)


@mistakes("in place", "W itself has changed. Work on a copy: .float() makes none if W is float32 already.")
def _(W, H, sparsity, block_size=128, damping=0.01):
    pruned = wrong(W, H, sparsity, block_size, damping)
    return W.copy_(pruned) if W.dtype == torch.float32 else pruned


@mistakes(
    "H changed",
    "H itself has changed: the ones or the damping were written into it. The next matrix that reads these inputs needs it as it was.",
)
def _(W, H, sparsity, block_size=128, damping=0.01):
    pruned = wrong(W, H, sparsity, block_size, damping)
    H.diagonal()[H.diagonal() == 0] = 1
    H.diagonal().add_(damping * H.diagonal().mean())
    return pruned


@mistakes("always float32", "You return float32 whatever W is: end with .to(W.dtype).")
def _(W, H, sparsity, block_size=128, damping=0.01):
    return wrong(W, H, sparsity, block_size, damping).float()
