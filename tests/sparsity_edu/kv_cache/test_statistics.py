"""Counts against whole matrices of probabilities, as `transformers` computes them."""

import pytest
import torch
from small_models import VOCABULARY, small_model

from sparsity_edu.kv_cache import attention, statistics
from sparsity_edu.kv_cache.statistics import keys_for_mass, measure, power_law, small_weights

TEXTS = torch.randint(1, VOCABULARY, (2, 50), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("block", [2**24, 6 * 50 * 7])
@pytest.mark.parametrize(("first", "every"), [(0, 1), (20, 1), (11, 3)])
def test_equals_whole_matrices(monkeypatch, block, first, every):
    monkeypatch.setattr(attention, "BLOCK", block)
    model = small_model("llama", "sdpa")
    found = measure(model, TEXTS, 0.9, 0.02, first, every, progress=False)
    assert model.config._attn_implementation == "sdpa"
    eager = small_model("llama", "eager")
    with torch.no_grad():
        layers = eager(TEXTS, output_attentions=True).attentions
    queries = [i for i in range(50) if i >= first and i % every == 0]
    for layer, p in enumerate(layers):  # (2, 6, 50, 50)
        assert torch.allclose(found.scores[layer], p.sum(2).mean(0), atol=1e-4)
        for h in range(6):
            share, small = [], []
            for text in range(2):
                for i in queries:
                    row = sorted(p[text, h, i, : i + 1].tolist(), reverse=True)
                    count = next(n for n in range(1, i + 2) if sum(row[:n]) >= 0.9 or n == i + 1)
                    share.append(count / (i + 1))
                    small.append(sum(x < 0.02 * row[0] for x in row) / (i + 1))
            assert abs(found.share[layer, h] - sum(share) / len(share)) < 5e-3  # a sum may end just at the mass
            assert abs(found.small[layer, h] - sum(small) / len(small)) < 5e-3


def test_keys_for_mass():
    p = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.25, 0.25, 0.25, 0.25]])
    assert keys_for_mass(p, 0.45).tolist() == [1, 2]
    assert keys_for_mass(p, 0.85).tolist() == [3, 4]
    assert keys_for_mass(p, 1.0).tolist() == [4, 4]
    assert small_weights(p, 0.3).tolist() == [2, 0]
    for mass in (0, 1.1):
        with pytest.raises(ValueError, match=r"mass must be in \(0, 1\]"):
            keys_for_mass(p, mass)


def test_power_law_is_found_and_said_to_fit():
    rank = torch.arange(1, 200).float()
    g = torch.Generator().manual_seed(0)
    scores = torch.stack([3 * rank**-1.3, 3 * rank**-1.3, torch.rand(199, generator=g)])
    scores[1, 150:] = 0  # keys that nobody looked at
    slope, fit = power_law(scores[:, torch.randperm(199, generator=g)])
    assert torch.allclose(slope[:2], torch.tensor([-1.3, -1.3]), atol=1e-4)
    assert torch.allclose(fit[:2], torch.ones(2), atol=1e-4)
    assert fit[2] < 0.9


def test_arguments_that_are_not_allowed():
    model = small_model()
    for windows, first in ((TEXTS[0], 0), (TEXTS, 50), (TEXTS[:0], 0)):
        with pytest.raises(ValueError, match="windows must be"):
            measure(model, windows, first=first, progress=False)
    with pytest.raises(ValueError, match="every must leave a query"):
        measure(model, TEXTS, first=30, every=60, progress=False)
    assert statistics.AttentionStatistics.__dataclass_fields__.keys() == {"share", "small", "scores"}
