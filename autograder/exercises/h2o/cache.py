"""Exercise 10.6: the cache."""

import math

import torch

from autograder.checking.exercise import Exercise
from autograder.exercises.h2o.cache_mistakes import (
    Fading,
    HeavyHitterCache,
    OneQueryTooMany,
    PaddingAsQueries,
    PositionsOfTheFirst,
    PositionsOfTheFirstText,
    mistakes,
)
from autograder.exercises.h2o.fixtures import left_padding, tokens
from autograder.inside.case import HELD, Case, script

cache = Exercise(
    "h2o.cache",
    defines="HeavyHitterCache",
    title="The cache",
    minutes=25,
    difficulty=3,
    hints=(
        "You have all the parts: take in, attend, accumulate, worth, choose, evict, in this order. What is left is to carry everything that "
        "belongs to tokens from step to step: keys, values, scores, positions, and which of them are padding.",
        "Begin with None and join with `torch.cat(..., dim=2)`. The mask of new tokens is (batch, new) and becomes (batch, kv_heads, new), as "
        "heads will hold different tokens. Count all tokens that ever came, for positions. The choice goes by worth, the sums stay sums.",
        "`out, p = attend(q, self.keys, self.values, self.real)`; `self.scores = accumulate(self.scores, p)`; `value = worth(self.scores, "
        "kv_heads, ...)` with positions if `self.normalize`; `keep = choose(value, self.budget, self.recent, self.real)`; and all five tensors anew "
        "from `evict(keep, ...)`.",
    ),
    reference=HeavyHitterCache,
    misconceptions=mistakes,
)


def held(cache: HeavyHitterCache, calls: list[tuple]) -> list:
    """The positions after each step."""
    found = []
    for name, *given in calls:
        result = getattr(cache, name)(*given)
        found += [result.tolist()] if name == "positions" else []
    return found


def cache_case(
    g: torch.Generator,
    sizes: tuple[int, int, int, int, int],
    budget: int,
    recent: int,
    steps: tuple[int, ...],
    *normalize: bool,
    pads: list[int] | None = None,
    most: bool = False,
    unlike: tuple[str | type, ...] = (),
) -> Case:
    """Of `sizes` batch, heads, kv_heads, head_dim, channels of values: steps of so many tokens each, and after each the positions.

    No choice of the reference is close. With `most` the bytes that are held are looked at as well. Mistakes that the case must
    be `unlike`, by name or themselves, hold other tokens somewhere.
    """
    batch, heads, kv_heads, dim, v_dim = sizes
    n = sum(steps)
    ends = [sum(steps[: i + 1]) for i in range(len(steps))]
    bytes_each = kv_heads * (4 * (dim + v_dim) + 8 + 8) + 8 * heads
    while True:
        q, k, v = tokens(g, batch, heads, kv_heads, n, dim, v_dim, heavy=3)
        mask = None if pads is None else left_padding(pads, n)
        calls = []
        for end, new in zip(ends, steps, strict=True):
            given = [x[:, :, end - new : end].clone() for x in (q, k, v)]
            if mask is not None and end - new <= max(pads):
                given.append(mask[:, end - new : end].clone())
            calls += [("step", *given), ("positions",)]
        reference = HeavyHitterCache(budget, recent, *normalize)
        right = held(reference, calls)
        others = [mistake.wrong for mistake in mistakes if mistake.name in unlike] + [x for x in unlike if isinstance(x, type)]
        wrong = [held(other(budget, recent, *normalize), calls) for other in others]
        if reference.clear and right not in wrong:
            break
    if most:
        calls.append((HELD, math.ceil(1.6 * batch * budget * bytes_each)))
    return script(budget, recent, *normalize, calls=calls)


@cache.stage(
    "a budget that holds the whole text",
    points=1,
    exposes="Nothing goes, so it is plain attention: each step's queries look at all tokens so far, and at those of their own step up to their own. "
    "positions() counts from 0.",
)
def _(g):
    yield cache_case(g, (1, 2, 2, 4, 3), 9, 4, (5, 1, 1))
    yield cache_case(g, (2, 6, 3, 5, 4), 40, 3, (6, 1, 1, 1))
    yield cache_case(g, (2, 2, 1, 3, 6), 8, 8, (1, 1, 3, 1))


@cache.stage(
    "attend, then forget",
    points=2,
    exposes="The new tokens attend to everything that is held, then all but `budget` go: in each head the recent ones stay, and those with its largest sums. "
    "Scores go on from step to step, with the tokens that they belong to.",
)
def _(g):
    yield cache_case(g, (1, 1, 1, 6, 3), 5, 2, (9, 1, 1, 1))
    yield cache_case(g, (2, 3, 3, 5, 4), 6, 2, (12, 1, 1, 1, 1))
    yield cache_case(g, (2, 2, 2, 8, 3), 7, 3, (4, 1, 1, 1, 1, 1, 1, 1), unlike=(Fading,))  # the budget is reached in decoding
    yield cache_case(g, (1, 2, 2, 6, 5), 4, 0, (10, 1, 1))
    yield cache_case(g, (1, 2, 2, 6, 5), 4, 4, (10, 1, 1))
    yield cache_case(g, (1, 2, 2, 6, 5), 7, 2, (7, 1, 1))  # the prompt fills it


@cache.stage(
    "query heads that share keys, and prompts in pieces",
    points=1,
    exposes="Query heads that share a head of keys add their attention up, and keep the same tokens; other heads and sequences keep others. A step may bring several "
    "tokens to a cache that has forgotten some: it attends in full, and forgets once.",
)
def _(g):
    yield cache_case(g, (2, 6, 2, 5, 4), 6, 2, (11, 1, 1, 1))
    yield cache_case(g, (1, 4, 1, 6, 3), 5, 1, (8, 4, 1, 5))
    yield cache_case(g, (2, 6, 3, 6, 5), 7, 3, (10, 6, 1, 1))


@cache.stage(
    "for each query that could see it",
    points=1,
    exposes="With normalize the choice goes by scores divided by the number of queries that could see the token, positions in the text counting. The sums "
    "themselves stay sums.",
)
def _(g):
    other = ("normalised by place", "never normalised", "normalised sums are kept")
    yield cache_case(g, (1, 2, 2, 6, 3), 5, 2, (9, 1, 1, 1), True, unlike=other)
    faint = OneQueryTooMany, PositionsOfTheFirst, PositionsOfTheFirstText
    yield cache_case(g, (2, 6, 2, 5, 4), 6, 1, (12, 1, 1, 1, 1, 1, 1), True, unlike=other + faint)
    yield cache_case(g, (1, 4, 2, 6, 3), 6, 3, (8, 5, 1, 1), True, unlike=other)
    yield cache_case(g, (2, 6, 2, 5, 4), 6, 1, (12, 1, 1, 1), False, unlike=("always normalised",))


@cache.stage(
    "padding",
    points=1,
    exposes="Padding is not looked at, in any step, looks at nothing that counts, and goes first. It has a position like a token, and which of the tokens are padding has to be kept with them.",
)
def _(g):
    yield cache_case(g, (3, 2, 2, 5, 4), 20, 2, (8, 1, 1), pads=[0, 3, 6])
    yield cache_case(g, (2, 4, 2, 5, 3), 6, 2, (12, 1, 1, 1), pads=[0, 4])
    yield cache_case(g, (3, 3, 3, 6, 3), 7, 2, (12, 1, 1, 1), pads=[9, 0, 2])  # more room than tokens in the first
    yield cache_case(
        g,
        (2, 6, 2, 5, 3),
        6,
        2,
        (11, 1, 1, 1),
        True,
        pads=[3, 0],
        unlike=("normalised by place", "never normalised", PaddingAsQueries),
    )
    yield cache_case(g, (2, 4, 2, 5, 3), 6, 2, (4, 5, 2, 1), pads=[6, 1])  # in two pieces, the first of which is nothing else


@cache.stage(
    "memory is freed",
    points=1,
    exposes="After a step the object holds tensors of about `budget` tokens: no slice of a larger one, and nothing of the prompt. What it was given stays as it was.",
    pure=True,
)
def _(g):
    yield cache_case(g, (1, 2, 2, 8, 6), 8, 4, (70, 1, 1), most=True)
    yield cache_case(g, (2, 6, 3, 6, 8), 6, 3, (40, 1, 1, 1), most=True)
    yield cache_case(g, (1, 2, 1, 8, 5), 4, 2, (3, *[1] * 12), most=True)
    yield cache_case(g, (1, 1, 1, 2, 2), 2, 1, (150, 1, 1), most=True)  # also what is a byte for each token of the text
    yield cache_case(g, (1, 2, 2, 24, 24), 8, 4, (300, 1), most=True)  # a prompt of 115 KB is kept nowhere, in no form


@cache.accepts("everything in one dict, gathered")
class _:
    def __init__(self, budget, recent, normalize=False):
        self.budget, self.recent, self.normalize, self.n, self.t = budget, recent, normalize, 0, None

    def step(self, q, k, v, mask=None):
        b, kv, new, d = k.shape
        group = q.shape[1] // kv
        live = torch.ones(b, new, dtype=torch.bool) if mask is None else mask
        fresh = dict(k=k, v=v, live=live[:, None].expand(b, kv, new), pos=torch.arange(self.n, self.n + new).expand(b, kv, new))
        fresh["s"] = torch.zeros(b, kv, new)
        self.t = fresh if self.t is None else {key: torch.cat((self.t[key], x), 2) for key, x in fresh.items()}
        self.n += new
        t, held = self.t, self.t["k"].shape[2]
        see = torch.ones(new, held, dtype=torch.bool).tril(held - new) & t["live"][:, :, None]  # (b, kv, new, held)
        logits = (q.view(b, kv, group, new, d) @ t["k"][:, :, None].mT) / d**0.5
        p = logits.masked_fill(~see[:, :, None], float("-inf")).softmax(-1).nan_to_num(0.0)
        out = (p @ t["v"][:, :, None]).flatten(1, 2)
        t["s"] = t["s"] + p.sum((2, 3))
        if held > self.budget:
            value = t["s"] / (self.n - t["pos"]) if self.normalize else t["s"]
            value = value.masked_fill(~t["live"], -1.0).clone()
            value[:, :, held - self.recent :] = float("inf")
            idx = value.argsort(dim=2, stable=True)[:, :, held - self.budget :].sort(2).values
            self.t = {key: torch.take_along_dim(x, idx if x.ndim == 3 else idx[..., None], 2) for key, x in t.items()}
        else:
            self.t = {key: x.clone() for key, x in t.items()}
        return out

    def positions(self):
        return self.t["pos"]


@cache.accepts("lists of tokens for every head")
class _:
    def __init__(self, budget, recent, normalize=False):
        self.budget, self.recent, self.normalize = budget, recent, normalize
        self.count, self.heads = 0, None

    def step(self, q, k, v, mask=None):
        batch, kv_heads, new = k.shape[:3]
        group = q.shape[1] // kv_heads
        if self.heads is None:
            self.heads = [[[] for _ in range(kv_heads)] for _ in range(batch)]
        out = torch.zeros(batch, q.shape[1], new, v.shape[3])
        for b in range(batch):
            for h in range(kv_heads):
                held = self.heads[b][h]
                for i in range(new):
                    real = mask is None or bool(mask[b, i])
                    token = {"k": k[b, h, i].clone(), "v": v[b, h, i].clone(), "real": real, "score": 0.0, "at": self.count + i}
                    held.append(token)
                old = len(held) - new
                for i in range(new):
                    visible = [token for token in held[: old + i + 1] if token["real"]]
                    for head in range(h * group, (h + 1) * group) if visible else ():
                        keys = torch.stack([token["k"] for token in visible]).double()
                        p = (keys @ q[b, head, i].double() / q.shape[3] ** 0.5).softmax(0)
                        out[b, head, i] = p.float() @ torch.stack([token["v"] for token in visible])
                        for token, share in zip(visible, p.tolist(), strict=True):
                            token["score"] += share
                self.heads[b][h] = self.left(held, self.count + new)
        self.count += new
        return out

    def left(self, held, seen):
        if len(held) <= self.budget:
            return held
        cut = len(held) - self.recent
        value = lambda t: (t["real"], t["score"] / ((seen - t["at"]) if self.normalize else 1), t["at"])  # noqa: E731
        best = sorted(held[:cut], key=value)[len(held) - self.budget :]
        return sorted(best, key=lambda t: t["at"]) + held[cut:]

    def positions(self):
        return torch.tensor([[[token["at"] for token in head] for head in row] for row in self.heads])


@cache.accepts("scores by query head, slots written over in decoding")
class _:
    def __init__(self, budget, recent, normalize=False):
        self.budget, self.recent, self.normalize, self.seen = budget, recent, normalize, 0
        self.keys = self.values = self.scores = self.real = self.at = None

    def step(self, q, k, v, mask=None):
        batch, kv_heads, new, dim = k.shape
        group = q.shape[1] // kv_heads
        real = torch.ones(batch, kv_heads, new, dtype=torch.bool)
        if mask is not None:
            real &= mask[:, None]
        at = torch.arange(self.seen, self.seen + new).repeat(batch, kv_heads, 1)
        none = torch.zeros(batch, kv_heads * group, new)
        names, fresh = ("keys", "values", "scores", "real", "at"), (k, v, none, real, at)
        for name, x in zip(names, fresh, strict=True):
            old = getattr(self, name)
            setattr(self, name, x.clone() if old is None else torch.cat([old, x], dim=2))
        self.seen += new
        query_at = torch.arange(self.seen - new, self.seen)[:, None]
        see = (self.at[:, :, None] <= query_at) & self.real[:, :, None]
        see = see.repeat_interleave(group, 1)
        logits = torch.einsum("bhqd,bhnd->bhqn", q, self.keys.repeat_interleave(group, 1)) / math.sqrt(dim)
        p = torch.softmax(torch.where(see, logits, torch.tensor(-1e30)), -1) * see
        out = torch.einsum("bhqn,bhnd->bhqd", p, self.values.repeat_interleave(group, 1))
        self.scores = self.scores + p.sum(2)
        if self.keys.shape[2] > self.budget:
            value = self.scores.view(batch, kv_heads, group, -1).sum(2)
            if self.normalize:
                value = value / (self.seen - self.at)
            value = torch.where(self.real, value, torch.tensor(-1.0))
            value = torch.where(self.at >= self.seen - self.recent, torch.tensor(1e30), value)
            order = value.argsort(dim=-1, stable=True)
            idx = order[..., order.shape[-1] - self.budget :].sort(-1).values
            wide = idx.repeat_interleave(group, 1)
            self.scores = self.scores.gather(2, wide)
            self.real, self.at = self.real.gather(2, idx), self.at.gather(2, idx)
            self.keys = torch.take_along_dim(self.keys, idx[..., None], 2)
            self.values = torch.take_along_dim(self.values, idx[..., None], 2)
        return out

    def positions(self):
        return self.at.clone()
