"""Numbers per token, against published ones and against caches that are really filled."""

import pytest
import torch
from small_models import FAMILIES, small_model
from transformers import DeepseekV3Config, DynamicCache, LlamaConfig, MistralConfig

from sparsity_edu.kv_cache import FullCache
from sparsity_edu.kv_cache.sizes import MODELS, Attention, attention_of


def test_published_numbers():
    """DeepSeek-V2's paper: 860.2K numbers per token of the MHA model and 34.6K of MLA (table 9)."""
    assert MODELS["DeepSeek-V2"].numbers_per_token == 34_560
    assert MODELS["DeepSeek-V3"].bytes_per_token() == 70_272  # DeepSeek-AI 2025, 'Insights into DeepSeek-V3'
    assert MODELS["Llama-2-7B"].bytes_per_token() == 524_288
    assert MODELS["Llama-3.1-405B"].bytes_per_token() == 516_096  # the same
    assert MODELS["SmolLM2-135M"].bytes_per_token() == 23_040
    assert MODELS["Llama-2-7B"].cache_bytes(4096) == 2 * 1024**3


def test_kinds():
    assert {name: model.kind for name, model in MODELS.items() if model.kind != "GQA"} == {
        "SmolLM2-1.7B": "MHA",
        "Llama-2-7B": "MHA",
        "Llama-2-13B": "MHA",
        "Gemma-2B": "MQA",
        "DeepSeek-V2-Lite": "MLA",
        "DeepSeek-V2": "MLA",
        "DeepSeek-V3": "MLA",
    }


def test_formulas_of_the_lecture():
    """MLA with d_c = 4 d_h and d_R = d_h / 2 is GQA with 2.25 groups, whatever the model."""
    model = Attention(7, 24, 6, 40)
    numbers = {kind: of.numbers_per_token for kind, of in model.variants(groups=3).items()}
    assert numbers == {"MHA": 2 * 24 * 40 * 7, "GQA": 2 * 3 * 40 * 7, "MQA": 2 * 40 * 7, "MLA": (160 + 20) * 7}
    assert numbers["MLA"] == 2.25 * numbers["MQA"]
    assert {kind: of.kind for kind, of in model.variants(3).items()} == {kind: kind for kind in numbers}
    assert MODELS["DeepSeek-V3"].variants()["MLA"] == MODELS["DeepSeek-V3"]


def test_windows_batches_and_precisions():
    mistral = MODELS["Mistral-7B-v0.1"]
    assert mistral.cache_bytes(32_768) == mistral.cache_bytes(4096) == 4096 * mistral.bytes_per_token()
    assert mistral.cache_bytes(100, batch=3, itemsize=4) == 6 * mistral.cache_bytes(100)


def test_configurations_of_transformers():
    """Whose defaults are those of real models."""
    assert attention_of(LlamaConfig()) == MODELS["Llama-2-7B"]
    assert attention_of(MistralConfig()) == MODELS["Mistral-7B-v0.1"]
    assert attention_of(DeepseekV3Config()) == MODELS["DeepSeek-V3"]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_caches_weigh_what_is_said(family):
    model = small_model(family, "sdpa")
    cache = DynamicCache()
    model(torch.ones(2, 9, dtype=torch.long), past_key_values=cache)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == attention_of(model.config).cache_bytes(9, batch=2, itemsize=4)
    ours = FullCache()
    small_model(family)(torch.ones(2, 9, dtype=torch.long), past_key_values=ours)
    assert ours.bytes_read == held
