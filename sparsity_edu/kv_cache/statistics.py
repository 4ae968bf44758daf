"""How sparse attention is, measured on a model: few keys hold nearly all of the mass, and the same few again and again.

    share    of the keys that a query sees, how many hold 95 % of its mass
    small    how many weights are below 1 % of the query's largest
    scores   what each key got from all queries; sorted, they fall like a power of the rank

Probabilities are made some queries at a time, so a text of 8k tokens needs no matrix of 8k x 8k.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sparsity_edu.kv_cache.attention import probabilities
from sparsity_edu.kv_cache.full import FullLayer
from sparsity_edu.kv_cache.policy import PolicyCache, attending


@dataclass(frozen=True)
class AttentionStatistics:
    """By layer and query head, means over queries and texts, float32."""

    share: Tensor  # (layers, heads): of the keys a query sees, the fewest that hold the wanted mass
    small: Tensor  # (layers, heads): of the weights, those below the threshold
    scores: Tensor  # (layers, heads, tokens): the sum of the probabilities that each key got, the mean over texts


def keys_for_mass(p: Tensor, mass: float = 0.95) -> Tensor:
    """The fewest keys that together hold a mass.

    Args:
        p: probabilities (..., n).
        mass: in (0, 1].

    Returns:
        int64 (...).

    Raises:
        ValueError: `mass` is not in (0, 1].
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass must be in (0, 1], got {mass}")
    held = p.sort(dim=-1, descending=True).values.cumsum(dim=-1)
    return ((held < mass).sum(dim=-1) + 1).clamp(max=p.shape[-1])


def small_weights(p: Tensor, threshold: float = 0.01) -> Tensor:
    """How many weights of each query are below a share of its largest.

    Args:
        p: probabilities (..., n).
        threshold: share of the largest.

    Returns:
        int64 (...); keys that the query does not see count.

    Source: Zhang et al. 2023, "H2O", sec. 3.1: attention is over 95 % sparse at 1 % of the largest weight.
    """
    return (p < threshold * p.amax(dim=-1, keepdim=True)).sum(dim=-1)


def power_law(scores: Tensor) -> tuple[Tensor, Tensor]:
    """How sorted scores fall: the line through log(score) over log(rank), by least squares.

    Args:
        scores: (..., n), at least two of them positive; others are left out.

    Returns:
        The slope, and the share of the variance of log(score) that the line explains (R^2), (...) each.

    Source: Zhang et al. 2023, sec. 3.2: accumulated scores follow a power law.
    """
    y = scores.double().sort(dim=-1, descending=True).values
    there = y > 0
    x = torch.arange(1, y.shape[-1] + 1, device=y.device).double().log().expand(y.shape)
    y = y.clamp(min=torch.finfo(y.dtype).tiny).log()
    n = there.sum(dim=-1, keepdim=True)
    x, y = ((z - (z * there).sum(dim=-1, keepdim=True) / n) * there for z in (x, y))
    slope = (x * y).sum(dim=-1) / (x * x).sum(dim=-1)
    return slope.float(), (slope**2 * (x * x).sum(dim=-1) / (y * y).sum(dim=-1)).float()


class StatisticsLayer(FullLayer):
    """A full cache that counts what its queries attend to."""

    def __init__(self, mass: float, threshold: float, first: int, every: int) -> None:
        self.mass, self.threshold, self.first, self.every = mass, threshold, first, every
        super().__init__()

    def attend(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **kwargs) -> Tensor:
        heads, n = query.shape[1], keys.shape[2]
        self.scores = torch.zeros(heads, n, device=keys.device)
        self.share, self.small = torch.zeros(heads, device=keys.device), torch.zeros(heads, device=keys.device)
        queries = 0
        for start, p in probabilities(query, keys, kwargs["scaling"]):
            p, end = p[0], start + p.shape[2]  # (heads, rows, n)
            self.scores += p.sum(dim=1)
            at = torch.arange(start, end, device=keys.device)
            wanted = (at >= self.first) & (at % self.every == 0)
            p, sees = p[:, wanted], (at[wanted] + 1).float()  # query i sees i + 1 keys
            self.share += (keys_for_mass(p, self.mass) / sees).sum(dim=1)
            self.small += ((small_weights(p, self.threshold) - (n - sees)) / sees).sum(dim=1)
            queries += len(sees)
        self.share, self.small = self.share / queries, self.small / queries
        return super().attend(module, query, keys, values, mask, **kwargs)


@torch.no_grad()
def measure(
    model: nn.Module,
    windows: Tensor,
    mass: float = 0.95,
    threshold: float = 0.01,
    first: int = 0,
    every: int = 1,
    progress: bool = True,
) -> AttentionStatistics:
    """Measure a model on texts, one at a time.

    Args:
        model: a `transformers` decoder; run in eval mode.
        windows: token ids (texts, tokens).
        mass: that `share` counts keys for.
        threshold: of `small`, a share of the largest weight of a query.
        first: the first query that counts for `share` and `small`; early ones see few keys.
        every: take only each so-manieth query for these two: sorting is what takes time.
        progress: show a progress bar over the texts.

    Returns:
        The statistics.

    Raises:
        ValueError: there is no text, or no query that counts.
    """
    if windows.ndim != 2 or not 0 <= first < windows.shape[1] or not len(windows):
        raise ValueError(f"windows must be (texts, tokens) with more tokens than first, {first}, got {tuple(windows.shape)}")
    if every < 1 or -(-first // every) * every >= windows.shape[1]:
        raise ValueError(f"every must leave a query of {windows.shape[1]} from {first} on, got {every}")
    found: list[AttentionStatistics] = []
    was_training = model.training
    model.eval()
    try:
        with attending(model):
            for ids in tqdm(windows, desc="attention", unit="text", disable=not progress):
                cache = PolicyCache(partial(StatisticsLayer, mass, threshold, first, every))
                model(input_ids=ids[None].to(model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
                columns = ([getattr(layer, name).cpu() for layer in cache.layers] for name in ("share", "small", "scores"))
                found.append(AttentionStatistics(*map(torch.stack, columns)))
    finally:
        model.train(was_training)
    means = (torch.stack([getattr(one, name) for one in found]).mean(dim=0) for name in ("share", "small", "scores"))
    return AttentionStatistics(*means)
