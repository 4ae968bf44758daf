"""Needles are where they should be; an answer counts if the model would write it; intervals are Wilson's."""

import re

import pytest
import torch
from scipy.stats import binomtest
from small_models import VOCABULARY, small_model

from sparsity_edu import models
from sparsity_edu.data import python_docs
from sparsity_edu.kv_cache import FullCache, H2OCache, QuestCache, WindowCache, attending
from sparsity_edu.kv_cache.needle import Needle, Retrieval, ask, draw, interval, needles

CACHES = {
    "full": FullCache,
    "window": lambda: WindowCache(9, 0),
    "sinks": lambda: WindowCache(9, 4),
    "h2o": lambda: H2OCache(9),
    "quest": lambda: QuestCache(8, 4, dense_layers=0),
}


def test_a_line_is_hidden_at_its_depth_and_asked_for():
    tokenizer, text = models.load("tiny").tokenizer, python_docs("validation")
    made = needles(tokenizer, text, 200, 7, depths=(0.0, 0.5, 1.0), seed=3)
    again = needles(tokenizer, text, 200, 7, depths=(0.0, 0.5, 1.0), seed=3)
    filler = models.tokens(tokenizer, text).tolist()
    for i, (needle, same) in enumerate(zip(made, again, strict=True)):
        assert torch.equal(needle.context, same.context)
        line = tokenizer.decode(torch.cat([needle.question, needle.answer])) + "\n"
        assert re.fullmatch(r"\nregister [a-z]+ = \d{5}\n", line)
        before, _ = tokenizer.decode(needle.context).split(line)
        room = 200 - len(needle.question) - len(models.tokens(tokenizer, line))
        assert len(needle.context) + len(needle.question) <= 200
        assert len(models.tokens(tokenizer, before)) == pytest.approx((0.0, 0.5, 1.0)[i % 3] * room, abs=2)
        kept = needle.context.tolist()
        at = round((0.0, 0.5, 1.0)[i % 3] * room)
        part = kept[:at] + kept[at + len(models.tokens(tokenizer, line)) :]
        assert any(filler[s : s + room] == part for s in range(len(filler) - room + 1))
    assert len({len(needle.question) for needle in made}) == 1
    assert len({tuple(needle.answer.tolist()) for needle in made}) == 7


def test_lengths_that_leave_no_room():
    tokenizer = models.load("tiny").tokenizer
    for length in (3, 10**6):
        with pytest.raises(ValueError, match=r"length must be from \d+ to \d+, got"):
            needles(tokenizer, "a text " * 40, length, 1)


def would_write(model, context, question, cache, count):
    """The text is read, then the question token by token, then the model writes."""
    written = []
    with torch.no_grad(), attending(model):
        model(context[None], past_key_values=cache)
        for token in question:
            last = model(token.view(1, 1), past_key_values=cache).logits[0, -1].argmax()
        for _ in range(count):
            written.append(last)
            last = model(last.view(1, 1), past_key_values=cache).logits[0, -1].argmax()
    return torch.stack(written)


def test_an_answer_counts_if_the_model_would_write_all_of_it():
    """Numbers of three and of two tokens, side by side, for all caches at once; one token that is wrong is enough."""
    model, g = small_model(), torch.Generator().manual_seed(0)
    contexts, questions = (torch.randint(1, VOCABULARY, (3, n), generator=g) for n in (30, 4))
    answers = {
        name: [would_write(model, contexts[i], questions[i], make(), 3 - i % 2) for i in range(3)]
        for name, make in CACHES.items()
    }
    wrong = [answer.clone() for answer in answers["h2o"]]
    wrong[0][-1], wrong[1][0] = (wrong[0][-1] + 1) % VOCABULARY, (wrong[1][0] + 1) % VOCABULARY
    for own, written in {**answers, "changed": wrong}.items():
        hidden = [Needle(*three) for three in zip(contexts, questions, written, strict=True)]
        found = dict(zip(CACHES, ask(model, hidden, [make() for make in CACHES.values()]), strict=True))
        expected = {name: [torch.equal(a, b) for a, b in zip(answers[name], written, strict=True)] for name in CACHES}
        assert found == expected
        assert own == "changed" or all(found[own])
    assert found["h2o"] == [False, False, True]
    assert not torch.equal(torch.cat(answers["h2o"]), torch.cat(answers["full"]))


def test_caches_filled_together_are_those_filled_alone():
    model, ids = small_model(), torch.randint(1, VOCABULARY, (2, 30), generator=torch.Generator().manual_seed(1))
    hidden = [Needle(row[:24], row[24:27], row[27:]) for row in ids]
    together = [make() for make in CACHES.values()]
    for cache, make, _ in zip(together, CACHES.values(), ask(model, hidden, together), strict=True):
        alone = make()
        list(ask(model, hidden, [alone]))
        assert cache.bytes_held == alone.bytes_held
        for one, other in zip(cache.layers, alone.layers, strict=True):
            assert torch.equal(one.kept, other.kept)
            assert torch.equal(one.keys, other.keys)


@pytest.mark.parametrize(("found", "trials"), [(0, 10), (10, 10), (3, 10), (1, 1), (40, 97)])
def test_the_interval_is_wilsons(found, trials):
    exact = binomtest(found, trials).proportion_ci(0.95, method="wilson")
    assert interval(found, trials) == pytest.approx((exact.low, exact.high), abs=1e-4)


def test_the_figure_has_a_line_per_cache():
    results = [Retrieval(64, name, budget, found, 4, 0.5)
               for found, (name, budget) in enumerate([("full", 64), ("h2o", 16), ("h2o", 8), ("quest", 16)])]  # fmt: skip
    figure = draw([*results, Retrieval(128, "full", 128, 4, 4, 1.0)], "title")
    first, second = figure.axes
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["full"]
    lines = {container.get_label(): container.lines[0] for container in first.containers}
    assert lines["h2o"].get_ydata().tolist() == [0.5, 0.25]  # by budget
    assert lines["h2o"].get_xdata() == pytest.approx([12.5, 25.0], rel=0.05)
