"""Quest against the authors' evaluation code and a plain version of their kernels; bounds are bounds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from official import quest_step
from small_models import step

from sparsity_edu.kernels import sparse_attention
from sparsity_edu.kernels.sparse_attention import page_bounds, page_scores, sparse_decode
from sparsity_edu.kv_cache import QuestCache
from sparsity_edu.kv_cache.quest import (
    attend_pages,
    attend_part,
    extend_bounds_,
    merge,
    select_pages,
    upper_bounds,
)

HEADS, KV_HEADS, DIM, LONG = 6, 2, 12, 90


def text(seed=0, batch=2, heads=HEADS, kv_heads=KV_HEADS, length=LONG):
    """Keys of neighbours are alike, as in a text: pages differ."""
    g = torch.Generator().manual_seed(seed)
    q = 2 * torch.randn(batch, heads, length, DIM, generator=g)
    drift = torch.randn(batch, kv_heads, -(-length // 7), DIM, generator=g).repeat_interleave(7, 2)[:, :, :length]
    k = drift + 0.6 * torch.randn(batch, kv_heads, length, DIM, generator=g)
    return q, k - 0.8, torch.randn(batch, kv_heads, length, DIM, generator=g)


def read_tokens(layer, b, list_, page):
    return sorted(t for p in layer.pages[b, list_].tolist() if p >= 0 for t in range(p * page, min((p + 1) * page, layer.seen)))


@pytest.mark.parametrize(("budget", "page"), [(20, 4), (48, 16), (30, 7), (200, 16), (20, 16)])
def test_equals_the_authors_evaluation_code(budget, page):
    q, k, v = text()
    cache = QuestCache(budget, page, dense_layers=0, convention="evaluation")
    step(cache, *(x[:, :, :33] for x in (q, k, v)))
    layer = cache.layers[0]
    for i in range(33, LONG):
        y = step(cache, *(x[:, :, i : i + 1] for x in (q, k, v)))
        keys, values = (x[:, :, : i + 1].repeat_interleave(3, 1) for x in (k, v))
        for b in range(2):
            exact, mask = quest_step(q[b : b + 1, :, i : i + 1], keys[b : b + 1], values[b : b + 1], budget, page)
            assert (y[b] - exact[0]).abs().max() < 1e-5
            for h in range(HEADS):
                read = list(range(i + 1)) if layer.pages is None else read_tokens(layer, b, h, page)
                assert read == mask[0, h].nonzero().flatten().tolist()


@pytest.mark.parametrize(("budget", "page"), [(20, 4), (48, 16), (30, 7), (23, 16)])
@pytest.mark.parametrize("group", ["each", "sum", "max"])
def test_equals_the_kernels(group, budget, page):
    """The best budget // page - 1 of all pages but the last, and the last, if there are more pages than that."""
    q, k, v = text()
    cache = QuestCache(budget, page, dense_layers=0, group=group)
    step(cache, *(x[:, :, :19] for x in (q, k, v)))
    layer, count, sparse = cache.layers[0], budget // page, 0
    for i in range(19, LONG):
        y = step(cache, *(x[:, :, i : i + 1] for x in (q, k, v)))
        assert (layer.pages is None) == (-(-(i + 1) // page) <= count)
        for b in range(2):
            scores = []
            for h in range(HEADS):
                pages = k[b, h // 3, : i + 1].split(page)
                scores.append(torch.stack([torch.maximum(q[b, h, i] * p.amin(0), q[b, h, i] * p.amax(0)).sum() for p in pages]))
            for h in range(HEADS):
                near = scores[h // 3 * 3 : h // 3 * 3 + 3]
                own = {"each": scores[h], "sum": sum(near), "max": torch.stack(near).amax(0)}[group]
                chosen = range(len(own))
                if len(own) > count:
                    chosen = sorted([*own[:-1].topk(count - 1).indices.tolist(), len(own) - 1])
                    assert [p for p in layer.pages[b, h if group == "each" else h // 3].tolist() if p >= 0] == chosen
                    sparse += 1
                token = [t for p in chosen for t in range(p * page, min((p + 1) * page, i + 1))]
                weights = (k[b, h // 3, token] @ q[b, h, i] / DIM**0.5).softmax(-1)
                assert (y[b, h, 0] - weights @ v[b, h // 3, token]).abs().max() < 1e-5
    assert sparse > 200


def test_budget_that_exceeds_the_text_by_conventions():
    """100 tokens, budget 512: the authors' evaluation code drops a page (their issue 22), their kernels read all."""
    scores = torch.randn(1, 3, 7, generator=torch.Generator().manual_seed(0))
    assert select_pages(scores, 512, tokens=100).tolist() == [[list(range(7))] * 3]
    dropped = select_pages(scores, 512, tokens=100, convention="evaluation")
    assert dropped.shape == (1, 3, 6)
    assert [set(range(7)) - set(row) for row in dropped[0].tolist()] == [{int(i)} for i in scores[0].argmin(-1)]


def test_rows_have_pages_of_their_own():
    scores = torch.tensor([[[5.0, 4, 3, 2, 1]], [[5.0, 4, 3, 2, 1]]])
    assert select_pages(scores, 12, 4, tokens=torch.tensor([20, 6])).tolist() == [[[0, 1, 4]], [[0, 1, -1]]]
    hidden = scores.masked_fill(torch.tensor([True, True, False, False, False]), -torch.inf)
    assert select_pages(hidden, 16, 4, tokens=20).tolist() == [[[2, 3, 4, -1]], [[2, 3, 4, -1]]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 99))
def test_no_product_exceeds_its_bound(tokens, page, seed):
    q, k, _ = text(seed, length=tokens)
    bounds = page_bounds(k, page)
    scores = upper_bounds(q[:, :, -1], *bounds)
    assert torch.allclose(page_scores(q[:, :, -1].contiguous(), *bounds), scores, atol=1e-4)
    products = (k.repeat_interleave(3, 1) @ q[:, :, -1, :, None])[..., 0]
    best = torch.stack([part.amax(-1) for part in products.split(page, -1)], -1)
    assert (scores >= best - 1e-4).all()
    if page == 1:
        assert torch.allclose(scores, products, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 11), min_size=1, max_size=6), st.integers(1, 7))
def test_bounds_grow_as_keys_come(parts, page):
    tokens = sum(parts)
    _, k, _ = text(3, length=tokens)
    low, high = (torch.full((2, KV_HEADS, -(-tokens // page) + 2, DIM), 7.0) for _ in range(2))
    known = 0
    for part in parts:
        extend_bounds_(low, high, k[:, :, known : known + part], known, page)
        known += part
    pages = -(-tokens // page)
    for grown, exact in zip((low, high), page_bounds(k, page), strict=True):
        assert torch.equal(grown[:, :, :pages], exact)
        assert (grown[:, :, pages:] == 7).all()


def test_parts_of_a_softmax_are_merged():
    q, k, v = text()
    q = 50 * q[:, :2, -1]  # exponentials of these scores overflow
    whole = torch.nn.functional.scaled_dot_product_attention(q[:, :, None], k, v)[:, :, 0]
    spans = slice(0, 3), slice(3, 4), slice(4, 90)
    parts = [attend_part(q, k[:, :, span], v[:, :, span], DIM**-0.5) for span in spans]
    assert torch.allclose(merge(*map(torch.stack, zip(*parts, strict=True))), whole, atol=1e-5)


def test_plain_and_fast_attention_over_pages():
    q, k, v = text(heads=2)
    pages = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(i))[:4] for i in range(4)]).view(2, 2, 4)
    pages[0, 1, 2] = -1
    fast = sparse_decode(q[:, :, -1].contiguous(), k, v, pages, 16)
    for b in range(2):
        assert torch.allclose(attend_pages(q[b, :, -1], k[b], v[b], pages[b]), fast[b], atol=1e-5)


@pytest.mark.parametrize("padding", [0, 5])
def test_the_kernels_do_the_same(monkeypatch, padding):
    """In Triton's interpreter, through the cache."""
    q, k, v = text(length=40)
    mask = torch.ones(40, 40).tril().bool() & (torch.arange(40) >= torch.tensor([[0], [padding]]))[:, None]
    outs = []
    for kernels in (False, True):
        monkeypatch.setattr(sparse_attention, "runs_kernels", lambda x, kernels=kernels: kernels)
        cache = QuestCache(12, 4, dense_layers=0)
        step(cache, *(x[:, :, :37] for x in (q, k, v)), mask=mask[:, None, :37, :37])
        outs.append([step(cache, *(x[:, :, i : i + 1] for x in (q, k, v)), mask=mask[:, None, i : i + 1, : i + 1])
                     for i in range(37, 40)])  # fmt: skip
    assert torch.allclose(torch.cat(outs[0]), torch.cat(outs[1]), atol=1e-5)


def test_pages_behind_a_models_own_window_are_not_read():
    q, k, v = text(length=40)
    cache = QuestCache(12, 4, dense_layers=0)
    step(cache, *(x[:, :, :39] for x in (q, k, v)))
    seen = torch.arange(40) >= 26  # a window of 14 tokens begins inside a page
    y = step(cache, *(x[:, :, 39:] for x in (q, k, v)), mask=seen[None, None, None].expand(2, 1, 1, 40))
    layer = cache.layers[0]
    assert layer.pages[layer.pages >= 0].min() >= 6
    for b in range(2):
        for h in range(HEADS):
            token = [t for t in read_tokens(layer, b, h, 4) if t >= 26]
            weights = (k[b, h // 3, token] @ q[b, h, 39] / DIM**0.5).softmax(-1)
            assert torch.allclose(y[b, h, 0], weights @ v[b, h // 3, token], atol=1e-5)


def test_the_first_layers_read_everything():
    q, k, v = text()
    cache = QuestCache(16, 4, dense_layers=7)  # `step` counts layers from 5
    for layer in range(4):
        step(cache, *(x[:, :, :80] for x in (q, k, v)), layer=layer)
        step(cache, *(x[:, :, 80:81] for x in (q, k, v)), layer=layer)
    assert [layer.pages is None for layer in cache.layers] == [True, True, False, False]
    assert [layer.low is None for layer in cache.layers] == [True, True, False, False]


@pytest.mark.parametrize("group", ["each", "sum"])
def test_bytes_read_by_hand(group):
    q, k, v = (x.bfloat16() for x in text())
    cache = QuestCache(40, 8, dense_layers=0, group=group)
    step(cache, *(x[:, :, :80] for x in (q, k, v)))
    assert cache.bytes_read == 2 * KV_HEADS * 80 * 2 * DIM * 2
    step(cache, *(x[:, :, 80:81] for x in (q, k, v)))
    lists = HEADS if group == "each" else KV_HEADS
    tokens = 4 * 8 + 1  # the last page has one token
    assert cache.bytes_read == 2 * 2 * DIM * (KV_HEADS * 11 * 2 + lists * tokens * 2)
