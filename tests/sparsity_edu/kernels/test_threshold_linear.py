"""A model whose layers skip small inputs writes what one does that zeroes them, and can be had back."""

import pytest
import torch
from matrices import kept
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from sparsity_edu.kernels import sparse_gemv


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = dict(hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=101, **sizes, attention_bias=True, tie_word_embeddings=True)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def test_a_model_writes_what_one_does_that_zeroes_small_inputs(model):
    prompt = torch.tensor([[5, 17, 3, 88, 9, 1, 40, 22, 13, 71]])  # ten tokens, then one at a time
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = dict(max_new_tokens=12, do_sample=False, pad_token_id=0)
    layers = [layer for layer in model.model.layers.modules() if isinstance(layer, nn.Linear)]
    zero = [layer.register_forward_pre_hook(lambda _, given: (kept(given[0], 0.4),)) for layer in layers]
    expected = model.generate(prompt, **options)
    for hook in zero:
        hook.remove()
    assert not torch.equal(model.generate(prompt, **options), expected)
    sparse_gemv.threshold_linear_(model, 0.4)
    assert "in_features=64, out_features=112, bias=False, threshold=0.4" in repr(model)
    assert torch.equal(model.generate(prompt, **options), expected)
    sparse_gemv.unthreshold_linear_(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_thresholds_by_name(model):
    sparse_gemv.threshold_linear_(model, {"model.layers.1.mlp.up_proj": 0.25})
    changed = [name for name, layer in model.named_modules() if isinstance(layer, sparse_gemv.ThresholdLinear)]
    sparse_gemv.unthreshold_linear_(model)
    assert changed == ["model.layers.1.mlp.up_proj"]
    with pytest.raises(ValueError, match="must name linear layers of the model's blocks, got 'lm_head'"):
        sparse_gemv.threshold_linear_(model, {"lm_head": 0.1})


def test_layers_that_share_their_input_share_one_product(model, monkeypatch):
    calls, real = [], sparse_gemv.SharedProduct._product

    def counted(product, x):
        calls.append(tuple(product.W.shape))
        return real(product, x)

    monkeypatch.setattr(sparse_gemv.SharedProduct, "_product", counted)
    attention, mlp = model.model.layers[0].self_attn, model.model.layers[0].mlp
    layers = {name: getattr(attention, f"{name}_proj") for name in "qkv"}
    gate = mlp.gate_proj
    thresholds = {f"model.layers.0.self_attn.{name}_proj": 0.4 for name in "vqk"}
    sparse_gemv.threshold_linear_(model, thresholds | {"model.layers.0.mlp.gate_proj": 0.3, "model.layers.0.mlp.up_proj": 0.5})
    x, z = torch.randn(2, 1, 64), torch.randn(2, 1, 64)
    q, k, v = (getattr(attention, f"{name}_proj") for name in "qkv")
    torch.testing.assert_close(k(x), layers["k"](kept(x, 0.4)))
    torch.testing.assert_close(q(z), layers["q"](kept(z, 0.4)))  # another input in between
    for name, layer in zip("kqv", (k, q, v), strict=True):
        torch.testing.assert_close(layer(z), layers[name](kept(z, 0.4)))
    width = sum(layer.out_features for layer in layers.values())
    assert calls == [(64, width)] * 3  # x, z, and z again for the second question to q
    z.mul_(-2)  # given out to all three: nothing of it is remembered
    torch.testing.assert_close(v(z), layers["v"](kept(z, 0.4)))
    z.mul_(-2)  # and changed while k and q still wait
    torch.testing.assert_close(k(z), layers["k"](kept(z, 0.4)))
    with torch.inference_mode():
        assert torch.equal(q(x * 1), q(x * 1))
    torch.testing.assert_close(mlp.gate_proj(x), gate(kept(x, 0.3)))
    assert calls[7:] == [(64, gate.out_features)]  # thresholds of its own: not with up


def test_whose_small_inputs_are_skipped(model):
    counts = {prefill: [sparse_gemv.dense_tokens(n, prefill) for n in (1, 2, 9)] for prefill in sparse_gemv.PREFILL}
    assert counts == {"all": [0, 0, 0], "last_half": [0, 1, 5], "none": [0, 2, 9]}
    layer, x = nn.Linear(64, 30, bias=False), torch.randn(2, 9, 64)
    expected = {prefill: layer(torch.cat([x[:, :n], kept(x[:, n:], 0.4)], 1)) for prefill, (*_, n) in counts.items()}
    for prefill, y in expected.items():
        product = sparse_gemv.SharedProduct([layer], 0.4, prefill)
        torch.testing.assert_close(product.result(x, 0), y)
        torch.testing.assert_close(product.result(x[:, :1], 0), layer(kept(x[:, :1], 0.4)))
        torch.testing.assert_close(product.result(x[0, 0], 0), layer(kept(x[0, 0], 0.4)))
    with pytest.raises(ValueError, match="prefill must be one of all, last_half, none, got 'first'"):
        sparse_gemv.threshold_linear_(model, 0.4, "first")
