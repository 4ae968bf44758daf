"""Minitron: scores of the published hooks; what does nothing can go without any change; what is left is an ordinary model."""

import copy

import published
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config, Qwen3Config

from sparsity_edu.weights import minitron
from sparsity_edu.weights.minitron import Importance, Shape

SIZES = dict(
    vocab_size=97,
    hidden_size=42,
    intermediate_size=56,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    tie_word_embeddings=True,
)


def decoder(config=LlamaConfig, seed=0, **changes):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(**SIZES | changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # nothing that is one or zero at the start hides a mistake
            parameter.add_(0.05 * torch.randn_like(parameter)) if "norm" in name or "bias" in name else parameter.mul_(3)
    return model


def windows(count=6, tokens=9, vocabulary=97):
    return torch.randint(0, vocabulary, (count, tokens), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    return decoder()


@pytest.fixture(scope="module")
def scores(model):
    return minitron.importance(model, windows(), progress=False)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_scores_are_those_of_the_published_hooks(model):
    batches = [windows(3, 9), windows(1, 4), windows(2, 7)]  # unequal
    ours = minitron.importance(model, batches, progress=False)
    hidden = 0
    for i, block in enumerate(model.model.layers):
        theirs = published.MinitronHooks()

        def first(name, hooks=theirs):
            return lambda *passed: hooks.activation_hook(name, passed[-1].transpose(0, 1))

        handles = [
            block.mlp.down_proj.register_forward_pre_hook(
                lambda m, args, h=theirs: h.activation_hook("ffn", args[0].transpose(0, 1))
            ),
            block.self_attn.o_proj.register_forward_pre_hook(
                lambda m, args, h=theirs: h.activation_hook("heads", args[0].transpose(0, 1))
            ),
            block.input_layernorm.register_forward_hook(first("one")),
            block.post_attention_layernorm.register_forward_hook(first("two")),
        ]
        with torch.no_grad():
            for ids in batches:
                states = model(input_ids=ids, output_hidden_states=True).hidden_states
                if i < 3:  # the last state is behind the final norm
                    theirs.layer_hook(states[i].transpose(0, 1), states[i + 1].transpose(0, 1))
        for handle in handles:
            handle.remove()
        torch.testing.assert_close(ours.ffn[i], theirs.neurons("ffn"), rtol=1e-6, atol=0)
        torch.testing.assert_close(ours.heads[i], theirs.heads("heads", 6, 8), rtol=1e-6, atol=0)
        hidden = hidden + theirs.neurons("one") + theirs.neurons("two")
        if i < 3:
            torch.testing.assert_close(ours.layers[i], theirs.score, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.hidden, hidden, rtol=1e-6, atol=0)


@pytest.mark.parametrize("over_batch", minitron.AGGREGATIONS)
@pytest.mark.parametrize("over_sequence", minitron.AGGREGATIONS)
def test_aggregation(over_sequence, over_batch):
    g = torch.Generator().manual_seed(0)
    X = torch.randn(5, 7, 3, generator=g) * torch.arange(1, 6)[:, None, None] + 1
    one = {"mean": X.abs().sum(1) / 7, "l2": (X**2).sum(1).sqrt(), "variance": (X**2).mean(1) - X.mean(1) ** 2}[over_sequence]
    two = {"mean": one.abs().sum(0) / 5, "l2": (one**2).sum(0).sqrt(), "variance": (one**2).mean(0) - one.mean(0) ** 2}[
        over_batch
    ]
    aggregate = minitron.Aggregate(over_sequence, over_batch)
    aggregate.add(X[:2])
    aggregate.add(X[2:])
    torch.testing.assert_close(aggregate.score(), two, rtol=1e-4, atol=1e-5)


def test_one_batch_or_many_give_the_same_widths(model):
    ids = windows()
    together, alone = (minitron.importance(model, batches, progress=False) for batches in ([ids], ids))
    for name in ("ffn", "heads", "hidden"):
        torch.testing.assert_close(getattr(together, name), getattr(alone, name), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def plant(model, neurons=(), heads=(), hidden=(), layers=()):
    """Make parts of a model do nothing."""
    for i, block in enumerate(model.model.layers):
        block.mlp.up_proj.weight[list(neurons)] = 0
        if getattr(block.mlp.up_proj, "bias", None) is not None:
            block.mlp.up_proj.bias[list(neurons)] = 0
        for head in heads:
            block.self_attn.o_proj.weight[:, 8 * head : 8 * head + 8] = 0
        for writer in (block.mlp.down_proj, block.self_attn.o_proj):
            writer.weight[list(hidden)] = 0
            if i in layers:
                writer.weight.zero_()
    model.model.embed_tokens.weight[:, list(hidden)] = 0
    return model


def ones(**less):
    """An importance in which some parts are less."""
    found = Importance(torch.ones(4), torch.ones(42), torch.ones(4, 6), torch.ones(4, 56))
    for name, parts in less.items():
        getattr(found, name)[..., list(parts)] = 0
    return found


@pytest.mark.parametrize("config", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("tied", [True, False])
def test_what_does_nothing_can_go_without_any_change(config, tied):
    neurons, heads, hidden, layers = (0, 3, 20, 55), (1, 5), (0, 7, 8, 22, 39, 41), (1, 2)
    model = plant(decoder(config, tie_word_embeddings=tied), neurons, heads, hidden, layers)
    found = ones(ffn=neurons, heads=heads, hidden=hidden, layers=layers)
    small = minitron.trim(model, Shape(layers=2, hidden=36, heads=4, ffn=52), found)
    torch.testing.assert_close(logits(small, windows()), logits(model, windows()), rtol=1e-4, atol=2e-4)
    assert sum(p.numel() for p in small.parameters()) == minitron.parameters(model, Shape(2, 36, 4, 52))


def test_importance_finds_what_does_nothing():
    model = plant(decoder(), neurons=(0, 3, 20, 55), hidden=(0, 7, 39), layers=(1,))
    found = minitron.importance(model, windows(), progress=False)
    assert [set(row.argsort()[:4].tolist()) for row in found.ffn] == [{0, 3, 20, 55}] * 4
    assert set(found.hidden.argsort()[:3].tolist()) == {0, 7, 39}
    assert found.layers.argmin() == 1
    assert found.layers[1].abs() < 1e-5


def test_the_scale_of_a_norm_is_kept_on_request_only(model, scores):
    shape = Shape(4, 24, 6, 56)
    plain, kept = (minitron.trim(model, shape, scores, keep_scale=keep) for keep in (False, True))
    best = scores.hidden.argsort(descending=True)[:24].sort().values
    assert torch.equal(plain.model.norm.weight, model.model.norm.weight[best])
    torch.testing.assert_close(kept.model.norm.weight, plain.model.norm.weight * (42 / 24) ** 0.5)


def test_heads_are_chosen_within_their_groups(model):
    found = ones()
    found.heads[:] = torch.tensor([6.0, 5, 4, 3, 2, 1])  # the first group would win everything
    small = minitron.trim(model, Shape(4, 42, 2, 56), found)
    assert small.config.num_key_value_heads == 2
    for new, old in zip(small.model.layers, model.model.layers, strict=True):
        assert torch.equal(new.self_attn.q_proj.weight, old.self_attn.q_proj.weight[[*range(8), *range(24, 32)]])
        assert torch.equal(new.self_attn.o_proj.weight, old.self_attn.o_proj.weight[:, [*range(8), *range(24, 32)]])


def test_neurons_are_chosen_block_by_block_and_stay_in_order(model, scores):
    small = minitron.trim(model, Shape(4, 42, 6, 10), scores)
    for i, (new, old) in enumerate(zip(small.model.layers, model.model.layers, strict=True)):
        best = scores.ffn[i].topk(10).indices.sort().values
        for name in ("gate_proj", "up_proj"):
            assert torch.equal(getattr(new.mlp, name).weight, getattr(old.mlp, name).weight[best])
        assert torch.equal(new.mlp.down_proj.weight, old.mlp.down_proj.weight[:, best])
    assert len({tuple(row.topk(10).indices.sort().values.tolist()) for row in scores.ffn}) == 4  # they do differ


@pytest.mark.parametrize("config", [LlamaConfig, Qwen3Config])
def test_a_small_model_is_saved_loaded_and_generates(config, tmp_path):
    model = decoder(config)
    found = minitron.importance(model, windows(), progress=False)
    small = minitron.trim(model, Shape(3, 24, 4, 33), found)
    small.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (loaded.config.hidden_size, loaded.config.head_dim, loaded.config.num_attention_heads) == (24, 8, 4)
    torch.testing.assert_close(logits(loaded, windows()), logits(small, windows()))
    assert loaded.generate(windows(1), max_new_tokens=5, do_sample=False, pad_token_id=0).shape == (1, 14)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    loaded(input_ids=windows(), labels=windows()).loss.backward()


def test_the_large_model_is_not_changed(model, scores):
    before = copy.deepcopy(model.state_dict())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    small = minitron.trim(model, Shape(2, 16, 2, 8), scores)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    minitron.importance(model, windows(), progress=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.config.hidden_size == 42
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks


def test_shapes_fill_a_budget(model):
    full = sum(p.numel() for p in model.parameters())
    budget = int(0.8 * full)
    shapes = minitron.shapes_for(model, budget, hidden=(42, 36, 30, 24), divisor=4)
    for shape in shapes:
        used = minitron.parameters(model, shape)
        more = minitron.parameters(model, Shape(shape.layers, shape.hidden, shape.heads, shape.ffn + 4))
        assert used <= budget
        assert more > budget or shape.ffn == 56
    assert {shape.layers for shape in shapes} == {2, 3, 4}
    assert len({shape.hidden for shape in shapes}) > 3
    with pytest.raises(ValueError, match="no shape of at most 1,000 parameters"):
        minitron.shapes_for(model, 1000)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(5, 42, 6, 56), "layers must be from 1 to the model's 4, got 5"),
        (Shape(4, 0, 6, 56), "hidden must be from 1 to the model's 42, got 0"),
        (Shape(4, 40, 5, 56), "heads must be a multiple of the model's 2 key-value heads, got 5"),
        (Shape(4, 40, 6, 56), "hidden must be a multiple of the 6 heads, as transformers wants it of a Llama, got 40"),
    ],
)
def test_shapes_that_are_none(model, scores, shape, message):
    with pytest.raises(ValueError, match=message):
        minitron.trim(model, shape, scores)


def test_other_layouts_and_aggregations_are_refused(model):
    with pytest.raises(ValueError, match=r"of a family that can be cut .*, got Linear"):
        minitron.importance(torch.nn.Linear(2, 2), windows())
    with pytest.raises(ValueError, match="aggregation must be two of mean, l2, variance"):
        minitron.importance(model, windows(), ("mean", "max"))
    with pytest.raises(ValueError, match="window must be at most the model's 64 positions, got 65"):
        minitron.importance(model, [windows(), windows(1, 65)])
    with pytest.raises(ValueError, match="at least one batch"):
        minitron.importance(model, [])
    assert isinstance(model, LlamaForCausalLM)
