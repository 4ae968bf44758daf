"""Exercise 4.6: n:m, chosen on the way."""

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.sparsegpt import definition, variants
from autograder.exercises.sparsegpt.fixtures import clear, layer
from autograder.exercises.sparsegpt.prune import fasterprune
from autograder.inside.case import call


def sparsegpt_n_m(W: Tensor, H: Tensor, n: int, m: int, block_size: int = 128, damping: float = 0.01) -> Tensor:
    return definition.prune(W, H, m, definition.largest(n, m), damping).pruned.to(W.dtype)


n_m = Exercise(
    "sparsegpt.n_m",
    defines="sparsegpt_n_m",
    title="n:m, chosen on the way",
    minutes=15,
    difficulty=3,
    hints=(
        "The loops are those of before, over blocks and over the columns of a block. New is the moment at which the mask "
        "is chosen: at the first column of each group, from the weights as they are then.",
        "So `prune_block` is of no use here: write its loop yourself. Whenever `j % m == 0`, score the next m columns of "
        "the block as they are now, and drop the m - n smallest of each row. A group never crosses a border, as "
        "block_size is a multiple of m. E and the lazy update are as in `sparsegpt_prune`.",
        "A block B, with V its square of U, begins with `keep` all True and E zero. At the first column of a group: "
        "`score = (B[:, j : j + m] / V.diagonal()[j : j + m]) ** 2`, `smallest = score.topk(m - n, dim=1, "
        "largest=False).indices`, and `keep[:, j : j + m]` becomes its own `.scatter(1, smallest, False)`. Then, at every "
        "column, `B, E[:, j] = remove_from_column(B, V, j, keep[:, j])`.",
    ),
    reference=sparsegpt_n_m,
    rules=Rules(tolerance=1e-4, exact_zeros=True),
)


def case(
    g: torch.Generator,
    rows: int,
    cols: int,
    n: int,
    m: int,
    dead: tuple[int, ...] = (),
    faint: tuple[int, ...] = (),
    zeros_from: int | None = None,
    size: float = 1.0,
    dtype: torch.dtype = torch.float32,
    **options,
):
    groups, damping = definition.largest(n, m), options.get("damping", 0.01)
    ridge = 0.0 if damping else 0.2
    W, H = clear(lambda: layer(g, rows, cols, dead, faint, zeros_from, size, ridge), m, groups, damping, zeros_from is not None)
    return call(W.to(dtype), H, n, m, **options)


@n_m.stage(
    "2:4: each group is chosen when its turn comes",
    points=2,
    exposes="A group's scores are taken from weights that have made up for all groups to its left, those in the same block too.",
)
def _(g):
    yield case(g, 2, 4, 2, 4)
    yield case(g, 7, 16, 2, 4)
    yield case(g, 9, 28, 2, 4, damping=0.05)
    yield case(g, 5, 8, 2, 4, damping=0.0)
    yield case(g, 6, 12, 2, 4, zeros_from=4)
    yield case(g, 131, 4, 2, 4)


@n_m.stage(
    "any n and m: n counts what is kept",
    points=1,
    exposes="n of every m neighbours in a row stay, m - n go. At 2:4 you cannot tell the two apart; at 1:4 you can.",
)
def _(g):
    for n, m, rows, cols in [(1, 4, 6, 16), (3, 4, 7, 20), (4, 8, 5, 24), (2, 3, 4, 15), (1, 2, 8, 14), (3, 5, 6, 10)]:
        yield case(g, rows, cols, n, m)
    # int((1 - n / m) * m) is not m - n, nor int((m - n) / m * m), or int(n / m * m) is not n
    for some in (((4, 5), (8, 10), (5, 12), (16, 20)), ((7, 22), (10, 23)), ((15, 22), (13, 23))):
        n, m = some[int(torch.randint(len(some), (), generator=g))]
        yield case(g, 3, m, n, m)


@n_m.stage(
    "blocks and dead inputs",
    points=1,
    exposes="Blocks are a matter of speed: the result is the same for every block_size that is a multiple of m. The weights of dead inputs "
    "are 0 from the start.",
)
def _(g):
    yield case(g, 6, 24, 2, 4, block_size=8)
    yield case(g, 8, 28, 1, 4, dead=(3, 9, 10, 22), size=15.0, block_size=8)
    yield case(g, 5, 21, 2, 3, dead=(0, 1, 20), block_size=9, damping=0.1)
    yield case(g, 4, 20, 3, 4, dead=(4, 5, 13), block_size=4)
    yield case(g, 6, 12, 2, 4, dead=(1,), faint=(4, 8), block_size=8)
    yield case(g, 3, 136, 2, 4)  # 128 by default


@n_m.stage(
    "returns a copy in the dtype of W",
    points=1,
    exposes="W and H must not change. The sums are made in float32 at least, the result has the dtype of W.",
    pure=True,
)
def _(g):
    yield case(g, 7, 12, 2, 4, dead=(5,), block_size=4)
    yield case(g, 5, 12, 1, 3, dead=(7,), dtype=torch.float64)


def wrong(W, H, n, m, block_size=128, damping=0.01, *, U=None, choose=None, size=None, dead=True, **parts):
    U = variants.factor(H, damping) if U is None else U
    choose = choose or (lambda scores: variants.smallest(scores, m - n))
    dense = W.float().masked_fill(H.diagonal() == 0, 0) if dead else W.float()
    return variants.prune(dense, U, size or m, choose, block_size=block_size, **parts)[0].to(W.dtype)


@n_m.misconception(
    "n zeros",
    "You make n zeros in every group. In n:m, n is what is kept; in the authors' code `prunen` is the number of zeros, which at 2:4 is the "
    "same.",
)
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, choose=lambda s: variants.smallest(s, n))


@n_m.misconception(
    "chosen at the start",
    "All groups are chosen from the dense weights. By the time a group has its turn its weights have moved: score them then.",
)
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, up_front=True)


@n_m.misconception(
    "chosen at the start of the block",
    "All groups of a block are chosen when the block begins. Inside the block too the weights move: choose when j % m == 0.",
)
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, per_block=True)


@n_m.misconception("keeps the smallest", "The largest scores of a group go. A large score is a large cost: the small ones go.")
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, choose=lambda s: variants.smallest(-s, m - n))


@n_m.misconception(
    "down the columns", "You give every column its n of m rows. The groups lie along a row: m neighbouring columns."
)
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, choose=lambda s: variants.smallest(s.T, len(s) * (m - n) // m).T)


@n_m.misconception(
    "all rows together",
    "The groups of all rows compete with each other: the total is right, but some groups keep more than n. The hardware wants n in every one.",
)
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(
        W, H, n, m, block_size, damping, choose=lambda s: variants.smallest(s.reshape(1, -1), len(s) * (m - n)).view_as(s)
    )


@n_m.misconception(
    "chosen at every column",
    "You choose again at every column, so that the groups overlap and far too many weights go. Choose once per group, when j % m == 0.",
)
def _(W, H, n, m, block_size=128, damping=0.01):
    U, V = variants.factor(H, damping), W.float().masked_fill(H.diagonal() == 0, 0)
    keep = torch.ones_like(V, dtype=torch.bool)
    for j in range(V.shape[1]):
        window = slice(j, j + m)
        score = (V[:, window] / U.diagonal()[window]) ** 2
        keep[:, window] &= variants.smallest(score, min(m - n, score.shape[1]))
        V -= torch.outer((V[:, j] / U[j, j]).masked_fill(keep[:, j], 0), U[j])
    return V.masked_fill(~keep, 0).to(W.dtype)


@n_m.misconception(
    "compensation skips the group",
    "What goes is made up for by later groups only. The columns of the same group right of j help too.",
)
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, reach=lambda j, stop: slice(j - j % m + m, stop))


@n_m.misconception(
    "no compensation",
    "The weights that go are set to zero and nothing makes up for them. Either nothing is subtracted from the columns to the right, or your "
    "factor is lower triangular: then U[j, j:] has nothing right of the diagonal.",
)
def _(W, H, n, m, block_size=128, damping=0.01):
    nothing = {"reach": lambda j, stop: slice(0, 0), "lazy": lambda W, E, U, start, stop: 0}
    return wrong(W, H, n, m, block_size, damping, **nothing)


@n_m.misconception(
    "no lazy update", "The columns right of a block never hear of what was removed in it: subtract E @ U[start:stop, stop:]."
)
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, lazy=lambda W, E, U, start, stop: 0)


@n_m.misconception("score not squared", "Your score divides by U_jj; it is W^2 / U_jj^2.")
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, score=lambda w, d: w**2 / d)


@n_m.misconception("magnitude", "Who goes is decided by |W| alone. The score is W^2 / U_jj^2.")
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, score=lambda w, d: w**2)


@n_m.misconception(
    "Wanda's score", "Your score is |W| times the norm of the input: that is Wanda, the next unit. SparseGPT's is W^2 / U_jj^2."
)
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, diagonal=1 / H.diagonal().sqrt())


@n_m.misconception(
    "unstructured", "You prune the same share without regard to groups. Every group of m neighbours keeps exactly n."
)
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, size=block_size, choose=lambda s: variants.published(s, (m - n) / m))


@n_m.misconception(
    "U of the wrong columns",
    "The scores of every block are divided by the first entries of U's diagonal: inside a block, cut U to the block as well.",
)
def _(W, H, n, m, block_size=128, damping=0.01):
    d = variants.factor(H, damping).diagonal()
    return wrong(W, H, n, m, block_size, damping, diagonal=d[torch.arange(len(d)) % block_size])


@n_m.misconception(
    "dead inputs ignored", "The weights of dead inputs stay what they were: set them to 0 before anything is scored."
)
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, dead=False)


@n_m.misconception(
    "dead inputs last",
    "The weights of dead inputs are zeroed at the end. Do it before anything is scored: they are the first to go, and count.",
)
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping, dead=False).masked_fill(H.diagonal() == 0, 0)


@n_m.misconception("no damping", "H is not damped: pass `damping` on to your inverse_factor.")
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, 0.0)


@n_m.misconception("always damping 0.01", "You damp by 0.01 whatever `damping` is: pass it on to your inverse_factor.")
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, 0.01)


@n_m.misconception("in place", "W itself has changed. Work on a copy: .float() makes none if W is float32 already.")
def _(W, H, n, m, block_size=128, damping=0.01):
    pruned = wrong(W, H, n, m, block_size, damping)
    return W.copy_(pruned) if W.dtype == torch.float32 else pruned


@n_m.misconception("always float32", "You return float32 whatever W is: end with .to(W.dtype).")
def _(W, H, n, m, block_size=128, damping=0.01):
    return wrong(W, H, n, m, block_size, damping).float()


@n_m.accepts("the authors' fasterprune, whose prunen counts zeros")
def _(W, H, n, m, block_size=128, damping=0.01):
    return fasterprune(W, H, 0, prunen=m - n, prunem=m, blocksize=block_size, percdamp=damping)


@n_m.accepts("group after group, no blocks, in float64")
def _(W, H, n, m, block_size=128, damping=0.01):
    U = variants.factor(H, damping).double()
    V = W.double().clone()
    V[:, H.diagonal() == 0] = 0
    for start in range(0, V.shape[1], m):
        group = range(start, start + m)
        stays = torch.zeros(len(V), m, dtype=torch.bool)
        best = (V[:, list(group)] / U.diagonal()[list(group)]).abs().argsort(dim=1, descending=True)[:, :n]
        stays[torch.arange(len(V))[:, None], best] = True
        for i, j in enumerate(group):
            V -= torch.outer(torch.where(stays[:, i], 0.0, V[:, j] / U[j, j]), U[j])
            V[~stays[:, i], j] = 0
    return V.to(W.dtype)


@n_m.accepts("row by row")
def _(W, H, n, m, block_size=128, damping=0.01):
    U = variants.factor(H, damping)
    d = U.diagonal()
    rows = []
    for row in W.float().masked_fill(H.diagonal() == 0, 0):
        w, gone = row.clone(), set()
        for j in range(len(w)):
            if j % m == 0:
                cost = (w[j : j + m] / d[j : j + m]) ** 2
                gone |= {j + int(k) for k in cost.sort().indices[: m - n]}
            if j in gone:
                w = w - w[j] / d[j] * U[j]
                w[list(gone)] *= torch.tensor([float(k > j) for k in gone])
        rows.append(w)
    return torch.stack(rows).to(W.dtype)
