"""Unit 11: what its exercises take for right is what the library does, and its inputs are what they claim to be."""

import torch

from autograder.exercises import find
from autograder.inside.use import Use, used
from sparsity_edu.kernels.sparse_attention import page_bounds
from sparsity_edu.kv_cache import quest


def cases(id: str, seed: str = "public"):
    """(arguments, what the reference gives) of every case that gives a result."""
    exercise = find(id)
    for stage in exercise.stages:
        for case in exercise.cases(stage, seed):
            try:
                yield case.args, case.kwargs, used(Use(case, exercise.reference))["value"]
            except ValueError:
                continue


def test_bounds_are_as_in_the_library():
    for (low, _, tokens, keys, *page), _, (least, most) in cases("quest.bounds"):
        if not tokens:
            expected = page_bounds(keys[None], *page)
            assert torch.equal(least, expected[0][0])
            assert torch.equal(most, expected[1][0])
        assert torch.equal(least[:, : tokens // (page or [16])[0]], low[:, : tokens // (page or [16])[0]])


def test_scores_are_as_in_the_library():
    for (q, low, high), _, scores in cases("quest.upper_bound"):
        expected = quest.upper_bounds(q[None], low[None], high[None])[0]
        assert torch.allclose(scores, expected, rtol=1e-4, atol=1e-4 * scores.abs().max().item())


def test_pages_are_as_in_the_library_where_no_scores_are_equal():
    compared = 0
    for (scores, budget, *page), _, chosen in cases("quest.select"):
        if all(len(row.unique()) == len(row) for row in scores):
            size = page[0] if page else 16
            expected = quest.select_pages(scores[None], budget, size, tokens=size * scores.shape[1])[0]
            assert torch.equal(chosen, expected)
            compared += 1
    assert compared > 15


def test_attention_is_as_in_the_library_and_what_may_not_be_read_is_no_number():
    hidden = 0
    for (q, keys, values, pages, *page), _, (out, _) in cases("quest.attend"):
        if not pages.shape[1]:
            continue
        wide = q.float(), *(x.float().repeat_interleave(len(q) // len(keys), dim=0) for x in (keys, values))
        expected = quest.attend_pages(*wide, pages, *page)
        assert torch.allclose(out, expected, rtol=1e-3, atol=1e-4 * out.abs().max().item())
        hidden += bool(keys.isnan().any())
    assert hidden > 8


def test_merging_is_as_in_the_library():
    for (parts, masses), _, (out, _) in cases("quest.merge"):
        if masses.isfinite().all():
            assert torch.allclose(out, quest.merge(parts, masses), atol=1e-4 * out.abs().max().item())


def test_bytes_are_those_of_the_librarys_cache():
    """A layer of the cache, for the sizes of each case that are small enough."""
    compared = 0
    for (tokens, budget, page, heads, kv_heads, d), more, (full, read, _) in cases("quest.cost"):
        if tokens > 1000 or more.get("itemsize") != 4:
            continue
        group = "sum" if more.get("shared") else "each"
        layer = quest.QuestLayer(budget, page, 0, group, "kernel")
        g = torch.Generator().manual_seed(0)
        keys, values = layer.update(*(torch.randn(1, kv_heads, tokens, d, generator=g) for _ in range(2)))
        module = type("Module", (), {"layer_idx": 5, "num_key_value_groups": heads // kv_heads, "is_causal": True})()
        layer.attend(module, torch.randn(1, heads, 1, d, generator=g), keys, values, None, scaling=1.0, dropout=0.0)
        assert layer.bytes_read == read
        assert 2 * keys.nbytes == full
        compared += 1
    assert compared >= 2
