"""The commands that read with caches of few tokens: `generate` and `needle`."""

import re

import pytest
import torch
from transformers import DynamicCache, GPT2Config, GPTJConfig, GptOssConfig
from typer.testing import CliRunner

from sparsity_edu import kv_cache, models
from sparsity_edu.cli import app
from sparsity_edu.kernels import sparse_attention
from sparsity_edu.kv_cache.needle import interval, needles

runner = CliRunner()
PROMPT = "def read(self, size):\n    "
NEEDLE = ["needle", "tiny", "--lengths", "96", "--budgets", "50%", "--out", "needle.png"]
GENERATE = ["generate", "tiny", "--prompt", PROMPT]
ROW = r"(?m)^{} +([\d.]+) +([\d.]*) +([\d,]+) +([\d,]+)$"


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    """Pages are read by compiled loops: Triton's interpreter would take minutes."""
    monkeypatch.setattr(sparse_attention, "runs_kernels", lambda x: False)


@pytest.fixture
def nothing_loaded(monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("loaded"))


def written(cache, count=30, prompt=PROMPT, **options):
    """What the model writes by itself."""
    model, tokenizer = models.load("tiny")
    given = tokenizer(prompt, return_tensors="pt")
    torch.manual_seed(options.pop("seed", 0))
    with kv_cache.attending(model):
        out = model.generate(**given, past_key_values=cache, max_new_tokens=count, **{"do_sample": False} | options)
    return tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("full", DynamicCache),
        ("window:20", lambda: kv_cache.WindowCache(20, 0)),
        ("sinks:20", lambda: kv_cache.WindowCache(20, 4)),
        ("h2o:16", lambda: kv_cache.H2OCache(16)),
        ("quest:32", lambda: kv_cache.QuestCache(32)),
    ],
)
def test_generate_writes_what_the_model_writes_with_that_cache(name, make):
    result = runner.invoke(app, [*GENERATE, "--cache", name, "--max-new-tokens", "60"])
    assert result.exit_code == 0, result.output
    cache, full = make(), kv_cache.FullCache()
    text = written(cache, 60)
    assert result.stdout.startswith(text)
    plain = written(full, 60)
    if name != "full":
        assert text != plain  # or the cache would not show
        assert re.search(r"full would have written other tokens after \d+ of\s+them", result.stdout)
        held, read = re.search(ROW.format(re.escape(name)), result.stdout).groups()[2:]
        assert held == f"{cache.bytes_held:,}"
        assert read == f"{cache.bytes_read:,}"
    _, speed, held, read = re.search(ROW.format("full"), result.stdout).groups()
    assert float(speed) > 0
    assert held == f"{full.bytes_held:,}"
    assert read == f"{full.bytes_read:,}"
    table = result.stdout[len(text) :]
    assert f"prompt      {models.tokens(models.load('tiny').tokenizer, PROMPT).numel()} tokens\n" in table
    assert max(map(len, table.splitlines())) <= 80


def test_generate_samples_by_its_options_and_seed(tmp_path):
    (tmp_path / "prompt.txt").write_text("class Reader:\n", encoding="utf-8")
    given = ["generate", "tiny", "--prompt-file", str(tmp_path / "prompt.txt"), "--max-new-tokens", "30", "--cache", "h2o:16"]
    sampling = ["--temperature", "0.9", "--top-k", "40", "--top-p", "0.95", "--seed", "5"]
    options = {"do_sample": True, "temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 5, "prompt": "class Reader:\n"}
    expected = written(kv_cache.H2OCache(16), **options)
    assert runner.invoke(app, [*given, *sampling]).stdout.startswith(expected)
    other = runner.invoke(app, [*given, *sampling[:-1], "6"])
    assert other.exit_code == 0
    assert not other.stdout.startswith(expected)


def test_generate_with_an_ample_budget_says_that_full_writes_the_same():
    result = runner.invoke(app, [*GENERATE, "--cache", "h2o:400", "--max-new-tokens", "20", "--dtype", "bfloat16"])
    assert "full would have written the same." in result.stdout
    assert "tiny, bfloat16" in result.stdout
    one = runner.invoke(app, [*GENERATE, "--max-new-tokens", "1"])
    assert re.search(ROW.format("full"), one.stdout)[2] == ""  # a single token has no speed


def test_generate_stops_where_the_model_does_and_compares_that_far(tmp_path):
    """A model with settings of its own, for sampling too; a full cache is measured on as many tokens, whatever it writes."""
    model, tokenizer = models.load("tiny")
    ids = model.generate(**tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=30, do_sample=False)[0]
    new = ids[len(tokenizer(PROMPT)["input_ids"]) :].tolist()
    last = next(i for i, token in enumerate(new) if i > 5 and token not in new[:i])
    model.generation_config.update(eos_token_id=new[last], do_sample=True, temperature=0.6, top_k=20, top_p=0.9)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    arguments = ["generate", str(tmp_path), "--prompt", PROMPT, "--cache"]
    ample = runner.invoke(app, [*arguments, "h2o:400"])
    assert f"wrote       {last + 1} tokens" in ample.stdout
    assert "full would have written the same." in ample.stdout
    few = runner.invoke(app, [*arguments, "window:4", "--max-new-tokens", "40"])
    read = re.search(ROW.format("full"), few.stdout)[4]
    count = int(re.search(r"wrote +(\d+) tokens", few.stdout)[1])
    full = kv_cache.FullCache()
    written(full, count)
    assert read == f"{full.bytes_read:,}"


def test_generate_asks_with_the_chat_template_unless_raw(tmp_path):
    model, tokenizer = models.load("tiny")
    tokenizer.chat_template = "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n{% endfor %}### answer:"
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    arguments = ["generate", str(tmp_path), "--prompt", "What is a list?", "--max-new-tokens", "25"]
    asked = runner.invoke(app, arguments)
    assert asked.stdout.startswith(written(None, 25, "### user\nWhat is a list?\n### answer:"))
    assert "tokens, with the chat template" in asked.stdout
    raw = runner.invoke(app, [*arguments, "--raw"])
    assert raw.stdout.startswith(written(None, 25, "What is a list?"))
    assert "chat template" not in raw.stdout


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate", "tiny"], "give either --prompt or --prompt-file, got neither"),
        ([*GENERATE, "--prompt-file", "binary"], "give either --prompt or --prompt-file, got both"),
        (["generate", "tiny", "--prompt", ""], "--prompt must not be empty"),
        (["generate", "tiny", "--prompt-file", "empty"], "--prompt-file must not be empty, got empty"),
        (["generate", "tiny", "--prompt-file", "binary"], "--prompt-file must be a text file in UTF-8, got binary"),
        (["generate", "tiny", "--prompt-file", "nosuch"], "--prompt-file must be a text file in UTF-8, got nosuch"),
        (["generate", "tiny", "--prompt-file", "."], "--prompt-file must be a text file in UTF-8, got ."),
        ([*GENERATE, "--cache", "lru:9"], "--cache must be one of full, window:N, sinks:N, h2o:N, quest:N .*, got 'lru:9'"),
        ([*GENERATE, "--cache", "h2o"], "--cache must be one of .*, got 'h2o'"),
        ([*GENERATE, "--cache", "h2o:-4"], "--cache must be one of .*, got 'h2o:-4'"),
        ([*GENERATE, "--cache", "full:9"], "--cache must be one of .*, got 'full:9'"),
        ([*GENERATE, "--cache", ""], "--cache must be one of .*, got ''"),
        ([*GENERATE, "--cache", "h2o:0"], "--cache must be h2o:N with N at least 1, got 'h2o:0'"),
        ([*GENERATE, "--cache", "sinks:4"], "--cache must be sinks:N with N at least 5, got 'sinks:4'"),
        ([*GENERATE, "--cache", "quest:15"], "--cache must be quest:N with N at least 16, got 'quest:15'"),
        ([*GENERATE, "--max-new-tokens", "0"], "--max-new-tokens must be at least 1, got 0"),
        ([*GENERATE, "--temperature", "-1"], "--temperature must be at least 0, got -1"),
        ([*GENERATE, "--temperature", "nan"], "--temperature must be at least 0, got nan"),
        ([*GENERATE, "--temperature", "1", "--top-k", "0"], "--top-k must be at least 1, got 0"),
        ([*GENERATE, "--temperature", "1", "--top-p", "1.5"], r"--top-p must be in \(0, 1\], got 1.5"),
        ([*GENERATE, "--top-p", "0.5"], "--top-k and --top-p need a --temperature above 0"),
        ([*GENERATE, "--seed", "-1"], "--seed must be at least 0, got -1"),
        ([*NEEDLE, "--lengths", "many"], "--lengths must be numbers of tokens with commas between them, got 'many'"),
        ([*NEEDLE, "--lengths", "0"], "--lengths must be numbers of tokens .*, got '0'"),
        ([*NEEDLE, "--lengths", ","], "--lengths must be a list with commas such as 512,1024, got ','"),
        ([*NEEDLE, "--cache", "h2o,lru"], "--cache must be window, sinks, h2o, quest with commas between them, got 'lru'"),
        ([*NEEDLE, "--cache", "full"], "--cache must be window, .*, got 'full'"),
        ([*NEEDLE, "--budgets", "0"], "--budgets must be tokens, or shares from 0% to 100%, .*, got '0'"),
        ([*NEEDLE, "--budgets", "0%"], "--budgets must be tokens, .*, got '0%'"),
        ([*NEEDLE, "--budgets", "101%"], "--budgets must be tokens, .*, got '101%'"),
        ([*NEEDLE, "--budgets", "0.5"], "--budgets must be tokens, .*, got '0.5'"),
        ([*NEEDLE, "--budgets", "-5%"], "--budgets must be tokens, .*, got '-5%'"),
        ([*NEEDLE, "--budgets", "2%"], "--budgets must be of at least 5 tokens for sinks, got 2% of 96"),
        ([*NEEDLE, "--budgets", "10%"], "--budgets must be of at least 16 tokens for quest, got 10% of 96"),
        ([*NEEDLE, "--budgets", "97"], "--budgets must be at most the 96 tokens of a text, got 97"),
        ([*NEEDLE, "--trials", "0"], "--trials must be at least 1, got 0"),
        ([*NEEDLE, "--budgets", "50%", "--out", "needle.xyz"], "--out must end in one of .png, .*, got needle.xyz"),
        ([*NEEDLE, "--budgets", "50%", "--out", "empty/needle.png"], "--out cannot be written, .*: empty/needle.png"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(bytes([255] * 9))
    (tmp_path / "empty").touch()
    before = sorted(tmp_path.rglob("*"))
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert re.match(f"error: {sentence}$", result.stderr.splitlines()[-1])
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate", "nosuch", "--prompt", "a"], 'MODEL must be "tiny", '),
        ([*GENERATE, "--max-new-tokens", "505"], "--max-new-tokens must be at most 50., since there are a prompt of .* tokens"),
        (
            ["generate", "tiny", "--prompt", "a b " * 400],
            "--prompt must be shorter than the model's 512 positions, got .* tokens",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused(monkeypatch, arguments, sentence):
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setattr("sparsity_edu.models.loading.why_unreachable", lambda name: "nobody is there")
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert re.match(f"error: {sentence}", result.stderr.splitlines()[-1])
    assert result.stdout == ""


SMALL = {"vocab_size": 512, "bos_token_id": None, "eos_token_id": None}
LAYERS = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    "config",
    [GPTJConfig(n_embd=16, n_layer=1, n_head=2, rotary_dim=4, **SMALL), GptOssConfig(**LAYERS, **SMALL, num_local_experts=2)],
    ids=["attends by itself", "another softmax"],
)
def test_a_model_that_lets_no_cache_attend_is_refused(tmp_path, config):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    models.load("tiny").tokenizer.save_pretrained(tmp_path)
    result = runner.invoke(app, ["generate", str(tmp_path), "--prompt", "a", "--cache", "h2o:8"])
    kind = type(config).__name__.replace("Config", "ForCausalLM")
    needed = "MODEL must leave its keys and values, and a plain attention, to a cache"
    assert result.stderr.splitlines()[-1] == f"error: {needed}, got {kind}"


def test_a_model_of_another_family_that_does(tmp_path):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(GPT2Config(n_embd=16, n_layer=2, n_head=2, **SMALL)).save_pretrained(tmp_path)
    models.load("tiny").tokenizer.save_pretrained(tmp_path)
    arguments = ["generate", str(tmp_path), "--prompt", "a b c d", "--cache", "quest:16", "--max-new-tokens", "40"]
    assert runner.invoke(app, arguments).exit_code == 0


def test_needle_prints_rows_and_draws(tmp_path):
    figure = tmp_path / "new" / "needle.png"
    options = ["--lengths", "96,128", "--budgets", "25%,64", "--cache", "quest,h2o", "--trials", "3", "--dtype", "bfloat16"]
    result = runner.invoke(app, ["needle", "tiny", *options, "--out", str(figure)])
    assert result.exit_code == 0, result.output
    rows = re.findall(r"(?m)^(\d+) +(\w+) +(\d+) +(\d) of 3 +([\d.]+) - ([\d.]+) +([\d.]+)%$", result.stdout)
    settings = [("quest", 24), ("quest", 64), ("h2o", 24), ("h2o", 64)]
    longer = [("quest", 32), ("quest", 64), ("h2o", 32), ("h2o", 64)]
    expected = [(96, "full", 96), *((96, *s) for s in settings), (128, "full", 128), *((128, *s) for s in longer)]
    assert [(int(length), name, int(budget)) for length, name, budget, *_ in rows] == expected
    for length, name, budget, found, low, high, read in rows:
        assert (float(low), float(high)) == pytest.approx(interval(int(found), 3), abs=0.006)
        if name != "quest":  # the newest token, too, and what was asked until the first wrong one
            most, least = int(budget) + (name == "h2o"), int(length) + 4
            assert 100 * most / least <= float(read) + 0.1
            assert float(read) <= 100 * most / (int(length) - 8) + 0.1 if name == "h2o" else float(read) == 100.0
    assert max(map(len, result.stdout.replace(str(tmp_path), "").splitlines())) <= 80
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_needle_is_the_same_with_the_same_seed_and_keeps_its_table(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    hidden = []
    original = needles
    monkeypatch.setattr("sparsity_edu.kv_cache.needle.needles", lambda *a, **k: hidden.append(original(*a, **k)) or hidden[-1])
    for seed in ("4", "4", "5"):
        options = ["--budgets", "48", "--cache", "window", "--trials", "2", "--seed", seed, "--out", str(tmp_path / "n.png")]
        result = runner.invoke(app, [*NEEDLE, *options])
        assert result.exit_code == 1
        assert len(re.findall(r"(?m)^96 +(?:full|window) ", result.stdout)) == 2
        assert result.stderr.splitlines()[-1].startswith("error: --out cannot be written, No space left on device: ")
    first, second, other = ([one.context.tolist() for one in made] for made in hidden)
    assert first == second
    assert first != other
