"""Unit 14: what its exercises take for right is what the library does, and what the lesson's block does."""

import numpy as np
import pytest
import torch

from autograder.checking.score import score_object
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
        x, weights, distributions, target, *step = case.args
        size = {name: weights[name].numel() / weights["q"].numel() for name in distributions}
        row = allocation.greedy(librarys_error(x, weights, distributions), size, target, *(step or [0.05]))[-1]
        assert row.levels == pytest.approx(levels)
        assert row.effective == pytest.approx(effective)


def counted(x, bins=10_000, outliers=0.01, few=lambda outliers, n: int(outliers * n), exact=False):
    a = x.flatten().sort().values
    f = few(outliers, len(a))
    edges = torch.cat([a[:1], torch.linspace(a[f].item(), a[-f].item(), bins - 1), a[-1:]])
    counts = torch.histogram(a, edges)[0].long()
    if exact:  # bins at the ends that hold just so many, whatever equals their inner edges
        inner = torch.histc(a[f:-f], bins - 2, edges[1].item(), edges[-2].item()).long()
        counts = torch.cat([torch.tensor([f]), inner, torch.tensor([f])])
    return counts, (edges[:-1] + edges[1:]) / 2


def interpolated(counts, centers, sparsity):
    total = counts.cumsum(0).numpy()
    return float(np.interp((0.5 + min(sparsity, 1) / 2) * total[-1], total, centers.numpy())) if sparsity else 0.0


def needing_a_bias(model, batches, sparsity):
    found = {}
    with torch.no_grad():
        for name, part in model.named_children():
            if isinstance(part, torch.nn.Linear):
                found[name] = fixtures.limit(
                    *fixtures.distribution(torch.cat([b.flatten() for b in batches]), 10_000), sparsity
                )
                batches = [b @ part.weight.T + part.bias for b in batches]
            else:
                batches = [part(b) for b in batches]
    return found


def error_by(read, norm=lambda gap: gap.norm(dim=1)):
    def answer(x, weights, thresholds):
        dense = fixtures.block(x, weights, lambda name, h: h)
        sparse = fixtures.block(x, weights, lambda name, h: fixtures.sparse(h, thresholds.get(read(name, thresholds), -1.0)))
        return norm((dense - sparse)[:, -(x.shape[1] // 4) :]).mean().item()

    return answer


def levels_added(shapes, levels, *others, **options):
    for name in shapes:
        levels.setdefault(name, 0.0)
    return find("teal.read").reference(shapes, levels, *others, **options)


SUBTLE = {
    "outliers by whole division": ("histogram", lambda *a, **k: counted(*a, **k, few=lambda share, n: n // round(1 / share))),
    "so many outliers, whatever is equal": ("histogram", lambda *a, **k: counted(*a, **k, exact=True)),
    "interpolated over empty bins": ("threshold", interpolated),
    "0 below a hundredth": ("threshold", lambda c, m, s: fixtures.limit(c, m, s) if s >= 0.01 else 0.0),
    "sums in int32": (
        "threshold",
        lambda c, m, s: fixtures.limit(c.cumsum(0, dtype=torch.int32).diff(prepend=c[:1] * 0), m, s),
    ),
    "nearly equal": (
        "sparsify",
        lambda x, threshold: torch.where(
            (x - fixtures.sparse(x, threshold) == 0) & ~torch.isclose(x.abs(), torch.tensor(threshold)), x, 0.0
        ),
    ),
    "half precision": ("sparsify", lambda x, threshold: x * (fixtures.sparse(x.half(), threshold) == x.half())),
    "needs a bias": ("layers", needing_a_bias),
    "gate's for up without one": (
        "error",
        error_by(lambda name, t: "gate" if name == "up" and name not in t else name),
    ),
    "an epsilon under the root": (
        "error",
        error_by(lambda name, t: name, lambda gap: (gap.square().sum(dim=1) + 1e-6).sqrt()),
    ),
    "levels added": ("read", levels_added),
}


@pytest.mark.parametrize("seed", ["public", "a secret"])
@pytest.mark.parametrize("name", SUBTLE)
def test_subtle_mistakes_are_rejected(name, seed):
    id, wrong = SUBTLE[name]
    verdict = score_object(find(f"teal.{id}"), wrong, seed)
    assert not verdict.passed
    assert verdict.points > 0, "wrong in one respect only"
