"""Blocks on chosen heads and neurons: masked as a slow block written here, gathered as masked, exact with an oracle."""

import pytest
import torch
from decoders import FAMILIES, small_model, text
from torch import nn
from transformers import DynamicCache

from sparsity_edu.activations import deferred, dejavu, execution
from sparsity_edu.activations.dejavu import LOOKAHEAD
from sparsity_edu.activations.execution import gathered, masked, sparse_mlp
from sparsity_edu.activations.labels import chosen

OPTIONS = dict(do_sample=False, pad_token_id=0, output_logits=True, return_dict_in_generate=True)


def selectors(heads=3, neurons=20, layers=range(3), seed=0):
    """Choices that depend on the state they get, and on nothing else."""
    made = {}
    for l in layers:
        for kind, units, k in (("heads", 6, heads), ("neurons", 56, neurons)):
            R = torch.randn(42, units, generator=torch.Generator().manual_seed(seed + 10 * l + units))
            made[kind, l] = lambda states, R=R, k=k: chosen(states @ R, k)
    return {key: made[key] for key in made if (heads if key[0] == "heads" else neurons)}


def slow_block(block, x, cos, sin, heads, neurons):
    """One sequence (tokens, hidden) through a block, head by head; masks (tokens, units). Also the state before the MLP."""

    def norm(x, module):
        return x / (x.square().mean(-1, keepdim=True) + module.variance_epsilon).sqrt() * module.weight

    def turn(x):
        half = x.shape[-1] // 2
        return torch.cat([x[..., :half] * cos[:, :half] - x[..., half:] * sin[:, :half],
                          x[..., half:] * cos[:, half:] + x[..., :half] * sin[:, half:]], dim=-1)  # fmt: skip

    attention, mlp, dim = block.self_attn, block.mlp, block.self_attn.head_dim
    y = norm(x, block.input_layernorm)
    q, k, v = (getattr(attention, f"{name}_proj")(y).unflatten(-1, (-1, dim)) for name in "qkv")
    if hasattr(attention, "q_norm"):
        q, k = norm(q, attention.q_norm), norm(k, attention.k_norm)
    window = getattr(attention, "sliding_window", None) or getattr(attention.config, "sliding_window", None) or 10**6
    age = torch.arange(len(x))[:, None] - torch.arange(len(x))
    hidden = (age < 0) | (age >= window)
    state = x.clone()
    for h in range(q.shape[1]):
        scores = turn(q[:, h]) @ turn(k[:, h // 3]).T / dim**0.5
        out = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[:, h // 3]
        state += heads[:, h, None] * (out @ attention.o_proj.weight[:, h * dim : (h + 1) * dim].T)
    if attention.o_proj.bias is not None:
        state += attention.o_proj.bias
    z = norm(state, block.post_attention_layernorm)
    products = mlp.act_fn(mlp.gate_proj(z) * neurons) * mlp.up_proj(z)
    return state + mlp.down_proj(products), state


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "lookahead", "act"),
    [("llama", "training", "relu"), ("llama, biases", "accuracy", "relu"), ("mistral", "latency", "silu"),
     ("mistral, sliding", "accuracy", "silu"), ("qwen2", "latency", "relu"), ("qwen3", "training", "silu")],
)  # fmt: skip
def test_masked_blocks_are_slow_blocks(family, lookahead, act):
    model, ids, choose = small_model(family, act=act), text(2, 13), selectors()
    with masked(model, choose, lookahead) as used:
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
    shares = {"heads": [], "neurons": []}
    for row in range(2):
        x = hidden[0][row]
        cos, sin = (table[0] for table in model.model.rotary_emb(x[None], torch.arange(13)[None]))
        states = {}
        for l, block in enumerate(model.model.layers):
            states["block", l] = x
            masks = {}
            # a state that its own MLP reads is there only after attention
            for kind in ("heads", "neurons"):
                point, back = LOOKAHEAD[lookahead][kind]
                if (point, back) == ("mlp", 0):
                    masks[kind] = None
                    continue
                state = states.get((point, l - back))
                masks[kind] = torch.ones(13, 6 if kind == "heads" else 56).bool() if state is None else choose[kind, l](state)
            first = masks["neurons"] if masks["neurons"] is not None else torch.ones(13, 56).bool()
            x, states["mlp", l] = slow_block(block, states["block", l], cos, sin, masks["heads"], first)
            if masks["neurons"] is None:
                masks["neurons"] = choose["neurons", l](states["mlp", l])
                x, _ = slow_block(block, states["block", l], cos, sin, masks["heads"], masks["neurons"])
            for kind, mask in masks.items():
                shares[kind].append(mask.float().mean())
            if l < 2:  # the last hidden state is behind the final norm
                torch.testing.assert_close(hidden[l + 1][row], x, rtol=1e-3, atol=1e-3)
    for kind, found in shares.items():
        assert used.share(kind) == pytest.approx(float(sum(found) / len(found)))
    assert not torch.allclose(model(input_ids=ids, output_hidden_states=True).hidden_states[2], hidden[2], atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_gathered_writes_what_masked_does(family, monkeypatch):
    """Some heads of keys wait for more than 16 tokens, others for a few."""
    act, lookahead = {"llama": ("relu", "training"), "qwen2": ("relu", "latency")}.get(family, ("silu", "accuracy"))
    model, ids, choose = small_model(family, act=act), text(1, 9, seed=4), selectors(heads=1)
    with masked(model, choose, lookahead, prompt=False) as expected_use:
        expected = model.generate(ids, past_key_values=DynamicCache(), max_new_tokens=24, **OPTIONS)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    read, real = [], execution.sparse_mlp
    monkeypatch.setattr(execution, "sparse_mlp", lambda x, idx, *args: read.append(len(idx)) or real(x, idx, *args))
    with gathered(model, choose, lookahead) as use:
        got = model.generate(ids, past_key_values=deferred.DeferredCache(), max_new_tokens=24, **OPTIONS)
    assert read == [20] * 23 * (2 if lookahead == "latency" else 3)  # the first token comes with the prompt
    assert torch.equal(got.sequences, expected.sequences)
    for a, b in zip(got.logits, expected.logits, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)
    for kind in ("heads", "neurons"):
        assert use.share(kind) == expected_use.share(kind) < 1
    dense = model.generate(ids, max_new_tokens=24, **OPTIONS)
    assert not torch.allclose(dense.logits[3], got.logits[3], atol=1e-2)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
        assert weight.is_contiguous()


@torch.no_grad()
def test_an_oracle_is_exact():
    """All neurons that are not zero, and all heads whose output is not: nothing changes, masked to the last bit."""
    model, ids = small_model("llama, biases", act="relu"), text(2, 12)
    dead = torch.tensor([True, False, False, True, True, True])  # heads whose output weights are zero; one group of three whole
    for block in model.model.layers:
        block.self_attn.o_proj.weight[:, dead.repeat_interleave(8)] = 0
    oracle = {("heads", l): lambda states: (~dead).expand(*states.shape[:-1], 6) for l in range(3)} | dejavu.oracle(model)
    dense = model(input_ids=ids).logits
    with masked(model, oracle, "training") as used:
        assert torch.equal(model(input_ids=ids).logits, dense)
    assert 0.2 < used.share("neurons") < 0.8
    assert used.share("heads") == pytest.approx((1 + 2 * 2 / 6) / 3)  # the first block has nothing to tell heads from
    expected = model.generate(ids[:1], max_new_tokens=20, **OPTIONS)
    with gathered(model, oracle, "training") as used:
        got = model.generate(ids[:1], past_key_values=deferred.DeferredCache(), max_new_tokens=20, **OPTIONS)
    assert torch.equal(got.sequences, expected.sequences)
    for a, b in zip(got.logits, expected.logits, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert used.share("neurons") < 0.9


def test_with_all_chosen_nothing_changes():
    model, ids = small_model("qwen3"), text(2, 12)
    everything = {("heads", l): lambda states: torch.ones(*states.shape[:-1], 6).bool() for l in range(3)}
    everything |= {("neurons", l): lambda states: torch.ones(*states.shape[:-1], 56).bool() for l in range(3)}
    dense = model.generate(ids, max_new_tokens=6, **OPTIONS)
    for way, cache in ((masked, DynamicCache), (gathered, deferred.DeferredCache)):
        for batch in (ids, ids[:1]):
            with way(model, everything):
                got = model.generate(batch, past_key_values=cache(), max_new_tokens=6, **OPTIONS)
            assert torch.equal(got.sequences, dense.sequences[: len(batch)])


def test_with_none_chosen_only_biases_stay():
    model, ids = small_model("llama, biases"), text(1, 5)
    nothing = {("heads", l): lambda states: torch.zeros(*states.shape[:-1], 6).bool() for l in range(3)}
    nothing |= {("neurons", l): lambda states: torch.zeros(*states.shape[:-1], 56).bool() for l in range(3)}
    with masked(model, nothing, prompt=False):
        expected = model.generate(ids, max_new_tokens=5, **OPTIONS)
    with gathered(model, nothing):
        got = model.generate(ids, past_key_values=deferred.DeferredCache(), max_new_tokens=5, **OPTIONS)
    torch.testing.assert_close(torch.stack(got.logits), torch.stack(expected.logits), rtol=1e-4, atol=1e-4)


def test_keys_and_values_of_skipped_heads_wait(monkeypatch):
    """Head 0 of keys at every step, head 1 at steps 5 and 6, and when 16 tokens wait."""
    model, ids, step = small_model(), text(1, 9), []
    made, real = [], execution._keys_and_values

    def noted(attention, heads, x, *tables):
        made.append((len(step), attention.layer_idx, heads.tolist(), len(x)))
        return real(attention, heads, x, *tables)

    monkeypatch.setattr(execution, "_keys_and_values", noted)

    def heads(states):
        step.append(None)
        both = len(step) in (5, 6)
        return torch.tensor([True, False, True, False, both, False]).expand(*states.shape[:-1], 6)

    with gathered(model, {("heads", 2): heads}):
        model.generate(ids, past_key_values=deferred.DeferredCache(), max_new_tokens=26, **OPTIONS)
    of_one = [(at, count) for at, layer, which, count in made if 1 in which]
    assert of_one == [(5, 5), (6, 1), (22, 16)]
    assert sum(count for _, _, which, count in made if 0 in which) == 25
    assert {layer for _, layer, _, _ in made} == {2}


def test_a_dense_step_fills_what_waits():
    """A prompt, five tokens by one head of six, then four at once: as if all had been read densely but for the outputs."""
    model, ids, choose = small_model(), text(1, 14), selectors(heads=1, neurons=0)

    @torch.no_grad()
    def logits(cache):
        parts = [ids[:, :5], *ids[:, 5:10].split(1, dim=1), ids[:, 10:]]
        return [model(input_ids=part, past_key_values=cache, use_cache=True).logits for part in parts][-1]

    with masked(model, choose, prompt=False):
        expected = logits(DynamicCache())
    with gathered(model, choose):
        torch.testing.assert_close(logits(deferred.DeferredCache()), expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("gated", [True, False])
def test_a_sparse_mlp(gated):
    torch.manual_seed(0)
    up, gate, down = nn.Linear(12, 30), nn.Linear(12, 30), nn.Linear(30, 12)
    x = torch.randn(1, 12)
    if gated:
        dense = down(gate(x).relu() * up(x))
        idx = (gate(x) > 0)[0].nonzero()[:, 0]
        weights = {"gate": gate.weight, "biases": (gate.bias, up.bias, down.bias)}
    else:
        dense = down(up(x).relu())
        idx = (up(x) > 0)[0].nonzero()[:, 0]
        weights = {"biases": (None, up.bias, down.bias)}
    assert 5 < len(idx) < 25
    args = (down.weight.T.contiguous(), up.weight)
    torch.testing.assert_close(sparse_mlp(x, idx, *args, **weights), dense)
    assert not torch.allclose(sparse_mlp(x, idx[1:], *args, **weights), dense)
    torch.testing.assert_close(sparse_mlp(x, torch.arange(30), *args, **weights), dense)


def test_what_is_refused():
    model, ids = small_model(), text(1, 5)
    with (
        pytest.raises(ValueError, match="selectors must be of heads and neurons of 3 blocks, got 'heads', 3"),
        masked(model, selectors(layers=[3])),
    ):
        pass
    with pytest.raises(ValueError, match="lookahead must be one of"), masked(model, {}, "next"):
        pass
    with gathered(model, selectors()), pytest.raises(ValueError, match=r"must be a DeferredCache .*, got DynamicCache"):
        model.generate(ids, max_new_tokens=3, **OPTIONS)
    wrong = {("heads", 1): lambda states: torch.ones(*states.shape[:-1], 5).bool()}
    with masked(model, wrong), pytest.raises(ValueError, match=r"a selector must give a mask \(1, 5, 6\), got \(1, 5, 5\)"):
        model(input_ids=ids)
    cache = deferred.DeferredCache()
    with gathered(model, selectors(heads=1)), torch.no_grad():
        model(input_ids=ids, past_key_values=cache, use_cache=True)
        model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
    layer = cache.layers[1]
    for call in (
        lambda: layer.crop(-1),
        lambda: layer.reorder_cache(torch.tensor([0])),
        lambda: layer.batch_select_indices([0]),
    ):
        with pytest.raises(NotImplementedError, match="DeferredCache is "):
            call()
    with pytest.raises(RuntimeError, match="must be filled in before a dense step"):
        model(input_ids=ids, past_key_values=cache, use_cache=True)
    layer.reset()
    assert layer.get_seq_length() == 0
    assert not layer.inputs
