"""Exercise 17.2: two techniques in both orders."""

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises import counts
from autograder.exercises.combination.fixtures import redraw, share, some
from autograder.exercises.combination.order_mistakes import combined, gone, mistakes, silu
from autograder.inside.case import Case, call

order = Exercise(
    "combination.order",
    defines="combine",
    title="Two techniques in both orders",
    minutes=20,
    difficulty=3,
    hints=(
        "Both techniques look at inputs: Wanda at their norms, a threshold at their sizes. The order says which inputs each of them is shown. Write down for both "
        "orders what reaches W1 and what reaches W2, before you write code.",
        "Three small functions do it: one prunes a matrix on inputs, one finds the k-th smallest size, one makes `silu(x @ W.T)`. With weights first, all of it is "
        "about X and what the *pruned* W1 makes of X. With activations first, thresholds are of X and what the *dense* W1 makes of X; then small inputs go, and "
        "pruning sees what is left.",
        "Weights first: `P1 = prune(W1, X)`, `H = hidden(P1, X)`, `P2 = prune(W2, H)`, thresholds of `X` and `H`. Activations first: `t1, t2` of `X` and "
        "`hidden(W1, X)`; `X = zeroed(X, t1)`, `P1 = prune(W1, X)`, `P2 = prune(W2, zeroed(hidden(P1, X), t2))`. Begin with `X.float()`, and fill zeros into "
        "the matrices as they are given.",
    ),
    reference=combined,
    misconceptions=mistakes,
)

APART = 1e-4  # by how much, of its size, the largest score that goes is less than the least that stays
CLEAR = 1e-5  # by how much, of its size, a hidden number stands off its threshold

Drawn = tuple[Tensor, Tensor, Tensor, float, float, str]


def cut(W: Tensor, x: Tensor, sparsity: float) -> bool:
    """Whether rounding changes nothing of what is pruned."""
    score = (W.double().abs() * x.double().norm(dim=0)).sort(dim=1).values
    k = int(sparsity * W.shape[1])
    return k == 0 or bool((score[:, k] - score[:, k - 1] > APART * score[:, k]).all())


def clear(W1: Tensor, W2: Tensor, X: Tensor, sparsity: float, level: float, first: str) -> bool:
    """Whether an answer in float32 chooses what one in float64 does."""
    P1, _, t1, t2 = combined(W1, W2, X, sparsity, level, first)
    x = X.double()
    if first == "activations":
        x = x.masked_fill(x.abs() <= t1, 0)
    h = silu(x @ P1.double().T)
    if first == "activations":
        if ((h.abs() - t2).abs() < CLEAR * t2).any():
            return False
        h = h.masked_fill(h.abs() <= t2, 0)
    k = int(level * h.numel())
    return cut(W1, x, sparsity) and cut(W2, h, sparsity) and (k == 0 or t2 > 0.02)


def hidden_is_unlike(W1: Tensor, W2: Tensor, X: Tensor, sparsity: float, level: float, first: str) -> bool:
    """Whether every other way through the two layers prunes other weights."""
    right = combined(W1, W2, X, sparsity, level, first)
    x, sparse = X.double(), X.double() * (X.double().abs() > right[2])

    def zeroed(h: Tensor) -> Tensor:
        return h * (h.abs() > right[3])

    def pruned(W: Tensor, seen: Tensor) -> Tensor:
        return gone(W, seen, sparsity)

    matrices = W1.double(), right[0].double()
    seen = [silu(inputs @ W.T) for inputs in (x, sparse) for W in matrices]
    unlike = [pruned(W2, other) for h in seen for other in (h, zeroed(h))]
    same = sum(torch.equal(other, right[1].double()) for other in unlike)
    if same > 1 or torch.equal(pruned(W1, x), pruned(W1, sparse)):
        return False
    equal_stay = combined(W1, W2, X, sparsity, level, first, small=lambda x, t: x * (x.abs() >= t))
    return first == "weights" or not torch.equal(equal_stay[1], right[1])


def cut_off(g: torch.Generator, given: float | tuple[float, float], *sizes: int) -> float:
    """What is given, or a share between two of which little is cut off: rounding gives the same counts."""
    if isinstance(given, float):
        return given
    return redraw(lambda: share(g, *given), lambda s: all(0.05 < s * n % 1 < 0.45 for n in sizes))


def case(
    g: torch.Generator, tokens: int, inputs: int, inner: int, outputs: int, first: str, sparsity=(0.3, 0.6), level=(0.4, 0.65),
    dtype: torch.dtype = torch.float32, ties: bool = False, all_differ: bool = True,
    size: float = 1.0,
) -> Case:  # fmt: skip
    def draw() -> Drawn:
        X = torch.randn(tokens, inputs, generator=g) * (0.3 + torch.rand(tokens, inputs, generator=g).square() * 2)
        X = (2 * X).round() / 2 if ties else X
        W1 = torch.randn(inner, inputs, generator=g) * 1.5 / inputs**0.5
        W2 = torch.randn(outputs, inner, generator=g)
        chosen = cut_off(g, sparsity, inputs, inner), cut_off(g, level, tokens * inputs, tokens * inner)
        return W1.to(dtype), W2.to(dtype), (size * X).to(dtype), *chosen, first

    return call(*redraw(draw, lambda drawn: clear(*drawn) and (not all_differ or hidden_is_unlike(*drawn))))


@order.stage(
    "weights first",
    points=1,
    exposes="W1 is pruned on X, W2 on what the pruned W1 makes of X: of each output int(sparsity * inputs) weights go, those with the least |W| * norm. The "
    "thresholds are of what the pruned layers read.",
)
def _(g):
    yield case(g, 14, 12, 16, 15, "weights")
    yield case(g, 16, 15, 12, 20, "weights")


@order.stage(
    "activations first",
    points=2,
    exposes="Thresholds are of what the dense layers read. Then W1 is pruned on X without its small inputs, and W2 on what the pruned W1 makes of these, without "
    "those up to t2.",
)
def _(g):
    yield case(g, 14, 12, 16, 15, "activations")
    yield case(g, 11, 10, 19, 13, "activations")
    yield case(g, 16, 15, 12, 20, "activations")


@order.stage(
    "counts and ties",
    points=1,
    exposes="What is not larger than a threshold goes, so of equal sizes all. k is cut off, and if it is 0 the threshold is 0.0. Nothing is pruned if nothing is to go.",
)
def _(g):
    for first in ("weights", "activations"):
        yield case(g, 15, 12, 16, 14, first, ties=True)
        yield case(g, 12, 7, 9, 5, first, (0.3, 0.5), 0.01, all_differ=False)  # k is 0 for X, and 1 for what W1 makes of it
    inputs = some(g, 9, 14)
    yield case(g, 20, inputs, inputs, 4, "weights", (some(g, 3, 5) + 0.7) / inputs, (0.3, 0.5), all_differ=False)
    (inputs,), sparsity = counts.draw(g, ((50,), (100,)), counts.just_below)
    yield case(g, 9, inputs, 8, 3, "activations", sparsity, (0.3, 0.5), all_differ=False)
    yield case(g, 11, 6, 8, 5, "activations", 0.1, (0.4, 0.6), all_differ=False)  # nothing is pruned
    (tokens, width), level = counts.draw(g, ((25, 8), (20, 10), (16, 25)), counts.just_below)
    yield case(g, tokens, width, width, 5, "weights", (0.3, 0.5), level, all_differ=False)


@order.stage(
    "in half precision, and nothing changed",
    points=1,
    exposes="The matrices have the type that they came in, but norms, thresholds and what W1 makes of X are worked out in float32 or better. The arguments stay as "
    "they are.",
    pure=True,
)
def _(g):
    for first, dtype in (("weights", torch.bfloat16), ("activations", torch.float16)):
        yield case(g, 12, 11, 15, 14, first, dtype=dtype)
    yield case(g, 13, 10, 14, 16, "weights", dtype=torch.float64)
    # norms exceed what float16 can hold; half of what W1 makes is nearly 0, and the threshold above that
    yield case(g, 390, 10, 12, 5, "weights", (0.3, 0.5), (0.65, 0.8), dtype=torch.float16, all_differ=False, size=6000.0)


@order.accepts("one way through, with switches, in float64")
def _(W1, W2, X, sparsity, level, first):
    x, thresholds, pruned = X.double(), [], []
    dense = x
    for i, W in enumerate((W1, W2)):
        seen = dense if first == "activations" else x
        k = int(level * seen.numel())
        t = seen.abs().flatten().kthvalue(k).values.item() if k else 0.0
        thresholds.append(t)
        if first == "activations":
            x = x * (x.abs() > t)
        norm, P = x.square().sum(0).sqrt(), W.clone()
        for row in P:
            row[(row.double().abs() * norm).topk(int(sparsity * W.shape[1]), largest=False).indices] = 0
        pruned.append(P)
        if i == 0:
            x = x @ P.double().T
            x, dense = x / (1 + (-x).exp()), dense @ W1.double().T
            dense = dense * torch.sigmoid(dense)
    return *pruned, *thresholds


@order.accepts("numpy")
def _(W1, W2, X, sparsity, level, first):
    A, B, x = (tensor.double().numpy() for tensor in (W1, W2, X))

    def prune(W, x):
        score = np.abs(W) * np.linalg.norm(x, axis=0)
        P = W.copy()
        k = int(sparsity * W.shape[1])
        np.put_along_axis(P, np.argsort(score, axis=1)[:, :k], 0.0, axis=1)
        return P

    def threshold(x):
        k = int(level * x.size)
        return float(np.partition(np.abs(x), k - 1, axis=None)[k - 1]) if k else 0.0

    def hidden(W, x):
        z = x @ W.T
        return z * np.exp(-np.logaddexp(0, -z))

    t1, H = threshold(x), hidden(A, x)
    t2 = threshold(H)
    if first == "activations":
        x = np.where(np.abs(x) <= t1, 0, x)
    A = prune(A, x)
    H = hidden(A, x)
    if first == "activations":
        H = np.where(np.abs(H) <= t2, 0, H)
    else:
        t2 = threshold(H)
    return torch.from_numpy(A).to(W1.dtype), torch.from_numpy(prune(B, H)).to(W2.dtype), t1, t2
