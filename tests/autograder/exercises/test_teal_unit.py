"""Unit 14: what its exercises take for right is what the library does, and what the lesson's block does."""

import pytest
import torch

from autograder.exercises import find
from autograder.exercises.teal import fixtures
from autograder.inside.use import Use, used
from sparsity_edu.activations import allocation, teal
from sparsity_edu.activations.histogram import Histogram


def cases(id: str, seed: str = "public"):
    """(case, what the reference gives) of every case."""
    exercise = find(id)
    for stage in exercise.stages:
        for case in exercise.cases(stage, seed):
            yield case, used(Use(case, exercise.reference))["value"]


def test_histograms_are_the_librarys():
    for case, (counts, centers) in cases("teal.histogram"):
        found = Histogram.of(case.args[0], **case.kwargs)
        assert torch.equal(found.counts, counts)
        torch.testing.assert_close(found.centers.float(), centers)


def test_thresholds_are_the_librarys():
    for case, limit in cases("teal.threshold"):
        counts, centers, sparsity = case.args
        assert Histogram(counts, centers.double()).threshold(sparsity) == pytest.approx(limit, rel=1e-6)


def test_sparse_inputs_are_the_librarys():
    for case, y in cases("teal.sparsify"):
        assert torch.equal(teal.sparsify(*case.args, "last_half"), y)


def librarys_error(x, weights, distributions):
    dense = fixtures.block(x, weights, lambda name, h: h)

    def error(levels):
        limits = {name: Histogram(c, m.double()).threshold(levels[name]) for name, (c, m) in distributions.items()}
        read = fixtures.block(x, weights, lambda name, h: teal.sparsify(h, limits[name], "last_half") if name in limits else h)
        return allocation.block_error([dense], [read])

    return error


def test_errors_are_the_librarys():
    for case, error in cases("teal.error"):
        x, weights, limits = case.args
        dense = fixtures.block(x, weights, lambda name, h: h)
        sparse = fixtures.block(
            x, weights, lambda name, h, limits=limits: teal.sparsify(h, limits[name], "last_half") if name in limits else h
        )
        assert allocation.block_error([dense], [sparse]) == pytest.approx(error, rel=1e-4)


def test_levels_are_the_librarys():
    for case, (levels, effective) in cases("teal.allocate"):
        x, weights, distributions, target, step = case.args
        size = {name: weights[name].numel() / weights["q"].numel() for name in distributions}
        row = allocation.greedy(librarys_error(x, weights, distributions), size, target, step)[-1]
        assert row.levels == pytest.approx(levels)
        assert row.effective == pytest.approx(effective)
