"""Retrieval: does a model still find a line that it has read, when it is asked at the end of a long text?

    ... text ...
    register tiger = 73012
    ... text ...
    register tiger =            and now it should write 73012

This is the form that small models can do: a copy, begun in the words of the line itself. A passkey that is asked for in a
sentence is beyond them in texts of a few hundred tokens, whatever the cache.

The text is read first, in one step, and the cache forgets; then the question comes token by token. A cache that evicts has
chosen before it knows what will be asked, one that selects chooses with the question at hand. (Were the question part of the
prompt, all would see everything once more.) The line is found if the model would write each token of the number.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparsity_edu import plots
from sparsity_edu.kv_cache.policy import PolicyCache, attending
from sparsity_edu.kv_cache.together import of_one_prompt
from sparsity_edu.models import tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORDS = ("tiger", "river", "candle", "violin", "meadow", "copper", "lantern", "falcon", "harbor", "pepper", "saddle", "anchor")
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Needle:
    """A text with a line hidden in it, int64 token ids."""

    context: Tensor  # (tokens,)
    question: Tensor  # (q,)
    answer: Tensor  # (a,)


@dataclass(frozen=True)
class Retrieval:
    """How often a cache has found the line."""

    length: int  # tokens of text and question
    cache: str
    budget: int  # tokens
    found: int
    trials: int
    read: float  # bytes that the last token read, as a share of all keys and values

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share lies, with a confidence of 95 %."""
        return interval(self.found, self.trials)


def needles(tokenizer, text: str, length: int, count: int, depths: Sequence[float] = DEPTHS, seed: int = 0) -> list[Needle]:
    """Hide lines in parts of a text.

    Args:
        tokenizer: a Hugging Face tokenizer.
        text: to hide them in; each needle gets a part of its own, from anywhere.
        length: tokens of a part with its line and the question.
        count: needles.
        depths: where the lines stand, as shares of the part, in turn.
        seed: of parts, words and numbers.

    Returns:
        The needles; their contexts are equally long, and so are their questions.

    Raises:
        ValueError: the length leaves no room, or exceeds the text, or the tokenizer joins a question with its answer.
    """
    g = torch.Generator().manual_seed(seed)
    draw = lambda high: int(torch.randint(high, (), generator=g))  # noqa: E731
    filler = tokens(tokenizer, text)
    questions = {word: tokens(tokenizer, f"\nregister {word} =") for word in WORDS}
    usual = sorted(map(len, questions.values()))[len(WORDS) // 2]
    words = [word for word, question in questions.items() if len(question) == usual]
    made = []
    for i in range(count):
        word = words[draw(len(words))]
        number = "".join(str(draw(10)) for _ in range(5))
        question, line = questions[word], tokens(tokenizer, f"\nregister {word} = {number}\n")
        whole = tokens(tokenizer, f"\nregister {word} = {number}")
        if not torch.equal(whole[:usual], question) or len(whole) == usual:
            raise ValueError(f"tokenizer must keep a question and its answer apart, got {whole.tolist()}")
        room = length - len(line) - usual
        if not 0 < room <= len(filler):
            raise ValueError(f"length must be from {len(line) + usual + 1} to {len(filler) + len(line) + usual}, got {length}")
        start, at = draw(len(filler) - room + 1), round(depths[i % len(depths)] * room)
        part = filler[start : start + room]
        made.append(Needle(torch.cat([part[:at], line, part[at:]]), question, whole[usual:]))
    return made


@torch.no_grad()
def ask(model: nn.Module, needles: Sequence[Needle], caches: Sequence[PolicyCache]) -> Iterator[list[bool]]:
    """Let a model read texts once, for several caches, and ask for the lines with each.

    Args:
        model: a `transformers` decoder, in eval mode.
        needles: of one call of the function of that name; they are read side by side.
        caches: empty ones. They hold the texts afterwards.

    Yields:
        Of each cache, whether each line was found.
    """
    read_once(model, torch.stack([needle.context for needle in needles]), caches)
    for cache in caches:
        yield _answers(model, needles, cache)


@torch.no_grad()
def read_once(model: nn.Module, texts: Tensor, caches: Sequence[PolicyCache]) -> None:
    """Let a model read texts in one step, for several caches; each keeps what it keeps of a prompt.

    Args:
        model: a `transformers` decoder, in eval mode.
        texts: token ids (batch, tokens).
        caches: empty ones. They hold the texts afterwards.
    """
    with attending(model):
        model(texts.to(model.device), past_key_values=of_one_prompt(caches), use_cache=True, logits_to_keep=1)


@torch.no_grad()
def _answers(model: nn.Module, needles: Sequence[Needle], cache: PolicyCache) -> list[bool]:
    """The question and the true answer, token by token, up to the first that would not have been written."""
    device, q = model.device, len(needles[0].question)
    most = max(len(needle.answer) for needle in needles)
    spare = torch.zeros(most, dtype=torch.int64)  # fed where a number has fewer tokens, and not looked at
    rows = (torch.cat([x.question, x.answer, spare[len(x.answer) :]]) for x in needles)
    fed, lengths = torch.stack(list(rows)).to(device), torch.tensor([q + len(x.answer) for x in needles], device=device)
    found = torch.ones(len(needles), dtype=torch.bool, device=device)
    with attending(model):
        for i in range(1, q + most):
            likeliest = model(fed[:, i - 1 : i], past_key_values=cache, use_cache=True).logits[:, -1].argmax(dim=-1)
            if i >= q:
                found &= (likeliest == fed[:, i]) | (i >= lengths)
                if not found.any():
                    break
    return found.tolist()


def interval(found: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Where a share lies of which some trials are known.

    Args:
        found: trials that succeeded.
        trials: at least 1.
        z: standard deviations; 1.96 for a confidence of 95 %.

    Returns:
        The lowest and the highest share.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference"; true also for 0 and all.
    """
    p, n = found / trials, trials
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return tuple(min(1.0, max(0.0, (middle + sign * half) / (1 + z**2 / n))) for sign in (-1, 1))


def draw(results: Iterable[Retrieval], title: str = "") -> "Figure":
    """Retrieval against budget: a panel per length, a line per cache, intervals of 95 %; "full" is a level.

    Args:
        results: in any order.
        title: of the figure.

    Returns:
        The figure.
    """
    import matplotlib.pyplot as plt

    results = list(results)
    lengths = sorted({result.length for result in results})
    names = list(dict.fromkeys(result.cache for result in results if result.cache != "full"))
    size = (1.2 + 3.4 * len(lengths), 3.8)
    figure, axes = plt.subplots(1, len(lengths), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for ax, length in zip(axes.flat, lengths, strict=True):
        for full in (r for r in results if (r.length, r.cache) == (length, "full")):
            ax.axhline(full.found / full.trials, color=plots.GREY, ls=":", label="full")
            ax.axhspan(*full.interval, color=plots.GREY, alpha=0.12, lw=0)
        for i, name in enumerate(names):
            mine = sorted((r for r in results if (r.length, r.cache) == (length, name)), key=lambda r: r.budget)
            if not mine:
                continue
            shares = [r.found / r.trials for r in mine]
            beside = 1.04 ** (i - (len(names) - 1) / 2)  # or intervals would cover one another
            errors = [[s - r.interval[0] for s, r in zip(shares, mine, strict=True)],
                      [r.interval[1] - s for s, r in zip(shares, mine, strict=True)]]  # fmt: skip
            x = [100 * r.budget / length * beside for r in mine]
            color = plots.COLORS[i % len(plots.COLORS)]
            ax.errorbar(x, shares, errors, marker="o", ms=4, lw=1.5, elinewidth=0.8, capsize=2, color=color, label=name)
        ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="budget (% of the text)", title=f"{length} tokens")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "25" else "")
    axes[0, 0].set_ylabel("lines found")
    axes[0, -1].legend(loc="best")
    figure.suptitle(title, fontsize="medium")
    return figure
