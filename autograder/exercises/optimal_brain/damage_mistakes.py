"""Mistakes of exercise 3.2, and the right answer that they vary."""

from autograder.checking.exercise import Mistakes


def delete(w, h, count, max_increase, score=lambda w, h: h * w**2, cost=lambda w, h: h * w**2 / 2, check=True, beyond=0):
    """`obd_prune` with its parts exchangeable, for mistakes in one part."""
    if check and (h < 0).any():
        raise ValueError("h must not be negative")
    order = score(w, h).argsort(stable=True)
    k = len(w) if count is None else count
    if max_increase is not None:
        k = min(k, int((cost(w, h)[order].cumsum(0) <= max_increase).sum()) + beyond)
    pruned = w.clone()
    pruned[order[:k]] = 0
    return pruned


mistakes = Mistakes()


@mistakes("magnitude", "You ranked by the weights alone. That is unit 02: the curvature says how much the loss minds.")
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: w.abs())


@mistakes("curvature alone", "You ranked by the curvature alone. A tiny weight may go even where the loss is steep.")
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: h)


@mistakes(
    "not squared",
    "You multiplied h with |w| (or squared both, which ranks the same). The loss is quadratic around its minimum: the step from w to 0 "
    "counts squared.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: h * w.abs(), cost=lambda w, h: h * w.abs() / 2)


@mistakes(
    "signed weights", "Your saliency keeps the sign of w, so negative weights go first. It is h w^2 / 2, which has no sign."
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: h * w, cost=lambda w, h: h * w / 2)


@mistakes(
    "divided by the curvature",
    "You divided by h. The loss rises by 1/2 h w^2; a division belongs to the *inverse* Hessian, which comes later.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: w**2 / h, cost=lambda w, h: w**2 / h / 2)


@mistakes("deletes the largest", "You deleted the weights of largest saliency, those that the loss minds most.")
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: -h * w**2)


@mistakes("keeps the count", "You kept `count` weights. `count` is how many are deleted.")
def _(w, h, count=None, max_increase=None):
    return delete(w, h, None if count is None else len(w) - count, max_increase)


@mistakes("returns the mask", "You returned a mask. Return the weights, with zeros where they are deleted.")
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase) != 0


@mistakes(
    "half left out",
    "The ranking is right, but you expect twice the rise: the second term of a Taylor expansion is *half* the curvature times the step "
    "squared.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, cost=lambda w, h: h * w**2)


@mistakes(
    "each for itself",
    "You compared each saliency with max_increase for itself. The rises of all deleted weights add up: it is their sum that must stay below.",
)
def _(w, h, count=None, max_increase=None):
    allowed = len(w) if max_increase is None else int((h * w**2 / 2 <= max_increase).sum())
    return delete(w, h, min(allowed, len(w) if count is None else count), None)


@mistakes(
    "less than",
    "You wrote < where <= belongs: a removal with which the sum is exactly max_increase is still allowed.",
)
def _(w, h, count=None, max_increase=None):
    allowed = len(w) if max_increase is None else int(((h * w**2 / 2).sort().values.cumsum(0) < max_increase).sum())
    return delete(w, h, min(allowed, len(w) if count is None else count), None)


@mistakes(
    "stops one too late",
    "You stop after the removal that exceeds max_increase. Ask before you delete: the sum must not exceed it.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, beyond=1)


@mistakes(
    "zero is no limit",
    "You wrote `if count` or `if max_increase`: in Python 0 is false, so a limit of 0 counts as no limit. Write `is not None`.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count or None, max_increase or None)


@mistakes(
    "no limit, no deletion",
    "Without a limit you delete nothing. None means no limit: all weights may go.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, 0 if count is None and max_increase is None else count, max_increase)


@mistakes("count overrides", "Where both limits are given, you look at `count` only. The tighter of the two decides.")
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase if count is None else None)


@mistakes("budget overrides", "Where both limits are given, you look at `max_increase` only. The tighter of the two decides.")
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count if max_increase is None else None, max_increase)


@mistakes(
    "zeros counted extra",
    "Weights that were 0 already are not among your `count`. They have saliency 0 and are the first to go: `count` entries are 0 afterwards.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, None if count is None else min(len(w), count + int((w == 0).sum())), max_increase)


@mistakes(
    "negative accepted",
    "You use a negative curvature as it is: its weight has a negative saliency and goes first. Raise a ValueError: at a minimum there is "
    "none.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, check=False)


@mistakes(
    "zero curvature refused",
    "You refuse a curvature of 0 too. That only says that the loss does not mind this weight, which happens; refuse h < 0, not h <= 0.",
)
def _(w, h, count=None, max_increase=None):
    if (h <= 0).any():
        raise ValueError("h must not be negative")
    return delete(w, h, count, max_increase)


@mistakes(
    "negative saliency refused",
    "You look for negative saliencies. Where w is 0 the saliency is 0 whatever h is: look at h itself.",
)
def _(w, h, count=None, max_increase=None):
    if (h * w**2 < 0).any():
        raise ValueError("h must not be negative")
    return delete(w, h, count, max_increase, check=False)


@mistakes(
    "absolute curvature",
    "You made a negative curvature positive, which nobody would notice. It is a sign that h is not what OBD assumes: raise a ValueError.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h.abs(), count, max_increase)


@mistakes("in place", "You changed w itself. Work on w.clone(): the caller still compares with the weights before.")
def _(w, h, count=None, max_increase=None):
    return w.copy_(delete(w, h, count, max_increase))


@mistakes(
    "room for rounding",
    "You let the sum exceed max_increase by a little, for rounding. That little is much where the loss itself is small: compare the sum with "
    "max_increase as it is.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, None if max_increase is None else max_increase + 1e-9)


@mistakes(
    "small taken for zero",
    "You take a small saliency for none. How small it is depends on the units of the loss: only what is exactly 0 costs nothing.",
)
def _(w, h, count=None, max_increase=None):
    def small(w, h):
        return (h * w**2 / 2) * (h * w**2 > 1e-10)

    return delete(w, h, count, max_increase, score=small, cost=small)


@mistakes(
    "ranked in float32",
    "You rank in float32, in which two saliencies that differ may be the same. Stay in the dtype of w.",
)
def _(w, h, count=None, max_increase=None):
    return delete(w, h, count, max_increase, score=lambda w, h: (h * w**2).float())


@mistakes(
    "returns too early",
    "Where nothing may go, you return before you have looked at h. A negative entry is an error for any limits: look first.",
)
def _(w, h, count=None, max_increase=None):
    return w.clone() if count == 0 or max_increase == 0 else delete(w, h, count, max_increase)


@mistakes(
    "another error",
    "A negative curvature is refused, but not by a ValueError (an assert raises AssertionError): `raise ValueError(...)`.",
)
def _(w, h, count=None, max_increase=None):
    assert (h >= 0).all()
    return delete(w, h, count, max_increase)
