"""Which heads and neurons a token needs: what Deja Vu's predictors learn.

Neurons of a ReLU model that are zero need no weights: the label is exact. Of heads, and of neurons behind SiLU or GELU, none is
zero; the label is a rank among them, and how many are needed is chosen, not found.
"""

import torch
from torch import Tensor


def active_neurons(activations: Tensor, share: float | None = None) -> Tensor:
    """Label the neurons that a token needs.

    Args:
        activations: (..., neurons): what ReLU gives, or is given, which has the same sign; with a `share` what the down
            projection reads, of any sign.
        share: None, those above zero (the paper, for ReLU); or the largest int(share * neurons) in size, for models in which
            no neuron is zero.

    Returns:
        Boolean (..., neurons), True = needed.

    Raises:
        ValueError: the share leaves no neuron, or is above 1.

    Source: Liu et al. 2023, Deja Vu, section 4.1 and appendix; the authors' `sp_mlp` data.
    """
    return activations > 0 if share is None else _largest(activations.abs(), share)


def active_heads(outputs: Tensor, share: float = 0.7) -> Tensor:
    """Label the heads that a token needs: those with the largest outputs.

    Args:
        outputs: (..., heads, head_dim), of attention, before the output projection.
        share: int(share * heads) are needed. The authors' default is 0.7; their scripts for OPT-66B have 0.3.

    Returns:
        Boolean (..., heads), True = needed.

    Raises:
        ValueError: the share leaves no head, or is above 1.

    Source: the authors' code: the l2 norm of what each head adds, not its attention weights nor its values.
    """
    return _largest(outputs.float().norm(dim=-1), share)


def chosen(scores: Tensor, k: int) -> Tensor:
    """The k largest of each token's scores.

    Args:
        scores: (..., units).
        k: how many; all, if there are no more.

    Returns:
        Boolean (..., units), True = one of the k.

    Raises:
        ValueError: k is below 1.

    Source: Deja Vu's inference code takes a fixed number of logits, whatever they are: no probability has to exceed 0.5.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    best = scores.topk(min(k, scores.shape[-1]), dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)


def _largest(sizes: Tensor, share: float) -> Tensor:
    count = int(share * sizes.shape[-1]) if 0 < share <= 1 else 0
    if not count:
        raise ValueError(f"share must be of (0, 1] and leave at least one of {sizes.shape[-1]}, got {share}")
    return chosen(sizes, count)
