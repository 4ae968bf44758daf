"""What skipping inputs costs in decoding, without decoding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsity_edu.models.positions import check_length
from sparsity_edu.weights.walk import evaluating


@torch.no_grad()
def decoding_perplexity(model: nn.Module, tokens: Tensor, window: int = 512) -> float:
    """Return the perplexity of what the last half of each window's tokens predict.

    With thresholds applied by prefill="last_half" the first half is read densely and the others skip inputs, all at once; a
    token sees the same keys and values as if it had been decoded after a dense prompt of the first half. So it is the
    perplexity of decoding, at the price of a prompt.

    Args:
        model: a causal language model.
        tokens: ids (tokens,), cut into windows that do not overlap; a shorter rest is left out.
        window: tokens per window, at least 4.

    Returns:
        exp(average negative log-likelihood in nats) over window // 2 - 1 tokens of each window.

    Raises:
        ValueError: `window` is below 4 or above the model's positions, or there is no whole window.
    """
    if window < 4 or len(tokens) < window:
        raise ValueError(f"window must be at least 4 and at most the {len(tokens)} tokens, got {window}")
    check_length(model, window)
    device, losses = next(model.parameters()).device, []
    with evaluating(model):
        for ids in tokens.to(device)[: len(tokens) // window * window].split(window):
            logits = model(input_ids=ids[None], use_cache=False).logits[0, -(window // 2) : -1].float()
            losses.append(F.cross_entropy(logits, ids[-len(logits) :]).item())
    return math.exp(sum(losses) / len(losses))
