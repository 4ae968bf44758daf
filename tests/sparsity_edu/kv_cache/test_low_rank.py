"""A latent of full rank loses nothing; a smaller one is the best there is."""

import pytest
import torch
from small_models import FAMILIES, VOCABULARY, batch, small_model
from transformers import AutoModelForCausalLM, DynamicCache, GlmConfig, PhiConfig, SmolLM3Config

from sparsity_edu.kv_cache import WindowCache, attending
from sparsity_edu.kv_cache.low_rank import input_statistics, low_rank
from sparsity_edu.kv_cache.mla import from_gqa

FULL = 2 * 2 * 8  # numbers of keys and values
TEXTS = torch.randint(1, VOCABULARY, (4, 40), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("calibration", [None, TEXTS], ids=["", "calibrated"])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "smollm2"])
@torch.no_grad()
def test_full_rank_is_the_model(family, calibration):
    model, given = small_model(family, "sdpa"), batch()
    same = from_gqa(model, FULL, calibration)
    real = given["attention_mask"].bool()
    assert (same(**given).logits - model(**given).logits)[real].abs().max() < 2e-4
    options = dict(max_new_tokens=20, do_sample=False)
    cache = DynamicCache(config=model.config)
    assert torch.equal(same.generate(**given, past_key_values=cache, **options), model.generate(**given, **options))


@pytest.mark.parametrize("config", [SmolLM3Config, PhiConfig, GlmConfig], ids=["in some layers", "in part", "interleaved"])
def test_other_rotations_are_refused(config):
    """Turned as Llama's, these keys would be wrong, and nobody would know."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 8}
    model = AutoModelForCausalLM.from_config(config(**sizes, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0))
    with pytest.raises(ValueError, match=f"model must rotate its keys as Llama does, .*, got {config.model_type}"):
        from_gqa(model, 9)
    by_place = WindowCache(4, positions="cache")
    with attending(model), pytest.raises(ValueError, match="model must rotate its keys as Llama does"):
        model.generate(TEXTS[:1, :6], past_key_values=by_place, max_new_tokens=3, do_sample=False)


@torch.no_grad()
def test_a_token_leaves_rank_numbers():
    model, cache = from_gqa(small_model("qwen2", "sdpa"), 11), DynamicCache()
    model.generate(**batch(), past_key_values=cache, max_new_tokens=9, do_sample=False)
    for layer in cache.layers:
        assert layer.keys.shape == (3, 1, 32, 11)
        assert layer.values.numel() == 0


@torch.no_grad()
def test_more_rank_is_nearer_and_calibration_helps():
    model = small_model("llama", "sdpa")
    exact = model(TEXTS).logits

    def error(rank, **options):
        return (from_gqa(model, rank, **options)(TEXTS).logits - exact).square().mean()

    errors = [error(rank) for rank in (4, 12, 24, 30)]
    assert errors == sorted(errors, reverse=True)
    assert error(20, calibration=TEXTS) < error(20)


def test_low_rank_is_the_truncated_svd():
    W = torch.randn(12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    up, down, shift = low_rank(W, 5)
    U, S, V = torch.linalg.svd(W, full_matrices=False)
    assert torch.allclose((up @ down).double(), U[:, :5] * S[:5] @ V[:5], atol=1e-5)
    assert not shift.any()
    assert torch.allclose(up.T @ up, torch.eye(5), atol=1e-5)


def test_low_rank_minimises_the_error_of_outputs():
    """No other map of that rank is nearer on correlated inputs with a mean: tried by perturbing, and against plain SVD."""
    g = torch.Generator().manual_seed(1)
    W = torch.randn(12, 20, generator=g)
    x = torch.randn(500, 20, generator=g) @ torch.randn(20, 20, generator=g) + 3 * torch.randn(20, generator=g)
    mean, covariance, scale = x.mean(0), x.T.cov(correction=0), 1 + torch.rand(12, generator=g)

    def error(up, down, shift):
        return (((x @ down.T) @ up.T + shift - x @ W.T) / scale).square().mean()

    best = low_rank(W, 5, mean, covariance, scale)
    least = error(*best)
    S = torch.linalg.svdvals((x - mean) @ W.T / scale)
    assert torch.allclose(least, (S[5:] ** 2).sum() / (500 * 12), rtol=1e-3)  # Eckart-Young on the outputs themselves
    assert error(*low_rank(W, 5)) > 1.2 * least
    for i in range(3):
        moved = [part + 0.01 * torch.randn(part.shape, generator=g) if j == i else part for j, part in enumerate(best)]
        assert error(*moved) > least


def test_balanced_keys_do_not_take_all_of_the_rank():
    model = small_model("llama", "sdpa")
    for block in model.model.layers:
        block.self_attn.k_proj.weight.data *= 100  # keys are far larger than values
    W = model.model.layers[0].self_attn.v_proj.weight.detach()
    missing = []
    for balance in (True, False):
        layer = from_gqa(model, 6, balance=balance).model.layers[0].self_attn
        missing.append(float((layer.up[16:] @ layer.down - W).detach().norm() / W.norm()))
    assert missing[0] < missing[1] - 0.05


def test_arguments_that_are_not_allowed():
    model = small_model("llama", "sdpa")
    for rank in (0, FULL + 1):
        with pytest.raises(ValueError, match=f"rank must be from 1 to {FULL}, got {rank}"):
            from_gqa(model, rank)
    with pytest.raises(ValueError, match="model must be a transformers decoder of the Llama layout, got Linear"):
        from_gqa(torch.nn.Linear(2, 2), 1)


@torch.no_grad()
def test_statistics_serve_more_than_one_rank():
    model = small_model("llama", "sdpa")
    known = input_statistics(model, TEXTS)
    for rank in (9, 20):
        assert torch.equal(from_gqa(model, rank, known)(TEXTS).logits, from_gqa(model, rank, TEXTS)(TEXTS).logits)
