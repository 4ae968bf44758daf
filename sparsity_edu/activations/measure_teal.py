"""TEAL on SmolLM2: levels that a search chooses, what they cost, and how fast it decodes.

    python -m sparsity_edu.activations.measure_teal

    levels       the greedy search of every block, and the errors of the levels that it finds
    perplexity   by sparsity: uniform and greedy, all tokens and decoding only
    alone        each projection by itself at one sparsity
    speed        decoding, in turns with the dense model

With names behind the command only these parts are measured; `perplexity` needs `levels`. The record is measure_teal.json,
beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsity_edu.activations import allocation, teal
from sparsity_edu.activations.decoding import decoding_perplexity
from sparsity_edu.activations.dense import linear_layers
from sparsity_edu.activations.histogram import Distribution
from sparsity_edu.models import perplexity

RECORD = Path(__file__).with_suffix(".json")
PARTS = ("levels", "perplexity", "alone", "speed")
SPARSITIES = (0.25, 0.4, 0.5, 0.6, 0.7)
ALONE = 0.5
WINDOW, CALIBRATION, SEARCH, VALIDATION = 512, 8, 1, 4  # tokens; windows: of distributions, of the search, of perplexity
STEP = 0.1
SPEED = (0.0, 0.25, 0.4, 0.5, 0.75, 0.9)
PROMPT, LENGTH, ROUNDS = 32, 24, 3  # tokens of the prompt, tokens that are timed, turns


def projection(name: str) -> str:
    """What a layer is, such as "q_proj"."""
    return name.rpartition(".")[2]


def costs(model: nn.Module, thresholds: Mapping[str, float], tokens: Tensor, window: int = WINDOW) -> tuple[float, float]:
    """Perplexity with thresholds: of all tokens, and of those of each window's last half behind a dense first one.

    Args:
        model: a dense decoder; as it was afterwards.
        thresholds: by layer name.
        tokens: ids (tokens,).
        window: tokens per window.

    Returns:
        Both.
    """
    found = []
    for prefill, measure in (("all", perplexity), ("last_half", decoding_perplexity)):
        options = {"progress": False} if measure is perplexity else {}
        with teal.applied(model, dict(thresholds), prefill=prefill):
            found.append(measure(model, tokens, window, **options))
    return found[0], found[1]


def levels_of(searched: Sequence[allocation.BlockLevels], sparsity: float) -> dict[str, float]:
    """Levels by layer name: in each block those nearest to a sparsity that the search has gone through."""
    rows = [allocation.nearest(block.path, sparsity) for block in searched]
    return {name: min(level, 1.0) for row in rows for name, level in row.levels.items()}


@torch.no_grad()
def decoding_seconds(model: nn.Module, prompt: Tensor, length: int = LENGTH) -> float:
    """Seconds of a token, the mean of `length` that are written one by one behind a prompt (1, tokens)."""
    out = model(prompt, use_cache=True)
    began = time.perf_counter()
    for _ in range(length):
        out = model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)
    return (time.perf_counter() - began) / length


def in_turns(
    model: nn.Module,
    distributions: Mapping[str, Distribution],
    prompt: Tensor,
    sparsities: Sequence[float],
    length: int = LENGTH,
    rounds: int = ROUNDS,
    tick=lambda: None,
) -> dict[float | None, float]:
    """Decoding time by sparsity, uniform.

    Args:
        model: a dense decoder.
        distributions: of its layers' inputs.
        prompt: ids (1, tokens).
        sparsities: one or more.
        length: tokens that are timed.
        rounds: each measures all, one after the other.
        tick: called after each measurement.

    Returns:
        The least of the rounds, in seconds of a token; that of the dense model under None.
    """
    best: dict[float | None, float] = {}
    for _ in range(rounds):
        for sparsity in (None, *sparsities):
            if sparsity is None:
                took = decoding_seconds(model, prompt, length)
            else:
                with teal.applied(model, teal.thresholds(distributions, sparsity)):
                    decoding_seconds(model, prompt, 2)  # warms up
                    took = decoding_seconds(model, prompt, length)
            best[sparsity] = min(took, best.get(sparsity, float("inf")))
            tick()
    return best


def _levels(model: nn.Module, calibration: Tensor, distributions: Mapping[str, Distribution]) -> dict:
    searched = allocation.allocate(model, calibration[:SEARCH], distributions, max(SPARSITIES), step=STEP, progress=True)
    rows = []
    for sparsity in SPARSITIES:
        nearest = [allocation.nearest(block.path, sparsity) for block in searched]
        levels = {name: round(level, 4) for name, level in levels_of(searched, sparsity).items()}
        rows.append({"sparsity": sparsity, "greedy_error": [round(row.error, 5) for row in nearest], "levels": levels})
    return {"windows": SEARCH, "tokens": WINDOW, "step": STEP, "results": rows}


def _perplexity(model: nn.Module, validation: Tensor, distributions: Mapping[str, Distribution], chosen: list[dict]) -> dict:
    rows = []
    dense = (perplexity(model, validation, WINDOW, progress=False), decoding_perplexity(model, validation, WINDOW))
    rows.append({"sparsity": 0.0, "levels": "dense", "all": round(dense[0], 3), "decoding": round(dense[1], 3)})
    for row in chosen:
        for name, levels in (("uniform", row["sparsity"]), ("greedy", row["levels"])):
            found = costs(model, teal.thresholds(distributions, levels), validation)
            rows.append(
                {"sparsity": row["sparsity"], "levels": name, "all": round(found[0], 3), "decoding": round(found[1], 3)}
            )
            print(rows[-1], flush=True)
    return {"windows": VALIDATION, "tokens": WINDOW, "results": rows}


def _alone(model: nn.Module, validation: Tensor, distributions: Mapping[str, Distribution]) -> dict:
    kinds = list(dict.fromkeys(map(projection, distributions)))
    rows = []
    for kind in kinds:
        only = {name: ALONE for name in distributions if projection(name) == kind}
        found = costs(model, teal.thresholds(distributions, only), validation)
        rows.append({"projection": kind, "all": round(found[0], 3), "decoding": round(found[1], 3)})
        print(rows[-1], flush=True)
    return {"windows": VALIDATION, "tokens": WINDOW, "sparsity": ALONE, "results": rows}


def _speed(model: nn.Module, prompt: Tensor, distributions: Mapping[str, Distribution]) -> dict:
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        best = in_turns(model.to(dtype), distributions, prompt, SPEED)
        for sparsity, took in best.items():
            rows.append({"dtype": str(dtype).split(".")[1], "sparsity": sparsity, "ms": round(1e3 * took, 2)})
            print(rows[-1], flush=True)
    model.float()
    return {"prompt": PROMPT, "tokens": LENGTH, "rounds": ROUNDS, "threads": torch.get_num_threads(), "results": rows}


def main(parts: Sequence[str], name: str, record: Path) -> None:
    """Measure; each part takes its place in the record."""
    import transformers

    from sparsity_edu.data import python_docs
    from sparsity_edu.models import load, tokens

    model, tokenizer = load(name)
    calibration = tokens(tokenizer, python_docs("calibration"), CALIBRATION * WINDOW).view(-1, WINDOW)
    validation = tokens(tokenizer, python_docs("validation"), VALIDATION * WINDOW)
    distributions = teal.calibrate(model, calibration)
    kept = json.loads(record.read_text())["parts"] if record.exists() else {}
    for part in parts:
        began = time.perf_counter()
        if part == "levels":
            measured = _levels(model, calibration, distributions)
        elif part == "perplexity":
            measured = _perplexity(model, validation, distributions, kept["levels"]["results"])
        elif part == "alone":
            measured = _alone(model, validation, distributions)
        else:
            measured = _speed(model, validation[None, :PROMPT], distributions)
        if record.exists():  # others may have measured other parts meanwhile
            kept = json.loads(record.read_text())["parts"]
        kept[part] = {"seconds": round(time.perf_counter() - began, 1)} | measured
        whole = {
            "command": "python -m sparsity_edu.activations.measure_teal",
            "model": name,
            "layers": len(linear_layers(model)),
            "calibration": {"data": 'python_docs("calibration")', "windows": CALIBRATION, "tokens": WINDOW},
            "validation": 'python_docs("validation")',
            "seed": None,  # nothing is drawn
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "parts": {known: kept[known] for known in PARTS if known in kept},
        }
        record.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--record", type=Path, default=RECORD)
    given = parser.parse_args()
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"part must be one of {', '.join(PARTS)}, got {unknown[0]!r}")
    main(given.parts or PARTS, given.model, given.record)
