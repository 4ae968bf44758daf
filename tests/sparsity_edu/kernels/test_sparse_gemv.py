"""Products stay within rounding of float64, read the weights that count and no others, and do not depend on an order."""

import numpy as np
import pytest
import torch
from interpreter import shuffled
from matrices import DTYPES, assert_product
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from autograder.inside.sanitizer import watch
from sparsity_edu.kernels import sparse_gemv
from sparsity_edu.kernels.sparse_gemv import compact, gemv_columns, gemv_rows, gemv_threshold

ALL_DTYPES = (*DTYPES, torch.float32)
SHAPES = [(300, 137, 1), (515, 272, 3), (64, 16, 8), (17, 300, 1), (1, 1, 2)]  # K, N, tokens: tails of every kind


@pytest.fixture
def without_interpreter(monkeypatch):
    monkeypatch.setattr(sparse_gemv, "runs_kernels", lambda x: False)


@pytest.fixture(params=["interpreter", "cpu"])
def either(request, monkeypatch):
    """Kernels in the interpreter, and torch without it."""
    if request.param == "cpu":
        monkeypatch.setattr(sparse_gemv, "runs_kernels", lambda x: False)


def matrices(K, N, tokens, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(K, N, generator=g).to(dtype), torch.randn(tokens, K, generator=g).to(dtype)


def kept(x, threshold):
    return torch.where(x.abs().double() > threshold, x, 0)


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize(("K", "N", "tokens"), SHAPES)
def test_threshold(K, N, tokens, dtype):
    W, x = matrices(K, N, tokens, dtype)
    with watch() as seen:
        y = gemv_threshold(W, x, 0.7)
    assert y.dtype == dtype
    assert_product(y, kept(x, 0.7), W.T)
    rows = int((x.abs().float() > 0.7).any(dim=0).sum())
    assert seen.of(W).bytes_loaded == rows * N * dtype.itemsize  # of exactly these rows, once
    assert seen.of(y).bytes_written == y.nbytes


@pytest.mark.parametrize(("K", "N", "tokens"), SHAPES)
def test_a_negative_threshold_skips_nothing_and_reads_nothing_else(K, N, tokens):
    W, x = matrices(K, N, tokens, torch.float16)
    with watch() as seen:
        y = gemv_threshold(W, x, -1.0)
    assert_product(y, x, W.T)
    assert seen.of(W).bytes_loaded == W.nbytes


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.usefixtures("without_interpreter")
def test_threshold_on_a_cpu(tokens, dtype):
    W, x = matrices(515, 272, tokens, dtype)
    assert_product(gemv_threshold(W, x.view(tokens, 1, 515), 0.7).view(tokens, 272), kept(x, 0.7), W.T)


@pytest.mark.parametrize("share", [0.0, 0.002, 0.5, 1.0])
@pytest.mark.parametrize("bag", [1, 10_000, 2**20])
@pytest.mark.usefixtures("without_interpreter")
def test_bags_of_rows_on_a_cpu(bag, share, monkeypatch):
    """One row in a bag, some and a ragged last one, all; more threads than rows."""
    monkeypatch.setattr(sparse_gemv, "BAG", bag)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    W, x = matrices(515, 272, 1, torch.float32)
    threshold = x.abs().sort().values[0, 515 - 1 - round(share * 515)].item() if share < 1 else -1.0
    assert int((x.abs() > threshold).sum()) == round(share * 515)
    assert_product(gemv_threshold(W, x, threshold), kept(x, threshold), W.T)


@pytest.mark.usefixtures("either")
def test_inputs_at_the_threshold_are_skipped():
    W, x = matrices(6, 40, 1, torch.float16)
    x[0] = torch.tensor([0.5, -0.5, 0.5005, -0.5005, 0.0, 0.25])
    assert_product(gemv_threshold(W, x, 0.5), x * torch.tensor([0, 0, 1, 1, 0, 0]), W.T)


@pytest.mark.usefixtures("either")
def test_the_threshold_is_not_rounded_to_half_precision():
    W, x = matrices(2, 40, 1, torch.float16)
    x[0] = torch.tensor([0.1, -0.1]).half()  # 0.09998: below 0.1, which half precision rounds to it
    assert not gemv_threshold(W, x, 0.1).any()
    assert gemv_threshold(W, x, 0.0999).any()


@pytest.mark.usefixtures("either")
def test_a_threshold_is_compared_in_float32():
    """As which 0.1 is slightly more than 0.1: also where the threshold is one of numpy's numbers, which count as doubles."""
    W, x = matrices(2, 40, 1, torch.float32)
    x[0] = torch.tensor([0.1, -0.1])
    for threshold in (0.1, np.float64(0.1)):
        assert not gemv_threshold(W, x, threshold).any()


@pytest.mark.usefixtures("either")
def test_what_is_skipped_counts_as_zero_even_if_it_is_infinite():
    W, x = matrices(70, 40, 2, torch.float16)
    x[:, 13], W[13] = 0.0, torch.inf
    x[0, 20], W[20, 3] = 0.01, torch.nan
    x[1, 20] = 0.02
    assert_product(gemv_threshold(W, x, 0.1), kept(x, 0.1), W.nan_to_num(0, 0, 0).T)


@pytest.mark.usefixtures("either")
def test_nothing_is_large_enough():
    W, x = matrices(70, 40, 2, torch.float16)
    for tokens in (x, x[:1], x[:0]):
        assert torch.equal(gemv_threshold(W, tokens, 100.0), torch.zeros(len(tokens), 40).half())


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("tokens", [1, 3])
def test_projections_that_share_an_input(tokens):
    W, x = matrices(300, 371, tokens, torch.float16)
    sizes, thresholds = (200, 131, 40), (0.2, 1.1, 0.6)
    with watch() as seen:
        y = gemv_threshold(W, x, thresholds, sizes)
    for part, w, threshold in zip(y.split(sizes, 1), W.split(sizes, 1), thresholds, strict=True):
        assert_product(part, kept(x, threshold), w.T)
    large = [(x.abs() > threshold).any(dim=0).sum() for threshold in thresholds]
    if seen.memories:  # in the interpreter
        assert seen.of(W).bytes_loaded == 2 * sum(int(n) * size for n, size in zip(large, sizes, strict=True))


def test_the_order_of_programs_changes_no_bit():
    W, x = matrices(2000, 137, 1, torch.float32)
    first, atomic = gemv_threshold(W, x, 0.3), gemv_threshold(W, x, 0.3, atomic=True)
    orders = []
    for seed in range(5):
        with shuffled(seed) as order:
            assert torch.equal(gemv_threshold(W, x, 0.3), first)
        orders.append(tuple(order))
        with shuffled(seed):
            other = gemv_threshold(W, x, 0.3, atomic=True)
        assert_product(other, kept(x, 0.3), W.T)
        atomic = torch.cat([atomic, other])
    assert len(set(orders)) == 5
    assert len(atomic.unique(dim=0)) > 1  # sums in another order are others


# Chosen rows


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize(("K", "N", "tokens", "group"), [(300, 137, 1, 1), (96, 272, 3, 8), (64, 16, 8, 4)])
@pytest.mark.usefixtures("either")
def test_columns(K, N, tokens, group, index, dtype):
    W, x = matrices(K, N, tokens, dtype)
    idx = torch.randperm(K // group, generator=torch.Generator().manual_seed(1))[: K // group // 3].to(index)
    k = (idx[:, None] * group + torch.arange(group)).flatten()
    chosen = x[:, k].contiguous()
    with watch() as seen:
        y = gemv_columns(W, idx, chosen, group=group)
    assert_product(y, chosen, W[k].T)
    if seen.memories:
        assert seen.of(W).bytes_loaded == len(k) * N * dtype.itemsize


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize(("N", "K", "tokens", "group"), [(300, 137, 1, 1), (96, 772, 3, 8), (64, 16, 8, 4)])
@pytest.mark.usefixtures("either")
def test_rows(N, K, tokens, group, index, dtype):
    W, x = matrices(K, N, tokens, dtype)
    W = W.T.contiguous()
    idx = torch.randperm(N // group, generator=torch.Generator().manual_seed(1))[: N // group // 3].to(index)
    k = (idx[:, None] * group + torch.arange(group)).flatten()
    with watch() as seen:
        y = gemv_rows(W, idx, x, group=group)
    assert y.dtype == dtype
    assert_product(y, x, W[k])
    if seen.memories:
        assert seen.of(W).bytes_loaded == len(k) * K * dtype.itemsize


@pytest.mark.parametrize("n", [1, 2, 95])
@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("without_interpreter")
def test_rows_in_any_order_on_a_cpu(n, monkeypatch):
    """Fewer than threads, as many, and a share of other length for each; some twice, and NaN in all that are not chosen."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    sparse_gemv._csr_is_beta.cache_clear()
    W, x = matrices(96, 272, 1, torch.float32)
    W, idx = W.T.contiguous(), torch.randint(0, 272, (n,), generator=torch.Generator().manual_seed(2))
    kept = torch.full_like(W, torch.nan).index_copy(0, idx, W[idx])
    assert_product(gemv_rows(kept, idx, x), x, W[idx])


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("wrong", [-1, 272])
@pytest.mark.usefixtures("without_interpreter")
def test_rows_that_are_not_there_on_a_cpu(wrong, tokens):
    W, x = matrices(96, 272, tokens, torch.float32)
    with pytest.raises(IndexError):
        gemv_rows(W.T.contiguous(), torch.tensor([3, wrong, 5]), x)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("tokens", [1, 3])
def test_only_so_many_indices_count(tokens):
    """As `compact` gives them: what follows is neither read nor multiplied."""
    W, x = matrices(90, 50, tokens, torch.float16)
    mask = torch.rand(50, generator=torch.Generator().manual_seed(3)) > 0.7
    idx, count = compact(mask)
    n = int(count)
    assert n == mask.sum()
    y = gemv_rows(W.T.contiguous(), idx, x, count)
    assert_product(y[:, :n], x, W.T[mask])
    assert not y[:, n:].any()
    padded = torch.full((tokens, 50), torch.nan).half()
    padded[:, :n] = y[:, :n]
    down = W.T.contiguous()
    assert_product(gemv_columns(down, idx, padded, count), y[:, :n], down[mask].T)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("n", [1, 70, 5000, 8192])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_compaction(n, share):
    mask = torch.rand(n, generator=torch.Generator().manual_seed(n)) < share
    idx, count = compact(mask)
    assert idx.dtype == count.dtype == torch.int32
    assert torch.equal(idx[:count], mask.nonzero()[:, 0].int())


@pytest.mark.usefixtures("either")
def test_no_index_is_no_work():
    W, x = matrices(96, 40, 2, torch.float16)
    none = torch.empty(0, dtype=torch.int32)
    assert gemv_rows(W, none, matrices(40, 1, 2, torch.float16)[1]).shape == (2, 0)
    assert torch.equal(gemv_columns(W, none, x[:, :0]), torch.zeros(2, 40).half())


W, X = matrices(96, 40, 2, torch.float16)
IDX = torch.arange(5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gemv_threshold(W, X[:, :50].contiguous(), 0.1),
            r"x must be \(..., 96\) in torch.float16 on cpu, got \(2, 50\)",
        ),
        (lambda: gemv_threshold(W, X.float(), 0.1), "got .* in torch.float32"),
        (lambda: gemv_threshold(W, X.to("meta"), 0.1), "on meta"),
        (
            lambda: gemv_threshold(W, torch.cat([X, X]).T.contiguous().T, 0.1),
            r"x must be contiguous: call x.contiguous\(\) first",
        ),
        (lambda: gemv_threshold(W.T.contiguous().T, X, 0.1), "W must be contiguous"),
        (lambda: gemv_threshold(W, X.repeat(5, 1), 0.1), "x must hold at most 8 tokens, got 10"),
        (lambda: gemv_threshold(W, X, 0.1, sizes=(20, 10)), r"sizes must be positive and sum to 40, .* got \(20, 10\)"),
        (lambda: gemv_threshold(W, X, (0.1, 0.2, 0.3), sizes=(20, 20)), "one for each of 2 projections, got 3"),
        (lambda: gemv_threshold(W, X, 0.1, atomic=True), "atomic sums are for one token, got 2"),
        (lambda: gemv_columns(W, IDX, X), r"x must be \(..., 5\)"),
        (lambda: gemv_rows(W, IDX.float(), X[:, :40].contiguous()), r"idx must be \(n,\) in int32 or int64 on cpu"),
        (lambda: gemv_rows(W, IDX, X[:, :40].contiguous(), group=7), "group must divide the 96 rows of W, got 7"),
        (lambda: compact(torch.ones(3)), r"mask must be contiguous, of shape \(n,\), and bool, got \(3,\) in torch.float32"),
    ],
)
def test_arguments_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# In a model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = dict(hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=101, **sizes, attention_bias=True, tie_word_embeddings=True)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


@pytest.mark.usefixtures("without_interpreter")
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


@pytest.mark.usefixtures("without_interpreter")
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
