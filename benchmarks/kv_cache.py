"""A step of decoding with all read, with pages (Quest), and with little held (H2O); and a model that writes behind 8k tokens.

    python benchmarks/kv_cache.py [steps] [model] [--device cuda] [--out benchmarks/results]

Times mean something only where nothing else runs. For results/kv_cache_cpu.txt, on two cores, both parts in both dtypes:

    OMP_NUM_THREADS=2 python benchmarks/kv_cache.py --device cpu

A step is one token through one layer of the size of Llama-2-7B's: its key and value are taken in, pages are chosen, and it
attends. Ways take turns; the fastest of several rounds counts. What reads all is the faster of torch's
`scaled_dot_product_attention` and of two matrix products. Quest's paper has 7.03 times as fast for 32k tokens and the same
budget (RTX 4090, float16, against FlashInfer).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import DynamicCache

from sparsity_edu.data import python_docs
from sparsity_edu.kv_cache import ATTENTION, FullCache, H2OCache, QuestCache, WindowCache
from sparsity_edu.kv_cache.policy import PolicyLayer, dense_attention
from sparsity_edu.kv_cache.together import of_one_prompt
from sparsity_edu.models import load, tokens

HEADS, DIM, BUDGET = 32, 128, 2048
LENGTHS = (4096, 16384, 32768, 65536)
DTYPES = (torch.float32, torch.bfloat16)
PARTS = ("steps", "model")


class Attention(nn.Module):
    """What a cache needs to know of a model's layer."""

    num_key_value_groups, is_causal, layer_idx = 1, True, 9


def best(ways: dict[str, Callable[[], object]], device: str, rounds: int = 12) -> dict[str, float]:
    """Of each way the fastest call, in seconds. They take turns, so that a busy moment does not fall on one alone."""
    fastest = dict.fromkeys(ways, float("inf"))
    for turn in range(rounds + 1):
        for name, call in ways.items():
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first is a rehearsal
                fastest[name] = min(fastest[name], time.perf_counter() - start)
    return fastest


def step(layer: PolicyLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One token through a layer of a cache."""
    keys, values = layer.update(k, v)
    return layer.attend(Attention(), q, keys, values, None, scaling=DIM**-0.5, dropout=0.0)


def steps(dtype: torch.dtype, device: str) -> Table:
    """Milliseconds of a step, by tokens."""
    q, k, v = (torch.randn(1, HEADS, 1, DIM, dtype=dtype, device=device) for _ in range(3))
    h2o = H2OCache(BUDGET).layer_class_to_replicate()
    few = [torch.randn(1, HEADS, BUDGET, DIM, dtype=dtype, device=device) for _ in range(3)]
    step(h2o, *few)
    kind = str(dtype).removeprefix("torch.")
    how = "kernels" if device == "cuda" else "compiled loops"
    title = f"{HEADS} heads of {DIM}, budget {BUDGET}, {kind}, pages read by {how}: ms, and times as fast as the faster full"
    rows = table(title, "tokens", "sdpa", "products", "Quest", "", "bytes", "H2O", "")
    for length in tqdm(LENGTHS, desc=kind, leave=False):
        quest = QuestCache(BUDGET).layer_class_to_replicate()
        quest.update(*(torch.randn(1, HEADS, length - 1, DIM, dtype=dtype, device=device) for _ in range(2)))

        def paged(quest=quest) -> None:
            step(quest, q, k, v)
            quest.crop(-1)

        def sdpa(quest=quest, length=length) -> Tensor:
            keys, values = quest.keys[:, :, :length], quest.values[:, :, :length]
            return dense_attention(Attention(), q, keys, values, None, scaling=DIM**-0.5)

        def products(quest=quest, length=length) -> Tensor:
            keys, values = quest.keys[:, :, :length], quest.values[:, :, :length]
            return (q @ keys.mT * DIM**-0.5).float().softmax(dim=-1).to(dtype) @ values

        took = best({"sdpa": sdpa, "products": products, "Quest": paged, "H2O": lambda: step(h2o, q, k, v)}, device)
        full = min(took["sdpa"], took["products"])
        read = quest.bytes_read / (2 * HEADS * length * DIM * dtype.itemsize)
        ms = {name: f"{1e3 * seconds:.2f}" for name, seconds in took.items()}
        ratios = (f"{full / took[name]:.1f}" for name in ("Quest", "H2O"))
        rows.add_row(
            f"{length}", ms["sdpa"], ms["products"], ms["Quest"], next(ratios), f"1/{1 / read:.1f}", ms["H2O"], next(ratios)
        )
    return rows


@torch.inference_mode()
def writing(dtype: torch.dtype, device: str, length: int = 8000, count: int = 12, rounds: int = 3) -> Table:
    """Tokens per second of SmolLM2 behind a long text, and what its cache holds and reads."""
    model, tokenizer = load("smollm2", dtype=dtype, device=device)
    model.set_attn_implementation(ATTENTION)
    prompt = tokens(tokenizer, python_docs("validation"), length)[None].to(device)
    caches = {
        "transformers' own": DynamicCache(config=model.config),
        "full": FullCache(),
        f"Quest {BUDGET}": QuestCache(BUDGET),
        f"Quest {BUDGET}, by group": QuestCache(BUDGET, group="sum"),
        f"H2O {BUDGET}": H2OCache(BUDGET),
        f"window {BUDGET}": WindowCache(BUDGET),
    }
    own, *others = caches.values()
    for cache in tqdm((own, of_one_prompt(others)), desc="prompt", leave=False):
        token = model(prompt, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)
    last = dict.fromkeys(caches, token)  # of the same prompt, read in full
    times: dict[str, list[float]] = {name: [] for name in caches}
    for _ in tqdm(range(rounds), desc="turns", leave=False):
        for name, cache in caches.items():
            start = time.perf_counter()
            for _ in range(count):
                last[name] = model(last[name], past_key_values=cache).logits.argmax(-1)
                last[name].item()
            times[name].append((time.perf_counter() - start) / count)
    kind = str(dtype).removeprefix("torch.")
    rows = table(f"SmolLM2 behind {length} tokens, {kind}", "", "tokens per second", "times as fast", "MB held", "MB read")
    for name, cache in caches.items():
        ratio = statistics.median(base / own for base, own in zip(times["transformers' own"], times[name], strict=True))
        own = isinstance(cache, DynamicCache)
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) if own else cache.bytes_held
        read = held if own else cache.bytes_read
        rows.add_row(name, f"{1 / min(times[name]):.1f}", f"{ratio:.2f}", f"{held / 1e6:.0f}", f"{read / 1e6:.0f}")
    return rows


def table(title: str, *names: str) -> Table:
    """Numbers to the right, labels to the left."""
    columns = (Column(name, justify="right" if i else "left") for i, name in enumerate(names))
    return Table(*columns, box=box.SIMPLE_HEAD, title=title)


def main(parts: list[str], device: str, out: Path) -> None:
    """Measure, print, and write down."""
    console = Console(width=110, soft_wrap=True, record=True)
    console.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {device}")
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for dtype in DTYPES:
            console.print({"steps": steps, "model": writing}[part](dtype, device))
            (out / f"kv_cache_{device}.txt").write_text(console.export_text(clear=False), encoding="utf-8")  # what there is


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"any of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the tables")
    given = parser.parse_args()
    if wrong := [part for part in given.parts if part not in PARTS]:
        parser.error(f"parts must be of {', '.join(PARTS)}, got {wrong[0]}")
    main(given.parts, given.device, given.out)
