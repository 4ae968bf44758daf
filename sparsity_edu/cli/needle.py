"""`sparsity-edu needle`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsity_edu.cli.caches import LEAST, Dtype, DtypeOption, need_attention, new_cache
from sparsity_edu.cli.compare import ENDINGS
from sparsity_edu.cli.errors import Refused, at_least, named, need_file, writing
from sparsity_edu.cli.options import Model, list_of
from sparsity_edu.cli.show import Rows, fact, where_from

if TYPE_CHECKING:
    from torch import nn

    from sparsity_edu.kv_cache.needle import Needle, Retrieval

TOGETHER = 2**13  # tokens that are read side by side


def needle(
    model: Model,
    lengths: Annotated[str, typer.Option(help="Tokens of the texts, with commas between them.")] = "512,1024",
    budgets: Annotated[str, typer.Option(help="Tokens, or shares of the text such as 5%, with commas.")] = "5%,10%,20%,50%",
    cache: Annotated[str, typer.Option(help=f"Of {', '.join(LEAST)}, with commas; full is always there.")] = ",".join(LEAST),
    out: Annotated[Path, typer.Option(help="The figure.")] = Path("needle.png"),
    trials: Annotated[int, typer.Option(help="Texts of each length; every cache reads the same ones.")] = 10,
    seed: Annotated[int, typer.Option(help="Of texts, lines, and numbers.")] = 0,
    dtype: DtypeOption = Dtype.float32,
) -> None:
    """Hide a line in long texts and ask for it: how often caches of few tokens find it, by their budget.

    The line is `register tiger = 73012`, with another word and number in each text, and the text ends with `register tiger =`:
    it is to be copied. The question comes token by token once the text has been read and the cache has forgotten.
    """
    sizes = list_of("--lengths", lengths, _length, "512,1024")
    names = list_of("--cache", cache, _name, "h2o,quest")
    shares = list_of("--budgets", budgets, _budget, "5%,10% or 64,128")
    for length in sizes:
        for name in names:
            for text in shares:
                if (tokens := _tokens(text, length)) < LEAST[name]:
                    raise Refused(f"--budgets must be of at least {LEAST[name]} tokens for {name}, got {text} of {length}")
                if tokens > length:
                    raise Refused(f"--budgets must be at most the {length} tokens of a text, got {text}")
    at_least(1, trials=trials)
    at_least(0, seed=seed)
    need_file(out, ENDINGS)
    import torch
    from tqdm import tqdm

    from sparsity_edu import models
    from sparsity_edu.data import python_docs
    from sparsity_edu.kv_cache.needle import draw, needles
    from sparsity_edu.models.positions import check_length
    from sparsity_edu.plots import style

    with named("MODEL", "name"):
        language_model, tokenizer = models.load(model, dtype=getattr(torch, dtype))
    need_attention(language_model)
    hidden = {}
    for length in sizes:
        with named("--lengths", "length"):
            hidden[length] = needles(tokenizer, python_docs("validation"), length, trials, seed=seed)
            check_length(language_model, length + max(len(one.answer) for one in hidden[length]), "length")
    table = Rows(f"{model}, {dtype}", length=6, cache=8, budget=8, found=8, interval_95=13, read=7)
    results = []
    with tqdm(total=len(sizes) * trials * (1 + len(names) * len(shares)), desc="needle", unit="answer", leave=False) as bar:
        for length in sizes:
            settings = [("full", length), *((name, _tokens(text, length)) for name in names for text in shares)]
            for result in _measure(language_model, hidden[length], length, settings, bar.update):
                name, budget, (low, high) = result.cache, result.budget, result.interval
                found = f"{result.found} of {trials}"
                table.add(f"{length}", name, f"{budget}", found, f"{low:.2f} - {high:.2f}", f"{result.read:.1%}")
                results.append(result)
    fact("found", "the model would have written the whole number")
    fact("interval", "of the true share, Wilson's, with a confidence of 95 %")
    fact("read", "by the last token, of all keys and values; quest: by each query head")
    fact("texts", f"parts of python_docs('validation'), seed {seed}")
    where_from(model)
    style()
    figure = draw(results, f"{model}: a line to be copied, {trials} texts of each length")
    with writing(out):
        figure.savefig(out, dpi=150)
    fact("figure", str(out))


def _measure(
    model: nn.Module, hidden: list[Needle], length: int, settings: list[tuple[str, int]], done: Callable
) -> Iterator[Retrieval]:
    """Texts by the batch, each with all caches; `done` is told how many answers there are. The last batch gives the results."""
    from sparsity_edu.kv_cache.needle import Retrieval, ask

    found, read, everything = Counter(), Counter(), 0
    size = max(1, TOGETHER // length)
    for start in range(0, len(hidden), size):
        some = hidden[start : start + size]
        caches = [new_cache(*setting) for setting in settings]
        for setting, cache, right in zip(settings, caches, ask(model, some, caches), strict=True):
            everything += setting == settings[0] and _all_bytes(model, cache, len(some))
            found[setting] += sum(right)
            read[setting] += cache.bytes_read
            done(len(some))
            if start + size >= len(hidden):
                yield Retrieval(length, *setting, found[setting], len(hidden), read[setting] / everything)


def _all_bytes(model: nn.Module, cache, batch: int) -> int:
    """Of the keys and values of all tokens so far."""
    from sparsity_edu.kv_cache.sizes import attention_of

    attention = attention_of(model.config)
    return batch * cache.get_seq_length() * attention.bytes_per_token(model.dtype.itemsize)


def _length(option: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise Refused(f"{option} must be numbers of tokens with commas between them, got {text!r}")
    return int(text)


def _name(option: str, text: str) -> str:
    if text not in LEAST:
        raise Refused(f"{option} must be {', '.join(LEAST)} with commas between them, got {text!r}")
    return text


def _budget(option: str, text: str) -> str:
    match = re.fullmatch(r"\d+|(\d+(?:\.\d+)?)%", text, re.ASCII)
    if not match or not float(text.removesuffix("%")) or (match[1] and float(match[1]) > 100):
        raise Refused(f"{option} must be tokens, or shares from 0% to 100%, with commas between them, got {text!r}")
    return text


def _tokens(budget: str, length: int) -> int:
    return round(float(budget[:-1]) / 100 * length) if budget.endswith("%") else int(budget)
