"""The greedy search makes the authors' choices, one after the other, and compares with the dense block."""

from contextlib import contextmanager

import pytest
import torch
from authors import TealDistribution, teal_greedy
from decoders import small_model, text
from transformers import OPTConfig, OPTForCausalLM

from sparsity_edu.activations import teal
from sparsity_edu.activations.allocation import allocate, block_error, by_size, effective, greedy, nearest

WEIGHTS = {"q": 1.0, "k": 0.25, "v": 0.25, "o": 1.0, "gate": 2.75, "up": 2.75, "down": 2.75}


def swiglu_block(x, W, thresholds):
    """Two branches that share an input and one behind them: (batch, tokens, channels); the last half is sparsified."""

    def sparse(x, t):
        half = x.shape[1] // 2
        return torch.cat([x[:, :-half], x[:, -half:] * (x[:, -half:].abs() > t)], dim=1)

    gate = torch.nn.functional.silu(sparse(x, thresholds["gate"]) @ W["gate"])
    h = gate * (sparse(x, thresholds["up"]) @ W["up"])
    return x + sparse(h, thresholds["down"]) @ W["down"], h


def test_choices_are_the_authors():
    generator = torch.Generator().manual_seed(5)
    W = {
        name: torch.randn(*shape, generator=generator) / 4
        for name, shape in dict(gate=(24, 40), up=(24, 40), down=(40, 24)).items()
    }
    x = torch.randn(3, 32, 24, generator=generator) ** 3
    dense, h = swiglu_block(x, W, dict.fromkeys(W, 0.0))
    distributions = {name: TealDistribution(h if name == "down" else x) for name in W}
    weights = {"gate": 1.0, "up": 1.0, "down": 0.5}

    def output(thresholds):
        return swiglu_block(x, W, thresholds)[0]

    expected = teal_greedy(output, dense, distributions, weights, 0.05, 0.9)

    def error(levels):
        return block_error([dense], [output({name: distributions[name].threshold(p) for name, p in levels.items()})])

    path = greedy(error, weights, 0.9, 0.05)
    assert path[0].levels == dict.fromkeys(W, 0.0)
    assert path[0].error == 0
    assert len(path) == len(expected) + 1 > 40
    assert len({row.raised for row in path[1:]}) == 3
    for row, (share, off, levels) in zip(path[1:], expected, strict=True):
        assert row.levels == pytest.approx(levels)
        assert (row.effective, row.error) == pytest.approx((share, off), rel=1e-5)
    assert path[-2].effective < 0.9 <= path[-1].effective


def test_each_step_saves_as_much_and_all_are_tried_again():
    """The cheapest one grows dear, so that another is the best of the second round: a ranking made once would miss it."""
    cost = {"q": 1.0, "k": 30.0, "v": 40.0, "o": 1.6, "gate": 9.0, "up": 9.5, "down": 7.0}
    calls = []

    def error(levels):
        calls.append(levels)
        return sum(cost[name] * (levels[name] * WEIGHTS[name]) ** 2 for name in WEIGHTS)

    path = greedy(error, WEIGHTS, 0.5, 0.1)
    assert [row.raised for row in path[1:4]] == ["q", "o", "q"]
    total, rises = sum(WEIGHTS.values()), len(path) - 1
    assert [row.effective for row in path] == pytest.approx([0.1 / total * i for i in range(len(path))])
    assert rises + 1 < len(calls) <= 1 + len(WEIGHTS) * rises  # one that has reached 1 is not raised any more
    assert effective(path[-1].levels, WEIGHTS) == path[-1].effective >= 0.5 > path[-2].effective
    assert nearest(path, 0.1 / total * 3.4) is path[3]
    assert nearest(path, 0.0) is path[0]


def test_levels_end_at_one_or_a_step_beyond():
    path = greedy(lambda levels: sum(levels.values()), {"a": 1.0, "b": 0.3}, 1.0, 0.35)
    assert path[-1].levels == pytest.approx({"a": 1.05, "b": 0.35 / 0.3})
    assert path[-1].effective >= 1
    with pytest.raises(ValueError, match=r"target must be in \[0, 1\], got 1.2"):
        greedy(lambda levels: 0.0, WEIGHTS, 1.2)
    with pytest.raises(ValueError, match="step and weights must be positive"):
        greedy(lambda levels: 0.0, WEIGHTS, 0.5, 0.0)


def test_the_error_is_a_norm_over_tokens():
    dense, sparse = torch.zeros(1, 8, 2), torch.zeros(1, 8, 2)
    sparse[0, 6:] = torch.tensor([[3.0, 0.0], [4.0, 1.0]])  # channels: 5 and 1; by token they would be 3 and sqrt(17)
    sparse[0, 5] = 100  # not among the last quarter
    assert block_error([dense], [sparse]) == pytest.approx(3.0)
    assert block_error([dense, dense], [sparse, dense]) == pytest.approx(1.5)
    assert block_error([dense], [sparse], last=1.0) > 100


@pytest.mark.parametrize(
    ("family", "prefill", "last"), [("llama", "last_half", 0.25), ("qwen3", "all", 0.25), ("qwen2", "last_half", 0.8)]
)
def test_a_models_levels_are_those_of_each_block_by_itself(family, prefill, last):
    model, ids = small_model(family), text(2, 24)
    distributions = teal.calibrate(model, text(), progress=False)
    found = allocate(model, ids, distributions, 0.3, step=0.4, prefill=prefill, last=last, progress=False)
    assert len(found) == 3
    for index, block in enumerate(found):
        prefix = f"model.layers.{index}."
        layers = {name: layer for name, layer in teal.linear_layers(model).items() if name.startswith(prefix)}
        assert block.levels.keys() == layers.keys()
        weights = by_size(layers)
        assert weights[f"{prefix}self_attn.q_proj"] == 1
        assert weights[f"{prefix}self_attn.v_proj"] == pytest.approx(1 / 3)
        assert abs(block.effective - 0.3) <= 0.4 / sum(weights.values())
        assert block.effective == pytest.approx(effective(block.levels, weights))
        inside = model.model.layers[index]
        dense = _outputs(model, inside, ids)
        # the last choice again, by hand: of all rises from the state before it, the one that hurts least
        before = next(row for row in reversed(block.path) if row.effective < block.effective - 1e-9)
        errors = {}
        for name in layers:
            trial = before.levels | {name: before.levels[name] + 0.4 / weights[name]}
            with _zeroed(layers, {n: distributions[n].threshold(p) for n, p in trial.items()}, prefill):
                off = _outputs(model, inside, ids) - dense
            errors[name] = float(off[:, -int(24 * last) :].norm(dim=1).mean())
        best = min(errors, key=errors.get)
        row = block.path[block.path.index(before) + 1]
        assert (row.raised, row.error) == (best, pytest.approx(errors[best], rel=1e-4))
    assert sum(block.error < block.uniform_error for block in found) >= 2


@contextmanager
def _zeroed(layers, limits, prefill):
    def zero(limit):
        def hook(_, args):
            x = args[0].clone()
            part = x[..., -(x.shape[-2] // 2) :, :] if prefill == "last_half" else x
            part *= part.abs() > limit
            return (x,)

        return hook

    handles = [layers[name].register_forward_pre_hook(zero(limit)) for name, limit in limits.items()]
    yield
    for handle in handles:
        handle.remove()


@torch.no_grad()
def _outputs(model, block, ids):
    """What a block makes of a text that all blocks before it read densely."""
    seen = []
    handle = block.register_forward_hook(lambda _, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
    model(input_ids=ids)
    handle.remove()
    return seen[0]


def test_a_decoder_of_another_layout():
    """OPT: no `mlp`, an `out_proj`, biases. The path begins with what each rise by itself costs."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32)
    model = OPTForCausalLM(OPTConfig(vocab_size=101, max_position_embeddings=64, **sizes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    ids = text(2, 24)
    distributions = teal.calibrate(model, text(), progress=False)
    found = allocate(model, ids, distributions, 0.2, step=0.3, progress=False)
    block = model.model.decoder.layers[1]
    layers = {name: layer for name, layer in teal.linear_layers(model).items() if ".layers.1." in name}
    weights, errors = by_size(layers), {}

    def outputs():  # row by row: fc1 gets the tokens of all rows under each other
        return torch.cat([_outputs(model, block, row[None]) for row in ids])

    dense = outputs()
    for name in layers:
        with _zeroed({name: layers[name]}, {name: distributions[name].threshold(0.3 / weights[name])}, "last_half"):
            errors[name] = float((outputs() - dense)[:, -6:].norm(dim=1).mean())
    first = found[1].path[1]
    assert (first.raised, first.error) == (min(errors, key=errors.get), pytest.approx(min(errors.values()), rel=1e-4))
