"""Unit 10: wrong answers that are on no list of mistakes, as they are rare, fail all the same."""

import pytest
import torch
from torch import Tensor

from autograder.checking.score import score_object
from autograder.exercises import find
from autograder.exercises.h2o.cache_mistakes import FAINT


def rejects(id: str, wrong) -> bool:
    return not score_object(find(id), wrong).passed


def attend(by):
    """Attention whose probabilities are worked out `by` a function of scores and of what is seen."""

    def answer(q, k, v, mask=None):
        group, new, held = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
        k, v = (x.float().repeat_interleave(group, dim=1) for x in (k, v))
        seen = torch.ones(new, held, dtype=torch.bool).tril(held - new).expand(*q.shape[:2], new, held)
        if mask is not None:
            seen = seen & mask.repeat_interleave(group, dim=1)[:, :, None]
        p = by(q.float() @ k.mT / q.shape[-1] ** 0.5, seen)
        return p @ v, p

    return answer


def plain(scores: Tensor, seen: Tensor) -> Tensor:
    return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1).nan_to_num(0.0)


def largest_of_all(scores: Tensor, seen: Tensor, dims=-1) -> Tensor:
    e = (scores - scores.amax(dim=dims, keepdim=True)).exp() * seen
    return e / e.sum(dim=-1, keepdim=True).clamp(min=1e-30)


ATTEND = {
    "masked with -1e4": lambda s, seen: s.masked_fill(~seen, -1e4).softmax(dim=-1) * seen.any(dim=-1, keepdim=True),
    "masked with -1e6": lambda s, seen: s.masked_fill(~seen, -1e6).softmax(dim=-1) * seen.any(dim=-1, keepdim=True),
    "not exactly 0": lambda s, seen: plain(s, seen).clamp(min=1e-9),
    "the largest score of unseen keys": largest_of_all,
    "the largest score of a head": lambda s, seen: largest_of_all(s.masked_fill(~seen, -1e30), seen, (-1, -2)),
    "masked after the softmax, then divided": lambda s, seen: (
        (p := s.softmax(dim=-1) * seen) / p.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    ),
    "scores cut off at 1000": lambda s, seen: plain(s.clamp(-1e3, 1e3), seen),
}


@pytest.mark.parametrize("name", ATTEND)
def test_attention(name):
    assert score_object(find("h2o.attend"), attend(plain)).passed
    assert rejects("h2o.attend", attend(ATTEND[name]))


def test_a_log_sum_exp_is_as_good_as_a_softmax():
    """Of scores near 256 it would be rounded too much."""

    def by(scores, seen):
        scores = scores.masked_fill(~seen, -torch.inf)
        return (scores - scores.logsumexp(dim=-1, keepdim=True)).exp().nan_to_num(0.0)

    assert all(score_object(find("h2o.attend"), attend(by), seed).passed for seed in ("public", "a secret", "another secret"))


def test_a_mask_that_is_opened_in_place():
    def wrong(q, k, v, mask=None):
        nothing = torch.zeros(q.shape[:2], dtype=torch.bool)
        if mask is not None:
            nothing = ~mask.any(dim=-1).repeat_interleave(q.shape[1] // k.shape[1], dim=1)
            mask[~mask.any(dim=-1)] = True
        return tuple(x.masked_fill(nothing[..., None, None], 0.0) for x in attend(plain)(q, k, v, mask))

    assert rejects("h2o.attend", wrong)


def test_faint_probabilities_that_do_not_count():
    def wrong(scores, p):
        new = torch.where(p < 1e-12, 0.0, p.float()).sum(dim=2)
        if scores is not None:
            new[..., : scores.shape[-1]] += scores
        return new

    assert rejects("h2o.accumulate", wrong)


def worth(scores, kv_heads, group="sum", positions=None, seen=None, *, takes=("sum", "first"), count=lambda queries: queries):
    if group not in takes:
        raise ValueError(group)
    shared = scores.unflatten(1, (kv_heads, -1))
    value = {"sum": shared.sum(2), "first": shared[:, :, 0].clone(), "mean": shared.mean(2), "max": shared.amax(2)}[group]
    return value if positions is None else value / count(seen - positions)


WORTH = {
    "a mean as well": {"takes": ("sum", "first", "mean")},
    "a largest as well": {"takes": ("sum", "first", "max")},
    "counts in float16": {"count": Tensor.half},
    "counts in bfloat16": {"count": Tensor.bfloat16},
}


@pytest.mark.parametrize("name", WORTH)
def test_worth(name):
    assert rejects("h2o.worth", lambda *args, **options: worth(*args, **options, **WORTH[name]))


def choose(scores, budget, recent, mask=None, *, rank=Tensor.clone, window=torch.inf):
    if not 0 <= recent <= budget:
        raise ValueError
    held = scores.shape[-1]
    value = rank(scores) if mask is None else rank(scores).masked_fill(~mask, -torch.inf)
    value[..., max(0, held - recent) :] = window
    return value.argsort(dim=-1, stable=True)[..., max(0, held - budget) :].sort(dim=-1).values


def later(scores: Tensor, by: float) -> Tensor:
    """Of equal scores the later has a little more; but the others too."""
    return scores.double() + by * torch.arange(scores.shape[-1])


CHOOSE = {
    "in half precision": {"rank": Tensor.half},
    "rounded": {"rank": lambda scores: (1e6 * scores).round()},
    "later ones with 1e-6 more": {"rank": lambda scores: later(scores, 1e-6)},
    "later ones with 1e-12 more": {"rank": lambda scores: later(scores, 1e-12)},
    "a window of 1e4": {"window": 1e4},
    "a window of 1e9": {"window": 1e9},
}


@pytest.mark.parametrize("name", CHOOSE)
def test_choosing(name):
    assert score_object(find("h2o.choose"), choose).passed
    assert rejects("h2o.choose", lambda *args, **options: choose(*args, **options, **CHOOSE[name]))


def test_positions_that_go_through_float64():
    def wrong(keep, *tensors):
        kept = []
        for x in tensors:
            idx = keep.repeat_interleave(x.shape[1] // keep.shape[1], dim=1)
            idx = idx if x.ndim == 3 else idx[..., None].expand(*idx.shape, x.shape[3])
            kept.append(x.double().gather(2, idx).to(x.dtype))
        return kept

    assert rejects("h2o.evict", wrong)


@pytest.mark.parametrize("wrong", FAINT, ids=lambda wrong: wrong.__name__)
def test_caches(wrong):
    assert rejects("h2o.cache", wrong)


def test_a_cache_that_keeps_a_byte_of_each_token():
    class Wrong(find("h2o.cache").reference):
        real = torch.zeros(0, dtype=torch.bool)

        def step(self, q, k, v, mask=None):
            self.real = torch.cat([self.real, torch.ones(k.shape[2], dtype=torch.bool)])
            return super().step(q, k, v, mask)

    assert rejects("h2o.cache", Wrong)


def test_a_cache_that_keeps_the_prompt_in_another_form():
    class Wrong(find("h2o.cache").reference):
        hidden = ()

        def step(self, q, k, v, mask=None):
            self.hidden = (*self.hidden, k.numpy().tobytes())
            return super().step(q, k, v, mask)

    assert rejects("h2o.cache", Wrong)
