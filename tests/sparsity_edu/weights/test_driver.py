"""The walk over a model: every family, the authors' walk on Llama, and what each block sees."""

import copy

import published
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, OPTConfig, Qwen2Config, Qwen3Config

from sparsity_edu.models.layers import decoder_blocks, prunable_layers, weight_matrix
from sparsity_edu.weights import driver, magnitude, walk, wanda

SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SLIDING = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
OPT = {"vocab_size": 97, "hidden_size": 48, "ffn_dim": 80, "num_hidden_layers": 3, "num_attention_heads": 4}
FAMILIES = {
    "llama": LlamaConfig(**SMALL),
    "mistral": MistralConfig(**SMALL, sliding_window=8),
    "qwen2": Qwen2Config(**SMALL, **SLIDING),  # the last blocks have another attention mask than the first
    "qwen3": Qwen3Config(**SMALL, head_dim=16),
    "opt": OPTConfig(**OPT, max_position_embeddings=64, word_embed_proj_dim=48),
    "opt-350m": OPTConfig(**OPT, max_position_embeddings=64, word_embed_proj_dim=24, do_layer_norm_before=False),
    "gpt2": GPT2Config(vocab_size=97, n_embd=48, n_layer=3, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1),
}
CALIBRATION = [
    torch.randint(97, (3, 20), generator=torch.Generator().manual_seed(1)),
    torch.randint(97, (2, 31), generator=torch.Generator().manual_seed(2)),
]


def make(family: str) -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    for parameter in model.parameters():  # norms and biases as in a trained model, and weights large enough to matter
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.7, 0.3)
        else:
            nn.init.normal_(parameter, 0, 0.1)
    return model


@pytest.mark.parametrize("true_sequential", [False, True], ids=["together", "sequential"])
@pytest.mark.parametrize("method", driver.METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_pruned_to_the_pattern(family, method, true_sequential):
    model = make(family)
    pruned, results = driver.prune(
        model, method, pattern="1:4", calibration=CALIBRATION, true_sequential=true_sequential, progress=False
    )
    layers = prunable_layers(pruned)
    assert {result.name for result in results} == set(layers)
    for layer in layers.values():
        groups = weight_matrix(layer).unflatten(1, (-1, 4))
        assert ((groups != 0).sum(dim=-1) == 1).all()
    assert all(0 < result.error < 1.5 and result.sparsity == 0.75 for result in results)
    left = {name: p for name, p in pruned.named_parameters() if name.removesuffix(".weight") not in layers}
    original = dict(model.named_parameters())
    assert all(torch.equal(p, original[name]) for name, p in left.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_running_block_by_block_is_running_the_model(family):
    """What the walk feeds to the last block, dense, is what the model feeds to it."""
    model = make(family)
    blocks = decoder_blocks(model)
    batches = walk.single_windows(CALIBRATION)
    with torch.no_grad():
        hidden, calls = walk.block_inputs(model, blocks, batches)
        for block, call in zip(blocks, calls, strict=True):
            hidden = [walk.run_block(block, states, call) for states in hidden]
        seen = []
        handle = blocks[-1].register_forward_hook(lambda _, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for ids in batches:
            model(input_ids=ids)
        handle.remove()
    for got, want in zip(hidden, seen, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("method", "ours", "wrapper", "theirs"),
    [
        ("sparsegpt", {"sparsity": 0.6}, published.SparseGPT, {"sparsity": 0.6}),
        ("sparsegpt", {"pattern": "1:4"}, published.SparseGPT, {"sparsity": 0, "prunen": 3, "prunem": 4}),
        ("wanda", {"sparsity": 0.45}, published.WrappedGPT, {"sparsity_ratio": 0.45}),
        ("wanda", {"pattern": "2:4"}, published.WrappedGPT, {"sparsity_ratio": 0.5, "prune_n": 2, "prune_m": 4}),
    ],
)
def test_equals_the_authors_walk_over_llama(method, ours, wrapper, theirs):
    model = make("llama")
    calibration = CALIBRATION[0]
    authors = copy.deepcopy(model)
    published.prune_llama(authors, wrapper, calibration, **theirs)
    pruned = driver.prune(model, method, calibration=calibration, progress=False, **ours).model
    for (name, got), want in zip(pruned.named_parameters(), authors.parameters(), strict=True):
        assert torch.equal(got == 0, want == 0), name
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def test_a_block_sees_what_the_pruned_ones_before_it_make_of_the_text():
    model = make("llama")
    pruned = driver.prune(model, "wanda", 0.5, calibration=CALIBRATION, progress=False).model
    inputs = wanda.InputNorm(48)
    target = pruned.model.layers[2].self_attn.q_proj
    handle = target.register_forward_pre_hook(lambda _, args: inputs.add(args[0]))
    with torch.no_grad():
        for ids in walk.single_windows(CALIBRATION):
            pruned(input_ids=ids)
    handle.remove()
    dense = model.model.layers[2].self_attn.q_proj.weight
    assert torch.equal(target.weight, wanda.prune(dense, inputs.norm, 0.5))


def test_true_sequential_lets_a_layer_see_the_pruned_ones_of_its_block():
    model = make("llama")
    pruned = driver.prune(model, "wanda", 0.5, calibration=CALIBRATION, true_sequential=True, progress=False).model
    inputs = wanda.InputNorm(80)
    target = pruned.model.layers[0].mlp.down_proj
    handle = target.register_forward_pre_hook(lambda _, args: inputs.add(args[0]))
    with torch.no_grad():
        for ids in walk.single_windows(CALIBRATION):
            pruned(input_ids=ids)
    handle.remove()
    assert torch.equal(target.weight, wanda.prune(model.model.layers[0].mlp.down_proj.weight, inputs.norm, 0.5))


def test_a_block_is_run_twice():
    """To collect, and to go on; and twice by the whole model, for its calls and to compare them."""
    model, runs = make("llama"), []
    model.model.layers[1].register_forward_hook(lambda *_: runs.append(1))
    driver.prune_(model, "wanda", 0.5, calibration=CALIBRATION[0], progress=False)
    assert len(runs) == 2 * 3 + 2


def test_layers_that_read_the_same_share_one_statistic():
    made = []

    class Counting(wanda.InputNorm):
        def __init__(self, *args) -> None:
            made.append(self)
            super().__init__(*args)

    model = make("llama")
    method = driver.METHODS["wanda"]._replace(statistic=Counting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(driver.METHODS, "wanda", method)
        driver.prune_(model, "wanda", 0.5, calibration=CALIBRATION, progress=False)
    assert len(made) == 4 * 3  # of seven layers: q k v, o, gate up, down


def test_magnitude_needs_no_calibration_and_equals_unit_02():
    model = make("gpt2")
    pruned, results = driver.prune(model, "magnitude", 0.3, progress=False)
    magnitude.prune_(model, 0.3)
    for got, want in zip(pruned.parameters(), model.parameters(), strict=True):
        assert torch.equal(got, want)
    assert {result.error for result in results} == {None}


def test_error_is_the_share_of_the_output_that_changes():
    X, W = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.tensor([[3.0, 4.0]])
    assert driver.output_error(X, W, W) == 0
    assert driver.output_error(X, W, torch.zeros_like(W)) == 1
    assert driver.output_error(X, W, torch.tensor([[0.0, 4.0]])) == pytest.approx(9 / (11**2 + 4**2))


def test_a_model_in_training_stays_in_training_and_gradients_stay_off():
    model = make("llama").train()
    driver.prune_(model, "wanda", 0.5, calibration=CALIBRATION, progress=False)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"method": "wanda", "sparsity": 0.5, "calibration": None}, "calibration must be given"),
        ({"method": "random", "sparsity": 0.5}, "method must be one of magnitude, wanda, sparsegpt"),
        ({"method": "wanda"}, "either sparsity or pattern"),
        ({"method": "wanda", "pattern": "2:7"}, r"q_proj.*: .*multiple of m = 7"),
        ({"method": "sparsegpt", "sparsity": 0.5, "damping": -1.0}, r"q_proj.*: damping must be at least 0"),
        ({"method": "wanda", "sparsity": 0.5, "calibration": torch.ones(3, 4)}, "calibration must be token ids"),
        ({"method": "wanda", "sparsity": 0.5, "calibration": []}, "calibration must be token ids"),
    ],
)
def test_refuses(arguments, says):
    with pytest.raises(ValueError, match=says):
        driver.prune_(make("llama"), **{"calibration": CALIBRATION, "progress": False} | arguments)


def test_refuses_what_is_no_decoder():
    with pytest.raises(ValueError, match="decoder blocks, got Linear"):
        driver.prune_(nn.Linear(4, 4), "magnitude", 0.5)


def test_refuses_windows_longer_than_the_model_reads():
    with pytest.raises(ValueError, match="window must be at most the model's 64 positions, got 65"):
        driver.prune_(make("gpt2"), "wanda", 0.5, calibration=[CALIBRATION[0], torch.zeros(1, 65, dtype=torch.long)])
