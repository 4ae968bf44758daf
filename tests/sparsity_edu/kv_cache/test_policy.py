"""Models write what they should with every cache: all tokens held, few held, padded, sampled, in beams, reloaded."""

import copy
import functools

import pytest
import torch
from small_models import FAMILIES, LENGTH, allocated, batch, small_model, unpadded, written
from transformers import AutoModelForCausalLM, DynamicCache, Gemma2Config, GptOssConfig

from sparsity_edu.kv_cache import ATTENTION, FullCache, H2OCache, QuestCache, WindowCache, attending
from sparsity_edu.kv_cache.policy import PolicyCache

COUNT = 20
LONG = LENGTH + COUNT
AMPLE = {
    "full": FullCache,
    "window": lambda: WindowCache(LONG, 2),
    "window, by place": lambda: WindowCache(LONG, positions="cache"),
    "h2o": lambda: H2OCache(LONG),
    "h2o, each head": lambda: H2OCache(LONG, group="each", normalize=True),
    "h2o, by place": lambda: H2OCache(LONG, 7, positions="cache"),
    "quest": lambda: QuestCache(64, 16, dense_layers=0),
    "quest, groups": lambda: QuestCache(54, 3, dense_layers=0, group="max"),
}
BUDGET = 12
SMALL = {
    "window": lambda: WindowCache(BUDGET, 3),
    "window, by place": lambda: WindowCache(BUDGET, 3, positions="cache"),
    "h2o": lambda: H2OCache(BUDGET, 5),
    "h2o, normalized": lambda: H2OCache(BUDGET, group="mean", normalize=True),
    "h2o, each head": lambda: H2OCache(BUDGET, 5, group="each"),
    "h2o, each head by place": lambda: H2OCache(BUDGET, 5, group="each", positions="cache"),
    "quest": lambda: QuestCache(BUDGET, 4, dense_layers=1),
    "quest, sum": lambda: QuestCache(BUDGET, 3, dense_layers=0, group="sum"),
    "quest, evaluation": lambda: QuestCache(BUDGET, 4, dense_layers=0, convention="evaluation"),
}
WIDTHS = {"vocab_size": 9, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
ALL_SMALL = pytest.mark.parametrize("policy", SMALL)


@pytest.fixture(scope="module")
def models():
    return functools.cache(small_model)


@pytest.mark.parametrize(("sample", "padded"), [(False, True), (True, False)], ids=["greedy, padded", "sampled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_ample_budget_changes_no_token(models, family, sample, padded):
    model, given = models(family), batch(padded)
    plain, logits = written(small_model(family, "sdpa"), given, DynamicCache(config=model.config), do_sample=sample)
    exact = "sliding" not in family and "hybrid" not in family  # there the plain cache cuts its keys, and sums in other parts
    for name, make in AMPLE.items():
        tokens, ours = written(model, given, make(), do_sample=sample)
        assert torch.equal(tokens, plain), name
        assert torch.equal(ours, logits) if exact else torch.allclose(ours, logits, atol=1e-4), name


@pytest.mark.parametrize("family", ["mistral, sliding", "qwen2, hybrid", "qwen3"])
@ALL_SMALL
def test_a_padded_row_is_the_row_alone(models, policy, family):
    model, given = models(family), batch()
    tokens, logits = written(model, given, SMALL[policy]())
    for row in range(3):
        alone, expected = written(model, unpadded(given, row), SMALL[policy]())
        assert torch.equal(tokens[row : row + 1], alone)
        assert (logits[row : row + 1] - expected).abs().max() < 2e-4


@ALL_SMALL
def test_small_budgets_change_what_is_written(models, policy):
    given = batch()
    plain, _ = written(models("llama"), given, FullCache())
    assert not torch.equal(written(models("llama"), given, SMALL[policy]())[0], plain)


@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("policy", [*SMALL, "full"])
def test_bytes_held_are_those_allocated(models, policy, padded):
    cache = SMALL[policy]() if policy in SMALL else FullCache()
    written(models("qwen3"), batch(padded), cache)
    assert cache.bytes_held == allocated(cache)
    if not policy.startswith(("quest", "full")):
        heads = 6 if "each head" in policy else 2
        per_token = 3 * heads * (2 * 8 * 4 + 8 + 4)  # keys and values, a position, a score; three sequences
        assert allocated(cache) <= 3 * BUDGET * per_token
        assert all(layer.keys.shape == (3, heads, BUDGET, 8) for layer in cache.layers)
    else:  # all is held, with some room, and bounds of pages
        assert 3 * 3 * 2 * LONG * 64 <= allocated(cache) <= 3 * 3 * 2 * (LONG + 16) * 64 * 1.8


def test_a_prompt_in_chunks_with_a_budget_for_all_is_the_prompt(models):
    model, given = models("llama"), batch()
    plain, _ = written(model, given, FullCache())
    for make in AMPLE.values():
        assert torch.equal(written(model, given, make(), prefill_chunk_size=7)[0], plain)


@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@ALL_SMALL
def test_chunks_after_eviction_are_causal_and_padded(models, policy, padded):
    """Tokens fed in twos: what the first of them computes does not depend on the second."""
    model, given = models("llama"), batch(padded)
    ids, mask = given["input_ids"], given.get("attention_mask", torch.ones(3, LENGTH, dtype=torch.long))
    positions = (mask.cumsum(1) - 1).clamp(min=0)

    def logits(changed):
        fed = ids.clone()
        if changed:
            fed[:, 21] = (fed[:, 21] + 1) % 100 + 1
        cache, out = SMALL[policy](), []
        for start, end in ((0, 18), (18, 20), (20, 22)):
            out.append(model(fed[:, start:end], attention_mask=mask[:, :end], position_ids=positions[:, start:end],
                             past_key_values=cache).logits)  # fmt: skip
        return torch.cat(out, 1)

    with torch.no_grad():
        first, second = logits(False), logits(True)
    assert torch.equal(first[:, :21], second[:, :21])
    assert not torch.equal(first[:, 21], second[:, 21])
    assert not first.isnan().any()


@ALL_SMALL
def test_a_second_call_goes_on(models, policy):
    """The cache keeps the text's length, not its own: tokens of both calls are those of one."""
    model, given = models("qwen2"), batch(False)
    cache = SMALL[policy]()
    at_once, _ = written(model, given, SMALL[policy](), count=COUNT)
    first = model.generate(**given, past_key_values=cache, max_new_tokens=11, do_sample=False)
    copied = copy.deepcopy(cache)
    for goes_on in (cache, copied):
        both = model.generate(input_ids=first, past_key_values=goes_on, max_new_tokens=COUNT - 11, do_sample=False)
        assert torch.equal(both[:, LENGTH:], at_once)


@pytest.mark.parametrize("policy", ["window", "h2o", "h2o, each head", "quest"])
def test_beams_are_reordered(models, policy):
    model, given = models("llama"), batch()
    written(model, given, SMALL[policy](), num_beams=3)
    plain, _ = written(small_model("llama", "sdpa"), given, DynamicCache(), num_beams=3)
    assert torch.equal(written(model, given, AMPLE[policy](), num_beams=3)[0], plain)


@ALL_SMALL
def test_state_of_a_batch_is_chosen_and_repeated(models, policy):
    model, given = models("llama"), batch()
    cache, chosen = SMALL[policy](), SMALL[policy]()
    mask = given["attention_mask"]
    with torch.no_grad():
        model(**given, position_ids=(mask.cumsum(1) - 1).clamp(min=0), past_key_values=cache)
        model(**given, position_ids=(mask.cumsum(1) - 1).clamp(min=0), past_key_values=chosen)
    next_ids, row = torch.tensor([[5], [6], [7]]), torch.tensor([2, 0])
    chosen.batch_select_indices(row)
    chosen.batch_repeat_interleave(2)
    longer = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], 1)
    at = longer.sum(1, keepdim=True) - 1
    with torch.no_grad():
        expected = model(next_ids, attention_mask=longer, position_ids=at, past_key_values=cache).logits
        twice = row.repeat_interleave(2)
        out = model(next_ids[twice], attention_mask=longer[twice], position_ids=at[twice], past_key_values=chosen).logits
    torch.testing.assert_close(out, expected[twice], atol=1e-5, rtol=1e-5)


@ALL_SMALL
def test_reset_forgets_the_text(models, policy):
    model, given = models("llama"), batch()
    cache = SMALL[policy]()
    first = written(model, given, cache)[0]
    cache.reset()
    assert cache.bytes_held == 0
    assert torch.equal(written(model, given, cache)[0], first)


def test_a_reloaded_model(models, tmp_path):
    models("smollm2").save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=ATTENTION).eval()
    given = batch()
    for make in SMALL.values():
        assert torch.equal(written(loaded, given, make())[0], written(models("smollm2"), given, make())[0])


def test_other_caches_are_not_touched(models):
    model, given = models("llama"), batch()
    plain = small_model("llama", "sdpa")
    assert torch.equal(written(model, given, None)[1], written(plain, given, None)[1])
    assert torch.equal(model(**given, use_cache=False).logits, plain(**given, use_cache=False).logits)


def test_another_attention_is_refused_and_can_be_lent():
    model, given = small_model("llama", "sdpa"), batch()
    with pytest.raises(RuntimeError, match=f'set_attn_implementation\\("{ATTENTION}"\\) first'):
        written(model, given, H2OCache(BUDGET))
    with attending(model):
        tokens, _ = written(model, given, H2OCache(BUDGET))
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(tokens, written(small_model(), given, H2OCache(BUDGET))[0])


@pytest.mark.parametrize(
    ("config", "name"),
    [(GptOssConfig(num_local_experts=2, **WIDTHS), "s_aux"), (Gemma2Config(head_dim=8, **WIDTHS), "softcap")],
    ids=["GPT-OSS", "Gemma 2"],
)
def test_another_softmax_is_refused(config, name):
    """Gemma's cap on scores, GPT-OSS's sink without a key: left out, they would change every word, and nobody would know."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with attending(model), pytest.raises(ValueError, match=f"attention of a model must be a plain softmax .* with {name}"):
        model(torch.tensor([[1, 2, 3]]), past_key_values=FullCache())


@pytest.mark.parametrize("make", [FullCache, lambda: QuestCache(BUDGET, 4, dense_layers=0)], ids=["full", "quest"])
def test_tokens_can_be_taken_back_where_nothing_is_forgotten(models, make):
    model, ids = models("llama"), batch(False, 40)["input_ids"]
    cache, other = make(), make()
    with torch.no_grad():
        model(ids[:, :30], past_key_values=cache)
        model(ids[:, :30], past_key_values=other)
        for i in range(30, 36):
            model(ids[:, i : i + 1], past_key_values=other)
        for i in (30, 31, 39, 38, 37):
            model(ids[:, i : i + 1], past_key_values=cache)
        cache.crop(-3)
        for i in range(32, 36):
            expected = model(ids[:, i : i + 1], past_key_values=cache).logits
        other.crop(-1)
        torch.testing.assert_close(model(ids[:, 35:36], past_key_values=other).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["an assistant", "prompt lookup"])
def test_assisted_generation_is_right_or_refused(models, how):
    """Quest, too: it would read all that a guess of several tokens sees, and write what it writes for no token alone."""
    model, given = models("llama"), {"input_ids": batch(False)["input_ids"][:1].repeat(1, 2)}
    options = (
        {"assistant_model": small_model("llama", "sdpa", seed=9)} if how == "an assistant" else {"prompt_lookup_num_tokens": 3}
    )
    plain, _ = written(small_model("llama", "sdpa"), given, DynamicCache())
    assert torch.equal(written(model, given, FullCache(), **options)[0], plain)
    for make in SMALL.values():
        with pytest.raises(NotImplementedError, match="Cache is not for assisted generation"):
            written(model, given, make(), **options)


def test_what_was_forgotten_cannot_be_taken_back(models):
    cache = H2OCache(BUDGET)
    written(models("llama"), batch(), cache, count=2)
    with pytest.raises(NotImplementedError, match="H2OLayer cannot take tokens back"):
        cache.crop(-1)
    full = FullCache()
    written(models("llama"), batch(), full, count=2)
    with pytest.raises(ValueError, match="tokens_to_remove must be -n"):
        full.crop(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: H2OCache(0), "budget must be at least 1 token, got 0"),
        (lambda: H2OCache(8, 9), "recent must be from 0 to the budget of 8 tokens, got 9"),
        (lambda: H2OCache(8, -1), "recent must be from 0"),
        (lambda: H2OCache(8, group="max"), "group must be one of sum, mean, first, each, got 'max'"),
        (lambda: H2OCache(8, positions="place"), "positions must be one of true, cache, got 'place'"),
        (lambda: WindowCache(3), "sinks must be from 0 to the budget of 3 tokens, got 4"),
        (lambda: WindowCache(3, -1), "sinks must be from 0"),
        (lambda: WindowCache(0, 0), "budget must be at least 1"),
        (lambda: QuestCache(15), "page must be from 1 to the budget of 15 tokens, got 16"),
        (lambda: QuestCache(16, 0), "page must be from 1"),
        (lambda: QuestCache(16, group="mean"), "group must be one of each, sum, max, got 'mean'"),
        (lambda: QuestCache(16, convention="cuda"), "convention must be one of kernel, evaluation, got 'cuda'"),
    ],
)
def test_arguments_that_are_not_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_layers_know_what_they_keep(models):
    for make in (*SMALL.values(), FullCache):
        cache: PolicyCache = make()
        written(models("llama"), batch(False), cache)
        for layer in cache.layers:
            kept = layer.kept
            assert kept.shape[0] == 3
            assert (kept.diff(dim=-1) > 0).all()
            assert (kept[..., -1] == LENGTH + COUNT - 2).all()  # the last token that was fed
