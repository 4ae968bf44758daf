"""Exercise 16.2: which rows count."""

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.sparse_gemv.fixtures import ROUNDED, THRESHOLD, edges, inputs, wanted
from autograder.inside.case import call


def rows_to_read(x: Tensor, threshold: float) -> Tensor:
    return wanted(x, threshold)


rows = Exercise(
    "sparse_gemv.rows",
    defines="rows_to_read",
    title="Which rows count",
    minutes=8,
    difficulty=1,
    hints=(
        "Compare the magnitude of each input with the threshold, then ask for each row whether any token needs it.",
        "Convert x to float32 before you compare: otherwise torch rounds the threshold to the dtype of x. A strict `>` is "
        "false for NaN by itself. Tokens are dimension 0.",
        "`x.float().abs() > threshold` is (tokens, K); the answer is its `.any(dim=0)`.",
    ),
    reference=rows_to_read,
)


@rows.stage(
    "large inputs of one token",
    points=1,
    exposes="bool (K,): True where the magnitude of the input exceeds the threshold. -0.9 is as large as 0.9.",
)
def _(g):
    yield call(inputs(g, 1, 12, threshold=0.5), 0.5)
    yield call(inputs(g, 1, 40).float(), THRESHOLD)


@rows.stage(
    "a row that any token needs",
    points=1,
    exposes="A row is read once for all tokens, so it is read if at least one of them has a large input there.",
)
def _(g):
    yield call(inputs(g, 3, 14, live=0.3), THRESHOLD)
    yield call(inputs(g, 8, 50, threshold=1.5, live=0.1), 1.5)
    yield call(inputs(g, 7, 1100, live=0.05), THRESHOLD)


@rows.stage(
    "close to the threshold",
    points=1,
    exposes="Strictly larger, compared in float32. The float16 next to 0.3 is 0.30004883, which is larger than 0.3. NaN is larger than nothing and hides nothing, and "
    "with a threshold of 0 only zeros are left out.",
    pure=True,
)
def _(g):
    x = inputs(g, 2, 16)
    x[:, 2:6] = torch.tensor([ROUNDED, -ROUNDED, float("nan"), 0.0]).half()
    x[1, 4] = 1.0  # beside a NaN
    yield call(x, ROUNDED)
    yield call(x, THRESHOLD)
    yield call(edges(inputs(g, 1, 20), 0.25), 0.25)
    yield call(edges(inputs(g, 1, 20, threshold=0.1)).bfloat16(), 0.1)
    yield call(torch.tensor([[0.25, 0.25 + 2**-25, 0.25 - 2**-26, -0.25, -0.25 - 2**-25]]), 0.25)  # neighbours in float32
    t = 2.0 ** -int(torch.randint(70, 100, (), generator=g))  # all magnitudes that the dtype has, small and large
    yield call(torch.tensor([[t, -t, t * (1 + 2**-23), -t * (1 + 2**-23), t * (1 - 2**-24), 0.0, 1.0, 0.5 * t]]), t)
    yield call(torch.tensor([[1e38, -3e38, 2.5e38, -2.5e38, float("-inf"), 1.0]]), 2e38)
    yield call(torch.tensor([[1e-38, 0.0, -1e-30, 0.0, 1e30, -0.0]]).bfloat16(), 0.0)
    yield call(torch.tensor([[0.0, -0.0, 6e-8, -1.0, float("inf")]]).half(), 0.0)


def mistaken(name: str, says: str, wrong):
    rows.misconception(name, says)(wrong)


mistaken(
    "no magnitude",
    "You compare the inputs themselves. A negative input counts by its magnitude: `.abs()`.",
    lambda x, t: (x.float() > t).any(0),
)
mistaken(
    "at the threshold",
    "You also keep inputs that equal the threshold. It has to be exceeded: `>`.",
    lambda x, t: (x.float().abs() >= t).any(0),
)
mistaken(
    "threshold rounded",
    "You compare in the type of x, and torch rounds the threshold to it first: 0.3 becomes 0.30004883 in float16. Convert x with `.float()` before comparing.",
    lambda x, t: (x.abs() > t).any(0),
)
mistaken(
    "inputs rounded",
    "What is only just above the threshold is lost. x may be float32: compare without a margin, and without rounding x to float16.",
    lambda x, t: (x.half().float().abs() > t).any(0),
)
mistaken(
    "not below",
    "You keep what is not below the threshold, and that is true of NaN. NaN is larger than nothing: ask for `>`.",
    lambda x, t: (~(x.float().abs() <= t)).any(0),
)
mistaken(
    "large in every token",
    "You keep the rows that every token needs. A row is needed if any token needs it: `.any(dim=0)`.",
    lambda x, t: (x.float().abs() > t).all(0),
)
mistaken(
    "mean over tokens",
    "You compare the mean over tokens. One token with a large input needs the row, whatever the others have.",
    lambda x, t: x.float().abs().mean(0) > t,
)
mistaken(
    "sum over tokens",
    "You add the tokens up before you compare: two small inputs are no large one, and two of opposite sign are not small.",
    lambda x, t: x.float().sum(0).abs() > t,
)
mistaken(
    "largest over tokens, then magnitude",
    "You take the largest input over tokens first and its magnitude after that: a large negative input is lost beside a positive one.",
    lambda x, t: x.float().amax(0).abs() > t,
)
mistaken(
    "largest magnitude",
    "You take the largest magnitude over tokens, and where one token has NaN that is NaN: another token's large input is lost. Compare first, then `.any(dim=0)`.",
    lambda x, t: x.float().abs().amax(0) > t,
)
mistaken("first token", "You look at the first token only. Any of them can need a row.", lambda x, t: x[0].float().abs() > t)
mistaken(
    "a mask for each token",
    "You give a mask for each token, (tokens, K). A row is read once for all of them: one mask (K,).",
    lambda x, t: x.float().abs() > t,
)
mistaken(
    "a dimension too many",
    "Your mask still has the dimension of the tokens, (1, K). It is (K,): `.any(dim=0)` without `keepdim`.",
    lambda x, t: (x.float().abs() > t).any(0, keepdim=True),
)
mistaken(
    "rows to skip",
    "Your mask is True where a row is skipped. True means that it is read.",
    lambda x, t: ~wanted(x, t),
)
mistaken(
    "indices",
    "You give the numbers of the rows. What is asked for is a mask, bool (K,).",
    lambda x, t: wanted(x, t).nonzero().squeeze(1),
)
mistaken("a mask of numbers", "Your mask holds numbers. It has to be bool.", lambda x, t: wanted(x, t).float())


@rows.accepts("by the largest magnitude")
def _(x, threshold):
    return x.float().abs().nan_to_num(0.0, posinf=float("inf")).max(dim=0).values > threshold


@rows.accepts("both sides apart, token by token")
def _(x, threshold):
    mask = torch.zeros(x.shape[1], dtype=torch.bool)
    for token in x.double():
        mask |= (token > threshold) | (token < -threshold)
    return mask


@rows.accepts("loops over Python numbers")
def _(x, threshold):
    return torch.tensor([any(abs(v) > threshold for v in column) for column in x.T.tolist()])
