"""What a decode step reads, and how long it takes at best, when weights, inputs and the cache are sparse at once.

    weights   read once for all sequences of a batch; those that an input meets are skipped only if no sequence needs them
    caches    read for each sequence by itself, all of it or some of its tokens

So what pays depends on the batch and on the context: see `speedups`.
"""

from typing import NamedTuple

from sparsity_edu.kernels.roofline import Machine


class Model(NamedTuple):
    """What a model reads and computes for a token."""

    weights: int
    kv: int  # numbers that a token leaves in the cache, of keys and values in all layers
    attention: int  # operations of a query with a token of its context, in all layers


def weight_bytes(weights: int, stored: str | float, skipped: float = 0.0, batch: int = 1, itemsize: int = 2) -> float:
    """Bytes of weights that a step reads.

    Args:
        weights: how many there are.
        stored: "dense"; "2:4", two values of every four and 2 bits for the place of each, read output by output; or a sparsity
            in [0, 1), the values that are not zero and a bit for each position, read input by input.
        skipped: in [0, 1], the chance that an input is below its threshold, independently of all others.
        batch: sequences, with a token each.
        itemsize: bytes of a value.

    Returns:
        What some sequence needs: weights of an input that is above the threshold in any of them. In 2:4 a group of four inputs
        is read or skipped as one.

    Raises:
        ValueError: an argument is not allowed.

    Source: Mishra et al. 2021 (2:4); Liu et al. 2024 (TEAL).
    """
    if stored not in ("dense", "2:4") and (isinstance(stored, str) or not 0 <= stored < 1):
        raise ValueError(f"stored must be dense, 2:4 or a sparsity in [0, 1), got {stored!r}")
    if not 0 <= skipped <= 1 or batch < 1:
        raise ValueError(f"skipped must be in [0, 1] and batch at least 1, got {skipped} and {batch}")
    together = 4 if stored == "2:4" else 1  # inputs that are skipped as one
    return weights * _bytes_per_weight(stored, itemsize) * (1 - skipped ** (batch * together))


def _bytes_per_weight(stored: str | float, itemsize: int) -> float:
    if stored == "dense":
        return itemsize
    return (1 - _sparsity(stored)) * itemsize + 1 / 8  # a bit for each position; in 2:4 two times 2 bits for each four


def _sparsity(stored: str | float) -> float:
    return {"dense": 0.0, "2:4": 0.5}.get(stored, stored)


def tokens_read(context: int, page: int | None = None, budget: int | None = None) -> int:
    """Tokens of a cache that a query reads; the two bounds of a page are as large as a token's key and value, and count as one.

    Args:
        context: tokens in the cache.
        page: tokens of a page of Quest's. Default: there are none.
        budget: the most tokens that are attended to. Default: all are.

    Raises:
        ValueError: there are pages but no budget, or a number is too small.

    Source: Tang et al. 2024 (Quest).
    """
    if min(context, 1 if page is None else page - 1, 1 if budget is None else budget) < 0:
        raise ValueError(f"context and budget must not be negative, nor page below 1, got {context}, {budget} and {page}")
    if budget is None:
        if page is not None:
            raise ValueError(f"budget must be given with pages, got none with a page of {page}")
        return context
    bounds = 0 if page is None else -(-context // page)
    return bounds + min(context, budget)


def step_bytes(
    weights: int, stored: str | float, skipped: float, batch: int, context: int, kv: int,
    page: int | None = None, budget: int | None = None, itemsize: int = 2,
) -> tuple[float, float]:  # fmt: skip
    """Bytes that a decode step of a batch reads: of weights, and of all caches.

    Args:
        weights: see `weight_bytes`, as for stored and skipped.
        batch: sequences.
        context: tokens in the cache of each, see `tokens_read`, as for page and budget.
        kv: numbers that a token leaves in the cache.
        itemsize: bytes of a number.

    Raises:
        ValueError: an argument is not allowed.
    """
    read = weight_bytes(weights, stored, skipped, batch, itemsize)
    return read, float(batch * tokens_read(context, page, budget) * kv * itemsize)


def step_seconds(
    model: Model, machine: Machine, batch: int, context: int, *,
    stored: str | float = "dense", skipped: float = 0.0, page: int | None = None, budget: int | None = None, itemsize: int = 2,
) -> float:  # fmt: skip
    """The least time of a decode step: products with weights, then attention, each the longer of reading and computing.

    Args:
        model: what is read and computed for a token.
        machine: its bandwidth and peak.
        batch: sequences.
        context: tokens in the cache of each.
        stored: as in `weight_bytes`. Zeros that are not stored are not computed.
        skipped: likewise. A sequence computes with its own inputs only, though all see what is read for one of them.
        page: as in `tokens_read`.
        budget: likewise.
        itemsize: bytes of a number.

    Raises:
        ValueError: an argument is not allowed.
    """
    weights, caches = step_bytes(model.weights, stored, skipped, batch, context, model.kv, page, budget, itemsize)
    needed = 1 - skipped ** (4 if stored == "2:4" else 1)
    products = 2 * batch * model.weights * (1 - _sparsity(stored)) * needed
    attention = batch * tokens_read(context, page, budget) * model.attention
    return _roof(weights, products, machine) + _roof(caches, attention, machine)


def _roof(bytes: float, operations: float, machine: Machine) -> float:
    return max(bytes / machine.bandwidth, operations / machine.peak)


def speedups(
    batch: int, context: int, model: Model, machine: Machine, level: float, page: int, budget: int, itemsize: int = 2
) -> dict[str, float]:
    """How many times as fast as the dense model a step is at best with one technique alone.

    Args:
        batch: sequences.
        context: tokens in the cache of each.
        model: what is read and computed for a token.
        machine: its bandwidth and peak.
        level: the share of inputs that thresholds skip, in [0, 1).
        page: tokens of a page of Quest's.
        budget: tokens that Quest attends to.
        itemsize: bytes of a number.

    Returns:
        By technique: "2:4", "skip" (thresholds) and "pages" (Quest).

    Raises:
        ValueError: an argument is not allowed.
    """
    alone = {"2:4": {"stored": "2:4"}, "skip": {"skipped": level}, "pages": {"page": page, "budget": budget}}
    dense = step_seconds(model, machine, batch, context, itemsize=itemsize)
    return {name: dense / step_seconds(model, machine, batch, context, itemsize=itemsize, **one) for name, one in alone.items()}
