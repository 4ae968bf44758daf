"""Keys, queries, scores and bounds that the exercises of unit 11 work on."""

import torch
from torch import Tensor


def drawn(g: torch.Generator, low: int, high: int) -> int:
    """A whole number from low to high."""
    return int(torch.randint(low, high + 1, (), generator=g))


def some_keys(g: torch.Generator, heads: int, tokens: int, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(heads, tokens, dim): every channel has a mean of its own, so that some have one sign throughout, and a zero shows."""
    means = torch.linspace(-4, 4, dim)[torch.stack([torch.randperm(dim, generator=g) for _ in range(heads)])]
    return (torch.randn(heads, tokens, dim, generator=g) + means[:, None]).to(dtype)


def bounds_of(keys: Tensor, page: int) -> tuple[Tensor, Tensor]:
    """The smallest and the largest key of each page, (heads, pages, dim) each."""
    pages = keys.split(page, dim=1)
    return torch.stack([p.amin(dim=1) for p in pages], dim=1), torch.stack([p.amax(dim=1) for p in pages], dim=1)


def some_scores(g: torch.Generator, heads: int, pages: int, last: str = "any") -> Tensor:
    """(heads, pages) float32, no two of a row closer than 0.05; the last page has the "least" or the "most", or any of them."""
    ranks = torch.stack([torch.randperm(pages, generator=g) for _ in range(heads)])
    if last != "any":
        wanted = 0 if last == "least" else pages - 1
        ranks = torch.where(ranks == wanted, ranks[:, -1:], ranks)
        ranks[:, -1] = wanted
    return 0.1 * (ranks - pages / 2) + 0.05 * torch.rand(heads, pages, generator=g)


def some_pages(g: torch.Generator, heads: int, pages: int, count: int) -> Tensor:
    """(heads, count): for each head so many of the pages, ascending."""
    return torch.stack([torch.randperm(pages, generator=g)[:count].sort().values for _ in range(heads)])
