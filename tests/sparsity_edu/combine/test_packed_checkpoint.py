"""Packed checkpoints: the smallest encoding, and every bit again."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from sparsity_edu.combine import packed
from sparsity_edu.patterns import n_m
from sparsity_edu.weights.driver import prune_


def model_of(**kwargs):
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes | kwargs)).eval()


def bits(x):
    return x.contiguous().view(torch.int16 if x.itemsize == 2 else torch.int32)


def same_bits(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(
        a[name].dtype == b[name].dtype and torch.equal(bits(a[name]), bits(b[name])) for name in a
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [True, False])
def test_every_bit_comes_back(dtype, tied, tmp_path):
    model = model_of(tie_word_embeddings=tied).to(dtype)
    prune_(model, "magnitude", pattern="2:4", progress=False)
    with torch.no_grad():
        odd = model.model.layers[0].mlp.up_proj.weight
        odd[0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])  # and no 2:4 matrix any more: a -0.0 is a number
        model.model.layers[1].mlp.up_proj.weight[:, ::3] = 0  # 2:4 still, and smaller as a bitmap: few numbers
        model.model.layers[1].mlp.up_proj.weight[8:] = 0
    sizes = packed.save(model, tmp_path)
    again = packed.load(tmp_path)
    assert same_bits(model, again)
    assert (again.lm_head.weight is again.get_input_embeddings().weight) == tied
    kinds = json.loads(packed.safe_open(tmp_path / packed.FILE, "pt").metadata()[packed.KEY])["packed"]
    assert kinds["model.layers.0.mlp.up_proj.weight"][0] == "bitmap"
    assert kinds["model.layers.1.mlp.up_proj.weight"][0] == "bitmap"
    assert kinds["model.layers.0.mlp.down_proj.weight"][0] == "2:4"
    assert sizes["2:4"].tensors == 12
    assert sizes["2:4"].stored * 64 == sizes["2:4"].dense * (36 if dtype.itemsize == 2 else 34)
    on_disk = (tmp_path / packed.FILE).stat().st_size
    assert sum(size.stored for size in sizes.values()) < on_disk < sum(size.stored for size in sizes.values()) + 8000


def test_a_dense_model_is_stored_as_it_is(tmp_path):
    model = model_of()
    assert set(packed.save(model, tmp_path)) == {"dense"}
    assert same_bits(model, packed.load(tmp_path))


def test_weights_that_are_stored_input_by_input_come_back(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_embd=32, n_head=4, n_layer=1, n_positions=16)
    model = AutoModelForCausalLM.from_config(config).eval()
    prune_(model, "magnitude", 0.7, progress=False)
    assert set(packed.save(model, tmp_path)) == {"dense", "bitmap"}
    assert same_bits(model, packed.load(tmp_path))


def test_a_fresh_process_computes_the_same(tmp_path):
    model = model_of()
    prune_(model, "magnitude", 0.6, progress=False)
    packed.save(model, tmp_path)
    code = f"""
import torch
from pathlib import Path
from sparsity_edu.combine import packed
with torch.no_grad():
    torch.save(packed.load(Path({str(tmp_path)!r}))(torch.arange(9)[None]).logits, {str(tmp_path / "logits")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits"), model(torch.arange(9)[None]).logits)


def test_another_dtype_in_memory(tmp_path):
    model = model_of()
    packed.save(model, tmp_path)
    assert same_bits(packed.load(tmp_path, torch.bfloat16), model.to(torch.bfloat16))


@pytest.mark.parametrize("damage", ["cut", "other", "missing", "later"])
def test_damaged_files_are_refused_in_one_sentence(damage, tmp_path):
    model = model_of()
    prune_(model, "magnitude", 0.6, progress=False)
    packed.save(model, tmp_path)
    path = tmp_path / packed.FILE
    about = packed.safe_open(path, "pt").metadata()
    tensors = load_file(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other":
        save_file(tensors, path)
    elif damage == "missing":
        tensors.pop("model.norm.weight")
        save_file(tensors, path, about)
    else:
        save_file(tensors, path, {packed.KEY: about[packed.KEY].replace('"version": 1', '"version": 9')})
    with pytest.raises(ValueError, match=r"^the packed model in .* cannot be read, get its files again: ") as raised:
        packed.load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("sparsity", [0.0, 0.03, 0.3, 0.9, 1.0])
def test_the_smallest_encoding_is_taken(sparsity):
    W = torch.randn(24, 40, dtype=torch.bfloat16)
    W[torch.rand(24, 40) < sparsity] = 0
    found = packed.pack(W)
    stored = sum(part.nbytes for part in found[1].values()) if found else W.nbytes
    assert stored == min(W.nbytes, 2 * int((W != 0).sum()) + W.numel() // 8)
    if found:
        assert torch.equal(bits(packed.unpack(*found, W.shape)), bits(W))


def test_two_four_beats_a_bitmap_where_half_is_left():
    W = torch.randn(16, 32)
    assert packed.pack(W * n_m(W.abs(), 2, 4))[0] == "bitmap"  # W * mask leaves -0.0, which is a number
    assert packed.pack(W.masked_fill(~n_m(W.abs(), 2, 4), 0))[0] == "2:4"
    assert packed.pack(nn.Linear(4, 4).weight.double()) is None
