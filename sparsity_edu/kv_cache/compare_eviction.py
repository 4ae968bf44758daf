"""What forgetting costs: caches that evict, with budgets from 4 to 50 % of a text, on SmolLM2.

    python -m sparsity_edu.kv_cache.compare_eviction [loss | retrieval]

    loss         four texts of 640 tokens: 256 as a prompt, then token by token; the mean loss of the other 384
    retrieval    a line hidden in each of 20 texts of 512 tokens: how often each cache finds it (needle.py)

About eleven minutes of one core. The record is `compare_eviction.json` beside this file; with one name only that part is
measured anew. Texts are few: losses of two caches differ by chance by about one per cent, as `by text` in the record shows.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from sparsity_edu.data import python_docs
from sparsity_edu.kv_cache.full import FullCache
from sparsity_edu.kv_cache.h2o import H2OCache, H2OLayer
from sparsity_edu.kv_cache.needle import ask, needles
from sparsity_edu.kv_cache.policy import PolicyCache
from sparsity_edu.kv_cache.reading import losses
from sparsity_edu.kv_cache.window import WindowCache
from sparsity_edu.models import load, tokens

RECORD = Path(__file__).with_suffix(".json")
TEXTS, LENGTH, PROMPT = 4, 640, 256
LINES, SPAN, SEED, SIDE_BY_SIDE = 20, 512, 0, 5
BUDGETS = (0.04, 0.1, 0.2, 0.5)  # of the text
TENTHS = 10  # of a text, for which it is counted how many tokens are left


class WithoutFirstLayer(H2OLayer):
    """The first token goes first, whatever its score."""

    def worth(self) -> Tensor:
        return super().worth().masked_fill(self.columns_held() == 0, -1.0)


def without_first(budget: int) -> PolicyCache:
    """H2O that evicts the attention sink."""
    return PolicyCache(partial(WithoutFirstLayer, budget, budget - budget // 2, "sum", False, "true"))


POLICIES: dict[str, Callable[[int], PolicyCache]] = {  # by name, of a budget in tokens
    "window": lambda budget: WindowCache(budget, 0),
    "window + 1 sink": lambda budget: WindowCache(budget, 1),
    "window + 4 sinks": lambda budget: WindowCache(budget, 4),
    "H2O": H2OCache,
    "H2O normalised": lambda budget: H2OCache(budget, normalize=True),
    "H2O without the first token": without_first,
}


def read(
    model: nn.Module, texts: Tensor, names: list[str], budgets: tuple[float, ...], prompt: int = PROMPT, progress: bool = True
) -> list[dict]:
    """Read texts through caches of some policies, with some budgets each, and through a full one.

    Args:
        model: a `transformers` decoder, in eval mode.
        texts: token ids (texts, tokens).
        names: of `POLICIES`.
        budgets: shares of the text.
        prompt: tokens that are read at once before.
        progress: show a progress bar.

    Returns:
        Of each cache: its "policy" and "budget" (1 of the full one), its "loss" and that "by text", and "left": of the tokens
        of each tenth of the text, how many are in the cache at the end, the mean over layers and heads; "first": whether the
        first is.
    """
    n = texts.shape[1]
    wanted = [("full", 1.0), *((name, share) for name in names for share in budgets)]
    caches = [FullCache() if name == "full" else POLICIES[name](round(share * n)) for name, share in wanted]
    found = losses(model, texts, caches, prompt, progress)  # (caches, texts, tokens after the prompt)
    rows = []
    for (name, share), cache, loss in zip(wanted, caches, found, strict=True):
        by_text = [round(x, 4) for x in loss.mean(dim=1).tolist()]
        rows.append(
            {"policy": name, "budget": share, "loss": round(loss.mean().item(), 4), "by text": by_text, **_left(cache, n)}
        )
    return rows


def _left(cache: PolicyCache, n: int) -> dict:
    there = torch.stack([_is_held(layer.kept, n).float().mean(dim=(0, 1)) for layer in cache.layers]).mean(dim=0)  # (tokens,)
    tenths = [part.mean().item() for part in there[: n // TENTHS * TENTHS].chunk(TENTHS)]
    return {"left": [round(x, 4) for x in tenths], "first": round(there[0].item(), 4)}


def _is_held(kept: Tensor, n: int) -> Tensor:
    """(batch, heads, n) boolean."""
    return torch.zeros(*kept.shape[:2], n, dtype=torch.bool).scatter_(2, kept.cpu(), True)


def find(
    model: nn.Module, tokenizer, names: list[str], budgets: tuple[float, ...], lines: int, span: int, seed: int
) -> list[dict]:
    """Hide lines in texts and ask for them through caches.

    Args:
        model: a `transformers` decoder, in eval mode.
        tokenizer: its own.
        names: of `POLICIES`.
        budgets: shares of the text.
        lines: texts, with a line each.
        span: tokens of a text.
        seed: of texts and lines.

    Returns:
        Of each cache: its "policy" and "budget" (1 of the full one), and which lines were "found", by text.
    """
    hidden = needles(tokenizer, python_docs("validation"), span, lines, seed=seed)
    wanted = [("full", 1.0), *((name, share) for name in names for share in budgets)]
    found: dict[tuple[str, float], list[bool]] = {key: [] for key in wanted}
    for start in range(0, lines, SIDE_BY_SIDE):
        caches = [FullCache() if name == "full" else POLICIES[name](round(share * span)) for name, share in wanted]
        some = hidden[start : start + SIDE_BY_SIDE]
        for key, right in zip(wanted, ask(model, some, caches), strict=True):
            found[key] += right
    return [{"policy": name, "budget": share, "found": right} for (name, share), right in found.items()]


def windows(tokenizer, count: int, length: int) -> Tensor:
    """(count, length) token ids: parts of the validation text, evenly spread."""
    ids = tokens(tokenizer, python_docs("validation"))
    starts = [i * (len(ids) - length) // max(1, count - 1) for i in range(count)]
    return torch.stack([ids[start : start + length] for start in starts])


def _loss(model: nn.Module, tokenizer) -> dict:
    rows = read(model, windows(tokenizer, TEXTS, LENGTH), list(POLICIES), BUDGETS)
    return {"texts": TEXTS, "tokens": LENGTH, "prompt": PROMPT, "caches": rows}


def _retrieval(model: nn.Module, tokenizer) -> dict:
    names = ["window + 4 sinks", "H2O", "H2O normalised"]
    rows = find(model, tokenizer, names, BUDGETS[1:], LINES, SPAN, SEED)
    return {"texts": LINES, "tokens": SPAN, "seed": SEED, "caches": rows}


PARTS = {"loss": _loss, "retrieval": _retrieval}


def main(names: list[str]) -> None:
    """Measure some parts; the record is written anew after each."""
    torch.set_num_threads(1)
    model, tokenizer = load("smollm2")
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name in names:
        began = time.process_time()
        part = PARTS[name](model, tokenizer)
        record |= {
            "command": "python -m sparsity_edu.kv_cache.compare_eviction",
            "model": "smollm2",
            "data": "sparsity_edu.data.python_docs('validation')",
            "threads": 1,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            name: part | {"seconds": round(time.process_time() - began, 1)},
        }
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"one of {', '.join(PARTS)} (default: all)")
    given = parser.parse_args()
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"part must be one of {', '.join(PARTS)}, got {unknown[0]!r}")
    main(given.parts or list(PARTS))
