"""Exercise 12.5: the cache."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.mla import fixtures
from autograder.exercises.mla.decode_mistakes import mistakes
from autograder.exercises.mla.latent import reference as make_latent
from autograder.exercises.mla.rotate import reference as turn
from autograder.exercises.mla.variants import reference as attention
from autograder.inside.case import HELD, Case, script


class LatentCache:
    """With the other exercises' references: every token's latent and key are worked out at once, and attention one by one."""

    def __init__(self, base: float = 10000.0, interleaved: bool = True) -> None:
        self.base, self.interleaved = base, interleaved
        self.tokens: list[tuple[Tensor, Tensor]] = []  # (batch, 1, d_c) and (batch, 1, d_R) of each

    def attend(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        heads, nope, _ = weights["uk"].shape
        positions = torch.arange(len(self.tokens), len(self.tokens) + x.shape[1]).expand(x.shape[0], -1)
        q = torch.einsum("bth,oh->bto", x.double(), weights["q"].double()).float().unflatten(-1, (heads, -1))
        c, k = make_latent(x, weights["down"], weights["norm"])
        k = turn(k, positions, self.base, self.interleaved)
        self.tokens += [(c[:, t : t + 1].clone(), k[:, t : t + 1].clone()) for t in range(x.shape[1])]
        c, k = (torch.cat(parts, dim=1) for parts in zip(*self.tokens, strict=True))
        q_rope = turn(q[..., nope:], positions, self.base, self.interleaved)
        y = attention(q[..., :nope], q_rope, c, k, weights["uk"], weights["uv"])
        return torch.einsum("bto,ho->bth", y.flatten(2).double(), weights["out"].double()).float()


decode = Exercise(
    "mla.decode",
    defines="LatentCache",
    title="The cache",
    minutes=20,
    difficulty=3,
    hints=(
        "All pieces are there. What the class adds is a memory: the latents and the rotated keys of all tokens so far, and with them the position of the "
        "next token.",
        "New tokens stand at positions `tokens`, `tokens + 1`, ..., where `tokens` is how many are held. Rotate the new queries and the new key at these, "
        "put the new latents and keys behind the old ones, and attend over all of them.",
        "`q = (x @ weights['q'].T).unflatten(-1, (heads, -1))`, cut after nope; `c, k = latent(x, weights['down'], weights['norm'])`; `k = rotate(k, "
        "positions, ...)`; `self.c = torch.cat([self.c, c], dim=1)` if there is something, and the same for k; then `absorbed_attention(q_nope, q_rope, "
        "self.c, self.k_rope, weights['uk'], weights['uv']).flatten(2) @ weights['out'].T`.",
    ),
    reference=LatentCache,
    rules=Rules(tolerance=1e-4),
    misconceptions=mistakes,
)


def case(
    g: torch.Generator, batch: int, pieces: tuple[int, ...], widths: tuple[int, ...], *args, held=(), grow=1.0, size=1.0
) -> Case:
    """Pieces of a text, one call each; the object is measured after calls number `held`."""
    hidden, _, _, rope, _, d_c = widths
    weights = fixtures.layer(g, *widths)
    calls, tokens = [], 0
    for i, piece in enumerate(pieces):
        calls.append(("attend", size * grow**i * torch.randn(batch, piece, hidden, generator=g), weights))
        tokens += piece
        if i in held:
            calls.append((HELD, 4 * batch * tokens * (d_c + rope) + 64))
    return script(*args, calls=calls)


WIDTHS = (11, 3, 6, 4, 5, 7)  # hidden, heads, nope, rope, value, latent
OTHERS = (7, 2, 5, 6, 8, 4)
MORE = (9, 4, 3, 2, 6, 5)
WIDE_X = (160, 3, 6, 4, 5, 7)
WIDE = (13, 2, 5, 4, 3, 19)  # also the norm is more than the few bytes over


@decode.stage(
    "a text at once",
    points=1,
    exposes="Queries are x times weights['q'], nope channels and then rope channels for each head. Tokens stand at 0, 1, 2, ..., and see no later one.",
)
def _(g):
    yield case(g, 1, (1,), WIDTHS)
    yield case(g, 2, (7,), WIDTHS)
    yield case(g, 3, (5,), OTHERS, 100.0)
    yield case(g, 2, (4,), MORE, 10000.0, False)
    yield case(g, 1, (9,), WIDTHS, 300.0, True)
    yield case(g, 2, (5,), OTHERS, size=1e-3)  # eps counts


@decode.stage(
    "then token by token",
    points=2,
    exposes="A new token stands behind those that are held, and sees all of them and itself: the same numbers as the whole text at once.",
)
def _(g):
    yield case(g, 1, (6, 1, 1, 1), WIDTHS, 30.0)
    yield case(g, 3, (3, 1, 1), OTHERS, 30.0)
    yield case(g, 2, (1, 1, 1, 1), MORE, 30.0, False)
    yield case(g, 2, (2, 1, 1), OTHERS, 30.0, size=1e-3)


@decode.stage(
    "in pieces",
    points=1,
    exposes="A text may come in pieces of any length. Within a piece, too, no token sees a later one.",
)
def _(g):
    yield case(g, 2, (4, 3, 1, 5), WIDTHS, 30.0)
    yield case(g, 1, (1, 6, 2), OTHERS, 30.0, False)
    yield case(g, 3, (2, 2, 2), MORE, 30.0, grow=0.3)


@decode.stage(
    "holds d_c + d_R numbers of a token",
    points=2,
    exposes="After a call, all tensors that the object leads to are measured. They may take 4 * (d_c + d_R) bytes for each token held by then, of each "
    "sequence, and 64 more: one latent and one rotated key, no keys and values of heads, no x, no weights (`self.w = weights` keeps them), and no larger "
    "tensor behind a slice.",
    pure=True,
)
def _(g):
    yield case(g, 2, (20, 1, 1), WIDTHS, held=(0, 1, 2))
    yield case(g, 1, (9, 30, 1), OTHERS, 100.0, held=(0, 1, 2))
    yield case(g, 3, (1, 25, 3, 1), MORE, 500.0, False, held=(1, 3))
    yield case(g, 2, (6, 2), WIDE, held=(0, 1))
    yield case(g, 2, (40, 1), WIDE_X, held=(0, 1))  # an x of 50 KB is kept nowhere, in no form


def heads_of(x: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    nope = weights["uk"].shape[1]
    q = F.linear(x, weights["q"]).unflatten(-1, (len(weights["uk"]), -1))
    return q[..., :nope], q[..., nope:]


@decode.accepts("one tensor of latents and keys, absorbed, and scaled_dot_product_attention")
class _:
    def __init__(self, base=10000.0, interleaved=True):
        self.base, self.interleaved, self.kv = base, interleaved, None

    def spin(self, x, start):
        d = x.shape[-1]
        angle = torch.arange(start, start + x.shape[1])[:, None] * self.base ** (-torch.arange(0, d, 2) / d)
        angle = angle if x.ndim == 3 else angle[:, None]
        pairs = x.unflatten(-1, (-1, 2)) if self.interleaved else x.unflatten(-1, (2, -1)).transpose(-1, -2)
        a, b = pairs[..., 0], pairs[..., 1]
        out = torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)
        return (out if self.interleaved else out.transpose(-1, -2)).flatten(-2)

    def attend(self, x, weights):
        W_uk, W_uv, r = weights["uk"], weights["uv"], len(weights["norm"])
        start = 0 if self.kv is None else self.kv.shape[1]
        down = F.linear(x, weights["down"])
        new = torch.cat([F.rms_norm(down[..., :r], (r,), weights["norm"], 1e-6), self.spin(down[..., r:], start)], dim=-1)
        self.kv = new if self.kv is None else torch.cat([self.kv, new], dim=1)
        q_nope, q_rope = heads_of(x, weights)
        query = torch.cat([torch.einsum("bqhn,hnr->bhqr", q_nope, W_uk), self.spin(q_rope, start).transpose(1, 2)], dim=-1)
        seen = torch.ones(x.shape[1], self.kv.shape[1], dtype=torch.bool).tril(start)
        key = self.kv[:, None].expand(-1, len(W_uk), -1, -1)
        scale = (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5
        y = F.scaled_dot_product_attention(query, key, key[..., :r], attn_mask=seen, scale=scale)
        return F.linear((y @ W_uv.mT).transpose(1, 2).flatten(2), weights["out"])


@decode.accepts("keys not rotated in the cache, but all of them at each step; unpacked")
class _:
    def __init__(self, base=10000.0, interleaved=True):
        self.options, self.latents, self.keys = (base, interleaved), [], []

    def attend(self, x, weights):
        c, k = make_latent(x, weights["down"], weights["norm"])
        self.latents.append(c)
        self.keys.append(k)
        c, k = torch.cat(self.latents, dim=1), torch.cat(self.keys, dim=1)
        where = torch.arange(c.shape[1]).repeat(len(x), 1)
        q_nope, q_rope = heads_of(x, weights)
        q_rope = turn(q_rope, where[:, -x.shape[1] :], *self.options)
        y = attention(q_nope, q_rope, c, turn(k, where, *self.options), weights["uk"], weights["uv"])
        return y.flatten(2) @ weights["out"].mT


@decode.accepts("a list of tokens, one query after the other; raw latents, normed when read")
class _:
    def __init__(self, base=10000.0, interleaved=True):
        self.base, self.interleaved, self.rows = base, interleaved, []

    def attend(self, x, weights):
        answers, r = [], len(weights["norm"])
        for token in x.unbind(dim=1):
            place = torch.full((len(x), 1), len(self.rows))
            self.rows.append(token @ weights["down"].T)
            c = torch.stack([F.rms_norm(row[:, :r], (r,), weights["norm"], 1e-6) for row in self.rows], dim=1)
            k = torch.stack([row[:, r:] for row in self.rows], dim=1)
            k = turn(k, torch.arange(len(self.rows)).repeat(len(x), 1), self.base, self.interleaved)
            q_nope, q_rope = heads_of(token[:, None], weights)
            y = attention(q_nope, turn(q_rope, place, self.base, self.interleaved), c, k, weights["uk"], weights["uv"])
            answers.append(y.flatten(2) @ weights["out"].T)
        return torch.cat(answers, dim=1)
