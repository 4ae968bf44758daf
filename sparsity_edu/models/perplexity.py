"""How well a causal language model predicts a text: perplexity per token and bits per byte."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsity_edu.models.positions import check_length


def tokens(tokenizer, text: str, count: int | None = None) -> Tensor:
    """Return the first tokens of a text, without the special tokens a tokenizer may add around it.

    Args:
        tokenizer: a Hugging Face tokenizer.
        text: the text.
        count: how many tokens to return; all of them if left out.

    Returns:
        Token ids, int64 of shape (count,).

    Raises:
        ValueError: the text has fewer than `count` tokens.
    """
    # verbose=False: a text longer than the model's context is no mistake here, it is cut into windows later.
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if count is not None and not 0 < count <= len(ids):
        raise ValueError(f"count must be from 1 to the text's {len(ids)} tokens, got {count}")
    return torch.tensor(ids[:count], dtype=torch.int64)


def mean_loss(model: nn.Module, tokens: Tensor, window: int = 512, *, progress: bool = True) -> float:
    """Return the average negative log-likelihood per predicted token in nats; see `perplexity` for what is averaged."""
    if tokens.dim() != 1 or tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"tokens must be a 1-D integer tensor, got {tokens.dtype} of shape {tuple(tokens.shape)}")
    if len(tokens) < 2:
        raise ValueError(f"tokens must hold at least 2 tokens, got {len(tokens)}")
    if window < 2:
        raise ValueError(f"window must be at least 2, got {window}")
    check_length(model, min(window, len(tokens)))
    from tqdm.auto import tqdm

    device = next(model.parameters()).device
    windows = [part for part in tokens.to(device, torch.int64).split(window) if len(part) > 1]
    was_training, total = model.training, 0.0
    model.eval()
    try:
        with torch.inference_mode():
            for ids in tqdm(windows, desc="perplexity", unit="window", delay=2, leave=False, disable=not progress):
                logits = model(input_ids=ids[None]).logits[0, :-1].float()  # (tokens - 1, vocabulary)
                total += F.cross_entropy(logits, ids[1:], reduction="sum").item()  # -sum_i log p(x_i | x_<i)
    finally:
        model.train(was_training)
    return total / sum(len(part) - 1 for part in windows)


def perplexity(model: nn.Module, tokens: Tensor, window: int = 512, *, progress: bool = True) -> float:
    """Return exp(average negative log-likelihood in nats) of a token sequence cut into windows.

    The sequence is cut into consecutive windows that do not overlap, and each is read on its own. The average is over
    all predicted tokens: every token but the first of its window, which has nothing to be predicted from. A shorter last
    window counts with the tokens it has (a single left-over token is not predicted). So 16 windows of 512 tokens average
    over 16 * 511 = 8176 predictions. A shorter window gives a higher perplexity: compare equal windows only.

    Args:
        model: a causal language model whose output has `.logits`; it is left in the mode (train or eval) it was in.
        tokens: token ids, integers of shape (tokens,), at least 2.
        window: tokens per window, from 2 to the model's positions.
        progress: show a progress bar if it takes more than two seconds.

    Returns:
        The perplexity, at least 1. A broken model gives inf or nan.

    Raises:
        ValueError: `tokens` is not 1-D, not integers or too short, or `window` is below 2 or above the model's positions.
    """
    try:
        return math.exp(mean_loss(model, tokens, window, progress=progress))
    except OverflowError:  # an average above 709 nats
        return math.inf


def bits_per_byte(model: nn.Module, tokenizer, text: str, window: int = 512, *, progress: bool = True) -> float:
    """Return how many bits the model needs per byte of UTF-8 text, which compares models with different tokenizers.

    (average negative log-likelihood per predicted token / ln 2) * (tokens of the text / bytes of the text)

    The average is that of `perplexity`: a window's first token, which is not predicted, is charged the average.

    Args:
        model: a causal language model whose output has `.logits`.
        tokenizer: its tokenizer.
        text: the text, at least 2 tokens long.
        window: tokens per window, from 2 to the model's positions.
        progress: show a progress bar if it takes more than two seconds.

    Returns:
        Bits per byte, at least 0; text compressed by a good general-purpose packer needs about 2.

    Raises:
        ValueError: the text has fewer than 2 tokens, or `window` is below 2 or above the model's positions.
    """
    ids = tokens(tokenizer, text)
    bits = mean_loss(model, ids, window, progress=progress) / math.log(2)
    return bits * len(ids) / len(text.encode())
