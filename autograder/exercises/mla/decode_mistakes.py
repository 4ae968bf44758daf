"""Mistakes of exercise 12.5."""

from typing import ClassVar

import torch
import torch.nn.functional as F

from autograder.checking.exercise import Mistakes
from autograder.exercises.mla.decode_variants import Right, attention
from autograder.exercises.mla.rotate_mistakes import rotated

mistakes = Mistakes()


def mistake(name: str, says: str, **parts) -> None:
    mistakes(name, says)(type("Wrong", (Right,), parts))


mistake(
    "positions begin again",
    "Your positions begin at 0 in each call. A new token stands behind those that are held: begin at their number.",
    places=lambda self, x: torch.arange(x.shape[1]).expand(len(x), -1),
)
mistake(
    "positions by calls",
    "Your positions follow the number of calls. A call may bring many tokens: count these.",
    places=lambda self, x: torch.arange(self.calls, self.calls + x.shape[1]).expand(len(x), -1),
)
mistake(
    "one position for a piece",
    "All tokens of a later piece have the same position with you. They follow each other.",
    places=lambda self, x: Right.places(self, x) if self.c is None else torch.full((len(x), x.shape[1]), self.tokens()),
)
mistake(
    "one token too far",
    "Later tokens are rotated one place too far. If n tokens are held, at 0 to n - 1, the next one stands at n.",
    places=lambda self, x: Right.places(self, x) + (self.c is not None),
)
mistake(
    "queries from 0",
    "Your keys are rotated at their positions, and your queries at 0, 1, 2, ... of the piece. Both stand at the same place.",
    spin_query=lambda self, q, places: self.spin(q, torch.arange(q.shape[1]).expand(len(q), -1)),
)
mistake("queries not rotated", "You rotated the keys only. Queries have a position, too.", spin_query=lambda self, q, places: q)
mistake(
    "keys not rotated",
    "You rotated the queries only. The shared key has a position, too.",
    spin=lambda self, x, places: x,
    spin_query=lambda self, q, places: Right.spin(self, q, places),
)
mistake(
    "always interleaved",
    "You ignore `interleaved=False`. Hand it on to rotate.",
    spin=lambda self, x, places: rotated(x, places, self.base, True),
)
mistake(
    "base ignored",
    "You ignore `base`. Hand it on to rotate.",
    spin=lambda self, x, places: rotated(x, places, 10000.0, self.interleaved),
)


def rotated_again(self, c, k):
    """The whole cache at once, each time."""
    if self.c is not None:
        held = torch.arange(self.c.shape[1]).expand(len(c), -1)
        self.k = self.spin(self.k, held)
    return Right.keep(self, c, k)


mistake(
    "rotated again", "You rotate the whole cache in each call, keys that were rotated already included.", keep=rotated_again
)


def normed_again(self, c, k):
    c, k = Right.keep(self, c, k)
    self.c = F.rms_norm(c, c.shape[-1:], None, 1e-6)
    return c, k


mistake("normed again", "You norm the whole cache in each call. What is held is normed already.", keep=normed_again)
mistake(
    "latents not normed",
    "You left out the norm of the latent.",
    latents=lambda self, x, weights: F.linear(x, weights["down"]).split(
        [len(weights["norm"]), len(weights["down"]) - len(weights["norm"])], -1
    ),
)
mistake(
    "another eps",
    "Your norm has another eps than 1e-6: for a faint token the latent is another one.",
    eps=1e-5,
)


def replaced(self, c, k):
    self.c, self.k = c.clone(), k.clone()
    return self.c, self.k


mistake(
    "forgets",
    "New tokens take the place of the old ones. They are put behind them: torch.cat along the tokens.",
    keep=replaced,
    places=lambda self, x: torch.arange(
        getattr(self, "n", 0), setattr(self, "n", getattr(self, "n", 0) + x.shape[1]) or self.n
    ).expand(len(x), -1),
)


def kept_first(self, c, k):
    if self.c is None:
        return Right.keep(self, c, k)
    return torch.cat([self.c, c], dim=1), torch.cat([self.k, k], dim=1)


mistake(
    "keeps the first piece only",
    "You attend over the new tokens but do not keep them: assign what torch.cat gives.",
    keep=kept_first,
)


def kept_in_front(self, c, k):
    self.c = c.clone() if self.c is None else torch.cat([c, self.c], dim=1)
    self.k = k.clone() if self.k is None else torch.cat([k, self.k], dim=1)
    return self.c, self.k


mistake(
    "new ones in front",
    "You put the new tokens in front of the old ones. The mask takes the last tokens for the queries' own.",
    keep=kept_in_front,
)


def kept_afterwards(self, c, k):
    before = (self.c, self.k) if self.c is not None else (c, k)
    Right.keep(self, c, k)
    return before


mistake(
    "kept afterwards",
    "You attend over what was there before. A token sees itself, too: put it into the cache first.",
    keep=kept_afterwards,
    over=lambda self, *args: attention(*args, seen=lambda q, t: torch.ones(q, t, dtype=torch.bool).tril(max(t - q, 0))),
)
mistake(
    "no mask in later pieces",
    "You mask the first piece only. A later piece may have more than one token as well.",
    over=lambda self, *args: attention(
        *args, **({} if self.calls <= 1 else {"seen": lambda q, t: torch.ones(q, t, dtype=torch.bool)})
    ),
)
mistake(
    "no mask",
    "Your tokens see those that come after them.",
    over=lambda self, *args: attention(*args, seen=lambda q, t: torch.ones(q, t, dtype=torch.bool)),
)
mistake(
    "mask from the first token",
    "Your mask takes the queries for the first tokens. They are the last: shift the triangle by what was held.",
    over=lambda self, *args: attention(*args, seen=lambda q, t: torch.ones(q, t, dtype=torch.bool).tril()),
)
mistake(
    "rotated channels first",
    "You took the first channels of each head's query for the rotated ones. They are the last.",
    queries=lambda self, x, weights: (
        F.linear(x, weights["q"])
        .unflatten(-1, (len(weights["uk"]), -1))
        .split([len(weights["down"]) - len(weights["norm"]), weights["uk"].shape[1]], -1)[::-1]
    ),
)


def all_content_first(self, x, weights):
    heads, nope, _ = weights["uk"].shape
    q = F.linear(x, weights["q"])
    return q[..., : heads * nope].unflatten(-1, (heads, -1)), q[..., heads * nope :].unflatten(-1, (heads, -1))


mistake(
    "cut before the heads",
    "You cut the queries into content and rotated part before you cut them into heads. Each head has its own nope + rope channels side by side.",
    queries=all_content_first,
)
mistake(
    "channels before heads",
    "You put heads and channels of the result the wrong way round before weights['out']: flatten (heads, value), the value's channels run fastest.",
    result=lambda self, y, weights: F.linear(y.transpose(2, 3).flatten(2), weights["out"]),
)
mistake(
    "x added",
    "You added x. The residual connection is the block's, not the attention's.",
    attend=lambda self, x, weights: x + Right.attend(self, x, weights),
)


def held(name: str, says: str, keep) -> None:
    """A mistake in what is kept besides."""

    def attend(self, x, weights):
        self.more = [*getattr(self, "more", []), *keep(self, x, weights)]
        return Right.attend(self, x, weights)

    mistake(name, says, attend=attend)


def unpacked(self, x, weights):
    c, _ = self.latents(x, weights)
    return torch.einsum("btr,hnr->bthn", c, weights["uk"]), torch.einsum("btr,hvr->bthv", c, weights["uv"])


held(
    "keys and values kept",
    "The result is right, but you keep keys and values of all heads: that is the cache which MLA is there to avoid.",
    unpacked,
)
held(
    "x kept",
    "The result is right, but you keep x. Its latent and rotated key are all that is needed again.",
    lambda self, x, weights: [x],
)
held(
    "the key kept twice",
    "The result is right, but you keep the key both before and after its rotation.",
    lambda self, x, weights: [self.latents(x, weights)[1].clone()],
)
held(
    "a key for each head",
    "The result is right, but you keep the rotated key once for each head. All heads share one.",
    lambda self, x, weights: [self.latents(x, weights)[1].repeat(1, 1, len(weights["uk"]) - 1)],
)
held(
    "weights kept",
    "The result is right, but you keep weights. They come with each call.",
    lambda self, x, weights: [weights["q"].clone()],
)


class _Raw(Right):
    def attend(self, x, weights):
        d_c, places = len(weights["norm"]), self.places(x)
        q_nope, q_rope = self.queries(x, weights)
        down = F.linear(x, weights["down"])
        c, k = F.rms_norm(down[..., :d_c], (d_c,), weights["norm"], 1e-6), down[..., d_c:]
        self.c, self.k = (c, k) if self.c is None else (torch.cat([self.c, c], dim=1), torch.cat([self.k, k], dim=1))
        keys = self.spin(self.k, torch.arange(self.tokens()).expand(len(x), -1))
        y = self.over(q_nope, self.spin(q_rope, places), self.c, keys, weights["uk"], weights["uv"])
        return self.result(y, weights)


mistakes(
    "a slice of the down-projection",
    "The result is right, but the key that you keep of the first call is a slice of what the down-projection gave, which memory holds whole, the raw "
    "latents included: `.clone()` the slice.",
)(_Raw)


def in_a_buffer(self, c, k):
    held = self.tokens()
    for name, new in (("c", c), ("k", k)):
        buffer = new.new_zeros(len(new), 256, new.shape[-1])
        if held:
            buffer[:, :held] = getattr(self, name)
        buffer[:, held : held + new.shape[1]] = new
        setattr(self, name, buffer[:, : held + new.shape[1]])
    return self.c, self.k


mistake(
    "a slice of a larger tensor",
    "The result is right, but what you keep is a slice of a larger tensor, which memory holds whole: `.clone()` the slice.",
    keep=in_a_buffer,
)


class _Shared(Right):
    held: ClassVar[dict] = {}

    def __init__(self, base=10000.0, interleaved=True):
        super().__init__(base, interleaved)
        self.held.clear()

    def keep(self, c, k):
        same = {
            name: old for name, old in self.held.items() if old.shape[0] == len(c) and old.shape[2] in (c.shape[2], k.shape[2])
        }
        self.held["c"] = torch.cat([same["c"], c], dim=1) if "c" in same else c.clone()
        self.held["k"] = torch.cat([same["k"], k], dim=1) if "k" in same else k.clone()
        self.c, self.k = self.held["c"], self.held["k"]
        return self.c, self.k


mistakes(
    "shared by all objects",
    "Your cache belongs to the class, so that all objects share it. Make it in __init__: `self.c = ...`.",
)(_Shared)
