"""Quest: keep everything, and read only the pages that can matter to the query at hand.

    bounds    of each page of 16 tokens the smallest and the largest key, channel by channel
    score     sum_d max(q_d low_d, q_d high_d), which no key of the page can exceed
    select    the pages with the largest scores, and the last one
    attend    over their tokens only; parts of a softmax are put together with their log-sum-exp

Tang et al. 2024, "Quest: Query-aware sparsity for efficient long-context LLM inference". Bounds are a sixteenth of the cache's
bytes at pages of 16, so a step reads 1/16 + budget/tokens of it. The functions up to `attend_pages` are the algorithm; the
cache uses the compiled ones of `sparsity_edu.kernels.sparse_attention`, which do the same.
"""

from functools import partial

import torch
from torch import Tensor, nn

from sparsity_edu.kernels.sparse_attention import page_bounds, page_scores, sparse_decode
from sparsity_edu.kv_cache.full import FullLayer, with_room
from sparsity_edu.kv_cache.policy import PolicyCache, dense_attention, is_visible

GROUPS = ("each", "sum", "max")
CONVENTIONS = ("kernel", "evaluation")


def extend_bounds_(low: Tensor, high: Tensor, keys: Tensor, tokens: int, page: int = 16) -> None:
    """Keep bounds up to date when keys come in: the open page grows, and new ones begin.

    Args:
        low: (batch, kv_heads, pages, head_dim) with room for the new pages; changed in place.
        high: likewise.
        keys: (batch, kv_heads, q, head_dim), of new tokens, rotated as they are attended to.
        tokens: how many keys the bounds knew before.
        page: tokens of a page.

    Source: Tang et al. 2024, sec. 3.3.
    """
    first, inside = divmod(tokens, page)
    if inside:
        joined = keys[:, :, : page - inside]
        low[:, :, first] = torch.minimum(low[:, :, first], joined.amin(dim=2))
        high[:, :, first] = torch.maximum(high[:, :, first], joined.amax(dim=2))
        first, keys = first + 1, keys[:, :, page - inside :]
    if keys.shape[2]:
        least, most = page_bounds(keys, page)
        low[:, :, first : first + least.shape[2]], high[:, :, first : first + least.shape[2]] = least, most


def upper_bounds(q: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """What no product of a query with a key of a page can exceed: sum over d of max(q_d low_d, q_d high_d).

    Args:
        q: (batch, heads, head_dim), of one token.
        low: (batch, kv_heads, pages, head_dim); heads is a multiple of kv_heads.
        high: likewise.

    Returns:
        float32 (batch, heads, pages), not scaled.

    Source: Tang et al. 2024, algorithm 1. The authors' evaluation code has the maximum of keys times sign(q): the same number.
    """
    group = q.shape[1] // low.shape[1]
    least, most = (bound.float().repeat_interleave(group, dim=1) for bound in (low, high))
    return torch.maximum(q.float()[:, :, None] * least, q.float()[:, :, None] * most).sum(dim=-1)


def select_pages(scores: Tensor, budget: int, page: int = 16, *, tokens: int | Tensor, convention: str = "kernel") -> Tensor:
    """The pages to read.

    Args:
        scores: (batch, lists, pages): of each list of pages; -inf for one that must not be read.
        budget: tokens.
        page: tokens of a page.
        tokens: in the cache, or for each sequence of the batch (batch,).
        convention: "kernel", budget // page pages, of which the last one, with the newest token, always is one; all if there
            are no more (the authors' CUDA kernels); or "evaluation", max(3, min(tokens, budget) // page) pages, the last one
            only if its score says so, even where the budget exceeds the text (the authors' evaluation/quest_attention.py).

    Returns:
        int64 (batch, lists, most pages), ascending; -1, at the end, where a sequence has fewer.

    Raises:
        ValueError: `budget` holds no page, or the convention is unknown.
    """
    check_selection(budget, page, convention)
    tokens = torch.as_tensor(tokens, device=scores.device).expand(len(scores))[:, None, None]  # (batch, 1, 1)
    idx = torch.arange(scores.shape[-1], device=scores.device)
    last = (tokens - 1) // page
    scores = scores.masked_fill(idx > last, -torch.inf)
    count = torch.full_like(tokens, budget // page)
    if convention == "kernel":
        scores = scores.masked_fill(idx == last, torch.inf)
    else:
        count = (tokens.clamp(max=budget) // page).clamp(min=3)
    best = scores.topk(min(int(count.max()), scores.shape[-1]), dim=-1)
    read = (best.values > -torch.inf) & (torch.arange(best.indices.shape[-1], device=scores.device) < count)
    none = scores.shape[-1]  # sorts behind all pages
    chosen = best.indices.masked_fill(~read, none).sort(dim=-1).values
    return chosen.masked_fill(chosen == none, -1)


def attend_part(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention over some tokens, with what it takes to join it with that over others.

    Args:
        q: (..., head_dim).
        keys: (..., tokens, head_dim).
        values: (..., tokens, head_dim).
        scale: of the products.

    Returns:
        (..., head_dim), and the logarithm of the sum of exponentials (...,).
    """
    scores = (keys @ q[..., None]).squeeze(-1) * scale  # (..., tokens)
    return (scores.softmax(dim=-1)[..., None, :] @ values).squeeze(-2), scores.logsumexp(dim=-1)


def merge(parts: Tensor, masses: Tensor) -> Tensor:
    """Join attention over parts of the tokens as if it had been over all at once.

    Args:
        parts: (parts, ..., head_dim), results of `attend_part`.
        masses: (parts, ...), logarithms of their sums of exponentials.

    Returns:
        (..., head_dim): sum of parts, weighted by softmax(masses), in which no exponential can overflow.

    Source: Dao et al. 2023, "Flash-Decoding for long-context inference".
    """
    return (masses.softmax(dim=0)[..., None] * parts).sum(dim=0)


def attend_pages(q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, page: int = 16, scale: float | None = None) -> Tensor:
    """Attention over the tokens of chosen pages, a page at a time: what `sparse_decode` does fast.

    Args:
        q: (heads, head_dim), of one token of one sequence.
        keys: (heads, tokens, head_dim).
        values: likewise.
        pages: (heads, n), -1 is no page; each head needs one.
        page: tokens of a page.
        scale: of the products. Default: 1 / sqrt(head_dim).

    Returns:
        (heads, head_dim).
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = []
    for h, chosen in enumerate(pages.tolist()):
        spans = [slice(i * page, (i + 1) * page) for i in chosen if i >= 0]
        parts = [attend_part(q[h], keys[h, span], values[h, span], scale) for span in spans]
        out.append(merge(*map(torch.stack, zip(*parts, strict=True))))
    return torch.stack(out)


def check_selection(budget: int, page: int, convention: str) -> None:
    """Raise a ValueError that says what is wrong."""
    if not 1 <= page <= budget:
        raise ValueError(f"page must be from 1 to the budget of {budget} tokens, got {page}")
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")


class QuestLayer(FullLayer):
    """One layer of `QuestCache`. Pages begin at the first token of each sequence, behind its padding."""

    is_croppable = False  # tokens can be taken back, but several at once are read in full: assisted, it would write otherwise
    state = ("keys", "values", "low", "high", "padding", "rows", "pages")

    def __init__(self, budget: int, page: int, dense_layers: int, group: str, convention: str) -> None:
        self.budget, self.page, self.dense_layers, self.group, self.convention = budget, page, dense_layers, group, convention
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.bounded = 0  # tokens that bounds know

    def attend(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **kwargs) -> Tensor:
        self.note_padding(mask, query.shape[2], len(keys))
        self.pages = self.rows = None  # (batch, lists, n) and (batch, 3): what this step reads, None for everything
        if query.shape[2] > 1 or module.layer_idx < self.dense_layers or self.reads_all():
            return dense_attention(module, query, keys, values, mask, **kwargs)
        starts = torch.zeros(len(keys), dtype=torch.int64, device=keys.device) if self.padding is None else self.padding
        first = starts if mask is None else self.seen - is_visible(mask)[:, 0, 0].sum(dim=-1).expand(len(keys))
        self.rows = torch.stack([starts, first, torch.full_like(starts, self.seen)], dim=1)
        self.extend_bounds()
        q = query[:, :, 0].contiguous()
        self.pages = self.choose(page_scores(q, self.low, self.high))
        return sparse_decode(q, self.keys, self.values, self.pages, self.page, kwargs["scaling"], self.rows)[:, None]

    def note_padding(self, mask: Tensor | None, q: int, batch: int) -> None:
        """A token that does not see itself is padding."""
        if mask is not None:
            own = is_visible(mask)[:, 0, :, self.seen - q : self.seen].diagonal(dim1=1, dim2=2)
            if not own.all():
                padding = (~own).sum(dim=1).expand(batch)
                self.padding = padding if self.padding is None else self.padding + padding

    def reads_all(self) -> bool:
        pages = -(-self.seen // self.page)
        return pages <= (self.budget // self.page if self.convention == "kernel" else 3)

    def extend_bounds(self) -> None:
        """Of the tokens that came since; a sequence without padding is like any other of its batch."""
        pages = -(-self.seen // self.page)
        for name in ("low", "high"):
            held = getattr(self, name)
            setattr(self, name, with_room(held, self.keys, 0 if held is None else held.shape[2], pages))
        whole = [(slice(None), 0)]
        padded = [] if self.padding is None else [(slice(b, b + 1), n) for b, n in enumerate(self.padding.tolist())]
        for b, start in padded or whole:
            known = max(self.bounded - start, 0)
            new = self.keys[b, :, start + known : self.seen]
            extend_bounds_(self.low[b], self.high[b], new, known, self.page)
        self.bounded = self.seen

    def choose(self, scores: Tensor) -> Tensor:
        """(batch, heads or kv_heads, n): the pages that the newest token reads."""
        if self.group != "each":
            shared = scores.unflatten(1, (self.keys.shape[1], -1))
            scores = shared.sum(dim=2) if self.group == "sum" else shared.amax(dim=2)
        starts, first, end = self.rows[:, :, None, None].unbind(dim=1)  # (batch, 1, 1)
        page_end = starts + (torch.arange(scores.shape[-1], device=scores.device) + 1) * self.page
        scores = scores.masked_fill(page_end <= first, -torch.inf)
        return select_pages(scores, self.budget, self.page, tokens=(end - starts).view(-1), convention=self.convention)

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)
        self.bounded = 0 if self.padding is not None else min(self.bounded, self.seen // self.page * self.page)

    @property
    def bytes_read(self) -> int:
        if self.pages is None:
            return super().bytes_read
        starts, first, end = (x[:, None, None] for x in self.rows.unbind(dim=1))
        begin = starts + self.pages * self.page
        tokens = (torch.minimum(begin + self.page, end) - torch.maximum(begin, first)).masked_fill(self.pages < 0, 0)
        bounds = -((starts - end) // self.page).sum() * self.keys.shape[1] * 2 * self.keys.shape[3]
        return int(tokens.sum() * (self.keys.shape[3] + self.values.shape[3]) + bounds) * self.keys.element_size()


class QuestCache(PolicyCache):
    """All keys and values, and bounds of their pages; a step of decoding reads the bounds, and a budget of tokens."""

    def __init__(
        self, budget: int, page: int = 16, *, dense_layers: int = 2, group: str = "each", convention: str = "kernel"
    ) -> None:
        """Make an empty cache.

        Args:
            budget: tokens that a head reads in a step of decoding; a prompt is read in full.
            page: tokens of a page (the authors: 16).
            dense_layers: the first layers read everything (the authors: 2).
            group: who chooses where query heads share a head of keys: "each" query head its own pages (the authors' evaluation
                code repeats keys first; their kernels have no shared heads), or all of them the same by the "sum" or the "max"
                of their scores, so that a page is read once for all.
            convention: "kernel" or "evaluation", see `select_pages`.

        Raises:
            ValueError: an argument is not allowed.
        """
        check_selection(budget, page, convention)
        if group not in GROUPS:
            raise ValueError(f"group must be one of {', '.join(GROUPS)}, got {group!r}")
        super().__init__(partial(QuestLayer, budget, page, dense_layers, group, convention))
