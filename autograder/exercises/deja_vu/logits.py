"""Exercise 13.2: the predictor."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.deja_vu.fixtures import normal
from autograder.inside.case import Case, call

HUGE = {torch.float32: 1e25, torch.float64: 1e200}  # the square is infinite


def reference(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return torch.einsum("tr,ur->tu", torch.einsum("ti,ri->tr", x.double(), A.double()), B.double()).to(x.dtype)


logits = Exercise(
    "deja_vu.logits",
    defines="predict",
    title="The predictor",
    minutes=5,
    difficulty=1,
    hints=(
        "Two matrix products, one after the other, and nothing else. Which of them comes first says what it costs.",
        "Each token times the narrow matrix first: that gives rank numbers, of which the second makes one for each unit. "
        "Neither has a bias, and nothing stands between them.",
        "`F.linear(F.linear(x, A), B)`, or `(x @ A.T) @ B.T`, with the brackets where they are.",
    ),
    reference=reference,
)


def case(g: torch.Generator, tokens: int, inputs: int, rank: int, units: int, *, size=1.0, dtype=torch.float32, **more) -> Case:
    x, A = 0.4 + normal(g, tokens, inputs), normal(g, rank, inputs, size=inputs**-0.5)
    return call(size * x.to(dtype), A.to(dtype), normal(g, units, rank, size=rank**-0.5).to(dtype), **more)


def infinite(
    g: torch.Generator, tokens: int, inputs: int, rank: int, units: int, *, tiny=False, dtype: torch.dtype = torch.float32
) -> Case:
    """B A has infinite entries, where no token has anything, or so little that its logits are finite."""
    made = case(g, tokens, inputs, rank, units, dtype=dtype)
    x, A, B = made.args
    huge = HUGE[dtype]
    x[:, 1], A[2], A[2, 1], B[:, 2] = 1 / huge if tiny else 0, 0, huge, huge
    return made


@logits.stage(
    "two products",
    points=1,
    exposes="The logits are B (A x) for each token: no bias, no activation between the two, and none behind them.",
)
def _(g):
    yield case(g, 1, 9, 4, 6)
    yield case(g, 5, 7, 3, 11)
    yield case(g, 4, 6, 9, 5)
    yield case(g, 200, 8, 5, 7)
    yield case(g, 6, 7, 4, 9, dtype=torch.float64)
    yield case(g, 3, 300, 40, 130, size=30.0)
    yield case(g, 4, 8, 3, 6, size=1e60, dtype=torch.float64)  # float32 has no such number


@logits.stage(
    "never the product of the matrices",
    points=1,
    exposes="A predictor of low rank is cheap because B A is never made. Here some of its entries would be infinite.",
)
def _(g):
    yield infinite(g, 6, 9, 4, 7)
    yield infinite(g, 1, 5, 3, 8)
    yield infinite(g, 5, 7, 3, 6, dtype=torch.float64)  # nor made in float64, where that of float32 is finite
    yield infinite(g, 50, 6, 9, 5)  # nor where it would be the cheaper way
    yield infinite(g, 4, 6, 3, 7, tiny=True)


@logits.stage(
    "gradients reach the weights",
    points=1,
    exposes="Both matrices are trained, and a gradient can reach the hidden states. The arguments stay as they are.",
    pure=True,
)
def _(g):
    yield case(g, 5, 6, 3, 8, gradients=(0, 1, 2))
    yield case(g, 4, 7, 5, 3, gradients=(1, 2))


def wrong(name: str, says: str):
    return logits.misconception(name, says)


wrong("ReLU between", "You put ReLU between the layers. Deja Vu's predictor has nothing there: it is one matrix of low rank.")(
    lambda x, A, B: F.linear(F.linear(x, A).relu(), B)
)
wrong("GELU between", "You put GELU between the layers. Deja Vu's predictor has nothing there.")(
    lambda x, A, B: F.linear(F.gelu(F.linear(x, A)), B)
)
wrong("tanh between", "You put tanh between the layers. Deja Vu's predictor has nothing there.")(
    lambda x, A, B: F.linear(F.linear(x, A).tanh(), B)
)
wrong("a norm between", "You normed what is between the layers. Deja Vu's predictor has nothing there.")(
    lambda x, A, B: F.linear(F.layer_norm(F.linear(x, A), (len(A),)), B)
)
wrong("probabilities", "You return probabilities. The loss and the choice work on logits: no sigmoid behind.")(
    lambda x, A, B: F.linear(F.linear(x, A), B).sigmoid()
)
wrong("softmax", "You return a softmax over the units. Several units are needed at once, so each has a logit of its own.")(
    lambda x, A, B: F.linear(F.linear(x, A), B).softmax(dim=-1)
)
wrong("ReLU behind", "You put ReLU behind the second layer. A unit that is not needed has a negative logit.")(
    lambda x, A, B: F.linear(F.linear(x, A), B).relu()
)
wrong("x normed", "You normed the hidden states first. The predictor reads them as they are, before any norm.")(
    lambda x, A, B: F.linear(F.linear(F.rms_norm(x, x.shape[-1:]), A), B)
)
wrong("as in LoRA", "You divided by the rank, as LoRA's scale does. There is no scale here.")(
    lambda x, A, B: F.linear(F.linear(x, A), B) / len(A)
)
wrong("mean over tokens", "You predict from the mean of all tokens. Each token has a prediction of its own.")(
    lambda x, A, B: F.linear(F.linear(x.mean(dim=0, keepdim=True), A), B).expand(len(x), -1).clone()
)
wrong("of the mean", "You subtracted each token's mean. The predictor reads hidden states as they are.")(
    lambda x, A, B: F.linear(F.linear(x - x.mean(dim=-1, keepdim=True), A), B)
)
wrong("choices", "You return which logits are positive. Return the logits: they are trained, and the largest are chosen.")(
    lambda x, A, B: F.linear(F.linear(x, A), B) > 0
)


@wrong(
    "B A made in float64",
    "You multiplied B and A in float64, where nothing overflows. Their product is never made: each token by A, then by B.",
)
def _(x, A, B):
    return F.linear(x.double(), B.double() @ A.double()).to(x.dtype)


@wrong(
    "float64 by way of float32",
    "You work in float32 and turn the result into float64. Numbers that float32 cannot hold are lost on the way.",
)
def _(x, A, B):
    return F.linear(F.linear(x.float(), A.float()), B.float()).to(x.dtype)


wrong("always float32", "You return float32 for float64. Logits have the dtype of what comes in.")(
    lambda x, A, B: F.linear(F.linear(x, A), B).float()
)


@wrong(
    "B A made first",
    "You multiplied B and A first. That is a matrix as large as the layer that the predictor is there to avoid: multiply "
    "each token by A, then by B.",
)
def _(x, A, B):
    return F.linear(x, B @ A)


@wrong(
    "no gradient",
    "The values are right, but no gradient reaches the weights: detach(), .data or torch.no_grad() cuts it off, and nothing "
    "is learned.",
)
def _(x, A, B):
    return F.linear(F.linear(x, A.detach()), B.detach()) + 0 * (x.sum() + A[A.abs() < 9].sum() + B[B.abs() < 9].sum())


@wrong(
    "only the second layer trains",
    "A gradient reaches B, and none reaches A. Both layers are trained.",
)
def _(x, A, B):
    return F.linear(F.linear(x, A).detach(), B)


@logits.accepts("brackets")
def _(x, A, B):
    return (x @ A.T) @ B.T


@logits.accepts("two layers without bias in a row")
def _(x, A, B):
    model = torch.nn.Sequential(
        torch.nn.Linear(A.shape[1], A.shape[0], bias=None), torch.nn.Linear(B.shape[1], B.shape[0], bias=None)
    )
    return torch.func.functional_call(model, {"0.weight": A, "1.weight": B}, (x,))


@logits.accepts("all in columns")
def _(x, A, B):
    return B.matmul(A.matmul(x.mT)).mT.contiguous()


@logits.accepts("token by token")
def _(x, A, B):
    return torch.stack([torch.mv(B, torch.mv(A, token)) for token in x])
