"""MLA is transformers' DeepSeek attention, in both forms, at once or token by token."""

import pytest
import torch
from transformers import DeepseekV2Config, DeepseekV3Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention, DeepseekV2RotaryEmbedding
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from sparsity_edu.kv_cache.attention import rotate
from sparsity_edu.kv_cache.mla import FORMS, MLA, LatentCache, Shape, cost, latent, latent_attention

WIDTHS = dict(
    hidden_size=42,
    num_attention_heads=3,
    num_key_value_heads=3,
    q_lora_rank=17,
    kv_lora_rank=14,
    qk_rope_head_dim=8,
    qk_nope_head_dim=12,
    v_head_dim=10,
)
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 16}
CONFIGS = {
    "v3": {},
    "queries not compressed": {"q_lora_rank": None},
    "half-split": {"rope_interleave": False},
    "biases": {"attention_bias": True},
    "yarn": {"rope_parameters": YARN},
    "yarn, scaled": {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}},
}
ALL = pytest.mark.parametrize("config", CONFIGS)
BOTH = pytest.mark.parametrize("form", FORMS)


def deepseek(more, version=3):
    kinds = (DeepseekV3Config, DeepseekV3Attention) if version == 3 else (DeepseekV2Config, DeepseekV2Attention)
    config = kinds[0](**WIDTHS | more)
    config._attn_implementation = "eager"
    layer, g = kinds[1](config, 0).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.4 + (p.ndim == 1))
    rotary = (DeepseekV3RotaryEmbedding if version == 3 else DeepseekV2RotaryEmbedding)(config)
    return layer, rotary


def theirs(layer, rotary, x, positions, mask):
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[:, None]
    return layer(x, position_embeddings=rotary(x, positions), attention_mask=added, position_ids=positions)[0]


def inputs(tokens=11):
    return torch.randn(2, tokens, 42, generator=torch.Generator().manual_seed(1))


@BOTH
@ALL
@torch.no_grad()
def test_equals_transformers(config, form):
    layer, rotary = deepseek(CONFIGS[config])
    x, positions = inputs(), torch.arange(11)[None]
    exact = theirs(layer, rotary, x, positions, torch.ones(1, 11, 11).tril().bool())
    ours = MLA.from_deepseek(layer)
    assert (ours(x, form=form) - exact).abs().max() < 1e-5
    cache = LatentCache()
    parts = [ours(x[:, a:b], cache=cache, form=form) for a, b in ((0, 5), (5, 6), (6, 9), (9, 10), (10, 11))]
    assert (torch.cat(parts, 1) - exact).abs().max() < 1e-5
    assert cache.tokens == 11
    assert cache.bytes_held == 2 * 11 * (14 + 8) * 4  # d_c + d_R numbers of each token
    assert sum(t.untyped_storage().nbytes() for t in vars(cache).values()) == cache.bytes_held


@BOTH
@torch.no_grad()
def test_equals_version_2(form):
    layer, rotary = deepseek({}, 2)
    x, positions = inputs(), torch.arange(11)[None]
    exact = theirs(layer, rotary, x, positions, torch.ones(1, 11, 11).tril().bool())
    assert (MLA.from_deepseek(layer)(x, form=form) - exact).abs().max() < 1e-5


@BOTH
@torch.no_grad()
def test_padding_and_positions(form):
    layer, rotary = deepseek({})
    x, real = inputs(), torch.arange(11) >= torch.tensor([[0], [4]])
    mask = torch.ones(11, 11).tril().bool() & real[:, None]
    positions = (real.cumsum(1) - 1).clamp(min=0)
    exact = theirs(layer, rotary, x, positions, mask)
    ours = MLA.from_deepseek(layer)(x, positions, form=form, mask=mask)
    assert (ours - exact)[real].abs().max() < 1e-5
    alone = MLA.from_deepseek(layer)(x[1:, 4:], form=form)
    assert (ours[1:, 4:] - alone).abs().max() < 1e-5


@torch.no_grad()
def test_what_is_cached_is_normed_and_rotated_and_pairs_stay_where_they_are():
    layer, _ = deepseek({})
    ours, cache, x = MLA.from_deepseek(layer), LatentCache(), inputs()
    ours(x, cache=cache)
    down = x @ layer.kv_a_proj_with_mqa.weight.T
    c = down[..., :14] * (down[..., :14].pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * layer.kv_a_layernorm.weight
    assert torch.allclose(cache.c, c, atol=1e-5)
    turn = torch.polar(torch.ones(11, 4), torch.arange(11)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8))
    pairs = torch.view_as_complex(down[..., 14:].unflatten(-1, (4, 2)).contiguous())  # as DeepSeek's own code does
    assert torch.allclose(cache.k_rope, torch.view_as_real(pairs * turn).flatten(-2), atol=1e-5)


@torch.no_grad()
def test_forms_agree_on_their_own():
    g = torch.Generator().manual_seed(2)
    shapes = (2, 4, 3, 12), (2, 4, 3, 8), (2, 9, 14), (2, 9, 8), (3, 12, 14), (3, 10, 14)
    args = [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes]
    naive, absorbed = (latent_attention(*args, form=form) for form in FORMS)
    assert naive.shape == (2, 4, 3, 10)
    assert torch.allclose(naive, absorbed, atol=1e-6)
    for scale in (0.05, None):
        k = torch.cat([torch.einsum("btr,hnr->bhtn", args[2], args[4]), args[3][:, None].expand(-1, 3, -1, -1)], -1)
        q = torch.cat(args[:2], -1).transpose(1, 2)
        v = torch.einsum("btr,hvr->bhtv", args[2], args[5])
        mask = torch.ones(4, 9).tril(5).bool()
        exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        assert torch.allclose(latent_attention(*args, scale, form="naive"), exact.transpose(1, 2), atol=1e-6)


def test_rotations_of_both_layouts_are_rotations():
    g = torch.Generator().manual_seed(0)
    x, y, angle = torch.randn(5, 8, generator=g), torch.randn(5, 8, generator=g), torch.randn(5, 4, generator=g)
    for interleaved in (True, False):
        a, b = rotate(x, angle, interleaved), rotate(y, angle, interleaved)
        assert torch.allclose((a * b).sum(-1), (x * y).sum(-1), atol=1e-5)
        assert torch.allclose(rotate(a, -angle, interleaved), x, atol=1e-6)
    halves = x.view(5, 2, 4).mT.flatten(1)  # pairs j, j + 4 as 2j, 2j + 1
    assert torch.allclose(rotate(halves, angle, True).view(5, 4, 2).mT.flatten(1), rotate(x, angle), atol=1e-6)


def test_latent_norms_the_latent_only():
    g = torch.Generator().manual_seed(0)
    x, W, norm = torch.randn(2, 3, 10, generator=g), torch.randn(7, 10, generator=g), torch.rand(5, generator=g)
    c, k = latent(x, W, norm)
    assert c.shape == (2, 3, 5)
    assert torch.allclose(k, x @ W[5:].T, atol=1e-5)
    assert torch.allclose((c / norm).pow(2).mean(-1), torch.ones(2, 3), atol=1e-4)


def test_cost_counts_multiplications():
    """Of the two einsums that differ, counted from their shapes."""
    shape = Shape(40, 3, 12, 8, 10, 14)
    q, t = 2, 9
    naive = 2 * (q * 3 * 14 * (12 + 10) + q * t * 3 * (12 + 8 + 10))
    absorbed = 2 * (q * 3 * 14 * (12 + 10) + q * t * 3 * (14 + 8 + 14))
    assert cost(shape, q, t, "naive") == (naive, t * 3 * (12 + 8 + 10))
    assert cost(shape, q, t, "absorbed") == (absorbed, t * (14 + 8))


def test_forms_are_named():
    layer = MLA(Shape(20, 2, 6, 4, 5, 7))
    for call in (lambda: layer(torch.randn(1, 2, 20), form="fast"), lambda: cost(layer.shape, 1, 1, "fast")):
        with pytest.raises(ValueError, match="form must be one of naive, absorbed, got 'fast'"):
            call()


def test_gradients_flow_in_both_forms():
    layer, x = MLA(Shape(20, 2, 6, 4, 5, 7, 9)), torch.randn(1, 5, 20)
    grads = []
    for form in FORMS:
        layer.zero_grad()
        layer(x, form=form).square().sum().backward()
        grads.append([p.grad.clone() for p in layer.parameters()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*grads, strict=True))
