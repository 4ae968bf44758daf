"""What structured sparsity saves: time and memory of models cut out of SmolLM2, beside their share of its parameters.

    python benchmarks/structured.py [--model smollm2] [--prompt 512] [--new 32] [--repeats 5]

A small dense model needs no kernel and no format, so its time should follow its parameters. Every model is timed in turns with
the large one, and the ratio is the median over the turns. Values of weights do not matter for time: nothing is trained here.
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch
from rich import box
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn
from tqdm.auto import tqdm

from sparsity_edu.data import python_docs
from sparsity_edu.models import load, tokens
from sparsity_edu.weights import minitron


def shapes(full: minitron.Shape, groups: int) -> dict[str, minitron.Shape]:
    """Each part halved, and all of them cut a little."""
    heads = full.heads // 2 // groups * groups
    return {
        "neurons / 2": replace(full, ffn=full.ffn // 2),
        f"heads {full.heads} -> {heads or groups}": replace(full, heads=heads or groups),
        "channels / 2": replace(full, hidden=full.hidden // 2),
        "blocks / 2": replace(full, layers=full.layers // 2),
        "all but heads * 3/4": replace(full, layers=full.layers * 3 // 4, hidden=full.hidden * 3 // 4, ffn=full.ffn * 3 // 4),
    }


@torch.inference_mode()
def prefill(model: nn.Module, ids: Tensor) -> float:
    """Seconds to read a prompt."""
    start = time.perf_counter()
    model(input_ids=ids, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - start


@torch.inference_mode()
def decode(model: nn.Module, ids: Tensor, count: int) -> float:
    """Seconds per token to write some after a prompt, one by one."""
    out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    start = time.perf_counter()
    for _ in range(count):
        out = model(input_ids=out.logits.argmax(-1), past_key_values=out.past_key_values, use_cache=True)
    return (time.perf_counter() - start) / count


def megabytes(model: nn.Module) -> float:
    """Memory of its parameters."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6


def cache_bytes(model: nn.Module) -> int:
    """Memory of the key-value cache per token."""
    config = model.config
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * next(model.parameters()).element_size()


def main(name: str, prompt: int, new: int, repeats: int) -> None:
    """Print the table."""
    large, tokenizer = load(name)
    ids = tokens(tokenizer, python_docs("validation"), prompt)[None]
    found = minitron.importance(large, ids, progress=False)
    models = {"large": large}
    for title, shape in shapes(minitron.shape_of(large), large.config.num_key_value_heads).items():
        models[title] = minitron.trim(large, shape, found)
    for model in models.values():
        decode(model, ids[:, :8], 2)  # the first run prepares what the others find ready
    times: dict[str, list[tuple[float, float]]] = {title: [] for title in models}
    for _ in tqdm(range(repeats), desc="turns"):
        for title, model in models.items():
            times[title].append((prefill(model, ids), decode(model, ids[:, :16], new)))

    columns = ("parameters", "share", "MB", "cache B", "prefill ms", "of large", "decode ms", "of large")
    table = Table("", *(Column(column, justify="right") for column in columns), box=box.SIMPLE_HEAD)
    size = sum(p.numel() for p in large.parameters())
    for title, model in models.items():
        own = sum(p.numel() for p in model.parameters())
        row = [f"{own / 1e6:.1f} M", f"{own / size:.2f}", f"{megabytes(model):.0f}", f"{cache_bytes(model):,}"]
        for i in range(2):
            ratio = statistics.median(mine[i] / base[i] for mine, base in zip(times[title], times["large"], strict=True))
            row += [f"{1e3 * statistics.median(t[i] for t in times[title]):.1f}", f"{ratio:.2f}"]
        table.add_row(title, *row)
    console = Console(width=100, soft_wrap=True)
    console.print(f"{name}, {torch.get_num_threads()} threads, {next(large.parameters()).dtype}; medians of {repeats} turns")
    console.print(f"cache: bytes per token; prefill: of {prompt} tokens; decode: per token, {new} of them after a prompt of 16")
    console.print(table)
    head = large.get_input_embeddings().weight.numel() / size
    console.print(
        f"embedding and output head are {head:.0%} of the large model's parameters; prefill needs the head for one token only"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a model of the Llama layout (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--new", type=int, default=32, help="tokens to write (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: %(default)s)")
    given = parser.parse_args()
    main(given.model, given.prompt, given.new, given.repeats)
