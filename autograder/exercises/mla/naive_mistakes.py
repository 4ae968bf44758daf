"""Mistakes of exercise 12.3."""

import torch

from autograder.checking.exercise import Mistakes
from autograder.exercises.mla import variants
from autograder.exercises.mla.variants import attention, of_content_naive, output_naive

mistakes = Mistakes()
variants.declare(mistakes, of_content_naive, output_naive)


def varied(name: str, says: str, **parts) -> None:
    options = {"content": of_content_naive, "output": output_naive} | parts
    mistakes(name, says)(lambda *args: attention(*args, **options))


varied(
    "only the rotated part",
    "You left out the content: the keys without position are W_uk c.",
    content=lambda q, c, W: torch.zeros(()),
)
varied(
    "one head's keys",
    "You made the keys of the first head for all heads. W_uk has a matrix for each.",
    content=lambda q, c, W: of_content_naive(q, c, W[:1].expand_as(W)),
)
varied(
    "one head's values",
    "You made the values of the first head for all heads. W_uv has a matrix for each.",
    output=lambda a, c, W: output_naive(a, c, W[:1].expand_as(W)),
)
varied(
    "heads in the other order",
    "Heads and tokens are mixed up in your result: it has the shape (batch, q, heads, value), and so must be transposed, not reshaped.",
    output=lambda a, c, W: output_naive(a, c, W).transpose(1, 2).reshape(len(a), a.shape[2], a.shape[1], -1),
)


@mistakes(
    "content scaled alone",
    "You scaled the content and added the rotated part as it is. Both belong to one product, so the scale is for their sum.",
)
def _(q_nope, q_rope, *others):
    unscaled = (q_nope.shape[-1] + q_rope.shape[-1]) ** 0.5 * q_rope
    return attention(q_nope, unscaled, *others, content=of_content_naive, output=output_naive)


@mistakes(
    "each part scaled by its own width",
    "You scaled each part of the scores by the root of its own width. They are parts of one product, of nope + rope channels.",
)
def _(q_nope, q_rope, *others):
    nope, rope = q_nope.shape[-1], q_rope.shape[-1]
    parts = (q_nope * ((nope + rope) / nope) ** 0.5, q_rope * ((nope + rope) / rope) ** 0.5)
    return attention(*parts, *others, content=of_content_naive, output=output_naive)


@mistakes("no softmax", "You weighed values by the scores themselves. The weights are their softmax over the tokens.")
def _(*args):
    return attention(
        *args, content=of_content_naive, output=output_naive, weights=lambda s, scale, seen: (s * scale).masked_fill(~seen, 0.0)
    )


@mistakes(
    "no gradient",
    "The result is right, but no gradient comes through: detach(), numpy or torch.no_grad() cuts it off.",
)
def _(*args):
    with torch.no_grad():
        return attention(*args, content=of_content_naive, output=output_naive)


@mistakes(
    "the queries scaled in place",
    "The result is right, but you wrote into the queries that you were given: `q *= ...`. Work on a copy.",
)
def _(q_nope, q_rope, *others):
    result = attention(q_nope, q_rope, *others, content=of_content_naive, output=output_naive)
    q_nope.data *= (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5
    return result
