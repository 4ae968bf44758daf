"""Who may have worked together: copies are told from classmates however they are disguised, and hostile code does no harm."""

import time
from html.parser import HTMLParser

import pytest

from autograder.classroom.similar_page import LINES, page
from autograder.classroom.similarity import LEAST, OTHER, SOLUTION, Pair, alike, pairs

UNIT = "02_magnitude"
PRUNE, GLOBAL = "magnitude.prune", "magnitude.global"
STUBS = {
    PRUNE: 'def magnitude_prune(W, sparsity):\n    """Prune."""\n    raise NotImplementedError()',
    GLOBAL: 'def global_masks(model, sparsity):\n    """Masks."""\n    raise NotImplementedError()',
}
ADA = {
    PRUNE: """
def magnitude_prune(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("no")
    out = W.clone().flatten()
    smallest = W.abs().flatten().argsort()[: int(sparsity * W.numel())]
    out[smallest] = 0
    return out.reshape(W.shape)
""",
    GLOBAL: """
def global_masks(model, sparsity):
    layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    scores = torch.cat([layer.weight.abs().flatten() for layer in layers.values()])
    keep = torch.ones_like(scores, dtype=torch.bool)
    keep[scores.argsort()[: int(sparsity * scores.numel())]] = False
    parts = keep.split([layer.weight.numel() for layer in layers.values()])
    return {name: part.view(layer.weight.shape) for (name, layer), part in zip(layers.items(), parts)}
""",
}
BOB = {  # on his own
    PRUNE: """
def magnitude_prune(W, sparsity):
    if sparsity < 0 or sparsity >= 1:
        raise ValueError(f"sparsity is {sparsity}")
    k = int(W.numel() * sparsity)
    if k == 0:
        return W.clone()
    value, index = torch.topk(W.abs().reshape(-1), k, largest=False)
    mask = torch.ones(W.numel(), dtype=W.dtype, device=W.device)
    mask.scatter_(0, index, 0)
    return W * mask.view_as(W)
""",
    GLOBAL: """
def global_masks(model, sparsity):
    masks, offset, everything = {}, 0, []
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            everything.append(module.weight.detach().abs().reshape(-1))
            masks[name] = module.weight.shape
    everything = torch.concatenate(everything)
    order = torch.argsort(everything, descending=True)
    chosen = torch.zeros(len(everything), dtype=bool)
    chosen[order[: len(everything) - int(sparsity * len(everything))]] = 1
    for name, shape in masks.items():
        count = shape[0] * shape[1]
        masks[name] = chosen[offset : offset + count].reshape(shape)
        offset += count
    return masks
""",
}


def renamed(code):
    for one, other in {
        "out": "result",
        "smallest": "idx",
        "layers": "found",
        "scores": "s",
        "keep": "m",
        "name": "key",
    }.items():
        code = code.replace(f" {one}", f" {other}").replace(f"({one}", f"({other}").replace(f"{one}[", f"{other}[")
    return f"# my own work\n{code.replace('int(sparsity', 'int(1.0 * sparsity') if 'numel()]' in code else code}"


def moved(code):
    """The same in a helper of another cell."""
    return {PRUNE: "def magnitude_prune(W, sparsity):\n    return mine(W, sparsity)", GLOBAL: code[GLOBAL]} | {
        OTHER: code[PRUNE].replace("magnitude_prune", "mine")
    }


COPIES = {
    "as it is": ADA,
    "renamed": {id: renamed(code) for id, code in ADA.items()},
    "with docstrings and other numbers": {
        id: code.replace(":\n    ", ':\n    """Mine."""\n    ', 1).replace("0", "0.0") for id, code in ADA.items()
    },
    "with another line": {id: code.replace("    return", "    extra = 1\n    return", 1) for id, code in ADA.items()},
    "moved to another cell": moved(ADA),
}


def number(class_, one, other):
    return next(pair.alike for pair in pairs(class_, STUBS) if set(pair.students) == {one, other})


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("others", [0, 20])
def test_a_copy_is_listed_and_a_classmate_is_not(kind, others):
    class_ = {"ada": ADA, "bob": BOB, "copy": COPIES[kind]} | {f"more{i}": BOB if i % 2 else {} for i in range(others)}
    print(
        f"{kind}, class of {len(class_)}: {number(class_, 'ada', 'copy'):.2f}, on one's own {number(class_, 'ada', 'bob'):.2f}"
    )
    listed = [pair.students for pair in alike(class_, STUBS)]
    assert ("ada", "copy") in listed
    assert ("ada", "bob") not in listed
    assert number(class_, "ada", "bob") + 0.2 < LEAST


def test_what_was_released_does_not_count():
    class_ = {"ada": STUBS | {PRUNE: STUBS[PRUNE] + "\nx = a + b"}, "bob": STUBS | {PRUNE: STUBS[PRUNE] + "\nf(g(h(1)))"}}
    assert number(class_, "ada", "bob") < 0.2
    assert number({"ada": STUBS, "bob": STUBS}, "ada", "bob") == 0
    assert list(pairs({"ada": {}, "bob": {}}, STUBS)) == [Pair(("ada", "bob"), 0.0, {})]


def test_the_most_alike_come_first_and_the_closest_exercise_is_named():
    class_ = {"ada": ADA, "bob": ADA, "eve": COPIES["with another line"], SOLUTION: BOB}
    found = alike(class_, STUBS)
    assert found[0].students == ("ada", "bob")
    assert found[0].alike == pytest.approx(1)
    assert found[0].closest == (GLOBAL, pytest.approx(1))
    assert len(found) == 3


HOSTILE = {
    "no Python": "def (:",
    "deep": "(" * 40_000,
    "NUL": "x = 1\0",
    "half a character": "x = '\ud800'",
    "sums": "x = " + "1+" * 20_000 + "1",
    "chains": ("x" + ".a" * 300 + "\n") * 60,
    "nested functions": "".join(" " * i + f"def f{i}(x):\n" for i in range(90)) + " " * 90 + "return 1",
    "one long line": "x = [" + "1," * 20_000 + "]",
    "many lines": "x = 1\n" * 8_000,
    "markup": "x = '</pre><script>alert(1)</script>\u202e'  # <img src=x onerror=alert(1)>",
}


class Seen(HTMLParser):
    """The tags of a page."""

    def __init__(self):
        super().__init__()
        self.tags = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add((tag, *(name for name, _ in attrs if name.startswith("on"))))


def test_hostile_code_neither_hangs_nor_gets_into_the_page():
    class_ = {f"<b>{kind}</b>": {PRUNE: code, OTHER: code} for kind, code in HOSTILE.items()}
    start = time.process_time()
    found = list(pairs(class_, STUBS))
    made = page(UNIT, found, class_, STUBS)
    assert time.process_time() - start < 10  # about two where nothing else runs
    seen = Seen()
    seen.feed(made)
    assert {tag[0] for tag in seen.tags} & {"script", "img", "b"} == set()
    assert all(len(tag) == 1 for tag in seen.tags)
    assert "\u202e" not in made
    assert "(7600 more lines)" in made
    assert LINES == 400


def test_the_page_shows_both_sides_and_marks_what_is_the_same():
    class_ = {"ada": ADA, "copy": COPIES["renamed"]}
    made = page(UNIT, alike(class_, STUBS), class_, STUBS)
    assert "2.2 Prune one matrix by magnitude" in made
    assert "<mark>    result = W.clone().flatten()</mark>" in made
    assert "<mark># my own work" not in made
    assert "<mark>def magnitude_prune" not in made  # as released
