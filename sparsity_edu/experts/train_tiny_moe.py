"""Train the tiny mixture of experts that ships with the package: `python -m sparsity_edu.experts.train_tiny_moe`.

A Mixtral-architecture model of 3.8 million parameters, of which a token meets 1.4 million, and beside it two dense models that
differ in the width of their feed-forward layers alone: one of the same active size and one of the same total size. All three
see the same windows of the same text, with the tokenizer of `tiny`.

Everything it writes lies in one folder: the mixture's weights in float16, the tokenizer, `training.json` with the three curves
and `training.png`. The dense models are not kept. With names behind the command (mixture, dense_active, dense_total) only these
are trained.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from sparsity_edu.data import python_docs
from sparsity_edu.experts.losses import load_balancing
from sparsity_edu.models import train_tiny
from sparsity_edu.models.loading import TINY, TINY_MOE
from sparsity_edu.models.perplexity import bits_per_byte, mean_loss, tokens

EXPERTS, TOP_K, WIDTH = 8, 2, 176  # experts of a block; experts a token meets; neurons of an expert
BALANCING = 0.01  # coefficient of each layer's load-balancing loss
STEPS, EVALUATE_EVERY = 700, 70  # about three times through the text
SEED, THREADS = 0, 1

COMMON = {
    "vocab_size": train_tiny.VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": train_tiny.CONTEXT,
    "rms_norm_eps": 1e-6,  # the defaults of Llama, which differ from Mixtral's
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


HYPERPARAMETERS = {
    "context": train_tiny.CONTEXT,
    "batch": train_tiny.BATCH,
    "steps": STEPS,
    "learning_rate": train_tiny.LEARNING_RATE,
    "warm_up": train_tiny.WARM_UP,
    "weight_decay": train_tiny.WEIGHT_DECAY,
    "clip": train_tiny.CLIP,
    "balancing": BALANCING,
    "seed": SEED,
    "threads": THREADS,
    "precision": "bfloat16 autocast",
}


def make_mixture() -> nn.Module:
    """Return the untrained mixture: 6 decoder layers of width 128, 8 experts of 176 neurons in each, 2 of them for a token."""
    model = MixtralForCausalLM(
        MixtralConfig(
            intermediate_size=WIDTH,
            num_local_experts=EXPERTS,
            num_experts_per_tok=TOP_K,
            router_aux_loss_coef=0.0,  # transformers' own lets each layer use two experts for everything; see `balance`
            **COMMON,
        )
    )
    model.set_experts_implementation("eager")  # the one that autocast sees into
    return model


def make_dense(neurons: int) -> nn.Module:
    """Return the untrained dense model with that many neurons in each feed-forward layer, all else as in the mixture."""
    return LlamaForCausalLM(LlamaConfig(intermediate_size=neurons, **COMMON))


MODELS = {
    "mixture": make_mixture,
    "dense_active": lambda: make_dense(TOP_K * WIDTH),  # what a token meets, router aside
    "dense_total": lambda: make_dense(EXPERTS * WIDTH),
}


def balance(out) -> Tensor:
    """Return the load-balancing loss of a mixture's output, summed over its layers; each costs 1 when it is balanced."""
    logits = [z.float() for z in out.router_logits]  # per layer (tokens, experts)
    return sum(load_balancing(z.softmax(dim=-1), z.topk(TOP_K, dim=-1).indices, count="mean") for z in logits)


def active_parameters(model: nn.Module) -> int:
    """Count the parameters that one token meets."""
    idle = sum(p.numel() * (EXPERTS - TOP_K) // EXPERTS for name, p in model.named_parameters() if ".experts." in name)
    return model.num_parameters() - idle


@torch.no_grad()
def flops_per_token(model: nn.Module, ids: Tensor) -> int:
    """Count the floating-point operations of a forward pass over a window (tokens,), per token."""
    fast = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the counter does not see into the fast one
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids[None], use_cache=False)
    model.set_attn_implementation(fast)
    return counter.get_total_flops() // len(ids)


@torch.no_grad()
def tokens_per_expert(model: nn.Module, ids: Tensor) -> list[list[int]]:
    """Count, layer by layer, the tokens of a text (tokens,) that are routed to each expert; a token counts TOP_K times."""
    counts = torch.zeros(COMMON["num_hidden_layers"], EXPERTS, dtype=torch.int64)
    for window in ids.split(train_tiny.CONTEXT):
        logits = model(input_ids=window[None], output_router_logits=True).router_logits  # per layer (tokens, experts)
        for layer, z in enumerate(logits):
            counts[layer] += z.topk(TOP_K, dim=-1).indices.flatten().bincount(minlength=EXPERTS)
    return counts.tolist()


def train_one(name: str, ids: Tensor, validation: Tensor) -> tuple[nn.Module, dict]:
    """Train one of the models from its seed; return it and its record."""
    torch.manual_seed(SEED)
    model = MODELS[name]()
    record = {
        "parameters": model.num_parameters(),
        "active_parameters": active_parameters(model),
        "flops_per_token": flops_per_token(model, ids[: train_tiny.CONTEXT]),
    }
    print(name, record)
    began = time.monotonic()
    held_out = {"validation": validation}
    curve = train_tiny.train(model, ids, held_out, STEPS, EVALUATE_EVERY, **_second_loss(name, model))
    model.config.output_router_logits = False
    return model, record | {"seconds": round(time.monotonic() - began), "curve": curve}


def seconds_per_step(name: str, ids: Tensor, steps: int = 3) -> float:
    """Measure the processor's seconds for a step of training, which other work on the machine changes little."""
    model = MODELS[name]()
    began = time.process_time()
    train_tiny.train(model, ids, {}, steps, steps + 1, **_second_loss(name, model))
    return (time.process_time() - began) / steps


def _second_loss(name: str, model: nn.Module) -> dict:
    if name != "mixture":
        return {}
    model.config.output_router_logits = True
    return {"balance": balance, "coefficient": BALANCING}


def ship(model: nn.Module, tokenizer, validation: Tensor, folder: Path) -> dict:
    """Write the mixture as it is shipped, rounded to float16, and return how good it is then."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written for its owner only, but it is shipped
    model.float()
    loss = mean_loss(model, validation, train_tiny.CONTEXT)
    return {
        "tokens": len(validation),
        "loss": round(loss, 4),
        "perplexity": round(math.exp(loss), 3),
        "bits_per_byte": round(bits_per_byte(model, tokenizer, python_docs("validation"), train_tiny.CONTEXT), 4),
        "tokens_per_expert": tokens_per_expert(model, validation),
    }


def plot(curves: dict[str, list[dict]], path: Path) -> None:
    """Draw the loss curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for (name, curve), color in zip(curves.items(), ("C0", "C1", "C2"), strict=False):
        steps = [point["step"] for point in curve]
        for split, line in (("validation", "-"), ("train", ":")):
            label = f"{name.replace('_', ', ')}: {split}"
            axes.plot(steps, [point[split] for point in curve], line, color=color, label=label)
    axes.set(xlabel="step", ylabel="loss per token (nats)", title="The tiny mixture and two dense models on the Python docs")
    axes.legend(frameon=False, fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=80)


def main(names: list[str], folder: Path = TINY_MOE) -> None:
    """Train models, and add each one to the record in `folder` as soon as it is ready; the mixture is kept there itself.

    In the end the time of a step is measured of all models, in turns. A training's own "seconds" are those on the clock.
    """
    torch.set_num_threads(THREADS)
    tokenizer = AutoTokenizer.from_pretrained(TINY, local_files_only=True)
    ids, validation = (tokens(tokenizer, python_docs(split)) for split in ("train", "validation"))
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        model, trained = train_one(name, ids, validation)
        if name == "mixture":
            trained["validation"] = ship(model, tokenizer, validation, folder)
        add({name: trained}, len(ids), folder)
    times = {name: [] for name in MODELS}
    for _ in range(3):
        for name, seconds in times.items():
            seconds.append(seconds_per_step(name, ids))
    times = {name: {"cpu_seconds_per_step": round(statistics.median(seconds), 3)} for name, seconds in times.items()}
    add(times, len(ids), folder)


def add(new: dict[str, dict], train_tokens: int, folder: Path) -> None:
    """Add what is known of models to the record in `folder`, and draw it again."""
    path = folder / "training.json"
    models = json.loads(path.read_text())["models"] if path.exists() else {}
    models = {name: models.get(name, {}) | new.get(name, {}) for name in MODELS if name in models or name in new}
    record = {
        "command": "python -m sparsity_edu.experts.train_tiny_moe",
        "data": "sparsity_edu.data.python_docs",
        "train_tokens": train_tokens,
        "hyperparameters": HYPERPARAMETERS,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "models": models,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    plot({name: model["curve"] for name, model in models.items() if "curve" in model}, folder / "training.png")


if __name__ == "__main__":
    main(sys.argv[1:] or list(MODELS))
