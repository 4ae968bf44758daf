"""Losses are those of reading token by token, whoever reads beside; a class of one's own is the cache of a model."""

import pytest
import torch
import torch.nn.functional as F
from small_models import VOCABULARY, batch, small_model, unpadded, written

from sparsity_edu.kv_cache import FullCache, H2OCache, QuestCache, WindowCache, attending
from sparsity_edu.kv_cache.reading import OwnCache, losses

CACHES = {
    "full": FullCache,
    "window": lambda: WindowCache(9, 0),
    "sinks, by place": lambda: WindowCache(9, 4, positions="cache"),
    "h2o": lambda: H2OCache(9),
    "h2o, each": lambda: H2OCache(7, 3, group="each", normalize=True),
    "quest": lambda: QuestCache(8, 4, dense_layers=0),
    "a longer window": lambda: WindowCache(29, 1),
}


def texts(n=31, rows=2, seed=1):
    return torch.randint(1, VOCABULARY, (rows, n), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prompt", [1, 12, 30])
def test_losses_are_those_of_reading_alone(prompt):
    model, ids = small_model(), texts()
    with torch.no_grad():
        plain = model(ids).logits
    expected = F.cross_entropy(plain[:, prompt - 1 : -1].flatten(0, 1), ids[:, prompt:].flatten(), reduction="none")
    caches = [make() for make in CACHES.values()]
    found = losses(model, ids, caches, prompt, progress=False)
    assert found.shape == (len(CACHES), 2, 31 - prompt)
    assert found.dtype == torch.float32
    assert torch.allclose(found[0].flatten(), expected, atol=1e-4)
    for name, cache, mine in zip(CACHES, caches, found, strict=True):
        alone = CACHES[name]()
        for row, end in enumerate(range(prompt, 31)):
            given = ids[:, :prompt] if not row else ids[:, end - 1 : end]
            with torch.no_grad(), attending(model):
                logits = model(given, past_key_values=alone).logits[:, -1]
            assert torch.allclose(mine[:, row], F.cross_entropy(logits, ids[:, end], reduction="none"), atol=1e-4), name
        for one, other in zip(cache.layers, alone.layers, strict=True):
            assert torch.equal(one.kept, other.kept)
    if prompt == 12:
        assert all((found[0] - row).abs().max() > 1e-3 for name, row in zip(CACHES, found, strict=True) if "n" in name[:3])


@pytest.mark.parametrize(("prompt", "count"), [(0, 1), (31, 1), (-1, 1), (5, 0)])
def test_what_leaves_nothing_to_read(prompt, count):
    with pytest.raises(ValueError, match="prompt must be from 1 to 30 tokens, read by a cache or more, got"):
        losses(small_model(), texts(), [FullCache() for _ in range(count)], prompt)


class Everything:
    """Holds all, in a list: attention by the formula."""

    def __init__(self):
        self.parts = []

    def step(self, q, k, v, mask=None):
        real = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool) if mask is None else mask
        self.parts.append((k, v, real))
        k, v = (torch.cat([part[i] for part in self.parts], dim=2) for i in (0, 1))
        real = torch.cat([part[2] for part in self.parts], dim=1)
        new, held, group = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
        seen = torch.ones(new, held, dtype=torch.bool).tril(held - new) & real[:, None, None]
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
        return scores.softmax(-1).nan_to_num(0.0) @ v

    def positions(self):
        held = sum(part[2].shape[1] for part in self.parts)
        return torch.arange(held).expand(len(self.parts[0][0]), 1, -1)


@pytest.mark.parametrize("family", ["smollm2", "qwen3"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_class_of_ones_own_generates(family, padded):
    model, given = small_model(family), batch(padded)
    cache = OwnCache(Everything)
    mine, logits = written(model, given, cache)
    plain, expected = written(model, given, FullCache())
    assert torch.equal(mine, plain)
    assert torch.allclose(logits, expected, atol=1e-3)
    seen = cache.get_seq_length()
    assert all(layer.kept.shape == (3, 1, seen) for layer in cache.layers)
    assert cache.bytes_held == 3 * 3 * seen * (2 * 2 * 8 * 4 + 1)  # layers, rows; keys and values of two heads, and the mask
    if padded:
        alone, _ = written(model, unpadded(given, 1), OwnCache(Everything))
        assert torch.equal(mine[1:2], alone)


def test_what_it_reads_is_not_known():
    cache = OwnCache(Everything)
    written(small_model(), batch(False), cache, count=2)
    with pytest.raises(NotImplementedError, match="not known"):
        _ = cache.bytes_read
