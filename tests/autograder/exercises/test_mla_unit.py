"""Unit 12: what its exercises take for right is what the library does, and its inputs are what they claim to be."""

import pytest
import torch
from worked import cases, first_difference

from autograder.exercises import find
from autograder.exercises.mla import fixtures
from sparsity_edu.kv_cache import attention, mla, sizes
from sparsity_edu.kv_cache.mla import FORMS, MLA, LatentCache, Shape


def near(got, want, tolerance=1e-4):
    return (got - want).abs().max() <= tolerance * want.abs().max()


def test_latents_are_as_in_the_library():
    for case, wants in cases("mla.latent"):
        for got, want in zip(mla.latent(*case.args, **case.kwargs), wants, strict=True):
            assert near(got, want)


def test_rotations_are_as_in_the_library():
    for case, want in cases("mla.rotate"):
        (x, positions), options = case.args, {"base": 10000.0, "interleaved": True} | case.kwargs
        angle = positions[..., None] * options["base"] ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
        assert near(attention.rotate(x, angle[:, :, None] if x.ndim == 4 else angle, options["interleaved"]), want, 2e-4)


@pytest.mark.parametrize(("id", "form"), zip(("mla.naive", "mla.absorbed"), FORMS, strict=True))
def test_attention_is_as_in_the_library(id, form):
    for case, want in cases(id):
        assert near(mla.latent_attention(*case.args, form=form), want)


@torch.no_grad()
def test_a_cache_is_the_layer_of_the_library():
    for case, results in cases("mla.decode"):
        base, interleaved = (*case.args, *(10000.0, True)[len(case.args) :])
        weights, cache = case.calls[0][2], LatentCache()
        (heads, nope, d_c), rope = weights["uk"].shape, len(weights["down"]) - len(weights["norm"])
        shape = Shape(weights["q"].shape[1], heads, nope, rope, weights["uv"].shape[1], d_c)
        layer = MLA(shape, frequencies=base ** (-torch.arange(0, rope, 2) / rope), interleaved=interleaved)
        up = torch.cat([weights["uk"], weights["uv"]], dim=1).flatten(0, 1)
        names = ("q_proj", "kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "o_proj")
        given = (weights["q"], weights["down"], weights["norm"], up, weights["out"])
        layer.load_state_dict({f"{name}.weight": W for name, W in zip(names, given, strict=True)})
        for (method, *arguments), want in zip(case.calls, results, strict=True):
            if method == "attend":
                assert near(layer(arguments[0], cache=cache), want)
            else:
                assert want == f"at most {arguments[0]} bytes"
                assert cache.bytes_held + 64 == arguments[0]


def test_sizes_are_as_in_the_library():
    for case, size in cases("mla.cache_bytes"):
        kind, tokens = case.args
        given = {"batch": 1, "itemsize": 2} | case.kwargs
        model = sizes.Attention(given["layers"], given["heads"], given["heads"], given["head_dim"])
        model = model.variants(given["groups"], given["latent"], given["rope"])[kind]
        assert model.kind == kind
        assert size == model.cache_bytes(tokens, given["batch"], given["itemsize"])


def test_costs_are_as_in_the_library():
    for case, counts in cases("mla.cost"):
        (form, queries, tokens), widths = case.args, case.kwargs
        shape = Shape(1, *(widths[name] for name in ("heads", "nope", "rope", "value", "latent")))
        if form != "naive":
            assert tuple(counts) == mla.cost(shape, queries, tokens, "naive" if form == "unpacked" else form)
        else:  # unpacks all tokens, and keeps what the absorbed form keeps
            more = 2 * (tokens - queries) * shape.heads * shape.latent * (shape.nope + shape.value)
            assert counts[0] == mla.cost(shape, queries, tokens, "naive")[0] + more
            assert counts[1] == mla.cost(shape, queries, tokens, "absorbed")[1]


@pytest.mark.parametrize("make", [fixtures.drowned_keys, fixtures.drowned_values])
def test_what_is_lost_beside_large_keys_or_values_is_lost_in_float64_too(make):
    args = make(torch.Generator().manual_seed(0), 2, 1, 8, 3, 6, 4, 5, 7)
    right = find("mla.absorbed").reference(*args)
    assert near(mla.latent_attention(*args, form="absorbed"), right)
    assert not near(mla.latent_attention(*(part.double() for part in args), form="naive"), right, 0.1)


def test_far_scores_are_further_apart_than_a_number_in_place_of_minus_infinity():
    q_nope, q_rope, c, k_rope, W_uk, _ = fixtures.far_scores(torch.Generator().manual_seed(0), 3e3, 3e3, 2, 5, 5, 3, 6, 4, 5, 7)
    scores = torch.einsum("bqhn,hnr,btr->bhqt", q_nope, W_uk, c) + torch.einsum("bqhd,btd->bhqt", q_rope, k_rope)
    assert scores[..., 0].max() < -5e4
    assert scores[..., -1].min() > 5e4


@pytest.mark.parametrize("make", [fixtures.infinite_keys, fixtures.infinite_value])
def test_what_may_not_be_made_would_be_infinite(make):
    q_nope, q_rope, c, k_rope, W_uk, W_uv = make(torch.Generator().manual_seed(0), 2, 3, 9, 3, 6, 4, 5, 7)
    keys, values = (torch.einsum("btr,hnr->bthn", c, W) for W in (W_uk, W_uv))
    assert keys.isinf().any() == (make is fixtures.infinite_keys)
    assert values.isinf().any() == (make is fixtures.infinite_value)
    args = (q_nope, q_rope, c, k_rope, W_uk, W_uv)
    assert not torch.allclose(mla.latent_attention(*args, form="naive"), mla.latent_attention(*args, form="absorbed"), atol=0.1)
    assert mla.latent_attention(*args, form="absorbed").isfinite().all()


def test_a_cache_that_keeps_its_inputs_in_another_form():
    exercise = find("mla.decode")

    class Wrong(exercise.reference):
        hidden = ()

        def attend(self, x, weights):
            self.hidden = (*self.hidden, x.numpy().tobytes())
            return super().attend(x, weights)

    assert first_difference(exercise, Wrong)
