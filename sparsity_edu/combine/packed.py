"""Checkpoints without zeros: each pruned matrix as the smallest encoding of unit 01 that holds it, back to the bit.

    config.json, tokenizer ...      as transformers writes them
    packed.safetensors              tensors by name; of a packed matrix its parts, such as "...mlp.up_proj.weight/bits"

Which encoding a matrix has, and its shape, stand in the file's metadata. A number counts as zero if all its bits are: so a -0.0
is a value and comes back. `load` makes the dense model again, for products that know zeros are made in memory (execution.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsity_edu.models.layers import from_matrix, prunable_layers, weight_matrix
from sparsity_edu.storage import Bitmap, TwoFour

FILE, KEY, VERSION = "packed.safetensors", "sparsity_edu.packed", 1
BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}  # a number's bits, as an integer


class Packing(NamedTuple):
    """An encoding, the names of its parts, and how a matrix is made of them again."""

    encode: Callable[[Tensor], object]
    parts: tuple[str, str]
    decode: Callable[[Tensor, Tensor, tuple[int, int]], Tensor]


PACKINGS = {
    "2:4": Packing(TwoFour.encode, ("values", "indices"), lambda *parts: TwoFour(*parts).decode()),
    "bitmap": Packing(Bitmap.encode, ("values", "bits"), lambda *parts: Bitmap(*parts).decode()),
}


@dataclass(frozen=True)
class Size:
    """What the tensors of one encoding take on disk."""

    tensors: int
    dense: int  # bytes
    stored: int


def is_packed(folder: Path) -> bool:
    """Whether a folder holds such a checkpoint."""
    return (folder / FILE).is_file()


def packed_size(W: Tensor) -> tuple[str, int]:
    """The smallest encoding of a matrix.

    Args:
        W: (rows, cols).

    Returns:
        Its name, which may be "dense", and its bytes.
    """
    sizes = {"dense": W.nbytes}
    if W.ndim == 2 and W.dtype in BITS:
        kept = W.contiguous().view(BITS[W.dtype]) != 0
        where = -(-W.numel() // 8)  # a bit for each number, in both encodings
        sizes["bitmap"] = int(kept.sum()) * W.itemsize + where
        if W.shape[1] % 4 == 0 and bool((kept.view(-1, 4).sum(dim=1, dtype=torch.uint8) <= 2).all()):
            sizes["2:4"] = W.nbytes // 2 + where
    name = min(sizes, key=lambda name: (sizes[name], name))
    return name, sizes[name]


def pack(W: Tensor) -> tuple[str, dict[str, Tensor]] | None:
    """Store a matrix in its smallest encoding.

    Args:
        W: (rows, cols) in 16 or 32 bits.

    Returns:
        The encoding's name and its parts; None where the dense matrix is smallest.
    """
    name, _ = packed_size(W)
    if name == "dense":
        return None
    packing = PACKINGS[name]
    encoded = packing.encode(W.contiguous().view(BITS[W.dtype]))
    values, where = (getattr(encoded, part) for part in packing.parts)
    return name, dict(zip(packing.parts, (values.view(W.dtype), where), strict=True))


def unpack(name: str, parts: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
    """The matrix again, to the bit."""
    packing = PACKINGS[name]
    values, where = (parts[part] for part in packing.parts)
    return packing.decode(values.view(BITS[values.dtype]), where, shape).view(values.dtype)


def save(model: nn.Module, folder: Path) -> dict[str, Size]:
    """Write a model without its zeros.

    Args:
        model: a Hugging Face decoder; those of its matrices that pruning touches are packed.
        folder: where the files go; made if needed.

    Returns:
        What matrices take on disk, by encoding; "dense" are all other tensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    matrices = {id(layer.weight): layer for layer in prunable_layers(model).values()}
    tensors: dict[str, Tensor] = {}
    packed: dict[str, tuple[str, tuple[int, ...]]] = {}
    sizes: dict[str, Size] = {}
    for name, tensor in _own_tensors(model).items():
        found = pack(weight_matrix(matrices[id(tensor)])) if id(tensor) in matrices and tensor.ndim == 2 else None
        kind, parts = found or ("dense", {"": tensor.detach()})
        tensors |= {f"{name}/{part}" if part else name: value.contiguous() for part, value in parts.items()}
        if found:
            packed[name] = (kind, tuple(weight_matrix(matrices[id(tensor)]).shape))
        before = sizes.get(kind, Size(0, 0, 0))
        stored = sum(value.nbytes for value in parts.values())
        sizes[kind] = Size(before.tensors + 1, before.dense + tensor.nbytes, before.stored + stored)
    model.config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    metadata = {KEY: json.dumps({"version": VERSION, "packed": packed}), "format": "pt"}
    save_file(tensors, folder / FILE, metadata)
    return sizes


def load(folder: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """Read what `save` wrote.

    Args:
        folder: of the checkpoint.
        dtype: of the weights in memory. Default: as they were stored.

    Returns:
        The dense model in eval mode, every number with the bits that it had.

    Raises:
        ValueError: the files are damaged, or of a later version.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with safe_open(folder / FILE, framework="pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
            if about["version"] != VERSION:
                raise ValueError(f"it is of version {about['version']}, and this package reads {VERSION}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, (kind, shape) in about["packed"].items():
            parts = {part: tensors.pop(f"{name}/{part}") for part in PACKINGS[kind].parts}
            tensors[name] = unpack(kind, parts, tuple(shape))
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        stored = next(iter(tensors.values())).dtype
        model = AutoModelForCausalLM.from_config(config, dtype=stored)
        for name, layer in prunable_layers(model).items():
            if (weight := f"{name}.weight") in about["packed"]:
                tensors[weight] = from_matrix(layer, tensors[weight])
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        model.tie_weights()
        tied = {name for name in model.state_dict() if name not in _own_tensors(model)}
        if unexpected or set(missing) - tied:
            raise ValueError(f"it lacks {len(set(missing) - tied)} tensors, and {len(unexpected)} are not the model's")
    except (SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the packed model in {folder} cannot be read, get its files again: {reason}") from error
    return model.to(dtype or stored).eval()


def _own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds: parameters and persistent buffers, each tensor once (an output head may be the embedding)."""
    found, seen = {}, set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found
