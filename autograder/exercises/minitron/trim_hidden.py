"""Exercise 7.5: a narrower residual stream."""

import re

import numpy as np
import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.exercises.minitron.fixtures import some
from autograder.inside.case import Case, call

State = dict[str, Tensor]
READERS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
WRITERS = ("o_proj", "down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm", "norm")
ENDS = ("embed_tokens", "lm_head")

# what there is to do to a tensor; "norm" is "entries", and the factor
AXES = {
    **{(part, "weight"): "columns" for part in (*READERS, *ENDS)},
    **{(part, "weight"): "rows" for part in WRITERS},
    **{(part, "bias"): "entries" for part in WRITERS},
    **{(part, "weight"): "norm" for part in NORMS},
}


def part_of(name: str) -> tuple[str, str]:
    """("q_proj", "weight") of "model.layers.3.self_attn.q_proj.weight"."""
    return tuple(name.split(".")[-2:])


def trim(
    state: State,
    channels: Tensor,
    keep_scale: bool,
    action=lambda name: AXES.get(part_of(name), "stay"),
    factor=lambda many, few: (many / few) ** 0.5,
) -> State:
    """`trim_hidden` with its parts exchangeable, for mistakes in one part."""
    hidden = next(
        len(t) if part_of(n)[0] in NORMS else t.shape[1 if AXES[part_of(n)] == "columns" else 0]
        for n, t in state.items()
        if part_of(n) in AXES
    )
    scale = factor(hidden, len(channels)) if keep_scale else 1.0
    made = {}
    for name, tensor in state.items():
        match action(name):
            case "columns":
                made[name] = tensor[:, channels]
            case "rows" | "entries":
                made[name] = tensor[channels]
            case "norm":
                made[name] = tensor[channels] * scale
            case "stay":
                made[name] = tensor.clone()
            case other:  # a function of the tensor
                made[name] = other(tensor)
    return made


def reference(state: State, channels: Tensor, keep_scale: bool) -> State:
    return trim(state, channels, keep_scale)


trim_hidden = Exercise(
    "minitron.trim_hidden",
    defines="trim_hidden",
    title="A narrower residual stream",
    minutes=20,
    difficulty=3,
    hint="`part, kind = name.split('.')[-2:]` gives, for instance, 'q_proj' and 'weight'. Then one `if` for each line of the table: "
    "`tensor[:, channels]`, `tensor[channels]`, `tensor[channels] * factor`, or the tensor as it is. The hidden width of the large model is the "
    "length of any of these norms, or the size along which you cut.",
    reference=reference,
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


@trim_hidden.stage(
    "the rows of all that writes",
    points=1,
    exposes="o_proj and down_proj write to the stream: hidden channels are their rows.",
)
def _(g):
    yield hidden_case(g, (7, 10, 4, 9), 4, only=(*READERS, *WRITERS, *ENDS))
    yield hidden_case(g, (9, 5, 2, 13), 6, only=(*READERS, *WRITERS, *ENDS), layers=(0, 1, 10), tied=False)


@trim_hidden.stage(
    "the norms, and their factor",
    points=2,
    exposes="The two norms of every block and the last one have an entry for each channel. With keep_scale these entries, and nothing else, are "
    "multiplied by sqrt(hidden / kept).",
)
def _(g):
    yield hidden_case(g, (7, 10, 4, 9), 4)
    yield hidden_case(g, (6, 8, 2, 11), 5, True, layers=(0, 1))
    yield hidden_case(g, (12, 5, 4, 9), 3, True, layers=(0, 2, 11), tied=False)
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


def mistaken(
    name: str, says: str, factor=lambda many, few: (many / few) ** 0.5, at=lambda channels, state: channels, **actions
):
    """A mistake in what is done to some parts ("q_proj", or "q_proj_bias"), in the factor, or in the channels."""

    def wrong(state, channels, keep_scale):
        def action(full_name):
            part, kind = part_of(full_name)
            right = AXES.get((part, kind), "stay")
            return actions.get(part if kind == "weight" else f"{part}_bias", right)

        return trim(state, at(channels, state), keep_scale, action, factor)

    trim_hidden.misconception(name, says)(wrong)


def width(state: State) -> int:
    """Of the large model's stream."""
    name, tensor = next((n, t) for n, t in state.items() if part_of(n) in AXES)
    return tensor.shape[1 if AXES[part_of(name)] == "columns" else 0]


def everywhere(parts, action):
    return {part: action for part in parts}


mistaken(
    "columns of the writers",
    "You cut columns of o_proj or down_proj. They write to the stream: hidden channels are their outputs, the rows.",
    **everywhere(WRITERS, lambda tensor: tensor[:, : tensor.shape[1] // 2]),
)
mistaken(
    "the writers left",
    "o_proj and down_proj still write all channels. Cut their rows.",
    **everywhere(WRITERS, "stay"),
)
mistaken(
    "the readers left",
    "The matrices that read from the stream (q, k, v, gate, up) still expect all channels. Cut their columns.",
    **everywhere(READERS, "stay"),
)
mistaken(
    "values forgotten",
    "v_proj reads from the stream as q_proj and k_proj do: cut its columns.",
    v_proj="stay",
)
mistaken("gate forgotten", "gate_proj reads from the stream as up_proj does: cut its columns.", gate_proj="stay")
mistaken(
    "output head forgotten",
    "lm_head reads from the stream too: cut its columns, as those of the embedding, whether or not the two are tied.",
    lm_head="stay",
)
mistaken("embedding forgotten", "The embedding still has all channels: cut its columns.", embed_tokens="stay")
mistaken(
    "norms left",
    "The norms still have an entry for every channel of the large model. Cut them too.",
    **everywhere(NORMS, "stay"),
)
mistaken(
    "last norm left",
    "model.norm, behind the last block, still has all entries. It is cut as the norms of the blocks are.",
    norm="stay",
)
mistaken(
    "last norm not scaled",
    "With keep_scale the last norm, model.norm, is multiplied as well: it also divides by the root of a mean over fewer channels.",
    norm="entries",
)
mistaken(
    "the first channels",
    "You kept the first channels. Keep those that `channels` names.",
    at=lambda channels, state: torch.arange(len(channels)),
)
mistaken(
    "channels removed",
    "You removed the channels that `channels` names. They are the ones that stay.",
    at=lambda channels, state: torch.ones(width(state)).index_fill(0, channels, 0).nonzero().flatten(),
    factor=lambda many, few: (many / (many - few)) ** 0.5,
)
mistaken(
    "factor upside down",
    "You multiplied the norms by sqrt(kept / hidden). The mean is over fewer channels now, which makes it larger and the output smaller: "
    "multiply by sqrt(hidden / kept).",
    factor=lambda many, few: (few / many) ** 0.5,
)
mistaken(
    "factor without a root",
    "You multiplied the norms by hidden / kept. RMSNorm divides by the *root* of the mean square: the factor is the root of that.",
    factor=lambda many, few: many / few,
)
mistaken(
    "never scaled",
    "keep_scale=True has no effect: multiply the norms' entries by sqrt(hidden / kept).",
    factor=lambda many, few: 1.0,
)
mistaken(
    "biases of the writers left",
    "The bias of o_proj or down_proj is added to the stream, an entry for each hidden channel: cut it with the rows.",
    o_proj_bias="stay",
    down_proj_bias="stay",
)
mistaken(
    "biases of the readers cut",
    "You cut the biases of q, k, v, gate or up. A bias has an entry for each *output*, and their outputs all stay.",
    **everywhere([f"{part}_bias" for part in READERS], "entries"),
)
mistaken(
    "bias of the output head cut",
    "You cut lm_head's bias. It has an entry for each token of the vocabulary: it stays.",
    lm_head_bias="entries",
)
mistaken(
    "norms inside a head scaled",
    "You multiplied q_norm and k_norm. They act inside a head, whose width has not changed: leave them as they are.",
    **everywhere(("q_norm", "k_norm"), lambda tensor: tensor * 1.1),
)
mistaken(
    "norms inside a head cut",
    "You cut q_norm and k_norm. They act inside a head, whose width has not changed: leave them as they are.",
    **everywhere(("q_norm", "k_norm"), "norm"),
)


@trim_hidden.misconception(
    "width of the embedding",
    "You take the hidden width from the embedding, which is not in every state. A norm's own length says it.",
)
def _(state, channels, keep_scale):
    return trim(
        state, channels, keep_scale, factor=lambda many, few: (state["model.embed_tokens.weight"].shape[1] / few) ** 0.5
    )


@trim_hidden.misconception("always scaled", "You multiply the norms also where keep_scale is False.")
def _(state, channels, keep_scale):
    return trim(state, channels, True)


@trim_hidden.misconception(
    "by the sizes",
    "You cut every side that is as long as the hidden width. Other sides may be as long: q_proj of many models is square. Decide by name.",
)
def _(state, channels, keep_scale):
    many = width(state)

    def cut(tensor):
        for dim, size in enumerate(tensor.shape):
            if size == many:
                tensor = tensor.index_select(dim, channels)
        return tensor

    return trim(state, channels, keep_scale, lambda name: "norm" if AXES.get(part_of(name)) == "norm" else cut)


@trim_hidden.misconception(
    "first side that fits",
    "You cut the first side that is as long as the hidden width. Where a matrix is square that is its rows, even of one that reads. Decide by "
    "name.",
)
def _(state, channels, keep_scale):
    many = width(state)

    def cut(tensor):
        fits = [dim for dim, size in enumerate(tensor.shape) if size == many]
        return tensor.index_select(fits[0], channels) if fits else tensor

    return trim(state, channels, keep_scale, lambda name: "norm" if AXES.get(part_of(name)) == "norm" else cut)


@trim_hidden.misconception(
    "zeroed, not cut",
    "You set the other channels to zero. The model is as large as before: cut them out.",
)
def _(state, channels, keep_scale):
    kept = torch.zeros(width(state)).index_fill(0, channels, 1)
    scale = (len(kept) / len(channels)) ** 0.5 if keep_scale else 1
    by = {"columns": kept, "rows": kept[:, None], "entries": kept, "norm": kept * scale, "stay": torch.tensor(1.0)}
    return {name: tensor * by[AXES.get(part_of(name), "stay")] for name, tensor in state.items()}


@trim_hidden.misconception(
    "embedding scaled",
    "You multiplied the embedding by the factor too. Only the norms divide by a mean over channels.",
)
def _(state, channels, keep_scale):
    scale = (width(state) / len(channels)) ** 0.5 if keep_scale else 1
    made = trim(state, channels, keep_scale)
    return {name: tensor * scale if "embed_tokens" in name else tensor for name, tensor in made.items()}


@trim_hidden.misconception(
    "inside the state",
    "You changed the state that you were given: put the cut tensors into it, or multiplied in place. It belongs to the large model: make a new "
    "dict of new tensors.",
)
def _(state, channels, keep_scale):
    state.update(trim(state, channels, keep_scale))
    return state


@trim_hidden.misconception(
    "what stays left out",
    "Tensors that are not cut are missing from your result. Every name of the large state is in the small one.",
)
def _(state, channels, keep_scale):
    made = trim(state, channels, keep_scale)
    return {name: tensor for name, tensor in made.items() if part_of(name) in AXES}


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
