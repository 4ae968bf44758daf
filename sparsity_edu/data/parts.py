"""Problems that fall apart into simple ones, for mixtures of experts: vowels, and a line of four pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsity_edu.data.small import ClassificationData

VOWELS = ("i", "ɪ", "ɛ", "æ", "ɑ", "ɔ", "ʊ", "u", "ʌ", "ɝ")  # as in heed, hid, head, had, hod, hawed, hood, who'd, hud, heard
MEAN_FORMANTS = {  # Hz, F1 and F2 of each vowel, from Peterson and Barney 1952, table II
    "men": (
        (270, 390, 530, 660, 730, 570, 440, 300, 640, 490),
        (2290, 1990, 1840, 1720, 1090, 840, 1020, 870, 1190, 1350),
    ),
    "women": (
        (310, 430, 610, 860, 850, 590, 470, 370, 760, 500),
        (2790, 2480, 2330, 2050, 1220, 920, 1160, 950, 1400, 1640),
    ),
    "children": (
        (370, 530, 690, 1010, 1030, 680, 560, 430, 850, 560),
        (3200, 2730, 2610, 2320, 1370, 1060, 1410, 1170, 1590, 1820),
    ),
}
SPEAKERS = {"men": 33, "women": 28, "children": 15}  # who each said every vowel twice
SPREAD = 0.08  # a choice of ours: the table has means alone

# Where a piece of the line ends, its slope, its value at 0
PIECES = ((-0.5, 4.0, 3.0), (0.0, -2.0, 0.0), (0.5, 2.0, -1.0), (1.0, -3.0, 2.5))


class PiecewiseData(NamedTuple):
    """Samples of a line that is made of pieces."""

    inputs: Tensor  # (samples, 1), float32
    targets: Tensor  # (samples, 1), float32
    pieces: Tensor  # (samples,) int64, which piece a sample is from


def vowels(names: Sequence[str] = ("i", "ɪ", "ɑ", "ʌ"), spread: float = SPREAD, seed: int = 0) -> ClassificationData:
    """Draw vowels of 76 speakers around the published mean formants: which vowel was it?

    Each speaker says each vowel twice. A formant is the mean of its vowel among men, women or children, times 1 + spread * n
    with a standard normal n. The default vowels are the four of the first mixture of experts: two pairs that are easy to tell
    from each other, and hard to tell apart within. Standardise the inputs before you train on them.

    Args:
        names: of the vowels, from `VOWELS`; their order gives the labels.
        spread: relative standard deviation of a formant, at least 0.
        seed: of the draw, and of who is for training.

    Returns:
        First and second formant in kHz as inputs (samples, 2). 50 speakers are for training and 26 others for testing.

    Raises:
        ValueError: a vowel is unknown or named twice, or `spread` is negative.

    Source: Peterson and Barney 1952, "Control methods used in a study of the vowels", table II; Jacobs et al. 1991, "Adaptive
        mixtures of local experts", whose 75 speakers were real ones.
    """
    if not names or not set(names) <= set(VOWELS) or len(set(names)) < len(names):
        raise ValueError(f"names must be different ones of {', '.join(VOWELS)}, got {', '.join(map(str, names))}")
    if not spread >= 0:
        raise ValueError(f"spread must be at least 0, got {spread}")
    generator = torch.Generator().manual_seed(seed)
    table = torch.tensor([MEAN_FORMANTS[group] for group in SPEAKERS]) / 1000  # (groups, 2, vowels), kHz
    mean = table[:, :, [VOWELS.index(name) for name in names]].transpose(1, 2)  # (groups, names, 2)
    group = torch.repeat_interleave(torch.arange(len(SPEAKERS)), torch.tensor(list(SPEAKERS.values())))  # (speakers,)
    mean = mean[group][:, :, None].expand(-1, -1, 2, -1)  # (speakers, names, takes, 2)
    spoken = mean * (1 + spread * torch.randn(mean.shape, generator=generator))
    labels = torch.arange(len(names))[:, None].expand(mean.shape[:3])  # (speakers, names, takes)
    train, test = torch.randperm(len(group), generator=generator).split((50, len(group) - 50))
    return ClassificationData(
        spoken[train].reshape(-1, 2), labels[train].flatten(), spoken[test].reshape(-1, 2), labels[test].flatten()
    )


def piecewise(samples: int = 400, noise: float = 0.05, seed: int = 0) -> PiecewiseData:
    """Draw samples of a line of four pieces: two on each side of a jump at 0, which differ in slope.

    Args:
        samples: how many, uniform on [-1, 1), at least 1.
        noise: standard deviation of what is added to the targets, at least 0.
        seed: of the draw.

    Returns:
        The samples.

    Raises:
        ValueError: an argument is not allowed.
    """
    if samples < 1 or not noise >= 0:
        raise ValueError(f"samples must be at least 1 and noise at least 0, got {samples} and {noise}")
    generator = torch.Generator().manual_seed(seed)
    ends, slopes, offsets = torch.tensor(PIECES).T.contiguous()
    x = 2 * torch.rand(samples, generator=generator) - 1
    piece = torch.searchsorted(ends, x, right=True)  # (samples,): an end belongs to the piece on its right
    y = slopes[piece] * x + offsets[piece] + noise * torch.randn(samples, generator=generator)
    return PiecewiseData(x[:, None], y[:, None], piece)
