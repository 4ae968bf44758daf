"""Mistakes of exercise 17.2, and the right answer that they vary."""

from collections.abc import Callable

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes

mistakes = Mistakes()


def silu(z: Tensor) -> Tensor:
    return z / (1 + torch.exp(-z))


def product(W: Tensor, x: Tensor) -> Tensor:
    """|W| times the norms of its inputs."""
    return W.abs() * x.square().sum(dim=0).sqrt()


def gone(
    W: Tensor, x: Tensor, sparsity: float, *, score: Callable = product, count: Callable = int, per: str = "output"
) -> Tensor:
    """A copy of W without the weights that matter least for these inputs."""
    scores = score(W.double(), x)
    rows = {"output": scores, "matrix": scores.reshape(1, -1), "input": scores.T}[per]
    keep = torch.ones_like(rows, dtype=torch.bool).scatter(1, rows.argsort(dim=1)[:, : count(sparsity * rows.shape[1])], False)
    keep = keep.T if per == "input" else keep.view(W.shape)
    return torch.where(keep, W, 0)


def kth(x: Tensor, level: float, *, size: Callable = torch.abs, count: Callable = int) -> float:
    """The k-th smallest size, k = int(level * count)."""
    k = count(level * x.numel())
    return float(size(x).flatten().sort().values[k - 1]) if k else 0.0


def zeroed(x: Tensor, t: float) -> Tensor:
    return x * (x.abs() > t)


def combined(
    W1: Tensor, W2: Tensor, X: Tensor, sparsity: float, level: float, first: str,
    *,
    act: Callable = silu,
    prune: Callable = gone,
    threshold: Callable = kth,
    small: Callable = zeroed,
    t2_of: Callable = lambda first, dense, pruned, passed: dense if first == "activations" else pruned,
    pruned_on: Callable = lambda x, sparse: sparse,
    hidden_of: Callable = lambda dense, sparse, pruned_sparse: pruned_sparse,
    seen: Callable = lambda h, sparse: sparse,
    which: Callable = lambda first: first,
    cast: Callable = lambda matrix, given: matrix.to(given.dtype),
    exact: Callable = lambda x: x.double(),
) -> tuple[Tensor, Tensor, float, float]:  # fmt: skip
    """With its parts exchangeable, for mistakes in one part."""
    first, x = which(first), exact(X)
    A, B = exact(W1), exact(W2)
    t1 = threshold(x, level)
    sparse = small(x, t1) if first == "activations" else x
    P1 = prune(A, pruned_on(x, sparse), sparsity)
    H = act(hidden_of(x @ A.T, x @ P1.T, sparse @ P1.T))
    t2 = threshold(t2_of(first, act(x @ A.T), act(x @ P1.T), act(small(x, t1) @ P1.T)), level)
    P2 = prune(B, seen(H, small(H, t2) if first == "activations" else H), sparsity)
    return cast(P1, W1), cast(P2, W2), t1, t2


def varied(name: str, says: str, **parts) -> None:
    mistakes(name, says)(lambda *args: combined(*args, **parts))


varied("always weights first", "You ignore `first`: you always prune first.", which=lambda first: "weights")
varied("always activations first", "You ignore `first`: you always take thresholds first.", which=lambda first: "activations")
varied(
    "the other order",
    'You swapped the orders: with first="weights" pruning comes first.',
    which=lambda first: {"weights": "activations", "activations": "weights"}[first],
)
varied(
    "t2 always of the dense model",
    "With weights first you took t2 of what the dense W1 makes. The layers are pruned by then: take what the pruned W1 makes of X.",
    t2_of=lambda first, dense, pruned, passed: dense,
)
varied(
    "t2 always of the pruned model",
    "With activations first you took t2 of what the pruned W1 makes. Thresholds come first: they are of the dense model.",
    t2_of=lambda first, dense, pruned, passed: pruned,
)
varied(
    "t2 of sparse inputs",
    "You took t2 of what comes of X without its small inputs. Thresholds are of what the layers make of all of X.",
    t2_of=lambda first, dense, pruned, passed: passed if first == "activations" else pruned,
)
varied(
    "W2 on what the dense W1 makes",
    "You pruned W2 on what the dense W1 makes of X. It reads what the pruned W1 makes.",
    hidden_of=lambda dense, pruned, sparse: dense,
)
varied(
    "W2 on all inputs of W1",
    "With activations first you pruned W2 on what W1 makes of all of X. Its small inputs are gone by then.",
    hidden_of=lambda dense, pruned, sparse: pruned,
)
varied(
    "W1 on all of X",
    "With activations first you pruned W1 on all of X. Its small inputs are skipped, so they must not count.",
    pruned_on=lambda x, sparse: x,
)
varied(
    "W2 with its small inputs",
    "With activations first you pruned W2 on all that it is given. What is not above t2 is skipped there.",
    seen=lambda h, sparse: h,
)
varied("no silu", "You left out the silu between the layers.", act=lambda z: z)
varied("relu", "You took a ReLU for the silu.", act=torch.relu)
varied("the gate only", "You took the sigmoid for the silu, which is z * sigmoid(z).", act=torch.sigmoid)
varied(
    "over the whole matrix",
    "You ranked all weights of a matrix together. In Wanda those of an output compete with each other only.",
    prune=lambda W, x, s: gone(W, x, s, per="matrix"),
)
varied(
    "by input",
    "You ranked the weights of each input. In Wanda those of an output, a row, compete.",
    prune=lambda W, x, s: gone(W, x, s, per="input"),
)
varied(
    "magnitudes only",
    "You pruned by |W| alone. Wanda multiplies by the norm of the input.",
    prune=lambda W, x, s: gone(W, x, s, score=lambda W, x: W.abs()),
)
varied(
    "signed weights",
    "You ranked signed weights. It is their size that counts.",
    prune=lambda W, x, s: gone(W, x, s, score=lambda W, x: W * x.norm(dim=0)),
)
varied(
    "squared norms",
    "You multiplied |W| by the squared norm. It is |W| times the norm.",
    prune=lambda W, x, s: gone(W, x, s, score=lambda W, x: W.abs() * x.square().sum(dim=0)),
)
varied(
    "mean sizes",
    "You multiplied by the mean size of an input. Wanda takes its norm over tokens.",
    prune=lambda W, x, s: gone(W, x, s, score=lambda W, x: W.abs() * x.abs().mean(dim=0)),
)
varied(
    "the largest go",
    "You pruned the weights with the largest scores.",
    prune=lambda W, x, s: gone(W, x, s, score=lambda W, x: -product(W, x)),
)
varied(
    "weights counted by rounding",
    "You rounded the number of weights that go. int cuts it off.",
    prune=lambda W, x, s: gone(W, x, s, count=round),
)
varied(
    "one weight more",
    "You prune one weight more of each output: it is int(sparsity * inputs).",
    prune=lambda W, x, s: gone(W, x, s, count=lambda n: int(n) + 1),
)
varied(
    "signed inputs",
    "You took the k-th smallest of the signed inputs. It is their size that counts.",
    threshold=lambda x, level: kth(x, level, size=lambda x: x),
)
varied(
    "one place further",
    "Your threshold is one place too far up: it is the k-th smallest, the one at index k - 1.",
    threshold=lambda x, level: kth(x, level, count=lambda n: int(n) + 1),
)
varied(
    "inputs counted by rounding",
    "You rounded the k of the threshold. int cuts it off.",
    threshold=lambda x, level: kth(x, level, count=round),
)
varied(
    "interpolated",
    "You interpolated the quantile. The threshold is one of the inputs' sizes.",
    threshold=lambda x, level: float(x.abs().flatten().quantile(level)),
)
varied(
    "the share that stays",
    "You took `level` for the share that stays.",
    threshold=lambda x, level: kth(x, 1 - level),
)
varied(
    "equal ones stay",
    "You kept inputs that equal the threshold. They are not above it, so they go.",
    small=lambda x, t: x * (x.abs() >= t),
)
varied(
    "signs count",
    "You dropped negative inputs as well. An input goes by its size.",
    small=lambda x, t: x * (x > t),
)
varied("matrices in float32", "Your matrices are float32. They keep their type.", cast=lambda matrix, given: matrix.float())
varied(
    "in half precision",
    "You worked in the type of X. Norms, thresholds and what W1 makes are worked out in float32 or better.",
    exact=lambda x: x,
)


@mistakes("0 of 0 fails", "If k is 0, no input goes, and the threshold is 0.0.")
def _(W1, W2, X, sparsity, level, first):
    if int(level * X.numel()) == 0:
        raise RuntimeError("kthvalue(): selected number k out of range for dimension 0")
    return combined(W1, W2, X, sparsity, level, first)


@mistakes("sparsity and level swapped", "You pruned by `level` and took thresholds by `sparsity`.")
def _(W1, W2, X, sparsity, level, first):
    return combined(W1, W2, X, level, sparsity, first)


@mistakes("masks", "You return what stays. Return the matrices, with zeros.")
def _(*args):
    P1, P2, *thresholds = combined(*args)
    return P1 != 0, P2 != 0, *thresholds


@mistakes("in place", "You pruned the matrices that you were given. Work on copies.")
def _(W1, W2, *others):
    P1, P2, *thresholds = combined(W1, W2, *others)
    return W1.copy_(P1), W2.copy_(P2), *thresholds


@mistakes(
    "weights first, of the dense model",
    "With weights first you pruned W2, and took t2, of what the dense W1 makes. Both are of what the pruned W1 makes.",
)
def _(W1, W2, X, sparsity, level, first):
    t2_of = {"t2_of": lambda first, dense, pruned, passed: dense}
    apart = {"hidden_of": lambda dense, pruned, sparse: dense, **t2_of} if first == "weights" else {}
    return combined(W1, W2, X, sparsity, level, first, **apart)
