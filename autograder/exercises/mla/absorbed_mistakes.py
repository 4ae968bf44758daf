"""Mistakes of exercise 12.4."""

import torch

from autograder.checking.exercise import Mistakes
from autograder.exercises.mla import variants
from autograder.exercises.mla.variants import attention, of_content_absorbed, of_content_naive, output_absorbed, output_naive

mistakes = Mistakes()
variants.declare(mistakes, of_content_absorbed, output_absorbed)


def varied(name: str, says: str, **parts) -> None:
    options = {"content": of_content_absorbed, "output": output_absorbed} | parts
    mistakes(name, says)(lambda *args: attention(*args, **options))


varied(
    "unpacked",
    "The result is right, but you make keys and values of all tokens: this is exercise 12.3 again. Take the products in the other order.",
    content=of_content_naive,
    output=output_naive,
)
varied(
    "keys unpacked",
    "You still make the keys of all tokens. W_uk goes into the query: q W_uk, then the latents.",
    content=of_content_naive,
)
varied(
    "values unpacked",
    "You still make the values of all tokens. Sum the latents by their weights first, then use W_uv once for each query.",
    output=output_naive,
)
varied(
    "unpacked in float64",
    "You make keys and values of all tokens, in float64, where they are not infinite. They are not to be made: take the products in the other order.",
    content=lambda q, c, W: of_content_naive(q.double(), c.double(), W.double()).float(),
    output=lambda a, c, W: output_naive(a.double(), c.double(), W.double()).float(),
)
varied(
    "W_uk twice",
    "You absorbed W_uk and multiplied by it once more: the absorbed query meets the latents as they are.",
    content=lambda q, c, W: of_content_absorbed(torch.einsum("bqhr,hnr->bqhn", torch.einsum("bqhn,hnr->bqhr", q, W), W), c, W),
)
varied(
    "heads summed in the query",
    "You summed the absorbed queries over the heads. Each head keeps its own: it is the latent that they share.",
    content=lambda q, c, W: of_content_absorbed(q, c, W).sum(dim=1, keepdim=True).expand(-1, q.shape[2], -1, -1),
)
varied(
    "heads averaged behind the sum",
    "You averaged the summed latents over the heads before W_uv. Each head has its own sum.",
    output=lambda a, c, W: output_absorbed(a.mean(dim=1, keepdim=True).expand_as(a), c, W),
)
varied(
    "one head's query",
    "You absorbed the first head's W_uk into all queries. W_uk has a matrix for each head.",
    content=lambda q, c, W: of_content_absorbed(q, c, W[:1].expand_as(W)),
)
varied(
    "one head's values",
    "You used the first head's W_uv for all heads. W_uv has a matrix for each.",
    output=lambda a, c, W: output_absorbed(a, c, W[:1].expand_as(W)),
)


@mistakes(
    "no gradient",
    "The result is right, but no gradient comes through: detach(), numpy or torch.no_grad() cuts it off.",
)
def _(*args):
    with torch.no_grad():
        return attention(*args, content=of_content_absorbed, output=output_absorbed)


@mistakes(
    "the queries scaled in place",
    "The result is right, but you wrote into the queries that you were given: `q *= ...`. Work on a copy.",
)
def _(q_nope, q_rope, *others):
    result = attention(q_nope, q_rope, *others, content=of_content_absorbed, output=output_absorbed)
    q_rope.data *= (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5
    return result
