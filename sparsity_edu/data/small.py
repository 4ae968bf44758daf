"""Small classical data: XOR and MONK's problems, on which Optimal Brain Surgeon was tried, and MNIST-1D, ten classes of
one-dimensional signals that a laptop learns in seconds."""

from __future__ import annotations

import itertools
import random
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class ClassificationData(NamedTuple):
    """Inputs and labels of a classification problem, split in train and test."""

    train_inputs: Tensor  # (train samples, features), float32
    train_labels: Tensor  # (train samples,), int64
    test_inputs: Tensor  # (test samples, features), float32
    test_labels: Tensor  # (test samples,), int64


def xor() -> tuple[Tensor, Tensor]:
    """The four corners of a square, and whether their coordinates differ.

    Returns:
        Inputs (4, 2) and targets (4, 1), float32, both 0 or 1.
    """
    inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return inputs, inputs.sum(dim=1, keepdim=True) % 2


MONKS_VALUES = (3, 3, 2, 3, 4, 2)  # of the attributes a1 ... a6
MONKS_TRAIN = {1: 124, 2: 169, 3: 122}  # training samples of the published problems


def monks(problem: int, seed: int = 0, noise: float | None = None) -> ClassificationData:
    """Make one of the MONK's problems: robots of six attributes, 432 in all, and a rule that tells friends from others.

        1    a1 = a2, or a5 = 1
        2    exactly two of the six attributes have their first value
        3    a5 = 3 and a4 = 1, or neither a5 = 4 nor a2 = 3; 5 % of the training labels are wrong

    Args:
        problem: 1, 2 or 3.
        seed: which of the 432 are for training (the published choice was random too), and whose labels are wrong.
        noise: share of wrong training labels; 0.05 for problem 3 and 0 for the others if left out.

    Returns:
        As many training samples as published (124, 169, 122), and all 432 as test samples, with labels 0 and 1. The attributes
        are one-hot: 17 inputs of 0 or 1.

    Raises:
        ValueError: `problem` is none of the three, or `noise` is outside [0, 1].

    Source: Thrun et al. 1991, "The MONK's problems: a performance comparison of different learning algorithms", sec. 1.
    """
    if problem not in MONKS_TRAIN:
        raise ValueError(f"problem must be 1, 2 or 3, got {problem!r}")
    noise = (0.05 if problem == 3 else 0.0) if noise is None else noise
    if not 0 <= noise <= 1:
        raise ValueError(f"noise must be in [0, 1], got {noise}")
    robots = torch.tensor(list(itertools.product(*(range(1, values + 1) for values in MONKS_VALUES))))  # (432, 6)
    a1, a2, _, a4, a5, _ = robots.T
    labels = {
        1: (a1 == a2) | (a5 == 1),
        2: (robots == 1).sum(dim=1) == 2,
        3: (a5 == 3) & (a4 == 1) | (a5 != 4) & (a2 != 3),
    }[problem].long()
    inputs = torch.cat(
        [torch.nn.functional.one_hot(a - 1, values) for a, values in zip(robots.T, MONKS_VALUES, strict=True)], dim=1
    ).float()  # (432, 17)
    generator = torch.Generator().manual_seed(seed)
    train = torch.randperm(len(inputs), generator=generator)[: MONKS_TRAIN[problem]]
    train_labels = labels[train]
    wrong = torch.randperm(len(train), generator=generator)[: round(noise * len(train))]
    train_labels[wrong] = 1 - train_labels[wrong]
    return ClassificationData(inputs[train], train_labels, inputs, labels)


def mnist1d(samples: int = 5000, seed: int = 42) -> ClassificationData:
    """Make MNIST-1D: digit-like templates, shifted, scaled, sheared and noisy, 40 numbers each; 80 % train, 20 % test.

    Args:
        samples: how many signals of the ten classes together, at least 100; 5000 is the published size.
        seed: seed of the generator; 42 is the published one.

    Returns:
        The data, standardised by mean and standard deviation of the train inputs. Each call gives fresh tensors.

    Raises:
        ValueError: `samples` is below 100.

    Source: Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D", ICML 2024; the generator is their package.
    """
    if samples < 100:
        raise ValueError(f"samples must be at least 100, got {samples}")
    return ClassificationData(*(tensor.clone() for tensor in _generate(samples, seed)))


@cache
def _generate(samples: int, seed: int) -> ClassificationData:
    import numpy as np
    from mnist1d.data import get_dataset_args, make_dataset

    arguments = get_dataset_args()
    arguments.num_samples, arguments.seed = samples, seed
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  the generator seeds the global ones: put them back
    try:
        made = make_dataset(arguments)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    train, test = (torch.tensor(made[key], dtype=torch.float32) for key in ("x", "x_test"))
    labels, test_labels = (torch.tensor(made[key], dtype=torch.int64) for key in ("y", "y_test"))
    mean, std = train.mean(), train.std()
    return ClassificationData((train - mean) / std, labels, (test - mean) / std, test_labels)
