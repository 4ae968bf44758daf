"""Unit 11: what its exercises take for right is what the library does, and its inputs are what they claim to be.

And wrong answers that are on no list of mistakes, as they are rare, fail all the same.
"""

import pytest
import torch
import worked
from torch import Tensor

from autograder.checking.score import score_object
from autograder.exercises import find
from sparsity_edu.kernels.sparse_attention import page_bounds
from sparsity_edu.kv_cache import quest


def cases(id: str):
    """(arguments, keyword arguments, what the reference gives) of every case that gives a result."""
    return ((case.args, case.kwargs, result) for case, result in worked.cases(id))


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


def rejects(id: str, wrong) -> bool:
    return not score_object(find(id), wrong).passed


def test_bounds_that_begin_with_a_finite_number():
    def wrong(low, high, tokens, keys, page=16):
        return tuple(bound.clamp(-1e9, 1e9) for bound in find("quest.bounds").reference(low, high, tokens, keys, page))

    assert rejects("quest.bounds", wrong)


def test_a_query_whose_small_numbers_count_as_0():
    def wrong(q, low, high):
        return find("quest.upper_bound").reference(torch.where(q.abs() < 1e-3, 0.0, q.float()), low, high)

    assert rejects("quest.upper_bound", wrong)


def select(
    scores,
    budget,
    page=16,
    *,
    rank=Tensor.clone,
    last=lambda scores: torch.inf,
    raises=lambda budget, page, pages: budget < page,
):
    if raises(budget, page, scores.shape[1]):
        raise ValueError
    value = rank(scores)
    value[:, -1] = last(scores)
    order = value.argsort(dim=-1, descending=True, stable=True)
    return order[:, : max(1, budget // page)].sort(dim=-1).values


def earlier(scores: Tensor, by: float) -> Tensor:
    """Of equal scores the later has a little less; but the others too."""
    return scores.double() - by * torch.arange(scores.shape[1])


SELECT = {
    "in half precision": {"rank": Tensor.half},
    "rounded": {"rank": lambda scores: (1e5 * scores).round()},
    "after a softmax": {"rank": lambda scores: scores.softmax(dim=-1)},
    "later ones with 1e-6 less": {"rank": lambda scores: earlier(scores, 1e-6)},
    "later ones with 1e-12 less": {"rank": lambda scores: earlier(scores, 1e-12)},
    "the last page at 1e4": {"last": lambda scores: 1e4},
    "the last page at 1e9": {"last": lambda scores: 1e9},
    "the last page just above the largest": {"last": lambda scores: scores.max() + 1e-3},
    "no error where one page is all": {"raises": lambda budget, page, pages: budget < page and pages > 1},
}


@pytest.mark.parametrize("name", SELECT)
def test_selecting(name):
    assert score_object(find("quest.select"), select).passed
    assert rejects("quest.select", lambda *args, **options: select(*args, **options, **SELECT[name]))


def test_attention_whose_scores_are_cut_off():
    def wrong(q, keys, values, pages, page=16):
        outs, masses = [], []
        for h, chosen in enumerate(pages.tolist()):
            k, v = (
                torch.cat([x[h * len(keys) // len(q), p * page :][:page] for p in chosen] or [x[0, :0]]).float()
                for x in (keys, values)
            )
            scores = (k @ q[h].float() / k.shape[1] ** 0.5).clamp(-1e3, 1e3)
            outs.append(scores.softmax(dim=0) @ v)
            masses.append(scores.logsumexp(dim=0))
        return torch.stack(outs), torch.stack(masses)

    assert rejects("quest.attend", wrong)


def shares(masses: Tensor) -> Tensor:
    return masses.softmax(dim=0).nan_to_num(0.0)


def without_empty(parts: Tensor, masses: Tensor) -> Tensor:
    return parts.masked_fill((masses == -torch.inf)[..., None], 0.0)


def merge(parts, masses, *, weigh=shares, clean=without_empty):
    return (weigh(masses)[..., None] * clean(parts, masses)).sum(dim=0), masses.logsumexp(dim=0)


MERGE = {
    "empty below -1e4": {"weigh": lambda masses: shares(masses.masked_fill(masses < -1e4, -torch.inf))},
    "empty below -1e9": {"weigh": lambda masses: shares(masses.masked_fill(masses < -1e9, -torch.inf))},
    "cut off at 1000": {"weigh": lambda masses: shares(torch.where(masses.isfinite(), masses.clamp(-1e3, 1e3), masses))},
    "faint parts left out": {"weigh": lambda masses: torch.where(shares(masses) < 1e-5, 0.0, shares(masses))},
    "infinity in an empty part": {"clean": lambda parts, masses: torch.where(parts.isnan(), 0.0, parts)},
}


@pytest.mark.parametrize("name", MERGE)
def test_merging(name):
    assert score_object(find("quest.merge"), merge).passed
    assert rejects("quest.merge", lambda parts, masses: merge(parts, masses, **MERGE[name]))


def test_bytes_in_float32():
    def wrong(*args, **options):
        return tuple(torch.tensor(find("quest.cost").reference(*args, **options)).float().tolist())

    assert rejects("quest.cost", wrong)


def test_a_length_at_which_both_read_as_much():
    def wrong(tokens, budget, page, heads, kv_heads, *sizes, shared=False, **options):
        full, read, _ = find("quest.cost").reference(tokens, budget, page, heads, kv_heads, *sizes, shared=shared, **options)
        group = 1 if shared else heads // kv_heads
        return full, read, -(-group * (budget // page) * page // (page - 1)) * page

    assert rejects("quest.cost", wrong)
