"""Train the tiny model with ReLU that ships with the package: `python -m sparsity_edu.activations.train_tiny_relu`.

It begins as `tiny`, whose SiLU becomes ReLU, and is trained on the same text for an eighth of the steps. Beside the loss of the
text there is one that counts how much of what enters ReLU is positive; its coefficient grows in the first half. Of a token's
neurons few are left then, and which ones depends on the token: what Deja Vu needs. Mirzadeh et al. 2023, "ReLU strikes back:
Exploiting activation sparsity in large language models", make ReLU models of others; Song et al. 2024, "ProSparse: Introducing
and enhancing intrinsic activation sparsity within large language models", add a second loss that grows.

Everything it writes lies in one folder: the weights in float16, the tokenizer, `training.json` and `training.png`.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from sparsity_edu.data import python_docs
from sparsity_edu.models import load, train_tiny
from sparsity_edu.models.loading import TINY_RELU
from sparsity_edu.models.perplexity import bits_per_byte, mean_loss, tokens

STEPS, EVALUATE_EVERY = 240, 24
LEARNING_RATE, WARM_UP = 1e-3, 20
COEFFICIENT = 8.0  # of the second loss, when it has grown
SEED, THREADS = 0, 1

HYPERPARAMETERS = {
    "context": train_tiny.CONTEXT,
    "batch": train_tiny.BATCH,
    "steps": STEPS,
    "learning_rate": LEARNING_RATE,
    "warm_up": WARM_UP,
    "weight_decay": train_tiny.WEIGHT_DECAY,
    "clip": train_tiny.CLIP,
    "coefficient": COEFFICIENT,
    "seed": SEED,
    "threads": THREADS,
    "precision": "float32",
}


def make_model() -> nn.Module:
    """Return `tiny` with ReLU instead of SiLU, before training."""
    tiny = load("tiny").model
    config = tiny.config.to_dict() | {"hidden_act": "relu", "dtype": "float32"}
    model = LlamaForCausalLM(LlamaConfig(**{name: value for name, value in config.items() if name != "architectures"}))
    model.load_state_dict(tiny.state_dict())
    return model


@contextmanager
def gates(model: nn.Module) -> Iterator[list[Tensor]]:
    """What enters ReLU in each block, (batch, tokens, neurons), of the last forward pass."""
    seen: list[Tensor] = []
    blocks = model.model.layers
    handles = [blocks[0].register_forward_pre_hook(lambda *_: seen.clear())]
    handles += [block.mlp.gate_proj.register_forward_hook(lambda _, args, out: seen.append(out)) for block in blocks]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def positive_share(seen: list[Tensor]) -> Tensor:
    """The share of what enters ReLU that is positive, by size: sum of relu(g) / sum of |g|, the mean over blocks.

    Unlike the mean of relu(g) it is not made smaller by smaller gates and larger weights behind them.
    """
    return torch.stack([g.float().relu().sum() / g.float().abs().sum() for g in seen]).mean()


def inactive(seen: list[Tensor]) -> list[float]:
    """The share of neurons that are zero, of each block, over tokens."""
    return [float((g <= 0).float().mean()) for g in seen]


@torch.no_grad()
def look(model: nn.Module, ids: Tensor) -> tuple[float, list[float]]:
    """Return the loss per token in nats on a text (tokens,), and the share of neurons that are zero in each block."""
    shares = []
    with gates(model) as seen:
        for window in ids.split(train_tiny.CONTEXT):
            if len(window) == train_tiny.CONTEXT:
                model(input_ids=window[None])
                shares.append(inactive(seen))
    means = [sum(of_block) / len(shares) for of_block in zip(*shares, strict=True)]
    return mean_loss(model, ids, train_tiny.CONTEXT, progress=False), means


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine from its peak to a tenth of it."""
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    return LEARNING_RATE * (0.1 + 0.9 * (1 + math.cos(math.pi * (step - WARM_UP) / (steps - WARM_UP))) / 2)


def train(
    model: nn.Module,
    ids: Tensor,
    held_out: Tensor,
    steps: int = STEPS,
    every: int = EVALUATE_EVERY,
    coefficient: float = COEFFICIENT,
    note: Callable[[dict], None] = lambda point: tqdm.write(json.dumps(point)),
) -> list[dict]:
    """Train the model in place on windows cut at random places of `ids` (tokens,) and return the curve of losses and zeros."""
    generator = torch.Generator().manual_seed(SEED)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": train_tiny.WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))

    def point(step: int, losses: list[float]) -> dict:
        loss, shares = look(model, held_out)
        found = {"step": step, "train": round(sum(losses) / len(losses), 4) if losses else None}
        return found | {"validation": round(loss, 4), "inactive": round(sum(shares) / len(shares), 4)}

    curve, losses = [point(0, [])], []
    note(curve[0])
    with gates(model) as seen:
        for step in tqdm(range(steps), desc="training tiny-relu", unit="step", mininterval=5):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps)
            starts = torch.randint(len(ids) - train_tiny.CONTEXT + 1, (train_tiny.BATCH,), generator=generator)
            batch = torch.stack([ids[start : start + train_tiny.CONTEXT] for start in starts.tolist()])  # (batch, context)
            out = model(input_ids=batch, labels=batch)
            grown = min(1.0, 2 * (step + 1) / steps)
            (out.loss + coefficient * grown * positive_share(seen)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), train_tiny.CLIP)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(out.loss.item())
            if (step + 1) % every == 0:
                curve.append(point(step + 1, losses))
                note(curve[-1])
                losses.clear()
    return curve


def plot(curve: list[dict], path: Path) -> None:
    """Draw the loss and the share of zeros."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, of_loss in (("train", curve[1:]), ("validation", curve)):
        axes.plot([point["step"] for point in of_loss], [point[name] for point in of_loss], label=f"loss: {name}")
    axes.set(xlabel="step", ylabel="loss per token (nats)", title="The tiny model with ReLU on the Python docs")
    shares = axes.twinx()
    shares.plot([point["step"] for point in curve], [100 * point["inactive"] for point in curve], "C2--", label="zeros")
    shares.set(ylabel="neurons that are zero (%)", ylim=(0, 100))
    axes.legend(handles=[*axes.lines, *shares.lines], frameon=False, fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=80)


def main(folder: Path = TINY_RELU) -> None:
    """Train, and write the model and the record of its training to `folder`."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    began, cpu = time.monotonic(), time.process_time()
    tokenizer = load("tiny").tokenizer
    ids, validation = (tokens(tokenizer, python_docs(split)) for split in ("train", "validation"))
    model = make_model()
    curve = train(model, ids, validation[: 8 * train_tiny.CONTEXT])
    trained, cpu = time.monotonic() - began, time.process_time() - cpu

    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written for its owner only, but it is shipped
    model.float()  # the weights as they are shipped, rounded to float16
    loss, shares = look(model, validation)
    record = {
        "command": "python -m sparsity_edu.activations.train_tiny_relu",
        "parameters": model.num_parameters(),
        "data": "sparsity_edu.data.python_docs",
        "train_tokens": len(ids),
        "hyperparameters": HYPERPARAMETERS,
        "seconds": round(trained),
        "cpu_seconds": round(cpu),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "validation": {
            "tokens": len(validation),
            "loss": round(loss, 4),
            "perplexity": round(math.exp(loss), 3),
            "bits_per_byte": round(bits_per_byte(model, tokenizer, python_docs("validation"), train_tiny.CONTEXT), 4),
            "inactive": round(sum(shares) / len(shares), 4),
            "inactive_by_block": [round(share, 4) for share in shares],
        },
        "curve": curve,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(curve, folder / "training.png")
    print(json.dumps(record["validation"]))


if __name__ == "__main__":
    main()
