"""Pruning mixtures of experts: every family against its experts written out as linear layers, with hooks on each of them."""

import copy

import pytest
import torch
import transformers as hf
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.dbrx.configuration_dbrx import DbrxFFNConfig
from transformers.models.dbrx.modeling_dbrx import DbrxExperts

from sparsity_edu.models import load
from sparsity_edu.models.experts_layout import is_experts
from sparsity_edu.models.layers import block_weights, decoder_blocks, prunable_matrices
from sparsity_edu.weights import comparison, driver, magnitude, sparsegpt, wanda
from tests.sparsity_edu.mixtures import CALIBRATION, FAMILIES, HIDDEN, INNER, WrittenOut, make, written_out

families = pytest.mark.parametrize("family", FAMILIES)
WINDOWS = [window for batch in CALIBRATION for window in batch.split(1)]
HALF, PAIRS = {"sparsity": 0.5}, {"pattern": "2:4"}
TRANSPOSED = "gpt_oss"  # the family whose experts differ most from linear layers
# what a family stores where is one thing, what a method makes of it another: all of one with some of the other
EACH_MATRIX = [
    *((family, "wanda", HALF) for family in FAMILIES),
    *((family, "sparsegpt", PAIRS) for family in FAMILIES),
    *((family, *other) for family in ("deepseek_v3", TRANSPOSED) for other in (("wanda", PAIRS), ("sparsegpt", HALF))),
    *((TRANSPOSED, "magnitude", target) for target in (HALF, PAIRS)),
]
ALONG_INPUTS = [
    *((family, "sparsegpt", True) for family in FAMILIES),
    *((family, "wanda", False) for family in FAMILIES),
    *((TRANSPOSED, *other) for other in (("sparsegpt", False), ("wanda", True), ("magnitude", False), ("magnitude", True))),
]


def prune(model, method, calibration=CALIBRATION, **options):
    return driver.prune(model, method, calibration=calibration, progress=False, **options)


def by_hand(W, inputs, method, target):
    """What a method makes of a matrix and of all that it read."""
    if method == "magnitude":
        return magnitude.prune(W, target.get("sparsity"), target.get("pattern", "layer"))
    statistic = (wanda.InputNorm if method == "wanda" else sparsegpt.Hessian)(W.shape[1])
    for X in inputs:
        statistic.add(X)
    if method == "wanda":
        return wanda.prune(W, statistic.norm, **target)
    return sparsegpt.prune(W, statistic.H, **target)


def read_in_block(model: nn.Module, index: int, everything: bool = False) -> dict[str, list[torch.Tensor]]:
    """What each linear layer of a block reads, by its name in the block."""
    seen: dict[str, list[torch.Tensor]] = {}
    for module in decoder_blocks(model)[index].modules():
        if isinstance(module, WrittenOut):
            module.everything = everything
    for name, layer in decoder_blocks(model)[index].named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0]))
    with torch.no_grad():
        for ids in WINDOWS:
            model(ids)
    return seen


@pytest.mark.parametrize(("family", "method", "target"), EACH_MATRIX, ids=str)
def test_each_matrix_is_pruned_by_the_tokens_that_reach_it(family, method, target):
    """Everything in each block, experts written out, from hooks in a model whose blocks before it are the pruned ones."""
    model = make(family)
    pruned = prune(model, method, min_tokens=1, **target).model
    for index in range(3):
        hybrid = copy.deepcopy(model)
        for earlier in range(index):
            hybrid.model.layers[earlier] = copy.deepcopy(pruned.model.layers[earlier])
        hybrid = written_out(hybrid, family)
        seen = read_in_block(copy.deepcopy(hybrid), index, everything=True) | read_in_block(hybrid, index)
        result = decoder_blocks(written_out(pruned, family))[index]
        routers = FAMILIES[family].routers
        layers = {n: m for n, m in decoder_blocks(hybrid)[index].named_modules() if isinstance(m, nn.Linear)}
        assert sum(n not in routers for n in layers) >= 7
        for name, layer in layers.items():
            got = result.get_submodule(name).weight
            if name in routers:
                assert torch.equal(got, layer.weight)
            else:
                want = by_hand(layer.weight.detach(), seen[name], method, target)
                assert torch.equal(got == 0, want == 0), name
                torch.testing.assert_close(got, want)


@families
def test_true_sequential_prunes_a_down_projection_by_what_pruned_ones_make(family):
    model = make(family)
    pruned = prune(model, "wanda", sparsity=0.5, min_tokens=1, true_sequential=True).model
    index = next(i for i, block in enumerate(model.model.layers) if any(map(is_experts, block.modules())))
    hybrid = copy.deepcopy(pruned)
    place = f"model.layers.{index}.{FAMILIES[family].path}"
    hybrid.get_submodule(place).down_proj.data.copy_(model.get_submodule(place).down_proj)
    hybrid = written_out(hybrid, family)
    seen = read_in_block(copy.deepcopy(hybrid), index, everything=True) | read_in_block(hybrid, index)
    for e, layer in enumerate(hybrid.get_submodule(place).down):
        want = by_hand(layer.weight.detach(), seen[f"{FAMILIES[family].path}.down.{e}"], "wanda", {"sparsity": 0.5})
        assert torch.equal(WrittenOut(pruned.get_submodule(place)).down[e].weight, want)


@pytest.mark.parametrize(("family", "method", "true_sequential"), ALONG_INPUTS)
def test_the_pattern_runs_along_the_inputs_of_every_expert(family, method, true_sequential):
    model = make(family)
    pruned, results = prune(model, method, pattern="2:4", true_sequential=true_sequential)
    loops = [WrittenOut(module) for module in pruned.modules() if is_experts(module)]
    for loop in loops:
        for layer in (*loop.gate, *loop.up, *loop.down):
            assert ((layer.weight.unflatten(1, (-1, 4)) != 0).sum(dim=-1) == 2).all()
    assert {result.sparsity for result in results} == {0.5}
    assert {result.name for result in results} == set(prunable_matrices(model))
    before = dict(model.named_parameters())
    held = {f"{name}.weight" for name in prunable_matrices(model)}
    for name, parameter in pruned.named_parameters():
        if name not in held and not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            assert torch.equal(parameter, before[name]), name  # routers, biases, norms, embeddings


@families
def test_coverage_is_an_independent_count(family):
    model = make(family)
    pruned, results = prune(model, "magnitude", sparsity=0.75)
    covered, total, left = coverage = comparison.coverage(pruned, results)
    zeros = matrices = 0
    for name, parameter in pruned.model.layers.named_parameters():
        if parameter.ndim > 1 and not name.endswith("bias"):
            zeros += int((parameter == 0).sum())
            matrices += parameter.numel()
    with_experts = sum(any(map(is_experts, block.modules())) for block in model.model.layers)
    assert left == {name: n * HIDDEN * with_experts for name, n in FAMILIES[family].routers.items()}
    assert (covered, total) == (matrices - sum(left.values()), matrices)
    assert zeros == sum(int(result.sparsity * result.size + 0.5) for result in results)
    assert zeros == pytest.approx(0.75 * covered, rel=1e-3)
    assert coverage.share == f"{covered / total:.2%}"


def test_less_than_all_is_never_called_100_percent():
    assert comparison.Coverage(10**9 - 1, 10**9, {"mlp.gate": 1}).share == "99.99%"
    assert comparison.Coverage(10**9, 10**9, {}).share == "100%"


@families
def test_a_pruned_model_is_saved_and_read_again(family, tmp_path):
    pruned = prune(make(family).float(), "wanda", pattern="2:4").model
    pruned.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for (name, got), want in zip(again.named_parameters(), pruned.parameters(), strict=True):
        assert torch.equal(got, want), name
    with torch.no_grad():
        torch.testing.assert_close(again(CALIBRATION[0]).logits, pruned(CALIBRATION[0]).logits)


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm", "eager"])
def test_however_experts_are_computed(implementation):
    model = make("gpt_oss").float()
    model.set_experts_implementation(implementation)
    got = prune(model, "wanda", sparsity=0.5).model
    want = prune(make("gpt_oss"), "wanda", sparsity=0.5).model
    different = sum(int(((a == 0) != (b == 0)).sum()) for a, b in zip(got.parameters(), want.parameters(), strict=True))
    assert different <= 20  # of tens of thousands: ties at the precision of float32


# ---- planted inputs


def planted(dead: int) -> nn.Module:
    """A Mixtral of one block in which expert 1 gets the tokens below 20 and expert 0 the others; attention does nothing, and in
    what expert 1 reads the hidden channels below `dead` are zero, in what expert 0 reads none is."""
    config = FAMILIES["mixtral"].config()
    config.num_hidden_layers, config.num_local_experts, config.num_experts_per_tok = 1, 2, 1
    model = make("mixtral", config)
    block = model.model.layers[0]
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.post_attention_layernorm.weight.fill_(1)
        embedding = model.model.embed_tokens.weight
        embedding[:, -1] = 1.0
        embedding[:20, -1] = -1.0
        embedding[:20, :dead] = 0
        block.mlp.gate.weight.zero_()
        block.mlp.gate.weight[:, -1] = torch.tensor([5.0, -5.0])
    return model


TEXT = torch.randint(97, (4, 40), generator=torch.Generator().manual_seed(5)) // torch.tensor([[1], [5], [1], [5]])


@pytest.mark.parametrize("true_sequential", [False, True])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_inputs_that_an_expert_never_sees_go_first(method, true_sequential):
    dead = HIDDEN // 2
    model = planted(dead)
    pruned, results = prune(model, method, TEXT, sparsity=0.5, true_sequential=true_sequential)
    before, after = model.model.layers[0].mlp.experts, pruned.model.layers[0].mlp.experts
    gate_up = after.gate_up_proj.detach()
    assert (gate_up[1, :, :dead] == 0).all()  # half of the inputs, and that is all that had to go
    live = gate_up[1, :, dead:]
    kept = (live != 0).float().mean()
    assert kept == 1 if method == "wanda" else kept > 0.98  # sparsegpt counts one more
    torch.testing.assert_close(live[live != 0], before.gate_up_proj.detach()[1, :, dead:][live != 0], rtol=0, atol=2e-3)
    assert 0.3 < (gate_up[0, :, :dead] != 0).float().mean() < 0.7  # the other expert sees them
    tokens = {result.name.split(".")[-2]: result.tokens for result in results if "experts" in result.name}
    assert tokens == {"0": int((TEXT >= 20).sum()), "1": int((TEXT < 20).sum())}
    errors = {result.name: result.error for result in results if result.name.endswith("experts.1.gate_proj")}
    assert max(errors.values()) < 1e-4


# ---- too few tokens


@pytest.mark.parametrize("true_sequential", [False, True])
@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_an_expert_with_too_few_tokens_is_pruned_by_all_tokens(method, count, true_sequential):
    model = planted(HIDDEN // 2)
    text = TEXT.clamp(min=20)
    text[1, 7 : 7 + count] = 4
    pruned, results = prune(model, method, text, sparsity=0.5, true_sequential=true_sequential)
    few = {result.name: (result.tokens, result.few) for result in results if result.few}
    assert few == {f"model.layers.0.mlp.experts.1.{name}_proj": (count, "all") for name in ("gate", "up", "down")}
    everything = copy.deepcopy(model)
    everything.model.layers[0].mlp.experts.gate_up_proj.data[0] = model.model.layers[0].mlp.experts.gate_up_proj.data[1]
    everything.model.layers[0].mlp.experts.down_proj.data[0] = model.model.layers[0].mlp.experts.down_proj.data[1]
    everything.model.layers[0].mlp.gate.weight.data[:, -1] = 0
    everything.model.layers[0].mlp.gate.weight.data[0, -1] = 0  # a tie: all tokens go to expert 0, which is now expert 1
    want = prune(everything, method, text, sparsity=0.5, true_sequential=true_sequential)
    counted = {result.name: result.tokens for result in want.layers}
    assert counted["model.layers.0.mlp.experts.0.up_proj"] == text.numel()
    for name in ("gate_up_proj", "down_proj"):
        got = getattr(pruned.model.layers[0].mlp.experts, name)[1]
        torch.testing.assert_close(got, getattr(want.model.model.layers[0].mlp.experts, name)[0])


@pytest.mark.parametrize("true_sequential", [False, True])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_or_left_dense_and_not_counted(method, true_sequential):
    model = planted(HIDDEN // 2)
    text = TEXT.clamp(min=20)
    text[0, :3] = 4
    options = {"pattern": "2:4", "true_sequential": true_sequential, "few_tokens": "dense"}
    pruned, results = prune(model, method, text, **options)
    before, after = model.model.layers[0].mlp.experts, pruned.model.layers[0].mlp.experts
    for name in ("gate_up_proj", "down_proj"):
        assert torch.equal(getattr(after, name)[1], getattr(before, name)[1])
        assert (getattr(after, name)[0] == 0).float().mean() == 0.5
    assert {result.name for result in results} == set(prunable_matrices(model))
    size = before.down_proj[1].numel()
    covered, total, left = comparison.coverage(pruned, results)
    few = {f"mlp.experts.{name}_proj with few tokens": size for name in ("gate", "up", "down")}
    assert left == {"mlp.gate": 2 * HIDDEN} | few
    assert covered + sum(left.values()) == total
    assert comparison.few_tokens(results) == ["model.layers.0.mlp.experts: 1 (3)"]
    run = comparison.Run(method, "2:4", 1.0, 1.0, results)
    silent = model.model.layers[0].self_attn.o_proj.weight.numel()  # zero from the beginning
    assert run.sparsity == pytest.approx((covered + silent) / 2 / covered)
    assert sum(result.size for result in run.pruned) == covered
    assert not comparison.few_tokens(prune(model, method, text, min_tokens=3, **options).layers)


def test_magnitude_needs_no_tokens():
    model = planted(HIDDEN // 2)
    for few_tokens in ("all", "dense"):
        pruned, results = prune(model, "magnitude", TEXT.clamp(min=20), pattern="2:4", few_tokens=few_tokens)
        assert {result.sparsity for result in results if "experts" in result.name} == {0.5}
        assert not any(result.few for result in results)
        assert {result.error is None for result in results if "experts.1." in result.name} == {True}
        without = driver.prune(model, "magnitude", pattern="2:4", progress=False)
        assert {result.tokens for result in without.layers} == {None}
        assert all(torch.equal(a, b) for a, b in zip(pruned.parameters(), without.model.parameters(), strict=True))


def test_experts_are_named_once_with_their_tokens_in_all_runs():
    results = [
        driver.LayerResult(f"model.layers.{block}.mlp.experts.{expert}.{part}_proj", 8, 0.5, None, tokens, "all")
        for block, expert, tokens in [(0, 3, 0), (0, 11, 2), (4, 3, 7), (0, 11, 9), (0, 11, 5)]
        for part in ("gate", "up", "down")
    ]
    results.append(driver.LayerResult("model.layers.0.mlp.experts.5.up_proj", 8, 0.5, None, 99))
    assert comparison.few_tokens(results) == [
        "model.layers.0.mlp.experts: 3 (0), 11 (2 to 9)",
        "model.layers.4.mlp.experts: 3 (7)",
    ]


# ---- other families


SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
EVERY_OTHER = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
OTHERS = {
    "qwen3_next": lambda: hf.Qwen3NextConfig(
        **SMALL, **LINEAR, num_experts=6, head_dim=8, layer_types=["linear_attention", "full_attention"]
    ),
    "hunyuan": lambda: hf.HunYuanMoEV1Config(**SMALL, num_experts=6, head_dim=8, bos_token_id=0, eos_token_id=0),
    "ernie": lambda: hf.Ernie4_5_MoeConfig(**SMALL, moe_num_experts=6, moe_k=2, moe_intermediate_size=40),
    "glm4": lambda: hf.Glm4MoeConfig(**SMALL, n_routed_experts=6, moe_intermediate_size=40, head_dim=8),
    "jamba": lambda: hf.JambaConfig(**SMALL, **EVERY_OTHER, num_experts=6, mamba_d_state=8, mamba_dt_rank=4),
    "no gate": lambda: hf.NemotronHConfig(
        **SMALL, n_routed_experts=6, moe_intermediate_size=40, layers_block_type=["moe", "attention"], head_dim=8
    ),
}


@pytest.mark.parametrize("true_sequential", [False, True])
@pytest.mark.parametrize("family", OTHERS)
def test_other_families_are_pruned_with_their_routers_left_alone(family, true_sequential):
    """Convolutions and state matrices of linear attention are no linear layers, and Jamba's dt_proj is not called as one."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(OTHERS[family]()).eval()
    options = {"pattern": "1:4", "min_tokens": 1, "true_sequential": true_sequential}
    if family == "jamba":
        with pytest.raises(ValueError, match=r'few_tokens must be "dense" .*, got "all": model.layers.0.mamba.dt_proj$'):
            prune(model, "wanda", **options)
    pruned, results = prune(model, "wanda", few_tokens="dense" if family == "jamba" else "all", **options)
    assert any(map(is_experts, pruned.modules()))
    _, total, left = comparison.coverage(pruned, results)
    allowed = ("router", "gate", "gate.wg", "shared_expert_gate", "conv1d", "A_log", "dt_proj with few tokens")
    assert left
    assert all(kind.split(".", 1)[1] in allowed for kind in left)
    before = dict(model.named_parameters())
    zeros = sum(int(((p == 0) & (before[name] != 0)).sum()) for name, p in block_weights(pruned).items())
    assert zeros == 3 * (total - sum(left.values())) // 4
    changed = {name for name, p in pruned.named_parameters() if not torch.equal(p, before[name])}
    assert not [name for name in changed if "router" in name or "gate.w" in name or "shared_expert_gate" in name]
    assert pruned(CALIBRATION[0]).logits.isfinite().all()


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_experts_in_another_layout_are_refused_by_name(method):
    shape = {**SMALL, "num_local_experts": 4, "intermediate_size_mlp": 56, "head_dim": 8}
    llama4 = AutoModelForCausalLM.from_config(hf.Llama4TextConfig(**shape))
    dbrx = make("mixtral")
    dbrx.model.layers[1].mlp = DbrxExperts(DbrxFFNConfig(hidden_size=HIDDEN, ffn_hidden_size=INNER, moe_num_experts=4))
    doge = AutoModelForCausalLM.from_config(hf.DogeConfig(**SMALL, is_moe=True, num_experts=16))
    for model, name in [(llama4, "Llama4TextExperts"), (dbrx, "DbrxExpertGLU"), (doge, "DogeCDMoE")]:
        with pytest.raises(ValueError, match=rf"^model must hold the matrices .* transformers lays them out, got {name} with "):
            prune(model, method, sparsity=0.5)
        with pytest.raises(ValueError, match=f"got {name} with "):
            magnitude.prune_(model, 0.5)


def test_blocks_that_read_more_of_the_text_than_hidden_states_are_refused():
    config = hf.Gemma4TextConfig(**SMALL, hidden_size_per_layer_input=8, vocab_size_per_layer_input=97)
    model = AutoModelForCausalLM.from_config(config)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError, match=r"^model must have blocks that can be run one by one, .*, got Gemma4TextDecoderLayer$"
    ):
        prune(model, "wanda", sparsity=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"few_tokens": "drop"}, 'few_tokens must be "all" or "dense", got \'drop\''),
        ({"min_tokens": 0}, "min_tokens must be at least 1, got 0"),
    ],
)
def test_refuses(options, says):
    with pytest.raises(ValueError, match=says):
        prune(planted(HIDDEN // 2), "wanda", TEXT, sparsity=0.5, **options)


# ---- magnitude of a whole model, and the shipped mixture


@families
def test_masks_of_unit_02_cover_experts(family):
    model = make(family)
    want = prune(model, "magnitude", sparsity=0.3).model
    masks = magnitude.prune_(model, 0.3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), want.parameters(), strict=True))
    experts = next(module for module in model.modules() if is_experts(module))
    optimizer = torch.optim.SGD([experts.gate_up_proj], lr=0.1)
    magnitude.hold_(optimizer, model, masks)
    experts.gate_up_proj.square().sum().add(experts.gate_up_proj.sum()).backward()
    optimizer.step()
    gone = torch.cat([(layer.weight == 0).flatten() for layer in WrittenOut(experts).gate])
    assert gone.float().mean() == pytest.approx(0.3, abs=1e-3)


def test_one_threshold_for_all_matrices():
    model = make("gpt_oss")
    masks = magnitude.prune_(model, 0.6, "model")
    layers = prunable_matrices(model)
    kept = torch.cat([layer.weight[masks[name]].abs().flatten() for name, layer in layers.items()])
    original = prunable_matrices(make("gpt_oss"))
    gone = torch.cat([layer.weight[~masks[name]].abs().flatten() for name, layer in original.items()])
    assert gone.max() < kept.min()
    assert "all prunable layers" in magnitude.summary(model)


@pytest.mark.parametrize("method", driver.METHODS)
def test_the_shipped_mixture(method):
    model, tokenizer = load("tiny-moe")
    text = tokenizer("def f(x):\n    return x + 1\n" * 20, return_tensors="pt")["input_ids"][:, :160]
    pruned, results = prune(model, method, text, pattern="2:4")
    coverage = comparison.coverage(pruned, results)
    assert coverage.left == {"mlp.gate": 6 * 8 * 128}
    assert coverage.share == "99.83%"
    for block in pruned.model.layers:
        for name in ("gate_up_proj", "down_proj"):
            groups = getattr(block.mlp.experts, name).unflatten(2, (-1, 4))
            assert ((groups != 0).sum(dim=-1) <= 2).all()
    assert all(
        torch.equal(a.mlp.gate.weight, b.mlp.gate.weight) for a, b in zip(model.model.layers, pruned.model.layers, strict=True)
    )
