"""`sparsity-edu generate`."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from sparsity_edu.cli.caches import Dtype, DtypeOption, cache_of
from sparsity_edu.cli.errors import Refused, at_least, named
from sparsity_edu.cli.options import Model
from sparsity_edu.cli.show import Rows, fact, line, sentence, where_from
from sparsity_edu.cli.with_recipe import made_of, recipe_of, what_is_saved, what_is_used

if TYPE_CHECKING:
    from torch import Tensor
    from tqdm import tqdm
    from transformers import TextStreamer

    from sparsity_edu.activations.plan import Plan
    from sparsity_edu.combine import Made
    from sparsity_edu.kv_cache import PolicyCache
    from sparsity_edu.models import LanguageModel


def generate(
    model: Model,
    prompt: Annotated[str | None, typer.Option(help="What to say to the model.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="A text file with the prompt.")] = None,
    cache: Annotated[
        str,
        typer.Option(help="full, or window:N, sinks:N (a window and the first 4 tokens), h2o:N or quest:N with N tokens."),
    ] = "full",
    activations: Annotated[
        Path | None, typer.Option(help="A JSON file of `sparsity-edu sparsify`: skip inputs below its thresholds.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe, in TOML or JSON: applied first. A folder of `apply` has its own.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens to write.")] = 100,
    temperature: Annotated[float, typer.Option(help="Of sampling; 0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample from so many of the likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from the likeliest tokens of so much probability.")] = None,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    raw: Annotated[
        bool, typer.Option("--raw", help="Go on with the prompt itself, although the model is made to chat.")
    ] = False,
    dtype: DtypeOption = Dtype.float32,
) -> None:
    """Write text with a cache that holds or reads little, and say how fast, and how much, beside a full one.

    With --activations, layers skip weights that meet small inputs, and the same is timed without. With a recipe, weights,
    inputs and cache are all as it says, and what each saves is told.
    """
    text = _text(prompt, prompt_file)
    new_cache = cache_of("--cache", cache)
    at_least(1, max_new_tokens=max_new_tokens, top_k=top_k)
    at_least(0, temperature=temperature, seed=seed)
    if top_p is not None and not 0 < top_p <= 1:
        raise Refused(f"--top-p must be in (0, 1], got {top_p:g}")
    if temperature == 0 and (top_k or top_p):
        raise Refused("--top-k and --top-p need a --temperature above 0")
    plan = None if activations is None else _plan(activations)
    wanted = None if recipe is None else recipe_of(recipe)
    from sparsity_edu import kv_cache
    from sparsity_edu.activations import teal
    from sparsity_edu.combine import Recipe
    from sparsity_edu.models import LanguageModel

    made = made_of(model, wanted, dtype.value)
    language_model = LanguageModel(made.model, made.tokenizer)
    ids, chat = _ids(language_model, text, raw)
    _check_length(language_model, ids.shape[1], max_new_tokens, "--prompt" if prompt_file is None else "--prompt-file")
    options = {"do_sample": temperature > 0}
    if temperature > 0:
        options |= {"temperature": temperature, "top_k": top_k or 0, "top_p": top_p or 1.0}
    if made.recipe != Recipe():
        if cache != "full" or plan is not None:
            raise Refused("--cache and --activations must be left out with a recipe, which names both")
        _as_the_recipe_says(model, made, dtype.value, ids, seed, chat, options | {"max_new_tokens": max_new_tokens})
        return
    held, rows = new_cache(), []
    with kv_cache.attending(language_model.model):
        with ExitStack() as sparse:
            if plan is not None:
                with named("--activations", "thresholds"), named("MODEL", "model"):
                    sparse.enter_context(teal.applied(language_model.model, plan))
            wrote = _write(language_model, ids, held, seed, "", max_new_tokens=max_new_tokens, **options)
            count = len(wrote.tokens)
            line()
            fact("prompt", f"{ids.shape[1]} tokens{', with the chat template' if chat else ''}")
            fact("wrote", f"{count} tokens")
            if plan is not None:
                fact("skipped", f"inputs below the thresholds of {activations},\n{_where(plan)}")
            where_from(model)
            never = language_model.model.get_input_embeddings().num_embeddings  # or it might stop before the other did
            options |= {"max_new_tokens": count, "eos_token_id": never, "pad_token_id": 0}
            table = Rows(f"{model}, {dtype}", cache=12, prompt_s=9, tokens_per_s=13, bytes_held=16, bytes_read_per_token=21)
            if cache != "full":
                full = kv_cache.FullCache()
                rows.append(("full", _write(language_model, ids, full, seed, "the same with a full cache", **options)))
                _add(table, *rows[-1], full)
            _add(table, cache, wrote, held)
        if plan is not None:
            again = new_cache()
            rows.append(("dense", _write(language_model, ids, again, seed, "the same with all inputs", **options)))
            _add(table, *rows[-1], again)
    for name, beside in rows:
        sentence(_beside(name, beside, wrote))


def _as_the_recipe_says(model: str, made: Made, dtype: str, ids: Tensor, seed: int, chat: bool, options: dict) -> None:
    """Write, and tell what each part of the recipe saves."""
    from sparsity_edu import kv_cache
    from sparsity_edu.combine import running
    from sparsity_edu.models import LanguageModel

    language_model, full = LanguageModel(made.model, made.tokenizer), kv_cache.FullCache()
    with running(made) as run:
        held = run.new_cache()
        wrote = _write(language_model, ids, held, seed, "", **options)
        line()
        fact("prompt", f"{ids.shape[1]} tokens{', with the chat template' if chat else ''}")
        fact("wrote", f"{len(wrote.tokens)} tokens, as {made.recipe.name!r} says")
        what_is_used(run)
        never = made.model.get_input_embeddings().num_embeddings  # or it might stop before the other did
        same = options | {"max_new_tokens": len(wrote.tokens), "eos_token_id": never, "pad_token_id": 0}
        sizes = run.bytes_held, run.traffic.per_step
    with kv_cache.attending(made.model):
        beside = _write(language_model, ids, full, seed, "the same weights, dense, with a full cache", **same)
    what_is_saved(sizes, run.traffic.dense, held, full)
    table = Rows(f"{model}, {dtype}", _=12, prompt_s=9, tokens_per_s=13)
    for name, one in (("recipe", wrote), ("dense, full", beside)):
        table.add(name, f"{one.prompt:.2f}", "" if one.step is None else f"{1 / one.step:.1f}")
    sentence(_beside("dense, with a full cache, it", beside, wrote))
    where_from(model)


def _plan(path: Path) -> Plan:
    """Thresholds, or a sentence."""
    from sparsity_edu.activations.plan import Plan

    try:
        with named("--activations", "path"):
            return Plan.load(path)
    except OSError as error:
        raise Refused(f"--activations cannot be read, {error.strerror or error}: {path}") from error


def _where(plan: Plan) -> str:
    """When inputs are skipped."""
    prompts = {"all": "in the prompt and in decoding", "last_half": "in the prompt's last half and in decoding"}
    return prompts.get(plan.prefill, "in decoding only")


class Written(NamedTuple):
    """What a model has written, and how long it took."""

    tokens: list[int]
    prompt: float  # seconds
    step: float | None  # seconds of a token, the median; None of a single one


def _text(prompt: str | None, prompt_file: Path | None) -> str:
    """The prompt, or a sentence."""
    if (prompt is None) == (prompt_file is None):
        raise Refused(f"give either --prompt or --prompt-file, got {'neither' if prompt is None else 'both'}")
    if prompt_file is None:
        if not prompt:
            raise Refused("--prompt must not be empty")
        return prompt
    try:
        text = prompt_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"--prompt-file must be a text file in UTF-8, got {prompt_file}") from error
    if not text:
        raise Refused(f"--prompt-file must not be empty, got {prompt_file}")
    return text


def _ids(language_model: LanguageModel, text: str, raw: bool) -> tuple[Tensor, bool]:
    """(1, tokens) as the model wants to be asked, and whether that is a chat."""
    tokenizer = language_model.tokenizer
    chat = bool(tokenizer.chat_template) and not raw
    if chat:
        message = [{"role": "user", "content": text}]
        given = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    else:
        given = tokenizer(text, return_tensors="pt", verbose=False)
    return given["input_ids"], chat


def _check_length(language_model: LanguageModel, tokens: int, new: int, option: str) -> None:
    from sparsity_edu.models.positions import positions

    most = positions(language_model.model)
    if most is None or tokens + new <= most:
        return
    if tokens >= most:
        raise Refused(f"{option} must be shorter than the model's {most} positions, got {tokens} tokens")
    there = f"a prompt of {tokens} tokens and {most} positions"
    raise Refused(f"--max-new-tokens must be at most {most - tokens}, since there are {there}, got {new}")


class _Clock:
    """A streamer that notes when each token comes, and may print it."""

    def __init__(self, printer: TextStreamer | None, bar: tqdm) -> None:
        self.printer, self.bar, self.times = printer, bar, []

    def put(self, ids: Tensor) -> None:
        """First the prompt, then token by token."""
        self.times.append(time.perf_counter())
        if len(self.times) == 2:
            self.bar.close()
        if self.printer:
            self.printer.put(ids)

    def end(self) -> None:
        if self.printer:
            self.printer.end()


def _write(language_model: LanguageModel, ids: Tensor, cache: PolicyCache, seed: int, beside: str, **options) -> Written:
    """Let the model write, in transformers' own loop; a bar says how far it is with a long prompt.

    What is written is shown, but for a run `beside` another one, which is called so.
    """
    import torch
    from tqdm import tqdm
    from transformers import TextStreamer

    from sparsity_edu.models.layers import decoder_blocks

    model, tokenizer = language_model
    torch.manual_seed(seed)
    blocks = decoder_blocks(model)
    name = beside or "reads the prompt"
    with ExitStack() as at_the_end, tqdm(total=len(blocks), desc=name, unit="layer", delay=1, leave=False) as bar:
        for block in blocks:
            at_the_end.callback(block.register_forward_hook(lambda *_: bar.update() and None).remove)
        clock = _Clock(TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if not beside else None, bar)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=cache, streamer=clock, **options)
    asked, answered, *_ = clock.times
    steps = [after - before for before, after in pairwise(clock.times[1:])]
    return Written(out[0, ids.shape[1] :].tolist(), answered - asked, statistics.median(steps) if steps else None)


def _add(table: Rows, name: str, wrote: Written, cache: PolicyCache) -> None:
    speed = "" if wrote.step is None else f"{1 / wrote.step:.1f}"
    table.add(name, f"{wrote.prompt:.2f}", speed, f"{cache.bytes_held:,}", f"{cache.bytes_read:,}")


def _beside(name: str, beside: Written, wrote: Written) -> str:
    same = _in_common(beside.tokens, wrote.tokens)
    return f"{name} would have written {'the same' if same == len(wrote.tokens) else f'other tokens after {same} of them'}."


def _in_common(a: list[int], b: list[int]) -> int:
    """How many tokens two texts begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
