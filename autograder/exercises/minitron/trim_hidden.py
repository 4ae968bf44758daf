"""Exercise 7.5: a narrower residual stream."""

import re

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.minitron.fixtures import ENDS, NORMS, READERS, WRITERS, State, some
from autograder.exercises.minitron.trim_hidden_mistakes import mistakes, trim
from autograder.inside.case import Case, call


def reference(state: State, channels: Tensor, keep_scale: bool) -> State:
    return trim(state, channels, keep_scale)


trim_hidden = Exercise(
    "minitron.trim_hidden",
    defines="trim_hidden",
    title="A narrower residual stream",
    minutes=20,
    difficulty=3,
    hints=(
        "Go over the names. The table says for each kind of name what stays, so write one `if` for each of its lines: by "
        "the name, never by the shape.",
        "`part, kind = name.split('.')[-2:]` gives, for instance, 'q_proj' and 'weight'. The writers `o_proj` and "
        "`down_proj` are cut in their first dimension, weight and bias alike; readers in their second; norms in their "
        "only one, times the factor. `q_norm` and `k_norm` look like norms of the stream and are not.",
        "Writers: `tensor[channels]`. Norms, where `part == 'norm' or part.endswith('layernorm')`: `tensor[channels] * "
        "factor`, the factor being `(len(tensor) / len(channels)) ** 0.5` or 1. Other weights, but those of `q_norm` and "
        "`k_norm`: `tensor[:, channels]`. The rest is copied whole.",
    ),
    reference=reference,
    shares=True,  # what is not cut may be the same tensor
    misconceptions=mistakes,
)


def decoder(
    g: torch.Generator,
    sizes: tuple[int, int, int, int],
    layers=(0,),
    biases=(),
    head_norms=False,
    only=None,
    vocabulary=17,
    tied=True,
) -> State:
    """The state of a decoder of the Llama layout; `sizes` are the hidden width, the heads' channels, the key-value heads' and the
    neurons. `only` names the parts that are in it; `biases` those that have one."""
    d, q, kv, ffn = sizes
    shapes = {"model.embed_tokens": (vocabulary, d)}
    for i in layers:
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        shapes |= {f"{attention}.q_proj": (q, d), f"{attention}.k_proj": (kv, d), f"{attention}.v_proj": (kv, d)}
        shapes |= {f"{attention}.o_proj": (d, q)}
        if head_norms:
            shapes |= {f"{attention}.q_norm": (kv // 2,), f"{attention}.k_norm": (kv // 2,)}
        shapes |= {f"{mlp}.gate_proj": (ffn, d), f"{mlp}.up_proj": (ffn, d), f"{mlp}.down_proj": (d, ffn)}
        shapes |= {f"model.layers.{i}.input_layernorm": (d,), f"model.layers.{i}.post_attention_layernorm": (d,)}
    shapes |= {"model.norm": (d,), "lm_head": (vocabulary, d)}
    state = {}
    for name, shape in shapes.items():
        part = name.rsplit(".", 1)[-1]
        if only is not None and part not in only:
            continue
        state[f"{name}.weight"] = torch.randn(shape, generator=g) + (2 if len(shape) == 1 else 0)
        if part in biases:
            state[f"{name}.bias"] = torch.randn(shape[0], generator=g)
    if tied and "lm_head.weight" in state and "model.embed_tokens.weight" in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    return state


def hidden_case(g: torch.Generator, sizes: tuple[int, int, int, int], keep: int, keep_scale: bool = False, **options) -> Case:
    return call(decoder(g, sizes, **options), some(g, sizes[0], keep).sort().values, keep_scale)


@trim_hidden.stage(
    "the columns of all that reads",
    points=1,
    exposes="The embedding and the output head have hidden channels as columns; so have the five matrices that read from the stream. The state here "
    "holds only these.",
)
def _(g):
    yield hidden_case(g, (7, 10, 4, 9), 4, only=ENDS)
    yield hidden_case(g, (8, 6, 4, 11), 5, only=(*READERS, *ENDS), layers=(0, 1))
    yield hidden_case(g, (6, 5, 4, 7), 1, only=(*READERS, *ENDS), vocabulary=260)
    yield call(decoder(g, (5, 6, 4, 7), only=(*READERS, *ENDS)), torch.arange(5), False)  # all stay


@trim_hidden.stage(
    "the rows of all that writes",
    points=1,
    exposes="o_proj and down_proj write to the stream: hidden channels are their rows.",
)
def _(g):
    yield hidden_case(g, (7, 10, 4, 9), 4, only=(*READERS, *WRITERS, *ENDS))
    yield hidden_case(g, (9, 5, 2, 13), 6, only=(*READERS, *WRITERS, *ENDS), layers=(0, 1, 10), tied=False)
    yield hidden_case(g, (6, 7, 2, 9), 1, only=(*READERS, *WRITERS), layers=(3, 110), tied=False)
    yield hidden_case(g, (6, 7, 2, 9), 4, only=("o_proj",), layers=(24,))


@trim_hidden.stage(
    "the norms, and their factor",
    points=2,
    exposes="The two norms of every block and the last one have an entry for each channel. With keep_scale these entries, and nothing else, are "
    "multiplied by sqrt(hidden / kept).",
)
def _(g):
    yield hidden_case(g, (7, 10, 4, 9), 4)
    yield hidden_case(g, (6, 8, 2, 11), 5, True, layers=(0, 1))
    yield hidden_case(g, (12, 5, 4, 9), 3, True, layers=(0, 2, 11, 29, 123), tied=False)
    yield hidden_case(g, (7, 12, 12, 12), 3, True, vocabulary=12)
    yield hidden_case(g, (9, 5, 4, 7), 1, True)
    yield hidden_case(g, (9, 5, 4, 7), 4, True, only=("norm",))
    yield call(decoder(g, (5, 6, 4, 7)), torch.arange(5), True)  # all stay: the factor is 1
    yield call(decoder(g, (9, 6, 4, 11), only=("down_proj", *NORMS)), some(g, 8, 5).sort().values, True)  # the last one goes


@trim_hidden.stage(
    "when sizes are equal too",
    points=1,
    exposes="In many models q_proj and o_proj are square. Which side is cut follows from what a matrix does, never from its sizes.",
)
def _(g):
    yield hidden_case(g, (8, 8, 4, 14), 5, True)
    yield hidden_case(g, (6, 6, 6, 6), 4, False, layers=(0, 1), vocabulary=6, tied=False)


@trim_hidden.stage(
    "biases, and norms inside a head",
    points=1,
    exposes="The bias of a matrix has an entry for each output: it is cut where the matrix writes to the stream, and stays where it reads, lm_head's too. q_norm "
    "and k_norm act inside a head, which keeps its width. The large model's state stays as it is.",
    pure=True,
)
def _(g):
    yield hidden_case(g, (8, 10, 8, 14), 5, True, biases=("q_proj", "k_proj", "v_proj"))
    yield hidden_case(g, (6, 6, 6, 6), 4, True, biases=(*READERS, *WRITERS, "lm_head"), tied=False)
    yield hidden_case(g, (7, 12, 14, 9), 5, True, head_norms=True, layers=(0, 1))
    yield hidden_case(g, (7, 12, 14, 9), 3, False, head_norms=True, biases=("o_proj",), layers=(10, 100))
    yield hidden_case(g, (7, 9, 6, 5), 4, False, biases=("down_proj", "up_proj"))
    yield hidden_case(g, (7, 12, 12, 12), 4, True, biases=(*READERS, "lm_head"), vocabulary=12)


@trim_hidden.accepts("by patterns")
def _(state, channels, keep_scale):
    some_norm = [v for k, v in state.items() if re.search(r"(layernorm|model\.norm)\.weight$", k)]
    factor = np.sqrt(len(some_norm[0]) / len(channels)) if some_norm and keep_scale else 1.0
    small = {}
    for name, tensor in state.items():
        if re.search(r"(layernorm|model\.norm)\.weight$", name):
            small[name] = tensor.index_select(0, channels) * float(factor)
        elif re.search(r"(o_proj|down_proj)\.(weight|bias)$", name):
            small[name] = tensor.index_select(0, channels)
        elif re.search(r"(embed_tokens|lm_head|[qkv]_proj|gate_proj|up_proj)\.weight$", name):
            small[name] = tensor.index_select(1, channels)
        else:
            small[name] = tensor
    return small


@trim_hidden.accepts("as the official code: slices by kind of layer")
def _(state, channels, keep_scale):
    small = {name: tensor.clone() for name, tensor in state.items()}
    for name in small:
        module = name.rsplit(".", 1)[0]
        if module.endswith(("layernorm", "model.norm")):
            full = small[name].shape[0]
            small[name] = small[name][channels].mul_((full / channels.numel()) ** 0.5 if keep_scale else 1)
        elif module.endswith(("o_proj", "down_proj")):
            small[name] = torch.index_select(small[name], 0, channels)
        elif name.endswith("weight") and "_norm" not in module:
            small[name] = torch.index_select(small[name], 1, channels)
    return small


@trim_hidden.accepts("numpy, with a mask")
def _(state, channels, keep_scale):
    made = {}
    for name, tensor in state.items():
        part, kind = name.split(".")[-2], name.split(".")[-1]
        dim = {"o_proj": 0, "down_proj": 0, "q_norm": None, "k_norm": None}.get(part, 1 if kind == "weight" else None)
        if part == "norm" or part.endswith("layernorm"):
            dim = 0
        array = tensor.numpy()
        if dim is not None:
            mask = np.isin(np.arange(array.shape[dim]), channels.numpy())
            array = np.compress(mask, array, axis=dim)
            if keep_scale and tensor.ndim == 1 and kind == "weight":
                array = array / np.float32(np.sqrt(mask.mean()))
        made[name] = torch.tensor(array)
    return made
