"""The record of unit 13: its selectors choose what they say, and what is shipped is what the script makes."""

import json

import pytest
import torch
from decoders import read, small_model, text

from sparsity_edu.activations import deja_vu_record as record
from sparsity_edu.activations import dejavu
from sparsity_edu.activations.execution import masked


def test_the_largest_products_are_chosen():
    model, ids = small_model(act="relu"), text(1, 12)
    seen = read(model, ["model.layers.1.mlp.down_proj", "model.layers.1.post_attention_layernorm"], ids)
    products, states = seen["model.layers.1.mlp.down_proj"], seen["model.layers.1.post_attention_layernorm"]
    mask = record.largest(model, 5)["neurons", 1](states)
    assert (mask.sum(dim=-1) == 5).all()
    rest = products.abs().masked_fill(mask, 0).amax(dim=-1)
    assert (products.abs().masked_fill(~mask, torch.inf).amin(dim=-1) >= rest).all()


@torch.no_grad()
def test_energy_and_static_masks():
    model, ids = small_model(act="relu"), text(2, 12)
    means = record.energy(model, ids)
    seen = read(model, [f"model.layers.{l}.mlp.down_proj" for l in range(3)], ids)
    for mean, products in zip(means, seen.values(), strict=True):
        torch.testing.assert_close(mean, products.square().mean(dim=(0, 1)))
    selectors = record.static(means, 7)
    mask = selectors["neurons", 2](torch.zeros(2, 3, 42))
    assert mask.shape == (2, 3, 56)
    assert torch.equal(mask[0, 0].nonzero().view(-1), means[2].topk(7).indices.sort().values)
    assert (mask == mask[0, 0]).all()


def test_chance_has_k_of_each_token():
    model, ids = small_model(act="relu"), text(1, 12)
    with masked(model, record.by_chance(model, 14), "training") as used:
        model(input_ids=ids)
    assert used.share("neurons") == 0.25


def test_the_shipped_record_is_whole():
    shipped = json.loads(record.RECORD.read_text())
    assert shipped["command"].startswith("python -m sparsity_edu.activations.deja_vu_record --epochs ")
    assert shipped["neurons"].keys() == {*dejavu.LOOKAHEAD, "oracle", "static", "chance"}
    assert list(map(int, shipped["ranks"])) == list(record.RANKS)
    for found in shipped["neurons"].values():
        assert [point["k"] for point in found["curve"]] == list(record.KEPT)
        assert found["curve"][0]["perplexity"] == pytest.approx(shipped["dense"], rel=1e-3)
    at = {name: {p["k"]: p["perplexity"] for p in found["curve"]} for name, found in shipped["neurons"].items()}
    assert all(at["oracle"][k] <= at["accuracy"][k] <= at["static"][k] for k in record.KEPT[3:])
