"""Which layers are pruned: tiny Hugging Face decoders against names written down by hand, and other modules."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sparsity_edu.models.layers import decoder_blocks, from_matrix, left_alone, prunable_layers, weight_matrix
from sparsity_edu.weights.magnitude import prune_, summary

BLOCKS = 3
LLAMA = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
OPT = [f"self_attn.{x}" for x in ("k_proj", "v_proj", "q_proj", "out_proj")] + ["fc1", "fc2"]
GPT2 = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
FAMILIES = {  # path of the blocks, linear layers of a block
    "llama": ("model.layers", LLAMA),
    "mistral": ("model.layers", LLAMA),
    "qwen2": ("model.layers", LLAMA),
    "opt": ("model.decoder.layers", OPT),
    "gpt2": ("transformer.h", GPT2),
}


def decoder(family: str, tied: bool = False, blocks: int = BLOCKS) -> nn.Module:
    """A causal language model with random weights, hidden size 16, vocabulary 40."""
    import transformers as hf

    common = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": tied}
    llama = common | {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": blocks, "num_attention_heads": 4}
    llama |= {"num_key_value_heads": 2, "max_position_embeddings": 32}
    opt = common | {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": blocks, "num_attention_heads": 4}
    opt |= {"word_embed_proj_dim": 8, "max_position_embeddings": 32}  # with linear layers outside of the blocks
    config = {
        "llama": lambda: hf.LlamaConfig(**llama),
        "mistral": lambda: hf.MistralConfig(**llama),
        "qwen2": lambda: hf.Qwen2Config(**llama),
        "opt": lambda: hf.OPTConfig(**opt),
        "gpt2": lambda: hf.GPT2Config(**common, n_embd=16, n_layer=blocks, n_head=4, n_positions=32),
    }[family]()
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(config)


def expected_names(family: str) -> set[str]:
    path, inside = FAMILIES[family]
    return {f"{path}.{i}.{name}" for i in range(BLOCKS) for name in inside}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_linear_layers_of_the_blocks_are_pruned(family, tied):
    model = decoder(family, tied)
    for parameter in model.parameters():  # no parameter starts with a zero
        nn.init.uniform_(parameter, 0.1, 1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = expected_names(family)

    assert set(prunable_layers(model)) == expected
    masks = prune_(model, 0.5)
    assert set(masks) == expected
    for name, after in model.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if layer in expected and kind == "weight":
            assert int((after == 0).sum()) == after.numel() // 2
            assert torch.equal(after, before[name] * masks[layer])
        else:  # embeddings, norms, biases, head
            assert torch.equal(after, before[name]), name
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embedding) == tied
    assert (head != 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_left_alone_is_the_rest(family):
    model = decoder(family)
    weights = {f"{name}.weight" for name in prunable_layers(model)}
    assert set(left_alone(model)) == {name for name, _ in model.named_parameters()} - weights
    text = summary(model)
    alone = text.splitlines()[-1]
    words = {"llama": ["embed_tokens", "norm", "lm_head"], "opt": ["embed_positions", "project_in", "fc1.bias"]}
    for word in words.get(family, []):
        assert word in alone
    assert f"{sum(p.numel() for p in left_alone(model).values()):,}" in alone


@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_blocks(family):
    model = decoder(family)
    assert decoder_blocks(model) is model.get_submodule(FAMILIES[family][0])
    assert decoder_blocks(model.base_model) is decoder_blocks(model)  # without a head too
    assert len(prunable_layers(model.base_model)) == len(expected_names(family))
    single = decoder(family, blocks=1)
    assert len(prunable_layers(single)) == len(FAMILIES[family][1])


def test_blocks_that_hold_lists_of_their_own():
    """A mixture of experts with more experts than blocks, blocks of two classes, and a list of small things before them; the
    layer with an output for each expert is a router."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(5))
            self.router = nn.Linear(8, 5)

    class Other(Block):
        pass

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.adapters = nn.ModuleList(nn.Linear(8, 1) for _ in range(9))
            self.layers = nn.ModuleList([Block(), Other()])
            self.heads = nn.ModuleList(nn.Linear(8, 2) for _ in range(9))

        def get_input_embeddings(self): ...

    model = Decoder()
    assert decoder_blocks(model) is model.layers
    inside = [f"experts.{i}" for i in range(5)]
    assert list(prunable_layers(model)) == [f"layers.{block}.{name}" for block in range(2) for name in inside]


def test_n_m_groups_of_gpt2_run_along_the_inputs():
    """GPT-2's Conv1D stores (inputs, outputs): a group of four inputs of one output is a run of four down a column."""
    model = decoder("gpt2")
    masks = prune_(model, pattern="1:4")
    for name, layer in prunable_layers(model).items():
        stored = layer.weight  # (inputs, outputs)
        inputs = stored.shape[0]
        assert inputs == (64 if name.endswith("mlp.c_proj") else 16)
        kept = (stored != 0).view(inputs // 4, 4, -1).sum(dim=1)
        assert (kept == 1).all()
        assert torch.equal(masks[name], stored != 0)


def test_rows_of_gpt2_are_its_outputs():
    model = decoder("gpt2")
    prune_(model, 0.25, "rows")
    weight = model.transformer.h[0].attn.c_attn.weight  # (16 inputs, 48 outputs)
    assert int((weight == 0).all(dim=0).sum()) == 12
    assert int((weight == 0).all(dim=1).sum()) == 0


# ---- other modules


class Network(nn.Module):
    """A CNN and MLP with everything that must be left alone."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
        self.sequence = nn.Conv1d(8, 4, 2)
        self.volume = nn.Conv3d(2, 4, 2)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.mlp = nn.ModuleList([nn.Linear(16, 12), nn.LayerNorm(12), nn.Linear(12, 10)])
        self.table = nn.Embedding(7, 16)
        self.scale = nn.Parameter(torch.ones(3))


def test_any_other_module():
    model = Network()
    layers = prunable_layers(model)
    assert list(layers) == ["stem.0", "sequence", "volume", "mlp.0", "mlp.2"]
    assert decoder_blocks(model) is None
    assert set(left_alone(model)) == {
        "scale", "stem.1.weight", "stem.1.bias", "sequence.bias", "volume.bias", "up.weight", "up.bias",
        "mlp.0.bias", "mlp.1.weight", "mlp.1.bias", "mlp.2.bias", "table.weight",
    }  # fmt: skip
    assert prunable_layers(nn.Linear(2, 2)).keys() == {""}
    assert prunable_layers(nn.ReLU()) == {}
    assert left_alone(nn.Linear(2, 2, bias=False)) == {}


def test_a_shared_weight_is_listed_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert list(prunable_layers(model)) == ["0"]
    assert set(left_alone(model)) == {"0.bias", "2.bias"}


def test_a_parametrized_weight_is_left_alone():
    """Its `weight` is computed afresh at every access: zeros written to it would be lost without a word."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    nn.utils.parametrizations.weight_norm(model[1])
    prune.identity(model[2], "weight")
    assert list(prunable_layers(model)) == ["0"]
    assert "2.weight_orig" in left_alone(model)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (4, 6)),
        (nn.Conv1d(2, 5, 3), (5, 6)),
        (nn.Conv2d(4, 8, (2, 3), groups=2), (8, 12)),
        (nn.Conv3d(2, 3, 2), (3, 16)),
    ],
)
def test_weight_matrix_and_back(layer, shape):
    matrix = weight_matrix(layer)
    assert matrix.shape == shape
    assert not matrix.requires_grad
    assert torch.equal(matrix[1], layer.weight[1].flatten())  # a row is an output
    assert torch.equal(from_matrix(layer, matrix), layer.weight)
    assert torch.equal(from_matrix(layer, matrix.T.contiguous().T), layer.weight)  # whatever its layout
    matrix[0, 0] = 7  # a view
    assert layer.weight.flatten()[0] == 7


def test_weight_matrix_of_gpt2_is_transposed():
    conv1d = decoder("gpt2", blocks=1).transformer.h[0].mlp.c_fc
    matrix = weight_matrix(conv1d)  # (outputs, inputs)
    x = torch.rand(3, 16)
    assert torch.allclose(x @ matrix.T + conv1d.bias, conv1d(x), atol=1e-6)
    assert torch.equal(from_matrix(conv1d, matrix), conv1d.weight)


def test_weight_matrix_of_a_channels_last_convolution():
    plain = nn.Conv2d(4, 8, 3)
    matrix = weight_matrix(plain).clone()
    last = plain.to(memory_format=torch.channels_last)
    assert torch.equal(weight_matrix(last), matrix)
    masks = prune_(nn.Sequential(last), 0.5)
    assert torch.equal(last.weight.detach(), matrix.view(8, 4, 3, 3) * masks["0"])


def test_a_class_of_ones_own_called_conv1d_is_no_gpt2_layer():
    class Conv1D(nn.Conv1d):
        pass

    layer = Conv1D(2, 5, 3)
    assert weight_matrix(layer).shape == (5, 6)
    assert list(prunable_layers(nn.Sequential(layer))) == ["0"]
