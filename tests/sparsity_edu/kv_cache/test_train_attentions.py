"""The trainings that compare attentions: what they share, what they differ in, and the record that ships."""

import json

import pytest
import torch

from sparsity_edu.kv_cache import mla, train_attentions
from sparsity_edu.kv_cache.mla import MLA, Shape
from sparsity_edu.kv_cache.train_attentions import (
    BASE,
    BATCH,
    CONTEXT,
    HEAD_DIM,
    HEADS,
    KINDS,
    RECORD,
    SEEDS,
    STEPS,
    ByteModel,
    D,
    Kind,
    Latent,
    Parts,
    Shared,
    train,
)


@pytest.fixture(autouse=True)
def short_text(monkeypatch):
    ids = torch.randint(32, 127, (9000,), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(train_attentions, "text", lambda split: ids if split == "train" else ids[:5000])
    monkeypatch.setattr(train_attentions, "HELD_OUT", 4)


def positions(batch, tokens):
    return torch.arange(tokens).expand(batch, -1)


def test_kinds_have_equally_many_parameters_and_leave_as_many_numbers_as_they_say():
    sizes = [sum(p.numel() for p in ByteModel(kind, Parts()).parameters()) for kind in KINDS.values()]
    assert max(sizes) < 1.005 * min(sizes)
    assert [kind.numbers for kind in KINDS.values()] == [128, 64, 32, 64, 32]
    for kind in KINDS.values():
        layer = Shared(kind) if kind.groups else Latent(kind, Parts())
        assert (layer.kv if kind.groups else layer.down).out_features == kind.numbers


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_no_byte_sees_a_later_one_and_order_matters(name):
    torch.manual_seed(0)
    model, ids = ByteModel(KINDS[name], Parts()), torch.randint(256, (2, 20))
    logits, changed = model(ids), ids.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 256
    assert torch.allclose(model(changed)[:, :12], logits[:, :12], atol=1e-5)
    assert not torch.allclose(model(changed)[:, 12:], logits[:, 12:], atol=1e-3)
    swapped = ids[:, [1, 0, *range(2, 20)]]
    assert not torch.allclose(model(swapped)[:, -1], logits[:, -1], atol=1e-4)


@torch.no_grad()
def test_a_group_for_each_head_is_mha_and_the_latent_kind_is_mla():
    torch.manual_seed(0)
    x = torch.randn(2, 9, D)
    few, all_heads = Shared(Kind(groups=2)), Shared(Kind(groups=HEADS))
    all_heads.q, all_heads.out = few.q, few.out
    all_heads.kv.weight.copy_(few.kv.weight.view(2, 2, HEAD_DIM, D).repeat_interleave(HEADS // 2, dim=1).flatten(0, 2))
    assert torch.allclose(few(x, positions(2, 9)), all_heads(x, positions(2, 9)), atol=1e-5)

    kind = KINDS["MLA 32"]
    ours, frequencies = Latent(kind, Parts()), BASE ** (-torch.arange(0, kind.rope, 2) / kind.rope)
    theirs = MLA(Shape(D, HEADS, HEAD_DIM, kind.rope, HEAD_DIM, kind.latent), frequencies=frequencies)
    theirs.q_proj, theirs.o_proj, theirs.kv_a_proj_with_mqa = ours.q, ours.out, ours.down
    theirs.kv_b_proj.weight.copy_(torch.cat(list(ours.up), dim=1).flatten(0, 1))
    assert torch.allclose(ours(x, positions(2, 9)), theirs(x), atol=1e-5)


def test_a_seed_gives_the_same_training_whatever_comes_after():
    first, again, other = (train(KINDS["MLA 64"], seed, until=2, every=1)["curve"] for seed in (1, 1, 2))
    assert first == again != other
    assert train(KINDS["MLA 64"], 1, until=1, every=1)["curve"] == first[:2]


def test_parts_can_be_exchanged():
    seen = []

    def attention(*args):
        seen.append([tuple(part.shape) for part in args])
        return mla.latent_attention(*args, form="absorbed")

    kind = KINDS["MLA 32"]
    absorbed = train(kind, 0, until=2, every=2, parts=Parts(attention=attention))["curve"]
    assert absorbed[-1]["bits"] == pytest.approx(train(kind, 0, until=2, every=2)["curve"][-1]["bits"], abs=1e-3)
    per_head = (HEADS, HEAD_DIM, kind.latent)
    of_queries = (BATCH, CONTEXT, HEADS, HEAD_DIM), (BATCH, CONTEXT, HEADS, kind.rope)
    assert [(BATCH, CONTEXT, kind.latent), (BATCH, CONTEXT, kind.rope), per_head, per_head] == seen[2][2:]
    assert tuple(seen[2][:2]) == of_queries


def test_the_record_is_complete():
    record = json.loads(RECORD.read_text())
    assert record["command"].endswith(f"--seeds {SEEDS} --steps {STEPS}")
    assert list(record["runs"]) == list(KINDS)
    for runs in record["runs"].values():
        assert [run["seed"] for run in runs] == list(range(SEEDS))
        assert all(run["curve"][-1]["step"] == STEPS and run["seconds"] > 0 for run in runs)
