"""The right answer that the mistakes of exercise 12.5 vary."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.exercises.mla import variants
from autograder.exercises.mla.rotate_mistakes import rotated


class Right:
    """With its parts exchangeable, for mistakes in one part."""

    def __init__(self, base: float = 10000.0, interleaved: bool = True) -> None:
        self.base, self.interleaved = base, interleaved
        self.c = self.k = None
        self.calls = 0

    def tokens(self) -> int:
        return 0 if self.c is None else self.c.shape[1]

    def places(self, x: Tensor) -> Tensor:
        return torch.arange(self.tokens(), self.tokens() + x.shape[1]).expand(len(x), -1)

    def spin(self, x: Tensor, places: Tensor) -> Tensor:
        return rotated(x, places, self.base, self.interleaved)

    def spin_query(self, q: Tensor, places: Tensor) -> Tensor:
        return self.spin(q, places)

    def queries(self, x: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        q = F.linear(x, weights["q"]).unflatten(-1, (len(weights["uk"]), -1))
        nope = weights["uk"].shape[1]
        return q[..., :nope], q[..., nope:]

    eps = 1e-6

    def latents(self, x: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        d_c = len(weights["norm"])
        down = F.linear(x, weights["down"])
        return F.rms_norm(down[..., :d_c], (d_c,), weights["norm"], self.eps), down[..., d_c:]

    def keep(self, c: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        self.c = c.clone() if self.c is None else torch.cat([self.c, c], dim=1)
        self.k = k.clone() if self.k is None else torch.cat([self.k, k], dim=1)
        return self.c, self.k

    def over(self, *args: Tensor) -> Tensor:
        return attention(*args)

    def result(self, y: Tensor, weights: dict[str, Tensor]) -> Tensor:
        return F.linear(y.flatten(2), weights["out"])

    def attend(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        places = self.places(x)
        q_nope, q_rope = self.queries(x, weights)
        c, k = self.latents(x, weights)
        q_rope = self.spin_query(q_rope, places)
        c, k = self.keep(c, self.spin(k, places))
        self.calls += 1
        return self.result(self.over(q_nope, q_rope, c, k, weights["uk"], weights["uv"]), weights)


def attention(*args: Tensor, **parts) -> Tensor:
    return variants.attention(*args, content=variants.of_content_absorbed, output=variants.output_absorbed, **parts)
