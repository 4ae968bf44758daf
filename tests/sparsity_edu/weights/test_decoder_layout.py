"""Every family that can be cut, on models in which what is cut provably does nothing; and all others are refused."""

import random
import re

import pytest
import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
    Qwen2Config,
    SmolLM3Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from sparsity_edu.weights import minitron
from sparsity_edu.weights.decoder_layout import FAMILIES, PER_LAYER, place_of
from sparsity_edu.weights.minitron import Importance, Shape

LAYERS, GROUPS, PER_GROUP, HEAD_DIM, FFN = 6, 2, 3, 8, 44
HEADS = GROUPS * PER_GROUP
SLIDING = {"sliding_window": 5}
TYPES = {"layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"] + ["full_attention"] * 2}
VARIANTS = {  # whatever of a family's config touches what is cut, or differs from block to block
    "llama": [{}, {"attention_bias": True, "mlp_bias": True}],
    "mistral": [SLIDING],
    "ministral": [SLIDING | TYPES],
    "qwen2": [{}, SLIDING | {"use_sliding_window": True, "max_window_layers": 3}],
    "qwen3": [{}, SLIDING | TYPES | {"use_sliding_window": True, "attention_bias": True}],
    "smollm3": [
        {"no_rope_layers": [1, 0, 1, 1, 0, 1]},
        {"no_rope_layer_interval": 2},
        {"attention_bias": True, "mlp_bias": True},
    ],
    "granite": [
        {"embedding_multiplier": 7.0, "residual_multiplier": 0.3, "logits_scaling": 3.0, "attention_multiplier": 0.2},
        {"attention_bias": True, "mlp_bias": True},
    ],
    "gemma": [{}, {"attention_bias": True}],
    "gemma2": [SLIDING | TYPES | {"query_pre_attn_scalar": 11, "final_logit_softcapping": 30.0}],
    "gemma3_text": [SLIDING | TYPES | {"query_pre_attn_scalar": 11}, SLIDING | {"use_bidirectional_attention": True}],
    "olmo2": [{}, {"attention_bias": True}],
    "olmo3": [SLIDING | TYPES],
}
CASES = [
    pytest.param(family, variant, tied, id=f"{family}-{i}-{'tied' if tied else 'untied'}")
    for family, variants in VARIANTS.items()
    for i, variant in enumerate(variants)
    for tied in (True, False)
]


def decoder(family, hidden=42, layers=LAYERS, scale=0.15, **changes):
    sizes = {"vocab_size": 97, "hidden_size": hidden, "intermediate_size": FFN, "num_hidden_layers": layers}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "head_dim": HEAD_DIM}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64}
    config = CONFIG_MAPPING[family](**sizes, **heads, **special, **changes)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # as in a trained model: no norm is one, no bias is zero
            parameter.add_(0.2 * torch.randn_like(parameter)) if parameter.ndim == 1 else parameter.normal_(0, scale)
    return model


@torch.no_grad()
def plant(model, neurons, heads, hidden, layers):
    """Make parts of a model do nothing: nobody reads the neurons and heads, nothing is written to the channels."""
    model.model.embed_tokens.weight[:, hidden] = 0
    for i, block in enumerate(model.model.layers):
        block.mlp.down_proj.weight[:, neurons] = 0
        for head in heads:
            block.self_attn.o_proj.weight[:, HEAD_DIM * head : HEAD_DIM * (head + 1)] = 0
        for writer in (block.mlp.down_proj, block.self_attn.o_proj):
            for parameter in writer.parameters():
                parameter[slice(None) if i in layers else hidden] = 0


def importance_of(model, neurons, heads, hidden, layers):
    size = (model.config.num_hidden_layers, HEADS), (model.config.num_hidden_layers, FFN)
    found = Importance(torch.ones(len(model.model.layers)), torch.ones(model.config.hidden_size), *map(torch.ones, size))
    found.layers[layers], found.hidden[hidden] = 0, 0
    found.heads[:, heads], found.ffn[:, neurons] = 0, 0
    return found


def logits(model):
    ids = torch.randint(3, 97, (4, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(input_ids=ids).logits


def assert_same(got, want):
    assert (got - want).abs().max() < 5e-5 * want.abs().max()


@pytest.mark.parametrize("scale", [0.15, 0.02], ids=["large", "faint"])  # faint: the epsilon of the norms counts
@pytest.mark.parametrize(("family", "variant", "tied"), CASES)
def test_what_does_nothing_can_go_without_any_change(family, variant, tied, scale, tmp_path):
    draw = random.Random(f"{family} {variant} {tied} {scale}")
    model = decoder(family, tie_word_embeddings=tied, scale=scale, **variant)
    layers, hidden, neurons = (sorted(draw.sample(range(n), k)) for n, k in ((LAYERS, 3), (42, 18), (FFN, 7)))
    heads = [] if FAMILIES[family].joint_heads else [draw.randrange(PER_GROUP) + PER_GROUP * g for g in range(GROUPS)]
    plant(model, neurons, heads, hidden, layers)
    found = importance_of(model, neurons, heads, hidden, layers)
    shape = Shape(LAYERS - 3, 24, HEADS - len(heads), FFN - 7)
    small = minitron.trim(model, shape, found)
    assert_same(logits(small), logits(model))
    assert sum(p.numel() for p in small.parameters()) == minitron.parameters(model, shape)
    kept = [i for i in range(LAYERS) if i not in layers]
    for name in PER_LAYER:
        if getattr(model.config, name, None):
            assert getattr(small.config, name) == [getattr(model.config, name)[i] for i in kept]
    small.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    torch.testing.assert_close(logits(loaded), logits(small))


@pytest.mark.parametrize(("family", "variant", "tied"), CASES)
def test_importance_finds_what_does_nothing(family, variant, tied):
    model = decoder(family, tie_word_embeddings=tied, **variant)
    plant(model, [], [], hidden := [0, 5, 41], [2])
    windows = torch.randint(3, 97, (3, 11), generator=torch.Generator().manual_seed(2))
    found = minitron.importance(model, windows, progress=False)
    assert set(found.hidden.argsort()[:3].tolist()) == set(hidden)
    assert found.layers.argmin() == 2
    assert found.layers[2].abs() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_scale_norms_are_copied_and_the_stream_is_as_large_as_before(family):
    """Only the norms do without: what a model multiplies its embeddings by follows from its width, whoever cuts it."""
    model = decoder(family, tie_word_embeddings=False)
    found = importance_of(model, [], [], list(range(24, 42)), [])
    small = minitron.trim(model, Shape(LAYERS, 24, HEADS, FFN), found, keep_scale=False)
    norm = model.model.layers[1].post_attention_layernorm.weight
    assert torch.equal(small.model.layers[1].post_attention_layernorm.weight, norm[:24])
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(small.model.embed_tokens(ids), model.model.embed_tokens(ids)[..., :24])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bfloat16_model_in_training_stays_one(family):
    model = decoder(family).to(torch.bfloat16).train()
    small = minitron.trim(model, Shape(2, 24, HEADS, FFN), importance_of(model, [], [], [], []))
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    assert small.training


def test_every_supported_family_is_tested():
    assert set(VARIANTS) == set(FAMILIES)


def test_queries_normalised_over_all_heads_keep_them():
    with pytest.raises(ValueError, match="heads must be all 6 in a Olmo2, which normalises them together, got 4"):
        minitron.check_shape(decoder("olmo2"), Shape(LAYERS, 42, 4, FFN))


def refused(model) -> str:
    """The sentence with which every way into the module refuses a model."""
    sentences = set()
    shape, found = Shape(1, 1, 1, 1), Importance(*[torch.ones(1)] * 4)
    for call in (
        lambda: minitron.shape_of(model),
        lambda: minitron.check_shape(model, shape),
        lambda: minitron.importance(model, torch.ones(1, 4, dtype=torch.int64)),
        lambda: minitron.trim(model, shape, found),
        lambda: minitron.shapes_for(model, 1000),
    ):
        with pytest.raises(ValueError, match="model must") as error:
            call()
        sentences.add(str(error.value))
    (sentence,) = sentences
    assert "\n" not in sentence
    return sentence


def small_on_paper(name):
    """A model of a family with two blocks, without memory; None where the installed packages cannot make one so."""
    try:
        config = CONFIG_MAPPING[name]()
        for attribute in ("num_hidden_layers", "n_layer", "num_layers", "n_layers"):
            if isinstance(getattr(config, attribute, None), int):
                setattr(config, attribute, 2)
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:2]
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception:
        return None


def test_all_other_families_of_transformers_are_refused_by_name():
    logging.set_verbosity_error()
    models = {name: small_on_paper(name) for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in FAMILIES}
    models = {name: model for name, model in models.items() if model is not None}
    for name, model in models.items():
        sentence = refused(model)
        assert f"got {type(model).__name__} (" in sentence, name
    look_alikes = {
        name for name, model in models.items() if any(".self_attn.q_proj." in n for n, _ in model.named_parameters())
    }
    assert {"stablelm", "cohere", "starcoder2", "qwen3_moe", "mixtral", "olmo", "gemma3", "helium", "exaone4"} <= look_alikes
    assert {"phi3", "gpt2", "gpt_neox", "opt", "bloom", "falcon"} <= set(models)


def test_other_heads_parts_and_configs_are_refused():
    config = decoder("llama").config
    assert refused(LlamaForSequenceClassification(config)).endswith("'score.weight'")
    assert refused(LlamaModel(config)).endswith("'embed_tokens.weight'")
    with_adapter = decoder("llama")
    with_adapter.model.layers[3].mlp.up_proj.adapter = nn.Linear(2, 2)
    assert refused(with_adapter).endswith("'model.layers.3.mlp.up_proj.adapter.weight'")
    listed = decoder("llama")
    listed.config.scales = [1.0] * LAYERS
    assert refused(listed).endswith("holds a list 'scales'")
    mixed = decoder("llama")
    mixed.config.per_layer_config = {1: {"attention_dropout": 0.1}}
    assert refused(mixed).endswith("with a per_layer_config")
    assert refused(nn.Linear(2, 2)).endswith("got Linear")


def test_lists_that_are_longer_than_the_model_or_as_long_as_it_by_chance():
    model = decoder("smollm3", no_rope_layers=[0, 1, 1, 0, 1, 1, 0, 0, 0])
    found = importance_of(model, [], [], [], [0, 4])
    small = minitron.trim(model, Shape(LAYERS - 2, 42, HEADS, FFN), found)
    assert small.config.no_rope_layers == [1, 1, 0, 1]
    assert [block.self_attn.use_rope for block in small.model.layers] == [1, 1, 0, 1]
    stops = decoder("qwen2", layers=2)
    stops.config.eos_token_id = [1, 2]
    small = minitron.trim(stops, Shape(1, 42, HEADS, FFN), importance_of(stops, [], [], [], [0]))
    assert small.config.eos_token_id == [1, 2]


def test_a_config_without_head_dim_keeps_the_width_of_its_heads():
    sizes = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 6}
    for config in (Qwen2Config, LlamaConfig, SmolLM3Config):
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        model = AutoModelForCausalLM.from_config(config(**sizes, **special, num_key_value_heads=2)).eval()
        found = Importance(torch.ones(2), torch.ones(48), torch.ones(2, 6), torch.ones(2, 20))
        small = minitron.trim(model, Shape(2, 24, 4, 20), found)
        assert small.model.layers[0].self_attn.q_proj.weight.shape == (32, 24)


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("model.layers.10.self_attn.q_proj.weight", ("heads", "hidden")),
        ("model.layers.10.self_attn.q_proj.bias", ("heads",)),
        ("model.norm.weight", ("hidden",)),
        ("lm_head.weight", (None, "hidden")),
        ("layers.0.mlp.up_proj.weight", None),
        ("model.lm_head.weight", None),
        ("model.layers.0.mlp.experts.0.up_proj.weight", None),
        ("model.layers.0.mlp.up_proj.weight_scale", None),
    ],
)
def test_places(name, axes):
    place = place_of(name)
    assert (place and place.axes) == axes
    assert place is None or re.sub(r"\d+", "7", name) == place.moved(7 if "layers" in name else None)
