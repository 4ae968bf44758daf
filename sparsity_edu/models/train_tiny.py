"""Train the tiny model that ships with the package: `python -m sparsity_edu.models.train_tiny`.

A Llama-architecture model of 2.6 million parameters and its tokenizer, trained on the train split of the Python docs.
Everything it writes lies in one folder: the weights in float16, the tokenizer, `training.json` and `training.png`.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sparsity_edu.data import python_docs
from sparsity_edu.models.perplexity import bits_per_byte, mean_loss, tokens

FOLDER = Path(__file__).parent / "tiny"
VOCABULARY, CONTEXT = 2048, 512  # tokens
STEPS, BATCH = 2000, 4  # updates; windows of CONTEXT tokens per update
LEARNING_RATE, WARM_UP, CLIP = 3e-3, 100, 1.0
WEIGHT_DECAY = 0.3  # much, because every text is seen about eight times
SEED, THREADS, EVALUATE_EVERY = 0, 1, 200


def make_tokenizer(text: str):
    """Train a byte-level BPE tokenizer on a text and return it as a Hugging Face tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # all 256 bytes: every text can be encoded
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[end], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end, model_max_length=CONTEXT)


def make_model():
    """Return the untrained model: 12 decoder layers of width 128, 4 query heads that share 2 key-value heads.

    Deep and narrow, because errors add up over layers: the model is there to be hurt by pruning.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=12,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def learning_rate(step: int, steps: int = STEPS) -> float:
    """Return the learning rate of a step of `steps`: linear warm-up, then a cosine from its peak to a tenth of it."""
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    progress = (step - WARM_UP) / (steps - WARM_UP)
    return LEARNING_RATE * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)


def train(
    model,
    ids: Tensor,
    held_out: dict[str, Tensor],
    steps: int = STEPS,
    every: int = EVALUATE_EVERY,
    balance: Callable[..., Tensor] | None = None,
    coefficient: float = 0.0,
    dtype: torch.dtype = torch.bfloat16,
) -> list[dict]:
    """Train the model in place on windows cut at random places of `ids` (tokens,) and return the loss curve in nats.

    A point of the curve is taken after `every` steps. A mixture of experts has a second loss, `balance` of the model's output;
    the curve has both, apart from each other and without the coefficient. Products are taken in `dtype`; processors without
    instructions for bfloat16 are much faster in float32.
    """
    from tqdm.auto import tqdm

    generator = torch.Generator().manual_seed(SEED)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() < 2]  # weight decay would only pull the norms' scales to 0
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    curve, losses, balances = [], [], []
    for step in tqdm(range(steps), desc="training tiny", unit="step", mininterval=5):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps)
        starts = torch.randint(len(ids) - CONTEXT + 1, (BATCH,), generator=generator)
        batch = torch.stack([ids[start : start + CONTEXT] for start in starts.tolist()])  # (batch, context)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = model(input_ids=batch, labels=batch)
        loss = out.loss
        if balance is not None:
            second = balance(out)
            balances.append(second.item())
            loss = loss + coefficient * second
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(out.loss.item())
        if (step + 1) % every == 0:
            point = {"step": step + 1, "train": round(sum(losses) / len(losses), 4)}
            if balances:
                point["balance"] = round(sum(balances) / len(balances), 4)
            point |= {name: round(mean_loss(model, x, CONTEXT, progress=False), 4) for name, x in held_out.items()}
            curve.append(point)
            losses.clear()
            balances.clear()
            tqdm.write(json.dumps(point))
    return curve


def plot(curve: list[dict], path: Path) -> None:
    """Draw the loss curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name in ("train", "validation"):
        axes.plot([point["step"] for point in curve], [point[name] for point in curve], label=name)
    axes.set(xlabel="step", ylabel="loss per token (nats)", title="The tiny model on the Python docs")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=80)


def main(folder: Path = FOLDER) -> None:
    """Train, and write the model and the record of its training to `folder`."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    began = time.monotonic()
    tokenizer = make_tokenizer(python_docs("train"))
    ids = tokens(tokenizer, python_docs("train"))
    held_out = {"validation": tokens(tokenizer, python_docs("validation"))}
    model = make_model()
    print(f"{model.num_parameters():,} parameters, {len(ids):,} training tokens, {STEPS * BATCH * CONTEXT:,} seen")
    curve = train(model, ids, held_out)

    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written for its owner only, but it is shipped
    model.float()  # the weights as they are shipped, rounded to float16
    loss = mean_loss(model, held_out["validation"], CONTEXT)
    record = {
        "parameters": model.num_parameters(),
        "data": "sparsity_edu.data.python_docs",
        "train_tokens": len(ids),
        "hyperparameters": {
            "context": CONTEXT,
            "batch": BATCH,
            "steps": STEPS,
            "learning_rate": LEARNING_RATE,
            "warm_up": WARM_UP,
            "weight_decay": WEIGHT_DECAY,
            "clip": CLIP,
            "seed": SEED,
            "threads": THREADS,
            "precision": "bfloat16 autocast",
        },
        "seconds": round(time.monotonic() - began),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "validation": {
            "tokens": len(held_out["validation"]),
            "loss": round(loss, 4),
            "perplexity": round(math.exp(loss), 3),
            "bits_per_byte": round(bits_per_byte(model, tokenizer, python_docs("validation"), CONTEXT), 4),
        },
        "curve": curve,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(curve, folder / "training.png")
    print(json.dumps(record["validation"]))


if __name__ == "__main__":
    main()
