"""Small classical data: MNIST-1D, ten classes of one-dimensional signals that a laptop learns in seconds."""

from __future__ import annotations

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
