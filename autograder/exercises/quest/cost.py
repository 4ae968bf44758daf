"""Exercise 11.6: what a step reads."""

import torch

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.quest.fixtures import drawn
from autograder.inside.case import Case, call


def step_cost(
    tokens: int,
    budget: int,
    page: int,
    heads: int,
    kv_heads: int,
    d: int,
    itemsize: int = 2,
    shared: bool = False,
    *,
    bounds=2,
    lists=lambda heads, kv_heads, shared: kv_heads if shared else heads,
    whole=lambda budget, page: budget // page,
    all_without_bounds=True,
    first=None,
    both=2,
) -> tuple[int, int, int]:
    """With exchangeable parts, for mistakes in one part."""
    pages, most, readers = tokens // page, whole(budget, page), lists(heads, kv_heads, shared)
    row = d * itemsize
    full = both * kv_heads * tokens * row
    if pages <= most and all_without_bounds:
        quest = full
    else:
        quest = bounds * kv_heads * pages * row + both * readers * min(most, pages) * page * row
    at = first(readers, kv_heads, most, page) if first else most + 1
    while not first and bounds * kv_heads * at + both * readers * most * page >= both * kv_heads * at * page:
        at += 1
    return full, quest, at * page


cost = Exercise(
    "quest.cost",
    defines="step_cost",
    title="What a step reads",
    minutes=12,
    difficulty=2,
    hints=(
        "Count numbers first, bytes last. Full attention reads a key and a value of every token for every head of keys. Quest reads two "
        "bounds of every page for every head of keys, and a key and a value of every chosen token for everybody who chooses.",
        "Who chooses: each of `heads`, or with `shared` each of `kv_heads`. How many tokens: `budget // page * page`. If these are all, "
        "nothing is chosen and Quest reads what full attention reads. In pages, with `count = budget // page` and `group = lists / kv_heads`, "
        "Quest reads less if `2 P + 2 group count page < 2 P page`.",
        "`full = 2 * kv_heads * tokens * d * itemsize`; `quest = 2 * d * itemsize * (kv_heads * tokens // page + lists * count * page)` if "
        "`tokens > count * page`, else `full`; and the least P is `group * count * page // (page - 1) + 1`: return it times `page`. "
        "(`lists // kv_heads` is whole.)",
    ),
    reference=step_cost,
    rules=Rules(tolerance=1e-9),
)


def sizes(g: torch.Generator, pages: int, count: int, group: int, **options) -> Case:
    """So many pages, of which so many may be read; heads of a group share keys. No two sizes are alike."""
    page, kv_heads, d = drawn(g, 5, 9), drawn(g, 2, 4), drawn(g, 10, 60)
    budget = count * page + drawn(g, 1, page - 2)
    return call(pages * page, budget, page, group * kv_heads, kv_heads, d, **options)


@cost.stage(
    "full attention and Quest",
    points=1,
    exposes="Full attention reads 2 * kv_heads * tokens * d numbers. Quest reads 2 bounds of d numbers for each page of each head of keys, and keys and values "
    "of budget // page pages for each head.",
)
def _(g):
    yield sizes(g, drawn(g, 80, 90), drawn(g, 4, 9), 1)
    yield sizes(g, drawn(g, 300, 400), drawn(g, 11, 19), 1)
    yield sizes(g, 50, 1, 1)
    yield call(500, 42, 5, 3, 3, 11)  # at 50 tokens both read as much
    yield call(32768, 2048, 16, 32, 32, 128)
    yield call(7 * 300_007, 2000, 7, 31, 31, 127)  # more than float32 counts to, or int32 holds


@cost.stage(
    "heads that share their keys",
    points=1,
    exposes="Keys and bounds are there once for each head of keys. But each head chooses pages, and reads those; with shared, one choice is made for each "
    "head of keys. itemsize is the bytes of a number.",
)
def _(g):
    yield sizes(g, drawn(g, 80, 90), drawn(g, 4, 9), 3)
    yield sizes(g, drawn(g, 80, 90), drawn(g, 4, 9), 3, shared=True)
    yield sizes(g, drawn(g, 60, 70), drawn(g, 4, 9), 4, itemsize=4)
    yield sizes(g, drawn(g, 60, 70), drawn(g, 4, 9), 4, itemsize=1, shared=True)
    yield call(8192, 1024, 16, 9, 3, 64, itemsize=4)
    yield sizes(g, 12, 10, 5)  # Quest reads more
    yield call(630, 31, 7, 9, 3, 11)  # at 98 both read as much


@cost.stage(
    "short texts",
    points=1,
    exposes="If the budget holds all pages, nothing is chosen, no bounds are read, and Quest reads what full attention reads, once for each head of keys.",
)
def _(g):
    yield sizes(g, 5, 8, 1)
    yield sizes(g, 7, 7, 3)
    yield sizes(g, 4, 9, 3, shared=True, itemsize=4)
    yield sizes(g, 8, 7, 2, shared=True)  # one page more than the budget


def mistaken(name: str, says: str, **parts) -> None:
    cost.misconception(name, says)(lambda *args, **options: step_cost(*args, **options, **parts))


mistaken(
    "one bound",
    "You count one bound for each page. There are two, the smallest and the largest key.",
    bounds=1,
)
mistaken(
    "no bounds",
    "You left out the bounds. All of them are read at every step, to choose by: a page's worth of numbers each.",
    bounds=0,
)
mistaken("keys alone", "You count keys alone. For each token a key and a value are read.", both=1)
mistaken(
    "pages read once for a group",
    "You read chosen pages once for each head of keys, also where each query head chooses for itself. Each reads its own then.",
    lists=lambda heads, kv_heads, shared: kv_heads,
)
mistaken(
    "pages read by each head",
    "You read chosen pages once for each query head, also with shared. One choice for a head of keys is read once.",
    lists=lambda heads, kv_heads, shared: heads,
)
mistaken(
    "shared the other way round",
    "You took shared the other way round. With it the choice is made once for each head of keys; otherwise each query head chooses.",
    lists=lambda heads, kv_heads, shared: heads if shared else kv_heads,
)
mistaken(
    "rounded up",
    "You rounded budget / page up. Only whole pages within the budget are read: budget // page.",
    whole=lambda budget, page: -(-budget // page),
)
mistaken(
    "the last page on top",
    "You read budget // page pages and the last one besides. It is one of them.",
    whole=lambda budget, page: budget // page + 1,
)
mistaken(
    "bounds in any case",
    "If the budget holds all pages nothing is chosen: no bounds are read, and no page twice. Quest reads what full attention reads.",
    all_without_bounds=False,
)
mistaken(
    "pays beyond the budget",
    "You say that it pays as soon as the text is longer than the budget. The bounds have to be earned first, and pages that are read by several heads.",
    first=lambda readers, kv_heads, most, page: most + 1,
)
mistaken(
    "pays without its bounds",
    "You left out the bounds when you asked from where on it pays.",
    first=lambda readers, kv_heads, most, page: readers // kv_heads * most + 1,
)
mistaken(
    "pays as if heads shared nothing",
    "Where several heads read their own pages of the same keys, it pays later: by the size of the group.",
    first=lambda readers, kv_heads, most, page: most * page // (page - 1) + 1,
)
mistaken(
    "the last length that does not pay",
    "Your length is one page too short: there Quest does not read less yet.",
    first=lambda readers, kv_heads, most, page: readers // kv_heads * most * page // (page - 1),
)
mistaken(
    "pays where both read as much",
    "At your length both may read as much. Asked for is the least at which Quest reads fewer bytes: `<`, not `<=`.",
    first=lambda readers, kv_heads, most, page: max(most + 1, -(-readers // kv_heads * most * page // (page - 1))),
)
mistaken(
    "pays with one bound",
    "You counted one bound for each page when you asked from where on it pays. There are two.",
    first=lambda readers, kv_heads, most, page: 2 * readers // kv_heads * most * page // (2 * page - 1) + 1,
)


def other(name: str, says: str):
    return cost.misconception(name, says)


@other("the budget in tokens", "You read budget tokens. Read are whole pages: budget // page * page tokens.")
def _(tokens, budget, page, heads, kv_heads, d, itemsize=2, shared=False):
    full, quest, pays = step_cost(tokens, budget, page, heads, kv_heads, d, itemsize, shared)
    lists = kv_heads if shared else heads
    return full, quest + 2 * lists * (budget % page) * d * itemsize if quest != full or tokens > budget else quest, pays


@other(
    "full attention of query heads",
    "You read all keys once for each query head. They are there once for each head of keys, which its query heads share.",
)
def _(tokens, budget, page, heads, kv_heads, d, itemsize=2, shared=False):
    full, quest, pays = step_cost(tokens, budget, page, heads, kv_heads, d, itemsize, shared)
    return full * heads // kv_heads, quest, pays


@other("bounds of query heads", "You read the bounds once for each query head. They are there once for each head of keys.")
def _(tokens, budget, page, heads, kv_heads, d, itemsize=2, shared=False):
    full, quest, pays = step_cost(tokens, budget, page, heads, kv_heads, d, itemsize, shared)
    more = 2 * (heads - kv_heads) * (tokens // page) * d * itemsize if tokens // page > budget // page else 0
    return full, quest + more, pays


@other(
    "a bound for each token",
    "You read two bounds for each token. They are there once for each page: that is what makes them cheap.",
)
def _(tokens, budget, page, heads, kv_heads, d, itemsize=2, shared=False):
    full, quest, pays = step_cost(tokens, budget, page, heads, kv_heads, d, itemsize, shared)
    return (
        full,
        quest + 2 * kv_heads * (tokens - tokens // page) * d * itemsize if tokens // page > budget // page else quest,
        pays,
    )


@other("numbers instead of bytes", "You count numbers. A number takes itemsize bytes.")
def _(tokens, budget, page, heads, kv_heads, d, itemsize=2, shared=False):
    return step_cost(tokens, budget, page, heads, kv_heads, d, 1, shared)


@other("two bytes whatever the dtype", "You count 2 bytes for a number. It takes itemsize bytes.")
def _(tokens, budget, page, heads, kv_heads, d, itemsize=2, shared=False):
    return step_cost(tokens, budget, page, heads, kv_heads, d, 2, shared)


@other("four bytes by default", "If itemsize is left out it is 2, as in the first line that you were given.")
def _(tokens, budget, page, heads, kv_heads, d, itemsize=4, shared=False):
    return step_cost(tokens, budget, page, heads, kv_heads, d, itemsize, shared)


@other("pages instead of tokens", "Your length is a number of pages. Asked for are tokens.")
def _(tokens, budget, page, heads, kv_heads, d, itemsize=2, shared=False):
    full, quest, pays = step_cost(tokens, budget, page, heads, kv_heads, d, itemsize, shared)
    return full, quest, pays // page


@other("a share", "Your second result is a share of full attention. Asked for are bytes.")
def _(tokens, budget, page, heads, kv_heads, d, itemsize=2, shared=False):
    full, quest, pays = step_cost(tokens, budget, page, heads, kv_heads, d, itemsize, shared)
    return full, quest / full, pays


@cost.accepts("by trying one length after the other")
def _(tokens, budget, page, heads, kv_heads, d, itemsize=2, shared=False):
    def reads(n):
        if n // page <= budget // page:
            return 2 * kv_heads * n * d * itemsize
        bounds = 2 * kv_heads * (n // page)
        chosen = 2 * (kv_heads if shared else heads) * (budget // page) * page
        return (bounds + chosen) * d * itemsize

    n = page
    while reads(n) >= 2 * kv_heads * n * d * itemsize:
        n += page
    return 2 * kv_heads * tokens * d * itemsize, reads(tokens), n


@cost.accepts("in bytes of a token")
def _(tokens, budget, page, heads, kv_heads, d, itemsize=2, shared=False):
    token = 2 * kv_heads * d * itemsize
    group = 1 if shared else heads // kv_heads
    kept = budget - budget % page
    quest = token * tokens if tokens <= kept else token * (tokens // page + group * kept)
    pages = 1 + (group * kept) // (page - 1)
    return token * tokens, quest, pages * page


@cost.accepts("from the last length that does not pay downwards")
def _(tokens, budget, page, heads, kv_heads, d, itemsize=2, shared=False):
    lists, count = (kv_heads, heads)[not shared], budget // page
    P = 2 * lists * count * 2
    while kv_heads * (P - 1) + lists * count * page < kv_heads * (P - 1) * page and count < P - 1:
        P -= 1
    row = 2.0 * d * itemsize
    pages = tokens // page
    quest = kv_heads * tokens if pages <= count else kv_heads * pages + lists * count * page
    return row * kv_heads * tokens, row * quest, P * page
