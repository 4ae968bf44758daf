"""Multiple-choice items: true continuations among others of their length, and the likeliest per byte wins."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from sparsity_edu import models
from sparsity_edu.combine.choices import Item, answers, items
from sparsity_edu.data import python_docs
from sparsity_edu.models import tokens

TEXT = python_docs("validation")


def test_the_right_choice_comes_next_in_the_text_and_others_do_not():
    prose = " ".join(TEXT.split())
    found = items(TEXT, 30, choices=4, seed=1)
    assert len(found) == 30
    assert len({item.choices[item.right] for item in found}) == 30
    for item in found:
        assert f"{item.context} {item.choices[item.right]}" in prose
        assert len(set(item.choices)) == 4
        for i, choice in enumerate(item.choices):
            assert (f"{item.context} {choice}" in prose) == (i == item.right)
            assert len(choice) <= 2 * len(item.choices[item.right])
    assert {item.right for item in found} == {0, 1, 2, 3}


def test_a_seed_makes_the_same_items_and_another_others():
    assert items(TEXT, 9, seed=3) == items(TEXT, 9, seed=3)
    assert items(TEXT, 9, seed=3) != items(TEXT, 9, seed=4)


def test_a_short_text_is_refused():
    with pytest.raises(ValueError, match=r"^text must have 12 paragraphs that begin with two sentences, got 1$"):
        items("This is a sentence of some length here. And this one comes right behind it.", 2)


class Bigrams(nn.Module):
    """Finds one character likely behind another: logits of a table."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table)

    device = torch.device("cpu")

    def forward(self, input_ids, use_cache):
        return type("Out", (), {"logits": self.table[input_ids]})


def test_the_likeliest_per_byte_is_taken():
    tokenizer = models.load("tiny").tokenizer
    size = tokenizer.vocab_size
    item = Item("The answer", ("is here.", "is not to be found anywhere in this text."), 0)
    ids = tokens(tokenizer, "The answer is not to be found anywhere in this text.").tolist()
    flat = torch.zeros(size, size)
    assert answers(Bigrams(flat), tokenizer, [item, Item(item.context, item.choices, 1)], progress=False) in (
        [True, False],
        [False, True],
    )
    learnt = flat.clone()
    for before, after in pairwise(ids):
        learnt[before, after] = 9
    assert answers(Bigrams(learnt), tokenizer, [item, Item(item.context, item.choices, 1)], progress=False) == [False, True]
    # longer, and likelier per byte although less likely as a whole
    lp = torch.log_softmax(learnt, dim=-1)
    totals = []
    for choice in item.choices:
        whole = tokens(tokenizer, f"{item.context} {choice}").tolist()
        before = len(tokens(tokenizer, item.context))
        totals.append(sum(lp[a, b].item() for a, b in zip(whole[before - 1 :], whole[before:], strict=False)))
    assert totals[1] / len(item.choices[1]) > totals[0] / len(item.choices[0])
