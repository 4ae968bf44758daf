"""A window with sinks is attention with a mask."""

import pytest
import torch
from small_models import step

from sparsity_edu.kv_cache import WindowCache

DIM = 10


def text(seed=0, batch=2, heads=6, kv_heads=2, length=50):
    g = torch.Generator().manual_seed(seed)
    shapes = ((batch, heads), (batch, kv_heads), (batch, kv_heads))
    return [2 * torch.randn(*shape, length, DIM, generator=g) for shape in shapes]


@pytest.mark.parametrize(("budget", "sinks", "prompt"), [(9, 4, 20), (9, 0, 20), (6, 1, 3), (5, 5, 12), (1, 0, 7)])
def test_is_a_mask(budget, sinks, prompt):
    q, k, v = text()
    recent = budget - sinks
    i, j = torch.arange(50)[:, None], torch.arange(50)
    mask = (j <= i) & ((j < sinks) | (i - j <= recent) | (i < prompt))  # the newest token and `budget` before it
    mask[prompt:] &= torch.where(i[prompt:] == prompt, (j < sinks) | (j >= prompt - recent), True)
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    cache, out = WindowCache(budget, sinks), []
    for start, end in [(0, prompt), *((t, t + 1) for t in range(prompt, 50))]:
        out.append(step(cache, *(x[:, :, start:end] for x in (q, k, v))))
        kept = cache.layers[0].kept
        assert kept.shape[2] <= max(budget, 0)
        wanted = sorted({*range(min(sinks, end)), *range(max(0, end - recent), end)})
        assert kept.expand(2, 1, -1)[1, 0].tolist() == (wanted if end > budget else list(range(end)))
    assert (torch.cat(out, 2) - exact).abs().max() < 1e-5


def test_sinks_are_the_first_that_are_no_padding():
    q, k, v = text(length=20)
    real = torch.arange(20) >= torch.tensor([[0], [6]])
    mask = torch.ones(20, 20).tril().bool() & real[:, None]
    cache = WindowCache(7, 3)
    step(cache, q, k, v, mask=mask[:, None])
    assert cache.layers[0].kept[:, 0].tolist() == [[0, 1, 2, 16, 17, 18, 19], [6, 7, 8, 16, 17, 18, 19]]


def test_a_mask_of_numbers_is_one_of_booleans():
    q, k, v = text(length=20)
    real = torch.arange(20) >= torch.tensor([[0], [6]])
    mask = (torch.ones(20, 20).tril().bool() & real[:, None])[:, None]
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    caches = WindowCache(7, 3), WindowCache(7, 3)
    first, second = (step(cache, q, k, v, mask=m) for cache, m in zip(caches, (mask, added), strict=True))
    assert torch.allclose(first[0], second[0], atol=1e-6)
    assert torch.equal(caches[0].layers[0].kept, caches[1].layers[0].kept)
