"""H2O against the authors' code, on keys of which some are heavy; and what the named choices change."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from official import H2OKVCacheLayerWise
from small_models import module, step

from sparsity_edu.kv_cache import H2OCache
from sparsity_edu.kv_cache.attention import probabilities, rotate
from sparsity_edu.kv_cache.eviction import evict, select
from sparsity_edu.kv_cache.h2o import GROUPS, accumulate, per_query, pool

HEADS, DIM, LONG = 4, 12, 60


def planted(batch=2, heads=HEADS, kv_heads=HEADS, length=LONG, seed=0):
    """q, k, v; each head has heavy keys of its own in the middle, or sums would always favour the first keys."""
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, length, DIM, generator=g)
    k, v = (torch.randn(batch, kv_heads, length, DIM, generator=g) for _ in range(2))
    common = torch.randn(DIM, generator=g)
    q = q + common
    for b in range(batch):
        for h in range(kv_heads):
            k[b, h, 7 + torch.randperm(length - 20, generator=g)[:5]] += 1.5 * common
    return q, k, v


def official(q, k, v, hh, recent, prompt):
    """One sequence through the authors' cache: outputs, kept positions and scores after every step."""
    cache, past, kept, out = H2OKVCacheLayerWise(hh, recent), None, None, []
    for start, end in [(0, prompt), *((i, i + 1) for i in range(prompt, q.shape[2]))]:
        new = torch.arange(start, end).expand(q.shape[1], -1)
        past = (k[:, :, start:end], v[:, :, start:end]) if past is None else tuple(
            torch.cat([old, x[:, :, start:end]], 2) for old, x in zip(past, (k, v), strict=True)
        )  # fmt: skip
        kept = new if kept is None else torch.cat([kept, new], 1)
        weights = q[:, :, start:end] @ past[0].mT / DIM**0.5
        n, rows = past[0].shape[2], end - start
        weights = weights.masked_fill(torch.ones(rows, n, dtype=torch.bool).triu(n - rows + 1), -torch.inf).softmax(-1)
        out.append(weights @ past[1])
        before = past[0].shape[2]
        past = cache(past, weights)
        if past[0].shape[2] < before:
            kept = kept.gather(1, cache.keep)
        yield torch.cat(out, 2), kept, cache.hh_score


@pytest.mark.parametrize(("hh", "recent", "prompt"), [(6, 9, 30), (1, 20, 21), (12, 0, 25), (0, 8, 40), (10, 5, 4), (5, 5, 10)])
def test_equals_the_authors_code_at_every_step(hh, recent, prompt):
    q, k, v = planted()
    ours = H2OCache(hh + recent, recent)
    spans = [(0, prompt), *((i, i + 1) for i in range(prompt, LONG))]
    theirs = [official(q[b : b + 1], k[b : b + 1], v[b : b + 1], hh, recent, prompt) for b in range(2)]
    evictions = 0
    for (start, end), *references in zip(spans, *theirs, strict=True):
        y = step(ours, *(x[:, :, start:end] for x in (q, k, v)))
        layer = ours.layers[0]
        evictions += layer.positions is not None
        for b, (out, kept, scores) in enumerate(references):
            assert (y[b] - out[0, :, start:end]).abs().max() < 1e-5
            assert torch.equal(layer.kept[b].expand(HEADS, -1), kept)
            ours_in_order = layer.scores[b].gather(-1, layer.columns_held()[b].argsort(-1).expand(HEADS, -1))
            assert (ours_in_order - scores).abs().max() < 1e-5
    assert evictions >= 20
    last = layer.kept
    if hh and recent:
        assert not torch.equal(last[:, 0], last[:, 1])  # heads differ
        assert (last[..., :hh] >= hh).any()  # not just the first tokens


@pytest.mark.parametrize("group", GROUPS)
def test_groups_choose_by_what_they_say(group):
    """Against each query head by itself, whose scores are put together by hand."""
    q, k, v = planted(heads=6, kv_heads=2)
    cache = H2OCache(14, 5, group=group)
    step(cache, *(x[:, :, :40] for x in (q, k, v)))
    kk = k[:, :, :40].repeat_interleave(3, 1)
    p = (q[:, :, :40] @ kk.mT / DIM**0.5).masked_fill(torch.ones(40, 40, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
    scores = p.sum(2)  # (2, 6, 40)
    wanted = {
        "sum": scores.view(2, 2, 3, 40).sum(2),
        "mean": scores.view(2, 2, 3, 40).mean(2),
        "first": scores[:, ::3],
        "each": scores,
    }[group]
    heavy = wanted[..., :35].topk(9).indices.sort().values
    layer = cache.layers[0]
    assert torch.equal(layer.kept[..., :9], heavy)
    assert torch.equal(layer.kept[..., 9:], torch.arange(35, 40).expand(*heavy.shape[:2], 5))
    assert torch.allclose(layer.scores[..., :9], wanted.gather(2, heavy), atol=1e-5)
    heads = torch.arange(wanted.shape[1]) * 2 // wanted.shape[1]
    for b in range(2):
        for h, of in enumerate(heads.tolist()):
            assert torch.equal(layer.keys[b, h], k[b, of, layer.kept[b, h]])
            assert torch.equal(layer.values[b, h], v[b, of, layer.kept[b, h]])
    y = step(cache, *(x[:, :, 40:41] for x in (q, k, v)))  # and goes on with what it kept
    n = layer.kept if layer.kept.shape[1] == 6 else layer.kept.repeat_interleave(3, 1)
    assert y.shape == (2, 6, 1, DIM)
    assert n.shape == (2, 6, 14)


def test_each_head_that_shares_nothing_is_the_same_as_no_groups():
    q, k, v = planted(heads=6, kv_heads=2)
    caches = H2OCache(14, 5, group="each"), H2OCache(14, 5)
    for start, end in [(0, 30), *((i, i + 1) for i in range(30, LONG))]:
        new = [x[:, :, start:end] for x in (q, k, v)]
        shared = step(caches[0], *new)
        apart = step(caches[1], new[0], *(x.repeat_interleave(3, 1) for x in new[1:]))
        assert torch.allclose(shared, apart, atol=1e-5)
    assert torch.equal(caches[0].layers[0].kept, caches[1].layers[0].kept)


def test_normalized_scores_are_kvpress():
    """`ObservedAttentionPress.score`, without its padding."""
    q, k, v = planted(heads=6, kv_heads=2)
    p = (q @ k.repeat_interleave(3, 1).mT / DIM**0.5).masked_fill(torch.ones(LONG, LONG).triu(1).bool(), -torch.inf).softmax(-1)
    scores = p.sum(2)
    n_tokens_in_sum = torch.arange(LONG, 0, -1)
    wanted = (scores / n_tokens_in_sum).view(2, 2, 3, LONG).mean(2)
    ours = per_query(pool(accumulate(None, p), 2, "mean"), torch.arange(LONG), LONG)
    assert torch.allclose(ours, wanted, atol=1e-6)
    cache = H2OCache(20, 0, group="mean", normalize=True)
    step(cache, q, k, v)
    assert torch.equal(cache.layers[0].kept, wanted.topk(20).indices.sort().values)


def test_normalizing_saves_a_heavy_token_that_comes_late():
    """For 40 tokens all look at key 2; then a key comes that all look at."""
    q, k, v = torch.zeros(1, 1, 80, DIM), torch.zeros(1, 1, 80, DIM), torch.randn(1, 1, 80, DIM)
    k[0, 0, 2:12, 0], k[0, 0, 50, 1] = 6.0, 9.0
    q[..., :50, 0], q[..., 50:, 1] = 3.0, 3.0
    kept = {}
    for normalize in (False, True):
        cache = H2OCache(8, 4, normalize=normalize)
        step(cache, *(x[:, :, :50] for x in (q, k, v)))
        for i in range(50, 80):
            step(cache, *(x[:, :, i : i + 1] for x in (q, k, v)))
        kept[normalize] = cache.layers[0].kept[0, 0].tolist()
    assert 50 in kept[True]
    assert {2, 3, 4} <= set(kept[False])


def test_positions_by_place_are_rotated_from_scratch():
    """The authors' streaming form: keys without rotation are kept, and rotated by their index in the cache."""
    q, k, v = planted(heads=6, kv_heads=2)
    frequency = 100.0 ** (-torch.arange(0, DIM, 2) / DIM)
    turn = lambda x, at: rotate(x, at[..., None] * frequency)  # noqa: E731
    at = torch.arange(LONG)
    cache = H2OCache(14, 5, positions="cache")
    config = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
    scores = kept = None
    for start, end in [(0, 30), *((i, i + 1) for i in range(30, 44)), (44, 47), *((i, i + 1) for i in range(47, LONG))]:
        y = step(cache, turn(q[:, :, start:end], at[start:end]), turn(k[:, :, start:end], at[start:end]),
                 v[:, :, start:end], **config)  # fmt: skip
        new = torch.arange(start, end).expand(2, 2, -1)
        kept = new if kept is None else torch.cat([kept, new], 2)
        n, rows = kept.shape[2], end - start
        held_k, held_v = (x.gather(2, kept[..., None].expand(-1, -1, -1, DIM)).repeat_interleave(3, 1) for x in (k, v))
        weights = turn(q[:, :, start:end], torch.arange(n - rows, n)) @ turn(held_k, torch.arange(n)).mT / DIM**0.5
        weights = weights.masked_fill(torch.ones(rows, n, dtype=torch.bool).triu(n - rows + 1), -torch.inf).softmax(-1)
        assert (y - weights @ held_v).abs().max() < 2e-5
        summed = weights.sum(2).view(2, 2, 3, n).sum(2)
        if scores is not None:
            summed[..., : scores.shape[2]] += scores
        keep = torch.cat([summed[..., : n - 5].topk(9).indices.sort().values, torch.arange(n - 5, n).expand(2, 2, 5)], 2)
        scores, kept = summed.gather(2, keep), kept.gather(2, keep)
        assert torch.equal(cache.layers[0].kept, kept)


def test_frequencies_that_move_are_refused():
    cache = H2OCache(6, 2, positions="cache")
    q, k, v = planted(1)
    config = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}}
    step(cache, *(x[:, :, :20] for x in (q, k, v)), **config)
    with pytest.raises(ValueError, match="rope_type must be default, linear, llama3 or yarn"):
        step(cache, *(x[:, :, 20:21] for x in (q, k, v)), **config)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_selection_is_the_recent_ones_and_the_best_of_the_others(data):
    n = data.draw(st.integers(1, 20))
    budget = data.draw(st.integers(1, 22))
    recent = data.draw(st.integers(0, budget))
    scores = torch.randn(2, 3, n, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    before = scores.clone()
    keep = select(scores, budget, recent)
    assert torch.equal(scores, before)
    assert keep.shape == (2, 3, min(budget, n))
    for b in range(2):
        for h in range(3):
            best = sorted(range(n), key=lambda i: (i < n - recent, -float(scores[b, h, i])))
            assert keep[b, h].tolist() == sorted(best[:budget])


def test_dead_tokens_go_first_but_the_window_stands():
    scores = torch.tensor([[[9.0, 8, 1, 2, 3, 0, 0]]])
    dead = torch.tensor([[[True, True, False, False, False, False, False]]])
    assert select(scores, 4, 2, dead).tolist() == [[[3, 4, 5, 6]]]
    assert select(scores, 6, 2, dead).shape == (1, 1, 6)


def test_evict_takes_everything_along_and_owns_its_memory():
    g = torch.Generator().manual_seed(0)
    keep = torch.tensor([[[0, 3], [1, 2], [2, 4], [0, 1]], [[1, 4], [0, 4], [2, 3], [1, 3]]])
    keys, scores = torch.randn(2, 2, 5, 3, generator=g), torch.randn(2, 4, 5, generator=g)
    few_keys, few_scores = evict(keep, keys, scores)
    for b in range(2):
        for h in range(4):
            assert torch.equal(few_keys[b, h], keys[b, h // 2, keep[b, h]])
            assert torch.equal(few_scores[b, h], scores[b, h, keep[b, h]])
    assert few_keys.untyped_storage().nbytes() == few_keys.nbytes
    assert torch.equal(evict(keep[:, :1], keys)[0][1, 1], keys[1, 1, keep[1, 0]])


@pytest.mark.parametrize("block", [1, 3, 100])
def test_probabilities_in_blocks(block):
    q, k, _ = planted(heads=6, kv_heads=2)
    q = q[:, :, 20:]
    visible = torch.rand(2, 2, 40, LONG, generator=torch.Generator().manual_seed(3)) < 0.5
    visible[1, 0, 5] = False
    for seen in (None, visible):
        mask = torch.ones(40, LONG).tril(LONG - 40).bool() if seen is None else seen.repeat_interleave(3, 1)
        whole = (q @ k.repeat_interleave(3, 1).mT * 0.2).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0)
        parts = list(probabilities(q, k, 0.2, seen, block))
        assert [start for start, _ in parts] == list(range(0, 40, block))
        assert torch.allclose(torch.cat([p for _, p in parts], 2), whole, atol=1e-6)


def test_scores_add_up_to_the_queries():
    q, k, v = planted()
    cache = H2OCache(100)
    step(cache, *(x[:, :, :50] for x in (q, k, v)))
    step(cache, *(x[:, :, 50:] for x in (q, k, v)), mask=torch.ones(10, 60).tril(50).bool()[None, None])
    assert torch.allclose(cache.layers[0].scores.sum(-1), torch.full((2, HEADS), 60.0), atol=1e-4)


def test_half_precision_keeps_scores_in_float32():
    q, k, v = (x.bfloat16() for x in planted(heads=6, kv_heads=2))
    cache = H2OCache(14)
    assert step(cache, q, k, v).dtype == torch.bfloat16
    assert cache.layers[0].scores.dtype == torch.float32
    assert cache.layers[0].keys.dtype == torch.bfloat16
    assert module(6, 2).num_key_value_groups == 3
