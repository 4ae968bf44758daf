"""Mistakes of exercise 10.6, and the cache that they vary."""

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes
from autograder.exercises.h2o.fixtures import attention, is_clear, stay


class HeavyHitterCache:
    """In float64, from the parts of the other exercises' references."""

    def __init__(self, budget: int, recent: int, normalize: bool = False) -> None:
        self.budget, self.recent, self.normalize = budget, recent, normalize
        self.seen, self.clear = 0, True  # whether no choice was close
        self.held: dict[str, Tensor] = {}

    def step(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        self.take_in(q, k, v, mask)
        out, p = self.look(q)
        self.held["score"] = self.scores(p)
        worth, mask = self.worth(), self.held["real"]
        self.clear = self.clear and is_clear(worth, self.budget, self.recent, mask)
        self.forget(self.choice(worth, mask))
        return out.float()

    def positions(self) -> Tensor:
        return self.held["position"].clone()

    def take_in(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
        batch, heads, new = k.shape[:3]
        real = torch.ones(batch, new, dtype=torch.bool) if mask is None else mask
        tokens = {
            "k": k,
            "v": v,
            "real": real[:, None].expand(-1, heads, -1),
            "position": torch.arange(self.seen, self.seen + new).expand(batch, heads, -1),
            "score": torch.zeros(batch, heads, new, dtype=torch.float64),
        }
        self.held = {name: torch.cat([self.held[name], x], dim=2) if self.held else x for name, x in tokens.items()}
        self.seen += new
        self.new = new

    def look(self, q: Tensor) -> tuple[Tensor, Tensor]:
        return attention(q, self.held["k"], self.held["v"], self.held["real"])

    def scores(self, p: Tensor) -> Tensor:
        return self.held["score"] + self.of_keys(p).sum(dim=2)

    def of_keys(self, p: Tensor) -> Tensor:
        """(batch, kv_heads, new, held)."""
        return p.unflatten(1, (self.held["k"].shape[1], -1)).sum(dim=2)

    def worth(self) -> Tensor:
        return self.held["score"] / (self.seen - self.held["position"]) if self.normalize else self.held["score"]

    def choice(self, worth: Tensor, mask: Tensor) -> Tensor:
        return stay(worth, self.budget, self.recent, mask)

    def forget(self, keep: Tensor) -> None:
        for name, x in self.held.items():
            self.held[name] = x.gather(2, keep if x.ndim == 3 else keep[..., None].expand(*keep.shape, x.shape[3]))


mistakes = Mistakes()


def mistaken(name: str, says: str, **methods):
    """A cache with other methods."""
    mistakes(name, says)(type("Mistaken", (HeavyHitterCache,), methods))


def evicts_first(self, q: Tensor) -> tuple[Tensor, Tensor]:
    """Attend to no more than the budget: the held ones, without the one that has the least, and the new ones."""
    if self.new == 1 and self.held["k"].shape[2] > self.budget:
        held = self.held["score"].shape[2]
        keep = stay(self.held["score"], self.budget, max(self.recent, 1), self.held["real"])
        gone = torch.ones(keep.shape[0], keep.shape[1], held, dtype=torch.bool).scatter(2, keep, False)
        return attention(q, self.held["k"], self.held["v"], self.held["real"] & ~gone)
    return attention(q, self.held["k"], self.held["v"], self.held["real"])


mistaken(
    "evicts before it attends",
    "Your newest token attends to what is left after the eviction. Attend first, to all that is held and the new token, then forget: the query may need what is about to go.",
    look=evicts_first,
)
mistaken(
    "one more than the budget",
    "You hold one token too many. At most `budget` are held between steps; one more takes part in a step of decoding, and goes, or another does, after it.",
    choice=lambda self, worth, mask: stay(worth, self.budget + 1, self.recent, mask),
)
mistaken(
    "one less than the budget",
    "You hold one token too few. The newest token is in the cache after its step, and `budget` counts it.",
    choice=lambda self, worth, mask: stay(worth, max(1, self.budget - 1), min(self.recent, max(1, self.budget - 1)), mask),
)
mistaken(
    "the window is not protected",
    "You kept the largest scores of all tokens. The last `recent` stay whatever they scored.",
    choice=lambda self, worth, mask: stay(worth, self.budget, 0, mask),
)
mistaken(
    "the window alone",
    "You kept the most recent tokens only. Of the older ones those with the largest scores stay.",
    choice=lambda self, worth, mask: stay(worth, self.budget, self.budget, mask),
)
mistaken(
    "the first tokens",
    "You kept the first tokens beside the window, as StreamingLLM does. H2O keeps those with the largest scores.",
    choice=lambda self, worth, mask: stay(-self.held["position"].double(), self.budget, self.recent, mask),
)
mistaken(
    "the last query only",
    "You went by the attention of the last query alone: that is TOVA. Scores are sums over all queries so far.",
    scores=lambda self, p: self.of_keys(p)[:, :, -1],
)
mistaken(
    "means instead of sums",
    "You added the mean over the queries of a step. A prompt has many queries, and each counts like one of decoding: add them all up.",
    scores=lambda self, p: self.held["score"] + self.of_keys(p).mean(dim=2),
)
mistaken(
    "the prompt does not count",
    "You did not count the attention of the first step. A prompt is a step like any other, with many queries.",
    scores=lambda self, p: self.held["score"] + self.of_keys(p).sum(dim=2) * (self.seen > self.new),
)
mistaken(
    "only the prompt counts",
    "You counted the attention of the first step and none after it. Every step adds to the scores.",
    scores=lambda self, p: self.held["score"] + self.of_keys(p).sum(dim=2) * (self.seen == self.new),
)
mistaken(
    "heads in turns",
    "You added the attention of query heads in turns to the heads of keys. Neighbours share: the first `group` query heads belong to the first head of keys.",
    of_keys=lambda self, p: p.unflatten(1, (-1, self.held["k"].shape[1])).sum(dim=1),
)
mistaken(
    "the first query head of each group",
    "Only the first query head of each group counts. Here all of them do: the scores of a head of keys are the sum.",
    of_keys=lambda self, p: p.unflatten(1, (self.held["k"].shape[1], -1))[:, :, 0],
)
mistaken(
    "one choice for all heads",
    "All heads keep the same tokens. Each goes by its own scores.",
    choice=lambda self, worth, mask: stay(worth.sum(dim=1, keepdim=True).expand_as(worth), self.budget, self.recent, mask),
)
mistaken(
    "summed over the batch",
    "You added the scores of all sequences of the batch up. They are different texts.",
    choice=lambda self, worth, mask: stay(worth.sum(dim=0, keepdim=True).expand_as(worth), self.budget, self.recent, mask),
)
mistaken(
    "positions are places",
    "Your positions are places in the cache. Return where the tokens stood in the text.",
    positions=lambda self: torch.arange(self.held["k"].shape[2]).expand(self.held["k"].shape[:3]).clone(),
)
mistaken(
    "never normalised",
    "You made no use of `normalize`. With it a score is divided by the number of queries that could see the token.",
    worth=lambda self: self.held["score"],
)
mistaken(
    "always normalised",
    "You divided by the number of queries in any case. Without `normalize` sums decide.",
    worth=lambda self: self.held["score"] / (self.seen - self.held["position"]),
)
mistaken(
    "normalised by place",
    "You divided by the number of tokens behind in the cache. Those that have gone did look as well: go by positions in the text.",
    worth=lambda self: (
        self.held["score"] / (self.held["k"].shape[2] - torch.arange(self.held["k"].shape[2]))
        if self.normalize
        else self.held["score"]
    ),
)


mistaken(
    "normalised by what is held",
    "You divided by held - position. The queries that could see a token are those of the whole text from its own on: count all tokens that ever came.",
    worth=lambda self: (
        self.held["score"] / (self.held["k"].shape[2] - self.held["position"]) if self.normalize else self.held["score"]
    ),
)


@mistakes(
    "positions go on from what is held",
    "You number new tokens from how many are held. After an eviction that is less than have come: count all tokens of the text.",
)
class _(HeavyHitterCache):
    def take_in(self, q, k, v, mask):
        held, new = (self.held["k"].shape[2] if self.held else 0), k.shape[2]
        super().take_in(q, k, v, mask)
        self.held["position"] = self.held["position"].clone()
        self.held["position"][..., held:] = torch.arange(held, held + new)


@mistakes(
    "scores of others",
    "You evicted from keys and values, and cut the scores off at the end. From then on each score belongs to another token: evict from all with the same indices.",
)
class _(HeavyHitterCache):
    def forget(self, keep):
        scores = self.held["score"]
        super().forget(keep)
        self.held["score"] = scores[..., : keep.shape[-1]]


@mistakes(
    "scores start again",
    "Your scores start again after each eviction. Those of the tokens that stay are kept, and go on growing.",
)
class _(HeavyHitterCache):
    def forget(self, keep):
        evicts = keep.shape[-1] < self.held["k"].shape[2]
        super().forget(keep)
        if evicts:
            self.held["score"] = torch.zeros_like(self.held["score"])


@mistakes(
    "normalised sums are kept",
    "You keep the divided scores, and divide them again at the next step. Keep the sums, and divide where you choose.",
)
class _(HeavyHitterCache):
    def worth(self):
        self.held["score"] = super().worth()
        return self.held["score"]


@mistakes(
    "values of others",
    "You evicted from the keys and cut the values off at the end. A key must keep its value.",
)
class _(HeavyHitterCache):
    def forget(self, keep):
        values = self.held["v"]
        super().forget(keep)
        self.held["v"] = values[:, :, : keep.shape[-1]]


@mistakes(
    "padding is seen",
    "You made no use of the mask: queries look at padding.",
)
class _(HeavyHitterCache):
    def take_in(self, q, k, v, mask):
        super().take_in(q, k, v, None)


@mistakes(
    "padding is forgotten",
    "Your cache forgets in the next step which of its tokens are padding. Keep the mask with them, and evict from it as well.",
)
class _(HeavyHitterCache):
    def forget(self, keep):
        super().forget(keep)
        self.held["real"] = torch.ones_like(self.held["real"])


@mistakes(
    "a prompt token by token",
    "You evicted inside a step of several tokens, after each of them. A step attends in full, to all that is held and all that is new, and forgets once, at its end.",
)
class _(HeavyHitterCache):
    def step(self, q, k, v, mask=None):
        rows = range(q.shape[2])
        cut = [(slice(None), slice(None), slice(i, i + 1)) for i in rows]
        parts = [
            super(type(self), self).step(q[c], k[c], v[c], None if mask is None else mask[:, i : i + 1])
            for i, c in enumerate(cut)
        ]
        return torch.cat(parts, dim=2)


@mistakes(
    "only the first step evicts",
    "You evicted after the prompt and never again. Every step of decoding adds a token, and one has to go.",
)
class _(HeavyHitterCache):
    def choice(self, worth, mask):
        return stay(worth, self.budget if self.seen == self.new else 10**6, self.recent if self.seen == self.new else 0, mask)


@mistakes(
    "nothing is freed",
    "Your cache still holds memory for tokens that it has forgotten: a slice (`x[:, :, :n]`) keeps the whole tensor alive, and a mask hides but frees nothing. "
    "Let go of the large tensors.",
)
class _(HeavyHitterCache):
    def forget(self, keep):
        large = dict(self.held)
        super().forget(keep)
        self.large = large if "large" not in vars(self) else self.large


class PaddingAsQueries(HeavyHitterCache):
    """Counts positions without the padding, and tokens with it."""

    padding = 0

    def take_in(self, q, k, v, mask):
        super().take_in(q, k, v, mask)
        self.padding = self.padding + (0 if mask is None else (~mask).sum(dim=1)[:, None, None])

    def worth(self):
        queries = self.seen - self.held["position"] + self.padding
        return self.held["score"] / queries if self.normalize else self.held["score"]


class Fading(HeavyHitterCache):
    """Takes a little off all scores at every step."""

    def scores(self, p):
        return 0.99 * self.held["score"] + self.of_keys(p).sum(dim=2)


class OneQueryTooMany(HeavyHitterCache):
    """Divides by seen - position + 1."""

    def worth(self):
        queries = self.seen - self.held["position"] + 1
        return self.held["score"] / queries if self.normalize else self.held["score"]


class PositionsOfTheFirst(HeavyHitterCache):
    """Divides by the queries that could see the tokens of the first head of keys."""

    first = (slice(None), slice(1))

    def worth(self):
        queries = self.seen - self.held["position"][self.first]
        return self.held["score"] / queries if self.normalize else self.held["score"]


class PositionsOfTheFirstText(PositionsOfTheFirst):
    """The same of the first sequence."""

    first = slice(1)


# Too faint to fail in the same stages on every seed, so these have no name that a learner reads. But each fails in some case.
FAINT = (Fading, OneQueryTooMany, PaddingAsQueries, PositionsOfTheFirst, PositionsOfTheFirstText)
