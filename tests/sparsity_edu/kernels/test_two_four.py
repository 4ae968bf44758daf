"""Every product stays within rounding of float64, and reads each stored byte once."""

import pytest
import torch
from matrices import DTYPES, assert_product, two_four_matrix
from tensor_core import emulated
from transformers import LlamaConfig, LlamaForCausalLM

from autograder.inside.sanitizer import watch
from sparsity_edu.kernels import two_four
from sparsity_edu.models import load
from sparsity_edu.weights.driver import prune_


def inputs(tokens, K, dtype=torch.float16):
    return torch.randn(tokens, K, generator=torch.Generator().manual_seed(9)).to(dtype)


@pytest.fixture
def without_interpreter(monkeypatch):
    monkeypatch.setattr(two_four, "runs_kernels", lambda x: False)


SHAPES = [(37, 48, 1), (64, 1040, 3), (130, 2096, 1), (16, 16, 9)]  # N, K, tokens: tails of every kind


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "K", "tokens"), SHAPES)
@pytest.mark.parametrize("product", [two_four.gemv, two_four.gemm])
def test_products_in_the_interpreter(product, N, K, tokens, dtype):
    W, x = two_four_matrix(N, K, dtype), inputs(tokens, K, dtype)
    packed = two_four.pack(W)
    with watch() as seen:
        y = product(packed, x)
    for stored in (packed.values, packed.codes):
        assert seen.of(stored).bytes_read == stored.nbytes
    assert seen.of(y).bytes_written == y.nbytes
    assert y.shape == (tokens, N)
    assert y.dtype == dtype
    assert_product(y, x, W)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "K", "tokens"), [(32, 96, 1), (16, 1024, 5), (48, 512, 8), (16, 64, 11)])
def test_products_on_an_emulated_tensor_core(N, K, tokens, dtype):
    W, x = two_four_matrix(N, K, dtype), inputs(tokens, K, dtype)
    fragments = two_four.to_fragments(two_four.pack(W))
    with emulated(), watch() as seen:
        y = two_four.gemv(fragments, x)
    assert_product(y, x, W)
    for stored in (fragments.registers, fragments.words):
        assert seen.of(stored).bytes_read == stored.nbytes
    assert seen.of(fragments.registers).bytes_loaded == fragments.registers.nbytes * -(-tokens // 8)  # once per 8 tokens
    assert seen.of(y).bytes_written == y.nbytes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("product", [two_four.gemv, two_four.gemm])
def test_products_on_a_cpu(product, dtype, without_interpreter):
    W, x = two_four_matrix(32, 96, dtype), inputs(6, 96, dtype).view(2, 3, 96)
    packed = two_four.pack(W)
    for weights in (packed, two_four.to_fragments(packed)):
        y = product(weights, x)
        assert y.shape == (2, 3, 32)
        assert_product(y.view(6, 32), x.view(6, 96), W)


def test_the_fastest_way_is_timed_once_per_size(monkeypatch):
    W = two_four_matrix(32, 96)
    packed, timed = two_four.pack(W), []
    seconds = iter([2.0, 1.0, float("inf"), 3.0, 4.0, 5.0])

    def ways(W, x):
        return {"slow": lambda: pytest.fail("the slow one"), "fast": lambda: two_four._dense(W, x), "broken": pytest.fail}

    monkeypatch.setattr(two_four, "_ways", ways)
    monkeypatch.setattr(two_four, "_seconds", lambda call: timed.append(call) or next(seconds))
    monkeypatch.setattr(two_four, "_fastest", {})
    for tokens in (20, 30, 20):  # one size: 16 to 31
        assert_product(two_four.gemm(packed, inputs(tokens, 96)), inputs(tokens, 96), W)
    assert len(timed) == 3
    monkeypatch.setattr(two_four, "_ways", lambda W, x: dict.fromkeys("abc", lambda: two_four._dense(W, x)))
    two_four.gemm(packed, inputs(40, 96))
    assert len(timed) == 6


def test_one_token_reads_every_weight_once():
    W, x = two_four_matrix(130, 2096), inputs(1, 2096)
    packed = two_four.pack(W)
    with watch() as seen:
        two_four.gemv(packed, x)
    assert seen.of(packed.values).bytes_loaded + seen.of(packed.codes).bytes_loaded == 0.5625 * W.nbytes


def test_no_token_is_no_work():
    packed = two_four.pack(two_four_matrix(32, 64))
    for weights in (packed, two_four.to_fragments(packed)):
        for product in (two_four.gemv, two_four.gemm):
            assert product(weights, inputs(0, 64)).shape == (0, 32)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (inputs(2, 64), r"x must be \(..., 96\) in torch.float16 on cpu, got \(2, 64\) in torch.float16"),
        (inputs(2, 96).float(), "got .* in torch.float32 on cpu"),
        (inputs(96, 2).T, "x must be contiguous"),
        (inputs(2, 96).to("meta"), "on meta"),
    ],
)
@pytest.mark.parametrize("product", [two_four.gemv, two_four.gemm])
def test_inputs_that_do_not_fit(product, x, message):
    packed = two_four.pack(two_four_matrix(32, 96))
    for weights in (packed, two_four.to_fragments(packed)):
        with pytest.raises(ValueError, match=message):
            product(weights, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensor_cores_are_tried_before_they_are_used(dtype, monkeypatch):
    cpu = torch.device("cpu")
    assert not two_four.tensor_cores_work(cpu, dtype)
    with pytest.warns(UserWarning, match="sparse tensor cores are not used: .*inline_asm"):
        assert not two_four._fragments_are_right(cpu, dtype)
    with emulated():
        assert two_four._fragments_are_right(cpu, dtype)
        right = two_four.to_fragments
        monkeypatch.setattr(two_four, "to_fragments", lambda W: swapped(right(W)))
        assert not two_four._fragments_are_right(cpu, dtype)


def swapped(fragments):
    """Columns 0 to 15 and 16 to 31 of each piece with each other's indices."""
    return two_four.Fragments(
        fragments.registers, fragments.words.view(-1, 2).flip(1).view_as(fragments.words), fragments.dtype
    )


# In a model


@pytest.fixture(scope="module")
def model():
    """A small decoder at 2:4."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=101, **sizes, tie_word_embeddings=True)).half().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    prune_(model, "magnitude", pattern="2:4", progress=False)
    return model


def test_a_sparse_model_writes_what_the_masked_dense_one_does(model, without_interpreter):
    prompt = torch.tensor([[5, 17, 3, 88]])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = dict(max_new_tokens=12, do_sample=False, pad_token_id=0)
    expected = model.generate(prompt, **options)
    assert two_four.sparsify_linear_(model) == {}
    layers = [module for module in model.modules() if isinstance(module, two_four.TwoFourLinear)]
    assert len(layers) == 14
    assert "in_features=64, out_features=112, bias=False, stored as Packed24" in repr(layers[4])
    stored = sum(buffer.nbytes for layer in layers for buffer in layer.buffers())
    assert stored == 0.5625 * sum(tensor.nbytes for name, tensor in before.items() if "_proj" in name)
    assert torch.equal(model.generate(prompt, **options), expected)
    two_four.densify_linear_(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("tokens", [3, 9])  # by selection, by decompression
def test_a_sparse_layer_runs_the_kernels(tokens):
    layer = torch.nn.Linear(96, 40, dtype=torch.float16)
    with torch.no_grad():
        layer.weight.copy_(two_four_matrix(40, 96))
    sparse = two_four.TwoFourLinear.of(layer)
    x = inputs(tokens, 96)
    with torch.no_grad(), watch() as seen:
        y = sparse(x)
    assert seen.of(sparse.values).bytes_read == sparse.values.nbytes
    torch.testing.assert_close(y, layer(x), rtol=2e-3, atol=2e-3)


def test_layers_that_are_not_two_four_stay_dense_and_are_named():
    model = torch.nn.Sequential(
        torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 24), torch.nn.Conv1d(4, 4, 3)
    ).half()
    with torch.no_grad():
        model[2].weight.copy_(two_four_matrix(24, 16))
    dense = two_four.sparsify_linear_(model)
    assert list(dense) == ["0", "3"]
    assert "at most 2 non-zeros" in dense["0"]
    assert dense["3"] == "it is a Conv1d"
    assert isinstance(model[2], two_four.TwoFourLinear)
    with pytest.raises(ValueError, match="pattern must be \"2:4\", got '4:8'"):
        two_four.sparsify_linear_(model, "4:8")


def test_projections_of_experts_stay_dense_and_are_named():
    model = load("tiny-moe").model.half()
    experts = 3 * model.config.num_local_experts * model.config.num_hidden_layers
    assert list(two_four.sparsify_linear_(model).values()).count("it is an expert's") == experts
