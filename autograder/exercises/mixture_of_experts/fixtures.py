"""Logits, choices and layers that the exercises of unit 08 work on."""

import torch
from torch import Tensor


def logits(g: torch.Generator, *shape: int, spread: float = 1.0, gap: float = 0.02) -> Tensor:
    """(..., E) router logits of which no two of a token are closer than `gap`: no rounding decides who is chosen.

    Some experts are liked by most tokens, as in a router that nobody has balanced, and each token has a constant of its own.
    """
    E = shape[-1]
    z = spread * (torch.randn(shape, generator=g) + 0.5 * torch.randn(E, generator=g))
    ascending, order = z.sort(dim=-1)
    apart = torch.empty_like(z).scatter_(-1, order, ascending + gap * torch.arange(E))
    return apart + torch.randn(*shape[:-1], 1, generator=g)


def choices(g: torch.Generator, *shape: int, n_experts: int, favour: float = 0.7) -> Tensor:
    """(..., tokens, k) different experts for each token, the best first; unevenly liked, and the last one by nobody."""
    liked = favour * torch.randn(n_experts, generator=g)
    liked[-1] = -torch.inf
    z = liked + torch.randn(*shape[:-1], n_experts, generator=g)
    return z.topk(shape[-1], dim=-1).indices


def dropped(g: torch.Generator, *shape: int, share: float = 0.3) -> Tensor:
    """(tokens, k) which choices found room; the last token lost all, and another one."""
    kept = torch.rand(shape, generator=g) > share
    kept[-1] = False
    kept[int(torch.randint(len(kept), (), generator=g))] = False
    return kept


def layer(
    g: torch.Generator,
    sequences: int,
    tokens: int,
    d: int,
    f: int,
    E: int,
    *,
    k: int = 2,
    relu: bool = False,
    blind: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (sequences, tokens, d), router (E, d), up (E, 2f or f, d) and down (E, d, f): no token is in doubt whom to choose.

    Experts are liked unevenly, and the last one by nobody. With `blind`, the router does not see feature 1, which is 0 in x.
    """
    router = torch.randn(E, d, generator=g) / d**0.5
    router[:, 0] += 0.5 * torch.randn(E, generator=g)
    router[-1, 0] = -20.0
    router[:, 1] *= not blind

    def some(count: int) -> Tensor:
        x = torch.randn(count, d, generator=g)
        x[:, 0] = 1 + 0.2 * torch.rand(count, generator=g)
        x[:, 1] *= not blind
        return x

    x = some(sequences * tokens)
    while (doubtful := in_doubt(x, router, k)).any():
        x[doubtful] = some(int(doubtful.sum()))
    up = torch.randn(E, (2 - relu) * f, d, generator=g) / d**0.5
    down = torch.randn(E, d, f, generator=g) / f**0.5
    return x.view(sequences, tokens, d), router, up, down


def in_doubt(x: Tensor, router: Tensor, k: int) -> Tensor:
    """(tokens,) whether two of the k + 1 best experts are so close that rounding could decide."""
    best = (x.double() @ router.double().T).topk(min(k + 1, len(router)), dim=-1).values
    return (best[:, :-1] - best[:, 1:]).amin(dim=-1) < 1e-3
