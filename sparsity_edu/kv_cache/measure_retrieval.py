"""Eviction against selection on SmolLM2: a line that is asked for at the end, and plain continuation, by budget.

    python -m sparsity_edu.kv_cache.measure_retrieval

Both kinds of measurement have the same form. The text is read in one step, then each cache forgets what it forgets, and the
rest comes token by token. In `retrieval` it is a question (see `needle.py`), in `continuation` more of the text. All caches
have the same budget: tokens that a head holds, or reads. The record is measure_retrieval.json, beside this file.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsity_edu.kv_cache.full import FullCache
from sparsity_edu.kv_cache.h2o import H2OCache
from sparsity_edu.kv_cache.needle import Needle, Retrieval, ask, needles, read_once
from sparsity_edu.kv_cache.policy import PolicyCache, attending
from sparsity_edu.kv_cache.quest import QuestCache
from sparsity_edu.kv_cache.window import WindowCache

RECORD = Path(__file__).with_suffix(".json")
CACHES: dict[str, Callable[[int], PolicyCache]] = {
    "full": lambda budget: FullCache(),
    "window": lambda budget: WindowCache(budget, 4),
    "H2O": H2OCache,
    "Quest": QuestCache,
}
SHARES = (0.05, 0.1, 0.2, 0.5)  # of a text
OF_H2O = {1024: (0.2, 0.5)}  # in retrieval: a prompt's attention is worked out anew for each, which takes long
TOGETHER = 2**13  # tokens that are read side by side
PARTS = ("1024:10", "continuation")  # tokens and texts of retrieval
WINDOWS, WINDOW, TAIL = 4, 1024, 64  # of continuation: texts, their tokens, those that come one by one


def settings(length: int, of_h2o: Sequence[float] = SHARES) -> list[tuple[str, int]]:
    """All caches and their budgets, in tokens; "full" comes first, and once.

    Args:
        length: of the text.
        of_h2o: shares of the length that H2O gets; others get `SHARES`.

    Returns:
        Pairs of a name of `CACHES` and a budget.
    """
    shares = {name: {"full": (1.0,), "H2O": of_h2o}.get(name, SHARES) for name in CACHES}
    return [(name, round(share * length)) for name in CACHES for share in shares[name]]


def retrieval(
    model: nn.Module,
    hidden: Sequence[Needle],
    length: int,
    chosen: Sequence[tuple[str, int]],
    caches: Mapping[str, Callable[[int], PolicyCache]] = CACHES,
    tick: Callable[[int], object] = lambda answers: None,
) -> list[Retrieval]:
    """How often each cache finds a line.

    Args:
        model: a `transformers` decoder, in eval mode.
        hidden: texts with a line, all of the same length.
        length: of a text with its question, in tokens.
        chosen: names of `caches`, each with a budget; the first one reads everything.
        caches: how an empty cache is made, for a budget.
        tick: called with a number of answers.

    Returns:
        One result for each of `chosen`.
    """
    found, read = dict.fromkeys(chosen, 0), dict.fromkeys(chosen, 0)
    size = max(1, TOGETHER // length)
    for start in range(0, len(hidden), size):
        some = hidden[start : start + size]
        empty = [caches[name](budget) for name, budget in chosen]
        for setting, cache, right in zip(chosen, empty, ask(model, some, empty), strict=True):
            found[setting] += sum(right)
            read[setting] += cache.bytes_read
            tick(len(some))
    return [Retrieval(length, *key, found[key], len(hidden), read[key] / read[chosen[0]]) for key in chosen]


@torch.no_grad()
def continuation(
    model: nn.Module,
    windows: Tensor,
    chosen: Sequence[tuple[str, int]],
    caches: Mapping[str, Callable[[int], PolicyCache]] = CACHES,
    tail: int = TAIL,
    tick: Callable[[int], object] = lambda answers: None,
) -> dict[tuple[str, int], float]:
    """Perplexity of the last tokens of texts, which come one by one behind the rest.

    Args:
        model: a `transformers` decoder, in eval mode.
        windows: token ids (texts, tokens).
        chosen: names of `caches`, each with a budget.
        caches: how an empty cache is made, for a budget.
        tail: tokens that come one by one.
        tick: called with the number of texts, for each cache.

    Returns:
        Of each of `chosen` the perplexity; the first of the last tokens is not predicted, but fed.
    """
    empty = [caches[name](budget) for name, budget in chosen]
    read_once(model, windows[:, :-tail], empty)
    windows = windows.to(model.device)
    out = {}
    for setting, cache in zip(chosen, empty, strict=True):
        losses = []
        with attending(model):
            for i in range(windows.shape[1] - tail, windows.shape[1] - 1):
                logits = model(windows[:, i : i + 1], past_key_values=cache, use_cache=True).logits[:, -1].float()
                losses.append(F.cross_entropy(logits, windows[:, i + 1]).item())
        out[setting] = math.exp(sum(losses) / len(losses))
        tick(len(windows))
    return out


def main(parts: Sequence[str], seed: int) -> None:
    """Measure; each part takes its place in the record."""
    import transformers
    from tqdm.auto import tqdm

    from sparsity_edu.data import python_docs
    from sparsity_edu.models import load, tokens

    torch.set_num_threads(1)
    model, tokenizer = load("smollm2")
    text = python_docs("validation")
    for part in parts:
        began = time.process_time()
        with tqdm(desc=part, unit="answer", mininterval=5) as bar:
            if part == "continuation":
                ids = tokens(tokenizer, text, WINDOWS * WINDOW).view(WINDOWS, WINDOW)
                found = continuation(model, ids, settings(WINDOW), tick=bar.update)
                rows = [{"cache": name, "budget": b, "perplexity": round(value, 3)} for (name, b), value in found.items()]
                measured = {"texts": WINDOWS, "tokens": WINDOW, "tail": TAIL}
            else:
                length, count = map(int, part.split(":"))
                hidden = needles(tokenizer, text, length, count, seed=seed)
                results = retrieval(model, hidden, length, settings(length, OF_H2O[length]), tick=bar.update)
                rows = [asdict(result) | {"read": round(result.read, 4)} for result in results]
                measured = {"texts": count, "tokens": length}
        kept = json.loads(RECORD.read_text())["parts"] if RECORD.exists() else {}
        kept[part] = measured | {"seconds": round(time.process_time() - began, 1), "results": rows}
        record = {
            "command": f"python -m sparsity_edu.kv_cache.measure_retrieval --seed {seed}",
            "model": "SmolLM2-135M-Instruct, float32",
            "data": 'sparsity_edu.data.python_docs("validation")',
            "seed": seed,
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "parts": {known: kept[known] for known in PARTS if known in kept},
        }
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"one of {', '.join(PARTS)}, tokens:texts (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of texts, lines and numbers (default: %(default)s)")
    given = parser.parse_args()
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"part must be one of {', '.join(PARTS)}, got {unknown[0]!r}")
    main(given.parts or PARTS, given.seed)
