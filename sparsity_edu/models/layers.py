"""Which weights of a model are pruned: its linear and convolution layers; in a language model only the linear layers and the
experts inside the blocks, and no router."""

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sparsity_edu.models.experts_layout import Projection, is_experts, projections

Layer = nn.Module | Projection  # what has a `weight` to prune


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers whose weights pruning touches; for experts, which are no layers, see `prunable_matrices`.

    In a Hugging Face decoder these are the linear layers inside the decoder blocks; embeddings, norms, biases and the output
    head are left alone, as in SparseGPT's and Wanda's code (`left_alone` lists them), and so are routers: the layers that
    score experts, and the gate of a shared expert. In any other module they are all linear and convolution layers.

    Args:
        model: any module.

    Returns:
        Layer by module name, in the model's order; of layers that share one weight only the first.
    """
    return {name: layer for name, layer in _layers(model).items() if isinstance(layer, nn.Module)}


def prunable_matrices(model: nn.Module) -> dict[str, Layer]:
    """All that pruning touches: `prunable_layers`, and each projection of each expert.

    Args:
        model: any module.

    Returns:
        Layer or projection by name, such as "model.layers.0.mlp.experts.3.up_proj", in the model's order.

    Raises:
        ValueError: the blocks of a language model hold experts in a layout that is not known.
    """
    blocks = decoder_blocks(model)
    if blocks is not None:
        width = getattr(model.get_input_embeddings(), "embedding_dim", None)
        for module in blocks.modules():
            for name, weight in _unknown_experts(module, width).items():
                raise ValueError(
                    "model must hold the matrices of its blocks in linear layers, or in experts as transformers lays them out, "
                    f"got {type(module).__name__} with {name} of shape {tuple(weight.shape)}"
                )
    return _layers(model)


def left_alone(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that pruning does not touch: all that hold no weight of `prunable_matrices(model)`.

    Args:
        model: any module.

    Returns:
        Parameter by name.
    """
    touched = {id(_parameter(layer)) for layer in _layers(model).values()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in touched}


def block_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights inside a language model's blocks, pruned or not: every parameter that is a matrix, or several, and no bias.

    Args:
        model: any module; if it has no blocks, all of it counts.

    Returns:
        Parameter by name.
    """
    blocks = decoder_blocks(model)
    inside = {id(parameter) for parameter in (model if blocks is None else blocks).parameters()}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) in inside and parameter.ndim >= 2 and "bias" not in name.rpartition(".")[2]
    }


def decoder_blocks(model: nn.Module) -> nn.ModuleList | None:
    """The transformer blocks of a Hugging Face language model.

    Llama, Mistral and Qwen keep them in `model.layers`, OPT in `model.decoder.layers`, GPT-2 in `transformer.h`: in each the
    list of modules that holds the most parameters (a block's list of experts holds fewer).

    Args:
        model: any module.

    Returns:
        The list of blocks, or None for a module that is no transformers model.
    """
    if not hasattr(model, "get_input_embeddings"):  # every transformers model has it; no need to import transformers
        return None
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()), default=None)


def weight_matrix(layer: Layer) -> Tensor:
    """A layer's weight as a matrix (outputs, inputs).

    Args:
        layer: a linear layer, a convolution (flattened to (out_channels, in_channels * kernel)), transformers' `Conv1D`
            (GPT-2's linear layer, which stores its weight as (inputs, outputs)), or a projection of an expert.

    Returns:
        (outputs, inputs), detached; a view of `layer.weight` (for a convolution in channels-last layout a copy).
    """
    weight = layer.weight.detach()
    return weight.T if _is_conv1d(layer) else weight.flatten(1)


def from_matrix(layer: Layer, matrix: Tensor) -> Tensor:
    """Inverse of `weight_matrix` for anything of its shape, a mask for instance.

    Args:
        layer: the layer.
        matrix: (outputs, inputs).

    Returns:
        `matrix` in the shape of `layer.weight`.
    """
    return matrix.T if _is_conv1d(layer) else matrix.view_as(layer.weight)


def _layers(model: nn.Module) -> dict[str, Layer]:
    blocks = decoder_blocks(model)
    inside = None if blocks is None else {id(module) for module in blocks.modules()} - _routers(blocks)
    layers: dict[str, Layer] = {}
    seen = set()
    for name, module in model.named_modules():
        if inside is not None and (id(module) not in inside or isinstance(module, _ConvNd)):
            continue
        if _is_linear_map(module):
            found = {name: module}
        elif inside is not None and is_experts(module):
            found = {f"{name}.{inner}": projection for inner, projection in projections(module).items()}
        else:
            continue
        held = {id(_parameter(layer)) for layer in found.values()}
        if not held & seen:
            layers |= found
            seen |= held
    return layers


def _unknown_experts(module: nn.Module, width: int | None) -> dict[str, nn.Parameter]:
    """What in a module looks like experts: matrices in a stack (Llama 4), matrices under each other in a class of that name
    (DBRX), or a table as wide as the hidden states, in which experts of one neuron each are looked up (Doge)."""
    if isinstance(module, _ConvNd) or _is_linear_map(module) or is_experts(module):
        return {}
    is_named_so = "expert" in type(module).__name__.lower()
    stacks = {
        name: weight
        for name, weight in module.named_parameters(recurse=False)
        if (weight.ndim >= 3 and min(weight.shape[-2:]) > 1) or (is_named_so and weight.ndim == 2 and "bias" not in name)
    }
    tables = {name: child for name, child in module.named_children() if isinstance(child, nn.Embedding)}
    return stacks | {f"{name}.weight": table.weight for name, table in tables.items() if table.embedding_dim == width}


def _routers(blocks: nn.ModuleList) -> set[int]:
    """The ids of the linear layers that score experts: beside experts, with an output for each of them, or with only one."""
    routers = set()
    for parent in blocks.modules():
        for experts in parent.children():
            if is_experts(experts):
                count, width = len(experts.down_proj), len(projections(experts)["0.down_proj"].weight)
            elif isinstance(experts, nn.ModuleList) and len(experts) > 1 and (inner := _linear_maps(experts[0])):
                count, width = len(experts), len(weight_matrix(inner[-1]))
            else:
                continue
            siblings = [found for child in parent.children() if child is not experts and (found := _linear_maps(child))]
            outputs = [len(weight_matrix(found[-1])) for found in siblings]
            if isinstance(experts, nn.ModuleList) and count not in outputs:
                continue  # a list of something else
            for found, n in zip(siblings, outputs, strict=True):
                # A shared expert is several layers that lead back to the width. One more output: a token may skip all experts.
                if n == 1 or (n in (count, count + 1) and (len(found) == 1 or n != width)):
                    routers |= {id(layer) for layer in found}
    return routers


def _linear_maps(module: nn.Module) -> list[nn.Module]:
    return [inner for inner in module.modules() if _is_linear_map(inner)]


def _parameter(layer: Layer) -> nn.Parameter:
    return getattr(layer.experts, layer.parameter_name) if isinstance(layer, Projection) else layer.weight


def _is_linear_map(module: nn.Module) -> bool:
    is_layer = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or _is_conv1d(module)
    return is_layer and isinstance(module.weight, nn.Parameter)  # not the output of a parametrization: writing to it is lost


def _is_conv1d(module: nn.Module) -> bool:
    # by name, so that transformers need not be imported
    return (type(module).__module__, type(module).__name__) == ("transformers.pytorch_utils", "Conv1D")
