"""Masks: against loops that follow the written rule word by word, against torch.topk and numpy, and by counting."""

import math
import re
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_edu import patterns

quick = settings(max_examples=60, deadline=None)
BAD_SPARSITIES = [-0.1, -1e-9, 1, 1.0, 1.5, 50, math.nan, math.inf, -math.inf, "2:4"]


def tie_free(*shape: int, seed: int = 0) -> torch.Tensor:
    """Distinct positive scores in random order."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randperm(math.prod(shape), generator=generator) + 1).float().view(shape)


def keep_by_rule(scores: list[float], count: int) -> list[bool]:
    """The written rule: `count` times over, the smallest that is left goes; of equal ones the first."""
    keep = [True] * len(scores)
    for _ in range(count):
        worst = None
        for i, score in enumerate(scores):
            if keep[i] and (worst is None or score < scores[worst]):
                worst = i
        keep[worst] = False
    return keep


def norm_by_hand(entries: list[float], norm: int) -> float:
    return sum(abs(x) for x in entries) if norm == 1 else math.sqrt(sum(x * x for x in entries))


# ---- how many


@pytest.mark.parametrize(
    ("n", "sparsity", "count"),
    [
        (10, 0.5, 5),
        (7, 0.5, 3),  # 3.5 down
        (5, 0.5, 2),  # 2.5: not to even, not up
        (3, 0.34, 1),  # 1.02
        (3, 0.33, 0),  # 0.99
        (50, 0.45, 22),  # 22.5
        (100, 0.29, 28),  # the product is 28.999999999999996
        (10, 0.99, 9),
        (1, 0.99, 0),
        (0, 0.5, 0),
        (5, 0, 0),
    ],
)
def test_prune_count(n, sparsity, count):
    assert patterns.prune_count(n, sparsity) == count


@pytest.mark.parametrize("sparsity", BAD_SPARSITIES)
def test_sparsity_out_of_range(sparsity):
    score = tie_free(4, 4)
    calls = [
        lambda: patterns.prune_count(4, sparsity),
        lambda: patterns.unstructured(score, sparsity),
        lambda: patterns.unstructured(score, sparsity, per="row"),
        lambda: patterns.unstructured_model({"a": score}, sparsity),
        lambda: patterns.rows(score, sparsity),
        lambda: patterns.columns(score, sparsity),
        lambda: patterns.block(score, sparsity, (2, 2)),
        lambda: patterns.select(score, "layer", sparsity),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^sparsity must be in \[0, 1\), got .+$"):
            call()


# ---- the one rule


@quick
@given(st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(0, 6))
def test_drop_smallest_follows_the_rule_with_many_ties(groups, count):
    mask = patterns.drop_smallest(torch.tensor(groups, dtype=torch.float32), count)
    assert mask.tolist() == [keep_by_rule(group, count) for group in groups]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int64])
@pytest.mark.parametrize("count", [1, 57, 1000, 2999, 3000])
def test_drop_smallest_is_a_stable_sort_in_every_dtype(dtype, count):
    score = torch.randint(0, 40, (3000,), generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = np.ones(3000, dtype=bool)
    expected[np.argsort(score.double().numpy(), kind="stable")[:count]] = False
    assert np.array_equal(patterns.drop_smallest(score, count).numpy(), expected)


@pytest.mark.parametrize("count", [1, 5, 19])
def test_drop_smallest_agrees_with_kthvalue_and_topk_without_ties(count):
    score = tie_free(7, 20)
    mask = patterns.drop_smallest(score, count)
    assert torch.equal(mask, score > score.kthvalue(count, dim=1, keepdim=True).values)
    kept = score.topk(20 - count, dim=1).indices.sort(dim=1).values
    assert torch.equal(mask.nonzero()[:, 1].view(7, -1), kept)


def test_drop_smallest_edge_values():
    assert patterns.drop_smallest(torch.tensor([0.0, -0.0, 0.0]), 1).tolist() == [False, True, True]  # -0 equals 0
    assert patterns.drop_smallest(torch.tensor([-0.0, 0.0, -0.0]), 2).tolist() == [False, False, True]
    assert patterns.drop_smallest(torch.tensor([math.inf, 1, math.inf]), 2).tolist() == [False, False, True]
    assert patterns.drop_smallest(torch.tensor([1, -math.inf]), 1).tolist() == [True, False]
    assert patterns.drop_smallest(torch.tensor([1e-45, 0.0]), 1).tolist() == [True, False]  # the smallest number there is


@pytest.mark.parametrize("count", [-1, 5])
def test_drop_smallest_count_out_of_range(count):
    with pytest.raises(ValueError, match=rf"^count must be in \[0, 4\], the size of a group, got {count}$"):
        patterns.drop_smallest(torch.ones(4), count)


def test_nan_is_refused_everywhere():
    score = tie_free(4, 4)
    score[1, 2] = math.nan
    calls = [
        lambda: patterns.unstructured(score, 0.5),
        lambda: patterns.unstructured(score, 0.0),
        lambda: patterns.unstructured(score, 0.5, per="row"),
        lambda: patterns.unstructured_model({"a": torch.ones(3), "b": score}, 0.5),
        lambda: patterns.rows(score, 0.5),
        lambda: patterns.columns(score, 0.5),
        lambda: patterns.n_m(score, 2, 4),
        lambda: patterns.n_m(score, 4, 4),
        lambda: patterns.block(score, 0.5, (2, 2)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^score must not hold NaN, got NaN in 1 of "):
            call()


def test_a_million_descending_scores_take_no_quadratic_time():
    score = torch.arange(
        1_000_000, 0, -1, dtype=torch.float32
    )  # a naive quickselect's worst case: torch.kthvalue takes half a minute
    start = time.perf_counter()
    mask = patterns.unstructured(score, 0.1)
    assert time.perf_counter() - start < 5
    assert mask[:900_000].all()
    assert not mask[900_000:].any()


# ---- unstructured


@quick
@given(st.integers(0, 5), st.integers(0, 6), st.floats(0, 1, exclude_max=True), st.integers(0, 9))
def test_unstructured_by_layer_and_by_row(rows, cols, sparsity, seed):
    score = torch.randint(0, 5, (rows, cols), generator=torch.Generator().manual_seed(seed)).float()  # ties

    layer = patterns.unstructured(score, sparsity)
    assert layer.dtype == torch.bool
    assert layer.shape == score.shape
    assert layer.flatten().tolist() == keep_by_rule(score.flatten().tolist(), int(sparsity * (rows * cols)))

    row = patterns.unstructured(score, sparsity, per="row")
    assert row.tolist() == [keep_by_rule(line, int(sparsity * cols)) for line in score.tolist()]


def test_by_layer_and_by_row_differ():
    score = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    assert patterns.unstructured(score, 0.5).tolist() == [[False] * 4, [True] * 4]
    assert patterns.unstructured(score, 0.5, per="row").tolist() == [[False, False, True, True]] * 2


def test_unstructured_any_shape_and_layout():
    score = tie_free(3, 4, 2)
    flat = patterns.unstructured(score.flatten(), 0.4)
    assert torch.equal(patterns.unstructured(score, 0.4), flat.view(3, 4, 2))
    strided = score.permute(2, 0, 1)
    assert torch.equal(patterns.unstructured(strided, 0.4), flat.view(3, 4, 2).permute(2, 0, 1))
    assert patterns.unstructured(torch.tensor(3.0), 0.5).tolist() is True
    assert patterns.unstructured(torch.empty(0), 0.5).shape == (0,)


def test_unstructured_refuses():
    with pytest.raises(ValueError, match=r"^per must be .layer. or .row., got 'model'; for a whole model use"):
        patterns.unstructured(tie_free(2, 2), 0.5, per="model")
    for shape in [(4,), (2, 2, 2), ()]:
        with pytest.raises(ValueError, match=r"^score must be 2-D \(rows, cols\), got shape \("):
            patterns.unstructured(torch.ones(shape), 0.5, per="row")


# ---- a whole model under one threshold


@quick
@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.floats(0, 1, exclude_max=True), st.integers(0, 9))
def test_model_is_the_concatenation_sorted_by_numpy(sizes, sparsity, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = {f"layer{i}": torch.randint(0, 6, (n, 2), generator=generator).float() for i, n in enumerate(sizes)}
    masks = patterns.unstructured_model(scores, sparsity)

    everything = np.concatenate([score.numpy().ravel() for score in scores.values()])
    expected = np.ones(len(everything), dtype=bool)
    expected[np.argsort(everything, kind="stable")[: int(sparsity * len(everything))]] = False
    assert list(masks) == list(scores)
    assert all(masks[name].shape == score.shape for name, score in scores.items())
    assert np.array_equal(np.concatenate([mask.numpy().ravel() for mask in masks.values()]), expected)


def test_model_lets_layers_compete():
    scores = {"small": torch.tensor([1.0, 2, 3, 4]), "large": torch.tensor([[10.0, 20], [30, 5]])}
    masks = patterns.unstructured_model(scores, 5 / 8)
    assert masks["small"].tolist() == [False] * 4
    assert masks["large"].tolist() == [[True, True], [True, False]]


def test_model_ties_follow_the_order_of_the_layers():
    a, b = torch.ones(2), torch.ones(2)
    assert {k: v.tolist() for k, v in patterns.unstructured_model({"a": a, "b": b}, 0.5).items()} == {
        "a": [False, False],
        "b": [True, True],
    }
    assert patterns.unstructured_model({"b": b, "a": a}, 0.5)["b"].tolist() == [False, False]


def test_model_of_several_dtypes_and_of_nothing():
    scores = {"half": tie_free(3, 3).half(), "brain": tie_free(2, 2, seed=1).bfloat16() + 20, "single": torch.zeros(2, 1)}
    masks = patterns.unstructured_model(scores, 0.5)  # 15 entries, 7 go: both zeros and the five smallest halves
    assert masks["single"].tolist() == [[False], [False]]
    assert torch.equal(masks["half"], scores["half"] > 5)
    assert masks["brain"].all()
    assert patterns.unstructured_model({}, 0.5) == {}


# ---- rows, columns, blocks


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.99])
def test_rows_and_columns_by_loops(norm, sparsity):
    score = torch.rand(7, 9, generator=torch.Generator().manual_seed(3))
    by_row = keep_by_rule([norm_by_hand(line, norm) for line in score.tolist()], int(sparsity * 7))
    by_column = keep_by_rule([norm_by_hand(line, norm) for line in score.T.tolist()], int(sparsity * 9))
    assert patterns.rows(score, sparsity, norm).tolist() == [[keep] * 9 for keep in by_row]
    assert patterns.columns(score, sparsity, norm).tolist() == [by_column] * 7


def test_the_norm_decides():
    score = torch.tensor([[3.0, 0.0], [2.0, 2.0]])  # l2: 3 > 2.83; l1: 3 < 4
    assert patterns.rows(score, 0.5).tolist() == [[True, True], [False, False]]
    assert patterns.rows(score, 0.5, norm=1).tolist() == [[False, False], [True, True]]
    assert torch.equal(patterns.columns(score.T, 0.5), patterns.rows(score, 0.5).T)
    assert torch.equal(patterns.columns(score.T, 0.5, norm=1), patterns.rows(score, 0.5, norm=1).T)
    assert patterns.block(score, 0.5, (1, 2)).tolist() == [[True, True], [False, False]]
    assert patterns.block(score, 0.5, (1, 2), norm=1).tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_do_not_overflow_or_stall_in_half_precision(dtype):
    score = torch.full((3, 4096), 60000.0, dtype=dtype)  # the sum of squares is far beyond 65504
    score[0] *= 1.01
    score[1] *= 0.99
    assert patterns.rows(score, 0.34)[:, 0].tolist() == [True, False, True]
    assert patterns.columns(score.T, 0.34)[0].tolist() == [True, False, True]
    assert patterns.block(score, 0.34, (1, 4096))[:, 0].tolist() == [True, False, True]


def test_integer_scores():
    score = torch.tensor([[100, 100], [1, 2], [127, 127]], dtype=torch.int8)
    assert patterns.rows(score, 0.67)[:, 0].tolist() == [False, False, True]
    assert patterns.unstructured(score, 0.5).tolist() == [[False, True], [False, False], [True, True]]


@pytest.mark.parametrize("shape", [(1, 1), (2, 4), (4, 2), (3, 2), (12, 8)])
@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.75])
def test_block_by_loops(shape, sparsity):
    score = torch.rand(12, 8, generator=torch.Generator().manual_seed(4))
    height, width = shape
    grid = [(i, j) for i in range(0, 12, height) for j in range(0, 8, width)]
    entries = [[score[i + a, j + b].item() for a in range(height) for b in range(width)] for i, j in grid]
    keep = keep_by_rule([norm_by_hand(tile, 2) for tile in entries], int(sparsity * len(grid)))
    expected = torch.zeros(12, 8, dtype=torch.bool)
    for (i, j), kept in zip(grid, keep, strict=True):
        expected[i : i + height, j : j + width] = kept
    assert torch.equal(patterns.block(score, sparsity, shape), expected)


def test_tiles_is_a_view_of_the_right_entries():
    matrix = tie_free(6, 8)
    grid = patterns.tiles(matrix, (2, 4))
    assert grid.shape == (3, 2, 2, 4)
    assert torch.equal(grid[2, :, 1, :], matrix[4:6, 4:8])
    grid[0, :, 1, :] = 0
    assert (matrix[:2, 4:] == 0).all()
    assert torch.equal(patterns.tiles(matrix.T, (4, 2))[1, :, 2, :], matrix[4:6, 4:8].T)  # a transposed one too


@pytest.mark.parametrize("tile", [(4, 4), (5, 2), (0, 2), (2, 0), (-2, 2), (12, 8)])
def test_tiles_must_divide(tile):
    with pytest.raises(ValueError, match=r"^tile shape must divide the matrix, of shape \(6, 8\), got "):
        patterns.block(torch.ones(6, 8), 0.5, tile)


@pytest.mark.parametrize("pattern", [patterns.rows, patterns.columns, patterns.block])
def test_whole_rows_columns_and_blocks_need_a_matrix(pattern):
    for shape in [(4,), (2, 3, 4)]:
        with pytest.raises(ValueError, match=rf"^score must be 2-D \(rows, cols\), got shape {re.escape(str(shape))}$"):
            pattern(torch.ones(shape), 0.5)
    with pytest.raises(ValueError, match=r"^matrix must be 2-D"):
        patterns.tiles(torch.ones(4), (1, 1))


# ---- n:m


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 4), (4, 8), (1, 1), (4, 4), (2, 3), (1, 12)])
def test_n_m_by_loops_and_by_topk(n, m):
    ties = torch.randint(0, 4, (5, 24), generator=torch.Generator().manual_seed(5)).float()
    expected = [
        [keep for j in range(0, 24, m) for keep in keep_by_rule(line[j : j + m], m - n)]  # n of every m stay
        for line in ties.tolist()
    ]
    assert patterns.n_m(ties, n, m).tolist() == expected

    score = tie_free(5, 24)
    mask = patterns.n_m(score, n, m)
    top = score.view(-1, m).topk(n, dim=1).indices
    assert torch.equal(mask.view(-1, m), torch.zeros(120 // m, m, dtype=torch.bool).scatter_(1, top, True))
    assert (mask.view(-1, m).sum(dim=1) == n).all()
    assert patterns.sparsity_of(mask) == pytest.approx(1 - n / m)


def test_n_m_groups_run_along_the_inputs():
    score = torch.tensor([[9.0, 8, 7, 6], [1, 2, 3, 4], [5, 5, 5, 5], [0, 0, 0, 1]])
    assert patterns.n_m(score, 1, 4).nonzero().tolist() == [[0, 0], [1, 3], [2, 3], [3, 3]]
    assert torch.equal(patterns.n_m(score.T, 1, 4), patterns.n_m(score.T.contiguous(), 1, 4))


def test_n_m_of_other_ranks_and_of_nothing():
    score = tie_free(2, 3, 8)
    assert torch.equal(patterns.n_m(score, 3, 4), patterns.n_m(score.view(6, 8), 3, 4).view(2, 3, 8))
    assert torch.equal(patterns.n_m(score[0, 0], 3, 4), patterns.n_m(score, 3, 4)[0, 0])
    assert patterns.n_m(torch.ones(3, 0), 2, 4).shape == (3, 0)
    assert patterns.n_m(torch.ones(0, 8), 2, 4).shape == (0, 8)


@pytest.mark.parametrize(("n", "m"), [(3, 2), (0, 4), (-1, 4), (1, 0), (0, 0)])
def test_n_m_refuses_ratios(n, m):
    with pytest.raises(ValueError, match=rf"^n:m needs 1 <= n <= m, got {n}:{m}$"):
        patterns.n_m(torch.ones(4, 4), n, m)


@pytest.mark.parametrize("shape", [(4, 6), (3,), ()])
def test_n_m_refuses_sizes(shape):
    with pytest.raises(ValueError, match=r"^the last dimension of score must be a multiple of m = 4, got shape \("):
        patterns.n_m(torch.ones(shape), 2, 4)


# ---- by name, and in general


@pytest.mark.parametrize(
    ("pattern", "sparsity", "expected"),
    [
        ("layer", 0.4, lambda s: patterns.unstructured(s, 0.4)),
        ("row", 0.4, lambda s: patterns.unstructured(s, 0.4, per="row")),
        ("rows", 0.5, lambda s: patterns.rows(s, 0.5)),
        ("columns", 0.5, lambda s: patterns.columns(s, 0.5)),
        ("2:4", None, lambda s: patterns.n_m(s, 2, 4)),
        ("3:12", None, lambda s: patterns.n_m(s, 3, 12)),
        ("block 2x3", 0.5, lambda s: patterns.block(s, 0.5, (2, 3))),
    ],
)
def test_select(pattern, sparsity, expected):
    score = tie_free(8, 12)
    assert torch.equal(patterns.select(score, pattern, sparsity), expected(score))


@pytest.mark.parametrize(
    ("pattern", "sparsity", "message"),
    [
        ("2:4", 0.5, r"^sparsity must be left out for pattern '2:4', which fixes it, got 0\.5$"),
        ("layer", None, r"^sparsity must be given for pattern 'layer'$"),
        ("model", 0.5, r"^pattern must be .+, got 'model'$"),
        ("block 4", 0.5, r"^pattern must be .+, got 'block 4'$"),
        ("x2:4", 0.5, r"^pattern must be .+, got 'x2:4'$"),
        ("5:4", None, r"^pattern must be .*1 <= n <= m.*, got '5:4'$"),
        ("block 5x5", 0.5, r"^tile shape must divide the matrix, of shape \(8, 12\), got 5x5$"),
    ],
)
def test_select_refuses(pattern, sparsity, message):
    with pytest.raises(ValueError, match=message):
        patterns.select(tie_free(8, 12), pattern, sparsity)


NAMED = [("layer", 0.3), ("row", 0.3), ("rows", 0.3), ("columns", 0.3), ("3:4", None), ("block 2x4", 0.3)]


@pytest.mark.parametrize(("pattern", "sparsity"), NAMED)
def test_every_pattern_leaves_its_input_alone_and_takes_any_layout(pattern, sparsity):
    score = tie_free(8, 12).requires_grad_()
    before = score.detach().clone()
    mask = patterns.select(score, pattern, sparsity)
    assert torch.equal(score, before)
    assert mask.dtype == torch.bool
    assert mask.shape == (8, 12)
    assert torch.equal(patterns.select(before.T.contiguous().T, pattern, sparsity), mask)
    assert torch.equal(patterns.select(torch.cat([before, before], 1)[:, :12], pattern, sparsity), mask)


@pytest.mark.parametrize(
    ("pattern", "sparsity", "dropped"), [(*p, d) for p, d in zip(NAMED, [28, 24, 24, 24, 24, 24], strict=True)]
)
def test_all_zero_scores_still_lose_the_exact_count(pattern, sparsity, dropped):
    assert int((~patterns.select(torch.zeros(8, 12), pattern, sparsity)).sum()) == dropped


def test_zero_sparsity_drops_nothing():
    for pattern, sparsity in NAMED:
        if sparsity is not None:
            assert patterns.select(torch.zeros(8, 12), pattern, 0).all()


def test_sparsity_of():
    assert patterns.sparsity_of(torch.tensor([0.0, -0.0, 1e-45, math.nan, 2])) == 2 / 5
    assert patterns.sparsity_of(torch.tensor([[True, False], [True, True]])) == 1 / 4
    assert patterns.sparsity_of(torch.zeros(3, 2, dtype=torch.int8)) == 1
    with pytest.raises(ValueError, match=r"^tensor must have at least one entry, got shape \(0, 3\)$"):
        patterns.sparsity_of(torch.empty(0, 3))
