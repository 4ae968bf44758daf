"""What Deja Vu's predictors know of tiny-relu, and what it costs: `python -m sparsity_edu.activations.deja_vu_record`.

Predictors of neurons are trained for three conventions of lookahead, and for several ranks by one of them. The model then reads
a text with the k best neurons of each block and token: by these predictors, by the largest true activations (oracle), by the
largest mean activations on the training text (static), and by chance. Heads are left out as well, with and without neurons.

The record is `deja_vu_record.json` beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sparsity_edu.activations import dejavu
from sparsity_edu.activations.execution import masked
from sparsity_edu.activations.labels import chosen
from sparsity_edu.data import python_docs
from sparsity_edu.models import load, perplexity, tokens

RECORD = Path(__file__).with_suffix(".json")
NAME, WINDOW = "tiny-relu", 512
TRAINING, VALIDATION = 32, 8  # windows
RANKS, RANK = (4, 8, 16, 32, 64, 128), 64
KEPT = (384, 288, 192, 144, 96, 72, 58, 48, 38, 29, 19, 10)  # of 384 neurons
EPOCHS, BATCH, RATE = 8, 256, 1e-2
HEADS = 0.5  # the share that counts as needed


def windows(tokenizer, split: str, count: int) -> Tensor:
    """(count, WINDOW) token ids of the Python docs."""
    return tokens(tokenizer, python_docs(split))[: count * WINDOW].view(count, WINDOW)


def products(block: nn.Module, states: Tensor) -> Tensor:
    """What a block's down projection reads, (..., neurons), of what reaches its MLP before the norm (..., hidden)."""
    x = block.post_attention_layernorm(states)
    return block.mlp.act_fn(block.mlp.gate_proj(x)) * block.mlp.up_proj(x)


def largest(model: nn.Module, k: int) -> dejavu.Selectors:
    """The k neurons that are largest for the down projection, which no predictor could choose better; lookahead "training"."""

    @torch.no_grad()
    def choose(block: nn.Module, states: Tensor) -> Tensor:
        return chosen(products(block, states).abs(), k)

    return {("neurons", layer): partial(choose, block) for layer, block in enumerate(dejavu.blocks_of(model))}


@torch.no_grad()
def energy(model: nn.Module, ids: Tensor) -> list[Tensor]:
    """The mean square of what each block's down projection reads, (neurons,), over a text (windows, tokens)."""
    blocks, sums = dejavu.blocks_of(model), {}

    def add(layer: int, module: nn.Module, args: tuple) -> None:
        sums[layer] = sums.get(layer, 0) + args[0].square().sum(dim=(0, 1))

    handles = [block.mlp.down_proj.register_forward_pre_hook(partial(add, layer)) for layer, block in enumerate(blocks)]
    try:
        for window in ids:
            model(input_ids=window[None])
    finally:
        for handle in handles:
            handle.remove()
    return [sums[layer] / ids.numel() for layer in range(len(blocks))]


def static(means: list[Tensor], k: int) -> dejavu.Selectors:
    """The k neurons that are largest on average, for every token."""
    return dejavu.static({("neurons", layer): chosen(mean, k) for layer, mean in enumerate(means)})


def by_chance(model: nn.Module, k: int, seed: int = 0) -> dejavu.Selectors:
    """k neurons of each token and block, drawn."""
    generator, neurons = torch.Generator().manual_seed(seed), model.config.intermediate_size

    def draw(states: Tensor) -> Tensor:
        return chosen(torch.rand(*states.shape[:-1], neurons, generator=generator), k)

    return {("neurons", layer): draw for layer in range(model.config.num_hidden_layers)}


def curve(
    model: nn.Module, ids: Tensor, make: Callable[[int], Mapping], lookahead: str, kept: tuple[int, ...], tick=lambda: None
) -> list[dict]:
    """Perplexity on a text (tokens,) for each k, and the shares of neurons and heads that were used."""
    points = []
    for k in kept:
        with masked(model, make(k), lookahead) as used:
            value = perplexity(model, ids, WINDOW, progress=False)
        point = {"k": k, "perplexity": round(value, 3), "neurons": round(used.share("neurons"), 4)}
        points.append(point | {"heads": round(used.share("heads"), 4)})
        tick()
    return points


def recalls(model: nn.Module, predictors: dejavu.Predictors, ids: Tensor, k: int) -> list[float]:
    """Of the neurons that a text (windows, tokens) needs, the share among the k predicted, by block."""
    found = dejavu.measure(model, predictors.selectors(neurons=k), ids, predictors.lookahead, progress=False)
    return [round(quality.recall, 4) for quality in found.values()]


def main(epochs: int = EPOCHS, training: int = TRAINING, validation: int = VALIDATION, path: Path = RECORD) -> dict:
    """Train, measure, and write the record."""
    torch.set_num_threads(1)
    began, cpu = time.monotonic(), time.process_time()
    model, tokenizer = load(NAME)
    learn, held_out = windows(tokenizer, "train", training), windows(tokenizer, "validation", validation)
    fit = partial(dejavu.fit, model, learn, heads=HEADS, epochs=epochs, batch=BATCH, rate=RATE, select="loss", progress=False)
    record = {
        "command": f"python -m {__spec__.name} --epochs {epochs} --training {training} --validation {validation}",
        "model": NAME,
        "data": "sparsity_edu.data.python_docs",
        "window": WINDOW,
        "settings": {"rank": RANK, "epochs": epochs, "batch": BATCH, "rate": RATE, "heads": HEADS, "seed": 0, "threads": 1},
        "dense": round(perplexity(model, held_out.flatten(), WINDOW, progress=False), 3),
        "ranks": {},
        "neurons": {},
        "heads": {},
        "both": {},
    }
    trained = {}
    with tqdm(total=len(RANKS) + len(dejavu.LOOKAHEAD) + 6, desc="record", unit="part") as bar:
        for lookahead in dejavu.LOOKAHEAD:
            kinds = dejavu.KINDS if lookahead == "accuracy" else ("neurons",)
            trained[lookahead], curves = fit(lookahead, rank=RANK, kinds=kinds)
            neurons = [points[-1]._asdict() for (kind, _), points in curves.items() if kind == "neurons"]
            of = trained[lookahead]
            record["neurons"][lookahead] = {
                "recall": {k: recalls(model, of, held_out, k) for k in KEPT[3:]},
                "at_half": {
                    part: round(sum(p[part] for p in neurons) / len(neurons), 4) for part in ("recall", "precision", "sparsity")
                },
                "curve": curve(model, held_out.flatten(), lambda k, of=of: of.selectors(neurons=k), lookahead, KEPT),
            }
            bar.update()
        for rank in RANKS:
            of = trained["accuracy"] if rank == RANK else fit("accuracy", rank=rank, kinds=("neurons",))[0]
            record["ranks"][rank] = {
                "recall": {k: recalls(model, of, held_out, k) for k in (96, 38)},
                "curve": curve(model, held_out.flatten(), lambda k, of=of: of.selectors(neurons=k), "accuracy", (96, 38)),
            }
            bar.update()
        means, text = energy(model, learn), held_out.flatten()
        record["neurons"]["oracle"] = {"curve": curve(model, text, partial(largest, model), "training", KEPT)}
        bar.update()
        record["neurons"]["static"] = {"curve": curve(model, text, partial(static, means), "training", KEPT)}
        bar.update()
        record["neurons"]["chance"] = {"curve": curve(model, text, partial(by_chance, model), "training", KEPT)}
        bar.update()
        of = trained["accuracy"]
        record["heads"]["accuracy"] = {"curve": curve(model, text, lambda k: of.selectors(heads=k), "accuracy", (3, 2, 1))}
        bar.update()
        for heads in (3, 2):
            made = curve(model, text, lambda k, heads=heads: of.selectors(heads=heads, neurons=k), "accuracy", KEPT[1:])
            record["both"][heads] = {"curve": made}
            bar.update()
    record |= {"seconds": round(time.monotonic() - began), "cpu_seconds": round(time.process_time() - cpu)}
    record |= {"python": platform.python_version(), "torch": torch.__version__}
    path.write_text(json.dumps(record) + "\n")
    return record


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="for each predictor")
    parser.add_argument("--training", type=int, default=TRAINING, help="windows to learn from")
    parser.add_argument("--validation", type=int, default=VALIDATION, help="windows to measure with")
    main(**vars(parser.parse_args()))
