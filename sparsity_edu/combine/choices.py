"""Multiple-choice items from a text, scored by likelihood: which sentence comes next?

The form is HellaSwag's, with sentences that people wrote: the true continuation, and continuations of other paragraphs of about
the same length. A choice's score is its log-likelihood per byte, lm-eval's `acc_norm`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from sparsity_edu.models import tokens

SHORTEST, LONGEST = 30, 160  # characters of a choice


@dataclass(frozen=True)
class Item:
    """A beginning, and how it may go on."""

    context: str
    choices: tuple[str, ...]
    right: int


def items(text: str, count: int, choices: int = 4, seed: int = 0) -> list[Item]:
    """Make items of a text.

    Args:
        text: prose in paragraphs, with an empty line between them.
        count: items.
        choices: of each, the right one among them.
        seed: of which paragraphs are taken, and of the order of choices.

    Returns:
        The items; no sentence is the right choice of two.

    Raises:
        ValueError: the text has too few paragraphs of two sentences.
    """
    pairs: dict[str, str] = {}  # contexts by what comes next
    for paragraph in re.split(r"\n\s*\n", text):
        first, *rest = re.split(r"(?<=[.!?])\s+(?=[A-Z`\"'(])", " ".join(paragraph.split()))
        if rest and len(first) >= SHORTEST and SHORTEST <= len(rest[0]) <= LONGEST:
            pairs.setdefault(rest[0], first)
    g = torch.Generator().manual_seed(seed)
    found, sentences = [], sorted(pairs, key=lambda sentence: (len(sentence), sentence))
    order = torch.randperm(len(sentences), generator=g).tolist()
    if len(sentences) < max(count, 3 * choices):
        needed = f"{max(count, 3 * choices)} paragraphs that begin with two sentences"
        raise ValueError(f"text must have {needed}, got {len(sentences)}")
    for i in order[:count]:
        start = min(max(i - choices, 0), len(sentences) - 2 * choices - 1)
        near = [j for j in range(start, start + 2 * choices + 1) if j != i]  # of about the same length
        others = [near[j] for j in torch.randperm(len(near), generator=g)[: choices - 1].tolist()]
        right = int(torch.randint(choices, (), generator=g))
        listed = [sentences[j] for j in others]
        listed.insert(right, sentences[i])
        found.append(Item(pairs[sentences[i]], tuple(listed), right))
    return found


@torch.no_grad()
def answers(model: nn.Module, tokenizer, items: Sequence[Item], *, progress: bool = True) -> list[bool]:
    """Whether a model finds the right choice of each item the likeliest, per byte.

    Args:
        model: a causal language model, in eval mode.
        tokenizer: its tokenizer.
        items: from the function of that name.
        progress: show a progress bar.

    Returns:
        A boolean per item.
    """
    right = []
    for item in tqdm(items, desc="choices", unit="item", leave=None, disable=not progress):
        scores = [
            _log_likelihood(model, tokenizer, item.context, " " + choice) / len(choice.encode()) for choice in item.choices
        ]
        right.append(max(range(len(scores)), key=scores.__getitem__) == item.right)
    return right


def _log_likelihood(model: nn.Module, tokenizer, context: str, choice: str) -> float:
    """log p(choice | context), in nats."""
    before, ids = len(tokens(tokenizer, context)), tokens(tokenizer, context + choice).to(model.device)
    logits = model(input_ids=ids[None], use_cache=False).logits[0, before - 1 : -1].float()
    return -F.cross_entropy(logits, ids[before:], reduction="sum").item()
