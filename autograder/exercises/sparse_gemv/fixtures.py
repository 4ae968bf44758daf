"""What the exercises on skipped rows are checked with: inputs on both sides of a threshold, and weights that must not be read."""

import torch
from torch import Tensor

THRESHOLD = 0.3  # its float16 is 0.30004883: a number above the threshold that is not above the rounded one
ROUNDED = torch.tensor(THRESHOLD).half().item()


def large(x: Tensor, threshold: float) -> Tensor:
    """Which inputs count: |x| > threshold in float32. NaN is not above anything."""
    limit = torch.tensor(threshold, dtype=torch.float32)
    return torch.maximum(x.float(), -x.float()) > limit


def wanted(x: Tensor, threshold: float) -> Tensor:
    """Which rows of the weights some token needs, (K,), for x (K,) or (tokens, K)."""
    return large(x, threshold).view(-1, x.shape[-1]).any(dim=0)


def inputs(g: torch.Generator, *shape: int, threshold: float = THRESHOLD, live: float = 0.5) -> Tensor:
    """float16, of either sign; a share `live` is clearly above the threshold, the others are clearly below."""
    above = torch.rand(*shape, generator=g) < live
    above[..., 0], above[..., 2], above[..., -1] = True, False, True  # some of each; the last row is not lost unseen
    sign = torch.randint(0, 2, shape, generator=g) * 2 - 1
    u = torch.rand(*shape, generator=g)
    return (sign * threshold * torch.where(above, 1.25 + 2 * u, 0.8 * u)).half()


def edges(x: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """The same inputs, some of them hard to decide: at the threshold, between it and its float16, NaN (of several tokens, the
    last has a large input beside it), zero."""
    x = x.clone()
    h = torch.tensor(threshold).half().item()
    for i, value in enumerate((h, -h, float("nan"), 0.0, -0.0)):
        x[..., 1 + 2 * i] = value
    if len(x.view(-1, x.shape[-1])) > 1:
        x[-1, 5] = 2 * threshold
    return x


def weights(g: torch.Generator, *shape: int) -> Tensor:
    """float16, of either sign, none close to zero."""
    sign = torch.randint(0, 2, shape, generator=g) * 2 - 1
    return (sign * (0.25 + torch.rand(*shape, generator=g))).half()


def faint(v: Tensor) -> Tensor:
    """Of the same signs, as small as a float16 can be; zeros stay. Sums of them are exact."""
    return v.sign() * 2.0**-24


def poisoned(W: Tensor, kept: Tensor) -> Tensor:
    """The same weights with infinities and NaN in the rows that are not kept."""
    W = W.clone()
    W[~kept] = torch.tensor([float("inf"), float("nan"), float("-inf")]).half().repeat(W.shape[1])[: W.shape[1]]
    return W


def product(W: Tensor, x: Tensor, threshold: float) -> Tensor:
    """W^T x for the inputs that count, float64 (tokens, N) or (N,); rows that are skipped may hold anything."""
    kept = wanted(x, threshold)
    return torch.where(large(x, threshold), x, 0).double() @ torch.where(kept[:, None], W, 0).double()


def eighths(x: Tensor) -> Tensor:
    """Rounded to multiples of 1/8: sums of products that stay below 2^18 are exact in float32, in any order."""
    return (8 * x).round() / 8
