"""Pages are scored by a true bound, and attention over some of them is softmax over their tokens."""

import pytest
import torch
from interpreter import shuffled
from matrices import ALL_DTYPES

from autograder.inside.sanitizer import watch
from sparsity_edu.kernels import sparse_attention
from sparsity_edu.kernels import sparse_attention_cpu as loops
from sparsity_edu.kernels.sparse_attention import page_bounds, page_scores, sparse_decode

BATCH, HEADS, KV_HEADS, TOKENS, DIM = 2, 6, 2, 203, 40  # the last page is not full, the width no power of two
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(params=["interpreter", "torch", "numba", "numba, threads"])
def either(request, monkeypatch):
    """Each way to run it."""
    if request.param != "interpreter":
        monkeypatch.setattr(sparse_attention, "runs_kernels", lambda x: False)
    if request.param == "torch":
        monkeypatch.setattr(loops, "can_run", lambda x: False)
    if request.param == "numba, threads":
        request.getfixturevalue("threads")


def cache(dtype=torch.float32, seed=0):
    """q, keys, values; some keys are long, so that attention is not flat."""
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(BATCH, *shape, DIM, generator=g) for shape in ((HEADS,), (KV_HEADS, TOKENS), (KV_HEADS, TOKENS)))
    return q.to(dtype), (k * torch.rand(BATCH, KV_HEADS, TOKENS, 1, generator=g) * 3).to(dtype), v.to(dtype)


def products(q, k):
    """(batch, heads, tokens), in float64."""
    return torch.einsum("bhd,bhtd->bht", q.double(), k.double().repeat_interleave(HEADS // KV_HEADS, 1))


def some_pages(lists, n, seed=1):
    g = torch.Generator().manual_seed(seed)
    pages = torch.stack([torch.randperm(13, generator=g)[:n] for _ in range(BATCH * lists)]).view(BATCH, lists, n)
    pages[0, 0, 1] = -1
    pages[1, 1] = 12 - torch.arange(n)  # the last page among them
    return pages


def attended(q, k, v, pages, scale=DIM**-0.5):
    """Softmax over all tokens, with those of other pages at minus infinity."""
    scores = torch.full((BATCH, HEADS, TOKENS), -torch.inf, dtype=torch.float64)
    dots = products(q, k) * scale
    for b in range(BATCH):
        for h in range(HEADS):
            for page in pages[b, h * pages.shape[1] // HEADS].tolist():
                if page >= 0:
                    scores[b, h, 16 * page : 16 * page + 16] = dots[b, h, 16 * page : 16 * page + 16]
    return torch.einsum("bht,bhtd->bhd", scores.softmax(-1).nan_to_num(0), v.double().repeat_interleave(HEADS // KV_HEADS, 1))


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.usefixtures("either")
def test_scores_bound_every_product(dtype):
    q, k, _ = cache(dtype)
    low, high = page_bounds(k)
    assert low.shape == high.shape == (BATCH, KV_HEADS, 13, DIM)
    with watch() as seen:
        scores = page_scores(q, low, high)
    assert scores.dtype == torch.float32
    first, last = (products_of(q, bound) for bound in (low, high))
    assert (scores.double() - torch.maximum(first, last).sum(-1)).abs().max() < 1e-4
    best = torch.stack([page.amax(-1) for page in products(q, k).split(16, -1)], -1)
    assert (scores >= best - 1e-4).all()
    if seen.memories:
        assert seen.of(low).bytes_loaded == low.nbytes  # once for all queries that share a head of keys
        assert seen.of(high).bytes_loaded == high.nbytes
        assert seen.of(scores).bytes_written == scores.nbytes


def products_of(q, bound):
    return q.double()[:, :, None] * bound.double().repeat_interleave(HEADS // KV_HEADS, 1)


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("lists", [HEADS, KV_HEADS])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.usefixtures("either")
def test_attention_over_chosen_pages(lists, index, dtype):
    (q, k, v), pages = cache(dtype), some_pages(lists, 5).to(index)
    with watch() as seen:
        y = sparse_decode(q, k, v, pages)
    assert y.dtype == dtype
    assert (y.double() - attended(q, k, v, pages)).abs().max() < TOLERANCE[dtype]
    if seen.memories:
        tokens = sum(min(16, TOKENS - 16 * page) for page in pages.flatten().tolist() if page >= 0)
        for stored in (k, v):
            assert seen.of(stored).bytes_loaded == tokens * DIM * dtype.itemsize
        assert seen.of(y).bytes_written == y.nbytes


ROWS = torch.tensor([[7, 23, 190], [0, 0, 177]])  # padding and a window; room behind the end


@pytest.mark.parametrize("lists", [HEADS, KV_HEADS])
@pytest.mark.usefixtures("either")
def test_rows_begin_and_end_where_they_say(lists):
    q, k, v = cache()
    g = torch.Generator().manual_seed(2)
    pages = torch.stack([torch.randperm(12, generator=g)[:9] for _ in range(BATCH * lists)]).view(BATCH, lists, 9)
    y = sparse_decode(q, k, v, pages, rows=ROWS)
    for b, (begin, first, end) in enumerate(ROWS.tolist()):
        for h in range(HEADS):
            chosen = pages[b, h * lists // HEADS].tolist()
            token = [t for page in chosen for t in range(begin + 16 * page, begin + 16 * page + 16) if first <= t < end]
            weights = (products(q, k)[b, h, token] * DIM**-0.5).softmax(-1)
            exact = weights @ v[b, h // (HEADS // KV_HEADS), token].double()
            assert (y[b, h].double() - exact).abs().max() < 2e-6


@pytest.mark.usefixtures("either")
def test_all_pages_are_full_attention():
    q, k, v = cache()
    pages = torch.randperm(13, generator=torch.Generator().manual_seed(5)).expand(BATCH, HEADS, 13).contiguous()
    exact = torch.nn.functional.scaled_dot_product_attention(q[:, :, None], k, v, enable_gqa=True)[:, :, 0]
    assert (sparse_decode(q, k, v, pages) - exact).abs().max() < 2e-6


@pytest.mark.usefixtures("either")
def test_large_scores_do_not_overflow():
    q, k, v = cache()
    pages = some_pages(HEADS, 5)
    y = sparse_decode(q, k, v, pages, scale=400.0)
    assert (y.double() - attended(q, k, v, pages, scale=400.0)).abs().max() < 1e-3


@pytest.mark.usefixtures("either")
def test_heads_without_pages_give_zero():
    q, k, v = cache()
    pages = some_pages(HEADS, 5)
    pages[0, 2] = -1
    y = sparse_decode(q, k, v, pages)
    assert not y[0, 2].any()
    assert (y.double() - attended(q, k, v, pages)).abs().max() < 2e-6
    assert not sparse_decode(q, k, v, pages[..., :0].contiguous()).any()


def test_the_order_of_programs_changes_no_bit():
    q, k, v = cache()
    pages = torch.arange(13).expand(BATCH, HEADS, 13).contiguous()
    first = sparse_decode(q, k, v, pages)
    for seed in range(3):
        with shuffled(seed):
            assert torch.equal(sparse_decode(q, k, v, pages), first)


Q, K, V = cache()
PAGES = some_pages(HEADS, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sparse_decode(Q[:, :5].contiguous(), K, V, PAGES), r"keys must be .* heads a multiple of kv_heads"),
        (lambda: sparse_decode(Q.half(), K, V, PAGES), "keys must be in torch.float16 on cpu as q is, got torch.float32"),
        (lambda: sparse_decode(Q, K, V[:, :, 1:], PAGES), "values must be like keys"),
        (
            lambda: sparse_decode(Q, K, V, PAGES[:, :3]),
            r"pages must be \(2, 6 or 2, n\) of whole numbers on cpu, got \(2, 3, 5\)",
        ),
        (lambda: sparse_decode(Q, K, V, PAGES.float()), "in torch.float32"),
        (lambda: sparse_decode(Q, K, V, PAGES.to("meta")), "on meta"),
        (lambda: sparse_decode(Q, K, V, PAGES, rows=ROWS.int()), r"rows must be \(2, 3\) in torch.int64 .* in torch.int32"),
        (lambda: sparse_decode(Q, K, V, PAGES, rows=ROWS[:1]), r"got \(1, 3\)"),
        (lambda: sparse_decode(Q, K, V.to("meta"), PAGES), "values must be like keys, .* on meta"),
        (lambda: page_scores(Q, K, K.to("meta")), "high must be like low, .* on meta"),
        (lambda: sparse_decode(Q, K.mT.contiguous().mT, V, PAGES), "keys must be contiguous"),
        (lambda: page_scores(Q, K, K[:, :, 1:]), "high must be like low"),
        (lambda: page_scores(Q.mT.contiguous().mT, K, K), "q must be contiguous"),
    ],
)
def test_arguments_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
