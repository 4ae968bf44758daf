"""The Python docs splits, the hub loaders without a hub, MNIST-1D."""

import ast
import random
import re
import textwrap

import numpy as np
import pytest
import torch

from sparsity_edu import data
from sparsity_edu.data import text

SPLITS = ("train", "calibration", "validation")


def paragraphs(split):
    return [" ".join(p.split()) for p in re.split(r"\n\s*\n", data.python_docs(split)) if p.strip()]


def test_splits_share_no_document_and_no_paragraph():
    documents = [set(text.document_texts(split)) for split in SPLITS]
    assert not documents[0] & documents[1] | documents[0] & documents[2] | documents[1] & documents[2]
    everything = [p for split in SPLITS for p in paragraphs(split)]
    assert len(everything) == len(set(everything)) > 10_000


def test_splits_are_large_enough_for_sixteen_windows_and_mix_topics_with_modules():
    assert len(data.python_docs("train")) > 1_000_000
    for split in SPLITS:
        assert len(data.python_docs(split).encode()) > 60_000
        topics = [name.startswith("topic:") for name in text.document_texts(split)]
        assert any(topics)
        assert not all(topics)


def test_the_split_of_a_document_depends_on_its_name_only():
    # Values computed once with `printf 'python_docs 5:random' | sha256sum`: first 8 hex digits / 16^8.
    assert text.place("random") == pytest.approx(0x01BA5414 / 16**8)
    assert "random" in text.document_texts("validation")
    assert "os" in text.document_texts("calibration")
    assert {"json.decoder", "topic:assert"} <= set(text.document_texts("train"))


def test_documents_are_the_words_people_see_in_help():
    import json

    assert json.loads.__doc__.strip().splitlines()[0] in data.python_docs("train")
    assert random.Random.shuffle.__doc__.strip().splitlines()[0] in data.python_docs("validation")


def test_docstrings_come_from_modules_classes_and_functions_wherever_they_are_defined():
    source = '''
        """Module."""
        class A:
            """Class."""
            def method(self):
                """Method."""
                async def inner():
                    """Inner."""
        if True:
            def guarded():
                """
                Guarded,
                  indented.
                """
        else:
            "no docstring"
    '''
    found = list(text._docstrings(ast.parse(textwrap.dedent(source))))
    assert found == ["Module.", "Class.", "Method.", "Inner.", "Guarded,\n  indented."]


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match=r"^split must be one of calibration, train, validation, got 'test'$"):
        data.python_docs("test")
    with pytest.raises(ValueError, match="split must be one of train, validation, test, got 'calibration'"):
        data.wikitext2("calibration")
    with pytest.raises(ValueError, match="split must be one of train, validation, got 'test'"):
        data.c4("test")
    with pytest.raises(ValueError, match="documents must be at least 1, got 0"):
        data.c4(documents=0)


@pytest.mark.parametrize(("load", "title"), [(data.wikitext2, "WikiText-2"), (data.c4, "C4")])
def test_without_a_network_a_hub_data_set_fails_in_one_sentence(load, title, monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise OSError("Name or service not known\nand more lines")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError) as caught:
        load()
    assert str(caught.value) == (
        f"{title} is not in the local cache and the Hugging Face hub cannot be reached (Name or service not known)"
    )


def test_mnist1d_is_standardised_balanced_and_split():
    mnist = data.mnist1d()
    assert mnist.train_inputs.shape == (4000, 40)
    assert mnist.test_inputs.shape == (1000, 40)
    assert mnist.train_inputs.dtype == torch.float32
    assert mnist.train_labels.dtype == torch.int64
    assert mnist.train_inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert mnist.train_inputs.std().item() == pytest.approx(1, abs=1e-5)
    assert torch.cat([mnist.train_labels, mnist.test_labels]).bincount().tolist() == [500] * 10


def test_mnist1d_is_the_same_for_a_seed_and_another_for_another():
    first = data.mnist1d(samples=200, seed=1)
    kept = first.train_inputs.clone()
    first.train_inputs.zero_()  # a caller's change does not reach the next caller
    assert torch.equal(data.mnist1d(samples=200, seed=1).train_inputs, kept)
    assert not torch.equal(data.mnist1d(samples=200, seed=2).train_inputs, kept)


def test_mnist1d_leaves_the_global_random_state_alone():
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    data.mnist1d(samples=100, seed=3)
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002


def test_mnist1d_needs_a_few_samples_of_each_class():
    with pytest.raises(ValueError, match="samples must be at least 100, got 9"):
        data.mnist1d(samples=9)


@pytest.mark.parametrize(("problem", "friends", "train"), [(1, 216, 124), (2, 142, 169), (3, 228, 122)])
def test_monks_have_the_published_sizes_and_numbers_of_friends(problem, friends, train):
    made = data.monks(problem)
    assert made.test_inputs.shape == (432, 17)
    assert made.train_inputs.shape == (train, 17)
    assert int(made.test_labels.sum()) == friends
    assert (made.test_inputs.sum(dim=1) == 6).all()  # one value of each attribute
    assert len({tuple(row) for row in made.test_inputs.tolist()}) == 432


def test_only_the_third_of_the_monks_lies():
    for problem, wrong in ((1, 0), (2, 0), (3, 6)):  # 5 % of 122
        made = data.monks(problem, seed=4)
        truth = {tuple(robot): label for robot, label in zip(made.test_inputs.tolist(), made.test_labels.tolist(), strict=True)}
        told = [truth[tuple(robot)] != label
                for robot, label in zip(made.train_inputs.tolist(), made.train_labels.tolist(), strict=True)]  # fmt: skip
        assert sum(told) == wrong
    assert not torch.equal(data.monks(1, seed=1).train_inputs, data.monks(1, seed=2).train_inputs)
    with pytest.raises(ValueError, match="problem must be 1, 2 or 3, got 4"):
        data.monks(4)


def test_a_monk_by_hand():
    made = data.monks(1)
    robot = torch.tensor([0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0.0])  # a1 = 2, a2 = 2: a friend
    [index] = (made.test_inputs == robot).all(dim=1).nonzero().flatten().tolist()
    assert made.test_labels[index] == 1


def test_vowels_lie_around_the_published_means():
    exact = data.vowels(data.parts.VOWELS, spread=0.0)
    assert exact.train_inputs.shape == (50 * 10 * 2, 2)
    assert exact.test_inputs.shape == (26 * 10 * 2, 2)
    both = torch.cat([exact.train_inputs, exact.test_inputs])
    labels = torch.cat([exact.train_labels, exact.test_labels])
    for vowel, (f1, f2) in {0: (0.27, 2.29), 4: (0.73, 1.09), 9: (0.49, 1.35)}.items():  # men's i, ɑ and ɝ
        found = both[labels == vowel]
        assert int((found == torch.tensor([f1, f2])).all(dim=1).sum()) == 33 * 2
        assert len(found.unique(dim=0)) == 3  # men, women, children
    spread = data.vowels(data.parts.VOWELS, spread=0.1)
    drawn = torch.cat([spread.train_inputs, spread.test_inputs])
    # The split is random too, but the same for a seed: sample by sample the same speaker
    ratio = drawn / both
    assert ratio.mean().item() == pytest.approx(1, abs=0.01)
    assert ratio.std().item() == pytest.approx(0.1, abs=0.01)


def test_vowels_have_labels_in_the_order_of_their_names_and_another_draw_for_another_seed():
    first, second = data.vowels(("ɑ", "i")), data.vowels(("i", "ɑ"))
    assert first.train_labels[:4].tolist() == [0, 0, 1, 1]
    assert first.train_inputs[first.train_labels == 1][:, 1].min() > first.train_inputs[first.train_labels == 0][:, 1].max()
    assert second.train_inputs[second.train_labels == 0][:, 1].min() > 1.5
    assert torch.equal(data.vowels(seed=3).train_inputs, data.vowels(seed=3).train_inputs)
    assert not torch.equal(data.vowels(seed=3).train_inputs, data.vowels(seed=4).train_inputs)
    with pytest.raises(ValueError, match="names must be different ones of i, ɪ, ɛ, æ, ɑ, ɔ, ʊ, u, ʌ, ɝ, got i, y"):
        data.vowels(("i", "y"))
    with pytest.raises(ValueError, match="got i, i"):
        data.vowels(("i", "i"))
    with pytest.raises(ValueError, match="spread must be at least 0, got -1"):
        data.vowels(spread=-1)


def test_a_line_of_four_pieces():
    line = data.piecewise(2000, noise=0.0)
    pieces = {
        (-1, -0.5): lambda x: 4 * x + 3,
        (-0.5, 0): lambda x: -2 * x,
        (0, 0.5): lambda x: 2 * x - 1,
        (0.5, 1): lambda x: 2.5 - 3 * x,
    }
    for piece, ((low, high), f) in enumerate(pieces.items()):
        x = line.inputs[line.pieces == piece]
        assert low <= x.min() < low + 0.02
        assert high - 0.02 < x.max() < high
        torch.testing.assert_close(line.targets[line.pieces == piece], f(x))
    noisy = data.piecewise(2000, noise=0.1)
    assert (noisy.targets - line.targets).std().item() == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        data.piecewise(0)
