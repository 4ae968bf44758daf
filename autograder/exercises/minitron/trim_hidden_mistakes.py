"""Mistakes of exercise 7.5, and the right answer that they vary."""

import torch
from torch import Tensor

from autograder.checking.exercise import Mistakes
from autograder.exercises.minitron.fixtures import ENDS, NORMS, READERS, WRITERS, State

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


mistakes = Mistakes()


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

    mistakes(name, says)(wrong)


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


@mistakes(
    "width of the embedding",
    "You take the hidden width from the embedding, which is not in every state. A norm's own length says it.",
)
def _(state, channels, keep_scale):
    return trim(
        state, channels, keep_scale, factor=lambda many, few: (state["model.embed_tokens.weight"].shape[1] / few) ** 0.5
    )


@mistakes("always scaled", "You multiply the norms also where keep_scale is False.")
def _(state, channels, keep_scale):
    return trim(state, channels, True)


@mistakes(
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


@mistakes(
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


@mistakes(
    "zeroed, not cut",
    "You set the other channels to zero. The model is as large as before: cut them out.",
)
def _(state, channels, keep_scale):
    kept = torch.zeros(width(state)).index_fill(0, channels, 1)
    scale = (len(kept) / len(channels)) ** 0.5 if keep_scale else 1
    by = {"columns": kept, "rows": kept[:, None], "entries": kept, "norm": kept * scale, "stay": torch.tensor(1.0)}
    return {name: tensor * by[AXES.get(part_of(name), "stay")] for name, tensor in state.items()}


@mistakes(
    "embedding scaled",
    "You multiplied the embedding by the factor too. Only the norms divide by a mean over channels.",
)
def _(state, channels, keep_scale):
    scale = (width(state) / len(channels)) ** 0.5 if keep_scale else 1
    made = trim(state, channels, keep_scale)
    return {name: tensor * scale if "embed_tokens" in name else tensor for name, tensor in made.items()}


@mistakes(
    "inside the state",
    "You changed the state that you were given: put the cut tensors into it, or multiplied in place. It belongs to the large model: make a new "
    "dict of new tensors.",
)
def _(state, channels, keep_scale):
    state.update(trim(state, channels, keep_scale))
    return state


@mistakes(
    "what stays left out",
    "Tensors that are not cut are missing from your result. Every name of the large state is in the small one.",
)
def _(state, channels, keep_scale):
    made = trim(state, channels, keep_scale)
    return {name: tensor for name, tensor in made.items() if part_of(name) in AXES}
