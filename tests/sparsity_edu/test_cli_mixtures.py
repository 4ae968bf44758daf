"""The command line `sparsity-edu` on mixtures of experts."""

import inspect
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, Llama4TextConfig
from typer.testing import CliRunner

from sparsity_edu import cli, models
from sparsity_edu.models.experts_layout import is_experts
from sparsity_edu.weights import driver
from tests.sparsity_edu.mixtures import EXPERTS, FAMILIES, WrittenOut

runner = CliRunner()
families = pytest.mark.parametrize("family", FAMILIES)


def save(config, folder):
    """A random model beside tiny's tokenizer."""
    config.vocab_size, config.max_position_embeddings = 2048, 512
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    models.load("tiny").tokenizer.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder), str(folder)


def run(*arguments):
    result = runner.invoke(cli.app, [*map(str, arguments), "--windows", "2", "--window", "48"])
    assert result.exit_code == 0, result.output
    return result.stdout


def coverage(text):
    found = re.search(r"(?m)^covered +([\d.]+)% of the weights in the blocks: ([\d,]+) of ([\d,]+)$", text)
    return float(found[1]), *(int(number.replace(",", "")) for number in found.groups()[1:])


@families
def test_prune_covers_experts_and_says_what_it_left(family, tmp_path):
    dense, folder = save(FAMILIES[family].config(), tmp_path / "dense")
    text = run("prune", folder, "--method", "wanda", "--pattern", "1:4", "--out", tmp_path / "pruned")
    pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned")
    zeros = total = 0
    for name, parameter in pruned.model.layers.named_parameters():
        if parameter.ndim > 1 and not name.endswith("bias"):
            zeros += int((parameter == 0).sum())
            total += parameter.numel()
    share, covered, of = coverage(text)
    assert (4 * zeros, total) == (3 * covered, of)
    assert share == pytest.approx(100 * covered / total, abs=0.006)
    assert share < 100
    for module in filter(is_experts, pruned.modules()):
        loop = WrittenOut(module)
        for layer in (*loop.gate, *loop.up, *loop.down):
            assert ((layer.weight.unflatten(1, (-1, 4)) != 0).sum(dim=-1) == 1).all()
    for router, count in FAMILIES[family].routers.items():
        weights = [name for name, _ in dense.named_parameters() if name.endswith(f"{router}.weight")]
        assert all(torch.equal(dense.get_parameter(name), pruned.get_parameter(name)) for name in weights)
        assert f"{router} {sum(dense.get_parameter(name).numel() for name in weights):,}" in text
        assert dense.get_parameter(weights[0]).shape[0] == count
    assert max(len(line) for line in text.replace(str(tmp_path), "").splitlines()) <= 80
    assert "shrink" not in text


def test_prune_names_experts_with_too_few_tokens_and_what_became_of_them(tmp_path):
    dense, folder = save(FAMILIES["mixtral"].config(), tmp_path / "model")
    arguments = ["prune", folder, "--method", "wanda", "--sparsity", "0.5", "--min-tokens", 97]  # no more than there are
    for few in ("all", "dense"):
        text = run(*arguments, "--few-tokens", few, "--out", tmp_path / few)
        became = {"all": "pruned by all tokens of their block", "dense": "left dense"}[few]
        assert f"few tokens experts (and tokens routed to them, below 97), {became}: model" in " ".join(text.split())
        for block in range(3):
            named = re.search(rf"model\.layers\.{block}\.mlp\.experts: ((?:\d+ \(\d+\),?\s*)+)", text)[1]
            counts = {int(e): int(n) for e, n in re.findall(r"(\d+) \((\d+)\)", named)}
            assert set(counts) == set(range(EXPERTS))
            assert sum(counts.values()) == 2 * 2 * 48  # each token goes to two
        pruned = AutoModelForCausalLM.from_pretrained(tmp_path / few)
        experts = [(a, b) for (n, a), b in zip(dense.named_parameters(), pruned.parameters(), strict=True) if "experts" in n]
        assert all(torch.equal(a, b) == (few == "dense") for a, b in experts)
        _, covered, total = coverage(text)
        size = sum(a.numel() for a, _ in experts)
        assert total - covered == dense.model.layers[0].mlp.gate.weight.numel() * 3 + (size if few == "dense" else 0)
        assert ("mlp.experts.down_proj with few tokens" in " ".join(text.split())) == (few == "dense")


def test_compare_says_for_each_run_how_much_was_covered(tmp_path):
    dense, folder = save(FAMILIES["qwen2_moe"].config(), tmp_path / "dense")
    arguments = ["compare", folder, "--methods", "magnitude,wanda", "--sparsities", "0.5", "--patterns", "2:4"]
    text = run(*arguments, "--few-tokens", "dense", "--min-tokens", 97, "--out", tmp_path / "figure.png")
    shares = re.findall(r"(?m)^(?:0\.5|2:4) +(\w+) +[\d.]+% +([\d.]+)% ", text)
    weights = {n: p.numel() for n, p in dense.model.layers.named_parameters() if p.ndim > 1}
    gates = sum(size for name, size in weights.items() if "gate.weight" in name)
    experts = sum(size for name, size in weights.items() if ".experts." in name)
    total = sum(weights.values())
    expected = {"magnitude": (total - gates) / total, "wanda": (total - gates - experts) / total}
    assert len(shares) == 4
    for method, share in shares:
        assert float(share) == pytest.approx(100 * expected[method], abs=0.006)
    assert coverage(text)[1:] == (total - gates - experts, total)
    assert "mlp.shared_expert_gate" in text
    assert "model.layers.2.mlp.experts: 0 (" in text
    assert max(len(line) for line in text.replace(str(tmp_path), "").splitlines()) <= 80


def test_a_model_without_experts_is_covered_whole(tmp_path):
    text = run("prune", "tiny", "--method", "magnitude", "--sparsity", "0.5", "--out", tmp_path / "pruned")
    assert re.search(r"(?m)^covered +100% of the weights in the blocks: ([\d,]+) of \1$", text)
    assert "left dense" not in text
    assert "few tokens" not in text


@families
def test_shrink_refuses_every_family_by_name(family, tmp_path):
    model, folder = save(FAMILIES[family].config(), tmp_path / "dense")
    result = runner.invoke(cli.app, ["shrink", folder, "--ffn", "8", "--out", str(tmp_path / "small")])
    assert result.exit_code == 1
    name = f"{type(model).__name__} ({model.config.model_type})"
    assert re.match(
        rf"error: MODEL must be of a family that can be cut .*, got {re.escape(name)}$", result.stderr.splitlines()[-1]
    )


def test_shrink_refuses_the_shipped_mixture(tmp_path):
    result = runner.invoke(cli.app, ["shrink", "tiny-moe", "--params", "2M", "--out", str(tmp_path / "small")])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith("got MixtralForCausalLM (mixtral)")


@pytest.mark.parametrize("command", [["prune", "--sparsity", "0.5", "--out", "new"], ["compare", "--out", "new.png"]])
def test_unknown_experts_are_refused_before_anything_is_measured(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sparsity_edu.models.perplexity", lambda *_, **__: pytest.fail("measured"))
    shape = {"hidden_size": 32, "intermediate_size": 40, "intermediate_size_mlp": 48, "num_hidden_layers": 1, "head_dim": 8}
    config = Llama4TextConfig(**shape, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, pad_token_id=0)
    _, folder = save(config, tmp_path / "dense")
    result = runner.invoke(cli.app, [command[0], folder, *command[1:]])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "error: MODEL must hold the matrices of its blocks in linear layers, or in experts as transformers lays them out, got "
        "Llama4TextExperts with gate_up_proj of shape (4, 32, 80)"
    )


@pytest.mark.parametrize("command", [cli.prune, cli.compare])
def test_what_is_too_few_is_said_once(command):
    assert inspect.signature(command).parameters["min_tokens"].default == driver.MIN_TOKENS


def test_options_are_refused():
    prune = ["prune", "tiny-moe", "--sparsity", "0.5", "--out", "nowhere"]
    result = runner.invoke(cli.app, [*prune, "--min-tokens", "0"])
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, "error: --min-tokens must be at least 1, got 0")
    assert runner.invoke(cli.app, [*prune, "--few-tokens", "drop"]).exit_code == 2
